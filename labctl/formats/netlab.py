"""netlab's lab topologies (https://netlab.tools/topology-reference/): nodes, links in all forms, groups, prefixes.

Devices of the kind `linux` are hosts, others routers. Static routes of labctl take the place of routing protocols;
modules, plugins and configuration templates are reported.
"""

from __future__ import annotations

import re
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

from labctl.documents import Document
from labctl.errors import InputError
from labctl.formats.netlab_segments import Segments, static_routes
from labctl.formats.sketch import Cable, Line, Port, Role, Sketch
from labctl.formats.startup import configure
from labctl.formats.values import items, line_of, mapping, text, texts

_HOSTS = frozenset({"linux", "none", "unknown"})
_ROUTING = frozenset({"ospf", "isis", "bgp", "eigrp", "ripv2"})
_TRANSLATED = frozenset({"vlan", "vrf", "lag", "routing"})
_LIMIT = 10_000


def read(document: Document, path: Path, name: str) -> Sketch:
    """Return the network of a netlab topology. InputError if it has no nodes."""
    data = mapping(_nested(document.data))
    sketch = Sketch(text(data.get("name")) or name, "netlab")
    reader = _Reader(sketch, document, data)
    reader.nodes()
    if not sketch.devices:
        raise InputError(f"{path}: `nodes` has no nodes.")
    written = [(line_of(document, *keys), link) for keys, link in reader.all_links(data.get("links"), ("links",))]
    inner = [link for keys, link in reader.all_links(reader.segments.further_links(), ())]
    links = [(line, reader.expanded(link)) for line, link in [*written, *((0, link) for link in inner)]]
    reader.segments.find_bridges(link for _, link in links)
    for line, link in links:
        reader.link(link, line)
    reader.static_routes()
    reader.segments.finish(reader.prefixes)
    reader.modules()
    reader.programs()
    return sketch


