"""Reaching the keeper of a lab that stays, and ending a lab whether its keeper answers or not."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from labctl.errors import DeadlineExceeded, LabctlError, LabError, LabGone, describe_errno
from labctl.lab.client import registry
from labctl.lab.client.state_dir import BOOT, DIRECTORY_FLAGS, SOCKET, file_name, making, read
from labctl.lab.protocol import FOREIGN_CLIENT, VERSION, Channel, Down, Failed, Hello
from labctl.structs import Struct
from labctl.unpatched import Socket, monotonic

CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
DOWN_DEADLINE_S = 10.0


class Connection(Struct):
    """A client's connection to a keeper. What `Lab` needs of it is what it needs of `Boot`."""

    channel: socket.socket
    keeper_pid: int
    name: str  # the lab's

    def last_words(self) -> str:
        """What the keeper wrote to stderr before it failed; "" when it was ended."""
        with contextlib.suppress(LabctlError), registry.opened_state() as state:
            return registry.last_words(state, self.name)
        return ""

    def stopped(self) -> int:
        """The keeper's pid when it is stopped, else 0."""
        from labctl.kernel.processes import is_stopped

        return self.keeper_pid if self.keeper_pid and is_stopped(self.keeper_pid) else 0

    def or_end(self, name: str) -> str:
        """What else there is to be done with a lab that is stopped: words to go after `kill -CONT PID`."""
        return f", or `labctl down --force {name}`, which ends the lab"

    def forget(self) -> None:
        """Close the descriptor and nothing more: for a forked process, in which it is a copy. Idempotent."""
        self.channel.close()

    def hang_up(self) -> None:
        """Wake whoever waits for an answer. Idempotent."""
        with contextlib.suppress(OSError):  # ENOTCONN: it is gone already
            self.channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the lab. Idempotent."""
        self.channel.close()


def bind_listener(directory: int) -> int:
    """A Unix socket bound in the directory, for the keeper to listen on; the caller owns it. OSError."""
    with Socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(f"/proc/self/fd/{directory}/{SOCKET}")  # a path of any length, and no other directory than this
        os.chmod(SOCKET, 0o600, dir_fd=directory)
        return sock.detach()


def connect(name: str, *, deadline_s: float) -> Connection:
    """Connect to the keeper of a running lab; the caller closes it. InputError when there is none of that name."""
    with registry.opened_state() as state:
        try:
            directory = os.open(file_name(name), DIRECTORY_FLAGS, dir_fd=state)
        except FileNotFoundError:
            raise registry.no_such_lab(name, registry.labs()) from None
        except OSError as error:
            raise registry.cannot(f"look at lab {name}", error) from error
        try:
            return _connected(name, directory, deadline_s)
        except LabGone:
            words = registry.last_words(state, name)
            with contextlib.suppress(LabctlError), registry.transition(state, name, deadline_s=0.0):
                registry.clear_if_dead(state, name)
            if words:
                raise LabGone(registry.failed(name, words)) from None
            raise
        finally:
            os.close(directory)


def _connected(name: str, directory: int, deadline_s: float) -> Connection:
    sock = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Blocking: one that does not block fails at once where 200 others connect at the same time.
        microseconds = max(1, int(deadline_s * 1e6))
        timeout = struct.pack("@ll", microseconds // 1_000_000, microseconds % 1_000_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        sock.connect(f"/proc/self/fd/{directory}/{SOCKET}")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes(len(timeout)))
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        keeper_pid, uid, _ = CREDENTIALS.unpack(credentials)
        if uid != os.geteuid():
            raise LabError(f"lab {name}: its keeper is user {uid}'s.")
        if keeper_pid == 0:
            raise LabError(f"lab {name}: {FOREIGN_CLIENT}")
        return Connection(sock, keeper_pid, name)
    except OSError as error:
        sock.close()
        if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
            raise LabGone(f"lab {name}: it has just ended, or is being ended.") from error
        if error.errno == errno.EAGAIN:
            raise not_answering(name, deadline_s) from error
        raise LabError(f"lab {name}: cannot reach its keeper: {describe_errno(error.errno or 0)}.") from error
    except BaseException:
        sock.close()
        raise


@contextmanager
def credentials() -> Iterator[tuple[int, ...]]:
    """The descriptors that go with `Hello`: of the PID namespace of this process."""
    pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield (pids,)
    finally:
        os.close(pids)


def not_answering(name: str, deadline_s: float) -> DeadlineExceeded:
    """The error to raise when a keeper does not answer."""
    return DeadlineExceeded(
        f"lab {name}: its keeper did not answer within {deadline_s:g} s. Is it stopped (SIGSTOP), or the machine "
        f"overloaded? `labctl down --force {name}` ends the lab whatever state it is in."
    )


def take_down(name: str, *, force: bool = False, deadline_s: float = DOWN_DEADLINE_S) -> None:
    """End the lab of that name and wait until it is gone.

    Asks the keeper first unless `force`; kills it (by pidfd, its identity verified) when it does not end in time.
    InputError when there is no such lab; DeadlineExceeded when it cannot be ended.
    """
    from labctl.lab.client import orphans

    if registry.lab_name_problem(name):
        raise registry.no_such_lab(name, registry.labs())
    with registry.opened_state() as state:
        was_there = registry.is_alive(state, name)
        with registry.transition(state, name, deadline_s=deadline_s + registry.TRANSITION_DEADLINE_S):
            if registry.is_alive(state, name):
                end(state, name, file_name(name), force=force, deadline_s=deadline_s)
            elif not was_there and not registry.clear_if_dead(state, name) and not orphans.end_named(name):
                raise registry.no_such_lab(name, registry.labs())
            registry.clear_if_dead(state, name)


def end(state: int, name: str, entry: str, *, force: bool, deadline_s: float) -> None:
    """End the processes that hold the lock of the directory `entry` of a lab (inside `transition`)."""
    directory = os.open(entry, DIRECTORY_FLAGS, dir_fd=state)
    try:
        with _holders(name, directory) as (keeper, boot, channel), _seen_off(keeper, boot, deadline_s):
            half = deadline_s / 2
            if channel is not None and not force and _asked(channel, until=monotonic() + half):
                if registry.is_ended(state, entry, monotonic() + half):
                    return
            elif keeper is None and registry.is_ended(state, entry, monotonic() + half):
                return
            for pidfd in (keeper, boot):  # boot ends when the keeper has; it may be stopped, too
                if pidfd is not None:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    if registry.is_ended(state, entry, monotonic() + half / 2):
                        return
            if not registry.is_ended(state, entry, monotonic() + half):
                raise DeadlineExceeded(f"lab {name}: its processes could not be ended within {deadline_s:g} s.")
    finally:
        os.close(directory)


@contextmanager
def _seen_off(keeper: int | None, boot: int | None, deadline_s: float) -> Iterator[None]:
    """A process that ends lets go of its lock before it is gone: after the `with`, both are gone, or nearly so."""
    yield
    until = monotonic() + deadline_s
    for pidfd in (keeper, boot):
        if pidfd is not None:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            poller.poll(max(0.0, until - monotonic()) * 1000)


def end_unfinished(state: int, name: str, *, deadline_s: float = DOWN_DEADLINE_S) -> None:
    """End what a killed `up` of that name has left, if anything (inside `transition`)."""
    entry = making(name)
    if not registry.is_ended(state, entry, monotonic() + deadline_s / 2):
        end(state, name, entry, force=True, deadline_s=deadline_s / 2)
    registry.clear_if_dead(state, name, entry)


@contextmanager
def _holders(name: str, directory: int) -> Iterator[tuple[int | None, int | None, Channel | None]]:
    """pidfds of keeper and boot as far as they can be found, and a channel to the keeper."""
    with contextlib.ExitStack() as stack:
        channel, keeper = None, None
        boot = _boot_of(directory)
        if boot is not None:
            stack.callback(os.close, boot)
        with contextlib.suppress(LabGone, DeadlineExceeded):
            connection = _connected(name, directory, 1.0)
            stack.callback(connection.close)
            keeper = _keeper_of(connection)
            if keeper is not None:
                stack.callback(os.close, keeper)
            channel = Channel(connection.channel)
        yield keeper, boot, channel


def _keeper_of(connection: Connection) -> int | None:
    """A pidfd of the process at the other end, None when it has ended."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(connection.keeper_pid)
        # The connection is that process's as long as it is not hung up: the number has not been given to another.
        poller = select.poll()
        poller.register(connection.channel, 0)
        if not poller.poll(0):
            return pidfd
        os.close(pidfd)
    return None


def _boot_of(directory: int) -> int | None:
    """A pidfd of the process that wrote itself down as boot, None when it has ended."""
    pid, _, started = read(directory, BOOT).strip().partition(" ")
    if not (pid.isdecimal() and started.isdecimal()):
        return None
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(int(pid))
        if start_time(int(pid)) == int(started):
            return pidfd
        os.close(pidfd)
    return None


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since the machine did; 0 when it has ended (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _asked(channel: Channel, until: float) -> bool:
    try:
        with credentials() as shown:
            channel.send(1, Hello(VERSION), shown, until=until)
        channel.send(2, Down(), until=until)
        while (frame := channel.receive(until=until)) is not None:
            if isinstance(frame.message, Failed):
                raise frame.message.error()
    except LabGone:
        return True
    except DeadlineExceeded:
        return False
    return True
