"""Tests on the topology of topology.yaml: run `pytest` in this directory. The fixture `lab` comes with labctl."""

from pathlib import Path

import pytest

from labctl import Lab

# Each test has a fresh lab, which is gone, with all that runs in it, when the test is over. With scope="module" all
# tests of this file would share one.
pytestmark = pytest.mark.topology("topology.yaml")


def test_a_client_fetches_a_page(lab: Lab) -> None:
    """Programs run on hosts as they are; `ready` is the port that the next line needs."""
    fetch = "import urllib.request as u; print(u.urlopen('http://server:8000/').status)"
    with lab["server"].start(["python3", "-m", "http.server", "8000"], ready=8000):
        answer = lab["client"].run(["python3", "-c", fetch], check=True)
    assert answer.stdout == "200\n"


def test_the_server_knows_the_client_by_name(lab: Lab) -> None:
    """Sockets of this very process that live on hosts: one test holds both ends of a connection."""
    with lab["server"].listen(5000) as listener, lab["client"].connect("server:5000") as client:
        connection, peer = listener.accept()
        with connection:
            client.sendall(b"hello")
            assert connection.recv(100) == b"hello"
        assert peer[0] == lab["client"].ipv4


def test_hello(lab: Lab) -> None:
    """The scenario passes; on failure the report says which step, what was expected and what came back."""
    with lab.scenario(Path(__file__).with_name("hello.yaml")):
        pass
