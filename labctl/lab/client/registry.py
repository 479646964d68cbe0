"""Labs that stay: end one, and remove what is left of killed ones.

Orphans are labs whose directory was deleted while they ran, and names in /run/netns that no keeper holds any more. A
keeper that loses its directory ends within `keeper.REGISTERED_CHECK_S`. An orphan is a lab in that moment, a stopped
keeper, or the remains of a lab whose boot and keeper were killed after their directory had been deleted.
"""

from __future__ import annotations

import contextlib
import os
import select
from contextlib import ExitStack, contextmanager

from labctl.clock import monotonic
from labctl.errors import DeadlineExceeded, InputError, LabError, LabGone
from labctl.lab.client import lab_directory, state_dir
from labctl.lab.client.connection import Connection, connect_in, credentials, failed
from labctl.lab.client.lab_client import hello_request, is_other_version
from labctl.lab.client.lab_directory import BOOT, NETNS_DIRECTORY, lab_of, leads_to_a_descriptor, making
from labctl.lab.client.rpc_client import check_reply
from labctl.lab.client.state_dir import DIRECTORY_FLAGS, LAST_WORDS, file_name, name_of, read
from labctl.lab.frames import FrameStream, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator
else:
    import _signal as signal  # without the enums of `signal`

END_DEADLINE_S = 10.0


class Orphan:
    """A running lab that cannot be found by its name."""

    def __init__(self, name: str, boot_pid: int) -> None:
        self.name = name
        self.boot_pid = boot_pid

    def __str__(self) -> str:
        return f"lab {self.name}: its directory was deleted, and process {self.boot_pid} still holds the lab"


def orphans() -> list[Orphan]:
    """The orphans of the state directory that this process uses. LabError if that is not safely the user's."""
    configured = os.path.realpath(state_dir.configured_directory())
    with state_dir.opened_state() as state:
        return [
            Orphan(name, pid)
            for pid, name, directory in _boots()
            if directory == configured and not _is_registered(state, name, pid)
        ]


def end(orphan: Orphan) -> None:
    """End the lab; returns when its processes have ended. DeadlineExceeded."""
    from labctl.kernel.processes import ends_within, keepers_of

    until = monotonic() + END_DEADLINE_S
    with ExitStack() as stack:
        pidfds = []
        for pid in (*keepers_of(orphan.boot_pid), orphan.boot_pid):  # boot cleans up when the keeper has ended
            with contextlib.suppress(ProcessLookupError):
                pidfds.append(os.pidfd_open(pid))
                stack.callback(os.close, pidfds[-1])
        if orphan.boot_pid not in {pid for pid, _, _ in _boots()}:
            return
        for number, pidfd in enumerate(pidfds):
            is_boot = number == len(pidfds) - 1
            if is_boot and ends_within(pidfd, END_DEADLINE_S / 2):
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not all(ends_within(pidfd, until - monotonic()) for pidfd in pidfds):
            raise DeadlineExceeded(f"lab {orphan.name}: its processes could not be ended within {END_DEADLINE_S:g} s.")


def end_named(name: str) -> bool:
    """End the orphans of that name; False if there is none."""
    found = [each for each in orphans() if each.name == name]
    for each in found:
        end(each)
    return bool(found)


def remove_dangling_names() -> list[str]:
    """Remove the names in /run/netns that led to a keeper's descriptor and dangle; return their paths."""
    removed: list[str] = []
    try:
        netns = os.open(NETNS_DIRECTORY, DIRECTORY_FLAGS)
    except OSError:  # no lab has had names
        return removed
    try:
        namespace_device = os.stat("/proc/self/ns/net").st_dev
        for name in os.listdir(netns):
            with contextlib.suppress(OSError):  # not a link, or not ours to remove
                if leads_to_a_descriptor(os.readlink(name, dir_fd=netns)) and not _is_on(namespace_device, name, netns):
                    os.unlink(name, dir_fd=netns)
                    removed.append(f"{NETNS_DIRECTORY}/{name}")
    except FileNotFoundError:
        return removed  # /proc is not mounted
    finally:
        os.close(netns)
    return removed


def _is_on(device: int, name: str, directory: int) -> bool:
    """Whether the link leads to a file on that device, as namespaces are; a pid may be another process's by now."""
    try:
        return os.stat(name, dir_fd=directory).st_dev == device
    except FileNotFoundError:
        return False


