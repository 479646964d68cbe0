"""VLANs, VRFs, LAGs and static routes of netlab (https://netlab.tools/module/vlan/ and its neighbours).

A node that bridges a VLAN has a switch: it is one if it routes nothing, else a switch NODE-sw beside the router, with
an interface of the router in each VLAN that the node routes (mode `irb`). A VLAN of the mode `route` on an access port
is a plain link, and on a trunk a VLAN interface. Members of a LAG are parallel links with a bond at each end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from labctl.formats.sketch import Cable, Device, Port, Role, Sketch, valid_interface
from labctl.formats.values import items, mapping, text, texts

_FIRST_ID, _LAST_ID = 1000, 4094  # of VLANs without one, as netlab counts
_FIRST_TABLE, _LAST_TABLE = 101, 252  # of VRFs

Attribute = Callable[[str, str], Any]  # of a node and a key: its value there, in its groups or in the defaults
Prefixes = Callable[[Any], dict[str, Any]]  # of a value of `prefix`: by family


class Segments:
    """The VLANs and VRFs of a topology, and what they add to its nodes."""

    def __init__(self, sketch: Sketch, data: dict[str, Any], attribute: Attribute) -> None:
        self.sketch = sketch
        self.data = data
        self.attribute = attribute
        self.vlans = self.attributes("vlan")
        self.vrfs = self.attributes("vrf")
        self.ids: dict[str, int] = {}
        self.used: set[str] = set()  # VLANs on switches
        self.pure: set[str] = set()  # nodes that only bridge
        self.switches: dict[str, Device] = {}
        self.routed: set[tuple[str, str]] = set()  # nodes and VLANs with an interface of the router
        self.members: dict[str, dict[str, list[tuple[Port, str]]]] = {}  # of the VRFs of each node: `.10` for a VLAN
        self.devices: dict[str, list[tuple[str, dict[str, Any], list[Port]]]] = {}  # interfaces of each node

    def attributes(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the VLANs or VRFs with their attributes, also those of their groups (`type: vlan`)."""
        found = {name: mapping(each) for name, each in mapping(self.data.get(f"{kind}s")).items()}
        for group in map(mapping, mapping(self.data.get("groups")).values()):
            if group.get("type") == kind:
                shared = {**group, **mapping(group.get(kind))}
                for name in texts(group.get("members")):
                    found[name] = {
                        **{key: shared[key] for key in shared if key not in ("members", "type")},
                        **found.get(name, {}),
                    }
        return found

    # -- what the file says --------------------------------------------------------------------------------------------

    def further_links(self) -> list[Any]:
        """Return the links that are written inside VLANs and VRFs, each with its VLAN or VRF."""
        found: list[Any] = []
        for key, place, every in (("access", "vlan", self.vlans), ("", "vrf", self.vrfs)):
            for name, each in every.items():
                value = {key: name} if key else name
                found += [{"members": [link], place: value} for link in items(each.get("links"))]
        return found

    def is_aware(self, node: str) -> bool:
        """Return whether the node has VLANs."""
        device = self.sketch.devices.get(node)
        if device is None or device.role is Role.HOST:
            return False
        modules = [*texts(self.attribute(node, "module")), *texts(self.data.get("module"))]
        return device.role is Role.SWITCH or "vlan" in modules or bool(mapping(self.attribute(node, "vlans")))

    def mode(self, node: str, vlan: str) -> str:
        """Return how the node treats the VLAN: bridge, irb or route."""
        own = mapping(mapping(self.attribute(node, "vlans")).get(vlan))
        ways = (own, self.vlans.get(vlan, {}), mapping(self.attribute(node, "vlan")), mapping(self.data.get("vlan")))
        found = next((mode for way in ways if (mode := text(way.get("mode")))), "irb")
        device = self.sketch.devices.get(node)
        return "bridge" if device is not None and device.role is Role.SWITCH else found

    def id_of(self, vlan: str) -> int:
        """Return the VLAN's number."""
        if not self.ids:
            given = {name: each.get("id") for name, each in self.vlans.items()}
            self.ids = {name: each for name, each in given.items() if isinstance(each, int) and 0 < each <= _LAST_ID}
        for name in (*self.vlans, vlan):
            if name not in self.ids:
                taken = set(self.ids.values())
                self.ids[name] = next(number for number in range(_FIRST_ID, _FIRST_ID * 9) if number not in taken)
        return self.ids[vlan]

    def vlans_of(self, link: dict[str, Any], end: dict[str, Any]) -> tuple[list[str], str, bool]:
        """Return the VLANs at the end of a link, the native one, and whether it is a trunk."""
        given = {**mapping(link.get("vlan")), **mapping(end.get("vlan"))}
        native = text(given.get("native"))
        trunk = given.get("trunk")
        if trunk is not None:
            return list(dict.fromkeys(texts(list(trunk) if isinstance(trunk, dict) else trunk))), native, True
        access = text(given.get("access"))
        return [access] if access else [], "", False

    def has_vlans(self, link: dict[str, Any]) -> bool:
        """Return whether a link has VLANs at a node that has VLANs."""
        ends = [mapping(end) for end in items(link.get("interfaces"))]
        return any(self.vlans_of(link, end)[0] and self.is_aware(text(end.get("node"))) for end in ends)

    def is_tagged(self, link: dict[str, Any], end: dict[str, Any]) -> bool:
        """Return whether all frames at the end of the link have a tag."""
        vlans, native, is_trunk = self.vlans_of(link, end)
        return is_trunk and bool(vlans) and not native

    def find_bridges(self, links: Iterable[dict[str, Any]]) -> None:
        """Make switches of the nodes that only bridge."""
        routes: set[str] = set()
        bridges: set[str] = set()
        for link in links:
            for end in map(mapping, items(link.get("interfaces"))):
                node = text(end.get("node"))
                vlans = self.vlans_of(link, end)[0] if self.is_aware(node) else []
                only = bool(vlans) and all(self.mode(node, vlan) == "bridge" for vlan in vlans)
                (bridges if only else routes).add(node)
        for node in bridges - routes:
            device = self.sketch.devices[node]
            device.role = Role.SWITCH
            device.settings = {}

    # -- links ---------------------------------------------------------------------------------------------------------

    def port(self, link: dict[str, Any], end: dict[str, Any], line: int) -> tuple[Port, str]:
        """Return the port of an end, and the VLAN whose prefix it has ("" for none)."""
        node = text(end.get("node"))
        device = self.sketch.devices[node]
        plain = Port(device.name, valid_interface(text(end.get("ifname"))), line=line)
        vlans, native, is_trunk = self.vlans_of(link, end)
        vrf = text(end.get("vrf")) or text(link.get("vrf"))
        if not vlans:
            self.into_vrf(node, vrf, plain)
            return plain, ""
        if not self.is_aware(node) and not is_trunk:
            return plain, vlans[0]
        bridged = [vlan for vlan in vlans if self.is_aware(node) and self.mode(node, vlan) != "route"]
        if not bridged and not is_trunk:
            self.into_vrf(node, vrf or self.vrf_of(node, vlans[0]), plain)
            return plain, vlans[0]
        if not bridged:
            for vlan in vlans:
                if vlan != native:
                    self.add_interface(node, vlan, plain)
            return plain, native
        if len(bridged) < len(vlans):
            reason = f"{', '.join(set(vlans) - set(bridged))} beside bridged VLANs is a VLAN of its switch, too"
            self.sketch.report.note(reason, node, line)
        switch = self.switch_of(node)
        self.used.update(vlans)
        for vlan in vlans:
            self.route(node, vlan)
        settings: dict[str, Any] = {"vlan": vlans[0]}
        if is_trunk:
            tagged = [vlan for vlan in vlans if vlan != native]
            settings = {"trunk": tagged} | ({"native": native} if native else {}) if tagged else {"vlan": native}
        return Port(switch.name, settings=settings, line=line), vlans[0]

    def switch_of(self, node: str) -> Device:
        """Return the switch of a node that bridges: itself, or one beside it."""
        device = self.sketch.devices[node]
        if device.role is Role.SWITCH:
            return device
        if node not in self.switches:
            made = self.sketch.device(f"{node}-sw", Role.SWITCH, line=device.line)
            self.switches[node] = made
            self.sketch.report.note(f"the switch {made.name} has its VLANs", node, device.line)
        return self.switches[node]

    def route(self, node: str, vlan: str) -> None:
        """Give the router an interface in a VLAN of its switch, unless it only bridges the VLAN."""
        if (node, vlan) in self.routed or self.mode(node, vlan) == "bridge":
            return
        self.routed.add((node, vlan))
        port = Port(self.sketch.devices[node].name, f"vlan{self.id_of(vlan)}")
        self.sketch.connect(port, Port(self.switch_of(node).name, settings={"vlan": vlan}))
        self.into_vrf(node, self.vrf_of(node, vlan), port)

    def vrf_of(self, node: str, vlan: str) -> str:
        own = mapping(mapping(self.attribute(node, "vlans")).get(vlan))
        return text(own.get("vrf")) or text(self.vlans.get(vlan, {}).get("vrf"))

    def into_vrf(self, node: str, vrf: str, port: Port, suffix: str = "") -> None:
        """Make the interface, or a VLAN interface on it, a member of the node's VRF."""
        device = self.sketch.devices[node]
        if vrf and device.role is Role.ROUTER:
            self.members.setdefault(node, {}).setdefault(vrf, []).append((port, suffix))

    def add_interface(self, node: str, vlan: str, port: Port) -> None:
        """Add a VLAN interface on the port."""
        suffix = f".{self.id_of(vlan)}"
        self.devices.setdefault(node, []).append((suffix, {"vlan": self.id_of(vlan)}, [port]))
        self.into_vrf(node, self.vrf_of(node, vlan), port, suffix)

    def bond(self, nodes: Sequence[str], cables: Sequence[Cable], number: int) -> None:
        """Add a bond of the cables' ports to each of the two nodes."""
        for side, node in enumerate(nodes):
            ports = [cable.ports[side] for cable in cables]
            self.devices.setdefault(node, []).append((f"bond{number}", {"bond": "802.3ad"}, ports))

    # -- the end -------------------------------------------------------------------------------------------------------

    def finish(self, prefixes: Prefixes) -> None:
        """Add the VLANs, the interfaces of nodes and their VRFs to the sketch."""
        for node in {*self.devices, *self.members}:
            self.name_ports(node)
        tables = {name: number for number, name in enumerate(self.vrfs, _FIRST_TABLE)}
        for node, devices in self.devices.items():
            for name, spec, ports in devices:
                if name.startswith("."):
                    made = f"{ports[0].name}{name}"
                    self.sketch.devices[node].add("interfaces", made, {**spec, "on": ports[0].name})
                else:
                    names = [port.name for port in ports]
                    self.sketch.devices[node].add("interfaces", name, {**spec, "members": names})
        for node, vrfs in self.members.items():
            taken = {port.name for port in self.sketch.ports_of(self.sketch.devices[node])}
            for vrf, members in vrfs.items():
                table = tables.setdefault(vrf, _FIRST_TABLE + len(tables))
                if table > _LAST_TABLE:
                    self.sketch.report.left_out(f"{node}: the VRF {vrf}", "there are too many VRFs")
                    continue
                name = valid_interface(vrf) or f"vrf{table}"
                name = f"vrf{table}" if name in taken or name == "lo" else name
                interfaces = [f"{port.name}{suffix}" for port, suffix in members]
                self.sketch.devices[node].add("interfaces", name, {"vrf": table, "members": interfaces})
        for name, settings in self.vrfs.items():
            for key in ("import", "export"):
                if set(texts(settings.get(key))) - {name}:
                    self.sketch.report.left_out(f"{key} of the VRF {name}", "routes of one VRF do not go to another")
        self.add_vlans(prefixes)

    def name_ports(self, node: str) -> None:
        """Name all interfaces of the node, because others refer to them."""
        device = self.sketch.devices[node]
        ports = self.sketch.ports_of(device)
        taken = {port.name for port in ports}
        free = (name for number in range(len(ports) * 2 + 1) if (name := f"eth{number}") not in taken)
        for port in ports:
            port.name = port.name or next(free)

    def add_vlans(self, prefixes: Prefixes) -> None:
        taken: list[IPv4Network | IPv6Network] = []
        for name in [name for name in [*self.vlans, *sorted(self.used)] if name in self.used]:
            if name in self.sketch.vlans:
                continue
            made: dict[str, Any] = {"id": self.id_of(name)}
            for key, written in prefixes(self.vlans.get(name, {}).get("prefix")).items():
                try:
                    prefix = ip_network(text(written), strict=False)
                except ValueError:
                    continue
                if any(prefix.version == other.version and prefix.overlaps(other) for other in taken):
                    reason = "another VLAN has it, so labctl derives one"
                    self.sketch.report.left_out(f"the prefix {prefix} of the VLAN {name}", reason)
                elif self.is_one_segment(name):
                    taken.append(prefix)
                    made[key] = str(prefix)
            self.sketch.vlans[name] = made

    def is_one_segment(self, vlan: str) -> bool:
        """Return whether the switches with the VLAN are joined by its trunks."""
        joined: dict[str, str] = {}

        def find(name: str) -> str:
            while joined.setdefault(name, name) != name:
                name = joined[name]
            return name

        for cable in self.sketch.cables:
            inside = [
                port.device
                for port in cable.ports
                if vlan in (port.settings.get("vlan"), port.settings.get("native"), *port.settings.get("trunk", ()))
            ]
            for name in inside:
                joined[find(name)] = find(inside[0])
        return len({find(name) for name in list(joined)}) == 1


