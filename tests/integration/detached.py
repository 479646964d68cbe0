"""Labs that stay, for tests: a state directory of the test's own, and ways to wait."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from labctl.errors import InputError
from labctl.lab.client import registry, state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.client.state_dir import SOCKET
from labctl.plan.operations import Plan
from tests.labs import pair_plan
from tests.patience import patient

ROOT = Path(__file__).parents[2]
WAIT_S = patient(20.0)


def name_of_lab() -> str:
    """A name that no other session's lab has, as /run/netns is everybody's."""
    return f"t{os.getpid()}"


@contextmanager
def running(plan: Plan | None = None, name: str = "") -> Iterator[str]:
    """A lab that stays, until the end of the `with`; its name."""
    name = name or name_of_lab()
    with Lab.up(plan or pair_plan(), name, source="pair") as lab:
        lab.stay()
    try:
        yield name
    finally:
        with contextlib.suppress(InputError):  # the test has ended it
            registry.take_down(name)


def becomes(true: Callable[[], bool], within_s: float = WAIT_S) -> bool:
    """Wait until it is true."""
    until = time.monotonic() + within_s
    pause = threading.Event()
    while not true():
        if time.monotonic() > until:
            return False
        pause.wait(0.01)
    return True


def raw_connection(name: str) -> socket.socket:
    """A connection to the keeper without a protocol."""
    sock = socket.socket(socket.AF_UNIX)
    directory = os.open(f"{state_dir.state_directory()}/{name}", os.O_PATH)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{SOCKET}")
    finally:
        os.close(directory)
    return sock


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of its own that runs a script."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def boot_of(keeper: int) -> int:
    """The pid of the keeper's parent."""
    return int(Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()[1])


def keeper_of(name: str) -> int:
    with Lab.attach(name) as lab:
        return lab.describe().keeper_pid


def comm_of(pid: int) -> str:
    """The process's name; "" when it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
