"""What clients want done when they go: the keeper's part in giving a lab back as it was found."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from labctl.errors import LabctlError
from labctl.lab.executor import execute
from labctl.lab.front import Client
from labctl.lab.nodes import NodeTable
from labctl.lab.protocol import WhenGone
from labctl.plan.codec import changes_from_json
from labctl.plan.operations import Operation, SetDown, SetImpairment, SetUp
from labctl.printable import visible


class Wishes:
    """By client, what is to be done when it is gone, however it went. `undrop` drops nothing more on a node."""

    def __init__(self, table: NodeTable, undrop: Callable[[str], None]) -> None:
        self._table = table
        self._undrop = undrop
        self._wishes: dict[Client, tuple[tuple[Operation, ...], tuple[str, ...]]] = {}

    def note(self, client: Client, wish: WhenGone) -> None:
        """From here on this is what the client wants, instead of what it has wanted before."""
        self._wishes[client] = changes_from_json(wish.operations), wish.undrop

    def gone(self, client: Client) -> None:
        """Do what the client wanted, as far as there still are the nodes and interfaces; problems go to stderr."""
        wish = self._wishes.pop(client, None)
        if wish is None:
            return
        operations, undrop = wish
        for node in undrop:
            if node in self._table:
                self._try(partial(self._undrop, node))
        there = [one for one in operations if self._is_there(one)]
        self._try(partial(execute, there, self._table))

    def _is_there(self, operation: Operation) -> bool:
        match operation:
            case SetUp(node, ifname) | SetDown(node, ifname) | SetImpairment(node, ifname):
                return self._table.has_interface(node, ifname)
            case _:
                return True

    @staticmethod
    def _try(act: Callable[[], None]) -> None:
        try:
            act()
        except (LabctlError, OSError) as error:
            sys.stderr.write(f"{visible(str(error))}\n")
