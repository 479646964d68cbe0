"""Render a plan as text, as JSON, and as a shell script of `ip` commands."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from functools import cache
from typing import Any

from labctl.plan.diff import Difference
from labctl.plan.operations import (
    AddAddress,
    AddForwarding,
    AddRoute,
    AddRule,
    AddStaticRoute,
    AddVlan,
    AnyPart,
    DisableOffload,
    LinkEnd,
    MakeBridge,
    MakeDevice,
    MakeLink,
    MakeNode,
    MakeTable,
    Operation,
    Part,
    Plan,
    RemoveAddress,
    RemoveBridge,
    RemoveLink,
    RemoveNode,
    RemovePart,
    RemoveRoute,
    ReplacePart,
    ResetSysctl,
    SetBridgeOption,
    SetDown,
    SetImpairment,
    SetMaster,
    SetMtu,
    SetPortOption,
    SetSysctl,
    SetUp,
    in_order,
    services_of,
)
from labctl.plan.packet_tables import nft
from labctl.structs import asdict, to_builtins
from labctl.topology.devices import Spec
from labctl.topology.model import Address, Node, NodeKind, Prefix, Service
from labctl.topology.switching import DEFAULTS, PORT_DEFAULTS
from labctl.units import format_size


def render_text(plan: Plan) -> str:
    """Return a line with counts, then one for each operation."""
    kinds = Counter(node.kind for node in plan.nodes)
    counted = [_plural(kinds[kind], kind.value) for kind in NodeKind if kinds[kind]]
    links = sum(isinstance(operation, MakeLink) for operation in plan.operations)
    counted += [_plural(links, "link"), _plural(len(plan.operations), "operation")]
    services = services_of(plan.nodes)
    counted += [_plural(len(services), "service")] if services else []
    started = [_started(key, services[key][1]) for key in in_order(services, services)]
    outside = [line for node in plan.nodes for line in described(node)]
    lines = [f"topology {plan.topology}: {', '.join(counted)}", *map(str, plan.operations), *outside, *started]
    return "\n".join(lines) + "\n"


def render_json(plan: Plan) -> str:
    """Return an object with `topology`, `nodes` and `operations`; each operation is an object of its fields."""
    nodes = [_node(node) for node in plan.nodes]
    operations = ",\n    ".join(json.dumps(_fields(one), ensure_ascii=False) for one in plan.operations)
    rows = ",\n    ".join(json.dumps(node, ensure_ascii=False) for node in nodes)
    name = json.dumps(plan.topology, ensure_ascii=False)
    return f'{{\n  "topology": {name},\n  "nodes": [\n    {rows}\n  ],\n  "operations": [\n    {operations}\n  ]\n}}\n'


def _started(key: str, service: Service) -> str:
    ready = f", ready with {service.ready}" if service.ready else ""
    after = f", after {', '.join(service.after)}" if service.after else ""
    return f"start {key}: {shlex.join(service.argv)}{after}{ready}"


def described(node: Node) -> list[str]:
    """Describe the node's relations to the machine, its files and its commands, a line each."""
    lines = [f"connect {node.name} to the machine's network"] if node.nat else []
    for exposure in node.exposures:
        lines.append(
            f"expose port {exposure.port}/{exposure.transport} of {node.name} as the machine's {exposure.machine}"
        )
    if (limits := node.limits) is not None:
        parts = [f"{limits.pids} processes"] if limits.pids is not None else []
        parts += [f"{format_size(limits.memory_bytes)} of memory"] if limits.memory_bytes is not None else []
        parts += [f"{limits.cpu * 100:g}% of a processor"] if limits.cpu is not None else []
        lines.append(f"limit the programs of {node.name} to {', '.join(parts)}")
    for file in node.tree.files:
        lines.append(f"place {file.path} on {node.name}" + (f", from {file.source}" if file.source else ""))
    for bind in node.tree.binds:
        lines.append(f"bind {bind.source} at {bind.path} on {node.name}{'' if bind.writable else ', read-only'}")
    lines += [f"make {path} private on {node.name}" for path in node.tree.private]
    lines += [f"run on {node.name}: {' '.join(str(command).split())}" for command in node.commands]
    return lines


def _node(node: Node) -> dict[str, Any]:
    optional = {
        "services": [
            {"name": one.name, "command": one.argv, "restart": one.restart.value, "after": one.after}
            for one in node.services
        ],
        "nat": node.nat,
        "expose": [{"machine": one.machine, "port": one.port, "protocol": one.transport} for one in node.exposures],
        "limits": node.limits and asdict(node.limits),
        "files": [
            {"path": one.path, "source": one.source or None, "content": one.content, "owner": one.owner or None,
             "mode": None if one.mode is None else f"{one.mode:04o}"}
            for one in node.tree.files
        ],
        "binds": [{"path": one.path, "source": one.source, "rw": one.writable} for one in node.tree.binds],
        "private": node.tree.private,
        "exec": [command.argv for command in node.commands],
    }  # fmt: skip
    always = {"name": node.name, "kind": node.kind.value, "environment": dict(node.environment)}
    return always | {key: value for key, value in optional.items() if value}


