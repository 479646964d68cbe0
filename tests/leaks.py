"""The machine before and after a test: what labctl left behind, if anything.

Looked at: processes that this test session started (children, and whatever carries its mark in the environment, however
it was orphaned) and their namespaces; interfaces of the machine's own network namespace; mounts; this process's
descriptors; files where programs put run-time files (where all the machine's programs put theirs: those with "lab" in
their names). The kernel frees in its own time, so `settled` waits, boundedly.
With LABCTL_LEAK_CHECK=machine every namespace of the machine is compared, for a machine that nobody else uses.

Sessions of root side by side do not see each other's labs: each has a mount namespace in which /run/netns and the state
directory are its own. Mounts that leak are still seen, for in there they are shared, as on a machine with systemd.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from labctl.lab.client.nursery import nurseries
from labctl.timeline.recorder_process import recorders
from labctl.topology.devices import FALLBACK_DEVICES
from tests.patience import patient

MS_SHARED = 1 << 20  # linux/mount.h
PF_KTHREAD = 0x00200000  # linux/sched.h; in proc_pid_stat(5), flags
MARK = "LABCTL_TEST_SESSION"
OWN_PLACES = "LABCTL_TEST_PLACES"
SETTLE_S = patient(10.0)
POLL_S = 0.02
_PART = 1 << 16  # bytes that are read at once
PLACES = ("/run", "/run/lock", "/run/netns", "/run/labctl", "/dev/shm", "/dev/mqueue")
# Plain directories that are made once and stay, as ip-netns(8) leaves its own; what is in them is looked at.
STAYING = frozenset({"/run/netns", "/run/labctl"})
# What modules make in this namespace when the kernel loads them; bonding_masters is a file.
OF_MODULES = FALLBACK_DEVICES | {"bond0", "bonding_masters"}
XDG = ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")


@dataclass(frozen=True, slots=True)
class MachineState:
    """What is compared; each a set of descriptions for people."""

    pids: frozenset[int]
    processes: frozenset[str]
    namespaces: frozenset[str]
    interfaces: frozenset[str]
    mounts: frozenset[str]
    descriptors: frozenset[str]
    files: frozenset[str]

    def left_behind_since(self, before: MachineState) -> list[str]:
        """What is there and was not, and what has gone though it was there (descriptors, mounts, interfaces)."""
        found: list[str] = []
        for field in fields(self)[1:]:
            was: frozenset[str] = getattr(before, field.name)
            now: frozenset[str] = getattr(self, field.name)
            found += [f"{field.name}: new: {item}" for item in sorted(now - was)]
            if field.name in ("interfaces", "mounts"):
                found += [f"{field.name}: gone: {item}" for item in sorted(was - now)]
        return found


def mark_session(worker: str = "") -> str:
    """Mark this process's environment, so that every process started from it can be told from others.

    A worker's mark begins with that of its session, which finds what a worker has left.
    """
    session = os.environ.setdefault(MARK, f"{os.getpid()}-{time.time_ns()}")
    if worker:
        os.environ[MARK] = f"{session}.{worker}"
    return os.environ[MARK]


def enter_own_places(worker: str = "") -> bool:
    """Give this process (of a session or of a worker, at its start) its own /run/netns and /run/labctl; False for
    those that have them from the session."""
    from labctl.kernel import syscalls

    if os.geteuid() != 0 or (os.environ.get(OWN_PLACES) and not worker):
        return False
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except OSError:
        return False  # a root without CAP_SYS_ADMIN, whose labs are like an ordinary user's
    for flags in (syscalls.MS_REC | syscalls.MS_PRIVATE, syscalls.MS_REC | MS_SHARED):
        syscalls.mount("none", "/", "", flags)
    for place in sorted(STAYING):
        # On the machine it stays, and labctl refuses a state directory that others may look into.
        os.makedirs(place, 0o755 if place.endswith("netns") else 0o700, exist_ok=True)
        syscalls.mount("tmpfs", place, "tmpfs", 0, "mode=755" if place.endswith("netns") else "mode=700")
    os.environ[OWN_PLACES] = "1"  # what this session starts is in there, too
    return True


def machine_state(*, labs: Collection[int] = (), of_session: bool = False) -> MachineState:
    """The state now, without the descendants of the processes `labs`: labs that are to outlive the test.

    This process's nursery does not count, but the labs that it has forked do.
    `of_session` is for the process that has the workers: theirs, without what only each of them can look at.
    """
    processes = list(_processes(labs))
    ours = {process.number: process.description for process in processes if process.is_ours}
    everywhere = os.environ.get("LABCTL_LEAK_CHECK") == "machine"
    return MachineState(
        pids=frozenset(ours),
        processes=frozenset(ours.values()),
        namespaces=frozenset(_namespaces(process.number for process in processes if everywhere or process.is_ours)),
        # An ordinary user cannot change these two on the machine: what changes there is somebody else's.
        interfaces=frozenset(os.listdir("/sys/class/net") if os.geteuid() == 0 else ()) - OF_MODULES,
        mounts=frozenset(_mounts() if os.geteuid() == 0 else ()),
        descriptors=frozenset(() if of_session else _descriptors()),
        files=frozenset(_files_of_machine() if of_session else (*_files_of_machine(), *_files_of_session())),
    )


def left_behind_since(before: MachineState, *, within_s: float = SETTLE_S, of_session: bool = False) -> list[str]:
    """What was left behind, once the kernel has had `within_s` to finish; [] as soon as there is nothing."""
    until = time.monotonic() + within_s
    pause = threading.Event()
    while True:
        if not of_session:
            nurseries.start()  # reaps earlier ones
        left = machine_state(labs=before.pids, of_session=of_session).left_behind_since(before)
        if not left or time.monotonic() > until:
            return left
        pause.wait(POLL_S)


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """AssertionError when the machine is not as before at the end of the `with`."""
    before = machine_state()
    yield
    left = left_behind_since(before)
    assert not left, "the machine is not as before:\n" + "\n".join(left)


def end_processes_of_session() -> None:
    """Kill what the session has left, as labs that stay when it is interrupted."""
    for process in _processes(()):
        if process.is_ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.number, signal.SIGKILL)


def _numbers() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


@dataclass(frozen=True, slots=True)
class _Process:
    number: int
    description: str
    is_ours: bool  # descends from this one, or carries its mark


def _processes(labs: Collection[int]) -> Iterator[_Process]:
    """All processes but this one, and without `labs` and their descendants."""
    mark = f"\0{MARK}={os.environ.get(MARK, '')}".encode()
    marks = (mark + b"\0", mark + b".")  # this process's, and those of its workers
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    marked: set[int] = set()
    for number in _numbers():
        try:
            stat = _read(f"/proc/{number}/stat").decode(errors="replace")
            name = stat[stat.index("(") + 1 : stat.rindex(")")]
            state, parent, *_, flags = stat[stat.rindex(")") + 2 :].split(maxsplit=7)[:7]
            parents[number] = int(parent)
            if int(flags) & PF_KTHREAD:
                continue
            if state == "Z" and int(parent) != os.getpid():
                continue  # it has ended; its new parent (the machine's init, often) is slow to take note
            command = _read(f"/proc/{number}/cmdline").replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        names[number] = f"{number} ({name}, {state}) {command[:120]}"
        with contextlib.suppress(OSError):  # another user's process, or a zombie: by descent only
            environment = b"\0%b\0" % _read(f"/proc/{number}/environ")
            if any(each in environment for each in marks):
                marked.add(number)
    own = {os.getpid(), *(each.pid for each in nurseries.all)}
    # A boot that waits for its lab has the nursery's name; the recorder waits for this process's next recording.
    waiting = (" (labctl-nursery, ", " (labctl-recorder, ")
    own |= {number for number in names if parents[number] in own and any(name in names[number] for name in waiting)}
    for number, description in names.items():
        ancestors = set(_ancestors(number, parents))
        if number not in own and not ancestors.union({number}).intersection(labs):
            yield _Process(number, description, number in marked or os.getpid() in ancestors)


def _read(path: str) -> bytes:
    """A file of /proc, as quickly as may be: there are hundreds for each test."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = part = os.read(descriptor, _PART)
        while len(part) == _PART:
            data += (part := os.read(descriptor, _PART))
        return data
    finally:
        os.close(descriptor)


