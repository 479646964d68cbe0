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
from labctl.formats.sketch import Cable, Line, Port, Role, Sketch, valid_interface
from labctl.formats.startup import configure
from labctl.formats.values import items, line_of, mapping, text, texts

_HOSTS = frozenset({"linux", "none", "unknown"})
_ROUTING = frozenset({"ospf", "isis", "bgp", "eigrp", "ripv2", "routing"})
_LIMIT = 10_000


def read(document: Document, path: Path, name: str) -> Sketch:
    """Return the network of a netlab topology. InputError if it has no nodes."""
    data = mapping(_nested(document.data))
    sketch = Sketch(text(data.get("name")) or name, "netlab")
    reader = _Reader(sketch, document, data)
    reader.nodes()
    if not sketch.devices:
        raise InputError(f"{path}: `nodes` has no nodes.")
    for keys, link in reader.all_links(data.get("links"), ("links",)):
        reader.link(link, line_of(document, *keys))
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
            if every or group.get("_auto_create") is True
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
            ("vlans", "VLANs of the node"),
            ("vrfs", "VRFs of the node"),
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

    def link(self, given: Any, line: int) -> None:
        link = self.expanded(given)
        ports: list[Port] = []
        for end in map(mapping, link["interfaces"]):
            node = text(end.get("node"))
            if node not in self.sketch.devices:
                self.report.left_out(f"the end `{node}`", "there is no such node", line)
                continue
            port = Port(self.sketch.devices[node].name, valid_interface(text(end.get("ifname"))), line=line)
            if self.sketch.devices[node].role is Role.SWITCH:
                port.name = ""
            ports.append(port)
        self.members += len(ports)
        if not ports or self.members > 50_000:
            return
        kind = text(link.get("type"))
        names = [port.device for port in ports]
        if len(set(names)) < 2 <= len(names):
            self.report.left_out(f"the link {'-'.join(names)}", "it joins a node to itself", line)
            return
        if kind == "loopback":
            self.report.left_out(f"the loopback link of {names[0]}", "only addresses of links are taken", line)
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
        self.addresses(cable, link, line)
        self.settings(cable, link, line)

    def addresses(self, cable: Cable, link: dict[str, Any], line: int) -> None:
        given = link.get("prefix")
        if isinstance(given, str) and given in mapping(self.data.get("prefix")):
            given = mapping(self.data["prefix"])[given]
        prefixes = mapping(given) if isinstance(given, dict) else {"ipv4": given}
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
        for key in ("vlan", "lag", "vrf", "gateway", "dhcp"):
            if key in link or any(key in mapping(end) for end in link["interfaces"]):
                self.report.left_out(
                    f"{key} of the link {'-'.join(port.device for port in cable.ports)}", "not translated", line
                )

    # -- the rest ------------------------------------------------------------------------------------------------------

    def modules(self) -> None:
        modules = dict.fromkeys([*texts(self.data.get("module")), *texts(self.defaults.get("module"))])
        for name in self.own:
            modules |= dict.fromkeys(texts(self.attribute(name, "module")))
        for module in modules:
            if module in _ROUTING:
                reason = "labctl's static routes take its place; for daemons see `routes: none` and `services`"
            else:
                reason = "the module is not translated"
            line = line_of(self.document, "module") if module in texts(self.data.get("module")) else 0
            self.report.left_out(f"the module {module}", reason, line)
        for key in ("plugin", "vlans", "vrfs", "tools", "validate", "components"):
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


def _end(value: Any) -> dict[str, Any]:
    """Return an end of a link as a mapping with `node`."""
    return value if isinstance(value, dict) else {"node": text(value)}
