"""Agents and packet filters as the lab hands them out; the calls themselves are tested in test_call_*.py."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from labctl.lab.agent.messages import SystemCall
from labctl.lab.client.handle import Lab
from labctl.plan.drop_rules import DropProtocol, DropRule
from tests.labs import WAIT_S, output, pair_plan


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


STREAM_SOCKET = SystemCall("socket", (int(socket.AF_INET), int(socket.SOCK_STREAM), 0))


def test_the_first_socket_of_a_caller_is_descriptor_3_and_the_next_4(lab: Lab) -> None:
    agent = lab.start_agent("server")
    numbers = []
    for _ in range(2):
        result = agent.call(STREAM_SOCKET, WAIT_S)
        assert result is not None
        numbers.append(result.number)
    agent.close()
    assert numbers == [3, 4]


def test_a_caller_ends_when_it_is_closed(lab: Lab) -> None:
    agent = lab.start_agent("client", "worker")
    pidfd = os.dup(agent.process.pidfd)  # type: ignore[attr-defined]  # Lab's Process has it
    agent.close()
    from select import POLLIN, poll

    poller = poll()
    poller.register(pidfd, POLLIN)
    assert poller.poll(WAIT_S * 1000)
    os.close(pidfd)


def test_callers_of_one_host_are_processes_of_that_host(lab: Lab) -> None:
    agents = [lab.start_agent("server"), lab.start_agent("server", "second")]
    pids = {agent.process.pid for agent in agents}
    seen = {int(name) for name in output(lab, "server", "ls", "/proc").split() if name.isdecimal()}
    assert len(pids) == 2
    assert pids <= seen
    for agent in agents:
        agent.close()


def test_what_is_dropped_on_a_node_does_not_arrive_until_it_is_undropped(lab: Lab) -> None:
    with (
        lab.socket("server", socket.AF_INET, socket.SOCK_DGRAM) as server,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("10.0.0.2", 9))
        lab.drop("server", DropRule(protocol=DropProtocol.UDP))
        client.sendto(b"lost", ("10.0.0.2", 9))
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv(10)
        lab.undrop("server")
        client.sendto(b"kept", ("10.0.0.2", 9))
        server.settimeout(WAIT_S)
        assert server.recv(10) == b"kept"
