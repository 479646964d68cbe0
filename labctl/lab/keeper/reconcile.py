"""Changes a running lab to what another plan describes: carried out whole, or undone whole.

For the keeper, in whose thread all of this happens. What it has to do around `reconciling`:

- `difference(plan in force, new plan)` gives the difference; when that is false there is nothing to do, but the new
  plan is the one in force all the same.
- Inside the `with`, the network is the new plan's. What is raised there (a service that cannot be started) undoes it.
- After the `with`: `Host`s for the nodes that are new (`difference.nodes`), the new `Node` of the others; the
  init of the nodes in `difference.ended` is killed, which ends their programs. `reconcile` does all that.

What clients want done when they go: the keeper's part in giving a lab back as it was found.

The keeper's book of a change: one client at a time changes a lab, whole or not at all, whatever becomes of it.

A change is more than one request: services are stopped, the network is reconciled, services are started and waited for.
What the client does meanwhile is noted; when it goes before it has said that all is done, the lab is put back here.
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

from labctl.errors import KernelError, LabctlError, LabError
from labctl.lab.keeper.clients import Client, Timers
from labctl.lab.keeper.executor import Execution, RestoreNode, execute
from labctl.lab.keeper.node_init import LOCAL_NAMES, Host
from labctl.lab.keeper.nodes import NodeTable
from labctl.lab.keeper.process_table import Roster
from labctl.lab.protocol import Done, Failed, Reconcile, StartProcess, WhenGone
from labctl.plan.diff import Difference
from labctl.plan.operations import (
    Operation,
    RemoveAddress,
    SetDown,
    SetImpairment,
    SetUp,
    changes_from_json,
)
from labctl.printable import visible
from labctl.structs import Struct, field, replace
from labctl.topology.model import HOSTS, Address, Node


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
                return self._table.interface(node, ifname) is not None
            case _:
                return True

    @staticmethod
    def _try(act: Callable[[], None]) -> None:
        try:
            act()
        except (LabctlError, OSError) as error:
            sys.stderr.write(f"{visible(str(error))}\n")


ATTEMPTS, PAUSE_S = 25, 0.2  # at putting back what there was

Key = tuple[str, str]  # node, name of a detached process
Told = Callable[[list[str]], None]  # hears what could not be put back


class Change(Struct):
    """What a client has done since it began, and what there was before."""

    client: Client
    before: Reconcile
    started: set[Key] = field(default_factory=set)
    stopped: dict[Key, StartProcess] = field(default_factory=dict)  # in the order in which they were
    is_being_undone: bool = False
    is_put_back: bool = False  # or is being so: what was started has ended


class Changes:
    """Who changes the lab, and who waits to. `state` is what the lab is, `reconcile` makes it another."""

    def __init__(
        self,
        roster: Roster,
        timers: Timers,
        hosts: dict[str, Host],
        state: Callable[[], Reconcile],
        reconcile: Callable[[Reconcile], None],
    ) -> None:
        self._roster = roster
        self._timers = timers
        self._hosts = hosts
        self._state = state
        self._reconcile = reconcile
        self._change: Change | None = None
        self._waiting: list[tuple[Client, int]] = []

    def begin(self, client: Client, number: int) -> None:
        """From here on the change is this client's, which hears of it when those before it have ended theirs."""
        self._waiting.append((client, number))
        self._next()

    def end(self, client: Client, number: int, *, keep: bool) -> None:
        """The client has done all, or wants back what there was; it hears when that is so. LabError: it began none."""
        change = self._change
        if change is None or change.client is not client or change.is_being_undone:
            raise LabError("lab: the end of a change that this client has not begun.")
        if keep:
            client.send(number, Done())
            self._forget()
        else:
            self._undo(change, lambda problems: client.send(number, _answer(problems)))

    def gone(self, client: Client) -> None:
        """A client has gone: a change that it has not ended is undone."""
        self._waiting = [each for each in self._waiting if each[0] is not client]
        change = self._change
        if change is not None and change.client is client and not change.is_being_undone:
            self._undo(change, lambda problems: sys.stderr.writelines(f"{visible(problem)}\n" for problem in problems))

    def check(self, client: Client) -> None:
        """LabError when another client is changing the lab."""
        if self._change is not None and self._change.client is not client:
            raise LabError("lab: another labctl is changing it. Try again when that has ended.")

    def has_started(self, client: Client, key: Key) -> None:
        """Note that the client has started a detached process."""
        if self._change is not None and self._change.client is client:
            self._change.started.add(key)

    def will_stop(self, client: Client, key: Key) -> None:
        """Note that the client is going to stop a detached process."""
        if self._change is not None and self._change.client is client:
            self._note_stop(self._change, key)

    def will_leave(self, node: str) -> None:
        """Note that a node leaves the lab, and its processes with it."""
        if self._change is not None and not self._change.is_being_undone:
            for key in self._roster.running_on(node):
                self._note_stop(self._change, key)

    def _note_stop(self, change: Change, key: Key) -> None:
        request = self._roster.request_of(key)
        if request is not None and key not in change.started:
            change.stopped.setdefault(key, replace(request, name=key[1]))

    def _undo(self, change: Change, told: Told) -> None:
        """End what was started, wait for what is ending, and then put back what there was."""
        change.is_being_undone = True
        keys = change.started | change.stopped.keys()
        left = set(keys)

        def ended(key: Key) -> None:
            left.discard(key)
            if not left:
                self._put_back(change, told, ATTEMPTS)

        for key in keys:
            if not self._roster.end(key, lambda _, key=key: ended(key)):  # type: ignore[misc]
                left.discard(key)
        if not left and not change.is_put_back:
            self._put_back(change, told, ATTEMPTS)

    def _put_back(self, change: Change, told: Told, attempts: int) -> None:
        """Put back what is not yet; what is refused (a host whose init has just been killed) is tried again."""
        change.is_put_back = True
        problems: list[str] = []
        try:
            if self._state() != change.before:
                self._reconcile(change.before)
        except (LabctlError, OSError) as error:
            problems.append(str(error))
        for key, request in reversed(tuple(change.stopped.items())):
            try:
                self._roster.start(self._hosts[key[0]], request)
                del change.stopped[key]
            except (LabctlError, OSError, KeyError) as error:
                problems.append(f"{'/'.join(key)}: {error}")
        if problems and attempts > 1:
            self._timers.after(PAUSE_S, lambda: self._put_back(change, told, attempts - 1))
            return
        told(problems)
        self._forget()

    def _forget(self) -> None:
        self._change = None
        self._next()

    def _next(self) -> None:
        if self._change is None and self._waiting:
            client, number = self._waiting.pop(0)
            self._change = Change(client, self._state())
            client.send(number, Done())


