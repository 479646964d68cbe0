"""Boot, the first process of a lab, as its owner starts and ends it; the sockets of `expose`, which it is given."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

from labctl.errors import DeadlineExceeded, InputError, LabImpossible, MachineError, describe_errno
from labctl.lab.protocol import DIES_WITH_OWNER, STAYS, WATCHES_OWNER
from labctl.structs import Struct
from labctl.topology.model import Exposure, Node, Transport
from labctl.unpatched import Socket, socketpair

BACKLOG = 4096  # somaxconn cuts it down
SOCKETS_MAX = 200  # that many descriptors fit in the request that opens a lab
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def open_ports(nodes: Iterable[Node], stack: ExitStack) -> tuple[tuple[tuple[str, int, int], ...], tuple[int, ...]]:
    """Listening (TCP) and bound (UDP) sockets for all exposures, in the network namespace of the calling thread.

    Returns the purpose of each, as (node, index of the exposure, port of the host), and the descriptors, which `stack`
    closes. MachineError if a port cannot be bound, InputError if there are too many.
    """
    purposes: list[tuple[str, int, int]] = []
    descriptors: list[int] = []
    for node in nodes:
        for number, exposure in enumerate(node.exposures):
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


# What the interpreter runs. The owner chooses the search path, not the environment or the user's site directory.
_BOOTSTRAP = "import sys; sys.path.extend(sys.argv[3:]); from labctl.lab.keeper.boot import main; main()"
BOOT_NAME = "labctl-boot"
_FIRST_FREE = 5  # above the numbers that the child's descriptors are moved to
_LAST_WORDS_BYTES = 4000


class Boot(Struct):
    """A started boot process. Owns the descriptors. `Lab.open(boot=...)` takes it over."""

    pid: int
    pidfd: int
    channel: socket.socket
    liveness: int  # a pipe: when it is closed, boot and the lab end
    errors: int  # stderr of boot and keeper: an unnamed file, or last-words of a lab that stays
    ended: bool = False

    @classmethod
    def start(cls, *, errors: int | None = None, lab: str = "", state_directory: str = "") -> Boot:
        """Start the interpreter, which waits for `Lab.open`, and ends with its owner or with `close`.

        A lab that stays passes `errors`, a file for stderr of boot and keeper, which Boot owns then, and its name and
        state directory, which appear on the command line of the process (see `labctl.lab.client.registry`).
        May be called from any thread. MachineError if the interpreter cannot be started.
        """
        if not sys.executable:
            raise MachineError("lab: cannot start its keeper: this Python does not know its own path (sys.executable).")
        try:
            with ExitStack() as ours, ExitStack() as theirs:
                return cls._started(ours, theirs, errors, f"{BOOT_NAME}={lab}={state_directory}" if lab else BOOT_NAME)
        except OSError as error:
            from labctl.kernel.processes import remedy

            number = error.errno or 0
            reason = f"{describe_errno(number)}. {remedy(number)}".rstrip()
            raise MachineError(f"lab: cannot start its keeper with {sys.executable}: {reason}") from error

    @classmethod
    def _started(cls, ours: ExitStack, theirs: ExitStack, given_errors: int | None, name: str) -> Boot:
        """`theirs` closes when the child has inherited its descriptors, `ours` if it could not be started."""
        channel, their_channel = socketpair()
        ours.callback(channel.close)
        theirs.callback(their_channel.close)
        reading, liveness = os.pipe2(os.O_CLOEXEC)
        theirs.callback(os.close, reading)
        ours.callback(os.close, liveness)
        stays = given_errors is not None
        errors = os.memfd_create("labctl-errors", os.MFD_CLOEXEC) if given_errors is None else given_errors
        ours.callback(os.close, errors)
        high = [_high(descriptor, theirs) for descriptor in (their_channel.fileno(), reading, errors)]
        lifetime = DIES_WITH_OWNER if threading.get_native_id() == os.getpid() else WATCHES_OWNER
        if stays:
            lifetime = STAYS
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOTSTRAP, name, lifetime, *search_path()],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, high[2], 2),
                (os.POSIX_SPAWN_DUP2, high[0], 3),
                (os.POSIX_SPAWN_DUP2, high[1], 4),
            ],
            # Its own process group in the same session: Ctrl-C of the terminal does not reach it, but the kernel still
            # continues it, if it is stopped, when its owner ends (an orphaned process group; setpgid(2)).
            setpgroup=0,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
        pidfd = os.pidfd_open(pid)
        ours.pop_all()
        return cls(pid, pidfd, channel, liveness, errors)

    def last_words(self) -> str:
        """The end of what boot and keeper wrote to stderr: normally nothing, otherwise a traceback."""
        size = os.fstat(self.errors).st_size
        return os.pread(self.errors, _LAST_WORDS_BYTES, max(0, size - _LAST_WORDS_BYTES)).decode(errors="replace")

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
        """End boot, and the lab with it; return when boot is reaped, which waits for the keeper. Idempotent."""
        if self.ended:
            return
        self.hang_up()
        self.ended = True
        self.channel.close()
        try:
            if not self._reaped(deadline_s):
                # Perhaps a signal has stopped it. The keeper dies with its parent.
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                if not self._reaped(deadline_s):
                    raise DeadlineExceeded(f"lab: its boot process {self.pid} could not be ended in {deadline_s:g} s.")
        finally:
            self._close_files()

    def _close_files(self) -> None:
        for descriptor in (self.pidfd, self.errors):
            os.close(descriptor)
        self.pidfd = self.errors = -1

    def _reaped(self, timeout_s: float) -> bool:
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        if not poller.poll(max(0.0, timeout_s) * 1000):
            return False
        with contextlib.suppress(ChildProcessError):  # the program reaps its children in another way (SIGCHLD ignored)
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        return True


def search_path() -> list[str]:
    """The directories that hold labctl and the packages that its keeper imports.

    The import system finds them, since a directory of a package's name (a clone beside the script) need not be the
    package. MachineError if a package is missing.
    """
    from importlib.util import find_spec

    found = []
    for package in ("labctl", "msgspec", "pyroute2"):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise MachineError(f"lab: cannot start its keeper: {sys.executable} has no package {package}.")
        found.append(os.path.dirname(os.path.dirname(os.path.abspath(spec.origin))))
    return list(dict.fromkeys(found))


def _high(descriptor: int, owner: ExitStack) -> int:
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    owner.callback(os.close, copy)
    return copy
