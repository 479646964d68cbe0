"""The steps that change the network: link, drop, undrop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labctl.scenario import links
from labctl.scenario.endpoints import parse_address
from labctl.scenario.state import NOTHING, Done, StepFailed, StepRun
from labctl.topology.model import Address, Topology

if TYPE_CHECKING:
    from labctl.plan.droprule import DropRule
    from labctl.scenario.files import DropBody, HostBody, LinkBody
    from labctl.topology.model import Impairment, Link


def link(at: StepRun, body: LinkBody) -> Done:
    """Take a link down, bring it up with all that it had, or change what happens to its packets."""
    from labctl.plan.operations import SetDown, SetUp

    topology = at.run.scenario.topology
    ends = body.ends
    there = links.between(topology, *ends)
    if len(there) < (body.which or 1):
        raise StepFailed(f"there are {len(there)} links between {' and '.join(ends)}")
    chosen = there[(body.which or 1) - 1]
    if body.set_ is not None or body.clear:
        return _impair(at, body, chosen)
    if body.down:
        end = links.end_to_cut(topology, chosen, ends[1])
        at.run.changes.link(end)
        at.lab.apply([SetDown(end.node, end.ifname)])
        return NOTHING
    both = (chosen.a, chosen.b)  # either may have been cut, by the order of the names
    for end in both:
        at.run.changes.link(end)
    at.lab.apply([SetUp(end.node, end.ifname) for end in both])
    return NOTHING


def _impair(at: StepRun, body: LinkBody, chosen: Link) -> Done:
    """The link's packets, or those that one end sends, are impaired so from now on, or no more."""
    from labctl.plan.impairments import set_impairments
    from labctl.topology.impairments import parse

    impairment: Impairment | None = None
    if body.set_ is not None:
        try:
            impairment = parse(body.set_.values)
        except ValueError as error:
            raise StepFailed(str(error)) from error
    if body.from_ is not None and body.from_ not in (chosen.a.node, chosen.b.node):
        raise StepFailed(f"{body.from_} is no end of the link {chosen}")
    ends = [end for end in (chosen.a, chosen.b) if body.from_ in (None, end.node)]
    for end in ends:
        at.run.changes.impair(end)
    at.lab.apply(set_impairments(at.run.plan, [(end.node, end.ifname) for end in ends], impairment, at.run.seed))
    return NOTHING


def drop(at: StepRun, body: DropBody) -> Done:
    """Drop some of a node's packets from now on."""
    try:
        rule = drop_rule(body, at.run.scenario.topology)
    except ValueError as error:
        raise StepFailed(str(error)) from error
    at.run.changes.drop(body.on)
    at.lab.drop(body.on, rule)
    return NOTHING


def undrop(at: StepRun, body: HostBody) -> Done:
    """Drop nothing more on the node."""
    at.lab.undrop(body.on)
    return NOTHING


def drop_rule(body: DropBody, topology: Topology) -> DropRule:
    """The rule that the step's body means; ValueError when it makes none."""
    from labctl.plan.droprule import DropRule, parse_flags

    return DropRule(
        direction=body.direction,
        protocol=body.protocol,
        port=body.port,
        sources=_addresses(body.from_, topology),
        destinations=_addresses(body.to, topology),
        flags=parse_flags(body.flags) if body.flags is not None else None,
    )


def _addresses(end: str | None, topology: Topology) -> tuple[Address, ...]:
    if end is None:
        return ()
    address = parse_address(end)
    if address is not None:
        if "%" in end:
            raise ValueError(f"`{end}`: a packet has no interface in its addresses; leave out `%` and what follows")
        return (address,)
    if end not in topology:
        raise ValueError(f"`{end}` is neither an address nor a host")
    return tuple(topology.node(end).addresses)