def _answer(problems: list[str]) -> Done | Failed:
    return Failed.of(LabError(" ".join(problems))) if problems else Done()


RESTART_S = 2.0  # for what SIGKILL takes milliseconds, unless a process hangs in the kernel
HOSTS_FILE = "etc/hosts"


def reconcile(
    difference: Difference,
    table: NodeTable,
    hosts: MutableMapping[str, Host],
    end: Callable[[Host], None],
    rename: Callable[[], None],
) -> None:
    """Carry out the difference and bring `hosts` up to date; `end` is to end a host's programs, once all is done.

    `rename` is to do what is left, last of all that may fail: the names of the nodes on the machine.
    Running programs keep their environment; /etc/hosts of hosts that run programs is rewritten in place. Raises
    KernelError for what the kernel refused, after everything has been undone.
    """
    with reconciling(difference, table), ExitStack() as renamed:
        for node in difference.nodes:
            host = hosts.get(node.name)
            if host is not None and node.name not in difference.ended and _is_renamed(host, node):
                _write_names(host, node.names)
                renamed.callback(_write_names, host, host.node.names)
        rename()
        renamed.pop_all()
    for name in difference.ended:
        end(hosts.pop(name))
    _restart([hosts[name] for name in difference.restarted], end)
    for node in difference.nodes:
        if node.name in hosts:
            hosts[node.name].node = node
        else:
            hosts[node.name] = Host(node, table[node.name].fd)


def _restart(hosts: Collection[Host], end: Callable[[Host], None]) -> None:
    """End the hosts' programs, and wait until they have let go of their ports; the next one finds the new files."""
    inits = [os.dup(host.init.pidfd) for host in hosts if host.init is not None]
    try:
        for host in hosts:
            end(host)
        deadline = time.monotonic() + RESTART_S
        for init in inits:  # a process 1 has ended when all processes of its namespace have (pid_namespaces(7))
            waiting = select.poll()  # descriptors may be too large for select(2)
            waiting.register(init, select.POLLIN)
            waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        for init in inits:
            os.close(init)


