"""Changes of a running lab by one client at a time, and rollback actions of clients that disconnect.

A transaction is more than one request: services are stopped, the network is reconciled, services are started and
awaited. When the client disconnects before it has committed, the keeper rolls back what it did since it began.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from labctl.errors import LabctlError, LabError
from labctl.lab.keeper.clients import Client, Timers
from labctl.lab.keeper.executor import execute
from labctl.lab.keeper.node_init import Host
from labctl.lab.keeper.nodes import NodeTable
from labctl.lab.keeper.process_table import ProcessTable
from labctl.lab.protocol import Done, Failed, Reconcile, SetRollback, StartProcess
from labctl.plan.operations import Operation, SetDown, SetImpairment, SetUp, changes_from_json
from labctl.printable import visible
from labctl.structs import Struct, field, replace

ATTEMPTS, PAUSE_S = 25, 0.2  # at a rollback

Key = tuple[str, str]  # node, name of a detached program


class RollbackActions:
    """By client: operations to execute, and nodes whose drop rules to remove, when it disconnects."""

    def __init__(self, table: NodeTable, undrop: Callable[[str], None]) -> None:
        self._table = table
        self._undrop = undrop
        self._actions: dict[Client, tuple[tuple[Operation, ...], tuple[str, ...]]] = {}

    def set(self, client: Client, request: SetRollback) -> None:
        """Replace the client's actions."""
        self._actions[client] = changes_from_json(request.operations), request.undrop

    def on_disconnect(self, client: Client) -> None:
        """Execute the client's actions on nodes and interfaces that still exist; writes errors to stderr."""
        operations, undrop = self._actions.pop(client, ((), ()))
        for node in undrop:
            if node in self._table:
                _try(partial(self._undrop, node))
        existing = [one for one in operations if self._exists(one)]
        if existing:
            _try(partial(execute, existing, self._table))

    def _exists(self, operation: Operation) -> bool:
        match operation:
            case SetUp(node, ifname) | SetDown(node, ifname) | SetImpairment(node, ifname):
                return self._table.interface(node, ifname) is not None
            case _:
                return True


def _try(act: Callable[[], None]) -> None:
    try:
        act()
    except (LabctlError, OSError) as error:
        _write_errors([str(error)])


def _write_errors(errors: list[str]) -> None:
    sys.stderr.writelines(f"{visible(error)}\n" for error in errors)


class Transaction(Struct):
    """The client that changes the lab, the state before, and what it has done since."""

    client: Client
    before: Reconcile
    started: set[Key] = field(default_factory=set)
    stopped: dict[Key, StartProcess] = field(default_factory=dict)  # in this order
    is_rolling_back: bool = False
    is_restoring: bool = False  # the programs that it started have ended


class Transactions:
    """The current transaction and the clients that wait for theirs.

    `state` returns the lab's state as a request, `reconcile` changes the lab to it.
    """

    def __init__(
        self,
        processes: ProcessTable,
        timers: Timers,
        hosts: dict[str, Host],
        state: Callable[[], Reconcile],
        reconcile: Callable[[Reconcile], None],
    ) -> None:
        self._processes = processes
        self._timers = timers
        self._hosts = hosts
        self._state = state
        self._reconcile = reconcile
        self._current: Transaction | None = None
        self._waiting: list[tuple[Client, int]] = []

    def begin(self, client: Client, number: int) -> None:
        """Begin the client's transaction after those before it; then answer request `number`."""
        self._waiting.append((client, number))
        self._begin_next()

    def end(self, client: Client, number: int, *, commit: bool) -> None:
        """Commit or roll back, then answer request `number`. LabError when the client has no transaction."""
        current = self._current
        if current is None or current.client is not client or current.is_rolling_back:
            raise LabError("lab: cannot end a change that this client has not begun.")

        def answer(errors: list[str]) -> None:
            client.send(number, Failed.of(LabError(" ".join(errors))) if errors else Done())

        if commit:
            answer([])
            self._end_current()
        else:
            self._roll_back(current, answer)

    def on_disconnect(self, client: Client) -> None:
        """Roll back the client's transaction."""
        self._waiting = [waiting for waiting in self._waiting if waiting[0] is not client]
        current = self._current
        if current is not None and current.client is client and not current.is_rolling_back:
            self._roll_back(current, _write_errors)

    def check(self, client: Client) -> None:
        """LabError when another client has a transaction."""
        if self._current is not None and self._current.client is not client:
            raise LabError("lab: cannot change it: another labctl is changing it. Try again when that has ended.")

    def has_started(self, client: Client, key: Key) -> None:
        """Record that the client has started a detached program."""
        if self._current is not None and self._current.client is client:
            self._current.started.add(key)

    def will_stop(self, client: Client, key: Key) -> None:
        """Record that the client is about to stop a detached program."""
        if self._current is not None and self._current.client is client:
            self._record_stop(self._current, key)

    def will_leave(self, node: str) -> None:
        """Record that a node is about to leave the lab with its programs."""
        if self._current is not None and not self._current.is_rolling_back:
            for key in self._processes.running_on(node):
                self._record_stop(self._current, key)

    def _record_stop(self, transaction: Transaction, key: Key) -> None:
        request = self._processes.request_of(key)
        if request is not None and key not in transaction.started:
            transaction.stopped.setdefault(key, replace(request, name=key[1]))

    def _roll_back(self, transaction: Transaction, report: Callable[[list[str]], None]) -> None:
        """Stop the programs that it started, wait for those that are stopping, and then restore the state before."""
        transaction.is_rolling_back = True
        keys = transaction.started | transaction.stopped.keys()
        running = set(keys)

        def on_end(key: Key) -> None:
            running.discard(key)
            if not running:
                self._restore(transaction, report, ATTEMPTS)

        for key in keys:
            if not self._processes.end(key, lambda _, key=key: on_end(key)):  # type: ignore[misc]
                running.discard(key)
        if not running and not transaction.is_restoring:
            self._restore(transaction, report, ATTEMPTS)

    def _restore(self, transaction: Transaction, report: Callable[[list[str]], None], attempts: int) -> None:
        """Restore the network and the programs; retry what fails (a host whose init has just been killed)."""
        transaction.is_restoring = True
        errors: list[str] = []
        try:
            if self._state() != transaction.before:
                self._reconcile(transaction.before)
        except (LabctlError, OSError) as error:
            errors.append(str(error))
        for key, request in reversed(tuple(transaction.stopped.items())):
            try:
                self._processes.start(self._hosts[key[0]], request)
                del transaction.stopped[key]
            except (LabctlError, OSError, KeyError) as error:
                errors.append(f"{'/'.join(key)}: {error}")
        if errors and attempts > 1:
            self._timers.after(PAUSE_S, partial(self._restore, transaction, report, attempts - 1))
            return
        report(errors)
        self._end_current()

    def _end_current(self) -> None:
        self._current = None
        self._begin_next()

    def _begin_next(self) -> None:
        if self._current is None and self._waiting:
            client, number = self._waiting.pop(0)
            self._current = Transaction(client, self._state())
            client.send(number, Done())
