"""Causes of failures, from timelines built by hand: each sentence follows from events of several hosts."""

from __future__ import annotations

from typing import Any

import pytest

from labctl.structs import replace
from labctl.timeline.events import (
    Call,
    Counter,
    FilterRule,
    Flow,
    Header,
    HostState,
    Mark,
    NodeInfo,
    Packet,
    Reset,
    RouteState,
    SocketKey,
    SocketSample,
    Source,
    Step,
    Timeline,
)
from labctl.timeline.explain import explain, failing_call
from labctl.topology.model import NodeKind
from tests.timelines import CLIENT, SERVER, STARTED_NS, Builder, tcp_echo


def failed(b: Builder, name: str, arguments: str, errno: str = "", *, host: str = "client", **more: Any) -> Call:
    """A call that began at 0 us; it failed after 1 s with this errno, or did not return."""
    result, until_us = (-1, 1e6) if errno else (None, None)
    b.call(0, until_us, host, name, arguments, result, errno=errno, **more)
    call = b.events[-1]
    assert isinstance(call, Call)
    return call


def connect(b: Builder, errno: str = "ECONNREFUSED", target: str = SERVER) -> Call:
    family, shown = ("AF_INET6", f"[{target}]") if ":" in target else ("AF_INET", target)
    key = SocketKey("client", flow=Flow("tcp", "", 0, target, 5000))
    return failed(b, "connect", f"3, {{{family}, {shown}:5000}}, 16", errno, socket=key, fd=3)


def listener(
    b: Builder, address: str, port: int = 5000, *, at_us: float = 2e6, queue: int = 0, host: str = "server"
) -> None:
    """A sample of a listening socket with a backlog of 1."""
    key = SocketKey(host, flow=Flow("tcp", address, port, "0.0.0.0", 0))
    common = b._common(at_us, host, Source.SOCKETS)
    b.events.append(SocketSample(**common, socket=key, state="LISTEN", receive_queue=queue, send_queue=1))


def refused() -> tuple[Builder, Call]:
    """A connect that RST answered."""
    b = Builder()
    call = connect(b)
    b.packet(10, "client", "SYN", 0, 0)
    b.packet(20, "server", "RST ACK", 0, 1)
    return b, call


def mark(b: Builder, at_us: float, program: str, status: int) -> None:
    common = b._common(at_us, "server", Source.MARKS)
    b.events.append(Mark(**common, text=f"exited with status {status}", program=program, exit_status=status))


def cause(b: Builder, call: Call, **more: Any) -> str:
    """The first sentence."""
    return explain(b.timeline(**more), call)[0]


# -- refused


def test_a_refused_connect_joins_syn_rst_and_the_listener_at_another_address() -> None:
    b, call = refused()
    listener(b, "127.0.0.1")
    assert cause(b, call) == (
        "SYN reached server; server answered RST: nothing listens on 5000; server listens on 127.0.0.1:5000 only"
    )


def test_a_rst_that_does_not_arrive_is_not_the_cause() -> None:
    b = Builder()
    call = connect(b, "")
    b.packet(10, "client", "SYN", 0, 0)
    b.packet(20, "server", "RST ACK", 0, 1, receiver="", arrived_ns=None)
    assert cause(b, call) == "SYN reached server, which answered RST; that reached server only"


def test_a_connection_that_no_program_accepts_explains_a_program_that_waits() -> None:
    b = Builder()
    b.packet(10, "client", "SYN", 0, 0)
    b.packet(20, "server", "SYN ACK", 0, 1)
    b.packet(30, "client", "PSH ACK", 1, 1, b"hi")
    listener(b, "0.0.0.0", at_us=25, queue=1)
    assert explain(b.timeline(), failed_step(b)) == (
        "client to server:5000: the kernel of server has made the connection, but no program has accepted it "
        "(accept queue 1 of 1), and 2 bytes wait there unread (inferred)",
    )


def failed_step(b: Builder) -> Step:
    common = b._common(0, "client", Source.STEPS)
    b.events.append(Step(**common, index="1", kind="run", title="run x", until_ns=STARTED_NS + 10**9, outcome="failed"))
    found = b.events[-1]
    assert isinstance(found, Step)
    return found


