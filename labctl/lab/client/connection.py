"""A client's connection to the keeper of a running lab. Imports nothing that is slow to import, for `labctl exec`."""

from __future__ import annotations

import _socket
import errno
import os
import struct

from labctl.errors import DeadlineExceeded, LabctlError, LabError, LabGone, describe_errno
from labctl.lab.client import state_dir
from labctl.lab.frames import CREDENTIALS, FOREIGN_CLIENT


class Connection:
    """Owns the socket. `RpcClient` uses it as it uses `Boot`."""

    def __init__(self, channel: _socket.socket, keeper_pid: int, name: str) -> None:
        self.channel = channel
        self.keeper_pid = keeper_pid
        self.name = name  # the lab's

    def last_words(self) -> str:
        """What the keeper wrote to stderr before it failed; "" if it was ended."""
        try:
            with state_dir.opened_state() as state:
                return state_dir.last_words(state, self.name)
        except LabctlError:
            return ""

    def stopped(self) -> int:
        """The keeper's pid if it is stopped, else 0."""
        from labctl.kernel.processes import is_stopped

        return self.keeper_pid if self.keeper_pid and is_stopped(self.keeper_pid) else 0

    def or_end(self) -> str:
        """Another way out when the keeper is stopped, to follow `kill -CONT PID`."""
        return f", or `labctl down --force {self.name}`, which ends the lab"

    def forget(self) -> None:
        """Close the descriptor only: for a forked process, in which it is a copy. Idempotent."""
        self.channel.close()

    def hang_up(self) -> None:
        """Wake the threads that wait for a reply. Idempotent."""
        try:
            self.channel.shutdown(_socket.SHUT_RDWR)
        except OSError:  # ENOTCONN: the keeper has disconnected
            return

    def close(self) -> None:
        """Disconnect. Idempotent."""
        self.channel.close()


def connect(name: str, *, deadline_s: float) -> Connection:
    """Connect to the keeper of a running lab; the caller closes it. InputError if no lab has that name."""
    with state_dir.opened_state() as state:
        try:
            directory = os.open(state_dir.file_name(name), state_dir.DIRECTORY_FLAGS, dir_fd=state)
        except FileNotFoundError:
            raise state_dir.no_such_lab(name, state_dir.labs()) from None
        except OSError as error:
            raise state_dir.cannot(f"look at lab {name}", error) from error
        try:
            return connect_in(directory, name, deadline_s)
        except LabGone:
            words = state_dir.last_words(state, name)
            _clear(state, name)
            if words:
                raise LabGone(failed(name, words)) from None
            raise
        finally:
            os.close(directory)


def _clear(state: int, name: str) -> None:
    """Remove the remains of a lab that has ended, unless another command does so."""
    from labctl.lab.client import lab_directory

    try:
        with lab_directory.transition(state, name, deadline_s=0.0):
            lab_directory.clear_if_dead(state, name)
    except LabctlError:
        return


def connect_in(directory: int, name: str, deadline_s: float) -> Connection:
    """Connect to the socket in the open directory of a lab. LabGone, DeadlineExceeded, LabError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        # Blocking: a non-blocking connect fails at once while 200 others are in the backlog.
        microseconds = max(1, int(deadline_s * 1e6))
        timeout = struct.pack("@ll", microseconds // 1_000_000, microseconds % 1_000_000)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeout)
        sock.connect(f"/proc/self/fd/{directory}/{state_dir.SOCKET}")
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, bytes(len(timeout)))
        credentials = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, CREDENTIALS.size)
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


class credentials:
    """A context with the descriptors that go with `Hello`: of the PID namespace of this process."""

    def __enter__(self) -> tuple[int, ...]:
        self._descriptor = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        return (self._descriptor,)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        os.close(self._descriptor)


def not_answering(name: str, deadline_s: float) -> DeadlineExceeded:
    """The error to raise when a keeper does not answer."""
    return DeadlineExceeded(
        f"lab {name}: its keeper did not answer within {deadline_s:g} s. Is it stopped (SIGSTOP), or the machine "
        f"overloaded? `labctl down --force {name}` ends the lab whatever state it is in."
    )


def failed(name: str, words: str) -> str:
    """The message about a lab whose keeper failed and wrote `words` to stderr."""
    return f"lab {name}: its keeper has failed, and the lab with it. Its last words:\n{words}"