def _ancestors(number: int, parents: dict[int, int]) -> Iterator[int]:
    while number in parents:
        number = parents[number]
        yield number


def _namespaces(numbers: Iterable[int]) -> Iterator[str]:
    for number in numbers:
        try:
            with os.scandir(f"/proc/{number}/ns") as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        yield os.readlink(entry.path)
        except OSError:
            continue


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        parts = line.split(" - ", 1)
        yield f"{parts[0].split()[4]} {parts[1]}"


def _descriptors() -> Iterator[str]:
    """This process's but those of nurseries and recorders, by what they lead to and how many: numbers are reused."""
    counts: dict[str, int] = {}
    ours = {str(number) for each in nurseries.all for number in (each.pidfd, each.control.fileno(), each.errors)}
    ours |= {str(number) for each in recorders.all for number in each.descriptors}
    for name in set(os.listdir("/proc/self/fd")) - ours:
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
        kind = re.sub(r":\[\d+\]$", "", target)
        if not re.fullmatch(r"/proc/\d+/fd", kind):
            counts[kind] = counts.get(kind, 0) + 1
    for kind, count in counts.items():
        yield from (f"{kind} (number {index + 1})" for index in range(count))


def _files_of_machine() -> Iterator[str]:
    for place in PLACES:
        with contextlib.suppress(OSError):
            names = [name for name in os.listdir(place) if place in STAYING or "lab" in name]
            entries = {os.path.join(place, name) for name in names} - STAYING
            yield from (entry for entry in entries if place not in STAYING or not _is_others(entry))


def _files_of_session() -> Iterator[str]:
    for place in {os.environ[name] for name in XDG if os.environ.get(name)}.difference(PLACES):
        with contextlib.suppress(OSError):
            yield from {os.path.join(place, name) for name in os.listdir(place)} - STAYING
    temporary = os.environ.get("TMPDIR", "/tmp")
    with contextlib.suppress(OSError):
        yield from (os.path.join(temporary, name) for name in os.listdir(temporary) if _is_ours(temporary, name))


def _is_others(entry: str) -> bool:
    """Whether another user made it, or a lab that runs has this name: if that is one of ours, its processes tell so."""
    with contextlib.suppress(FileNotFoundError):  # it has just gone
        if os.geteuid() != 0 and os.lstat(entry).st_uid != os.geteuid():
            return True
    if os.path.islink(entry):
        return os.path.exists(entry)
    for lock in (entry, os.path.join(entry, "lock")):
        with contextlib.suppress(OSError), open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def _is_ours(place: str, name: str) -> bool:
    return place != "/tmp" or "lab" in name  # others use /tmp meanwhile; a TMPDIR is the session's alone
