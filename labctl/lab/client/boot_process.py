"""Boot, the first process of a lab, as its owner starts and ends it; the sockets of `expose`, which it is given."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Container, Iterable
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

from labctl.errors import DeadlineExceeded, InputError, LabImpossible, MachineError, describe_errno
from labctl.lab.client.nursery import Unusable, cannot_start, last_words_in, nurseries
from labctl.lab.protocol import EPHEMERAL
from labctl.structs import Struct
from labctl.topology.model import Exposure, Node, Transport
from labctl.unpatched import Socket, socketpair

BACKLOG = 4096  # somaxconn cuts it down
SOCKETS_MAX = 200  # that many descriptors fit in the request that opens a lab
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def open_ports(
    nodes: Iterable[Node], stack: ExitStack, known: Container[str] = ()
) -> tuple[tuple[tuple[str, int, int], ...], tuple[int, ...]]:
    """Listening (TCP) and bound (UDP) sockets for all exposures, in the network namespace of the calling thread.

    Except those at ports of the machine in `known` (`Exposure.outer_end`), for which the lab has sockets.

    Returns the purpose of each, as (node, index of the exposure, port of the host), and the descriptors, which `stack`
    closes. MachineError if a port cannot be bound, InputError if there are too many.
    """
    purposes: list[tuple[str, int, int]] = []
    descriptors: list[int] = []
    for node in nodes:
        for number, exposure in enumerate(node.exposures):
            if exposure.outer_end in known:
                continue
            for sock in _sockets(node.name, exposure, stack):
                purposes.append((node.name, number, exposure.port))
                descriptors.append(sock.fileno())
    if len(descriptors) > SOCKETS_MAX:
        raise InputError(f"`expose` needs {len(descriptors)} sockets; at most {SOCKETS_MAX} are allowed.")
    return tuple(purposes), tuple(descriptors)


def _sockets(node: str, exposure: Exposure, stack: ExitStack) -> list[socket.socket]:
    """One socket, or without an address one for each loopback address that the machine has."""
    if exposure.address is not None:
        return [_socket(node, exposure, exposure.address, stack)]
    found: list[socket.socket] = []
    for address in _LOOPBACK:
        try:
            found.append(_socket(node, exposure, address, stack))
        except LabImpossible as error:
            cause = error.__cause__
            if address.version == 4 or not isinstance(cause, OSError) or cause.errno not in _ABSENT:
                raise
    return found


def _socket(node: str, exposure: Exposure, address: IPv4Address | IPv6Address, stack: ExitStack) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if exposure.transport is Transport.TCP else socket.SOCK_DGRAM
    try:
        sock = stack.enter_context(Socket(family, kind | socket.SOCK_CLOEXEC))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a lab that has just ended
        sock.bind((str(address), exposure.machine_port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError as error:
        number = error.errno or 0
        shown = f"[{address}]" if address.version == 6 else str(address)
        raise LabImpossible(
            f"host {node}: cannot take the machine's port {shown}:{exposure.machine_port}/{exposure.transport} for "
            f"`expose`: {describe_errno(number)}. {_hint(exposure, number)}"
        ) from error
    return sock


def _hint(exposure: Exposure, number: int) -> str:
    if number == errno.EADDRINUSE:
        option = "t" if exposure.transport is Transport.TCP else "u"
        return f"See which process has it: ss -{option}lnp sport = :{exposure.machine_port}. Or expose another port."
    if number in (errno.EACCES, errno.EPERM):
        return "Ports below net.ipv4.ip_unprivileged_port_start (1024) are reserved for root. Expose a higher port."
    if number == errno.EADDRNOTAVAIL:
        return "The machine does not have that address (`ip address`)."
    return os.strerror(number)


_ATTEMPTS = 3  # somebody may kill or stop a nursery between two requests


class Boot(Struct):
    """A process that the nursery has forked: boot, or a recorder. Owns the descriptors."""

    pid: int
    pidfd: int
    channel: socket.socket
    liveness: int  # a pipe: when it is closed, boot and the lab end
    errors: int  # stderr of boot and keeper: an unnamed file, or last-words of a lab that stays
    ended: bool = False

    @classmethod
    def start(cls, kind: str = EPHEMERAL, *, errors: int | None = None) -> Boot:
        """Start the process, which waits for `Lab.open`, and ends with its owner or with `close`.

        A lab that stays passes `errors`, a file for stderr of boot and keeper, which Boot owns then. May be called from
        any thread. MachineError if the process cannot be started, DeadlineExceeded.
        """
        try:
            with ExitStack() as ours:
                if errors is None:
                    errors = os.memfd_create("labctl-errors", os.MFD_CLOEXEC)
                ours.callback(os.close, errors)
                boot = cls._forked(kind, errors)
                ours.pop_all()
        except OSError as error:
            raise cannot_start(error) from error
        return boot

    @classmethod
    def _forked(cls, kind: str, errors: int) -> Boot:
        words = ""
        for _ in range(_ATTEMPTS):
            with ExitStack() as ours, ExitStack() as theirs:  # `theirs` closes when boot has its descriptors
                channel, their_channel = socketpair()
                ours.callback(channel.close)
                theirs.callback(their_channel.close)
                reading, liveness = os.pipe2(os.O_CLOEXEC)
                theirs.callback(os.close, reading)
                ours.callback(os.close, liveness)
                try:
                    pid, pidfd = nurseries.fork_boot(kind, (their_channel.fileno(), reading, errors))
                except Unusable as error:
                    words = str(error)
                    continue
                ours.pop_all()
                return cls(pid, pidfd, channel, liveness, errors)
        raise MachineError(f"lab: cannot start its keeper: the process for it ends at once. Its last words:\n{words}")

    def last_words(self) -> str:
        """The end of what boot and keeper wrote to stderr: normally nothing, otherwise a traceback."""
        return last_words_in(self.errors)

    def stopped(self) -> int:
        """The pid of the keeper, or of boot before it has forked the keeper, if it is stopped; else 0."""
        from labctl.kernel.processes import stopped_below

        return stopped_below(self.pid)

    def or_end(self) -> str:
        """Another way out when the keeper is stopped: none, since the lab ends with this process."""
        return ""

    def close_liveness(self) -> None:
        """Close the pipe that shows that the owner lives; the keeper of a lab that stays ignores it. Idempotent."""
        liveness, self.liveness = self.liveness, -1
        if liveness != -1:
            os.close(liveness)

    def forget(self) -> None:
        """Close the descriptors only: for a forked process, in which they are copies. Idempotent."""
        if not self.ended:
            self.ended = True
            self.channel.close()
            self.close_liveness()
            self._close_files()

    def hang_up(self) -> None:
        """Disconnect, which ends boot and keeper, and wake the threads that wait for a reply. Idempotent."""
        if not self.ended:
            self.close_liveness()
            with contextlib.suppress(OSError):  # ENOTCONN: the keeper has disconnected
                self.channel.shutdown(socket.SHUT_RDWR)

    def close(self, *, deadline_s: float = 10.0) -> None:
        """End boot, and the lab with it; return when boot has ended, which waits for the keeper. Idempotent."""
        if self.ended:
            return
        self.hang_up()
        self.ended = True
        self.channel.close()
        try:
            if not self._ends_within(deadline_s):
                # Perhaps a signal has stopped it. The keeper dies with its parent.
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                if not self._ends_within(deadline_s):
                    raise DeadlineExceeded(f"lab: its boot process {self.pid} could not be ended in {deadline_s:g} s.")
        finally:
            self._close_files()

    def _close_files(self) -> None:
        for descriptor in (self.pidfd, self.errors):
            os.close(descriptor)
        self.pidfd = self.errors = -1

    def _ends_within(self, timeout_s: float) -> bool:
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(max(0.0, timeout_s) * 1000))
