"""Loopback addresses of a draft's nodes: further addresses of `lo`, which automatic routes reach.

One address may be on several nodes only where the file writes that (anycast).
"""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

from labctl.topology.draft import Choice, Draft, Family, Loopbacks, Mistakes, Place
from labctl.topology.model import AddressOnLink, NodeKind


def loopbacks_of(draft: Draft, mistakes: Mistakes) -> Loopbacks:
    """Return the loopback addresses that the file writes; report those that two nodes cannot share."""
    from labctl.topology.parse import parse_address

    of_nodes: dict[str, tuple[AddressOnLink, ...]] = {}
    places: dict[AddressOnLink, Place] = {}
    shared: dict[AddressOnLink, tuple[str, bool]] = {}  # the first node, and whether there may be others
    parsed: dict[Place, AddressOnLink | None] = {}  # nodes of a group share their keys
    for node in draft.nodes:
        if node.routing is None or node.place is None or node.kind is NodeKind.SWITCH:
            continue
        found: list[AddressOnLink] = []
        for model in node.routing.loopback:
            place = Place(node.place.document, model.at_path)
            if place not in parsed:
                family = Family.IPV6 if ":" in model.address else Family.IPV4
                wanted = parse_address(model.address, family, place, mistakes)
                if isinstance(wanted, IPv4Interface | IPv6Interface):
                    parsed[place] = wanted
                elif isinstance(wanted, Choice):
                    parsed[place] = None
                else:
                    on_link = IPv4Interface if wanted.version == 4 else IPv6Interface
                    parsed[place] = on_link((wanted, wanted.max_prefixlen))
            address = parsed[place]
            if address is None:
                continue
            anycast = model.anycast or draft.anycast
            first, may_repeat = shared.setdefault(address, (node.name, anycast))
            if first != node.name and not (anycast and may_repeat):
                if places[address] == place:  # a group
                    what = f"{address.ip} would be the address of several nodes, {first}, {node.name}, ..."
                    mistakes.add(place, what, "name the nodes one by one, or write `anycast: true`")
                    parsed[place] = None
                else:
                    hint = f"first at {places[address].describe()}; write `anycast: true` if several nodes have it"
                    mistakes.add(place, f"duplicate address {address.ip}", hint)
                continue
            if address in found:
                mistakes.add(place, f"duplicate address {address.ip}")
                continue
            places.setdefault(address, place)
            found.append(address)
        if found:
            of_nodes[node.name] = tuple(found)
    return Loopbacks(of_nodes, places)
