"""A topology as a containerlab file (https://containerlab.dev/manual/topo-def-file/).

Hosts and routers are nodes of the kind `linux`, whose `exec` makes addresses, routes and all else that `labctl plan
--format sh` shows. Switches are of the kind `bridge`, which must exist on the machine; comments have the commands, and
what a containerlab file cannot express.
"""

from __future__ import annotations

import shlex
from typing import Any

from labctl.formats.yaml_writer import write
from labctl.plan.build import build
from labctl.plan.operations import AddAddress, MakeBridge, MakeLink, MakeNode, Operation, Plan, SetImpairment, SetUp
from labctl.plan.render import described, node_commands
from labctl.topology.model import Interface, NodeKind, Topology

IMAGE = "ghcr.io/srl-labs/network-multitool"  # has ip, tc, sysctl, nft, ping, iperf3
_MADE_BY_CONTAINERLAB = (MakeNode, MakeBridge, MakeLink, SetUp)


def containerlab(topology: Topology) -> str:
    """Return the file as YAML."""
    plan = build(topology)
    switches = [node.name for node in topology.nodes if node.kind is NodeKind.SWITCH]
    nodes: dict[str, Any] = {}
    for node in topology.nodes:
        if node.kind is NodeKind.SWITCH:
            nodes[node.name] = {"kind": "bridge"}
            continue
        commands = [line for each in plan.operations for line in _exec(each, node.name)]
        nodes[node.name] = {"kind": "linux"} | ({"exec": commands} if commands else {})
        if node.environment:
            nodes[node.name]["env"] = dict(node.environment)
        if node.exposures:
            nodes[node.name]["ports"] = [f"{each.machine}:{each.port}/{each.transport}" for each in node.exposures]
    ports = _port_names(topology)
    links = [
        {
            "type": "veth",
            "mtu": _interface(topology, link.a.node, link.a.ifname).mtu,
            "endpoints": [
                {
                    "node": end.node,
                    "interface": ports.get((end.node, end.ifname), end.ifname),
                    "mac": _interface(topology, end.node, end.ifname).mac,
                }
                for end in (link.a, link.b)
            ],
        }
        for link in topology.links
    ]
    data = {
        "name": topology.name,
        "topology": {
            # containerlab keeps eth0 for its management network, unless there is none.
            "defaults": {"network-mode": "none"},
            "kinds": {"linux": {"image": IMAGE}},
            "nodes": nodes,
            "links": links,
        },
    }
    return write(data, _header(topology, plan, switches))


def _exec(operation: Operation, node: str) -> list[str]:
    if isinstance(operation, _MADE_BY_CONTAINERLAB) or getattr(operation, "node", "") != node:
        return []
    if isinstance(operation, AddAddress) and operation.address.ip.is_link_local:
        return []  # the kernel derives it from the MAC
    return node_commands(operation)


def _port_names(topology: Topology) -> dict[tuple[str, str], str]:
    """Return names for ports of switches that are unique on the machine, where containerlab's bridges are."""
    names: dict[tuple[str, str], str] = {}
    for node in topology.nodes:
        if node.kind is NodeKind.SWITCH:
            for number, interface in enumerate(node.interfaces, 1):
                names[node.name, interface.name] = f"{node.name[:10]}-{number}"
    return names


def _interface(topology: Topology, node: str, ifname: str) -> Interface:
    return topology.node(node).interface(ifname)


def _header(topology: Topology, plan: Plan, switches: list[str]) -> list[str]:
    lines = [f"The topology {topology.name} of labctl for containerlab: containerlab deploy -t FILE"]
    if switches:
        lines.append("containerlab uses bridges that exist. Before it:")
        lines += [f"  ip link add {name} type bridge && ip link set {name} up" for name in switches]
    cannot = [line for node in plan.nodes for line in described(node) if not line.startswith("expose ")]
    cannot += [
        f"service {node.name}/{service.name}: {shlex.join(service.argv)}"
        for node in plan.nodes
        for service in node.services
    ]
    of_switches = set(switches)
    cannot += [str(each) for each in plan.operations if isinstance(each, SetImpairment) and each.node in of_switches]
    if cannot:
        lines.append("A containerlab file cannot express, or its image lacks:")
        lines += [f"  {line}" for line in cannot]
    return lines
