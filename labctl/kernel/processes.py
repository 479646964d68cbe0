"""Processes of a lab: forks, signals, limits and descriptors of children, exec, and states in the machine's /proc."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from select import POLLIN, poll

from labctl.clock import monotonic
from labctl.errors import KernelError, LabError

FIRST_FREE_DESCRIPTOR = 3
HIGHEST_DESCRIPTOR = 2**31 - 1
INTERNAL_FAILURE = 70  # exit status of a child with an unforeseen exception (EX_SOFTWARE, sysexits.h)


def fork(body: Callable[[], None]) -> int:
    """Fork a child that runs `body` and exits; return its pid. The caller must be single-threaded.

    The child never returns to the caller's code. It writes an exception of `body` to stderr.
    """
    pid = os.fork()
    if pid:
        return pid
    status = INTERNAL_FAILURE
    try:
        gc.disable()  # no finalisers of the parent's objects: the parent owns the descriptors
        body()
        status = 0
    except BaseException:  # noqa: BLE001 - the last frame of this process: it must not return to the parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def fork_closed(body: Callable[[], None]) -> int:
    """Fork as `fork` does; other processes cannot access the child's descriptors and memory until `open_up`.

    The child has all descriptors of its parent, and programs of its lab may see it in /proc. Access to a process that
    is not dumpable (PR_SET_DUMPABLE) requires CAP_SYS_PTRACE in the user namespace that its parent was started in. Call
    `keep_only` before `open_up`.
    """
    _set_dumpable(False)
    try:
        return fork(body)
    finally:
        open_up()


def open_up() -> None:
    """Allow other processes to trace the calling process again; execve(2) does the same."""
    _set_dumpable(True)


def _set_dumpable(is_dumpable: bool) -> None:
    from labctl.kernel.syscalls import PR_SET_DUMPABLE, prctl  # not above: `labctl ps` needs no ctypes

    prctl(PR_SET_DUMPABLE, int(is_dumpable))


def die_with_parent() -> None:
    """Kill the calling process when its parent ends (PR_SET_PDEATHSIG). Call it after changes of credentials."""
    from labctl.kernel.syscalls import PR_SET_PDEATHSIG, prctl

    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ignore(*numbers: signal.Signals) -> None:
    """Ignore these signals."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def default_signals() -> None:
    """Reset every signal to its default disposition, and unblock all, as a new program expects."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) != signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def raise_descriptor_limit() -> tuple[int, int]:
    """Raise the soft RLIMIT_NOFILE to the hard one; return (soft, hard) from before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def set_descriptor_limit(limit: tuple[int, int]) -> None:
    """Set RLIMIT_NOFILE to (soft, hard)."""
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def own_pid(proc: int) -> int:
    """Return the calling process's pid in the PID namespace whose /proc is open at `proc`; 0 if it has none."""
    try:
        return int(os.readlink("self", dir_fd=proc))
    except FileNotFoundError:
        return 0


def become(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """Change to this user and these groups for good; a user other than root has no capabilities. OSError."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def set_environment(environment: Mapping[str, str]) -> None:
    """Make it the calling process's environment, of which it has the most: setting all takes three times as long."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def keep_only(*descriptors: int) -> None:
    """Close every descriptor of this process but `descriptors`."""
    first = 0
    for descriptor in sorted(descriptors):
        if first < descriptor:  # an empty range that starts at 0 would close everything (Python 3.11)
            os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, HIGHEST_DESCRIPTOR)


OOM_SCORE_ADJUSTMENT = 800  # of 1000: the kernel ends a small program before a large keeper


def be_first_out_of_memory() -> None:
    """Make the kernel, out of memory, end the calling process before the processes that hold the lab."""
    path = "/proc/self/oom_score_adj"
    with contextlib.suppress(OSError, ValueError):  # an unusual /proc: the kernel chooses
        with open(path, encoding="ascii") as file:
            mine = int(file.read())
        with open(path, "w", encoding="ascii") as file:
            file.write(str(min(1000, mine + OOM_SCORE_ADJUSTMENT)))


# -- start of programs

POLL_S = 0.1  # interval at which a late child is checked


def read_all(descriptor: int, timeout_s: float, what: str, is_stopped: Callable[[], bool] = lambda: False) -> bytes:
    """Read a pipe to its end.

    LabError after `timeout_s`, or if `is_stopped` reports that the process at the other end is stopped by a signal,
    which may last for any time.
    """
    deadline = monotonic() + timeout_s
    poller = poll()
    poller.register(descriptor, POLLIN)
    parts: list[bytes] = []
    while True:
        left_s = max(0.0, deadline - monotonic())
        if poller.poll(min(left_s, POLL_S) * 1000):
            part = os.read(descriptor, 65536)
            if not part:
                return b"".join(parts)
            parts.append(part)
        elif is_stopped():
            raise LabError(f"{what}: was stopped by a signal before it had started.")
        elif not left_s:
            raise LabError(f"{what}: did not start within {timeout_s:g} s. Is the machine overloaded, or it stopped?")


