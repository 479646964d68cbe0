"""Where labs that stay are found: one private directory a user, one directory in it a lab (docs/labs-that-stay.md).

A lab is alive as long as somebody holds the lock in its directory: its boot and its keeper do, nobody else. Who makes
or ends a lab holds `.LAB.lock` meanwhile.

The making of a lab that stays: its name is free, its boot lives on without the one who started it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from labctl.errors import DeadlineExceeded, InputError, LabctlError, LabError, describe_errno
from labctl.lab.client.boot_process import Boot
from labctl.lab.client.state_dir import (
    DIRECTORY_FLAGS,
    LAST_WORDS,
    LOCK,
    LOGS,
    NETNS_DIRECTORY,
    Place,
    file_name,
    making,
    name_of,
    read,
)
from labctl.names import node_name_problem
from labctl.unpatched import monotonic

LAB_NAME_MAX_BYTES = 32
TRANSITION_DEADLINE_S = 30.0
POLL_S = 0.01  # flock(2) knows no deadline


def state_directory() -> Path:
    """The user's directory, made when it is missing. LabError when it is not safely ours."""
    path = configured_directory()
    os.close(_open_state(path))
    return path


def lab_name_problem(name: str) -> str:
    """What is wrong with a lab's name as a sentence's end, or "": a node's name of at most 32 bytes."""
    if problem := node_name_problem(name):
        return problem
    size_bytes = len(name.encode())
    return f"is {size_bytes} bytes long; at most {LAB_NAME_MAX_BYTES} are allowed" * (size_bytes > LAB_NAME_MAX_BYTES)


def labs() -> list[str]:
    """The names of this user's running labs, sorted. LabError when the state directory is not safely ours."""
    with opened_state() as state:
        names = map(name_of, os.listdir(state))
        return sorted(name for name in names if not lab_name_problem(name) and is_alive(state, name))


def choose(name: str | None) -> str:
    """`name` if such a lab runs; for None the only running one. InputError names the choices."""
    running = labs()
    if name is None:
        if len(running) == 1:
            return running[0]
        if not running:
            raise InputError("No lab is running. Try: labctl up pair")
        raise InputError(f"Several labs are running: {', '.join(running)}. Say which with --lab.")
    if name not in running:
        raise no_such_lab(name, running)
    return name


def no_such_lab(name: str, running: list[str]) -> InputError:
    """The error to raise for a name that no running lab has."""
    others = f"Running: {', '.join(running)}." if running else "No lab is running (`labctl up` starts one)."
    return InputError(f"lab {name}: there is none of that name. {others}")


def sweep(report: Callable[[str], None] | None = None) -> list[str]:
    """Remove what dead labs of this user left; returns what was removed (paths), for people.

    `report` is called with the last words of each keeper that failed.
    """
    from labctl.lab.client import orphans

    removed: list[str] = []
    with opened_state() as state:
        base = configured_directory()
        for entry in os.listdir(state):
            name = name_of(entry)
            if name.startswith("."):
                name = name[1:].removesuffix(".making").removesuffix(".lock")
            if lab_name_problem(name):
                continue
            with contextlib.suppress(DeadlineExceeded), transition(state, name, deadline_s=0.0):
                if not entry.endswith(".lock") or entry[0] != ".":
                    words = last_words(state, entry)
                    cleared = clear_if_dead(state, name, entry)
                    if words and cleared and report is not None:
                        report(failed(name, words))
                    removed += cleared
        outside = _changes_recorded(state)
    found = [path if path.startswith("/") else str(base / path) for path in removed]
    if os.geteuid() == 0:
        found += orphans.remove_dangling_names()
    return found + _undone_outside() if outside else found


def _changes_recorded(state: int) -> bool:
    """Whether labs, dead or alive, have written down changes of the machine (labctl.lab.keeper.host_changes)."""
    with contextlib.suppress(FileNotFoundError):
        directory = os.open("@outside", DIRECTORY_FLAGS, dir_fd=state)
        try:
            return bool(os.listdir(directory))
        finally:
            os.close(directory)
    return False


