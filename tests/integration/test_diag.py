"""Sockets as sock_diag reports them, of a namespace that the reader is not in."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from labctl.observe.network import Socket, State, Transport, sockets
from labctl.plan.drop_rules import DropProtocol, DropRule, parse_flags
from tests.integration.dropping import dropping
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import pair
from tests.patience import patient

pytestmark = pytest.mark.stock_kernel
SERVER = {socket.AF_INET: "192.0.2.2", socket.AF_INET6: "2001:db8::2"}


def listener(lab: NetworkLab, family: int, port: int, backlog: int = 1) -> socket.socket:
    sock = lab.socket("server", family, socket.SOCK_STREAM)
    sock.bind((SERVER[socket.AddressFamily(family)], port))
    sock.listen(backlog)
    return sock


def become(lab: NetworkLab, node: str, true: Callable[[tuple[Socket, ...]], bool]) -> tuple[Socket, ...]:
    until = time.monotonic() + patient(15)
    while not true(found := sockets(lab, node)):
        assert time.monotonic() < until, "\n".join(str(sock) for sock in found)
    return found


@inside
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_listener_shows_its_accept_queue_and_the_limit(family: socket.AddressFamily) -> None:
    with NetworkLab(*pair()) as lab, listener(lab, family, 5000, 3) as server:
        (found,) = sockets(lab, "server")
        assert (found.state, found.local, found.local_port) == (State.LISTEN, ip_address(SERVER[family]), 5000)
        assert (found.accept_queue, found.accept_queue_limit, found.listening) == (0, 3, True)
        assert found.inode == os.fstat(server.fileno()).st_ino
        clients = [lab.socket("client", family, socket.SOCK_STREAM) for _ in range(2)]
        for client in clients:
            client.connect((SERVER[family], 5000))
        found = become(lab, "server", lambda all_: any(each.accept_queue == 2 for each in all_))[0]
        assert found.transport is Transport.TCP
        for client in clients:
            client.close()


@inside
def test_both_ends_of_a_connection_and_the_bytes_that_wait() -> None:
    with NetworkLab(*pair()) as lab, listener(lab, socket.AF_INET, 5000) as server:
        client = lab.socket("client", socket.AF_INET, socket.SOCK_STREAM)
        client.connect(("192.0.2.2", 5000))
        conn, peer = server.accept()
        client.send(b"hello")
        found = become(lab, "server", lambda all_: any(each.receive_queue == 5 for each in all_))
        (at_server,) = (each for each in found if each.state is State.ESTABLISHED)
        assert (str(at_server.peer), at_server.peer_port) == peer
        (at_client,) = sockets(lab, "client")
        assert (at_client.peer_port, at_client.local_port) == (5000, peer[1])
        client.close()
        become(lab, "server", lambda all_: any(each.state is State.CLOSE_WAIT for each in all_))
        conn.close()


@inside
def test_a_half_open_connection_is_seen_while_the_final_ack_is_held_back() -> None:
    rule = DropRule(protocol=DropProtocol.TCP, port=5000, flags=parse_flags("ack,!syn"))
    with NetworkLab(*pair()) as lab, listener(lab, socket.AF_INET, 5000), dropping(lab, "server", rule):
        client = lab.socket("client", socket.AF_INET, socket.SOCK_STREAM)
        client.connect(("192.0.2.2", 5000))
        found = become(lab, "server", lambda all_: any(each.half_open for each in all_))
        (half_open,) = (each for each in found if each.half_open)
        assert (half_open.local_port, half_open.peer_port) == (5000, client.getsockname()[1])
        assert half_open.inode == 0
        client.close()


@inside
def test_an_ipv4_connection_on_an_ipv6_socket_is_given_with_ipv4_addresses() -> None:
    with NetworkLab(*pair()) as lab, lab.socket("server", socket.AF_INET6, socket.SOCK_STREAM) as server:
        server.bind(("::", 5000))
        server.listen(1)
        with lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(("192.0.2.2", 5000))
            found = become(lab, "server", lambda all_: any(each.state is State.ESTABLISHED for each in all_))
            (connection,) = (each for each in found if each.state is State.ESTABLISHED)
            assert (connection.family, connection.peer) == (socket.AF_INET6, ip_address("192.0.2.1"))


@inside
def test_udp_sockets_bound_and_connected() -> None:
    with NetworkLab(*pair()) as lab, lab.socket("server", socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("0.0.0.0", 53))
        with lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as connected:
            connected.connect(("192.0.2.2", 53))
            connected.send(b"question")
            found = become(lab, "server", lambda all_: any(each.receive_queue > 0 for each in all_))
            assert [(each.transport, each.local_port, each.listening) for each in found] == [(Transport.UDP, 53, True)]
            (at_client,) = sockets(lab, "client", {Transport.UDP})
            assert (at_client.state, at_client.peer_port, at_client.listening) == (State.ESTABLISHED, 53, False)


@inside
def test_unix_sockets_by_path_and_abstract_of_one_node_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("unix") / "x.sock")
    with NetworkLab(*pair()) as lab:
        by_path, abstract = (lab.socket("server", socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2))
        by_path.bind(path)
        by_path.listen(4)
        abstract.bind(b"\0name")
        client = lab.socket("server", socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(path)
        found = {each.path: each for each in sockets(lab, "server") if each.path}
        assert set(found) == {path, "@name"}
        assert (found[path].listening, found[path].accept_queue, found[path].accept_queue_limit) == (True, 1, 4)
        assert not found["@name"].listening
        assert sockets(lab, "client") == ()
        for sock in (client, by_path, abstract):
            sock.close()
