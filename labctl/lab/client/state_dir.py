"""The state directory: a private directory of the user with one directory for each lab that stays.

A lab is alive as long as a process holds the lock in its directory: its boot and its keeper do, no other process. A
command that makes or ends a lab holds `.LAB.lock` meanwhile. See docs/labs-that-stay.md. Imports nothing that is slow
to import, for `labctl exec`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from labctl.errors import InputError, LabctlError, LabError, describe_errno
from labctl.names import node_name_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LAB_NAME_MAX_BYTES = 32
# In the directory of a lab (labctl.lab.client.lab_directory).
LOCK, SOCKET, LOGS, LAST_WORDS = "lock", "socket", "logs", "last-words"
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def file_name(name: str) -> str:
    """The name for functions of `os`, so that its bytes are UTF-8 in any locale."""
    return os.fsdecode(name.encode())


def name_of(file: str) -> str:
    """The inverse of `file_name`; "" if the file's name is not UTF-8."""
    try:
        return os.fsencode(file).decode()
    except UnicodeDecodeError:
        return ""


def read(directory: int, name: str, limit_bytes: int = 16 << 20) -> str:
    """The text of a file in the open `directory`; "" if it does not exist."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return ""
    try:
        return os.read(descriptor, limit_bytes).decode(errors="replace")
    finally:
        os.close(descriptor)


def state_directory() -> str:
    """The user's directory, created if it is missing. LabError if it is not safely the user's."""
    path = configured_directory()
    os.close(_open_state(path))
    return path


def configured_directory() -> str:
    """The user's directory, which may not exist yet."""
    return possible_state_directories()[0]


def possible_state_directories() -> list[str]:
    """The directories that may hold this user's labs, in any environment; this process uses the first."""
    uid = os.geteuid()
    found: list[str] = []
    if given := os.environ.get("LABCTL_STATE_DIR"):
        found.append(given if os.path.isabs(given) else os.path.join(os.getcwd(), given))
    if uid == 0:
        return [*found, "/run/labctl"]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and _belongs_to(runtime, uid):
        found.append(os.path.join(runtime, "labctl"))
    return [*found, f"/tmp/labctl-{uid}", f"/run/user/{uid}/labctl"]


def _belongs_to(path: str, uid: int) -> bool:
    try:
        return os.stat(path).st_uid == uid
    except OSError:
        return False


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
        try:
            names = os.listdir(directory)
        except OSError:
            continue  # no lab is there
        paths = [os.path.join(directory, name) for name in names]
        found += [path for path in paths if os.path.exists(f"{path}/{LOCK}")]
    return found


def lab_name_problem(name: str) -> str:
    """What is wrong with a lab's name as the end of a sentence, or "": a node's name of at most 32 bytes."""
    if problem := node_name_problem(name):
        return problem
    size_bytes = len(name.encode())
    return f"is {size_bytes} bytes long; at most {LAB_NAME_MAX_BYTES} are allowed" * (size_bytes > LAB_NAME_MAX_BYTES)


class opened_state:
    """A context with a descriptor of the state directory. LabError if it is not safely the user's."""

    def __enter__(self) -> int:
        self._descriptor = _open_state(configured_directory())
        return self._descriptor

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        os.close(self._descriptor)


def last_words(state: int, name: str) -> str:
    """What the keeper of a dead lab wrote to stderr before it ended; "" if nothing is left of it."""
    try:
        directory = os.open(file_name(name), DIRECTORY_FLAGS, dir_fd=state)
    except OSError:
        return ""
    try:
        return read(directory, LAST_WORDS)[-4000:].strip()
    except OSError:
        return ""
    finally:
        os.close(directory)


def labs() -> list[str]:
    """The names of this user's running labs, sorted. LabError if the state directory is not safely the user's."""
    with opened_state() as state:
        names = map(name_of, os.listdir(state))
        return sorted(name for name in names if not lab_name_problem(name) and is_alive(state, name))


def is_alive(state: int, name: str) -> bool:
    """Whether a lab of that name is running."""
    return is_locked(state, file_name(name))


def choose(name: str | None) -> str:
    """`name` if such a lab runs; for None the only running lab. InputError names the choices."""
    running = labs()
    if name is None:
        if len(running) == 1:
            return running[0]
        if not running:
            raise InputError("No lab is running. Try: labctl up pair")
        raise InputError(f"Several labs are running: {', '.join(running)}. Give the name of one, as LAB or --lab LAB.")
    if name not in running:
        raise no_such_lab(name, running)
    return name


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


def _open_state(path: str) -> int:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        state = os.open(path, DIRECTORY_FLAGS)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EEXIST):
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


def is_locked(state: int, entry: str) -> bool:
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
