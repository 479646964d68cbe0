"""Devices in topology files, `interfaces` of nodes and `tunnels`, to those of a draft."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from labctl.names import interface_name_problem, name_key
from labctl.structs import replace
from labctl.topology.devices import (
    FALLBACK_DEVICES,
    MIIMON_MS,
    TUNNEL_TTL,
    VXLAN_PORT,
    WIREGUARD_PORT,
    Bond,
    Bridge,
    DeviceSpec,
    Dummy,
    HashPolicy,
    Ipvlan,
    LacpRate,
    Macvlan,
    Peer,
    Tunnel,
    TunnelKind,
    Vlan,
    VlanProtocol,
    Vrf,
    Vxlan,
    Wireguard,
)
from labctl.topology.draft import Choice, DraftDevice, DraftEnd, Family, Place
from labctl.topology.schema import DeviceFile, LinkOverKind, NodeFile, PeerFile, TunnelEndFile, TunnelFile

if TYPE_CHECKING:
    from labctl.topology.parse import FileReader

# Keys that only some kinds have.
KEYS_OF = {
    "vlan": ("on", "protocol"),
    "macvlan": ("on",),
    "ipvlan": ("on",),
    "bond": ("members", "lacp_rate", "hash", "miimon"),
    "vrf": ("members",),
    "bridge": ("members", "stp"),
    "vxlan": ("on", "remotes", "group", "local", "port", "learning"),
    **{kind.value: ("on",) for kind in TunnelKind},
    "wireguard": (),
    "dummy": (),
}
_KINDS = tuple(KEYS_OF)
_SPECIAL = tuple(dict.fromkeys(key for keys in KEYS_OF.values() for key in keys))


def read_devices(reader: FileReader) -> None:
    """Add the devices of one file to what has been gathered; its nodes and links have been read."""
    for nodes in (reader.model.hosts, reader.model.routers):
        for name, model in nodes.items():
            if model.interfaces:
                _of_nodes(reader, reader.gathered.groups.get(name_key(name), ()), model)
    for tunnel in reader.model.tunnels:
        _tunnel(reader, tunnel)


def _of_nodes(reader: FileReader, names: Sequence[str], model: NodeFile) -> None:
    nodes = [node for name in names if (node := reader.gathered.nodes.get(name_key(name))) is not None]
    for ifname, device in model.interfaces.items():
        place = reader.place(device.at_path)
        if not _is_valid_name(reader, ifname, place):
            continue
        spec = _spec(reader, device, place)
        on = device.on or (ifname.rpartition(".")[0] if device.vlan is not None else "")
        if spec is None:
            continue
        if spec.NEEDS_PARENT and not on:
            reader.mistakes.add(place, f"a {spec.kind} is on another interface", "add for example `on: eth0`")
            continue
        mac = reader.mac(device.mac, place.at("mac"))
        ipv4, more4 = reader.addresses(device.ipv4, Family.IPV4, place.at("ipv4"))
        ipv6, more6 = reader.addresses(device.ipv6, Family.IPV6, place.at("ipv6"))
        if mac and not (spec.has_mac or isinstance(spec, Vlan)):
            reader.mistakes.add(place.at("mac"), f"a {spec.kind} device has no MAC address of its own")
        impairment = reader.impairment(device, place, {}, None)
        if len(names) > 1:
            for key, value in (("mac", device.mac), ("ipv4", device.ipv4), ("ipv6", device.ipv6)):
                if value is not None and not isinstance(value, bool):
                    message = f"these are interfaces of {len(names)} nodes, which cannot share one `{key}`"
                    reader.mistakes.add(place.at(key), message, "name the nodes one by one")
                    return
        for node in nodes:
            end = DraftEnd(node.name, ifname, mac, ipv4, ipv6, place, impairment, len(names) > 1)
            end = replace(end, secondary=(*more4, *more6))
            reader.gathered.devices.append(DraftDevice(end, spec, on, tuple(device.members), device.mtu or 0))


def _is_valid_name(reader: FileReader, ifname: str, place: Place) -> bool:
    problem = interface_name_problem(ifname)
    if not problem and ifname in FALLBACK_DEVICES:
        problem = "is the kernel's: it makes an interface of that name itself"
    if problem:
        reader.mistakes.add(place, f"the interface name `{ifname[:40]}` {problem}", key=True)
    return not problem


def _spec(reader: FileReader, device: DeviceFile, place: Place) -> DeviceSpec | None:
    kind = next((kind for kind in _KINDS if kind in device.values), None)
    if kind is None:
        return None  # its value is not valid, which has been reported
    for key in _SPECIAL:
        if key in device.values and key not in KEYS_OF[kind]:
            having = " or ".join(f"`{other}`" for other, keys in KEYS_OF.items() if key in keys)
            reader.mistakes.add(place.at(key), f"a {kind} has no `{key}`", f"it belongs to {having}", key=True)
            return None
    if device.values[kind] is False:
        reader.mistakes.add(
            place.at(kind), f"`{kind}: false` makes no interface", f"write `{kind}: true`, or remove it"
        )
        return None
    if device.vlan is not None:
        return Vlan(device.vlan, device.protocol or VlanProtocol.Q)
    if device.bond is not None:
        miimon_ms = MIIMON_MS if device.miimon is None else round(device.miimon * 1000)
        return Bond(device.bond, miimon_ms, device.hash or HashPolicy.LAYER2, device.lacp_rate or LacpRate.FAST)
    if device.macvlan is not None:
        return Macvlan(device.macvlan)
    if device.ipvlan is not None:
        return Ipvlan(device.ipvlan)
    if device.vrf is not None:
        if 253 <= device.vrf <= 255:
            reader.mistakes.add(place.at("vrf"), f"{device.vrf} is a table of every namespace", "use another, as 100")
            return None
        return Vrf(device.vrf)
    if device.vxlan is not None:
        return _vxlan(reader, device, device.vxlan, place)
    if device.wireguard is not None:
        wireguard = device.wireguard
        at = place.at("wireguard")
        key = _key(reader, wireguard.private_key, at.at("private_key"))
        peers = [_peer(reader, peer) for peer in wireguard.peers]
        return Wireguard(wireguard.port or WIREGUARD_PORT, key, tuple(peer for peer in peers if peer is not None))
    for tunnel in TunnelKind:
        ends: TunnelEndFile | None = getattr(device, tunnel.value)
        if ends is not None:
            return _tunnel_spec(reader, tunnel, ends, place.at(tunnel.value))
    return Bridge(bool(device.stp)) if device.bridge is not None else Dummy()


def _vxlan(reader: FileReader, device: DeviceFile, number: int, place: Place) -> Vxlan | None:
    for key, value in (("local", device.local), ("group", device.group)):
        if value and not _is_address(reader, value, place.at(key)):
            return None
    if device.group and not device.on:
        reader.mistakes.add(place, "a multicast group is reached through one interface", "add for example `on: eth0`")
        return None
    learning = device.learning is not False
    return Vxlan(
        number, device.port or VXLAN_PORT, device.local or "", device.group or "", tuple(device.remotes), learning
    )


def _tunnel_spec(reader: FileReader, kind: TunnelKind, ends: TunnelEndFile, place: Place) -> Tunnel | None:
    version = 6 if kind.is_over_ipv6 else 4
    for key, value in (("local", ends.local), ("remote", ends.remote)):
        if value and (key == "local" or reader.gathered.nodes.get(name_key(value)) is None):
            if not _is_address(reader, value, place.at(key)):
                return None
            if ip_address(value).version != version:
                reader.mistakes.add(place.at(key), f"the packets of a {kind} tunnel are IPv{version}")
                return None
    if ends.key is not None and "gre" not in kind:
        reader.mistakes.add(place.at("key"), f"a {kind} tunnel has no key", "only GRE tunnels have one", key=True)
        return None
    return Tunnel(kind, ends.local or "", ends.remote or "", ends.key, TUNNEL_TTL if ends.ttl is None else ends.ttl)


def _is_address(reader: FileReader, text: str, place: Place) -> bool:
    try:
        ip_address(text)
    except ValueError:
        reader.mistakes.add(place, f"`{text}` is neither an address nor a node")
        return False
    return True


def _key(reader: FileReader, text: str | None, place: Place) -> str:
    """Return a key of WireGuard; "" if there is none, or it is wrong."""
    if text is None:
        return ""
    from labctl.x25519 import decode_key

    try:
        decode_key(text)
    except ValueError:
        reader.mistakes.add(place, "this is not a key of WireGuard", "`wg genkey` prints one: 32 bytes in base64")
        return ""
    return text


def _peer(reader: FileReader, model: PeerFile) -> Peer | None:
    place = reader.place(model.at_path)
    node, _, ifname = (model.node or "").partition(":")
    if model.node and reader.gathered.nodes.get(name_key(node)) is None:
        from labctl.documents import suggest

        at = place.at("node") if "node" in (place.document.tree(place.path).data or ()) else place
        reader.mistakes.add(at, f"there is no node `{node[:40]}`", suggest(node, reader.known_names))
        return None
    allowed: list[str] = []
    for prefix in model.allowed_ips or ():
        try:
            allowed.append(str(ip_network(prefix, strict=False)))
        except ValueError:
            reader.mistakes.add(place.at("allowed_ips"), f"`{prefix}` is not a prefix", "write for example 10.0.1.0/24")
    endpoint, port = model.endpoint if isinstance(model.endpoint, str) else "", 0
    if endpoint:
        from labctl.topology.endpoints import parse_endpoint

        if endpoint.count(":") == 1 or endpoint.startswith("["):
            try:
                pattern = parse_endpoint(endpoint)
            except ValueError as error:
                reader.mistakes.add(place.at("endpoint"), str(error))
                return None
            endpoint, port = pattern.host or "", pattern.port or 0
        if not _is_address(reader, endpoint, place.at("endpoint")):
            return None
    return Peer(
        node,
        ifname,
        _key(reader, model.public_key, place.at("public_key")),
        endpoint,
        port,
        tuple(allowed),
        round(model.keepalive or 0),
        _key(reader, model.preshared_key, place.at("preshared_key")),
        waits=model.endpoint is False,
    )


# -- tunnels


def _tunnel(reader: FileReader, model: TunnelFile) -> None:
    place = reader.place(model.at_path)
    ends = [reader.ends(end) for end in model.ends]
    if any(not found for found in ends):
        return
    near, far = (found[0] for found in ends)
    if any(len(found) > 1 for found in ends):
        reader.mistakes.add(place, "a tunnel joins two nodes, not a group", "name the nodes one by one")
        return
    if near.node == far.node:
        reader.mistakes.add(place, f"the tunnel joins {near.node} to itself")
        return
    kind, number = model.kind, reader.gathered.tunnels
    for key, kinds in (("key", ("gre",)), ("id", ("vxlan",)), ("port", ("wireguard", "vxlan"))):
        if key in model.values and not any(one in kind for one in kinds):
            reader.mistakes.add(place.at(key), f"a {kind} tunnel has no `{key}`", key=True)
            return
    reader.gathered.tunnels += 1
    ipv4, ipv6 = reader.prefixes(model)
    names = [_name_of_end(reader, end, kind) for end in (near, far)]
    for end, other, ifname, peer_ifname in ((near, far, names[0], names[1]), (far, near, names[1], names[0])):
        ttl = TUNNEL_TTL if model.ttl is None else model.ttl
        spec: DeviceSpec
        if kind is LinkOverKind.WIREGUARD:
            spec = Wireguard(model.port or WIREGUARD_PORT, peers=(Peer(other.node, peer_ifname, port=0),))
        elif kind is LinkOverKind.VXLAN:
            vni = number + 1 if model.id is None else model.id
            spec = Vxlan(vni, model.port or VXLAN_PORT, remotes=(other.node,))
        else:
            spec = Tunnel(TunnelKind(kind), "", other.node, model.key, ttl)
        families = {family.key: Choice.NONE for family in Family if family.value not in spec.carries}
        own = replace(end, interface=ifname, **families)
        reader.gathered.devices.append(DraftDevice(own, spec, mtu=model.mtu or 0, tunnel=number, ipv4=ipv4, ipv6=ipv6))


def _name_of_end(reader: FileReader, end: DraftEnd, kind: LinkOverKind) -> str:
    """Return the interface's name: that of the file, or the first free of tun0, wg0 or vxlan0."""
    if end.interface:
        return end.interface
    prefix = {LinkOverKind.WIREGUARD: "wg", LinkOverKind.VXLAN: "vxlan"}.get(kind, "tun")
    taken = {one.end.interface for one in reader.gathered.devices if one.end.node == end.node}
    taken |= {each.interface for link in reader.gathered.links for each in link.ends if each.node == end.node}
    return next(name for number in range(len(taken) + 1) if (name := f"{prefix}{number}") not in taken)
