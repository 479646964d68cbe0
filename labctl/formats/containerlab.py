"""containerlab's topology files (https://containerlab.dev/manual/topo-def-file/): nodes, links, exec, binds, env.

Nodes of the kind `linux` become hosts, or routers if they have several interfaces. An image is not used: programs are
those of the machine. Other kinds are network operating systems in images; their nodes become routers without what
their configuration does, which the report says.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from labctl.documents import Document
from labctl.errors import InputError
from labctl.formats.bridges import fold_bridges
from labctl.formats.sketch import Addressing, Cable, Device, Line, Port, Role, Sketch, valid_interface
from labctl.formats.startup import configure, frr_addresses, small_file, start_routing
from labctl.formats.values import items, line_of, mapping, pairs, text, texts

_LINUX = frozenset({"linux", "host", "ext-container", "k8s-kind"})
_BRIDGES = frozenset({"bridge", "ovs-bridge"})
_MACHINE_ENDS = frozenset({"host", "mgmt-net", "macvlan", "container"})
_VARIABLE = re.compile(r"\$\{(\w+)(?::?[-=]([^{}]*))?\}")
_UNUSED = {
    "startup-config": "a start-up configuration is for the node's image",
    "license": "a licence is for the node's image",
    "mgmt-ipv4": "",
    "mgmt-ipv6": "",
    "labels": "",
    "image": "",
    "kind": "",
    "group": "",
    "exec": "",
    "binds": "",
    "env": "",
    "ports": "",
    "cmd": "",
    "sysctls": "",
    "type": "",
}


def read(document: Document, path: Path, name: str) -> Sketch:
    """Return the network of a containerlab file. InputError if it has no nodes."""
    data = mapping(_interpolated(document.data))
    topology = mapping(data.get("topology"))
    if not mapping(topology.get("nodes")):
        raise InputError(f"{path}: `topology.nodes` has no nodes.")
    sketch = Sketch(text(data.get("name")) or name, "containerlab")
    reader = _Reader(sketch, document, path.parent, topology)
    for node in mapping(topology["nodes"]):
        reader.node(node)
    for number, link in enumerate(items(topology.get("links"))):
        reader.link(number, link)
    for node, device in list(sketch.devices.items()):
        reader.programs(node, device)
    fold_bridges(sketch)
    given = any(port.ipv4 or port.ipv6 for cable in sketch.cables for port in cable.ports)
    configured = any(device.commands or device.settings for device in sketch.devices.values())
    if given or configured:
        sketch.addressing = Addressing.GIVEN
        if not given:
            sketch.report.note("no addresses that labctl recognises: nodes have those that their programs set")
    else:
        sketch.report.note("the file sets no addresses, so labctl derives addresses and routes")
    return sketch


class _Reader:
    def __init__(self, sketch: Sketch, document: Document, directory: Path, topology: dict[str, Any]) -> None:
        self.sketch = sketch
        self.report = sketch.report
        self.document = document
        self.directory = directory
        self.topology = topology
        self.count = 0

    def settings(self, node: str) -> dict[str, Any]:
        """Return the node's keys, with those of its group, its kind and the defaults."""
        own = mapping(mapping(self.topology["nodes"]).get(node))
        defaults = mapping(self.topology.get("defaults"))
        group_name = text(own.get("group")) or text(defaults.get("group"))
        group = mapping(mapping(self.topology.get("groups")).get(group_name))
        kind_name = text(own.get("kind")) or text(group.get("kind")) or text(defaults.get("kind"))
        kind = mapping(mapping(self.topology.get("kinds")).get(kind_name))
        merged: dict[str, Any] = {}
        for layer in (defaults, kind, group, own):
            for key, value in layer.items():
                if key in ("env", "sysctls", "labels"):
                    merged[key] = pairs(merged.get(key)) | pairs(value)
                elif key in ("binds", "exec", "ports"):
                    merged[key] = [*items(merged.get(key)), *items(value)]
                else:
                    merged[key] = value
        merged["kind"] = kind_name
        return merged

    def node(self, node: str) -> None:
        line = line_of(self.document, "topology", "nodes", node)
        settings = self.settings(node)
        kind = settings["kind"]
        if kind in _BRIDGES:
            self.sketch.device(node, Role.SWITCH, line=line)
            return
        device = self.sketch.device(node, None, line=line)
        image = text(settings.get("image"))
        if kind in _LINUX or not kind or kind == "frr":
            device.role = Role.ROUTER if kind == "frr" else None
            if image:
                self.report.left_out(node, f"the image {image}: programs are those of this machine", line)
        else:
            device.role = Role.ROUTER
            device.comment = kind
            shown = f" ({image})" if image else ""
            reason = f"kind {kind}{shown}: a router of this machine's kernel takes its place, without its configuration"
            self.report.left_out(node, reason, line)
        for key, reason in _UNUSED.items():
            if reason and settings.get(key) and kind != "frr":
                self.report.left_out(f"{node}: {key}", reason, line)
        if text(settings.get("network-mode")) not in ("", "none", "bridge"):
            self.report.left_out(f"{node}: network-mode", "every node has a network of its own", line)

    # -- links ---------------------------------------------------------------------------------------------------------

    def link(self, number: int, link: Any) -> None:
        line = line_of(self.document, "topology", "links", number)
        given = mapping(link)
        kind = text(given.get("type")) or "veth"
        ends = given.get("endpoints")
        if ends is None and "endpoint" in given:
            ends = [given["endpoint"]]
        made = [port for end in items(ends) if (port := self.port(end, line)) is not None]
        if kind == "dummy" and len(made) == 1:
            self.stub(made[0], line)
            return
        if kind not in ("veth", "host", "mgmt-net", "macvlan"):
            self.report.left_out(f"the link of {_shown(ends)}", f"type {kind}", line)
        elif len(made) == 1 and (kind != "veth" or len(items(ends)) == 2):
            reason = "its other end is outside the lab; see `nat` and `expose`"
            self.report.left_out(f"the link of {_shown(ends)}", reason, line)
            self.stub(made[0], line)
            return
        elif len(made) != 2:
            self.report.left_out(f"a link ({_shown(ends)})", "it does not join two nodes of the file", line)
            return
        if len(made) == 2:
            cable = self.sketch.connect(*made, line=line)
            mtu = text(given.get("mtu")) or text(mapping(self.topology.get("defaults")).get("mtu"))
            if mtu.isdecimal() and int(mtu) <= 65535:
                cable.mtu = int(mtu)
            self.prefixes(cable, given)

    def stub(self, port: Port, line: int) -> None:
        """Give the port a network of its own, so that the interface exists."""
        self.sketch.network(f"{port.device}-{port.name or 'stub'}", [port], line=line)

    def prefixes(self, cable: Cable, given: dict[str, Any]) -> None:
        """Take the addresses of a link's ends: `ipv4: [10.0.0.1/31, 10.0.0.0/31]`, in the order of its ends."""
        for source in (given, mapping(given.get("vars"))):
            for key in ("ipv4", "ipv6"):
                for port, address in zip(cable.ports, texts(source.get(key)), strict=False):
                    getattr(port, key).append(address)

    def port(self, end: Any, line: int) -> Port | None:
        """Return the port of `node:interface` or of `{node: ..., interface: ...}`; None if it is outside the lab."""
        if isinstance(end, dict):
            node, name = text(end.get("node")), text(end.get("interface"))
        else:
            node, _, name = text(end).partition(":")
        if node not in self.sketch.devices:
            if node not in _MACHINE_ENDS:
                self.report.left_out(f"the end `{node}`", "there is no such node", line)
            return None
        device = self.sketch.devices[node]
        port = Port(device.name, line=line)
        if device.role is not Role.SWITCH:
            port.name = valid_interface(name.replace("/", "-"))
            if port.name != name:
                self.report.note(f"its interface {name} is called {port.name or 'otherwise'}", node, line)
        if isinstance(end, dict) and device.role is not Role.SWITCH:
            mac = text(end.get("mac"))
            port.mac = mac.lower() if re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", mac) else ""
            for source in (end, mapping(end.get("vars"))):
                port.ipv4 += texts(source.get("ipv4"))
                port.ipv6 += texts(source.get("ipv6"))
        return port

    # -- what runs on nodes --------------------------------------------------------------------------------------------

    def programs(self, node: str, device: Device) -> None:
        if device.role is Role.SWITCH:
            return
        settings = self.settings(node)
        line = device.line
        for bind in texts(settings.get("binds")):
            self.bind(device, bind, line)
        is_linux = settings["kind"] in _LINUX or settings["kind"] in ("", "frr")
        for name, value in pairs(settings.get("env")).items():
            if is_linux and name and "=" not in name:
                device.settings.setdefault("environment", {})[name] = value
        for key, value in pairs(settings.get("sysctls")).items():
            if key.startswith("net.") and value:
                device.settings.setdefault("sysctls", {})[key] = int(value) if value.isdecimal() else value
            else:
                self.report.left_out(f"{node}: the sysctl {key}", "it belongs to the whole machine", line)
        for written in texts(settings.get("ports")):
            if re.fullmatch(r"([\d.]+:)?\d+:\d+(/tcp|/udp)?", written):
                device.append("expose", written)
            else:
                self.report.left_out(f"{node}: the port {written}", "only MACHINE_PORT:PORT can be exposed", line)
        if not is_linux:
            if settings.get("exec"):
                self.report.left_out(f"{node}: exec", "its commands are for the node's image", line)
            return
        if command := text(settings.get("cmd")) or text(settings.get("entrypoint")):
            self.report.left_out(f"{node}: `{command[:60]}`", "the command belongs to the image", line)
        lines = [Line(each, line) for each in texts(settings.get("exec"))]
        if settings["kind"] == "frr":
            self.frr(device, settings)
        else:
            self.routing(device, texts(settings.get("binds")))
        configure(self.sketch, device, lines, shell=False)
        is_host = device.role is Role.HOST or (device.role is None and len(self.sketch.ports_of(device)) <= 1)
        if device.settings.get("expose") and not is_host:
            del device.settings["expose"]
            self.report.left_out(f"{node}: ports", "only hosts can expose ports; this is a router", line)

    def frr(self, device: Device, settings: dict[str, Any]) -> None:
        """Start FRR with the start-up configuration of a node of the kind `frr`: a file, or its text."""
        written = text(settings.get("startup-config"))
        if "\n" in written:
            device.routing, content = {"content": written}, written
        elif written and (found := small_file(self.directory / written)) is not None:
            device.routing, content = written, found
        else:
            reason = "there is no such file" if written else "it has no start-up configuration"
            self.report.left_out(f"{device.name}: startup-config", reason, device.line)
            device.routing, content = {"content": ""}, ""
        device.daemons = texts(mapping(mapping(settings.get("extras")).get("frr")).get("daemons"))
        frr_addresses(self.sketch, device, content)
        start_routing(self.sketch, device, Line("", device.line))

    def routing(self, device: Device, binds: list[str]) -> None:
        """Start FRR, as its image does, with a frr.conf among the binds."""
        for bind in binds:
            source, _, target = bind.partition(":")
            target = target.partition(":")[0].rstrip("/")
            file = {"/etc/frr/frr.conf": "", "/etc/frr": "/frr.conf"}.get(target)
            content = None if file is None else small_file(self.directory / f"{source}{file}")
            if content is None:
                continue
            device.routing = f"{source}{file}"
            frr_addresses(self.sketch, device, content)
            before = device.settings.pop("binds", [])
            if kept := [each for each in before if not each.split(":")[1].startswith("/etc/frr")]:
                device.settings["binds"] = kept
            start_routing(self.sketch, device, Line("", device.line))
            return

    def bind(self, device: Device, bind: str, line: int) -> None:
        source, colon, rest = bind.partition(":")
        target, _, mode = rest.partition(":")
        if not colon or not target.startswith("/"):
            self.report.left_out(f"{device.name}: the bind `{bind}`", "it has no absolute path on the node", line)
        elif "__clabDir__" in source or "__clabNodeDir__" in source or "__clabNodeName__" in source or "$" in source:
            self.report.left_out(f"{device.name}: the bind `{bind}`", "its source is a variable of containerlab", line)
        elif not (self.directory / source).exists():
            self.report.left_out(f"{device.name}: the bind `{bind}`", "there is no such file", line)
        elif _is_reserved(target):
            self.report.left_out(f"{device.name}: the bind `{bind}`", "the directory belongs to the kernel", line)
        else:
            device.append("binds", f"{source}:{target}" + ("" if "ro" in mode.split(",") else ":rw"))


def _interpolated(value: Any) -> Any:
    """Return the data with `${NAME}` and `${NAME:=default}` of the environment replaced, as containerlab does."""
    if isinstance(value, dict):
        return {key: _interpolated(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_interpolated(each) for each in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    return _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0] if match[2] is None else match[2]), value)


def _is_reserved(target: str) -> bool:
    return target.strip("/").split("/")[0] in ("proc", "sys", "dev", "lib") or target == "/"


def _shown(ends: Any) -> str:
    return ", ".join(
        ":".join(map(text, each.values())) if isinstance(each, dict) else text(each) for each in items(ends)
    )
