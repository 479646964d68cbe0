"""A running lab as the kernel has it now: nodes, interfaces, addresses, routes, links; and where that differs from
its plan."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from labctl.errors import KernelError
from labctl.kernel import qdisc, readback, routing
from labctl.kernel.routing import KernelRoute
from labctl.kernel.rtnl import NETLINK_ROUTE
from labctl.kernel.sysctl import sysctl_path
from labctl.observe.access import Observable
from labctl.observe.drift import FALLBACK_DEVICES, Drift, NodeState, drift, planned_nodes
from labctl.observe.impairments import Sending, by_interface
from labctl.plan.operations import LinkEnd, MakeLink, Plan

SCHEMA = "labctl-inspect/1"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that labctl started on a node."""

    node: str
    name: str  # "" for one that ends with its client
    pid: int  # on its node
    argv: tuple[str, ...]
    state: str


@dataclass(frozen=True, slots=True)
class InspectedLink:
    """A link of the plan; `up` when both ends are there and have a carrier."""

    a: LinkEnd
    b: LinkEnd
    up: bool


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found. `found` has the nodes that the keeper has, `differs` what is otherwise than planned."""

    name: str
    plan: Plan
    found: Mapping[str, NodeState]
    links: tuple[InspectedLink, ...]
    programs: tuple[Program, ...]
    differs: tuple[Drift, ...]


def inspect(lab: Observable, name: str, plan: Plan, programs: Iterable[Program] = ()) -> Inspection:
    """Look at every node of the plan. KernelError when the kernel refuses to tell."""
    planned = planned_nodes(plan)
    found = {node.name: look(lab, node.name, planned[node.name].settings) for node in plan.nodes}
    ends = {(node, link.name): link.up and link.carrier for node, state in found.items() for link in state.links}
    links = tuple(
        InspectedLink(one.a, one.b, all(ends.get((end.node, end.ifname), False) for end in (one.a, one.b)))
        for one in plan.operations
        if isinstance(one, MakeLink)
    )
    return Inspection(name, plan, found, links, tuple(programs), drift(plan, found))


def look(lab: Observable, node: str, settings: Iterable[str] = ()) -> NodeState:
    """What the kernel has on a node; of its settings those named. KernelError."""
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        try:
            links, addresses, routes = readback.links(sock), readback.addresses(sock), readback.routes(sock)
            rules = routing.rules(sock)
            queues = qdisc.qdiscs(sock)
        except OSError as error:
            raise KernelError(f"node {node}", "list its interfaces", error.errno or 0) from error
    values = {key: value for key in settings if (value := _setting(lab, node, key)) is not None}
    sending = by_interface({link.index: link.name for link in links}, queues)
    return NodeState(links, addresses, routes, rules, values, sending)


def _setting(lab: Observable, node: str, key: str) -> str | None:
    """None for one that cannot be read: of an interface that is gone, or one that can only be written."""
    try:
        with open(lab.open_file(node, sysctl_path(key)), encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except (KernelError, OSError, ValueError):
        return None


def as_data(inspection: Inspection) -> dict[str, Any]:
    """What JSON and YAML are written of; see schemas/inspect.schema.json."""
    return {
        "schema": SCHEMA,
        "name": inspection.name,
        "topology": inspection.plan.topology,
        "nodes": [
            {
                "name": node.name,
                "kind": node.kind.value,
                "interfaces": _interfaces(inspection.found[node.name]),
                "routes": [_route(route) for route in inspection.found[node.name].routes],
                "rules": [
                    {
                        "family": f"ipv{rule.version}",
                        "priority": rule.priority,
                        "selector": rule.selector,
                        "action": rule.action,
                    }
                    for rule in inspection.found[node.name].rules
                ],
                "files": [
                    {"path": path, "kind": kind, "source": source or None} for path, kind, source in node.tree.listed()
                ],
                "processes": [
                    {"name": one.name, "pid": one.pid, "command": list(one.argv), "state": one.state}
                    for one in inspection.programs
                    if one.node == node.name
                ],
            }
            for node in inspection.plan.nodes
        ],
        "links": [
            {
                "ends": [{"node": end.node, "interface": end.ifname} for end in (link.a, link.b)],
                "up": link.up,
            }
            for link in inspection.links
        ],
        "differs": [
            {
                "node": one.node,
                "interface": one.interface or None,
                "kind": one.kind.value,
                "what": one.what,
                "planned": one.planned or None,
                "found": one.found or None,
                "text": str(one),
            }
            for one in inspection.differs
        ],
    }


def routes_of(state: NodeState) -> Iterator[tuple[str, str, str]]:
    """(destination, gateway, interface) of the routes that the kernel has not made of addresses; for people.

    A route with several next hops is one for each. `-` stands where there is nothing.
    """
    for route in state.routes:
        if route.protocol != routing.KERNEL:
            yield from _ways(route)


def extra_rules(state: NodeState) -> list[str]:
    """The policy rules that not every namespace has."""
    return [rule.text for rule in state.rules if rule not in routing.STANDARD_RULES]


def _ways(route: KernelRoute) -> Iterator[tuple[str, str, str]]:
    words = [str(route.destination), *([f"from {route.source}"] if route.source else [])]
    words += [f"table {routing.table_name(route.table)}"] * (route.table != routing.MAIN_TABLE)
    words += [f"metric {route.metric}"] * (route.metric not in (0, routing.usual_metric(route.destination)))
    if not route.hops:
        yield " ".join(words), route.kind, "-"
    for hop in route.hops:
        weight = f" weight {hop.weight}" if len(route.hops) > 1 else ""
        yield " ".join(words), f"{hop.gateway or '-'}{weight}", hop.ifname


def _route(route: KernelRoute) -> dict[str, Any]:
    """`gateway` and `interface` are those of a route with one next hop."""
    one = route.hops[0] if len(route.hops) == 1 else None
    return {
        "destination": str(route.destination),
        "kind": route.kind,
        "gateway": None if one is None or one.gateway is None else str(one.gateway),
        "interface": None if one is None else one.ifname,
        "next_hops": [
            {
                "gateway": None if hop.gateway is None else str(hop.gateway),
                "interface": hop.ifname,
                "weight": hop.weight,
            }
            for hop in route.hops
        ],
        "metric": route.metric,
        "table": routing.table_name(route.table),
        "text": str(route),
    }


def _interfaces(state: NodeState) -> list[dict[str, Any]]:
    """Without the kernel's own fallback devices, which are down in every namespace."""
    return [
        {
            "name": link.name,
            "mac": link.mac,
            "mtu_bytes": link.mtu,
            "up": link.up,
            "carrier": link.carrier,
            "addresses": [str(one.address) for one in state.addresses if one.ifname == link.name],
            "impairment": _impairment(state.sending.get(link.name)),
        }
        for link in state.links
        if link.up or link.name not in FALLBACK_DEVICES
    ]


def _impairment(sending: Sending | None) -> dict[str, Any] | None:
    if sending is None:
        return None
    found = sending.impairment
    return {
        "delay_us": found.delay_us,
        "jitter_us": found.jitter_us,
        "loss_ppm": found.loss_ppm,
        "rate_bit_s": found.rate_bit_s,
        "other": sending.foreign or None,
    }
