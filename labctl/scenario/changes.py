"""What a scenario changes of a lab's network, so that a lab that stays can be given back as it was found."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl.topology.model import Endpoint

if TYPE_CHECKING:
    from labctl.lab.handle import Lab
    from labctl.observe.time_wait import Waiting
    from labctl.plan.operations import Operation
    from labctl.topology.model import Impairment


class Changes:
    """The links and packet filters that steps have touched, and connections left in TIME_WAIT. Thread-safe.

    For a lab that stays; `lab` None is one that ends with its scenario, of which nothing need be remembered. Before
    each change the keeper is told what undoes it all, which it does when this process is killed.
    """

    def __init__(self, lab: Lab | None = None, hosts: Sequence[str] = ()) -> None:
        self._lab = lab
        self._lock = threading.Lock()
        self._was_up: dict[Endpoint, bool] = {}
        self._impaired: dict[Endpoint, Impairment | None] = {}
        self._dropping: set[str] = set()
        self._waiting: dict[str, frozenset[Waiting]] = {}
        if lab is not None:
            from labctl.observe import time_wait

            self._waiting = {host: time_wait.waiting(lab, host) for host in hosts}

    def link(self, end: Endpoint) -> None:
        """This end is about to be set up or down."""
        if self._lab is None:
            return
        from labctl.observe import network

        with self._lock:
            if end not in self._was_up:
                links = network.links(self._lab, end.node)
                self._was_up[end] = any(link.up for link in links if link.name == end.ifname)
                self._tell(self._lab)

    def impair(self, end: Endpoint) -> None:
        """What this end sends is about to be impaired otherwise."""
        if self._lab is None:
            return
        from labctl.observe.impairments import Sending, sending

        with self._lock:
            if end not in self._impaired:
                self._impaired[end] = sending(self._lab, end.node).get(end.ifname, Sending()).impairment or None
                self._tell(self._lab)

    def drop(self, node: str) -> None:
        """Packets of this node are about to be dropped."""
        if self._lab is not None:
            with self._lock:
                if node not in self._dropping:
                    self._dropping.add(node)
                    self._tell(self._lab)

    def restore(self, lab: Lab) -> None:
        """Links as they were before the first change, nothing dropped, no new TIME_WAIT that keeps an address in use.

        `lab` is any handle of the lab; the scenario's programs have ended before.
        """
        from labctl.observe import time_wait

        for node in sorted(self._dropping):
            lab.undrop(node)
        operations = self._as_before(lab)
        if operations:
            lab.apply(operations)
        if lab is self._lab and (operations or self._dropping):
            lab.when_gone()
        for host, before in self._waiting.items():
            left = time_wait.waiting(lab, host) - before
            if left:
                time_wait.end(lab, host, left)

    def _tell(self, lab: Lab) -> None:
        lab.when_gone(self._as_before(lab), sorted(self._dropping))

    def _as_before(self, lab: Lab) -> list[Operation]:
        """What makes links what they were before the first change."""
        from labctl.plan.impairments import set_impairments
        from labctl.plan.operations import SetDown, SetUp

        operations: list[Operation] = [
            SetUp(end.node, end.ifname) if up else SetDown(end.node, end.ifname) for end, up in self._was_up.items()
        ]
        if self._impaired:
            plan = lab.describe().plan
            for end, impairment in self._impaired.items():
                operations += set_impairments(plan, [(end.node, end.ifname)], impairment)
        return operations
