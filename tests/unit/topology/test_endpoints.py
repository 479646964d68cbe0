from __future__ import annotations

import pytest

from labctl.topology.endpoints import (
    EndpointPattern,
    ListeningAt,
    Protocol,
    TcpState,
    fits,
    parse_address,
    parse_endpoint,
    parse_listening,
    parse_state,
)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("tcp/[fe80::1%eth0]:80", ListeningAt(Protocol.TCP, 80, "fe80::1%eth0")),
        ("tcp/5000", ListeningAt(Protocol.TCP, 5000)),
        ("udp/53", ListeningAt(Protocol.UDP, 53)),
        ("tcp/10.0.0.1:80", ListeningAt(Protocol.TCP, 80, "10.0.0.1")),
        ("tcp/[fd00::1]:80", ListeningAt(Protocol.TCP, 80, "fd00::1")),
        ("tcp/server:80", ListeningAt(Protocol.TCP, 80, "server")),
        ("unix//tmp/x.sock", ListeningAt(Protocol.UNIX, name="/tmp/x.sock")),
        ("unix/@name", ListeningAt(Protocol.UNIX, name="@name")),
    ],
)
def test_a_local_end_is_read_and_written_the_same(text: str, where: ListeningAt) -> None:
    assert parse_listening(text) == where
    assert str(where) == text


@pytest.mark.parametrize("text", ["5000", "tcp", "tcp/", "tcp/http", "tcp/65536", "sctp/5", "unix/x", "tcp/host:*"])
def test_what_is_no_local_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|needs a port|is neither"):
        parse_listening(text)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("server:5000", EndpointPattern("server", 5000)),
        ("client:*", EndpointPattern("client", None)),
        (":5000", EndpointPattern(None, 5000)),
        ("*:*", EndpointPattern()),
        ("[fd00::1]:80", EndpointPattern("fd00::1", 80)),
        ("[fe80::1%eth0]:80", EndpointPattern("fe80::1%eth0", 80)),
        ("/tmp/x.sock", EndpointPattern("/tmp/x.sock")),
    ],
)
def test_an_end_may_leave_host_or_port_open(text: str, end: EndpointPattern) -> None:
    assert parse_endpoint(text) == end


@pytest.mark.parametrize("text", ["server", "a:b:1", "server:x", "fd00::1"])
def test_what_is_no_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_endpoint(text)


@pytest.mark.parametrize("text", ["ESTAB", "established", "ESTABLISHED"])
def test_states_have_several_spellings(text: str) -> None:
    assert parse_state(text) is TcpState.ESTABLISHED
    assert parse_state("fin-wait-1") is TcpState.FIN_WAIT1


def test_the_states_of_ss_the_kernel_and_the_rfc_are_all_taken() -> None:
    of_ss = "ESTAB SYN-SENT SYN-RECV FIN-WAIT-1 FIN-WAIT-2 TIME-WAIT UNCONN CLOSE-WAIT LAST-ACK LISTEN CLOSING"
    assert [parse_state(word) for word in of_ss.split()] == list(TcpState)
    assert [parse_state(f"TCP_{state}") for state in TcpState] == list(TcpState)
    assert [parse_state(word) for word in ("closed", "listening", "unconnected", "syn-received", "new-syn-recv")] == [
        TcpState.CLOSE, TcpState.LISTEN, TcpState.CLOSE, TcpState.SYN_RECV, TcpState.SYN_RECV,
    ]  # fmt: skip


def test_an_unknown_state_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="TIME_WAIT"):
        parse_state("WAITING")


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1", "fe80::1%eth0"])
def test_an_address_keeps_its_scope(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("text", ["server", "10.0.0.1%eth0", "fe80::1%", ""])
def test_what_is_no_address_may_be_a_name(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("wanted", "found", "interface", "expected"),
    [
        ("10.0.0.1", "10.0.0.1", (), True),
        ("10.0.0.1", "10.0.0.2", (), False),
        ("fe80::1", "fe80::1%eth0", ("eth0", "2"), True),
        ("fe80::1%eth0", "fe80::1%eth0", ("eth0", "2"), True),
        ("fe80::1%2", "fe80::1%eth0", ("eth0", "2"), True),
        ("fe80::1%eth1", "fe80::1%eth0", ("eth0", "2"), False),
        ("fe80::2%eth0", "fe80::1%eth0", ("eth0", "2"), False),
        ("fe80::1%eth0", "fe80::1", (), False),
    ],
)
def test_a_scope_that_is_written_is_asked_for(
    wanted: str, found: str, interface: tuple[str, ...], expected: bool
) -> None:
    asked, seen = parse_address(wanted), parse_address(found)
    assert asked is not None
    assert fits(asked, seen, interface) is expected
    assert not fits(asked, None)
