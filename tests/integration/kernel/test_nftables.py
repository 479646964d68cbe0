"""Packets that drop rules drop, and those that they do not."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

import pytest

from labctl.observe.ping import reach
from labctl.plan.drop_rules import Direction, DropProtocol, DropRule, parse_flags
from tests.integration.dropping import dropped_on, dropping
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import pair, routed
from tests.patience import patient

pytestmark = pytest.mark.stock_kernel
V4, V6 = socket.AF_INET, socket.AF_INET6
SERVER = {V4: "192.0.2.2", V6: "2001:db8::2"}
SILENCE_S, ANSWER_S = patient(0.5), patient(20)
REFUSED = errno.ECONNREFUSED  # what a connect gives that is not dropped: nobody listens


def connects(
    lab: NetworkLab,
    family: socket.AddressFamily,
    port: int = 81,
    target: str = "",
    node: str = "client",
    within_s: float = ANSWER_S,  # a busy machine loses a SYN, which is sent again
) -> int:
    """errno of a connect; 0 when nothing came back."""
    with lab.socket(node, family, socket.SOCK_STREAM) as sock:
        sock.settimeout(within_s)
        try:
            sock.connect((target or SERVER[family], port))
        except TimeoutError:
            return 0
        except OSError as error:
            return error.errno or -1
    return -1


def pings(lab: NetworkLab, target: str, within_s: float = ANSWER_S) -> bool:
    return reach(lab, "client", ip_address(target), deadline_s=within_s, requests=20).reached


@inside
@pytest.mark.parametrize("family", [V4, V6])
def test_tcp_to_a_port_is_dropped_and_nothing_else(family: socket.AddressFamily) -> None:
    with NetworkLab(*pair()) as lab:
        with dropping(lab, "server", DropRule(protocol=DropProtocol.TCP, port=81)):
            assert connects(lab, family, 81, within_s=SILENCE_S) == 0
            assert connects(lab, family, 82) == REFUSED
            assert pings(lab, SERVER[family])
            assert dropped_on(lab, "server").packets >= 1
        assert connects(lab, family, 81) == REFUSED
        assert dropped_on(lab, "server").packets == 0


@inside
def test_icmp_is_dropped_while_neighbours_are_still_found() -> None:
    with NetworkLab(*pair()) as lab, dropping(lab, "server", DropRule(protocol=DropProtocol.ICMP)):
        assert not pings(lab, "2001:db8::2", SILENCE_S)
        assert not pings(lab, "192.0.2.2", SILENCE_S)
        assert connects(lab, V6) == REFUSED
        assert connects(lab, V4) == REFUSED


@inside
def test_a_rule_without_a_protocol_silences_the_node_but_does_not_hide_it() -> None:
    with NetworkLab(*pair()) as lab, dropping(lab, "server", DropRule()):
        for family in (V4, V6):
            assert connects(lab, family, within_s=SILENCE_S) == 0
            assert reach(lab, "client", ip_address(SERVER[family]), deadline_s=0.2).errno == errno.ETIMEDOUT


@inside
def test_addresses_of_both_families_choose_packets() -> None:
    other = tuple(ip_address(text) for text in ("192.0.2.77", "2001:db8::77"))
    client = tuple(ip_address(text) for text in ("192.0.2.1", "2001:db8::1"))
    with NetworkLab(*pair()) as lab:
        with dropping(lab, "server", DropRule(sources=other), DropRule(destinations=client)):
            assert pings(lab, "192.0.2.2")
            assert pings(lab, "2001:db8::2")
        with dropping(lab, "server", DropRule(sources=client)):
            assert not pings(lab, "192.0.2.2", SILENCE_S)
            assert not pings(lab, "2001:db8::2", SILENCE_S)


@inside
def test_addresses_of_one_family_leave_the_other_alone() -> None:
    with NetworkLab(*pair()) as lab, dropping(lab, "server", DropRule(sources=(ip_address("192.0.2.1"),))):
        assert not pings(lab, "192.0.2.2", SILENCE_S)
        assert pings(lab, "2001:db8::2")


@inside
def test_flags_choose_the_syn_ack() -> None:
    rule = DropRule(Direction.IN, DropProtocol.TCP, flags=parse_flags("syn,ack"))
    with NetworkLab(*pair()) as lab, lab.socket("server", V4, socket.SOCK_STREAM) as server:
        server.bind(("192.0.2.2", 5000))
        server.listen()
        with dropping(lab, "client", rule):
            assert connects(lab, V4, 5000, within_s=SILENCE_S) == 0  # its SYN arrives, the answer does not
            assert connects(lab, V4, 81) == REFUSED  # a RST has no SYN
        assert connects(lab, V4, 5000) == -1


@inside
def test_a_routers_drop_concerns_what_passes_it() -> None:
    for direction in Direction:
        with NetworkLab(*routed()) as lab, dropping(lab, "gw", DropRule(direction, DropProtocol.TCP, 81)):
            assert connects(lab, V4, 81, "10.2.0.1", "left", within_s=SILENCE_S) == 0
            assert connects(lab, V4, 82, "10.2.0.1", "left") == REFUSED
            assert connects(lab, V6, 81, "fd02::1", "left", within_s=SILENCE_S) == 0


@inside
def test_a_datagram_dropped_on_its_way_out_is_refused_to_its_sender() -> None:
    with NetworkLab(*pair()) as lab, lab.socket("client", V4, socket.SOCK_DGRAM) as sock:
        with dropping(lab, "client", DropRule(Direction.OUT, DropProtocol.UDP, 53)):
            with pytest.raises(PermissionError):
                sock.sendto(b"x", ("192.0.2.2", 53))
            sock.sendto(b"x", ("192.0.2.2", 54))
        sock.sendto(b"x", ("192.0.2.2", 53))


@inside
def test_many_rules_are_all_removed_at_once() -> None:
    many = tuple(ip_address(f"192.0.2.{n}") for n in range(1, 12))
    with NetworkLab(*pair()) as lab:
        with dropping(lab, "server", DropRule(sources=many, destinations=many, port=81), DropRule(sources=many)):
            assert connects(lab, V4, 81, within_s=SILENCE_S) == 0
        assert connects(lab, V4, 81) == REFUSED


@inside
def test_removing_what_was_never_added_is_no_error() -> None:
    with NetworkLab(*pair()) as lab, dropping(lab, "server"):
        assert pings(lab, "192.0.2.2")
