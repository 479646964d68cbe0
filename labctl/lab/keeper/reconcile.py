"""Change a running lab to another plan, completely or not at all; rollback of clients that disconnect.

A transaction is more than one request of one client: services are stopped, the network is reconciled, services are
started and awaited. When the client disconnects before it has committed, the keeper rolls back what it did since it
began. Everything happens in the keeper's thread. A host that leaves the lab, or whose programs must see new files,
loses its init, and the kernel ends its programs with that.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from labctl.errors import LabctlError, LabError, kernel_errors
from labctl.lab.keeper.clients import Client, Timers
from labctl.lab.keeper.executor import Execution, RestoreNode, execute
from labctl.lab.keeper.node_init import Host, Init, hosts_file
from labctl.lab.keeper.nodes import NodeTable
from labctl.lab.keeper.process_table import ProcessTable
from labctl.lab.protocol import Done, Failed, Reconcile, SetRollback, StartProcess
from labctl.plan.hosts_files import HostsFiles, Line
from labctl.plan.operations import (
    Operation,
    RemoveAddress,
    RemovePart,
    ReplacePart,
    SetDown,
    SetImpairment,
    SetUp,
    changes_from_json,
)
from labctl.printable import visible
from labctl.structs import Struct, field, replace
from labctl.topology.model import HOSTS, Address

if TYPE_CHECKING:
    from labctl.plan.diff import Difference


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
            case RemovePart(part) | ReplacePart(part):
                return part.node in self._table
            case _:
                return True


def _try(act: Callable[[], None]) -> None:
    try:
        act()
    except (LabctlError, OSError) as error:
        write_errors([str(error)])


def write_errors(errors: list[str]) -> None:
    """Write errors that no client waits for to stderr."""
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

    `state` returns the lab's state as a request, `reconcile` changes the lab to it; `settle` is called when no earlier
    state is needed any more.
    """

    def __init__(
        self,
        processes: ProcessTable,
        timers: Timers,
        hosts: dict[str, Host],
        state: Callable[[], Reconcile],
        reconcile: Callable[[Reconcile], None],
        settle: Callable[[], None],
    ) -> None:
        self._processes = processes
        self._timers = timers
        self._hosts = hosts
        self._state = state
        self._reconcile = reconcile
        self._settle = settle
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
            self._roll_back(current, write_errors)

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

    @property
    def is_open(self) -> bool:
        """Whether a client has a transaction, so that the state before it may be needed."""
        return self._current is not None

    def _end_current(self) -> None:
        self._current = None
        _try(self._settle)
        self._begin_next()

    def _begin_next(self) -> None:
        if self._current is None and self._waiting:
            client, number = self._waiting.pop(0)
            self._current = Transaction(client, self._state())
            client.send(number, Done())


RESTART_TIMEOUT_S = 10.0  # SIGKILL takes milliseconds, unless a process hangs in the kernel


def reconcile(
    difference: Difference,
    table: NodeTable,
    hosts: MutableMapping[str, Host],
    end: Callable[[Host], None],
    rename: Callable[[], None],
    hosts_files: HostsFiles,
) -> None:
    """Apply the difference to the network and to `hosts`.

    Running programs keep their environment; /etc/hosts of hosts that run programs is rewritten in place.

    Args:
        difference: between the plan in force and the new one.
        table: the lab's nodes.
        hosts: the lab's hosts by name.
        end: ends the programs of a host; called when nothing can fail any more.
        rename: changes the nodes' names on the machine; called last of all that may fail.
        hosts_files: those of the new plan.

    Raises:
        KernelError: the kernel refused an operation; everything was rolled back.
    """
    with network_changed(difference, table), ExitStack() as rollback:
        for host in hosts.values() if difference.names else ():
            if host.init is None or host.name in difference.ended or host.node.tree.places(HOSTS):
                continue  # without programs: the first one starts with a new file
            before, after = host.hosts_files.lines(host.name), hosts_files.lines(host.name)
            if before != after:
                write_hosts_file(host, host.init, after)
                rollback.callback(write_hosts_file, host, host.init, before)
        rename()
        rollback.pop_all()
    for name in difference.ended:
        end(hosts.pop(name))
    _end_and_wait([hosts[name] for name in difference.restarted], end)
    for node in difference.nodes:
        if node.name in hosts:
            hosts[node.name].node = node
        else:
            hosts[node.name] = Host(node, hosts_files, table[node.name].fd)
    for host in hosts.values():
        host.hosts_files = hosts_files