def _boots() -> Iterator[tuple[int, str, str]]:
    """This user's boots of labs that stay: pid, the lab's name, its state directory."""
    with contextlib.suppress(FileNotFoundError):  # /proc is not mounted
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError, ValueError):
                if _content(pid, "comm") != b"labctl-boot\n":
                    continue
                # Standard error of boot is a file in the lab's directory. The link names it also when it was deleted.
                words = os.readlink(f"/proc/{pid}/fd/2").removesuffix(" (deleted)")
                directory, lab, file = words.rsplit("/", 2)
                if file == LAST_WORDS and _uid(pid) == os.geteuid():
                    yield int(pid), lab_of(lab), directory


def _content(pid: str, file: str) -> bytes:
    with open(f"/proc/{pid}/{file}", "rb") as opened:
        return opened.read()


def _uid(pid: str) -> int:
    """The effective uid; the owner of the files in /proc is root if the process is not dumpable."""
    line = next(line for line in _content(pid, "status").splitlines() if line.startswith(b"Uid:"))
    return int(line.split()[2])


def _is_registered(state: int, name: str, pid: int) -> bool:
    """Whether the lab's directory exists and records that process, or is being made."""
    from labctl.kernel.processes import start_time

    if os.access(making(name), os.F_OK, dir_fd=state):
        return True
    try:
        directory = os.open(file_name(name), DIRECTORY_FLAGS, dir_fd=state)
    except OSError:
        return False
    try:
        return read(directory, BOOT).split() == [str(pid), str(start_time(pid))]
    finally:
        os.close(directory)


DOWN_DEADLINE_S = 10.0


def check_free(state: int, name: str) -> None:
    """Remove the remains of an earlier lab of that name (inside `transition`). InputError if the lab runs."""
    if state_dir.is_alive(state, name):
        raise InputError(
            f"lab {name}: is running already. `labctl up` with the lab's topology reconciles it, --name makes another "
            f"one, `labctl down {name}` ends it."
        )
    lab_directory.clear_if_dead(state, name)
    end_unfinished(state, name)


def take_down(name: str, *, force: bool = False, deadline_s: float = DOWN_DEADLINE_S) -> None:
    """End the lab of that name and wait until its processes have ended.

    Asks the keeper first unless `force`; kills it (by pidfd, its identity verified) if it does not end in time.
    InputError if there is no such lab; DeadlineExceeded if it cannot be ended.
    """

    if state_dir.lab_name_problem(name):
        raise state_dir.no_such_lab(name, state_dir.labs())
    with state_dir.opened_state() as state:
        was_there = state_dir.is_alive(state, name)
        with lab_directory.transition(state, name, deadline_s=deadline_s + lab_directory.TRANSITION_DEADLINE_S):
            if state_dir.is_alive(state, name):
                _end(state, name, file_name(name), force=force, deadline_s=deadline_s)
            elif not was_there and not lab_directory.clear_if_dead(state, name) and not end_named(name):
                raise state_dir.no_such_lab(name, state_dir.labs())
            lab_directory.clear_if_dead(state, name)


def end_unfinished(state: int, name: str, *, deadline_s: float = DOWN_DEADLINE_S) -> None:
    """End a lab of that name that `up` began and did not complete, if any (inside `transition`)."""
    entry = making(name)
    if not lab_directory.is_ended(state, entry, monotonic() + deadline_s / 2):
        _end(state, name, entry, force=True, deadline_s=deadline_s / 2)
    lab_directory.clear_if_dead(state, name, entry)


def sweep(report: Callable[[str], None] | None = None) -> list[str]:
    """Remove the remains of dead labs of this user; return the removed paths, for people.

    Calls `report` with the last words of each keeper that failed.
    """
    removed: list[str] = []
    with state_dir.opened_state() as state:
        base = state_dir.configured_directory()
        for entry in os.listdir(state):
            name = name_of(entry)
            if name.startswith("."):
                name = name[1:].removesuffix(".making").removesuffix(".lock")
            if state_dir.lab_name_problem(name):
                continue
            with contextlib.suppress(DeadlineExceeded), lab_directory.transition(state, name, deadline_s=0.0):
                if not entry.endswith(".lock") or entry[0] != ".":
                    words = state_dir.last_words(state, entry)
                    cleared = lab_directory.clear_if_dead(state, name, entry)
                    if words and cleared and report is not None:
                        report(failed(name, words))
                    removed += cleared
        has_host_changes = _has_host_changes(state)
    found = [path if path.startswith("/") else os.path.join(base, path) for path in removed]
    if os.geteuid() == 0:
        found += remove_dangling_names()
    return found + _undo_host_changes() if has_host_changes else found