def _undone_outside() -> list[str]:
    from labctl.lab.keeper import host_changes

    try:
        return host_changes.sweep()
    except LabError as error:  # a command is not to fail for what another lab has left
        return [f"nothing of what is left on the machine: {error}"]


def failed(name: str, words: str) -> str:
    """The message about a lab whose keeper failed with these last words."""
    return f"lab {name}: its keeper has failed, and the lab with it. Its last words:\n{words}"


def log_paths(lab: str, node: str, name: str) -> tuple[Path, Path]:
    """The older and the current half of a detached process's log; either may be missing."""
    for what in (lab, node, name):
        if problem := node_name_problem(what):
            raise InputError(f"The name `{what}` {problem}.")
    directory = configured_directory() / file_name(lab) / LOGS / file_name(node)
    return directory / f"{file_name(name)}.log.1", directory / f"{file_name(name)}.log"


def last_words(state: int, name: str) -> str:
    """What the keeper of a lab that is dead wrote before it ended, "" when nothing is left of it."""
    with contextlib.suppress(OSError):
        directory = os.open(file_name(name), DIRECTORY_FLAGS, dir_fd=state)
        try:
            return read(directory, LAST_WORDS)[-4000:].strip()
        finally:
            os.close(directory)
    return ""


@contextmanager
def opened_state() -> Iterator[int]:
    """A descriptor of the state directory, checked. LabError when it is not safely ours."""
    state = _open_state(configured_directory())
    try:
        yield state
    finally:
        os.close(state)


@contextmanager
def transition(state: int, name: str, *, deadline_s: float = TRANSITION_DEADLINE_S) -> Iterator[None]:
    """Only this process makes or ends the lab of that name inside the `with`. DeadlineExceeded, LabError.

    Where no file can be made any more, which must not keep a lab from being ended, the whole directory is locked.
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
            if not locked(lock, until):
                raise DeadlineExceeded(
                    f"lab {name}: another command is making or ending it, and was not done within {deadline_s:g} s."
                )
            if is_own and not _is_still(state, path, lock):
                continue  # the one that held it has removed it
            if is_own:
                stack.callback(_remove_quietly, state, path)  # while it is held: who waits for it sees that it has gone
            yield
            return


def reserve(state: int, name: str) -> tuple[Place, int]:
    """A new directory for a lab that is to be made (inside `transition`), and a listening socket's descriptor in it.

    The caller owns both; the lock in it is held by whoever has the place's descriptors.
    """
    from labctl.lab.client.lab_connection import bind_listener

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
            listener = bind_listener(directory)
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
        return Place(name, directory, parent, netns, lock), listener


def clear_if_dead(state: int, name: str, entry: str | None = None) -> list[str]:
    """Remove what is left of a lab that has ended (inside `transition`); returns what that was."""
    removed: list[str] = []
    for each in (file_name(name), making(name)) if entry is None else (entry,):
        if _is_alive(state, each) or not _is_labs(state, each):
            continue
        try:
            directory = os.open(each, DIRECTORY_FLAGS, dir_fd=state)
        except FileNotFoundError:
            continue  # its boot has just removed it
        except OSError as error:
            raise cannot(f"sweep {each}", error) from error
        place = Place(name, directory, os.dup(state), _open_netns(), os.dup(directory))
        try:
            removed += place.clear()
        except OSError as error:
            raise cannot(f"sweep {each}", error) from error
        finally:
            place.close()
    return removed


def is_alive(state: int, name: str) -> bool:
    """Whether a lab of that name is running."""
    return _is_alive(state, file_name(name))


def is_ended(state: int, entry: str, until: float) -> bool:
    """Wait until nobody holds the lock of the directory `entry` any more; False when that is not so by `until`."""
    while _is_alive(state, entry):
        if monotonic() >= until:
            return False
        pause()
    return True


def cannot(attempted: str, error: OSError) -> LabctlError:
    """What a refusal by the state directory's file system is to a person."""
    came_back = describe_errno(error.errno or 0)
    hint = "Is the disk full or read-only? LABCTL_STATE_DIR names another directory."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "See `ulimit -n`."
    elif error.errno == errno.ENOENT:
        from labctl.kernel.processes import remedy

        hint = remedy(error.errno) or "Has it just been deleted?"
    return LabError(f"state directory {configured_directory()}: cannot {attempted}: {came_back}. {hint}")


