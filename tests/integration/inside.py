"""Tests that make namespaces by themselves, each in a child that is root in namespaces of its own.

As root the child gets a network namespace; an ordinary user's child gets a user namespace too, in which it is root.
"""

from __future__ import annotations

import functools
import os
import socket
import traceback
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any

from labctl.kernel.syscalls import CLONE_NEWNET, CLONE_NEWUSER, unshare
from labctl.lab.keeper.executor import execute
from labctl.lab.keeper.nodes import NodeTable
from labctl.observe.ping import EchoResult, reach
from labctl.plan.operations import Operation
from tests.patience import patient

FIRST_REPLY_S = patient(0.9)  # a lost first packet is repeated after a second


def inside(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in such a child; what it raises fails the test with the child's traceback."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _run(functools.partial(test, *args, **kwargs), writing)
        os.close(writing)
        with open(reading, encoding="utf-8") as file:
            told = file.read()
        _, status = os.waitpid(child, 0)
        if told or status:
            raise AssertionError(told or f"the child ended with wait status {status}")

    return wrapper


def _run(test: Callable[[], None], writing: int) -> None:
    try:
        enter_own_namespaces()
        test()
    except BaseException:  # noqa: BLE001 - told to the parent, which fails the test with it
        with open(writing, "w", encoding="utf-8") as file:
            file.write(traceback.format_exc())
    finally:
        os._exit(0)


def enter_own_namespaces() -> None:
    """This (single-threaded) process is root in a network namespace of its own."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        unshare(CLONE_NEWNET)
        return
    unshare(CLONE_NEWUSER | CLONE_NEWNET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def packets_dropped() -> int:
    """How many packets the machine has dropped because a processor's queue was full: all namespaces share it."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


class NetworkLab:
    """Nodes that are network namespaces and nothing more: what observing and dropping need of a lab."""

    def __init__(self, *operations: Operation) -> None:
        self.nodes = NodeTable()
        try:
            self.apply(*operations)
        except BaseException:
            self.nodes.close()
            raise

    def __enter__(self) -> NetworkLab:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.nodes.close()

    def apply(self, *operations: Operation) -> None:
        execute(operations, self.nodes)

    def socket(self, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
        return self.nodes.socket(node, family, type, proto)

    def open_file(self, node: str, path: str, flags: int = os.O_RDONLY) -> int:
        with self.nodes.entered(node):
            return os.open(path.replace("/proc/net/", "/proc/thread-self/net/"), flags | os.O_CLOEXEC)


def first_reply(lab: NetworkLab, node: str, target: str) -> EchoResult:
    """The result of one echo request; of more where the machine, not the lab, has dropped packets meanwhile."""
    before = packets_dropped()
    result = reach(lab, node, ip_address(target), deadline_s=FIRST_REPLY_S, requests=1)
    if not result.reached and packets_dropped() != before:
        return reach(lab, node, ip_address(target), deadline_s=patient(10), requests=10)
    return result
