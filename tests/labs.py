"""Labs for tests: the smallest plan, and what programs in a lab print."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from labctl.lab.client.boot_process import Boot
from labctl.lab.client.handle import Lab
from labctl.plan.hosts_files import LOCALHOST
from labctl.plan.operations import AddAddress, LinkEnd, MakeLink, MakeNode, Operation, Plan, SetUp
from labctl.topology.model import Node, NodeKind
from tests.patience import patient

NAMES = (*LOCALHOST, ("10.0.0.1", "client"), ("10.0.0.2", "server"), ("fd00::1", "client"), ("fd00::2", "server"))
WAIT_S = patient(20.0)
AGAIN_S = patient(0.25)


def pair_plan(
    name: str = "pair", *, environment: tuple[tuple[str, str], ...] = (), more: Iterable[Operation] = ()
) -> Plan:
    """Two hosts on a direct link: client 10.0.0.1 and fd00::1, server 10.0.0.2 and fd00::2."""
    hosts = ("client", "server")
    return Plan(
        topology=name,
        nodes=tuple(Node(host, NodeKind.HOST, environment=environment) for host in hosts),
        operations=(
            *(MakeNode(host, NodeKind.HOST) for host in hosts),
            MakeLink(
                LinkEnd("client", "eth0", "02:00:00:00:00:01", 1500),
                LinkEnd("server", "eth0", "02:00:00:00:00:02", 1500),
            ),
            AddAddress("client", "eth0", ip_interface("10.0.0.1/24")),
            AddAddress("client", "eth0", ip_interface("fd00::1/64")),
            AddAddress("server", "eth0", ip_interface("10.0.0.2/24")),
            AddAddress("server", "eth0", ip_interface("fd00::2/64")),
            SetUp("client", "eth0"),
            SetUp("server", "eth0"),
            *more,
        ),
    )


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended and what it wrote, both streams together."""

    status: int
    output: str


def keeper_of(lab: Lab) -> int:
    """The pid of an ephemeral lab's keeper: boot's only child."""
    assert isinstance(lab._boot, Boot)
    return int(Path(f"/proc/{lab._boot.pid}/task/{lab._boot.pid}/children").read_text())


def run(
    lab: Lab,
    node: str,
    *argv: str,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    limit_bytes: int = 1 << 20,
) -> Finished:
    """Run a program on a node to its end."""
    output = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        process = lab.spawn(node, argv, env=env, cwd=cwd, stdout=output, stderr=output, user=user)
        try:
            status = process.wait(WAIT_S)
            assert status is not None, f"{process!r} did not end within {WAIT_S} s"
        finally:
            process.close()
        return Finished(status, os.pread(output, limit_bytes, 0).decode())
    finally:
        os.close(output)


def output(lab: Lab, node: str, *argv: str) -> str:
    """What a program that succeeds writes."""
    finished = run(lab, node, *argv)
    assert finished.status == 0, finished
    return finished.output


def arrives(send: Callable[[], object], receiver: socket.socket, wanted: bytes, within_s: float = WAIT_S) -> Any:
    """From which address that datagram comes, None if it does not; sent again, as a busy machine loses datagrams."""
    deadline, before = time.monotonic() + within_s, receiver.gettimeout()
    while (left := deadline - time.monotonic()) > 0:
        send()
        receiver.settimeout(min(AGAIN_S, left))
        try:
            while (received := receiver.recvfrom(100))[0] != wanted:
                continue
        except TimeoutError:
            continue
        receiver.settimeout(before)
        return received[1]
    return None


def shell(lab: Lab, node: str, script: str) -> str:
    """What a shell script that succeeds writes."""
    return output(lab, node, "sh", "-ec", script)
