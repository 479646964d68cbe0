"""A plan for people and other programs: as text, as JSON, and as a shell script of `ip` commands."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from labctl.plan.diff import Difference, described, in_json
from labctl.plan.operations import (
    ROOT,
    AddAddress,
    AddRoute,
    Fifo,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    NetworkEmulator,
    Operation,
    Plan,
    Queue,
    RemoveAddress,
    RemoveLink,
    RemoveNode,
    RemoveRoute,
    ResetSysctl,
    SetDown,
    SetImpairment,
    SetMtu,
    SetSysctl,
    SetUp,
    TokenBucket,
    in_order,
    queues,
    services_of,
)
from labctl.structs import asdict, msgspec
from labctl.topology.model import Address, Impairment, Node, NodeKind, Prefix, Service
from labctl.units import format_ppm

_NAMES: dict[type, str] = {
    MakeNode: "make_node",
    MakeBridge: "make_bridge",
    MakeLink: "make_link",
    SetSysctl: "set_sysctl",
    AddAddress: "add_address",
    SetUp: "set_up",
    SetDown: "set_down",
    AddRoute: "add_route",
    RemoveNode: "remove_node",
    RemoveLink: "remove_link",
    RemoveAddress: "remove_address",
    RemoveRoute: "remove_route",
    SetMtu: "set_mtu",
    ResetSysctl: "reset_sysctl",
    SetImpairment: "set_impairment",
}


def render_text(plan: Plan) -> str:
    """One line an operation, below a line that counts."""
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
    """An object with `topology`, `nodes` and `operations`; every operation is an object with its fields by name."""
    nodes = [_node(node) for node in plan.nodes]
    operations = ",\n    ".join(json.dumps(_fields(one), ensure_ascii=False) for one in plan.operations)
    rows = ",\n    ".join(json.dumps(node, ensure_ascii=False) for node in nodes)
    name = json.dumps(plan.topology, ensure_ascii=False)
    return f'{{\n  "topology": {name},\n  "nodes": [\n    {rows}\n  ],\n  "operations": [\n    {operations}\n  ]\n}}\n'


def _started(key: str, service: Service) -> str:
    import shlex

    ready = f", ready with {service.ready}" if service.ready else ""
    after = f", after {', '.join(service.after)}" if service.after else ""
    return f"start {key}: {shlex.join(service.argv)}{after}{ready}"


def _node(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {"name": node.name, "kind": node.kind.value, "environment": dict(node.environment)}
    if node.services:
        found["services"] = [
            {"name": one.name, "command": one.argv, "restart": one.restart.value, "after": one.after}
            for one in node.services
        ]
    return found | in_json(node)


def render_difference_text(difference: Difference) -> str:
    """A line for each change: `+ host h4`; `nothing to change` when there is none."""
    if not difference:
        return "nothing to change\n"
    lines = [str(change) for change in difference.changes] or ["~ what nodes know of each other's names"]
    return "\n".join(lines) + "\n"


def render_difference_json(difference: Difference) -> str:
    """An object with `changes` (sign and text) and `operations`, in the order in which they are carried out."""
    changes = [{"sign": change.sign.value, "text": change.text} for change in difference.changes]
    operations = [_fields(one) for one in difference.operations]
    return json.dumps({"changes": changes, "operations": operations}, indent=2, ensure_ascii=False) + "\n"


def render_shell(plan: Plan) -> str:
    """A POSIX shell script of `ip`, `tc` and `sysctl` commands that makes the same network, in namespaces so named.

    To be run as root; the namespaces appear in `ip netns`. What labctl adds around the network (hostnames, /etc/hosts,
    processes of their own) is not in it.
    """
    names = " ".join(_quote(node.name) for node in plan.nodes)
    lines = [
        "#!/bin/sh",
        f"# The network of the topology {_comment(plan.topology)}, as labctl makes it, for root. To remove it:",
        f'#   for node in {_comment(names)}; do ip netns delete "$node"; done',
        "set -eu",
    ]
    for number, operation in enumerate(plan.operations):
        lines += _commands(operation, number)
    lines += [f"# not in here: {_comment(line)}" for node in plan.nodes for line in described(node)]
    return "\n".join(lines) + "\n"


def _commands(operation: Operation, number: int) -> list[str]:
    match operation:
        case MakeNode(node):
            return [f"ip netns add {_quote(node)}", f"ip -n {_quote(node)} link set dev lo up"]
        case MakeBridge(node, ifname, mtu):
            return [
                f"ip -n {_quote(node)} link add name {_quote(ifname)} mtu {mtu} type bridge mcast_snooping 0",
                f"ip -n {_quote(node)} link set dev {_quote(ifname)} addrgenmode none",
            ]
        case MakeLink(a, b):
            far = f"name {_quote(b.ifname)} netns {_quote(b.node)} mtu {b.mtu} address {b.mac}"
            # Ends of equal index delay the first IPv6 packet by a second: the kernel takes it for a loop.
            near = f"name {_quote(a.ifname)} index {1000 + number} mtu {a.mtu} address {a.mac}"
            return [f"ip -n {_quote(a.node)} link add {near} type veth peer {far}", *_end(a), *_end(b)]
        case SetSysctl(node, key, value):
            return [f"ip netns exec {_quote(node)} sysctl -qw {_quote(f'{key}={value}')}"]
        case AddAddress(node, ifname, address):
            flags = "nodad" if address.version == 6 else "brd +" if address.network.prefixlen < 31 else ""
            return [f"ip -n {_quote(node)} address add {address} {flags} dev {_quote(ifname)}".replace("  ", " ")]
        case SetUp(node, ifname):
            return [f"ip -n {_quote(node)} link set dev {_quote(ifname)} up"]
        case SetDown(node, ifname):
            return [f"ip -n {_quote(node)} link set dev {_quote(ifname)} down"]
        case AddRoute(node, destination, gateway, ifname):
            return [_route("add", node, destination, gateway, ifname)]
        case RemoveNode(node):
            return [f"ip netns delete {_quote(node)}"]
        case RemoveLink(a):
            return [f"ip -n {_quote(a.node)} link delete dev {_quote(a.ifname)}"]
        case RemoveAddress(node, ifname, address):
            return [f"ip -n {_quote(node)} address delete {address} dev {_quote(ifname)}"]
        case RemoveRoute(node, destination, gateway, ifname):
            return [_route("delete", node, destination, gateway, ifname)]
        case SetMtu(node, ifname, mtu):
            return [f"ip -n {_quote(node)} link set dev {_quote(ifname)} mtu {mtu}"]
        case SetImpairment(node, ifname, impairment, _, mtu):
            if impairment is None:
                return [f"tc -n {_quote(node)} qdisc delete dev {_quote(ifname)} root"]
            on = f"tc -n {_quote(node)} qdisc replace dev {_quote(ifname)}"
            return [f"{on} {_queue(queue)}" for queue in queues(impairment, mtu)]
        case ResetSysctl(node, key):
            return [f"# {_comment(key)} on {_comment(node)}: back to what it was before it was set"]


def _route(verb: str, node: str, destination: Prefix, gateway: Address, ifname: str) -> str:
    family = "-4" if destination.version == 4 else "-6"
    to = "default" if destination.prefixlen == 0 else str(destination)
    return f"ip {family} -n {_quote(node)} route {verb} {to} via {gateway} dev {_quote(ifname)}"


def _queue(queue: Queue) -> str:
    place = "root" if queue.parent == ROOT else f"parent {queue.parent >> 16:x}:{queue.parent & 0xFFFF:x}"
    where = f"{place} handle {queue.handle >> 16:x}:"
    match queue:
        case TokenBucket(_, _, rate_bytes_s, burst_bytes, limit_bytes):
            return f"{where} tbf rate {rate_bytes_s * 8}bit burst {burst_bytes} limit {limit_bytes}"
        case NetworkEmulator(_, _, delay_us, jitter_us, loss_ppm, limit_packets):
            words = [f"limit {limit_packets}"]
            if delay_us:
                words.append(f"delay {delay_us}us" + (f" {jitter_us}us" if jitter_us else ""))
            if loss_ppm:
                words.append(f"loss {format_ppm(loss_ppm)}")
            return f"{where} netem {' '.join(words)}"
        case Fifo(_, _, limit_bytes):
            return f"{where} bfifo limit {limit_bytes}"


def _end(end: LinkEnd) -> list[str]:
    # The same as for labctl's own labs: link-local addresses are added by hand, without duplicate detection.
    lines = [f"ip -n {_quote(end.node)} link set dev {_quote(end.ifname)} addrgenmode none"]
    if end.bridge:
        lines.append(f"ip -n {_quote(end.node)} link set dev {_quote(end.ifname)} master {_quote(end.bridge)}")
    return lines


def _fields(operation: Operation) -> dict[str, Any]:
    fields: dict[str, Any] = {"operation": _NAMES[type(operation)]}
    for name in operation.__struct_fields__:
        value = getattr(operation, name)
        if isinstance(value, LinkEnd | Impairment):
            value = asdict(value) if isinstance(value, LinkEnd) else msgspec.to_builtins(value)
        fields[name] = value if value is None or isinstance(value, int | dict) else str(value)
    return fields


def _quote(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _comment(text: str) -> str:
    return " ".join(text.split())


def _plural(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}es" if noun.endswith("ch") else f"{count} {noun}s"
