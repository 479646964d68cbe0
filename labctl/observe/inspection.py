"""A running lab as the kernel has it now: nodes, interfaces, addresses, routes, links; and where that differs from
its plan."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from labctl.errors import KernelError
from labctl.kernel import qdisc, readback
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
            queues = qdisc.qdiscs(sock)
        except OSError as error:
            raise KernelError(f"node {node}", "list its interfaces", error.errno or 0) from error
    values = {key: value for key in settings if (value := _setting(lab, node, key)) is not None}
    return NodeState(links, addresses, routes, values, by_interface({link.index: link.name for link in links}, queues))


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
                "routes": [
                    {
                        "destination": str(route.destination),
                        "gateway": None if route.gateway is None else str(route.gateway),
                        "interface": route.ifname,
                        "metric": route.metric,
                    }
                    for route in inspection.found[node.name].routes
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