@pytest.mark.parametrize(("inode", "is_accepted"), [(0, False), (7, True)])
def test_a_connection_with_an_inode_was_accepted_although_the_sample_of_its_listener_is_older(
    inode: int, is_accepted: bool
) -> None:
    b = Builder()
    b.packet(10, "client", "SYN", 0, 0)
    b.packet(20, "server", "SYN ACK", 0, 1)
    listener(b, "0.0.0.0", at_us=25, queue=1)
    common = b._common(30, "server", Source.SOCKETS)
    key = SocketKey("server", inode=inode, flow=b.flow.reverse)
    b.events.append(SocketSample(**common, socket=key, state="ESTABLISHED", receive_queue=0, send_queue=0))
    assert any("accepted" in sentence for sentence in explain(b.timeline(), failed_step(b))) is not is_accepted


@pytest.mark.parametrize(("queue", "unread"), [(0, ""), (90, ", with 90 unread bytes")])
def test_a_program_that_waits_may_have_a_peer_that_does_not_read(queue: int, unread: str) -> None:
    b = Builder()
    established(b)
    step = failed_step(b)
    common = b._common(30, "server", Source.SOCKETS)
    key = SocketKey("server", inode=7, flow=b.flow.reverse)
    b.events.append(SocketSample(**common, socket=key, state="ESTABLISHED", receive_queue=queue, send_queue=0))
    b.packet(40, "server", "ACK", 1, 60000, header=Header("tcp", b.flow.reverse, ("ACK",), window=0))
    assert explain(b.timeline(), step) == (
        f"client to server:5000: the receive window of server is 0{unread}: it does not read",
    )


def test_an_address_that_an_untraced_program_listens_on_is_in_use() -> None:
    b = Builder()
    listener(b, "0.0.0.0", at_us=-50, host="client")
    key = SocketKey("client", flow=Flow("tcp", "0.0.0.0", 5000, "", 0))
    call = failed(b, "bind", "3, {AF_INET, 0.0.0.0:5000}, 16", "EADDRINUSE", socket=key, fd=3)
    assert cause(b, call) == "another socket of client listens on 0.0.0.0:5000"


def test_a_listener_on_another_port_is_the_near_miss() -> None:
    b, call = refused()
    listener(b, "0.0.0.0", 5001)
    assert cause(b, call).endswith(": nothing listens on 5000; server listens on 5001")


def test_a_listener_on_another_host_is_the_near_miss() -> None:
    b, call = refused()
    listener(b, "0.0.0.0", 5000, host="db")
    assert cause(b, call).endswith(": nothing listens on 5000; db listens on 5000")


def test_a_host_that_was_read_and_has_no_listener_has_none() -> None:
    b, call = refused()
    assert cause(b, call, states=(HostState(STARTED_NS, "server"),)).endswith("server has no listening socket")


def test_a_socket_that_was_bound_and_does_not_listen_is_the_cause() -> None:
    b, call = refused()
    key = SocketKey("server", flow=Flow("tcp", SERVER, 5000, "", 0))
    b.call(-50, -40, "server", "bind", "3, {AF_INET, 10.0.0.2:5000}, 16", 0, socket=key, fd=3)
    assert cause(b, call).endswith("server has bound 10.0.0.2:5000 but has not called listen")


def test_a_listener_that_came_later_is_the_cause() -> None:
    b, call = refused()
    key = SocketKey("server", flow=Flow("tcp", SERVER, 5000, "", 0))
    b.call(1010, 1011, "server", "listen", "3, 1", 0, socket=key, fd=3)
    assert cause(b, call).endswith("nothing listened on 5000 yet; server began to 1.0 ms later")


def test_a_listener_that_was_closed_is_the_cause() -> None:
    b, call = refused()
    key = SocketKey("server", flow=Flow("tcp", SERVER, 5000, "", 0))
    b.call(-90, -80, "server", "listen", "3, 1", 0, socket=key, fd=3)
    b.call(-95, -94, "server", "bind", "3, {AF_INET, 10.0.0.2:5000}, 16", 0, socket=key, fd=3)
    b.call(-50, -40, "server", "close", "3", 0, socket=key, fd=3)
    assert "server closed its socket" in cause(b, call)
    assert "has not called listen" not in cause(b, call)


