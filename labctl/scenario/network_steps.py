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


def link(at: StepRun, body: LinkBody) -> Done:
    """Take a link down, or bring it up with all that the kernel has forgotten."""
    from labctl.plan.operations import SetDown

    topology = at.run.scenario.topology
    ends = body.down or body.up or []
    there = links.between(topology, *ends)
    if len(there) < (body.which or 1):
        raise StepFailed(f"there are {len(there)} links between {' and '.join(ends)}")
    end = links.end_to_cut(topology, there[(body.which or 1) - 1], ends[1])
    at.run.changes.link(end)
    if body.down:
        at.lab.apply([SetDown(end.node, end.ifname)])
    else:
        at.lab.apply(links.to_bring_up(at.run.plan.operations, end))
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
        return (address,)
    if end not in topology:
        raise ValueError(f"`{end}` is neither an address nor a host")
    return tuple(topology.node(end).addresses)
