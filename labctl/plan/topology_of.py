"""The way back from a plan: the topology that it makes, for readers that only have a running lab's plan."""

from __future__ import annotations

from labctl.plan.operations import AddAddress, AddRoute, LinkEnd, MakeLink, Plan, SetImpairment, SetSysctl
from labctl.topology.model import AddressOnLink, Endpoint, Impairment, Interface, Link, Node, Route, Topology


def topology_of(plan: Plan) -> Topology:
    """Nodes, interfaces, addresses, routes and links, in the plan's order; names of networks are not in a plan."""
    addresses: dict[tuple[str, str], list[AddressOnLink]] = {}
    routes: dict[str, list[Route]] = {}
    sysctls: dict[str, list[tuple[str, str]]] = {}
    ends: dict[str, list[LinkEnd]] = {}
    links: list[Link] = []
    impairments: dict[tuple[str, str], Impairment | None] = {}
    for operation in plan.operations:
        match operation:
            case MakeLink(a, b):
                links.append(Link(Endpoint(a.node, a.ifname), Endpoint(b.node, b.ifname)))
                for end in (a, b):
                    ends.setdefault(end.node, []).append(end)
            case AddAddress(node, ifname, address) if not address.ip.is_link_local:
                addresses.setdefault((node, ifname), []).append(address)
            case AddRoute(node, destination, gateway, ifname):
                routes.setdefault(node, []).append(Route(destination, gateway, ifname))
            case SetImpairment(node, ifname, impairment):
                impairments[node, ifname] = impairment
            case SetSysctl(node, key, value):
                sysctls.setdefault(node, []).append((key, value))
            case _:
                pass  # what it makes is told by the plan's nodes
    nodes = [
        Node(
            name=planned.name,
            kind=planned.kind,
            interfaces=tuple(
                Interface(
                    end.ifname,
                    end.mac,
                    end.mtu,
                    tuple(addresses.get((end.node, end.ifname), ())),
                    impairment=impairments.get((end.node, end.ifname)),
                )
                for end in ends.get(planned.name, ())
            ),
            routes=tuple(routes.get(planned.name, ())),
            sysctls=tuple(sysctls.get(planned.name, ())),
            environment=planned.environment,
            nat=planned.nat,
            exposures=planned.exposures,
            limits=planned.limits,
            tree=planned.tree,
            automatic_routes=planned.automatic_routes,
            services=planned.services,
        )
        for planned in plan.nodes
    ]
    return Topology(plan.topology, tuple(nodes), tuple(links), source=plan.topology)
