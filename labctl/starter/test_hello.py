"""Tests on the topology of topology.yaml: run `pytest` in this directory. The fixture `lab` comes with labctl."""

from pathlib import Path

import pytest

from labctl import Lab

# Each test has a new lab, which ends with the test. With scope="module" all tests of this file share one lab.
pytestmark = pytest.mark.topology("topology.yaml")


def test_a_client_fetches_a_page(lab: Lab) -> None:
    """Programs run unchanged on hosts; `ready` waits until the server listens on the port."""
    fetch = "import urllib.request as u; print(u.urlopen('http://server:8000/').status)"
    with lab["server"].start(["python3", "-m", "http.server", "8000"], ready=8000):
        answer = lab["client"].run(["python3", "-c", fetch], check=True)
    assert answer.stdout == "200\n"


def test_the_server_knows_the_client_by_name(lab: Lab) -> None:
    """Sockets of this process can be on hosts: one test holds both ends of a connection."""
    with lab["server"].listen(5000) as listener, lab["client"].connect("server:5000") as client:
        connection, peer = listener.accept()
        with connection:
            client.sendall(b"hello")
            assert connection.recv(100) == b"hello"
        assert peer[0] == lab["client"].ipv4


def test_hello(lab: Lab) -> None:
    """The scenario passes; on failure the report shows the step, the expected and the actual result."""
    with lab.scenario(Path(__file__).with_name("hello.yaml")):
        pass