def test_a_listener_that_the_host_has_no_more_after_the_failure_is_told_apart() -> None:
    b, call = refused()
    listener(b, "0.0.0.0", at_us=-5)
    found = cause(b, call, states=(HostState(STARTED_NS + 10**9, "server"),))
    assert found.endswith("nothing listens on 5000; server listened there before; server has no listening socket")


def test_a_server_program_that_had_ended_is_the_cause() -> None:
    b, call = refused()
    mark(b, 5, "web", 1)
    assert cause(b, call).endswith("nothing listens on 5000; web on server exited with status 1 at 0.0 ms")


def test_a_listener_of_ipv6_only_does_not_take_ipv4() -> None:
    b, call = refused()
    listener(b, "::")
    assert cause(b, call).endswith("nothing listens on 5000 for IPv4; server listens on [::]:5000 for IPv6 only")


def test_a_listener_of_ipv4_does_not_take_ipv6() -> None:
    b = Builder()
    b.flow = Flow("tcp", "fd00::1", 43768, "fd00::2", 5000)
    call = connect(b, target="fd00::2")
    b.packet(10, "client", "SYN", 0, 0)
    b.packet(20, "server", "RST ACK", 0, 1)
    listener(b, "0.0.0.0")
    nodes = tuple(
        replace(each, addresses=(*each.addresses, address))
        for each, address in zip(b.timeline().nodes, ("fd00::1", "fd00::2"), strict=True)
    )
    assert cause(b, call, nodes=nodes).endswith("server listens on 0.0.0.0:5000 only, which is IPv4")


def test_a_filter_that_rejects_is_the_cause_if_something_listens() -> None:
    b, call = refused()
    listener(b, "0.0.0.0")
    rule = FilterRule("inet filter", "input", "input", "reject", None)
    found = cause(b, call, states=(HostState(STARTED_NS, "server", filters=(rule,)),))
    assert found.endswith("the packet filter of server rejects it at hook input (inet filter, chain input)")


def test_a_refused_connect_without_packets_is_explained_from_listeners() -> None:
    b = Builder()
    call = connect(b)
    listener(b, "127.0.0.1")
    assert cause(b, call) == "nothing listens on 5000; server listens on 127.0.0.1:5000 only"


# -- not answered


def unanswered(errno: str = "ETIMEDOUT") -> tuple[Builder, Call]:
    b = Builder()
    call = connect(b, errno)
    b.packet(10, "client", "SYN", 0, 0)
    b.packet(500_000, "client", "SYN", 0, 0, is_retransmission=True)
    return b, call


@pytest.mark.parametrize("errno", ["ETIMEDOUT", ""])
def test_a_full_accept_queue_is_inferred_from_its_sample_and_the_counter(errno: str) -> None:
    b, call = unanswered(errno)
    listener(b, "0.0.0.0", at_us=300_000, queue=2)
    common = b._common(1e6, "server", Source.KERNEL)
    b.events.append(Counter(**common, name="TcpExtListenOverflows", delta=2, since_ns=STARTED_NS))
    assert explain(b.timeline(), call) == (
        "SYN (sent 2 times) reached server, which did not answer: the accept queue of 10.0.0.2:5000 was full (2 of 1); "
        "TcpExtListenOverflows grew by 2 (inferred)",
        "server has to call accept, or listen with a larger backlog",
    )


def test_an_accept_queue_with_room_is_no_cause() -> None:
    b, call = unanswered()
    listener(b, "0.0.0.0", at_us=300_000, queue=1)
    assert cause(b, call) == "SYN (sent 2 times) reached server, which did not answer"


def test_a_filter_of_the_target_is_the_cause_of_silence() -> None:
    b, call = unanswered()
    rule = FilterRule("inet labctl", "prerouting", "prerouting", "drop", 2)
    found = cause(b, call, states=(HostState(STARTED_NS, "server", filters=(rule,)),))
    assert found.startswith("SYN (sent 2 times) reached server, which did not answer: the packet filter of server")


def test_an_answer_that_does_not_come_back_is_told_apart_from_silence() -> None:
    b, call = unanswered()
    b.packet(20, "server", "SYN ACK", 0, 1, receiver="gw")
    assert cause(b, call) == "SYN (sent 2 times) reached server, which answered SYN ACK; that reached gw"


