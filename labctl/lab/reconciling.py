"""Changes a running lab to what another plan describes: carried out whole, or undone whole.

For the keeper, in whose thread all of this happens. What it has to do around `reconciling`:

- `difference(plan in force, new plan)` gives the difference; when that is false there is nothing to do, but the new
  plan is the one in force all the same.
- Inside the `with`, the network is the new plan's. What is raised there (a service that cannot be started) undoes it.
- After the `with`: `Host`s for the nodes that are new (`difference.nodes`), the new `PlannedNode` of the others; the
  init of the nodes in `difference.gone` is killed, which ends their programs. `reconcile` does all that.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress

from labctl.errors import KernelError, LabctlError, LabError
from labctl.lab.executor import Execution, NodeTable, Restore
from labctl.lab.host import LOCAL_NAMES, Host
from labctl.plan.difference import Difference
from labctl.plan.operations import Operation, PlannedNode, RemoveAddress
from labctl.topology.file_tree import HOSTS
from labctl.topology.model import Address

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
            if host is not None and node.name not in difference.gone and _is_renamed(host, node):
                _write_names(host, node.names)
                renamed.callback(_write_names, host, host.node.names)
        rename()
        renamed.pop_all()
    for name in difference.gone:
        end(hosts.pop(name))
    _restart([hosts[name] for name in difference.restarted], end)
    for node in difference.nodes:
        if node.name in hosts:
            hosts[node.name].node = node
        else:
            hosts[node.name] = Host(node, table.fd(node.name))


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
    undo: list[Operation | Restore] = []
    originals = dict(table.originals)
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
        table.originals.clear()
        table.originals.update(originals)
        if problems:
            told = "; ".join(str(problem) for problem in problems[:3])
            raise LabError(
                f"{error} And it could not all be undone: {told} What the lab is now: labctl inspect."
            ) from error
        raise
    table.let_go()


def _carry_out(
    operations: Iterable[Operation],
    table: NodeTable,
    undo: list[Operation | Restore],
    moved: Collection[Address] = (),
    touched: Iterable[tuple[str, str]] = (),
) -> None:
    """Carry out; `undo` grows by what undoes that which was done, also when this raises."""
    with ExitStack() as stack:
        execution = Execution(table, stack, running=True, moved=moved)
        try:
            there = [at for at in touched if table.has_interface(*at)]
            for at in there:
                execution.give_addresses_again(*at)
            for operation in operations:
                execution.add(operation)
            for at in there:
                execution.give_routes_again(*at)
            execution.finish()
        except LabctlError:
            # What was queued is either done or known to have been refused then; the first refusal is the one to tell.
            with suppress(LabctlError):
                execution.flush()
            raise
        finally:
            undo += execution.undo


def _undone(
    undo: list[Operation | Restore],
    table: NodeTable,
    moved: Collection[Address],
    touched: Iterable[tuple[str, str]],
) -> list[LabctlError]:
    """Carry out `undo` backwards, whatever is refused on the way; returns that."""
    problems: list[LabctlError] = []
    with ExitStack() as stack:
        execution = Execution(table, stack, running=True, lenient=True, moved=moved)

        def attempt(what: Callable[[], None]) -> None:
            try:
                what()
            except LabctlError as error:
                problems.append(error)

        for undoing in reversed(undo):
            if isinstance(undoing, Restore):
                attempt(execution.flush)
                execution.restore(undoing)
            else:
                attempt(lambda operation=undoing: execution.add(operation))  # type: ignore[misc]
        for at in touched:
            if table.has_interface(*at):
                attempt(lambda at=at: execution.give_addresses_again(*at))  # type: ignore[misc]
                attempt(lambda at=at: execution.give_routes_again(*at))  # type: ignore[misc]
        attempt(execution.flush)
        attempt(execution.finish)
    return problems


def _is_renamed(host: Host, node: PlannedNode) -> bool:
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
