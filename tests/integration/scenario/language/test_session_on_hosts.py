"""The call language between two hosts of a lab, in calling processes that the keeper has forked."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from time import monotonic, monotonic_ns

import pytest

from labctl import topology
from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.scenario.language.parser import parse
from labctl.scenario.language.session import Session


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(build(topology.load("pair"))) as made:
        yield made


class Hosts:
    """A calling process on each host, sharing the scenario's variables."""

    def __init__(self, lab: Lab) -> None:
        variables: dict[str, object] = {}
        self.sessions = {
            host: Session(lab.start_agent(host), variables=variables, origin_ns=monotonic_ns())
            for host in ("client", "server")
        }

    def do(self, host: str, text: str) -> None:
        outcome = self.sessions[host].run(parse(text), monotonic() + 20)
        assert outcome.failure is None, str(outcome.failure)

    def close(self) -> None:
        for session in self.sessions.values():
            session.caller.close()


@pytest.fixture
def hosts(lab: Lab) -> Iterator[Hosts]:
    made = Hosts(lab)
    yield made
    made.close()


@pytest.mark.parametrize(("family", "address"), [("AF_INET", "0.0.0.0"), ("AF_INET6", "::")])
def test_a_name_leads_to_the_other_host_in_the_sockets_family(hosts: Hosts, family: str, address: str) -> None:
    hosts.do("server", f's = socket({family}, SOCK_STREAM) -> 3\nbind(s, ":0")\nlisten(s, 1)\nme = getsockname(s)')
    hosts.do("server", f'assert me.host == "{address}"\n$port = me.port')
    hosts.do("client", f'c = socket({family}, SOCK_STREAM) -> 3\nconnect(c, "server:${{port}}")\n$me = getsockname(c)')
    hosts.do("server", 'conn, peer = accept(s) -> 4\nassert peer.name == "client"\nconnect(conn, $me) -> EISCONN')


def test_an_ipv4_peer_of_an_ipv6_socket_has_its_name(hosts: Hosts) -> None:
    hosts.do(
        "server", 's = socket(AF_INET6, SOCK_STREAM)\nbind(s, ":0")\nlisten(s, 1)\nme = getsockname(s)\n$port = me.port'
    )
    hosts.do("client", 'c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "server:${port}")')
    hosts.do("server", 'conn, peer = accept(s)\nassert peer.name == "client"\nassert peer.host == "::ffff:10.0.0.1"')


def test_a_link_local_address_needs_its_interface(hosts: Hosts) -> None:
    hosts.do("client", 'c = socket(AF_INET6, SOCK_STREAM)\nconnect(c, "[fe80::1]:80") -> EINVAL')


def test_an_abstract_socket_stays_inside_its_host(hosts: Hosts) -> None:
    hosts.do("server", 's = socket(AF_UNIX, SOCK_STREAM)\nbind(s, "@here")\nlisten(s, 1)')
    hosts.do("client", 'c = socket(AF_UNIX, SOCK_STREAM)\nconnect(c, "@here") -> ECONNREFUSED')


def test_a_path_stays_inside_its_host(hosts: Hosts) -> None:
    hosts.do("server", 's = socket(AF_UNIX, SOCK_STREAM)\nbind(s, "/tmp/here.sock")\nlisten(s, 1)')
    hosts.do("client", 'c = socket(AF_UNIX, SOCK_STREAM)\nconnect(c, "/tmp/here.sock") -> ENOENT')
    hosts.do("server", 'unlink("/tmp/here.sock")')


def test_privilege_and_limits_are_the_processs_own(hosts: Hosts) -> None:
    hosts.do("server", "drop_capabilities()\nsetrlimit(RLIMIT_NOFILE, 4)\ns = socket(AF_INET, SOCK_STREAM)")
    hosts.do("server", 'bind(s, ":80") -> EACCES\nsocket(AF_INET, SOCK_STREAM) -> EMFILE')
    hosts.do("client", 's = socket(AF_INET, SOCK_STREAM)\nbind(s, ":80")\nsocket(AF_INET, SOCK_STREAM) -> 4')


def test_a_signal_interrupts_a_blocked_call(hosts: Hosts) -> None:
    hosts.do("server", 's = socket(AF_INET, SOCK_DGRAM)\nbind(s, ":0")\nrecv(s, 10) -> blocks 50ms')
    hosts.sessions["server"].caller.process.signal(signal.SIGUSR1)
    hosts.do("server", "await -> EINTR within 10s")


def test_a_killed_calling_process_is_reported_by_name(hosts: Hosts) -> None:
    hosts.do("server", "getpid()")
    hosts.sessions["server"].caller.process.signal(signal.SIGKILL)
    assert hosts.sessions["server"].caller.process.wait(20) == -signal.SIGKILL
    outcome = hosts.sessions["server"].run(parse("getpid()"), monotonic() + 20)
    assert "server: its calling process (pid " in str(outcome.failure)
    assert "was killed by SIGKILL" in str(outcome.failure)