def test_a_syn_that_a_router_keeps_reached_only_the_router() -> None:
    b = Builder()
    call = connect(b, "ETIMEDOUT")
    b.packet(10, "client", "SYN", 0, 0, receiver="gw")
    rule = FilterRule("inet filter", "forward", "forward", "policy drop", None)
    routes = (RouteState("0.0.0.0/0", "default via 10.0.0.9"),)
    found = cause(b, call, states=(HostState(STARTED_NS, "gw", filters=(rule,), routes=routes),))
    assert found.startswith("SYN reached gw only: the packet filter of gw at hook forward drops packets")


def test_an_icmp_error_names_the_host_that_answered() -> None:
    b = Builder()
    call = connect(b, "EHOSTUNREACH")
    b.packet(10, "client", "SYN", 0, 0, receiver="gw")
    error = Header("icmp", Flow("icmp", "10.0.0.254", 0, CLIENT, 0), summary="host unreachable", quoted=b.flow)
    b.packet(20, "gw", "", 0, 0, header=error, receiver="client")
    assert cause(b, call) == "SYN for server reached gw; gw answered ICMP host unreachable"


def test_no_route_is_the_cause_of_enetunreach() -> None:
    b = Builder()
    call = connect(b, "ENETUNREACH", "10.9.9.9")
    assert explain(b.timeline(), call) == ("client has no route to 10.9.9.9",)


# -- addresses


def test_the_process_that_has_bound_the_address_is_named() -> None:
    b = Builder()
    key = SocketKey("server", flow=Flow("tcp", "0.0.0.0", 5000, "", 0))
    b.call(-90, -80, "server", "bind", "3, {AF_INET, 0.0.0.0:5000}, 16", 0, socket=key, fd=3)
    call = failed(b, "bind", "4, {AF_INET, 10.0.0.2:5000}, 16", "EADDRINUSE", host="server", socket=key, fd=4)
    assert cause(b, call).startswith("the same process on server has bound 0.0.0.0:5000")


def test_a_connection_in_time_wait_holds_its_address() -> None:
    b = Builder()
    key = SocketKey("server", flow=Flow("tcp", SERVER, 5000, CLIENT, 43768))
    listener(b, SERVER, at_us=-50)  # closed since then
    common = b._common(5, "server", Source.SOCKETS)
    b.events.append(SocketSample(**common, socket=key, state="TIME_WAIT", receive_queue=0, send_queue=0))
    call = failed(b, "bind", "4, {AF_INET, 10.0.0.2:5000}, 16", "EADDRINUSE", host="server", fd=4)
    assert cause(b, call) == (
        "the connection 10.0.0.2:5000 - 10.0.0.1:43768 of server is in TIME_WAIT; SO_REUSEADDR before bind allows the "
        "address"
    )


def test_an_address_of_another_host_cannot_be_bound() -> None:
    b = Builder()
    call = failed(b, "bind", "4, {AF_INET, 10.0.0.1:5000}, 16", "EADDRNOTAVAIL", host="server", fd=4)
    assert cause(b, call) == "10.0.0.1 is no address of server: it is client's; server has 10.0.0.2"


def test_a_datagram_larger_than_udp_allows_is_too_long() -> None:
    b = Builder()
    key = SocketKey("client", flow=Flow("udp", "", 0, SERVER, 5000))
    call = failed(b, "sendto", '3, "a"..., 70000, 0, {AF_INET, 10.0.0.2:5000}, 16', "EMSGSIZE", socket=key, fd=3)
    assert cause(b, call) == "70000 bytes are more than the largest datagram of UDP, 65507 bytes"


# -- established connections


def established(b: Builder) -> SocketKey:
    """A connection that was made before 0 us; the key is the client's."""
    b.packet(-90, "client", "SYN", 0, 0)
    b.packet(-80, "server", "SYN ACK", 0, 1)
    b.packet(-70, "client", "ACK", 1, 1)
    return SocketKey("client", flow=b.flow)


