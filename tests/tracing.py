"""Kernel events for tests: whether this machine has them, and those of a lab's nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

from labctl.errors import MachineError
from labctl.kernel.bpf import Tracer
from labctl.kernel.socket_network import network_of
from labctl.lab.client.handle import Lab
from labctl.timeline.sources.kernel import KernelEvent, events
from tests import skips

T = TypeVar("T")


@cache
def why_not() -> str:
    """Why BPF programs cannot be loaded here; "" if they can."""
    try:
        Tracer().close()
    except MachineError as error:
        return str(error)
    return ""


for_root = skips.for_root("BPF programs require CAP_BPF and CAP_PERFMON")
needs_bpf = skips.needs_feature("BPF", os.geteuid() != 0 or not why_not(), why_not() if os.geteuid() == 0 else "")


def network_inode(lab: Lab, node: str) -> int:
    """The inode number of a node's network namespace."""
    import socket

    with lab.socket(node, socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        descriptor = network_of(sock)
        try:
            return os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)


def without_library(name: str, directory: Path) -> dict[str, str]:
    """Environment variables with which programs cannot load that library; `directory` is for what hides it."""
    (directory / name).touch()
    return {"LD_LIBRARY_PATH": os.fspath(directory)}


class Traced:
    """A tracer of a lab's nodes."""

    def __init__(self, tracer: Tracer, hosts: Mapping[int, str]) -> None:
        self.tracer = tracer
        self.hosts = hosts

    def events(self) -> list[KernelEvent]:
        """What happened since the last call."""
        drained = self.tracer.drain()
        found = [event for inode, records in drained.items() for event in events(b"".join(records), self.hosts[inode])]
        return sorted(found, key=lambda event: event.at_ns)

    def of(self, kind: type[T]) -> list[T]:
        """Those of one type."""
        return [each for each in self.events() if isinstance(each, kind)]


@contextmanager
def traced(lab: Lab, *nodes: str, ring_bytes: int = 1 << 20) -> Iterator[Traced]:
    """Trace nodes of a lab."""
    hosts = {network_inode(lab, node): node for node in nodes}
    with Tracer(ring_bytes) as tracer:
        tracer.follow(hosts)
        yield Traced(tracer, hosts)
