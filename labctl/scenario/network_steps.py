"""The steps that change the network: link, drop, undrop; and how to restore the network of a lab that stays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from labctl.errors import InputError
from labctl.scenario.file_schema import DropBody, FirewallBody, LinkBody, NatBody, UndropBody
from labctl.scenario.state import NOTHING, Done, StepFailed, StepRun
from labctl.structs import replace
from labctl.topology.endpoints import parse_address
from labctl.topology.model import Address, Endpoint, Link, Node, Topology, is_end, links_between

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.network import TimeWaitId
    from labctl.plan.drop_rules import DropRule
    from labctl.plan.operations import MakeTable, Operation, Plan
    from labctl.topology.model import Impairment


class Changes:
    """The state, before the scenario, of the links and packet filters that its steps change. Thread-safe.

    This is for a lab that stays; `lab` is None for a lab that ends with its scenario. Before each change the keeper
    receives the operations that undo all changes: it runs them if this process is killed.
    """

    def __init__(self, lab: Lab | None = None, hosts: Sequence[str] = ()) -> None:
        self._lab = lab
        self._lock = threading.Lock()
        self.of_links = threading.Lock()  # held between reading the values of a link and changing them
        self._was_up: dict[Endpoint, bool] = {}
        self._impaired: dict[Endpoint, Impairment | None] = {}
        self._dropping: set[str] = set()
        self._nodes: dict[str, Node] = {}  # with the translation and firewall that they have now
        self._tables: dict[str, list[MakeTable]] = {}  # of these, by node
        self._waiting: dict[str, frozenset[TimeWaitId]] = {}
        self._faults: set[int] = set()  # that steps injected, by number
        if lab is not None:
            from labctl.observe import network

            self._waiting = {host: network.time_wait_connections(lab, host) for host in hosts}

    def link(self, end: Endpoint) -> None:
        """Record this end before it is set up or down."""
        if self._lab is None:
            return
        from labctl.observe import network

        with self._lock:
            if end not in self._was_up:
                links = network.links(self._lab, end.node)
                self._was_up[end] = any(link.up for link in links if link.name == end.ifname)
                self._set_rollback(self._lab)

    def impair(self, end: Endpoint) -> None:
        """Record this end before its impairment changes."""
        if self._lab is None:
            return
        with self._lock:
            if end not in self._impaired:
                self._impaired[end] = self._lab.impaired([end.node]).get((end.node, end.ifname))
                self._set_rollback(self._lab)

    def fault(self, number: int) -> None:
        """Record a fault that has been injected; the keeper heals it if this process is killed."""
        if self._lab is not None:
            with self._lock:
                self._faults.add(number)

    def drop(self, node: str) -> None:
        """Record this node before it drops packets."""
        if self._lab is not None:
            with self._lock:
                if node not in self._dropping:
                    self._dropping.add(node)
                    self._set_rollback(self._lab)

    def table(self, lab: Lab, plan: Plan, topology: Topology, changed: Callable[[Topology], Node]) -> None:
        """Give a node another translation or firewall: `changed` returns it; what earlier steps gave nodes stays.

        Raises: InputError, as `changed` does.
        """
        from labctl.plan.build import tables
        from labctl.scenario.table_changes import planned_tables, table_changes

        with self._lock:
            nodes = tuple(self._nodes.get(node.name, node) for node in topology.nodes)
            present = replace(topology, nodes=nodes) if self._nodes else topology
            node = changed(present)
            before = self._tables.get(node.name)
            after = tables(node, present)
            operations = table_changes(planned_tables(plan, node.name) if before is None else before, after)
            self._nodes[node.name] = node
            self._tables[node.name] = after
            if self._lab is not None:
                self._set_rollback(self._lab)
            lab.apply(operations)

    def restore(self, lab: Lab) -> None:
        """Restore the links, drop no more packets, end new TIME_WAIT connections, which keep addresses in use.

        `lab` is any handle of the lab; the programs of the scenario must have ended.
        """
        from labctl.observe import network

        if self._faults:
            lab.heal(self._faults)
        for node in sorted(self._dropping):
            lab.undrop(node)
        operations = self._as_before(lab)
        if operations:
            lab.apply(operations)
        if lab is self._lab and (operations or self._dropping):
            lab.when_gone()
        for host, before in self._waiting.items():
            left = network.time_wait_connections(lab, host) - before
            if left:
                network.end_time_wait(lab, host, left)

    def _set_rollback(self, lab: Lab) -> None:
        lab.when_gone(self._as_before(lab), sorted(self._dropping))

    def _as_before(self, lab: Lab) -> list[Operation]:
        """Return the operations that restore the links."""
        from labctl.plan.build import set_impairments
        from labctl.plan.operations import SetDown, SetUp

        operations: list[Operation] = [
            SetUp(end.node, end.ifname) if up else SetDown(end.node, end.ifname) for end, up in self._was_up.items()
        ]
        if self._impaired or self._tables:
            from labctl.scenario.table_changes import planned_tables, table_changes

            plan = lab.describe().plan
            for node, present in self._tables.items():
                operations += table_changes(present, planned_tables(plan, node))
            for end, impairment in self._impaired.items():
                operations += set_impairments(plan, [(end.node, end.ifname)], impairment)
        return operations


def execute(at: StepRun, body: LinkBody | DropBody | UndropBody | NatBody | FirewallBody) -> Done:
    """Run a step that changes the network."""
    match body:
        case LinkBody():
            _link(at, body)
        case DropBody():
            _drop(at, body)
        case UndropBody():
            at.lab.undrop(body.on)
        case NatBody() | FirewallBody():
            _change_table(at, body)
    return NOTHING


def _change_table(at: StepRun, body: NatBody | FirewallBody) -> None:
    """Give a node another translation or firewall; what earlier steps gave it stays."""
    try:
        at.run.changes.table(at.lab, at.run.plan, at.run.scenario.topology, partial(node_with, body))
    except InputError as error:
        raise StepFailed(str(error)) from error


def node_with(body: NatBody | FirewallBody, topology: Topology) -> Node:
    """Return the step's node with the translation or the firewall of the step. InputError."""
    from labctl.scenario.table_changes import with_firewall, with_nat

    if isinstance(body, NatBody):
        return with_nat(topology, body.on, body.model(), body.forward)
    return with_firewall(topology, body.on, body.model())


