"""Where devices are in the network: their interfaces, the segments that they are on, their MTUs and tunnels' addresses.

A VLAN device is on the segment of that VLAN on the link or network of its interface; a MACVLAN or IPVLAN device is on
that of its interface; a bond or bridge on that of its members. VXLAN devices with the same identifier share a segment,
and so do both ends of a tunnel. Other devices have only addresses from the file; those with the same prefix share a
segment. Automatic routes use no tunnels: a tunnel's own packets could otherwise take the tunnel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from labctl.documents import suggest
from labctl.names import name_key
from labctl.structs import Struct, field, replace
from labctl.topology.addressing import Addressing, Label, automatic_mac
from labctl.topology.devices import (
    JOINING,
    WIREGUARD_PORT,
    Device,
    DeviceSpec,
    Ipvlan,
    IpvlanMode,
    Macvlan,
    Peer,
    Tunnel,
    Vlan,
    Vrf,
    Vxlan,
    Wireguard,
)
from labctl.topology.draft import (
    DEVICE,
    Choice,
    Draft,
    DraftDevice,
    DraftEnd,
    Family,
    Mistakes,
    Place,
    Segment,
    StationEnd,
)
from labctl.topology.model import Address, Interface, NodeKind, Prefix

At = tuple[str, str]  # node, interface
_TUNNELS = (Tunnel, Wireguard, Vxlan)


class DeviceEnds(Struct):
    """The devices of a draft among its interfaces. Devices whose interface or members are unknown are left out."""

    draft: Draft
    devices: dict[At, tuple[int, DraftDevice]] = field(default_factory=dict)  # with their index; parents come first
    ends: dict[At, tuple[int, int]] = field(default_factory=dict)  # of links: index and side
    labels: list[tuple[Label, Label]] = field(default_factory=list)
    members: dict[At, DraftDevice] = field(default_factory=dict)  # of bonds, bridges and VRFs: the device

    @property
    def silent(self) -> frozenset[tuple[int, int]]:
        """The ends of links, and devices, that have no addresses: members of bonds and bridges."""
        return frozenset(self.key(at) for at, device in self.members.items() if not isinstance(device.spec, Vrf))

    @property
    def in_vrf(self) -> dict[tuple[int, int], str]:
        """The VRFs of their members, by the members' keys."""
        found = self.members.items()
        return {self.key(at): device.end.interface for at, device in found if isinstance(device.spec, Vrf)}

    def key(self, at: At) -> tuple[int, int]:
        """Return the key of an interface: index and side of an end, index and DEVICE of a device."""
        return (self.devices[at][0], DEVICE) if at in self.devices else self.ends[at]


def find_device_ends(draft: Draft, labels: list[tuple[Label, Label]], mistakes: Mistakes) -> DeviceEnds:
    """Find the interfaces of all devices by name; report those that do not exist, and names given twice."""
    found = DeviceEnds(draft, labels=labels)
    if not draft.devices:
        return found
    for index, (link, pair) in enumerate(zip(draft.links, labels, strict=True)):
        for side, (end, label) in enumerate(zip(link.ends, pair, strict=True)):
            found.ends[end.node, label.ifname] = (index, side)
    names: dict[str, list[str]] = {}
    for node, ifname in found.ends:
        names.setdefault(node, []).append(ifname)
    for device in draft.devices:
        names.setdefault(device.end.node, []).append(device.end.interface)
    waiting: dict[At, tuple[int, DraftDevice]] = {}
    for index, device in enumerate(draft.devices):
        at = (device.end.node, device.end.interface)
        if at in found.ends or at in waiting:
            message = f"two interfaces of {at[0]} have the name `{at[1]}`"
            hint = "ends of links are eth0, eth1, ... unless they have an `interface`"
            mistakes.add(device.place, message, hint, key=True)
            continue
        waiting[at] = (index, device)
    for at, (_, device) in [*waiting.items()]:
        for key, ifname in [("on", device.on)] * bool(device.on) + [("members", each) for each in device.members]:
            if (at[0], ifname) in found.ends or ((at[0], ifname) in waiting and ifname != at[1]):
                continue
            place = device.place.at(key) if device.place else None
            known = [name for name in names[at[0]] if name != at[1]]
            mistakes.add(place, f"{at[0]} has no interface `{ifname}`", suggest(ifname, known))
            waiting.pop(at, None)
    _order(found, waiting, mistakes)
    for device in [device for _, device in found.devices.values()]:
        for ifname in device.members:
            at = (device.end.node, ifname)
            if at in found.members:
                other = found.members[at].end.interface
                place = device.place.at("members") if device.place else None
                mistakes.add(place, f"{ifname} is a member of {other} already")
                continue
            found.members[at] = device
    return found