class _Reader:
    def __init__(self, sketch: Sketch, document: Document, data: dict[str, Any]) -> None:
        self.sketch = sketch
        self.report = sketch.report
        self.document = document
        self.data = data
        self.defaults = mapping(data.get("defaults"))
        self.own: dict[str, dict[str, Any]] = {}  # the keys of each node, with those of its groups
        self.members = 0
        self.bonds = 0
        self.segments = Segments(sketch, data, self.attribute)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def nodes(self) -> None:
        given = self.data.get("nodes")
        if isinstance(given, str):
            given = re.split(r"[,\s]+", given.strip())
        lines: dict[str, int] = {}
        if isinstance(given, list):
            for number, each in enumerate(given):
                name = text(each.get("name")) if isinstance(each, dict) else text(each)
                self.own[name] = mapping(each)
                lines[name] = line_of(self.document, "nodes", number)
        else:
            for name, each in mapping(given).items():
                self.own[name] = mapping(each)
                lines[name] = line_of(self.document, "nodes", name)
        for name in self._created_by_groups():
            self.own.setdefault(name, {})
        for name in [name for name in self.own if name][:_LIMIT]:
            self.node(name, lines.get(name, 0))

    def _created_by_groups(self) -> list[str]:
        groups = mapping(self.data.get("groups"))
        every = groups.get("_auto_create") is True
        return [
            member
            for group in map(mapping, groups.values())
            if (every or group.get("_auto_create") is True) and group.get("type") in (None, "node")
            for member in texts(group.get("members"))
        ]

    def groups_of(self, name: str, seen: frozenset[str] = frozenset()) -> list[str]:
        """Return the groups of the node or group, the outermost first."""
        found: list[str] = []
        for group, each in mapping(self.data.get("groups")).items():
            if group not in seen and name in texts(mapping(each).get("members")):
                found = [*self.groups_of(group, seen | {group}), group, *found]
        return list(dict.fromkeys(found))

    def attribute(self, name: str, key: str) -> Any:
        """Return an attribute of the node, else of its groups, else the default."""
        if key in self.own[name]:
            return self.own[name][key]
        for group in reversed(self.groups_of(name)):
            settings = mapping(mapping(self.data.get("groups")).get(group))
            for source in (mapping(settings.get("node_data")), settings):
                if key in source:
                    return source[key]
        return self.defaults.get(key)

    def node(self, name: str, line: int) -> None:
        kind = text(self.attribute(name, "device")) or ("linux" if name.lower().startswith(("h", "host")) else "")
        role = text(self.attribute(name, "role"))
        if role == "bridge":
            chosen = Role.SWITCH
        elif role == "host" or (kind in _HOSTS and role not in ("router", "gateway")):
            chosen = Role.HOST
        else:
            chosen = Role.ROUTER
        device = self.sketch.device(name, chosen, line=line)
        if kind and kind != "linux":
            device.comment = kind
        loopback = mapping(self.own[name].get("loopback"))
        for key in ("ipv4", "ipv6") if chosen is not Role.SWITCH else ():
            if address := text(loopback.get(key)).partition("/")[0]:
                device.append("loopback", address)
        for key, reason in (
            ("config", "its configuration templates are for the device"),
            ("image", "programs are those of this machine"),
        ):
            if self.own[name].get(key):
                self.report.left_out(f"{name}: {key}", reason, line)

    # -- links ---------------------------------------------------------------------------------------------------------

    def all_links(
        self, given: Any, path: tuple[str | int, ...], depth: int = 0
    ) -> list[tuple[tuple[str | int, ...], Any]]:
        """Return the links, also those of link groups, each with its path."""
        found: list[tuple[tuple[str | int, ...], Any]] = []
        if isinstance(given, dict) and depth == 0:  # groups of links
            return [one for group, each in given.items() for one in self.all_links(each, (*path, group), 1)]
        for number, each in enumerate(items(given)):
            here = (*path, number) if isinstance(given, list) else path
            if isinstance(each, dict) and isinstance(each.get("members"), list) and depth < 4:
                shared = {key: value for key, value in each.items() if key not in ("members", "group")}
                for keys, member in self.all_links(each["members"], (*here, "members"), depth + 1):
                    found.append((keys, {**shared, **self.expanded(member)}))
            else:
                found.append((here, each))
        return found[:_LIMIT]

    def expanded(self, link: Any) -> dict[str, Any]:
        """Return the link in its form with `interfaces`."""
        if isinstance(link, str):
            link = self.split(link)
        if isinstance(link, list):
            return {"interfaces": list(map(_end, link))}
        given = dict(mapping(link))
        ends = [
            {"node": text(each)} if not isinstance(each, dict) else each
            for each in items(given.pop("interfaces", None))
        ]
        for key in [key for key in given if key in self.own]:
            value = given.pop(key)
            ends += [
                {**mapping(each), "node": key} for each in (value if isinstance(value, list) else [mapping(value)])
            ]
        return {**given, "interfaces": ends}

    def split(self, link: str) -> list[str]:
        """Split `r1-r2`, whose names may contain a dash."""
        words = link.replace(" ", "").split("-")
        names: list[str] = []
        while words:
            for count in range(len(words), 0, -1):
                name = "-".join(words[:count])
                if name in self.own or count == 1:
                    names.append(name)
                    words = words[count:]
                    break
        return names

    def link(self, link: dict[str, Any], line: int) -> None:
        if mapping(link.get("lag")):
            single = self.lag(link, line)
            if single is None:
                return
            link = single
        kind = text(link.get("type"))
        if kind == "loopback" and len(link["interfaces"]) == 1:
            self.loopback(link)
            return
        ports: list[Port] = []
        ends: list[dict[str, Any]] = []
        vlans: list[str] = []
        for end in map(mapping, link["interfaces"]):
            node = text(end.get("node"))
            if node not in self.sketch.devices:
                self.report.left_out(f"the end `{node}`", "there is no such node", line)
                continue
            port, vlan = self.segments.port(link, end, line)
            if self.sketch.devices[node].role is Role.SWITCH:
                port.name = ""
            ports.append(port)
            ends.append(end)
            vlans.append(vlan)
        link = {**link, "interfaces": ends}
        self.members += len(ports)
        has_vlans = any(port.settings for port in ports)
        if not ports or self.members > 50_000 or (has_vlans and len(ports) == 1):
            return
        names = [port.device for port in ports]
        if len(set(names)) < 2 <= len(names):
            self.report.left_out(f"the link {'-'.join(names)}", "it joins a node to itself", line)
            return
        if has_vlans and len(ports) > 2:
            self.segment(ports, link, line)
            return
        bridge = text(link.get("bridge"))
        if len(ports) == 2 and kind != "lan" and not bridge:
            cable = self.sketch.connect(*ports, line=line)
        else:
            label = text(link.get("name"))
            cable = self.sketch.network(
                bridge or (label if re.fullmatch(r"[\w-]+", label) else "-".join(names)), line=line
            )
            cable.ports = ports
        cable.comment = text(link.get("name"))
        if cable.comment == cable.name:
            cable.comment = ""
        vlan = next(filter(None, vlans), "")
        if vlan and link.get("prefix") is None:
            link = {**link, "prefix": self.segments.vlans.get(vlan, {}).get("prefix")}
        self.addresses(cable, link, line)
        if has_vlans:
            cable.ipv4 = cable.ipv6 = ""
        elif all(self.segments.is_tagged(link, end) for end in ends):
            cable.settings |= {"ipv4": False, "ipv6": False}
        self.settings(cable, link, line)

    def segment(self, ports: list[Port], link: dict[str, Any], line: int) -> None:
        """Join more than two ports, of which some have VLANs, by a switch."""
        switch = self.sketch.device("-".join(port.device for port in ports), Role.SWITCH, line=line)
        for port in ports:
            cable = self.sketch.connect(port, Port(switch.name), line=line)
            self.settings(cable, link, line)

    def loopback(self, link: dict[str, Any]) -> None:
        """Add the addresses of a link to nowhere to the node's loopback."""
        end = mapping(link["interfaces"][0])
        node = text(end.get("node"))
        device = self.sketch.devices.get(node)
        if device is None or device.role is Role.SWITCH:
            return
        for key, written in {**self.prefixes(link.get("prefix")), **end}.items():
            if key in ("ipv4", "ipv6") and isinstance(written, str) and _is_address(written):
                device.append("loopback", written.partition("/")[0])

    def lag(self, link: dict[str, Any], line: int) -> dict[str, Any] | None:
        """Make the links of a LAG with a bond at both ends; return one link instead where that is not possible."""
        given = mapping(link["lag"])
        members = given.get("members")
        lists = [self.expanded(each) for each in members] if isinstance(members, list) else []
        inner = [[text(mapping(end).get("node")) for end in each["interfaces"]] for each in lists]
        nodes = [text(mapping(end).get("node")) for end in link["interfaces"]] or (inner[0] if inner else [])
        count = len(lists) if lists else members if isinstance(members, int) else 1
        same = all(set(each) == set(nodes) for each in inner)
        plain = {key: value for key, value in link.items() if key != "lag"}
        plain["interfaces"] = link["interfaces"] or [{"node": node} for node in nodes]
        roles = [self.sketch.devices[node].role for node in nodes if node in self.sketch.devices]
        if len(set(nodes)) != 2 or len(roles) != 2:
            self.report.left_out("a LAG", "it does not join two nodes", line)
            return None
        if self.segments.has_vlans(plain) or not same or Role.SWITCH in roles or not 1 <= count <= 64:
            what = "links to several nodes" if not same else "a LAG of a switch"
            self.report.left_out(f"the LAG {'-'.join(nodes)}", f"{what}: one link takes its place", line)
            return plain
        cables = []
        for _ in range(count):
            ports = [Port(self.sketch.devices[node].name, line=line) for node in nodes]
            cable = self.sketch.connect(*ports, line=line)
            self.settings(cable, plain, line)
            cables.append(cable)
        self.bonds += 1
        number = given.get("id")
        self.segments.bond(nodes, cables, number if isinstance(number, int) else self.bonds)
        return None

    def static_routes(self) -> None:
        """Take `routing.static` of the nodes."""
        for name, device in list(self.sketch.devices.items()):
            written = items(mapping(self.attribute(name, "routing")).get("static")) if name in self.own else []
            if not written or device.role is Role.SWITCH:
                continue
            near = {
                port.device
                for cable in self.sketch.cables
                for port in cable.ports
                if any(other.device == device.name for other in cable.ports)
            }
            neighbours = {node for node, each in self.sketch.devices.items() if each.name in near and node != name}
            static_routes(self.sketch, name, written, self.prefixes, neighbours, device.line)

    def prefixes(self, given: Any) -> dict[str, Any]:
        """Return the prefixes by family: of a text, a mapping, or the name of one of the file's prefixes."""
        if isinstance(given, str) and given in mapping(self.data.get("prefix")):
            given = mapping(self.data["prefix"])[given]
        return mapping(given) if isinstance(given, dict) else {"ipv4": given}

    def addresses(self, cable: Cable, link: dict[str, Any], line: int) -> None:
        prefixes = self.prefixes(link.get("prefix"))
        if link.get("prefix") is False:
            cable.settings |= {"ipv4": False, "ipv6": False}
        for key in ("ipv4", "ipv6"):
            written = text(prefixes.get(key))
            try:
                if written and written != "true" and written != "false":
                    prefix = ip_network(written, strict=False)
                    setattr(cable, f"ipv{prefix.version}", str(prefix))
            except ValueError:
                self.report.left_out(f"the prefix {written}", "not a prefix", line)
        for port, end in zip(cable.ports, map(mapping, link["interfaces"]), strict=False):
            for family, key in ((4, "ipv4"), (6, "ipv6")):
                address = end.get(key)
                prefix_text = cable.prefix(family)
                if isinstance(address, int) and not isinstance(address, bool) and prefix_text:
                    network = ip_network(prefix_text)
                    if 0 < address < network.num_addresses:
                        port.addresses(family).append(f"{network[address]}/{network.prefixlen}")
                elif isinstance(address, str):
                    try:
                        port.addresses(family).append(str(ip_interface(address)) if "/" in address else address)
                    except ValueError:
                        self.report.left_out(f"{port.device}: {address}", "not an address", line)

    def settings(self, cable: Cable, link: dict[str, Any], line: int) -> None:
        mtu = text(link.get("mtu"))
        if mtu.isdecimal() and 68 <= int(mtu) <= 65535:
            cable.mtu = int(mtu)
        impairment: dict[str, str] = {}
        control = mapping(link.get("tc"))
        rate = control.get("rate") or link.get("bandwidth")
        if isinstance(rate, int | float) and not isinstance(rate, bool) and 1 <= rate <= 10**9:
            impairment["rate"] = f"{rate:.0f}kbit"
        for key in ("delay", "jitter"):
            value = control.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 200_000:
                impairment[key] = f"{value:g}ms"
        loss = control.get("loss")
        if isinstance(loss, int | float) and 0 < loss <= 100:
            impairment["loss"] = f"{loss:g}%"
        if "jitter" in impairment and "delay" not in impairment:
            del impairment["jitter"]
        if cable.name:
            for port in cable.ports:
                port.impairment = dict(impairment)
        else:
            cable.impairment = impairment
        for key, reason in (
            ("gateway", "hosts use a router that labctl chooses; see `gateway`"),
            ("dhcp", "addresses are static"),
        ):
            if key in link or any(key in mapping(end) for end in link["interfaces"]):
                self.report.left_out(f"{key} of the link {'-'.join(port.device for port in cable.ports)}", reason, line)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def modules(self) -> None:
        modules = dict.fromkeys([*texts(self.data.get("module")), *texts(self.defaults.get("module"))])
        for name in self.own:
            modules |= dict.fromkeys(texts(self.attribute(name, "module")))
        for module in modules:
            if module in _TRANSLATED:
                continue
            if module in _ROUTING:
                reason = "labctl's static routes take its place; for daemons see `routes: none` and `services`"
            else:
                reason = "the module is not translated"
            line = line_of(self.document, "module") if module in texts(self.data.get("module")) else 0
            self.report.left_out(f"the module {module}", reason, line)
        for key in ("plugin", "tools", "validate", "components"):
            if self.data.get(key):
                self.report.left_out(f"`{key}`", "not translated", line_of(self.document, key))

    def programs(self) -> None:
        for name, device in self.sketch.devices.items():
            if device.role is Role.SWITCH:
                continue
            commands = texts(mapping(self.own[name].get("clab")).get("exec"))
            configure(self.sketch, device, [Line(each, device.line) for each in commands], shell=False)


def _nested(value: Any) -> Any:
    """Return the data with dotted keys (`defaults.device: frr`) as mappings in each other."""
    if isinstance(value, list):
        return [_nested(each) for each in value]
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for key, each in value.items():
        *outer, last = key.split(".") if re.fullmatch(r"[A-Za-z_]\w*(\.\w+){1,8}", key) else [key]
        at = result
        for part in outer:
            found = at.get(part)
            at[part] = found if isinstance(found, dict) else {}
            at = at[part]
        nested = _nested(each)
        at[last] = {**at[last], **nested} if isinstance(at.get(last), dict) and isinstance(nested, dict) else nested
    return result


def _is_address(written: str) -> bool:
    try:
        return bool(ip_interface(written))
    except ValueError:
        return False


def _end(value: Any) -> dict[str, Any]:
    """Return an end of a link as a mapping with `node`."""
    return value if isinstance(value, dict) else {"node": text(value)}
