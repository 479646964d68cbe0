"""What a host refuses, and how it says so."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import sys
from collections.abc import Iterator

import pytest

from labctl import AsyncLab, Lab, ProgramNotReady

WAIT_S = 20.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("pair") as lab:
        yield lab


def test_a_lab_is_asked_for_names_as_a_mapping_is(lab: Lab) -> None:
    assert "client" in lab
    assert "nobody" not in lab
    assert 3 not in lab
    assert list(lab) == ["client", "server"]
    with pytest.raises(TypeError, match="3: the name of a node must be a str"):
        lab[3]  # type: ignore[index]


def test_a_socket_that_listened_before_makes_no_program_ready(lab: Lab) -> None:
    server = lab["server"]
    with server.listen(5001), pytest.raises(ProgramNotReady, match="another socket listened there before"):
        server.start(["sleep", "60"], ready=5001, ready_timeout_s=0.3)
    with server.listen(5001), pytest.raises(ProgramNotReady, match="Address already in use"):
        server.start([sys.executable, "-m", "http.server", "5001"], ready=5001, ready_timeout_s=WAIT_S)
    with server.start([sys.executable, "-m", "http.server", "5001"], ready=5001, ready_timeout_s=WAIT_S) as program:
        assert program.poll() is None


def test_a_socket_that_listened_before_makes_no_program_of_coroutines_ready(lab: Lab) -> None:
    server = AsyncLab.over(lab)["server"]

    async def main() -> None:
        await server.start(["sleep", "60"], ready="udp/5002", ready_timeout_s=0.3)

    with lab["server"].socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 5002))
        with pytest.raises(ProgramNotReady, match="another socket listened there before"):
            asyncio.run(main())


def test_nothing_is_ready_on_port_0(lab: Lab) -> None:
    with pytest.raises(ValueError, match="port 0 means a port of the kernel's choice"):
        lab["server"].start(["sleep", "60"], ready=0)


def test_an_endless_timeout_is_none(lab: Lab) -> None:
    assert lab["client"].run(["true"], timeout_s=math.inf)
    assert lab["client"].run(["true"], timeout_s=1e12)
    assert lab["client"].start(["true"]).wait(math.inf) == 0


def test_a_number_is_no_value_of_the_environment(lab: Lab) -> None:
    with pytest.raises(TypeError, match="env: 'PORT': 80: names and values must be str"):
        lab["client"].run(["true"], env={"PORT": 80})  # type: ignore[dict-item]


def test_listening_is_for_tcp(lab: Lab) -> None:
    with pytest.raises(ValueError, match=re.escape("make a socket(AF_UNIX)")):
        lab["server"].listen(80, family=socket.AF_UNIX)


def test_an_ipv6_address_stands_in_brackets_before_its_port(lab: Lab) -> None:
    with pytest.raises(ConnectionRefusedError, match=re.escape("cannot connect to [fd00::2]:81: Conn")):
        lab["client"].connect(("fd00::2", 81))


def test_a_directory_that_is_read_is_named(lab: Lab) -> None:
    with pytest.raises(IsADirectoryError, match="host client: cannot open /tmp: Is a directory"):
        lab["client"].read_text("/tmp")


def test_ping_takes_families_as_sockets_do(lab: Lab) -> None:
    found = lab.ping(family=socket.AF_INET6, timeout_s=WAIT_S)
    assert found
    assert {each.family for each in found.tries} == {"6"}


def test_a_function_of_socket_that_was_looked_up_outside_looks_up_names_of_the_host(lab: Lab) -> None:
    host = AsyncLab.over(lab)["client"]
    assert asyncio.run(host.in_netns(socket.gethostbyname, "server")) == "10.0.0.2"
