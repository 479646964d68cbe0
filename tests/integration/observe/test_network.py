"""Sockets, counters, addresses and routes of a node, read from outside its namespace."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from labctl.observe.network import Socket, State, Transport, UnknownCounter, addresses, counters, routes, sockets
from labctl.plan.drop_rules import DropProtocol, DropRule, parse_flags
from tests.integration.dropping import dropping
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import pair, routed
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


@inside
@pytest.mark.parametrize(
    ("family", "server", "name"),
    [(socket.AF_INET, "192.0.2.2", "Udp.NoPorts"), (socket.AF_INET6, "2001:db8::2", "Udp6.NoPorts")],
)
def test_a_datagram_to_no_port_is_counted_on_the_receiver_only(family: int, server: str, name: str) -> None:
    with NetworkLab(*pair()) as lab, lab.socket("client", family, socket.SOCK_DGRAM) as sock:
        before = {node: counters(lab, node) for node in ("client", "server")}
        until, again = time.monotonic() + patient(15), 0.0
        while not (counters(lab, "server") - before["server"])[name]:
            now = time.monotonic()
            assert now < until
            if now >= again:  # a busy machine may lose one
                sock.sendto(b"x", (server, 9))
                again = now + patient(3)
            select.select((), (), (), 0.01)
        grown = {node: counters(lab, node) - before[node] for node in ("client", "server")}
        assert grown["server"][name] == 1
        assert grown["client"][name] == 0
        assert name in grown["server"].changed()


@inside
def test_a_full_accept_queue_is_counted_under_its_bare_name() -> None:
    with NetworkLab(*pair()) as lab, lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("192.0.2.2", 5000))
        server.listen(0)
        before = counters(lab, "server")
        clients = [lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("192.0.2.2", 5000))
        until = time.monotonic() + patient(15)
        while not (counters(lab, "server") - before)["ListenOverflows"]:
            assert time.monotonic() < until
            select.select((), (), (), 0.05)
        for client in clients:
            client.close()


@inside
def test_an_unknown_counter_is_an_error_with_suggestions() -> None:
    with NetworkLab(*pair()) as lab:
        found = counters(lab, "server")
        with pytest.raises(UnknownCounter, match=r"did you mean `TcpExt\.ListenOverflows`"):
            found["ListenOverflow"]
        with pytest.raises(UnknownCounter, match=r"ambiguous; use `.*Udp\.InErrors` or"):
            found["InErrors"]


@inside
def test_a_file_below_proc_net_stays_bound_to_the_namespace_that_it_was_opened_in() -> None:
    with NetworkLab(*pair()) as lab:
        fd = lab.open_file("server", "/proc/net/if_inet6")
        with lab.nodes.entered("client"), open(fd) as file:
            assert "20010db8000000000000000000000002" in file.read()


@inside
def test_addresses_and_routes_are_those_of_the_node() -> None:
    with NetworkLab(*routed()) as lab:
        assert {found.ifname for found in addresses(lab, "gw")} == {"lo", "eth1", "eth2"}
        assert "10.2.0.0/24 via 10.1.0.254 dev eth0" in {str(route) for route in routes(lab, "left")}
        assert "10.1.0.0/24 via 10.2.0.254 dev eth0" in {str(route) for route in routes(lab, "right")}
        assert "fd02::/64 via fd01::fe dev eth0" in {str(route) for route in routes(lab, "left")}


@inside
def test_observing_leaves_no_descriptor_open() -> None:
    with NetworkLab(*pair()) as lab:
        before = set(os.listdir("/proc/self/fd"))
        counters(lab, "server")
        addresses(lab, "server")
        sockets(lab, "server")
        assert set(os.listdir("/proc/self/fd")) == before