def locked(descriptor: int, until: float) -> bool:
    """Take the lock of the file open at `descriptor`; False when another still holds it at `until`."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if monotonic() >= until:
                return False
            pause()


def pause() -> None:
    """Let a moment pass before something is looked at again that tells nobody of its change."""
    select.select([], [], [], POLL_S)


def possible_state_directories() -> list[Path]:
    """The directories in which labctl looks for this user's labs, in any environment; this process uses the first."""
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
    """The directories that programs of a lab must not see, for they lead to labs of this user: the state directories.

    Of one that contains a path that has to stay visible (a project that is its own state directory) it is the labs in
    it, as they are now.
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


def configured_directory() -> Path:
    """The user's directory, which may not be there yet."""
    return possible_state_directories()[0]


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
    """A descriptor of /run/netns, made if needed as ip-netns(8) does; -1 where labs have no names on the machine."""
    from labctl.kernel.privilege import effective_capabilities, needs_user_namespace

    if needs_user_namespace(os.geteuid(), effective_capabilities()):
        return -1
    with contextlib.suppress(OSError):  # a read-only /run: labs do without names
        os.makedirs(NETNS_DIRECTORY, mode=0o755, exist_ok=True)
        return os.open(NETNS_DIRECTORY, DIRECTORY_FLAGS)
    return -1


def _is_alive(state: int, entry: str) -> bool:
    """Whether somebody holds the lock of that directory."""
    try:
        lock = os.open(f"{entry}/{LOCK}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=state)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise cannot(f"look at lab {entry}", error) from error
        return False  # it is not there, or not labctl's
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _is_labs(state: int, entry: str) -> bool:
    """Whether the entry is a lab's directory: one with a lock, or one that was just to be given it."""
    try:
        is_directory = stat.S_ISDIR(os.stat(entry, dir_fd=state, follow_symlinks=False).st_mode)
        return is_directory and (entry.startswith(".") or os.access(f"{entry}/{LOCK}", os.F_OK, dir_fd=state))
    except FileNotFoundError:
        return False


def _is_still(state: int, path: str, descriptor: int) -> bool:
    try:
        found = os.stat(path, dir_fd=state, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def _remove_quietly(state: int, path: str) -> None:
    with contextlib.suppress(OSError):  # it is empty, and the next one to use it removes it
        os.unlink(path, dir_fd=state)


def take_down(name: str, *, force: bool = False, deadline_s: float = 10.0) -> None:
    """End the lab of that name and wait until it is gone: `labctl.lab.client.lab_connection.take_down`."""
    from labctl.lab.client import lab_connection

    lab_connection.take_down(name, force=force, deadline_s=deadline_s)


def check_free(state: int, name: str) -> None:
    """The name is nobody's, and nothing of an earlier lab of that name is left."""
    if is_alive(state, name):
        raise InputError(
            f"lab {name}: is running already. `labctl up` with the lab's topology reconciles it, --name makes another "
            f"one, `labctl down {name}` ends it."
        )
    clear_if_dead(state, name)
    end_unfinished(state, name)


def end_unfinished(state: int, name: str) -> None:
    """Nothing is left of a lab that was to stay and does not."""
    from labctl.lab.client import lab_connection

    lab_connection.end_unfinished(state, name)


def boot_that_stays(place: Place) -> Boot:
    """The boot of a lab in that place, where it leaves its last words. LabError when no file can be made there."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        words = os.open(LAST_WORDS, flags, 0o600, dir_fd=place.directory)
    except OSError as error:
        raise cannot("make a file in it", error) from error
    return Boot.start(errors=words, lab=place.lab, state_directory=str(configured_directory()))