def _order(found: DeviceEnds, waiting: dict[At, tuple[int, DraftDevice]], mistakes: Mistakes) -> None:
    """Move the devices to `found.devices`, each after those that it is on, and its members."""
    while waiting:
        ready = [
            at
            for at, (_, device) in waiting.items()
            if not any((at[0], ifname) in waiting for ifname in (device.on, *device.members))
        ]
        if not ready:
            for device in (device for _, device in waiting.values()):
                mistakes.add(device.place, "these interfaces are on each other", key=True)
            return
        for at in sorted(ready, key=lambda at: not isinstance(waiting[at][1].spec, JOINING)):  # they join segments
            found.devices[at] = waiting.pop(at)


# -- segments


def tagged_ends(found: DeviceEnds) -> Iterator[tuple[int, DraftEnd, StationEnd]]:
    """Yield the VLAN, the port and the device of VLAN devices at switches; for `segments`."""
    switches = {node.name for node in found.draft.nodes if node.kind is NodeKind.SWITCH}
    for at, (index, device) in found.devices.items():
        parent = found.ends.get((at[0], device.on))
        if device.vlan and parent is not None:
            link, side = parent
            port = found.draft.links[link].ends[1 - side]
            if port.node in switches:
                yield device.vlan, port, StationEnd(index, DEVICE, device.end)


def with_devices(parts: list[Segment], found: DeviceEnds) -> list[Segment]:
    """Return the segments with the devices, and with segments for devices alone."""
    if not found.devices:
        return parts
    silent = found.silent
    segment_of = {(end.link, end.side): segment for segment in parts for end in segment.ends}
    for part in parts:
        part.ends = [end for end in part.ends if (end.link, end.side) not in silent]
    result = list(parts)
    own: dict[object, Segment] = {}
    for at, (index, device) in found.devices.items():
        key, spec = (index, DEVICE), device.spec
        if key in segment_of:  # in a VLAN of switches
            continue
        segment: Segment | None = None
        identity: object = None
        if isinstance(spec, Macvlan | Ipvlan):
            segment = segment_of.get(found.key((at[0], device.on)))
            if segment is not None and not _fits(device, segment):
                segment, identity = None, ("prefix", *_prefixes(device.end))
        elif isinstance(spec, JOINING):
            below = [segment_of[found.key((at[0], each))] for each in device.members
                     if found.key((at[0], each)) in segment_of]  # fmt: skip
            segment = below[0] if below else None
            for other in below[1:]:
                if other is not segment and segment is not None:
                    _merge(segment, other, result, segment_of)
        elif isinstance(spec, Vlan):
            below_vlan = segment_of.get(found.key((at[0], device.on)))
            identity = ("vlan", id(below_vlan) if below_vlan is not None else at, spec.id)
        elif device.tunnel >= 0:
            identity = ("tunnel", device.tunnel)
        elif isinstance(spec, Vxlan):
            identity = ("vxlan", spec.id)
        else:
            prefixes = _prefixes(device.end)
            identity = ("prefix", prefixes[0]) if prefixes else at
        if segment is None:
            identity = identity or at
            segment = own.get(identity)
            if segment is None:
                segment = own[identity] = Segment(is_routed=not isinstance(spec, _TUNNELS))
                result.append(segment)
            segment.devices.append(device)
        segment_of[key] = segment
        if key not in silent and not isinstance(spec, Vrf):
            segment.ends.append(StationEnd(index, DEVICE, _wanting(device, identity)))
    return [segment for segment in result if segment.ends or segment.switches or segment.links]


