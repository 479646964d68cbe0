"""The state of hosts that explains a failure: interfaces, routes, packet filters, sockets, counters."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest

from labctl.clock import monotonic_ns
from labctl.plan.drop_rules import DropProtocol, DropRule
from labctl.plan.operations import SetDown
from labctl.timeline.events import Counter, FilterRule, Flow, SocketSample
from labctl.timeline.sources.host_state import HOSTS_MAX, host_state, read
from tests.integration.dropping import dropping
from tests.integration.inside import NetworkLab, enter_own_namespaces, inside
from tests.integration.networks import pair

pytestmark = pytest.mark.stock_kernel
RULES = """
table inet mine {
  chain more {
    udp dport 53 drop
    accept
  }
  chain in {
    type filter hook input priority 0; policy drop;
    tcp dport 81 counter reject
    jump more
  }
  chain out {
    type filter hook output priority 0;
    tcp dport 82 accept
  }
}
table ip six {
  chain forward {
    type filter hook forward priority 0;
    tcp dport 83 counter packets 7 bytes 9 drop
  }
}
"""


@inside
def test_interfaces_and_routes_are_those_of_the_node() -> None:
    with NetworkLab(*pair()) as lab:
        found = host_state(lab, "client")
        assert [(each.name, each.is_up, each.has_carrier) for each in found.interfaces][1:] == [("eth0", True, True)]
        assert "192.0.2.0/24" in [route.destination for route in found.routes]
        lab.apply(SetDown("server", "eth0"))
        assert [(each.is_up, each.has_carrier) for each in host_state(lab, "server").interfaces][1:] == [(False, False)]
        assert [(each.is_up, each.has_carrier) for each in host_state(lab, "client").interfaces][1:] == [(True, False)]


@inside
def test_the_drop_rules_of_a_lab_are_filters_with_their_count() -> None:
    with NetworkLab(*pair()) as lab, dropping(lab, "server", DropRule(protocol=DropProtocol.UDP, port=53)):
        with lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", ("192.0.2.2", 53))
        filters = host_state(lab, "server").filters
        assert {(each.table, each.chain, each.hook, each.verdict) for each in filters} == {
            ("inet labctl", "prerouting", "prerouting", "drop")
        }
        assert sum(each.packets or 0 for each in filters) == 1
        assert host_state(lab, "client").filters == ()


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
@inside
def test_rules_of_other_programs_are_found_with_their_hooks() -> None:
    enter_own_namespaces()
    subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
    from labctl.kernel.nftables import NETLINK_NETFILTER, dropping_rules

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        found = dropping_rules(sock)
    assert {FilterRule(each.table, each.chain, each.hook, each.verdict, each.packets) for each in found} == {
        FilterRule("inet mine", "in", "input", "policy drop", None),
        FilterRule("inet mine", "in", "input", "reject", 0),
        FilterRule("inet mine", "more", "", "drop", None),
        FilterRule("ip six", "forward", "forward", "drop", 7),
    }


@inside
def test_listeners_are_samples_and_counters_count_from_the_beginning() -> None:
    with NetworkLab(*pair()) as lab:
        since_ns = monotonic_ns()
        with (
            lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as listener,
            lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sock,
        ):
            listener.bind(("192.0.2.2", 5000))
            listener.listen(3)
            sock.connect(("192.0.2.2", 53))
            sock.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(1)
            found = read(lab, ["client", "server"], since_ns)
        samples = [event for event in found.events if isinstance(event, SocketSample) and event.state == "LISTEN"]
        counters = {event.name: event.delta for event in found.events if isinstance(event, Counter)}
    assert [sample.socket.flow for sample in samples] == [Flow("tcp", "192.0.2.2", 5000, "0.0.0.0", 0)]
    assert counters["UdpNoPorts"] == 1
    assert [state.host for state in found.states] == ["client", "server"]


@inside
def test_counters_of_nodes_that_existed_before_are_not_read() -> None:
    with NetworkLab(*pair()) as lab:
        assert not [event for event in read(lab, ["server"]).events if isinstance(event, Counter)]


@inside
def test_of_a_large_lab_only_the_first_nodes_are_read() -> None:
    with NetworkLab(*pair()) as lab:
        assert len(read(lab, ["client"] * (HOSTS_MAX + 1)).states) == HOSTS_MAX