def execute(subject: str, argv: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Become the program `argv`, which is searched in the environment's PATH. Never returns. KernelError."""
    _search(subject, argv[0], environment, lambda path: os.execve(path, argv, environment))


def check_executable(subject: str, program: str, environment: Mapping[str, str]) -> None:
    """KernelError, as of `execute`, if that program is missing or may not be executed."""

    def check(path: str) -> None:
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            number = errno.EACCES if os.path.exists(path) else errno.ENOENT
            raise OSError(number, os.strerror(number), path)

    _search(subject, program, environment, check)


def _search(subject: str, program: str, environment: Mapping[str, str], act: Callable[[str], None]) -> None:
    """Call `act` with each path at which the program may be, until it raises no OSError. KernelError if all fail."""
    if not program:
        raise KernelError(subject, 'run ""', errno.ENOENT, hint="The program's name is empty.")
    path = environment.get("PATH", os.defpath)
    candidates = [program] if "/" in program else [os.path.join(entry or ".", program) for entry in path.split(":")]
    failure = errno.ENOENT
    failed_at = program
    for candidate in candidates:
        try:
            return act(candidate)
        except OSError as error:
            number = error.errno or 0
            if candidate != program and not os.path.exists(candidate):
                continue  # or this user cannot enter the directory in PATH: it counts as missing, too
            failure, failed_at = number, candidate
            if number != errno.EACCES:
                break
    raise KernelError(subject, f"run {program}", failure, hint=_exec_hint(program, failed_at, failure, path))


def _exec_hint(program: str, failed_at: str, number: int, path: str) -> str:
    if number == errno.ENOENT and "/" in failed_at and os.path.exists(failed_at):
        return f"{failed_at} exists, but not the interpreter in its first line (or its loader)."
    if number == errno.ENOENT and "/" in program:
        return "There is no such file on this host; /tmp and /run are each host's own."
    if number == errno.ENOENT:
        return f"Is it installed? PATH={path}"
    if number == errno.EACCES:
        return f"Is {failed_at} a program that may be executed?"
    if number == errno.ENOEXEC:
        return f"{failed_at} has no #! line and is not executable on this machine."
    if number == errno.E2BIG:
        return "The arguments and the environment together are too long."
    return ""


def remedy(number: int) -> str:
    """Return a sentence with the remedy for an exhausted resource, or for missing /proc or /dev; else ""."""
    if number in (errno.ENOENT, errno.ENOTDIR):
        return next((text for path, text in _MISSING if not os.path.exists(path)), "")
    return _REMEDIES.get(number, "")


_MISSING = (
    ("/proc/self/status", "/proc is not mounted here. Try: mount -t proc proc /proc"),
    ("/dev/null", "/dev/null is missing here. A chroot or container needs the machine's: mount --rbind /dev DIR/dev"),
)


_REMEDIES = {
    errno.EMFILE: "A lab takes some 20 descriptors and two more a node; see `ulimit -n`.",
    errno.ENFILE: "The whole machine is out of descriptors; see `sysctl fs.file-nr`.",
    errno.EAGAIN: "Too many processes; see `ulimit -u` and `sysctl kernel.pid_max`.",
    errno.ENOMEM: "The machine is out of memory.",
}


# -- states of other processes (proc_pid_stat(5))

KEEPER = "labctl-keeper"
_STOPPED = "Tt"  # by a signal, by a tracer


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped; False if it has ended."""
    return _stat(pid)[1] in _STOPPED


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did; 0 if it has ended."""
    return _stat(pid)[2]


def ends_within(pidfd: int, timeout_s: float) -> bool:
    """Whether a process has ended, or ends within `timeout_s`."""
    poller = poll()
    poller.register(pidfd, POLLIN)
    return bool(poller.poll(max(0.0, timeout_s) * 1000))


def keepers_of(boot: int) -> list[int]:
    """Return the pid of the keeper that this boot has forked, if any."""
    try:
        with open(f"/proc/{boot}/task/{boot}/children", encoding="ascii") as file:
            children = [int(child) for child in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):  # ended; or a kernel without CONFIG_PROC_CHILDREN
        return []
    return [child for child in children if _stat(child)[0] == KEEPER]


def stopped_below(boot: int) -> int:
    """Return the pid of this boot's keeper, or of boot before it has forked one, if that is stopped; else 0."""
    pid = next(iter(keepers_of(boot)), boot)
    return pid if is_stopped(pid) else 0


def _stat(pid: int) -> tuple[str, str, int]:
    """Return a process's name, state and start time (proc_pid_stat(5)); "", "X" and 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            head, _, rest = file.read().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return "", "X", 0
    fields = rest.split()
    return head.partition("(")[2], fields[0], int(fields[19])