def test_a_reset_by_close_with_unread_data_is_explained() -> None:
    b = Builder()
    key, peer = established(b), SocketKey("server", flow=b.flow.reverse)
    b.packet(-50, "client", "PSH ACK", 1, 1, b"hello")
    b.call(-40, -30, "server", "close", "4", 0, socket=peer, fd=4)
    b.packet(-35, "server", "RST ACK", 1, 6)
    call = failed(b, "recv", "3, buf, 10, 0", "ECONNRESET", socket=key, fd=3)
    assert cause(b, call) == "server sent RST at -0.0 ms: it closed the socket with 5 unread bytes"


def test_a_write_after_ones_own_shutdown_gives_epipe() -> None:
    b = Builder()
    key = established(b)
    b.call(-40, -30, "client", "shutdown", "3, SHUT_WR", 0, socket=key, fd=3)
    call = failed(b, "send", '3, "x", 1, 0', "EPIPE", socket=key, fd=3)
    assert cause(b, call).startswith("client itself has ended its sending direction with shutdown(3, SHUT_WR)")


@pytest.mark.parametrize("buffer", ["buf", '""', '"a\\\\\\"b"...', "0x7fe5857aa210"])
def test_a_recv_that_does_not_return_has_a_peer_that_waits_too(buffer: str) -> None:
    b = Builder()
    key, peer = established(b), SocketKey("server", flow=b.flow.reverse)
    b.call(-40, None, "server", "recv", f"4, {buffer}, 100, 0", None, socket=peer, fd=4)
    call = failed(b, "recv", "3, buf, 10, 0", socket=key, fd=3)
    assert explain(b.timeline(), call) == (
        "server has sent no data on this connection",
        "server waits in recv(4, buf, 100, 0) since -0.0 ms: both ends wait for the other",
    )


def test_a_recv_that_waits_for_the_end_names_the_process_that_did_not_close() -> None:
    b = Builder()
    key, listening = established(b), SocketKey("server", inode=7, flow=Flow("tcp", SERVER, 5000, "", 0))
    client = f"{{AF_INET, {CLIENT}:{b.flow.source_port}}}"
    b.call(-95, -60, "server", "accept", f"3, {client}, [16]", 4, socket=listening, fd=3)
    b.packet(-50, "client", "FIN ACK", 1, 1)
    call = failed(b, "recv", "3, buf, 10, 0", socket=key, fd=3)
    assert explain(b.timeline(), call)[1:3] == (
        "server received FIN at -0.1 ms and has not closed its socket",
        "server has not closed descriptor 4, which its accept returned",
    )
    b.call(-40, -39, "server", "close", "4", 0, fd=4)
    assert not any("descriptor" in line for line in explain(b.timeline(), call))


def test_a_recv_that_does_not_return_has_a_peer_that_has_not_accepted() -> None:
    b = Builder()
    key = established(b)
    listener(b, "0.0.0.0", at_us=3, queue=1)
    call = failed(b, "recv", "3, buf, 10, 0", socket=key, fd=3)
    assert explain(b.timeline(), call)[1] == "server has not accepted the connection (accept queue 1 of 1) (inferred)"


def test_a_send_that_does_not_return_meets_a_closed_window() -> None:
    b = Builder()
    key = established(b)
    header = Header("tcp", b.flow.reverse, ("ACK",), window=0)
    b.packet(-10, "server", "ACK", 1, 60000, header=header)
    call = failed(b, "send", '3, "x"..., 100000, 0', socket=key, fd=3)
    assert cause(b, call) == "the receive window of server is 0: it does not read"


def test_end_of_file_names_the_close_of_the_peer() -> None:
    b = Builder()
    key, peer = established(b), SocketKey("server", flow=b.flow.reverse)
    b.call(-40, -30, "server", "close", "4", 0, socket=peer, fd=4)
    b.packet(-35, "server", "FIN ACK", 1, 1)
    b.call(0, 5, "client", "recv", '3, "", 10, 0', 0, socket=key, fd=3)
    call = b.events[-1]
    assert isinstance(call, Call)
    assert cause(b, call) == "server has ended its sending direction by close(4): FIN at -0.0 ms"


