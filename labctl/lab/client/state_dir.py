"""The state directory: a private directory of the user with one directory for each lab that stays.

A lab is alive as long as a process holds the lock in its directory: its boot and its keeper do, no other process. A
command that makes or ends a lab holds `.LAB.lock` meanwhile. See docs/labs-that-stay.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from labctl.errors import DeadlineExceeded, InputError, LabctlError, LabError, describe_errno
from labctl.lab.client.lab_directory import (
    DIRECTORY_FLAGS,
    LAST_WORDS,
    LOCK,
    LOGS,
    NETNS_DIRECTORY,
    SOCKET,
    LabDirectory,
    file_name,
    is_same,
    making,
    name_of,
    read,
)
from labctl.names import node_name_problem
from labctl.unpatched import Socket, monotonic

LAB_NAME_MAX_BYTES = 32
TRANSITION_DEADLINE_S = 30.0
POLL_INTERVAL_S = 0.01  # flock(2) has no timeout


def state_directory() -> Path:
    """The user's directory, created if it is missing. LabError if it is not safely the user's."""
    path = configured_directory()
    os.close(_open_state(path))
    return path


def configured_directory() -> Path:
    """The user's directory, which may not exist yet."""
    return possible_state_directories()[0]


def possible_state_directories() -> list[Path]:
    """The directories that may hold this user's labs, in any environment; this process uses the first."""
    uid = os.geteuid()
    found: list[Path] = []
    if given := os.environ.get("LABCTL_STATE_DIR"):
        found.append(Path(given).absolute())
    if uid == 0:
        return [*found, Path("/run/labctl")]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime):
        with contextlib.suppress(OSError):
            if os.stat(runtime).st_uid == uid:
                found.append(Path(runtime) / "labctl")
    return [*found, Path(f"/tmp/labctl-{uid}"), Path(f"/run/user/{uid}/labctl")]


def hidden_directories(visible: Iterable[str]) -> list[str]:
    """The state directories, which programs of a lab must not see, since they lead to labs of this user.

    If one contains a path that must stay visible (a project that is its own state directory), the labs in it instead.
    """
    shown = [os.path.realpath(path) for path in visible]
    found: list[str] = []
    for directory in map(os.path.realpath, possible_state_directories()):
        if not any(path == directory or path.startswith(f"{directory}/") for path in shown):
            found.append(directory)
            continue
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            found += [entry.path for entry in entries if os.path.exists(f"{entry.path}/{LOCK}")]
    return found


def lab_name_problem(name: str) -> str:
    """What is wrong with a lab's name as the end of a sentence, or "": a node's name of at most 32 bytes."""
    if problem := node_name_problem(name):
        return problem
    size_bytes = len(name.encode())
    return f"is {size_bytes} bytes long; at most {LAB_NAME_MAX_BYTES} are allowed" * (size_bytes > LAB_NAME_MAX_BYTES)


def log_paths(lab: str, node: str, name: str) -> tuple[Path, Path]:
    """The older and the current half of a detached process's log; either may be missing."""
    for what in (lab, node, name):
        if problem := node_name_problem(what):
            raise InputError(f"The name `{what}` {problem}.")
    directory = configured_directory() / file_name(lab) / LOGS / file_name(node)
    return directory / f"{file_name(name)}.log.1", directory / f"{file_name(name)}.log"


@contextmanager
def opened_state() -> Iterator[int]:
    """A descriptor of the state directory. LabError if it is not safely the user's."""
    state = _open_state(configured_directory())
    try:
        yield state
    finally:
        os.close(state)


@contextmanager
def transition(state: int, name: str, *, deadline_s: float = TRANSITION_DEADLINE_S) -> Iterator[None]:
    """Inside the `with`, only this process makes or ends the lab of that name. DeadlineExceeded, LabError.

    Lock the whole directory if no file can be created, so that a lab can be ended even then.
    """
    path = f".{file_name(name)}.lock"
    until = monotonic() + deadline_s
    while True:
        is_own = True
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=state)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise cannot("make a lock in it", error) from error
            lock, is_own = os.open(".", DIRECTORY_FLAGS, dir_fd=state), False
        with ExitStack() as stack:
            stack.callback(os.close, lock)
            if not _lock(lock, until):
                raise DeadlineExceeded(
                    f"lab {name}: another command is making or ending it, and was not done within {deadline_s:g} s."
                )
            if is_own and not is_same(state, path, lock):
                continue  # the process that held it has removed it
            if is_own:
                stack.callback(_remove_quietly, state, path)  # before unlocking: a waiting process then retries
            yield
            return


def reserve(state: int, name: str) -> tuple[LabDirectory, int]:
    """Create the directory of a new lab (inside `transition`) and a descriptor of a socket to listen on in it.

    The caller owns both. A process that has the directory's descriptors holds the lock.
    """
    temporary = making(name)
    with ExitStack() as stack:
        try:
            os.mkdir(temporary, 0o700, dir_fd=state)
            directory = os.open(temporary, DIRECTORY_FLAGS, dir_fd=state)
            stack.callback(os.close, directory)
            fcntl.flock(directory, fcntl.LOCK_SH)  # as long as the lab lives: systemd-tmpfiles(8) then leaves it alone
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            lock = os.open(LOCK, flags, 0o600, dir_fd=directory)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.mkdir(LOGS, 0o700, dir_fd=directory)
            with Socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.bind(f"/proc/self/fd/{directory}/{SOCKET}")  # a path of any length, in no other directory
                os.chmod(SOCKET, 0o600, dir_fd=directory)
                listener = sock.detach()
            stack.callback(os.close, listener)
            parent = os.dup(state)
            stack.callback(os.close, parent)
            netns = _open_netns()
        except OSError as error:
            stack.close()
            with contextlib.suppress(LabctlError, OSError):  # the next command sweeps it
                clear_if_dead(state, name, temporary)
            raise cannot(f"make the directory of lab {name}", error) from error
        stack.pop_all()
        return LabDirectory(name, directory, parent, netns, lock), listener