def _prefixes(end: DraftEnd) -> list[Prefix]:
    """Return the prefixes of its addresses in the file."""
    return [one.network for one in (end.ipv4, end.ipv6) if isinstance(one, IPv4Interface | IPv6Interface)]


def _fits(device: DraftDevice, segment: Segment) -> bool:
    """Return whether a MACVLAN or IPVLAN device has addresses of its interface's segment, as far as the file has them.

    IPVLAN devices that route usually have networks of their own.
    """
    own = _prefixes(device.end)
    given = {prefix for family in Family for prefix, _ in segment.prefixes(family)}
    given.update(prefix for end in segment.ends if end.side != DEVICE for prefix in _prefixes(end.draft))
    versions = {prefix.version for prefix in given if not isinstance(prefix, Choice)}
    routes = isinstance(device.spec, Ipvlan) and device.spec.mode is not IpvlanMode.L2
    return all(prefix in given or (prefix.version not in versions and not routes) for prefix in own)


def _merge(segment: Segment, other: Segment, result: list[Segment], segment_of: dict[tuple[int, int], Segment]) -> None:
    """Add the other segment to this one, which a bond or bridge joins."""
    segment.is_routed |= other.is_routed
    segment.switches += other.switches
    segment.links += other.links
    segment.ends += other.ends
    segment.devices += other.devices
    if other in result:
        result[:] = [one for one in result if one is not other]
    for key, at in segment_of.items():
        if at is other:
            segment_of[key] = segment


def _wanting(device: DraftDevice, identity: object) -> DraftEnd:
    """Return the device's end; without automatic addresses if it is on no segment with others."""
    end, spec = device.end, device.spec
    is_loose = isinstance(identity, tuple) and (identity[0] == "prefix" or identity == (end.node, end.interface))
    changes: dict[str, Choice] = {}
    for family in Family:
        if end.address(family) is Choice.AUTOMATIC and (is_loose or family.value not in spec.carries):
            changes[family.key] = Choice.NONE
    return replace(end, **changes) if changes else end


# -- interfaces


def interfaces_of_devices(
    found: DeviceEnds,
    addressing: Addressing,
    parts: Sequence[Segment],
    networks: Mapping[tuple[int, int], str],
    mistakes: Mistakes,
) -> Iterator[tuple[str, tuple[int, int], Interface]]:
    """Yield node, key and interface of each device, in the order in which they are made."""
    mtus: dict[At, int] = {
        (end.node, label.ifname): link.mtu
        for link, pair in zip(found.draft.links, found.labels, strict=True)
        for end, label in zip(link.ends, pair, strict=True)
    }
    macs = {
        (end.node, label.ifname): label.mac
        for link, pair in zip(found.draft.links, found.labels, strict=True)
        for end, label in zip(link.ends, pair, strict=True)
    }
    underlay = _Underlay(found, addressing, parts)
    for at, (index, device) in found.devices.items():
        spec = _resolved(device, underlay, mistakes)
        end = device.end
        mac = end.mac or (macs[at[0], device.on] if isinstance(spec, Vlan) else automatic_mac(*at))
        mtu = device.mtu or _mtu(device, spec, at, mtus, underlay)
        mtus[at], macs[at] = mtu or 1500, mac
        key = (index, DEVICE)
        made = Device(spec, device.on, device.members)
        network = networks.get(key, "")
        yield at[0], key, Interface(at[1], mac, mtu, addressing.of(key), network, end.impairment, device=made)


def _mtu(device: DraftDevice, spec: DeviceSpec, at: At, mtus: Mapping[At, int], underlay: _Underlay) -> int:
    """Return the MTU in bytes that its interfaces leave room for; 0 for the kernel's choice."""
    if isinstance(spec, Vrf):
        return 0
    if device.on:
        return mtus[at[0], device.on] - spec.overhead_bytes
    if device.members:
        return min(mtus[at[0], each] for each in device.members)
    if spec.overhead_bytes:
        return underlay.mtu(at[0], mtus) - spec.overhead_bytes
    return 1500


