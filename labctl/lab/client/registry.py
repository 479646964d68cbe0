"""Choosing, ending and sweeping the labs that stay."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from labctl.errors import DeadlineExceeded, InputError, LabError, LabGone
from labctl.lab.client import lab_connection, state_dir
from labctl.lab.client.lab_directory import BOOT, DIRECTORY_FLAGS, file_name, making, name_of, read
from labctl.lab.protocol import VERSION, Channel, Down, Failed, Hello
from labctl.unpatched import monotonic

DOWN_DEADLINE_S = 10.0


def choose(name: str | None) -> str:
    """`name` if such a lab runs; for None the only running lab. InputError names the choices."""
    running = state_dir.labs()
    if name is None:
        if len(running) == 1:
            return running[0]
        if not running:
            raise InputError("No lab is running. Try: labctl up pair")
        raise InputError(f"Several labs are running: {', '.join(running)}. Try: --lab NAME")
    if name not in running:
        raise state_dir.no_such_lab(name, running)
    return name


def check_free(state: int, name: str) -> None:
    """Remove the remains of an earlier lab of that name (inside `transition`). InputError if the lab runs."""
    if state_dir.is_alive(state, name):
        raise InputError(
            f"lab {name}: is running already. `labctl up` with the lab's topology reconciles it, --name makes another "
            f"one, `labctl down {name}` ends it."
        )
    state_dir.clear_if_dead(state, name)
    end_unfinished(state, name)


def take_down(name: str, *, force: bool = False, deadline_s: float = DOWN_DEADLINE_S) -> None:
    """End the lab of that name and wait until its processes have ended.

    Asks the keeper first unless `force`; kills it (by pidfd, its identity verified) if it does not end in time.
    InputError if there is no such lab; DeadlineExceeded if it cannot be ended.
    """
    from labctl.lab.client import orphans

    if state_dir.lab_name_problem(name):
        raise state_dir.no_such_lab(name, state_dir.labs())
    with state_dir.opened_state() as state:
        was_there = state_dir.is_alive(state, name)
        with state_dir.transition(state, name, deadline_s=deadline_s + state_dir.TRANSITION_DEADLINE_S):
            if state_dir.is_alive(state, name):
                _end(state, name, file_name(name), force=force, deadline_s=deadline_s)
            elif not was_there and not state_dir.clear_if_dead(state, name) and not orphans.end_named(name):
                raise state_dir.no_such_lab(name, state_dir.labs())
            state_dir.clear_if_dead(state, name)


def end_unfinished(state: int, name: str, *, deadline_s: float = DOWN_DEADLINE_S) -> None:
    """End a lab of that name that `up` began and did not complete, if any (inside `transition`)."""
    entry = making(name)
    if not state_dir.is_ended(state, entry, monotonic() + deadline_s / 2):
        _end(state, name, entry, force=True, deadline_s=deadline_s / 2)
    state_dir.clear_if_dead(state, name, entry)


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
            with contextlib.suppress(DeadlineExceeded), state_dir.transition(state, name, deadline_s=0.0):
                if not entry.endswith(".lock") or entry[0] != ".":
                    words = state_dir.last_words(state, entry)
                    cleared = state_dir.clear_if_dead(state, name, entry)
                    if words and cleared and report is not None:
                        report(lab_connection.failed(name, words))
                    removed += cleared
        has_host_changes = _has_host_changes(state)
    found = [path if path.startswith("/") else str(base / path) for path in removed]
    if os.geteuid() == 0:
        from labctl.lab.client import orphans

        found += orphans.remove_dangling_names()
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
        with _holders(name, directory, deadline_s) as (keeper, boot, channel):
            half = deadline_s / 2
            if channel is not None and not force and _ask_down(channel, until=monotonic() + half):
                if state_dir.is_ended(state, entry, monotonic() + half):
                    return
            elif keeper is None and state_dir.is_ended(state, entry, monotonic() + half):
                return
            for pidfd in (keeper, boot):  # boot ends after the keeper, unless it is stopped
                if pidfd is not None:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    if state_dir.is_ended(state, entry, monotonic() + half / 2):
                        return
            if not state_dir.is_ended(state, entry, monotonic() + half):
                raise DeadlineExceeded(f"lab {name}: its processes could not be ended within {deadline_s:g} s.")
    finally:
        os.close(directory)


@contextmanager
def _holders(name: str, directory: int, deadline_s: float) -> Iterator[tuple[int | None, int | None, Channel | None]]:
    """pidfds of keeper and boot as far as they can be found, and a channel to the keeper.

    At the end of the `with`, wait for both: a process that ends closes its lock before it has ended.
    """
    from labctl.kernel.processes import ends_within

    with contextlib.ExitStack() as stack:
        channel, keeper = None, None
        boot = _boot_of(directory)
        if boot is not None:
            stack.callback(os.close, boot)
        with contextlib.suppress(LabGone, DeadlineExceeded):
            connection = lab_connection.connect_in(directory, name, 1.0)
            stack.callback(connection.close)
            keeper = _keeper_of(connection)
            if keeper is not None:
                stack.callback(os.close, keeper)
            channel = Channel(connection.channel)
        yield keeper, boot, channel
        until = monotonic() + deadline_s
        for pidfd in (keeper, boot):
            if pidfd is not None:
                ends_within(pidfd, until - monotonic())


def _keeper_of(connection: lab_connection.Connection) -> int | None:
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


def _ask_down(channel: Channel, until: float) -> bool:
    """Request the end of the lab; False if the keeper does not answer in time."""
    try:
        with lab_connection.credentials() as shown:
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
