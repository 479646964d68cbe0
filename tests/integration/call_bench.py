"""Callers on a private network namespace with only `lo`, for tests of the socket calls alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from labctl.lab.agent.client import AgentClient

_REPOSITORY = Path(__file__).resolve().parents[2]

_HOLDER = """
import fcntl, os, socket, struct, sys
from labctl.kernel import syscalls
uid, gid = os.getuid(), os.getgid()
if sys.argv[1] == "user":
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
else:
    syscalls.unshare(syscalls.CLONE_NEWNET)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, UP and RUNNING
print("ready", flush=True)
sys.stdin.read()
"""

_CALLER = """
import os, sys
from labctl.kernel import processes, syscalls
from labctl.lab.agent.server import serve
for path in sys.argv[2:]:
    syscalls.setns(os.open(path, os.O_RDONLY), 0)
channel = os.dup2(int(sys.argv[1]), 1023, inheritable=False)
processes.default_signals()
processes.keep_only(0, 1, 2, channel)
serve(channel)
"""


class Handle:
    """The part of the Lab's Process that a AgentClient needs."""

    def __init__(self, process: subprocess.Popen[bytes], node: str) -> None:
        self.popen, self.node, self.pid = process, node, process.pid

    def wait(self, timeout_s: float | None) -> int | None:
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL)
            self.popen.wait()


class Bench:
    """A network namespace of its own, also as an ordinary user; `caller` starts a calling process in it."""

    def __init__(self, *, user_namespace: bool | None = None) -> None:
        in_user = os.getuid() != 0 if user_namespace is None else user_namespace
        self._stack = ExitStack()
        self._holder = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, "user" if in_user else "root"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_REPOSITORY,
        )
        self._stack.callback(self._end_holder)
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            self._stack.close()
            raise RuntimeError("no network namespace for the test")
        kinds = ("user", "net") if in_user else ("net",)
        self._paths = [f"/proc/{self._holder.pid}/ns/{kind}" for kind in kinds]

    def start_agent(self, name: str = "", host: str = "h1") -> AgentClient:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _CALLER, str(theirs.fileno()), *self._paths],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=_REPOSITORY,
            )
        caller = AgentClient(Handle(process, host), ours, name)
        self._stack.callback(caller.close)
        return caller

    def close(self) -> None:
        self._stack.close()

    def _end_holder(self) -> None:
        for stream in (self._holder.stdin, self._holder.stdout):
            assert stream is not None
            stream.close()
        self._holder.wait(20)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