@contextmanager
def reconciling(difference: Difference, table: NodeTable) -> Iterator[None]:
    """Inside the `with`, the network is as the new plan has it; what is raised there, or by the kernel, undoes it all.

    The namespaces of removed nodes are let go of at the end of the `with`.
    """
    undo: list[Operation | RestoreNode] = []
    originals = {node: dict(table[node].sysctls_before) for node in table}
    removed = [one for one in difference.removals if isinstance(one, RemoveAddress)]
    moved = frozenset(one.address.ip for one in removed)
    # Interfaces that lose an IPv4 address: the kernel may take more than that address.
    touched = list(dict.fromkeys((one.node, one.ifname) for one in removed if one.address.version == 4))
    try:
        _carry_out(difference.removals, table, undo)
        _carry_out(difference.additions, table, undo, moved, touched)
        yield
    except BaseException as error:
        problems = _undone(undo, table, moved, touched)
        for node, settings in originals.items():
            table[node].sysctls_before = settings
        if problems:
            told = "; ".join(str(problem) for problem in problems[:3])
            raise LabError(
                f"{error} And it could not all be undone: {told} What the lab is now: labctl inspect."
            ) from error
        raise
    table.close_retired()


def _carry_out(
    operations: Iterable[Operation],
    table: NodeTable,
    undo: list[Operation | RestoreNode],
    moved: Collection[Address] = (),
    touched: Iterable[tuple[str, str]] = (),
) -> None:
    """Carry out; `undo` grows by what undoes that which was done, also when this raises."""
    with ExitStack() as stack:
        execution = Execution(table, stack, running=True, moved=moved)
        try:
            for at in touched:
                execution.reassign_addresses(*at)
            for operation in operations:
                execution.add(operation)
            for at in touched:
                execution.reassign_routes(*at)
            execution.finish()
        except LabctlError:
            # What was queued is either done or known to have been refused then; the first refusal is the one to tell.
            with suppress(LabctlError):
                execution.flush()
            raise
        finally:
            undo += execution.undo


def _undone(
    undo: list[Operation | RestoreNode],
    table: NodeTable,
    moved: Collection[Address],
    touched: Iterable[tuple[str, str]],
) -> list[LabctlError]:
    """Carry out `undo` backwards, whatever is refused on the way; returns that."""
    problems: list[LabctlError] = []
    with ExitStack() as stack:
        execution = Execution(table, stack, running=True, is_rollback=True, moved=moved)

        def attempt(what: Callable[[], None]) -> None:
            try:
                what()
            except LabctlError as error:
                problems.append(error)

        for undoing in reversed(undo):
            if isinstance(undoing, RestoreNode):
                attempt(execution.flush)
                execution.restore(undoing.node)
            else:
                attempt(partial(execution.add, undoing))
        for at in touched:
            attempt(partial(execution.reassign_addresses, *at))
            attempt(partial(execution.reassign_routes, *at))
        attempt(execution.flush)
        attempt(execution.finish)
    return problems


def _is_renamed(host: Host, node: Node) -> bool:
    """Whether the host's /etc/hosts is labctl's, and has other names than it is to have."""
    return host.node.names != node.names and not host.node.tree.places(HOSTS)


def _write_names(host: Host, names: Iterable[tuple[str, str]]) -> None:
    """Rewrite the /etc/hosts of a host that runs programs, in place: it is the very file that is bound there."""
    if host.init is None:
        return  # it is written when its first program starts
    content = "".join(f"{address}\t{name}\n" for address, name in (*LOCAL_NAMES, *names)).encode()
    path = f"/proc/{host.init.pid}/root/{HOSTS_FILE}"
    try:
        # O_NONBLOCK: a program of the host may have bound a FIFO there.
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            os.write(file, content)
            os.ftruncate(file, len(content))
        finally:
            os.close(file)
    except OSError as error:
        hint = "Has a program mounted something else there?"
        raise KernelError(host.subject, "write its /etc/hosts", error.errno or 0, hint=hint) from error
