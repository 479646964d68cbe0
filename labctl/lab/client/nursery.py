"""The nursery of this process, as its owner starts, uses and ends it (docs/decisions/0016).

The nursery is one preloaded process that forks a boot for each lab, so that only the first lab pays for an interpreter.
A process that this one forks has a nursery of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack

from labctl.clock import monotonic
from labctl.errors import DeadlineExceeded, MachineError, describe_errno
from labctl.lab.client import nursery_fork
from labctl.lab.protocol import BOOT_REPLY, DIES_WITH_OWNER, WATCHES_OWNER
from labctl.structs import Struct
from labctl.unpatched import Socket, socketpair

# What the interpreter runs. The owner chooses the search path, not the environment or the user's site directory.
_BOOTSTRAP = (
    "import gc, sys; gc.disable(); sys.path.extend(sys.argv[3:]); from labctl.lab.keeper.nursery import main; main()"
)
_NAME = "labctl-nursery"
_FIRST_FREE = 5  # above the numbers that the child's descriptors are moved to
_REPLY_TIMEOUT_S = 30.0
_STOPPED_CHECK_INTERVAL_S = 0.5
_END_TIMEOUT_MS = 10_000
_LAST_WORDS_BYTES = 4000
_STATUS_LINES = (  # of proc_pid_status(5): what a child inherits
    *(b"Umask", b"Uid", b"Gid", b"Groups", b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb"),
    *(b"NoNewPrivs", b"Seccomp", b"Seccomp_filters", b"Cpus_allowed", b"Mems_allowed"),
)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time_for_children", "user", "uts")
_LIMITS = [value for name, value in vars(resource).items() if name.startswith("RLIMIT_")]


class Unusable(Exception):
    """The nursery has ended, or is stopped by a signal. The text is the end of what it wrote to stderr."""


class Nursery(Struct, frozen=True):
    """A nursery that runs. Owns the descriptors."""

    pid: int
    pidfd: int
    control: socket.socket
    errors: int  # stderr: an unnamed file
    inherited: tuple[object, ...]  # what it has inherited

    def fork_boot(self, kind: str, descriptors: tuple[int, ...], until: float) -> tuple[int, int]:
        """Return a new boot's pid and pidfd. OSError as of fork(2), Unusable, DeadlineExceeded."""
        try:
            socket.send_fds(self.control, [kind.encode()], descriptors)
            self._await_reply(until)
            reply, received, _, _ = socket.recv_fds(self.control, BOOT_REPLY.size, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError as error:  # EPIPE, ECONNRESET
            raise Unusable from error
        if not reply:
            self.has_ended(_END_TIMEOUT_MS)  # when it has written its last words
            raise Unusable
        number, pid = BOOT_REPLY.unpack(reply)
        if number:
            raise OSError(number, os.strerror(number))
        if not received:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return pid, received[0]

    def _await_reply(self, until: float) -> None:
        from labctl.kernel.processes import is_stopped

        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        while not poller.poll(max(0.0, min(until - monotonic(), _STOPPED_CHECK_INTERVAL_S)) * 1000):
            if is_stopped(self.pid):
                raise Unusable
            if monotonic() >= until:
                raise DeadlineExceeded(
                    f"lab: the process {self.pid} that starts its keeper did not answer within {_REPLY_TIMEOUT_S:g} s. "
                    "Is the machine overloaded?"
                )

    def has_ended(self, timeout_ms: int = 0) -> bool:
        """Whether the process has ended within the time; reaps it then."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        if not poller.poll(timeout_ms):
            return False
        with contextlib.suppress(ChildProcessError):  # the program reaps its children in another way (SIGCHLD ignored)
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        return True

    def kill(self) -> None:
        """End the process, and with it every boot that it has forked, and reap it."""
        self.control.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # this process may be another user's since
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.has_ended(_END_TIMEOUT_MS)
        self.close()

    def close(self) -> None:
        """Close the descriptors."""
        self.control.close()
        os.close(self.pidfd)
        os.close(self.errors)


class Nurseries:
    """The nursery of this process, and earlier ones, which end with their labs. Thread-safe."""

    def __init__(self) -> None:
        self._current: Nursery | None = None
        self._retired: list[Nursery] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    @property
    def all(self) -> tuple[Nursery, ...]:
        """The current one first, if there is one."""
        return (*([] if self._current is None else [self._current]), *self._retired)

    def start(self) -> None:
        """Start the nursery unless there is one that can be used; reap earlier ones that have ended. OSError."""
        with self._locked(monotonic() + _REPLY_TIMEOUT_S):
            self._usable()

    def fork_boot(self, kind: str, descriptors: tuple[int, ...]) -> tuple[int, int]:
        """Return a new boot's pid and pidfd, which the caller owns. OSError, MachineError, DeadlineExceeded.

        Unusable if the nursery has ended or is stopped: the next call uses another one. It needs other descriptors,
        because a stopped nursery still has these, and gives them to a boot when it is continued.
        """
        until = monotonic() + _REPLY_TIMEOUT_S
        with self._locked(until):
            nursery = self._usable()
            try:
                return nursery.fork_boot(kind, descriptors, until)
            except OSError:  # its answer: it could not fork
                raise
            except Unusable as error:
                words = last_words_in(nursery.errors).strip()
                self._retire()
                raise Unusable(words) from error
            except BaseException:  # Ctrl-C between request and reply, or late: the next reply would be this one's
                self._retire()
                raise

    def close(self) -> None:
        """End all of them, and the labs that they have started, unless another thread is just starting one."""
        with contextlib.suppress(DeadlineExceeded), self._locked(monotonic() + _END_TIMEOUT_MS / 1000):
            self._retire()
            while self._retired:
                self._retired.pop().kill()

    def forget(self) -> None:
        """In a process that this one has forked: close the copies of descriptors."""
        self._lock, self._owner = threading.Lock(), os.getpid()
        nurseries, self._current, self._retired = self.all, None, []
        for nursery in nurseries:
            nursery.close()

    @contextlib.contextmanager
    def _locked(self, until: float) -> Iterator[None]:
        if self._owner != os.getpid():
            self.forget()  # forked in a way that Python does not notice
        if not self._lock.acquire(timeout=max(0.0, until - monotonic())):
            raise DeadlineExceeded("lab: another thread does not finish to start a lab. Is the machine overloaded?")
        try:
            yield
        finally:
            self._lock.release()

    def _usable(self) -> Nursery:
        inherited = _inherited()
        if self._current is not None and (self._current.has_ended() or self._current.inherited != inherited):
            self._retire()
        for nursery in [each for each in self._retired if each.has_ended()]:
            self._retired.remove(nursery)
            nursery.close()
        if self._current is None:
            self._current = _forked_ahead(inherited) or _started(inherited)
        return self._current

    def _retire(self) -> None:
        """Stop using the current one. It ends when its last boot has ended."""
        nursery, self._current = self._current, None
        if nursery is not None:
            self._retired.append(nursery)
            nursery.control.close()


def _forked_ahead(inherited: tuple[object, ...]) -> Nursery | None:
    """Take over the nursery that this command has forked before its imports, if it has."""
    forked = nursery_fork.take()
    if forked is None:
        return None
    pid, pidfd, control, errors = forked
    return Nursery(pid, pidfd, Socket(fileno=control), errors, inherited)


def _started(inherited: tuple[object, ...]) -> Nursery:
    """Start a nursery. OSError."""
    if not sys.executable:
        raise MachineError("lab: cannot start its keeper: this Python does not know its own path (sys.executable).")
    path = search_path()
    with ExitStack() as ours, ExitStack() as theirs:
        control, their_control = socketpair(socket.SOCK_SEQPACKET)
        ours.callback(control.close)
        theirs.callback(their_control.close)
        owner = os.pidfd_open(os.getpid())
        theirs.callback(os.close, owner)
        errors = os.memfd_create("labctl-errors", os.MFD_CLOEXEC)
        ours.callback(os.close, errors)
        high = [_high(descriptor, theirs) for descriptor in (their_control.fileno(), owner, errors)]
        lifetime = DIES_WITH_OWNER if threading.get_native_id() == os.getpid() else WATCHES_OWNER
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOTSTRAP, _NAME, lifetime, *path],
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
        return Nursery(pid, pidfd, control, errors, inherited)


def _high(descriptor: int, owner: ExitStack) -> int:
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    owner.callback(os.close, copy)
    return copy


def _inherited() -> tuple[object, ...]:
    """What a process that this thread starts inherits, as far as labs depend on it and it can change.

    Environment and working directory are not part of it: the request that opens a lab contains them.
    """
    try:
        with open("/proc/thread-self/status", "rb") as file:
            status = [line for line in file.read().split(b"\n") if line.partition(b":")[0] in _STATUS_LINES]
        with open("/proc/thread-self/cgroup", "rb") as file:
            cgroup = file.read()
        with open("/proc/thread-self/oom_score_adj", "rb") as file:
            oom = file.read()
        namespaces = [os.readlink(f"/proc/thread-self/ns/{kind}") for kind in _NAMESPACES]
    except OSError:  # /proc is not mounted: nothing can be compared
        return (object(),)
    root = os.stat("/")
    return (
        *(*status, cgroup, oom, *namespaces, root.st_dev, root.st_ino, os.getsid(0)),
        *(*map(resource.getrlimit, _LIMITS), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)),
    )


def last_words_in(errors: int) -> str:
    """Return the end of what a process wrote to this file, its stderr: normally nothing, otherwise a traceback."""
    size = os.fstat(errors).st_size
    return os.pread(errors, _LAST_WORDS_BYTES, max(0, size - _LAST_WORDS_BYTES)).decode(errors="replace")


def start_ahead() -> None:
    """Start the nursery where a lab is certain to come. An error is left to the lab, which reports it."""
    with contextlib.suppress(OSError, MachineError, DeadlineExceeded):
        nurseries.start()


def cannot_start(error: OSError) -> MachineError:
    """Return the error to raise for one of `Nurseries`."""
    from labctl.kernel.processes import remedy

    number = error.errno or 0
    reason = f"{describe_errno(number)}. {remedy(number)}".rstrip()
    return MachineError(f"lab: cannot start its keeper with {sys.executable}: {reason}")


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


# The one value of this module that changes: a process has one nursery, whichever code makes labs in it.
nurseries = Nurseries()
atexit.register(nurseries.close)
os.register_at_fork(after_in_child=nurseries.forget)