def static_routes(
    sketch: Sketch, node: str, written: Sequence[Any], prefixes: Prefixes, neighbours: set[str], line: int
) -> None:
    """Add the static routes (`routing.static`) of a node whose next hops are on its networks."""
    device = sketch.devices[node]
    for entry in map(mapping, written):
        hop = mapping(entry.get("nexthop"))
        target = text(entry.get("node"))
        families = prefixes(entry["prefix"]) if "prefix" in entry else entry
        destinations = [text(families.get(key)) for key in ("ipv4", "ipv6") if "/" in text(families.get(key))]
        if target in sketch.devices:
            destinations = [sketch.devices[target].name]
        via = text(hop.get("node"))
        addresses = [each for each in (text(hop.get(key)) for key in ("ipv4", "ipv6")) if each and "/" not in each]
        shown = target or ", ".join(destinations) or "?"
        if text(entry.get("vrf")) or text(hop.get("vrf")):
            sketch.report.left_out(f"{node}: the static route to {shown}", "it belongs to a VRF", line)
        elif hop.get("discard") and target not in sketch.devices:
            for each in destinations:
                device.append("routes", {"to": each, "kind": "blackhole"})
        elif via and via in neighbours and destinations and _has_address(sketch, target, destinations):
            for each in destinations:
                device.append("routes", {"to": each, "via": sketch.devices[via].name})
        else:
            reason = "its next hop is not a node on a network of this one" if via or addresses else "it has no next hop"
            sketch.report.left_out(f"{node}: the static route to {shown}", reason, line)


def _has_address(sketch: Sketch, target: str, destinations: Sequence[str]) -> bool:
    """Return whether the destination is a prefix, or a node with a loopback address."""
    return not target or bool(sketch.devices[target].settings.get("loopback")) or not destinations