def _link(at: StepRun, body: LinkBody) -> None:
    """Take a link down, bring it up with its addresses and routes, or change its impairment."""
    from labctl.plan.operations import SetDown, SetUp

    topology = at.run.scenario.topology
    ends = body.ends
    there = links_between(topology.links, *ends)
    is_pair = not there and (body.set_ is not None or bool(body.clear))
    if is_pair:
        there = topology.neighbours(*ends)
    if len(there) < (body.which or 1):
        raise StepFailed(f"there are {len(there)} links between {' and '.join(ends)}")
    chosen = there[(body.which or 1) - 1]
    if body.set_ is not None or body.clear:
        _impair(at, body, chosen, is_pair=is_pair)
        return
    if body.down:
        end = topology.end_to_take_down(chosen, ends[1])
        at.run.changes.link(end)
        at.lab.apply([SetDown(end.node, end.ifname)])
        return
    both = (chosen.a, chosen.b)  # either may be down: that depends on the order of the names
    for end in both:
        at.run.changes.link(end)
    at.lab.apply([SetUp(end.node, end.ifname) for end in both])


def _impair(at: StepRun, body: LinkBody, chosen: Link, *, is_pair: bool) -> None:
    """Set or clear the impairment of the link, or of the packets that one end sends; `is_pair` as of `sendings`."""
    from labctl.plan.impairment_changes import change_impairments, clear_impairments, sendings
    from labctl.topology.impairments import read_changes

    near, far = (chosen.a, chosen.b) if is_end(chosen.a, body.ends[0]) else (chosen.b, chosen.a)
    sent = sendings(near, far, body.from_, is_pair=is_pair)
    if not sent:
        raise StepFailed(f"{body.from_} is not an end of the link {chosen}")
    for sending in sent:
        at.run.changes.impair(Endpoint(*sending.end))
    with at.run.changes.of_links:
        if body.set_ is None:
            at.lab.apply(clear_impairments(at.lab, at.run.plan, sent))
            return
        try:
            values = read_changes(body.set_.values)
            if values.get("profile"):
                from labctl.topology.profiles import in_directory

                values = in_directory(values, at.run.scenario.directory)
            at.lab.apply(change_impairments(at.lab, at.run.plan, sent, values, at.run.seed))
        except ValueError as error:
            raise StepFailed(str(error)) from error


def _drop(at: StepRun, body: DropBody) -> None:
    """Drop some packets of a node from now on."""
    try:
        rule = drop_rule(body, at.run.scenario.topology)
    except ValueError as error:
        raise StepFailed(str(error)) from error
    at.run.changes.drop(body.on)
    at.lab.drop(body.on, rule)


def drop_rule(body: DropBody, topology: Topology) -> DropRule:
    """Return the rule of the step.

    Raises: ValueError if its values do not fit.
    """
    from labctl.plan.drop_rules import DropRule, parse_flags

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
            raise ValueError(f"`{end}`: the addresses of a packet have no interface; leave out `%` and what follows")
        return (address,)
    if end not in topology:
        raise ValueError(f"`{end}` is neither an address nor a host")
    return tuple(topology.node(end).addresses)
