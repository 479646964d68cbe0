"""Labs whose directory was deleted while they ran, and names in /run/netns that no keeper holds any more.

A keeper that loses its directory ends within `keeper.REGISTERED_CHECK_S`. This module finds a lab in that moment, a
stopped keeper, and the remains of a lab whose boot and keeper were killed after their directory had been deleted.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

from labctl.errors import DeadlineExceeded
from labctl.lab.client import state_dir
from labctl.lab.client.boot_process import BOOT_NAME
from labctl.lab.client.lab_directory import (
    BOOT,
    DIRECTORY_FLAGS,
    NETNS_DIRECTORY,
    file_name,
    leads_to_a_descriptor,
    making,
    read,
)
from labctl.structs import Struct
from labctl.unpatched import monotonic

END_DEADLINE_S = 10.0


class Orphan(Struct, frozen=True):
    """A running lab that cannot be found by its name."""

    name: str
    boot_pid: int

    def __str__(self) -> str:
        return f"lab {self.name}: its directory was deleted, and process {self.boot_pid} still holds the lab"


def orphans() -> list[Orphan]:
    """The orphans of the state directory that this process uses. LabError if that is not safely the user's."""
    configured = str(state_dir.configured_directory())
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
                arguments = os.fsdecode(_content(pid, "cmdline")).split("\0")
                label = next((argument for argument in arguments if argument.startswith(f"{BOOT_NAME}=")), "")
                if not label or _uid(pid) != os.geteuid():
                    continue
                _, name, directory = label.split("=", 2)
                yield int(pid), name, directory


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
