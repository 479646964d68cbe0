"""The client of an agent: its calls, its errors, and the end of its process."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from labctl.errors import LabError
from labctl.lab.agent.client import AgentEnded, CallImpossible
from labctl.lab.agent.messages import SystemCall
from labctl.lab.client.handle import Lab
from tests.labs import WAIT_S, output, pair_plan


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


DATAGRAM_SOCKET = SystemCall("socket", (int(socket.AF_INET), int(socket.SOCK_DGRAM), 0))
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


def test_agents_of_several_hosts_start_together_each_on_its_own() -> None:
    with Lab.open(pair_plan()) as lab:
        agents = lab.start_agents(("server", "client"))
        assert [(agent.title, agent.process.pid) for agent in agents] == [("server", 2), ("client", 2)]
        for agent in agents:
            result = agent.call(STREAM_SOCKET, WAIT_S)
            assert result is not None
            assert result.number == 3
            agent.close()


def test_if_one_of_several_agents_cannot_start_none_does() -> None:
    with Lab.open(pair_plan()) as lab:
        with pytest.raises(LabError, match="nowhere"):
            lab.start_agents(("server", "nowhere"))
        assert "agent" not in output(lab, "server", "sh", "-c", "cat /proc/*/comm")


def test_an_agent_that_is_disconnected_ends_and_is_then_closed(lab: Lab) -> None:
    agent = lab.start_agent("server")
    agent.disconnect()
    assert agent.process.wait(WAIT_S) == 0
    agent.close()
    agent.close()


def test_callers_of_one_host_are_processes_of_that_host(lab: Lab) -> None:
    agents = [lab.start_agent("server"), lab.start_agent("server", "second")]
    pids = {agent.process.pid for agent in agents}
    seen = {int(name) for name in output(lab, "server", "ls", "/proc").split() if name.isdecimal()}
    assert len(pids) == 2
    assert pids <= seen
    for agent in agents:
        agent.close()


def test_a_call_that_blocks_stays_pending_until_it_returns(lab: Lab) -> None:
    agent = lab.start_agent("server", "blocked")
    agent.call(DATAGRAM_SOCKET, WAIT_S)
    pending = agent.begin(SystemCall("recv", (3, 10)))
    assert pending.wait_begun(WAIT_S)
    assert pending.wait(0.01) is None
    assert repr(agent) == f"<AgentClient server/blocked, pid {agent.process.pid}, in recv(3, buf, 10, 0)>"
    with pytest.raises(RuntimeError, match="one call at a time"):
        agent.begin(SystemCall("getpid"))
    agent.process.signal(signal.SIGUSR1)
    result = pending.wait(WAIT_S)
    assert result is not None
    assert (result.returned, os.strerror(result.errno)) == (-1, "Interrupted system call")
    agent.close()


def test_a_killed_agent_fails_its_pending_call_with_the_signal(lab: Lab) -> None:
    agent = lab.start_agent("client")
    agent.call(DATAGRAM_SOCKET, WAIT_S)
    pending = agent.begin(SystemCall("recv", (3, 10)))
    assert pending.wait_begun(WAIT_S)
    agent.process.signal(signal.SIGKILL)
    with pytest.raises(AgentEnded, match=r"client: its calling process .* was killed by SIGKILL during recv"):
        pending.wait(WAIT_S)
    agent.close()


def test_a_call_with_wrong_arguments_is_refused_and_the_agent_goes_on(lab: Lab) -> None:
    agent = lab.start_agent("client")
    with pytest.raises(CallImpossible, match="argument 2"):
        agent.call(SystemCall("recv", (3, "x")), WAIT_S)
    result = agent.call(SystemCall("getpid"), WAIT_S)
    assert result is not None
    assert result.number == agent.process.pid
    agent.close()