def _has_host_changes(state: int) -> bool:
    """Whether labs, dead or alive, have recorded changes of the machine (labctl.lab.keeper.host_changes)."""
    with contextlib.suppress(FileNotFoundError):
        directory = os.open("@outside", DIRECTORY_FLAGS, dir_fd=state)
        try:
            return bool(os.listdir(directory))
        finally:
            os.close(directory)
    return False


def _undo_host_changes() -> list[str]:
    from labctl.lab.keeper import host_changes

    try:
        return host_changes.sweep()
    except LabError as error:  # a command must not fail for the remains of another lab
        return [f"nothing of what is left on the machine: {error}"]


def _end(state: int, name: str, entry: str, *, force: bool, deadline_s: float) -> None:
    """End the processes that hold the lock of a lab's directory `entry` (inside `transition`)."""
    directory = os.open(entry, DIRECTORY_FLAGS, dir_fd=state)
    try:
        with _holders(name, directory, deadline_s) as (keeper, boot, stream):
            half = deadline_s / 2
            if stream is not None and not force and _ask_down(stream, until=monotonic() + half):
                if lab_directory.is_ended(state, entry, monotonic() + half):
                    return
            elif keeper is None and lab_directory.is_ended(state, entry, monotonic() + half):
                return
            for pidfd in (keeper, boot):  # boot ends after the keeper, unless it is stopped
                if pidfd is not None:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    if lab_directory.is_ended(state, entry, monotonic() + half / 2):
                        return
            if not lab_directory.is_ended(state, entry, monotonic() + half):
                raise DeadlineExceeded(f"lab {name}: its processes could not be ended within {deadline_s:g} s.")
    finally:
        os.close(directory)


@contextmanager
def _holders(
    name: str, directory: int, deadline_s: float
) -> Iterator[tuple[int | None, int | None, FrameStream | None]]:
    """pidfds of keeper and boot as far as they can be found, and a stream to the keeper.

    At the end of the `with`, wait for both: a process that ends closes its lock before it has ended.
    """
    from labctl.kernel.processes import ends_within

    with contextlib.ExitStack() as stack:
        stream, keeper = None, None
        boot = _boot_of(directory)
        if boot is not None:
            stack.callback(os.close, boot)
        with contextlib.suppress(LabGone, DeadlineExceeded):
            connection = connect_in(directory, name, 1.0)
            stack.callback(connection.close)
            keeper = _keeper_of(connection)
            if keeper is not None:
                stack.callback(os.close, keeper)
            stream = FrameStream(connection.channel)
        yield keeper, boot, stream
        until = monotonic() + deadline_s
        for pidfd in (keeper, boot):
            if pidfd is not None:
                ends_within(pidfd, until - monotonic())


def _keeper_of(connection: Connection) -> int | None:
    """A pidfd of the process at the other end; None if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(connection.keeper_pid)
        # While the connection is not hung up, no other process has got the pid.
        poller = select.poll()
        poller.register(connection.channel, 0)
        if not poller.poll(0):
            return pidfd
        os.close(pidfd)
    return None


def _boot_of(directory: int) -> int | None:
    """A pidfd of the process that recorded itself as boot; None if it has ended."""
    from labctl.kernel.processes import start_time

    pid, _, started = read(directory, BOOT).strip().partition(" ")
    if not (pid.isdecimal() and started.isdecimal()):
        return None
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(int(pid))
        if start_time(int(pid)) == int(started):
            return pidfd
        os.close(pidfd)
    return None


def _ask_down(stream: FrameStream, until: float) -> bool:
    """Request the end of the lab; False if the keeper does not answer in time, or is of another version."""
    try:
        with credentials() as shown:
            stream.send_body(1, hello_request(), shown, until=until)
        stream.send_body(2, to_json(["Down"]), until=until)
        while (received := stream.receive_body(until=until)) is not None:
            check_reply(received[1])
            if received[0] == 1 and is_other_version(received[1]):
                return False
    except LabGone:
        return True
    except DeadlineExceeded:
        return False
    return True
