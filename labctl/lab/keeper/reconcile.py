"""Change a running lab to another plan: completely, or not at all.

Everything happens in the keeper's thread. A host that leaves the lab, or whose programs must see new files, loses its
init, and the kernel ends its programs with that.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from labctl.errors import LabctlError, LabError, kernel_errors
from labctl.lab.keeper.executor import Execution, RestoreNode
from labctl.lab.keeper.node_init import Host, hosts_file
from labctl.lab.keeper.nodes import NodeTable
from labctl.plan.diff import Difference
from labctl.plan.operations import Operation, RemoveAddress
from labctl.topology.model import HOSTS, Address

RESTART_TIMEOUT_S = 2.0  # SIGKILL takes milliseconds, unless a process hangs in the kernel


def reconcile(
    difference: Difference,
    table: NodeTable,
    hosts: MutableMapping[str, Host],
    end: Callable[[Host], None],
    rename: Callable[[], None],
) -> None:
    """Apply the difference to the network and to `hosts`.

    Running programs keep their environment; /etc/hosts of hosts that run programs is rewritten in place.

    Args:
        difference: between the plan in force and the new one.
        table: the lab's nodes.
        hosts: the lab's hosts by name.
        end: ends the programs of a host; called when nothing can fail any more.
        rename: changes the nodes' names on the machine; called last of all that may fail.

    Raises:
        KernelError: the kernel refused an operation; everything was rolled back.
    """
    with network_changed(difference, table), ExitStack() as rollback:
        for node in difference.nodes:
            host = hosts.get(node.name)
            if host is None or node.name in difference.ended:
                continue
            if host.node.names != node.names and not host.node.tree.places(HOSTS):
                _write_hosts_file(host, node.names)
                rollback.callback(_write_hosts_file, host, host.node.names)
        rename()
        rollback.pop_all()
    for name in difference.ended:
        end(hosts.pop(name))
    _end_and_wait([hosts[name] for name in difference.restarted], end)
    for node in difference.nodes:
        if node.name in hosts:
            hosts[node.name].node = node
        else:
            hosts[node.name] = Host(node, table[node.name].fd)


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


def _write_hosts_file(host: Host, names: Iterable[tuple[str, str]]) -> None:
    """Rewrite the /etc/hosts of a host that runs programs, in place: that very file is bound there."""
    if host.init is None:
        return  # the host's first program starts with a new one
    content = hosts_file(names).encode()
    hint = "Has a program mounted something else there?"
    with kernel_errors(host.subject, "write its /etc/hosts", hint=hint):
        # O_NONBLOCK: a program of the host may have bound a FIFO there.
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(f"/proc/{host.init.pid}/root{HOSTS}", flags)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            os.write(file, content)
            os.ftruncate(file, len(content))
        finally:
            os.close(file)