class _Underlay:
    """The addresses of nodes that tunnels' own packets use: those of links, and of devices that are no tunnels."""

    def __init__(self, found: DeviceEnds, addressing: Addressing, parts: Sequence[Segment]) -> None:
        self._found = found
        self._addressing = addressing
        self._nodes = {name_key(node.name): node.name for node in found.draft.nodes}
        self._order = {node.name: number for number, node in enumerate(found.draft.nodes)}
        self._routers = {node.name for node in found.draft.nodes if node.kind is NodeKind.ROUTER}
        self._segments = [part.ends for part in parts if part.is_routed]
        self._on: dict[str, list[int]] = {}  # of a node: its segments
        for number, ends in enumerate(self._segments):
            for name in dict.fromkeys(end.draft.node for end in ends):
                self._on.setdefault(name, []).append(number)
        self._at: dict[str, list[At]] = {}
        for at in found.ends:
            self._at.setdefault(at[0], []).append(at)
        for at, (_, device) in found.devices.items():
            if not isinstance(device.spec, _TUNNELS):
                self._at.setdefault(at[0], []).append(at)

    def node(self, written: str) -> str:
        """Return the node of that name, "" if there is none."""
        return self._nodes.get(name_key(written), "")

    def addresses(self, node: str, version: int) -> list[IPv4Interface | IPv6Interface]:
        """Return the node's addresses of that IP version (0: IPv4 first), in the order of its interfaces."""
        every = [one for at in self._at.get(node, ()) for one in self._addressing.of(self._found.key(at))]
        return [one for one in every if version in (0, one.version)]

    def pair(self, node: str, other: str, version: int) -> tuple[Address, Address] | None:
        """Return an address of each node: those at the ends of the shortest path between them, if there is one."""
        if self._order[node] > self._order[other]:  # the same addresses from both ends, of several paths
            found = self.pair(other, node, version)
            return found and (found[1], found[0])
        near, far = self.addresses(node, version), self.addresses(other, version)
        for wanted in (version,) if version else (4, 6):
            ours = [one for one in near if one.version == wanted]
            theirs = [one for one in far if one.version == wanted]
            if ours and theirs:
                return self._on_path(node, other, wanted) or (ours[0].ip, theirs[0].ip)
        return None

    def _on_path(self, node: str, other: str, version: int) -> tuple[Address, Address] | None:
        """Return the first and the last address of the nodes on the shortest path through routers."""
        first: dict[str, Address] = {}  # of the nodes that are reached: the address of `node` on the way
        passed: set[int] = set()
        reached = [node]
        while reached:
            following: list[str] = []
            for at in reached:
                for number in self._on.get(at, ()):
                    ends = self._segments[number]
                    own = self._address(ends, at, version) if number not in passed else None
                    if own is None:
                        continue
                    passed.add(number)
                    if (last := self._address(ends, other, version)) is not None:
                        return first.get(at, own), last
                    for end in ends:
                        name = end.draft.node
                        if name in self._routers and name != node and name not in first:
                            first[name] = first.get(at, own)
                            following.append(name)
            reached = following
        return None

    def _address(self, ends: Iterable[StationEnd], node: str, version: int) -> Address | None:
        """Return the first address of the node among these ends."""
        of_node = (self._addressing.of((end.link, end.side)) for end in ends if end.draft.node == node)
        return next((one.ip for each in of_node for one in each if one.version == version), None)

    def mtu(self, node: str, mtus: Mapping[At, int]) -> int:
        return min((mtus[at] for at in self._at.get(node, ()) if mtus.get(at)), default=1500)

    def wireguard(self, node: str, ifname: str) -> tuple[str, DraftDevice] | None:
        """Return the WireGuard device of a node: of that name, or its only one."""
        found = [
            (at[1], device)
            for at, (_, device) in self._found.devices.items()
            if at[0] == node and isinstance(device.spec, Wireguard) and ifname in ("", at[1])
        ]
        return found[0] if len(found) == 1 else None

    def own(self, node: str, ifname: str) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """Return the addresses of a device."""
        return self._addressing.of(self._found.key((node, ifname)))