def render_difference_text(difference: Difference) -> str:
    """Return a line for each change, such as `+ host h4`; `nothing to change` if there is none."""
    if not difference:
        return "nothing to change\n"
    lines = [str(change) for change in difference.changes] or ["~ hosts files"]
    return "\n".join(lines) + "\n"


def render_difference_json(difference: Difference) -> str:
    """Return an object with `changes` (sign and text) and `operations`, in the order of execution."""
    changes = [{"sign": change.sign.value, "text": change.text} for change in difference.changes]
    operations = [_fields(one) for one in difference.operations]
    return json.dumps({"changes": changes, "operations": operations}, indent=2, ensure_ascii=False) + "\n"


def render_shell(plan: Plan) -> str:
    """Return a POSIX shell script of `ip`, `tc` and `sysctl` commands that makes the same network.

    It runs as root; the namespaces appear in `ip netns` under the nodes' names. It does not contain what labctl adds to
    a network: hostnames, /etc/hosts and separate process trees.
    """
    names = " ".join(shlex.quote(node.name) for node in plan.nodes)
    lines = [
        "#!/bin/sh",
        f"# The network of the topology {_comment(plan.topology)}, as labctl makes it, for root. To remove it:",
        f'#   for node in {_comment(names)}; do ip netns delete "$node"; done',
        "set -eu",
    ]
    for number, operation in enumerate(plan.operations):
        lines += _commands(operation, number)
    lines += [f"# not in this script: {_comment(line)}" for node in plan.nodes for line in described(node)]
    return "\n".join(lines) + "\n"


def _commands(operation: Operation, number: int) -> list[str]:
    match operation:
        case MakeNode(node):
            return [f"ip netns add {shlex.quote(node)}", f"ip -n {shlex.quote(node)} link set dev lo up"]
        case MakeBridge(node, ifname, mtu):
            return [
                f"ip -n {shlex.quote(node)} link add name {shlex.quote(ifname)} mtu {mtu} type bridge mcast_snooping 0",
                f"ip -n {shlex.quote(node)} link set dev {shlex.quote(ifname)} addrgenmode none",
            ]
        case MakeLink(a, b):
            far = f"name {shlex.quote(b.ifname)} netns {shlex.quote(b.node)} mtu {b.mtu} address {b.mac}"
            # Equal indexes delay the first IPv6 packet by a second: the kernel assumes a loop.
            near = f"name {shlex.quote(a.ifname)} index {1000 + number} mtu {a.mtu} address {a.mac}"
            return [f"ip -n {shlex.quote(a.node)} link add {near} type veth peer {far}", *_end(a), *_end(b)]
        case SetSysctl(node, key, value):
            return [f"ip netns exec {shlex.quote(node)} sysctl -qw {shlex.quote(f'{key}={value}')}"]
        case AddAddress(node, ifname, address):
            flags = "nodad" if address.version == 6 else "brd +" if address.network.prefixlen < 31 else ""
            return [
                f"ip -n {shlex.quote(node)} address add {address} {flags} dev {shlex.quote(ifname)}".replace("  ", " ")
            ]
        case SetUp(node, ifname):
            return [f"ip -n {shlex.quote(node)} link set dev {shlex.quote(ifname)} up"]
        case SetDown(node, ifname):
            return [f"ip -n {shlex.quote(node)} link set dev {shlex.quote(ifname)} down"]
        case AddRoute(node, destination, gateway, ifname):
            return [_route("add", node, destination, gateway, ifname)]
        case RemoveNode(node):
            return [f"ip netns delete {shlex.quote(node)}"]
        case RemoveBridge(node, ifname):
            return [f"ip -n {shlex.quote(node)} link delete dev {shlex.quote(ifname)}"]
        case RemoveLink(a):
            return [f"ip -n {shlex.quote(a.node)} link delete dev {shlex.quote(a.ifname)}"]
        case RemoveAddress(node, ifname, address):
            return [f"ip -n {shlex.quote(node)} address delete {address} dev {shlex.quote(ifname)}"]
        case RemoveRoute(node, destination, gateway, ifname):
            return [_route("delete", node, destination, gateway, ifname)]
        case SetMtu(node, ifname, mtu):
            return [f"ip -n {shlex.quote(node)} link set dev {shlex.quote(ifname)} mtu {mtu}"]
        case SetImpairment(node, ifname, impairment, _, mtu):
            if impairment is None:
                return [f"tc -n {shlex.quote(node)} qdisc delete dev {shlex.quote(ifname)} root"]
            from labctl.plan.tc_commands import impairment_commands

            return impairment_commands(node, ifname, impairment, mtu)
        case RemovePart(part):
            return part_commands(part, remove=True)
        case ReplacePart(part, before):
            return [*part_commands(before, remove=True), *part_commands(part)]
        case Part():
            return part_commands(operation)
        case ResetSysctl(node, key):
            return [f"# {_comment(key)} on {_comment(node)}: restore the value from before the first change"]