def _end_and_wait(hosts: Collection[Host], end: Callable[[Host], None]) -> None:
    """End the hosts' programs and wait until their ports are free; the next program finds the new files."""
    inits = [os.dup(host.init.pidfd) for host in hosts if host.init is not None]
    try:
        for host in hosts:
            end(host)
        deadline = time.monotonic() + RESTART_TIMEOUT_S
        for init in inits:  # a process 1 has ended when all processes of its namespace have (pid_namespaces(7))
            poller = select.poll()  # descriptors may be too large for select(2)
            poller.register(init, select.POLLIN)
            poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        for init in inits:
            os.close(init)


@contextmanager
def network_changed(difference: Difference, table: NodeTable) -> Iterator[None]:
    """Apply the difference to the network; an exception, also one inside the `with`, rolls everything back.

    The namespaces of removed nodes are closed at the end of the `with`.
    """
    undo: list[Operation | RestoreNode] = []
    sysctls_before = {node: dict(table[node].sysctls_before) for node in table}
    removed = [one for one in difference.removals if isinstance(one, RemoveAddress)]
    moved = frozenset(one.address.ip for one in removed)
    # Interfaces that lose an IPv4 address: the kernel may remove more than that address.
    touched = list(dict.fromkeys((one.node, one.ifname) for one in removed if one.address.version == 4))
    try:
        _execute(difference.removals, table, undo)
        _execute(difference.additions, table, undo, moved, touched)
        yield
    except BaseException as error:
        errors = _roll_back(undo, table, moved, touched)
        for node, settings in sysctls_before.items():
            if node in table:
                table[node].sysctls_before = settings
        if errors:
            listed = "; ".join(str(one) for one in errors[:3])
            raise LabError(f"{error} The rollback also failed: {listed} Try `labctl inspect`.") from error
        raise
    table.close_retired()


def _execute(
    operations: Iterable[Operation],
    table: NodeTable,
    undo: list[Operation | RestoreNode],
    moved: Collection[Address] = (),
    touched: Iterable[tuple[str, str]] = (),
) -> None:
    """Execute the operations; `undo` grows by the inverse of what was done, also when this raises."""
    with ExitStack() as stack:
        execution = Execution(table, stack, running=True, moved=moved)
        try:
            for end in touched:
                execution.reassign_addresses(*end)
            for operation in operations:
                execution.add(operation)
            for end in touched:
                execution.reassign_routes(*end)
            execution.finish()
        except LabctlError:
            with suppress(LabctlError):  # the first refusal is the one to report
                execution.flush()
            raise
        finally:
            undo += execution.undo


def _roll_back(
    undo: list[Operation | RestoreNode],
    table: NodeTable,
    moved: Collection[Address],
    touched: Iterable[tuple[str, str]],
) -> list[LabctlError]:
    """Execute `undo` backwards to its end; returns the errors."""
    errors: list[LabctlError] = []
    with ExitStack() as stack:
        execution = Execution(table, stack, running=True, is_rollback=True, moved=moved)

        def attempt(act: Callable[[], None]) -> None:
            try:
                act()
            except LabctlError as error:
                errors.append(error)

        for inverse in reversed(undo):
            if isinstance(inverse, RestoreNode):
                attempt(execution.flush)
                table.restore(inverse.node)
            else:
                attempt(partial(execution.add, inverse))
        for end in touched:
            attempt(partial(execution.reassign_addresses, *end))
            attempt(partial(execution.reassign_routes, *end))
        attempt(execution.flush)
        attempt(execution.finish)
    return errors


def write_hosts_file(host: Host, init: Init, lines: Iterable[Line]) -> None:
    """Rewrite the /etc/hosts of a host that runs programs. KernelError."""
    write_own_file(host, init, HOSTS, hosts_file(lines))


def write_own_file(host: Host, init: Init, path: str, text: str) -> None:
    """Rewrite a file of a host that runs programs, in place: that very file is bound there. KernelError."""
    content = text.encode()
    hint = "Has a program mounted something else there?"
    with kernel_errors(host.subject, f"write its {path}", hint=hint):
        # O_NONBLOCK: a program of the host may have bound a FIFO there.
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(f"/proc/{init.pid}/root{path}", flags)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            os.write(file, content)
            os.ftruncate(file, len(content))
        finally:
            os.close(file)