def test_a_recv_of_less_than_was_sent_names_the_sends() -> None:
    b = Builder()
    key, peer = established(b), SocketKey("server", flow=b.flow.reverse)
    for at_us in (-40, -30):
        b.call(at_us, at_us + 1, "server", "send", '4, "hello", 5, 0', 5, data_bytes=5, socket=peer, fd=4)
    b.call(0, 5, "client", "recv", '3, "hello", 5, 0', 5, data_bytes=5, socket=key, fd=3)
    call = b.events[-1]
    assert isinstance(call, Call)
    assert cause(b, call) == (
        "server had sent 10 bytes in 2 sends (5, 5); 5 bytes are not read yet: TCP keeps no message boundaries"
    )


def test_an_accept_that_does_not_return_names_the_syn_for_another_port() -> None:
    b = Builder()
    b.packet(10, "client", "SYN", 0, 0)
    key = SocketKey("server", flow=Flow("tcp", "0.0.0.0", 5001, "", 0))
    call = failed(b, "accept", "3, addr, [16]", host="server", socket=key, fd=3)
    assert cause(b, call) == "no SYN for port 5001 has been sent; client sent one to 10.0.0.2:5000"


# -- datagrams


def datagram(b: Builder, at_us: float, port: int, **more: Any) -> None:
    flow = Flow("udp", CLIENT, 43768, SERVER, port)
    b.packet(at_us, "client", "", 0, 0, header=Header("udp", flow, payload_bytes=5), **more)


def test_a_refused_datagram_joins_the_icmp_error() -> None:
    b = Builder()
    datagram(b, 10, 5000)
    flow = Flow("udp", CLIENT, 43768, SERVER, 5000)
    error = Header("icmp", Flow("icmp", SERVER, 0, CLIENT, 0), summary="port unreachable", quoted=flow)
    b.packet(20, "server", "", 0, 0, header=error, receiver="client")
    key = SocketKey("client", flow=Flow("udp", "", 0, SERVER, 5000))
    call = failed(b, "recv", "3, buf, 10, 0", "ECONNREFUSED", socket=key, fd=3)
    assert cause(b, call) == (
        "datagram reached server; server answered ICMP port unreachable: no UDP socket is bound to 5000"
    )


def test_a_datagram_that_its_receiver_refused_is_explained_without_drops() -> None:
    b = Builder()
    datagram(b, 10, 5000)
    flow = Flow("udp", CLIENT, 43768, SERVER, 5000)
    error = Header("icmp", Flow("icmp", SERVER, 0, CLIENT, 0), summary="port unreachable", quoted=flow)
    b.packet(20, "server", "", 0, 0, header=error, receiver="client")
    key = SocketKey("server", flow=Flow("udp", "127.0.0.1", 5000, "", 0))
    call = failed(b, "recv", "3, buf, 10, 0", host="server", socket=key, fd=3)
    assert cause(b, call) == (
        "a datagram reached server, which answered ICMP port unreachable: no UDP socket is bound to 5000"
    )


def test_a_datagram_for_another_port_is_the_near_miss() -> None:
    b = Builder()
    datagram(b, 10, 5001)
    key = SocketKey("server", flow=Flow("udp", "0.0.0.0", 5000, "", 0))
    call = failed(b, "recv", "3, buf, 10, 0", host="server", socket=key, fd=3)
    assert cause(b, call) == "no datagram for port 5000 of server has been sent; client sent one to port 5001"


def test_datagrams_that_did_not_fit_into_the_buffer_are_counted() -> None:
    b = Builder()
    datagram(b, 10, 5000)
    common = b._common(1e6, "server", Source.KERNEL)
    b.events.append(Counter(**common, name="UdpRcvbufErrors", delta=7, since_ns=STARTED_NS))
    key = SocketKey("server", flow=Flow("udp", "0.0.0.0", 5000, "", 0))
    call = failed(b, "recv", "3, buf, 10, 0", host="server", socket=key, fd=3)
    assert cause(b, call) == "server dropped 7 datagrams: the receive buffer was full (inferred)"


def test_a_datagram_for_another_address_of_the_port_names_the_bound_one() -> None:
    b = Builder()
    b.datagram(10, "client", 4000, 5000, b"x")
    flow = Flow("udp", CLIENT, 4000, SERVER, 5000)
    b.drop(15, "server", "NO_SOCKET", header=Header("udp", flow=flow))
    bound = SocketKey("server", flow=Flow("udp", "127.0.0.1", 5000, "", 0))
    b.call(-90, -80, "server", "bind", "3, {AF_INET, 127.0.0.1:5000}, 16", 0, socket=bound, fd=3)
    call = failed(b, "recv", "3, buf, 10, 0", host="server", socket=bound, fd=3)
    assert cause(b, call) == (
        "1 of 1 datagrams reached server: no UDP socket is bound to 5000; "
        "server has a UDP socket bound to 127.0.0.1:5000 only"
    )