def node_commands(operation: Operation) -> list[str]:
    """Return the commands of an operation as they are run on its node, one a text."""
    prefixes = re.compile(r"^(?:ip netns exec \S+ |(ip|tc|bridge)((?: -[46])?) -n \S+ )")
    commands: list[str] = []
    script: list[str] = []  # of a here-document
    for line in _commands(operation, 0):
        if script or line.endswith("<<'EOF'"):
            script.append(line if script else prefixes.sub("", line))
            if line == "EOF":
                commands.append(f"sh -c {shlex.quote(chr(10).join(script))}")
                script = []
        elif not line.startswith("#"):
            commands.append(prefixes.sub(lambda match: f"{match[1]}{match[2]} " if match[1] else "", line))
    return commands


def part_commands(part: AnyPart, *, remove: bool = False) -> list[str]:
    """Return the commands that make or set the part, or that remove it."""
    on = f"{shlex.quote(part.node)} "  # of `ip -n NODE`, `bridge -n NODE`
    dev = f"dev {shlex.quote(part.ifname)}"
    match part:
        case SetBridgeOption(_, _, name, value):
            value = DEFAULTS.get(name, value) if remove else value
            if name == "address":
                return [] if remove else [f"ip -n {on}link set {dev} address {part.shown}"]
            return [f"ip -n {on}link set {dev} type bridge {name} {value}"]
        case SetPortOption(_, _, name, value):
            value = PORT_DEFAULTS[name] if remove else value
            return [f"bridge -n {on}link set {dev} {name} {value if name == 'cost' else ('off', 'on')[value]}"]
        case AddVlan(_, _, vlan, tagged):
            flags = "" if tagged or remove else " pvid untagged"
            return [f"bridge -n {on}vlan {'delete' if remove else 'add'} {dev} vid {vlan}{flags}"]
        case AddForwarding(_, _, mac, vlan):
            in_vlan = f" vlan {vlan}" if vlan else ""
            kind = "" if remove else " static"
            return [f"bridge -n {on}fdb {'delete' if remove else 'replace'} {mac} {dev} master{kind}{in_vlan}"]
        case DisableOffload(node, ifname):
            state = "on" if remove else "off"
            return [f"ip netns exec {shlex.quote(node)} ethtool -K {shlex.quote(ifname)} tx {state}"]
        case MakeTable(node, _, table, _, sets, chains):
            command = f"ip netns exec {shlex.quote(node)} nft"
            if remove:
                return [f"{command} delete table inet {table}"]
            return [f"{command} -f - <<'EOF'", *nft(table, sets, chains).splitlines(), "EOF"]
        case AddStaticRoute(node, _, route):
            verb = "delete" if remove else "add"
            return [f"{_ip(route.destination.version, node)} route {verb} {_quoted(route)}"]
        case AddRule(node, _, rule):
            verb = "delete" if remove else "add"
            on = f"{_ip(rule.version, node)} rule {verb}"
            return [f"{on} priority {rule.priority} {_quoted(rule.selector)} {rule.what}"]
        case MakeDevice():
            from labctl.plan.device_commands import device_commands

            return device_commands(part, remove=remove)
        case SetMaster(node, ifname, master):
            to = "nomaster" if remove else f"master {shlex.quote(master)}"
            return [f"ip -n {shlex.quote(node)} link set dev {shlex.quote(ifname)} {to}"]


def _route(verb: str, node: str, destination: Prefix, gateway: Address, ifname: str) -> str:
    to = "default" if destination.prefixlen == 0 else str(destination)
    return f"{_ip(destination.version, node)} route {verb} {to} via {gateway} dev {shlex.quote(ifname)}"


def _ip(version: int, node: str) -> str:
    return f"ip -{version} -n {shlex.quote(node)}"


def _quoted(words: object) -> str:
    """Return what ip(8) accepts as several words, in which names of interfaces may be special to a shell."""
    return " ".join(map(shlex.quote, str(words).split(" ")))


def _end(end: LinkEnd) -> list[str]:
    # As in labctl's labs, the script adds link-local addresses itself, without duplicate address detection.
    lines = [f"ip -n {shlex.quote(end.node)} link set dev {shlex.quote(end.ifname)} addrgenmode none"]
    if end.bridge:
        lines.append(
            f"ip -n {shlex.quote(end.node)} link set dev {shlex.quote(end.ifname)} master {shlex.quote(end.bridge)}"
        )
    return lines


def _fields(operation: Operation | Part) -> dict[str, Any]:
    fields: dict[str, Any] = {"operation": _kind(type(operation))}
    for name, value in asdict(operation).items():
        if isinstance(value, LinkEnd):
            fields[name] = asdict(value)
        elif isinstance(value, Part):
            fields[name] = _fields(value)
        elif isinstance(value, Spec):
            fields[name] = to_builtins(value.without_secrets(), enc_hook=str)
        else:
            fields[name] = value if isinstance(value, str | int) else to_builtins(value, enc_hook=str)
    return fields


@cache
def _kind(operation: type[Operation | Part]) -> str:
    """Return `make_node` for MakeNode."""
    return re.sub(r"\B(?=[A-Z])", "_", operation.__name__).lower()


def _comment(text: str) -> str:
    return " ".join(text.split())


def _plural(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}es" if noun.endswith("ch") else f"{count} {noun}s"
