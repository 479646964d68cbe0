"""A builder's process, in namespaces of its own, that nothing leaves; and what a closed network has left in them.

unshare(1) creates the namespaces, as root and as an ordinary user alike. A user namespace of its own lets a builder
count the network namespaces that the kernel has not freed yet (contract.py). /run is a tmpfs, so that names of
`ip netns` are its own, too.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
ISOLATED = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork"]
ISOLATED += ["--kill-child", "--mount-proc"]
_INIT = 'mount -t tmpfs -o mode=755 none /run; "$@"; exit $?'  # the shell is process 1 and reaps
_GONE_S = 10.0
_MESSAGE = 160  # characters of an error that are reported


class BuilderFailed(Exception):
    """A builder answered with an error, ended, or took longer than it may."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a container: processes, names of network namespaces, mounts of them, interfaces, open namespaces.

    A process that replaces another one is nothing new: labctl keeps one ready for the next lab.
    """

    processes: frozenset[int]  # numbered from 0
    names: frozenset[str]
    mounts: frozenset[str]
    interfaces: frozenset[str]
    namespaces: frozenset[str]

    def since(self, before: Contents) -> list[str]:
        """Describe what is here and was not before."""
        return [
            f"{field}: {', '.join(map(str, sorted(new)))}"
            for field in self.__dataclass_fields__
            if (new := getattr(self, field) - getattr(before, field))
        ]


@dataclass(frozen=True, slots=True)
class Usage:
    """What some processes use; memory is their proportional set size (proc_pid_smaps(5))."""

    processes: int
    memory_bytes: int
    descriptors: int

    @classmethod
    def of(cls, pids: Iterable[int]) -> Usage:
        """Return what the processes use that have not ended."""
        count = memory = descriptors = 0
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
                memory += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
                count += 1
        return cls(count, memory, descriptors)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.processes - other.processes,
            self.memory_bytes - other.memory_bytes,
            self.descriptors - other.descriptors,
        )


class Container:
    """A running builder.

    Args:
        command: the builder's program and arguments.
        folder: its working directory; it exists.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._log = (folder / "log").open("w+")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [*ISOLATED, "sh", "-ec", _INIT, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=folder,
            env=environment,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def ready_s(self, timeout_s: float) -> float:
        """Wait for the first answer and return how long it took; BuilderFailed."""
        began = time.perf_counter()
        self._answer(timeout_s)
        return time.perf_counter() - began

    def request(self, line: str, timeout_s: float) -> float:
        """Return the seconds that the builder took for the request; BuilderFailed."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `_answer` reports how it ended
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> float:
        if not self._selector.select(timeout_s):
            raise BuilderFailed(f"no answer within {timeout_s:.0f} s")
        line = self._output.readline()
        answer = json.loads(line) if line else {"error": f"ended: {self._last_words()}"}
        if "error" in answer:
            raise BuilderFailed(" ".join(str(answer["error"]).split())[:_MESSAGE])
        return float(answer["seconds"])

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1] if lines else "without a message"

    def contents(self) -> Contents:
        """Return what is in the container now, as far as processes show it."""
        tree = descendants(self._process.pid)
        inner = next((pid for pid in tree if pid != self._process.pid), None)
        if inner is None:
            raise BuilderFailed(f"ended: {self._last_words()}")
        proc = Path("/proc", str(inner))
        mounts = (proc / "mountinfo").read_text().splitlines()
        names = proc / "root/run/netns"
        interfaces = (proc / "net/dev").read_text().splitlines()[2:]
        return Contents(
            processes=frozenset(range(len(tree))),
            names=frozenset(os.listdir(names)) if names.is_dir() else frozenset(),
            mounts=frozenset(line.split()[4] for line in mounts if " - nsfs " in line),
            interfaces=frozenset(line.split(":")[0].strip() for line in interfaces),
            namespaces=frozenset(name for pid in tree for name in _network_namespaces(pid)),
        )

    def kill_builder(self) -> None:
        """Kill the process that builds: of a command that starts with a shell, the shell's child."""
        _, _, _, builder, *_ = descendants(self._process.pid)
        os.kill(builder, signal.SIGKILL)

    def usage(self) -> Usage:
        """Return what all processes of the container use now."""
        return Usage.of(descendants(self._process.pid))

    def left_after(self, before: Contents, timeout_s: float = _GONE_S) -> list[str]:
        """Wait until everything that is new since `before` has gone; describe what has not in time."""
        until = time.monotonic() + timeout_s
        while (left := self.contents().since(before)) and time.monotonic() < until:
            time.sleep(0.005)  # noqa: TID251 - no event reports the end of processes of another container
        return left

    def close(self) -> None:
        """End the builder and everything in its namespaces."""
        self._process.kill()  # --kill-child: process 1 of the PID namespace, too, and all processes with it
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def descendants(pid: int) -> list[int]:
    """Return the processes that descend from `pid`, itself first, parents before children; without zombies."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                state, parent = Path("/proc", entry, "stat").read_text().rpartition(") ")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def _network_namespaces(pid: int) -> list[str]:
    """Return the network namespaces that a process is in or holds open."""
    found = []
    for folder in (f"/proc/{pid}/fd", f"/proc/{pid}/ns"):
        try:
            for entry in os.listdir(folder):
                target = os.readlink(f"{folder}/{entry}")
                if target.startswith("net:"):
                    found.append(target)
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # the descriptors of one that ends are root's
            continue
    return found