# -- steps


def step(host: str = "client", kind: str = "run") -> Step:
    return Step(
        at_ns=STARTED_NS,
        host=host,
        source=Source.STEPS,
        seq=0,
        index="1",
        kind=kind,
        title="curl",
        until_ns=STARTED_NS + 2_000_000_000,
    )


def test_a_step_whose_calls_are_not_known_is_explained_from_its_packets() -> None:
    b, _ = refused()
    b.events = [event for event in b.events if isinstance(event, Packet)]
    assert explain(b.timeline(), step()) == (
        "client to server:5000: SYN reached server; server answered RST: nothing listens on 5000",
    )


def fallback() -> Builder:
    """A program was refused at one address of the server and established at another, on the same port."""
    b = Builder()
    connect(b, target="10.0.1.2")
    first = replace(b.flow, target="10.0.1.2", source_port=40000)
    b.packet(10, "client", "SYN", 0, 0, header=Header(protocol="tcp", flow=first, flags=("SYN",)))
    answer = Header(protocol="tcp", flow=first.reverse, flags=("RST", "ACK"))
    b.packet(20, "server", "RST ACK", 0, 1, header=answer)
    b.packet(30, "client", "SYN", 0, 0)
    b.packet(40, "server", "SYN ACK", 0, 1)
    b.packet(50, "client", "ACK", 1, 1)
    return b


TWO_ADDRESSES = (
    NodeInfo("client", NodeKind.HOST, (CLIENT,)),
    NodeInfo("server", NodeKind.HOST, (SERVER, "10.0.1.2")),
)


def test_an_address_that_refused_before_another_was_reached_is_no_cause() -> None:
    assert explain(replace(fallback().timeline(), nodes=TWO_ADDRESSES), step()) == ()


def test_a_reset_of_an_established_connection_is_the_cause_of_a_step_without_calls() -> None:
    b = fallback()
    b.packet(60, "client", "PSH ACK", 1, 1, b"hello")
    b.packet(70, "server", "RST ACK", 1, 6)
    common = b._common(71, "server", Source.KERNEL)
    b.events.append(Reset(**common, socket=None, flow=b.flow.reverse, is_sent=True, reason="TCP_ABORT_ON_CLOSE"))
    assert explain(replace(b.timeline(), nodes=TWO_ADDRESSES), step()) == (
        "client to server:5000: server sent RST at 0.1 ms: it closed the socket with unread data",
    )


def test_a_syn_that_its_own_host_drops_is_the_cause() -> None:
    b = Builder()
    b.state(5, "client", "CLOSE", "SYN_SENT")
    b.drop(10, "client", "NETFILTER_DROP", hook="output", header=Header("tcp", flow=b.flow, flags=("SYN",)))
    assert explain(b.timeline(), step()) == (
        "client to server:5000: client dropped it at hook output: packet filter (NETFILTER_DROP)",
    )


def test_a_program_that_ended_during_the_step_is_named() -> None:
    b = Builder()
    mark(b, 5, "web", 1)
    assert explain(b.timeline(), step("")) == ("web on server exited with status 1 at 0.0 ms",)


def test_a_program_that_ended_well_is_no_cause() -> None:
    b = Builder()
    mark(b, 5, "web", 0)
    assert explain(b.timeline(), step("")) == ()


def test_a_calls_step_is_about_its_last_call() -> None:
    b, call = refused()
    b.events = [replace(call, step="1") if event is call else event for event in b.events]
    found = failing_call(b.timeline(), step(kind="calls"))
    assert found is not None
    assert found.errno == "ECONNREFUSED"
    assert explain(b.timeline(), step(kind="calls")) == explain(b.timeline(), found)


def test_a_conversation_without_a_failure_has_no_explanation() -> None:
    timeline: Timeline = tcp_echo()
    assert explain(timeline) == ()