def clear_if_dead(state: int, name: str, entry: str | None = None) -> list[str]:
    """Remove the remains of a lab that has ended (inside `transition`); return their paths."""
    removed: list[str] = []
    for each in (file_name(name), making(name)) if entry is None else (entry,):
        if _is_locked(state, each) or not _is_labs(state, each):
            continue
        try:
            directory = os.open(each, DIRECTORY_FLAGS, dir_fd=state)
        except FileNotFoundError:
            continue  # its boot has just removed it
        except OSError as error:
            raise cannot(f"sweep {each}", error) from error
        lab = LabDirectory(name, directory, os.dup(state), _open_netns(), os.dup(directory))
        try:
            removed += lab.clear()
        except OSError as error:
            raise cannot(f"sweep {each}", error) from error
        finally:
            lab.close()
    return removed


def last_words(state: int, name: str) -> str:
    """What the keeper of a dead lab wrote to stderr before it ended; "" if nothing is left of it."""
    with contextlib.suppress(OSError):
        directory = os.open(file_name(name), DIRECTORY_FLAGS, dir_fd=state)
        try:
            return read(directory, LAST_WORDS)[-4000:].strip()
        finally:
            os.close(directory)
    return ""


def labs() -> list[str]:
    """The names of this user's running labs, sorted. LabError if the state directory is not safely the user's."""
    with opened_state() as state:
        names = map(name_of, os.listdir(state))
        return sorted(name for name in names if not lab_name_problem(name) and is_alive(state, name))


def is_alive(state: int, name: str) -> bool:
    """Whether a lab of that name is running."""
    return _is_locked(state, file_name(name))


def is_ended(state: int, entry: str, until: float) -> bool:
    """Wait until no process holds the lock of the directory `entry`; False if one still does at `until`."""
    while _is_locked(state, entry):
        if monotonic() >= until:
            return False
        _pause()
    return True


def no_such_lab(name: str, running: list[str]) -> InputError:
    """The error to raise for a name that no running lab has."""
    others = f"Running: {', '.join(running)}." if running else "Try: labctl up"
    return InputError(f"No lab named {name} is running. {others}")


def cannot(attempted: str, error: OSError) -> LabctlError:
    """The error to raise when the state directory's file system refuses an operation."""
    reason = describe_errno(error.errno or 0)
    hint = "Is the disk full or read-only? LABCTL_STATE_DIR names another directory."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "See `ulimit -n`."
    elif error.errno == errno.ENOENT:
        from labctl.kernel.processes import remedy

        hint = remedy(error.errno) or "Has it just been deleted?"
    return LabError(f"state directory {configured_directory()}: cannot {attempted}: {reason}. {hint}")


def _lock(descriptor: int, until: float) -> bool:
    """Lock the file; False if another process still holds the lock at `until`."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if monotonic() >= until:
                return False
            _pause()


def _pause() -> None:
    select.select([], [], [], POLL_INTERVAL_S)


def _open_state(path: Path) -> int:
    try:
        with contextlib.suppress(FileExistsError):
            os.makedirs(path, mode=0o700)
        state = os.open(path, DIRECTORY_FLAGS)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise LabError(f"state directory {path}: is no directory, or a symbolic link. Remove it.") from error
        raise LabError(
            f"state directory {path}: cannot open it: {describe_errno(error.errno or 0)}. "
            f"LABCTL_STATE_DIR names another directory."
        ) from error
    found = os.fstat(state)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(state)
        raise LabError(
            f"state directory {path}: belongs to user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}; it has to "
            f"be yours alone (mode 700). Remove it, or set LABCTL_STATE_DIR to another directory."
        )
    return state


def _open_netns() -> int:
    """A descriptor of /run/netns, created if needed as ip-netns(8) does; -1 where labs have no names there."""
    from labctl.kernel.privilege import effective_capabilities, needs_user_namespace

    if needs_user_namespace(os.geteuid(), effective_capabilities()):
        return -1
    with contextlib.suppress(OSError):  # a read-only /run: labs do without names
        os.makedirs(NETNS_DIRECTORY, mode=0o755, exist_ok=True)
        return os.open(NETNS_DIRECTORY, DIRECTORY_FLAGS)
    return -1


def _is_locked(state: int, entry: str) -> bool:
    """Whether a process holds the lock of that directory."""
    try:
        lock = os.open(f"{entry}/{LOCK}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=state)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise cannot(f"look at lab {entry}", error) from error
        return False  # it does not exist, or is not labctl's
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _is_labs(state: int, entry: str) -> bool:
    """Whether the entry is a lab's directory: it has a lock, or was about to get one."""
    try:
        is_directory = stat.S_ISDIR(os.stat(entry, dir_fd=state, follow_symlinks=False).st_mode)
        return is_directory and (entry.startswith(".") or os.access(f"{entry}/{LOCK}", os.F_OK, dir_fd=state))
    except FileNotFoundError:
        return False


def _remove_quietly(state: int, path: str) -> None:
    with contextlib.suppress(OSError):  # an empty file; the next process that uses it removes it
        os.unlink(path, dir_fd=state)