def _resolved(device: DraftDevice, underlay: _Underlay, mistakes: Mistakes) -> DeviceSpec:
    """Return the spec with addresses in place of names of nodes."""
    spec, node = device.spec, device.end.node
    place = device.place
    if isinstance(spec, Tunnel):
        version = 6 if spec.tunnel.is_over_ipv6 else 4
        local, remote = _ends_of(node, spec.local, spec.remote, version, underlay, place, mistakes)
        return replace(spec, local=local, remote=remote)
    if isinstance(spec, Vxlan):
        remotes, local = [], spec.local
        for each in spec.remotes:
            own, remote = _ends_of(node, spec.local, each, 0, underlay, place, mistakes)
            local = own
            remotes.append(remote)
        if spec.local and not spec.remotes:
            local = _ends_of(node, spec.local, "", 0, underlay, place, mistakes)[0]
        return replace(spec, local=local, remotes=tuple(remotes))
    if isinstance(spec, Wireguard):
        peers = [_peer(node, each, len(spec.peers), underlay, place, mistakes) for each in spec.peers]
        return replace(spec, peers=tuple(peers))
    return spec


def _ends_of(
    node: str, local: str, remote: str, version: int, underlay: _Underlay, place: Place | None, mistakes: Mistakes
) -> tuple[str, str]:
    """Return the addresses of a tunnel at this node and at the other end; "" for none."""
    if local and _is_address(local):
        version = version or ip_address(local).version
    if not remote:
        return local, ""
    if _is_address(remote):
        if local:
            return local, remote
        far = ip_address(remote)
        near = underlay.addresses(node, far.version)
        best = next((one for one in near if far in one.network), near[0] if near else None)
        return (str(best.ip) if best else ""), remote
    other = underlay.node(remote)
    if not other:
        mistakes.add(place, f"`{remote}` is neither an address nor a node")
        return "", ""
    pair = underlay.pair(node, other, version)
    if pair is None or other == node:
        family = f"IPv{version} " if version else ""
        mistakes.add(place, f"{node} and {other} have no {family}addresses for a tunnel between them")
        return "", ""
    return local or str(pair[0]), str(pair[1])


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _peer(node: str, peer: Peer, count: int, underlay: _Underlay, place: Place | None, mistakes: Mistakes) -> Peer:
    """Return the peer with its interface, public key, endpoint and prefixes."""
    if not peer.node:
        return replace(peer, port=peer.port or WIREGUARD_PORT)
    other = underlay.node(peer.node)
    if not other or other == node:
        mistakes.add(place, f"the peer `{peer.node}` is no other node")
        return peer
    found = underlay.wireguard(other, peer.ifname)
    if found is None:
        hint = "name one of them: NODE:INTERFACE" if not peer.ifname else ""
        mistakes.add(place, f"{other} does not have one WireGuard interface {peer.ifname}".rstrip(), hint)
        return peer
    ifname, device = found
    assert isinstance(device.spec, Wireguard)
    public_key = peer.public_key
    if not public_key and device.spec.private_key:
        from labctl.x25519 import public_key_of

        public_key = public_key_of(device.spec.private_key)
    endpoint = peer.endpoint
    if not endpoint and not peer.waits and (pair := underlay.pair(node, other, 0)):
        endpoint = str(pair[1])
    allowed = peer.allowed
    if not allowed:
        # With one peer, routes decide what goes there; with several, the addresses of each.
        own = (f"{one.ip}/{one.max_prefixlen}" for one in underlay.own(other, ifname))
        allowed = ("0.0.0.0/0", "::/0") if count == 1 else tuple(own)
    return replace(
        peer,
        node=other,
        ifname=ifname,
        public_key=public_key,
        endpoint=endpoint,
        port=peer.port or device.spec.port,
        allowed=allowed,
        waits=False,
    )
