from __future__ import annotations

import re
from pathlib import Path

import pytest

from labctl.documents.diagnostics import DocumentError
from labctl.scenario.observations import SHOWN
from tests.integration.scenarios import fails, passes, run

LISTEN = '  - server: |\n      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, "server:5000")\n      listen(s, 2)\n'


CONNECT = '  - client: |\n      c = socket(AF_INET, SOCK_STREAM)\n      connect(c, "server:5000")\n'


ACCEPT = "  - server: conn, peer = accept(s)\n"


_BOUND = """
  - server: |
      u = socket(AF_INET, SOCK_DGRAM)
      bind(u, ":5000")
      six = socket(AF_INET6, SOCK_DGRAM)
      bind(six, "[::]:5001")
      only = socket(AF_INET6, SOCK_DGRAM)
      setsockopt(only, IPPROTO_IPV6, IPV6_V6ONLY, 1)
      bind(only, "[::]:5002")
      t = socket(AF_INET6, SOCK_STREAM)
      bind(t, "[::]:5003")
      listen(t, 1)
      x = socket(AF_UNIX, SOCK_DGRAM)
      bind(x, "/tmp/x.sock")
      y = socket(AF_UNIX, SOCK_DGRAM)
      connect(y, "/tmp/x.sock")                      # both are then ESTABLISHED
      z = socket(AF_UNIX, SOCK_DGRAM)
      bind(z, "@z")
  - client: |
      c = socket(AF_INET, SOCK_DGRAM)
      connect(c, "server:5000")
"""


def test_listening_sockets_and_their_queues(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - expect: {on: server, not_listening: tcp/5000, now: true}\n"
        + LISTEN
        + "  - expect: {on: server, listening: tcp/5000, accept_queue: 0, accept_queue_limit: 2, syn_queue: 0}\n"
        + CONNECT
        + "  - expect: {on: server, listening: 'tcp/server:5000', accept_queue: 1}\n"
        "  - expect: {on: server, listening: 'tcp/10.0.0.2:5000', accept_queue: {at_least: 1, at_most: 1}}\n"
        "  - expect: {on: server, not_listening: 'tcp/127.0.0.1:5000'}\n"
        "  - expect: {on: client, not_listening: tcp/5000}\n",
    )


def test_udp_and_unix_sockets_are_there_when_they_are_bound(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - server: |\n"
        "      u = socket(AF_INET, SOCK_DGRAM)\n"
        '      bind(u, ":53")\n'
        "      x = socket(AF_UNIX, SOCK_STREAM)\n"
        '      bind(x, "/tmp/x.sock")\n'
        "      listen(x, 3)\n"
        "      a = socket(AF_UNIX, SOCK_DGRAM)\n"
        '      bind(a, "@name")\n'
        "  - expect: {on: server, listening: udp/53}\n"
        "  - expect: {on: server, listening: unix//tmp/x.sock, accept_queue: 0}\n"
        "  - expect: {on: server, listening: unix/@name}\n"
        "  - expect: {on: client, not_listening: unix/@name}\n"
        "  - expect: {on: server, file: {path: /tmp/x.sock}}\n",
    )


def test_connections_and_the_bytes_in_their_queues(tmp_path: Path) -> None:
    passes(
        tmp_path,
        LISTEN + CONNECT + ACCEPT + '  - client: send(c, b"hello")\n'
        "  - expect:\n"
        "      on: server\n"
        '      connection: {local: "server:5000", peer: "client:*", state: ESTABLISHED, receive_queue: 5, count: 1}\n'
        '  - expect: {on: client, connection: {peer: ":5000", send_queue: 0, state: ESTAB}}\n'
        '  - expect: {on: client, connection: {local: ":5000", count: 0}}\n',
    )


@pytest.mark.parametrize(
    ("host", "connection", "count"),
    [
        ("server", '{protocol: udp, local: ":5000"}', 1),
        ("server", '{protocol: udp, local: "server:5000", state: UNCONN}', 1),
        ("server", '{protocol: udp, local: "0.0.0.0:5000", state: CLOSE}', 1),
        ("server", '{protocol: udp, local: "10.0.0.2:5000"}', 1),
        ("server", '{protocol: udp, local: "127.0.0.1:5000"}', 1),
        ("server", '{protocol: udp, local: "*:5000"}', 1),
        ("server", '{protocol: udp, local: ":5000", state: ESTAB}', 0),
        ("server", '{protocol: udp, local: "[::]:5000"}', 0),
        ("server", '{protocol: udp, local: "10.0.0.2:5001"}', 1),
        ("server", '{protocol: udp, local: "0.0.0.0:5001"}', 1),
        ("server", '{protocol: udp, local: "[::]:5001"}', 1),
        ("server", '{protocol: udp, local: "10.0.0.2:5002"}', 0),
        ("server", '{protocol: udp, local: "[::1]:5002"}', 1),
        ("server", '{protocol: udp, local: ":5001", peer: "client:*"}', 0),
        ("server", '{protocol: tcp, local: "10.0.0.2:5003"}', 0),
        ("server", '{protocol: tcp, local: "10.0.0.2:5003", state: LISTEN}', 1),
        ("server", "{protocol: unix, local: /tmp/x.sock}", 1),
        ("server", "{protocol: unix, local: '@z', state: UNCONN}", 1),
        ("server", "{protocol: unix, peer: /tmp/x.sock}", 1),
        ("server", "{protocol: unix, peer: /tmp/y.sock}", 0),
        ("client", '{protocol: udp, peer: "server:5000", state: ESTAB}', 1),
    ],
)
def test_sockets_that_are_bound_and_not_connected_are_found(
    tmp_path: Path, host: str, connection: str, count: int
) -> None:
    counted = connection.replace("}", f", count: {count}}}")
    passes(tmp_path, f"{_BOUND}  - expect: {{on: {host}, now: true, connection: {counted}}}\n")


def test_count_0_does_not_pass_over_a_bound_socket(tmp_path: Path) -> None:
    step = "  - expect: {on: server, now: true, connection: {protocol: udp, local: ':5000', count: 0}}\n"
    reason = fails(tmp_path, _BOUND + step).reason
    assert "expected 0; got 1. Sockets: udp 0.0.0.0:5000 -> 0.0.0.0:* UNCONN" in reason


@pytest.mark.parametrize(
    ("connection", "problem"),
    [
        ("{protocol: unix, local: ':5000', count: 0}", "`:5000` is not an address of `protocol: unix`"),
        ("{local: /tmp/x.sock, count: 0}", "`/tmp/x.sock` is not an address of `protocol: tcp`"),
        ("{protocol: udp, state: LISTEN, count: 0}", "a socket of `protocol: udp` is never in state LISTEN"),
        ("{protocol: unix, state: TIME-WAIT, count: 0}", "a socket of `protocol: unix` is never in state TIME-WAIT"),
        ("{state: WAITING}", "`WAITING` is not a state of a socket"),
    ],
)
def test_a_connection_that_cannot_be_is_a_mistake_of_the_file(tmp_path: Path, connection: str, problem: str) -> None:
    with pytest.raises(DocumentError) as refused:
        run(tmp_path, f"  - expect: {{on: server, connection: {connection}}}\n")
    assert problem in str(refused.value)


def test_the_last_sockets_are_reported_when_no_connection_matches(tmp_path: Path) -> None:
    steps = (
        LISTEN
        + CONNECT
        + '  - expect: {on: client, connection: {peer: "server:5000", state: CLOSE_WAIT}, within: 50ms}\n'
    )
    reason = fails(tmp_path, steps).reason
    assert "expected a socket tcp *:* -> server:5000 CLOSE_WAIT on client; found none. Sockets: tcp 10.0.0.1:" in reason
    assert "10.0.0.2:5000 ESTABLISHED (receive queue 0, send queue 0) (within 50ms)" in reason


def test_counters_are_counted_from_the_start(tmp_path: Path) -> None:
    connect = 'c = socket(AF_INET, SOCK_STREAM)\n      connect(c, "server:81") -> ECONNREFUSED\n'
    passes(
        tmp_path,
        f"  - client: |\n      {connect}"
        "  - expect: {on: client, counters: {Tcp.ActiveOpens: 1, AttemptFails: 1, TcpExt.ListenOverflows: 0}}\n"
        "  - expect: {on: server, counters: {Tcp.OutRsts: {at_least: 1}}}\n",
    )
    reason = fails(tmp_path, "  - expect: {on: client, counters: {Tcp.ActiveOpens: 3}, within: 20ms}\n").reason
    assert "counter Tcp.ActiveOpens on client: expected 3; got 0 (since the start)" in reason


def test_a_type_of_icmp_that_the_kernel_does_not_show_yet_is_waited_for(tmp_path: Path) -> None:
    unreachable = "  - parallel:\n      - expect: {on: server, counters: {IcmpMsg.OutType3: 1, Icmp6.InType200: 0}}\n"
    send = "      - client: |\n          u = socket(AF_INET, SOCK_DGRAM)\n          sendto(u, b'x', 0, 'server:9')\n"
    passes(tmp_path, unreachable + send)


def test_reachability_over_both_families_and_through_routers(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - expect: {on: h1, reachable: h2, now: true}\n"
        "  - expect: {on: h1, reachable: {node: h2, family: ipv6}}\n"
        "  - expect: {on: h1, reachable: 127.0.0.1}\n",
        header="topology: line:3\n",
    )
    reason = fails(tmp_path, "  - expect: {on: client, unreachable: server, within: 10ms}\n").reason
    assert "expected server to be unreachable from client; 10.0.0.2 answered" in reason


def test_a_node_is_reached_by_its_name_when_one_of_its_addresses_answers(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - expect: {on: left, reachable: both}\n"
        "  - expect: {on: right, reachable: both}\n"
        "  - expect: {on: left, unreachable: right}\n",
        header="topology:\n  hosts: {left: {}, right: {}, both: {}}\n  links: [[left, both], [right, both]]\n",
    )


def test_a_node_is_reached_in_the_families_that_both_have(tmp_path: Path) -> None:
    header = (
        "topology:\n  hosts: {old: {}, new: {}}\n  routers: {r: {}}\n"
        "  links: [{ends: [old, r], ipv6: false}, [new, r]]\n"
    )
    passes(tmp_path, "  - expect: {on: old, reachable: new}\n  - expect: {on: new, reachable: old}\n", header=header)
    steps = "  - expect: {on: old, reachable: {node: new, family: ipv6}, within: 10ms}\n"
    reason = fails(tmp_path, steps, header=header).reason
    assert "expected new to be reachable from old; fd00:" in reason


def test_routes_and_addresses_as_the_kernel_has_them(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - expect: {on: client, address: 10.0.0.1/24}\n  - expect: {on: client, address: 10.0.0.1}\n"
        "  - expect: {on: client, route: {to: 10.0.0.0/24}}\n",
    )
    reason = fails(tmp_path, "  - expect: {on: client, route: {to: 10.9.0.0/16, via: server}, within: 10ms}\n").reason
    assert "expected a route to 10.9.0.0/16 via server on client; its routes: " in reason
    assert "10.0.0.0/24 dev eth0" in reason


def test_a_route_to_an_address_is_the_one_that_packets_take(tmp_path: Path) -> None:
    header = (
        "topology:\n  hosts: {h: {routes: [{to: default, via: r1, metric: 5}, {to: 10.9.0.0/16, via: r2, metric: 7},\n"
        "    blackhole 10.9.1.0/24, {to: 10.8.0.0/16, via: r1, table: 100}]}}\n"
        "  routers: {r1: , r2: }\n  networks: {n: {ipv4: 10.0.0.0/24, members: [h, r1, r2]}}\n"
    )
    passes(
        tmp_path,
        "  - expect: {on: h, route: {to: 10.9.2.1, via: r2, metric: 7}}\n"
        "  - expect: {on: h, route: {to: 10.7.0.1, via: r1, dev: eth0, metric: 5}}\n"
        "  - expect: {on: h, route: {to: 10.9.1.1, exists: false}}\n"
        "  - expect: {on: h, route: {to: 10.9.1.1, kind: blackhole}}\n"
        "  - expect: {on: h, route: {to: 10.8.0.1, table: 100, via: r1}}\n"
        "  - expect: {on: h, route: {to: 10.8.0.0/16, exists: false}}\n",
        header=header,
    )
    step = "  - expect: {on: h, route: {to: 10.9.2.1, exists: false}, within: 10ms}\n"
    assert (
        "expected no route to 10.9.2.1 on h, which has 10.9.0.0/16 via" in fails(tmp_path, step, header=header).reason
    )
    step = "  - expect: {on: h, route: {to: 10.9.1.1, dev: eth0, metric: 5}, within: 10ms}\n"
    assert "expected a route to 10.9.1.1 dev eth0 metric 5 on h; its" in fails(tmp_path, step, header=header).reason


def test_a_route_with_several_next_hops_matches_each_and_a_blackhole_route_none(tmp_path: Path) -> None:
    header = "topology:\n  hosts: {h: }\n  routers: {r1: , r2: }\n  networks: {n: {members: [h, r1, r2]}}\n"
    change = (
        "  - run: {on: h, shell: 'ip route add 10.9.0.0/16 nexthop via 10.0.0.254 nexthop via 10.0.0.253;"
        " ip route add blackhole 10.8.0.0/16; ip route add 10.7.0.0/16 via inet6 fd00::fe dev eth0'}\n"
    )
    passes(
        tmp_path,
        change + "  - expect: {on: h, route: {to: 10.9.0.0/16, via: r1}}\n"
        "  - expect: {on: h, route: {to: 10.9.0.0/16, via: r2}}\n"
        "  - expect: {on: h, route: {to: 10.7.0.0/16, via: r1}}\n",
        header=header,
    )
    steps = f"{change}  - expect: {{on: h, route: {{to: 10.8.0.0/16}}, within: 10ms}}\n"
    told = fails(tmp_path, steps, header=header).reason
    assert "blackhole 10.8.0.0/16" in told


@pytest.mark.parametrize(
    ("family", "call", "remedy"),
    [
        ("AF_INET", 'sendto(u, b"x", "239.1.1.1:5")', 'ENETUNREACH.*IPPROTO_IP, IP_MULTICAST_IF, "eth0"'),
        ("AF_INET", 'connect(u, "255.255.255.255:5")', "ENETUNREACH.*SO_BINDTODEVICE"),
        ("AF_INET", 'setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, {"239.1.1.1"})', "ENODEV.*name it"),
        ("AF_INET6", 'connect(u, "[fe80::1]:5")', r"EINVAL.*needs its interface: \[fe80::1%eth0\]"),
    ],
)
def test_an_address_that_needs_an_interface_is_reported_with_the_form(
    tmp_path: Path, family: str, call: str, remedy: str
) -> None:
    reason = fails(tmp_path, f"  - client: |\n      u = socket({family}, SOCK_DGRAM)\n      {call}\n").reason
    assert re.search(remedy, reason)


def test_an_unreachable_connect_reports_the_icmp_error_and_the_router_that_sent_it(tmp_path: Path) -> None:
    header = "topology: line:3\n"
    connect = '  - h1: |\n      c = socket({})\n      connect(c, "{}:81")\n'
    four, six = connect.format("AF_INET, SOCK_STREAM", "h2"), connect.format("AF_INET6, SOCK_STREAM", "h2")
    ttl = "  - run: {on: h1, shell: 'sysctl -qw net.ipv4.ip_default_ttl=2 net.ipv6.conf.eth0.hop_limit=2'}\n"
    reason = fails(tmp_path, ttl + four, header=header).reason
    assert "EHOSTUNREACH" in reason
    assert "10.0.3.2: time to live exceeded in transit, reported by r2 (10.0.1.2)" in reason
    reason = fails(tmp_path, ttl + six, header=header).reason
    assert "fd00:0:0:3::2: hop limit exceeded in transit, reported by r2 (fd00:0:0:1::2)" in reason
    prohibited = "  - run: {on: r2, shell: 'ip route replace prohibit 10.0.3.0/24'}\n"
    reason = fails(tmp_path, prohibited + four, header=header).reason
    assert "communication administratively prohibited, reported by r2 (10.0.1.2)" in reason
    unreachable = "  - expect: {on: h1, reachable: {node: h2, family: ipv4}, within: 10ms}\n"
    reason = fails(tmp_path, ttl + unreachable, header=header).reason
    assert "time to live exceeded in transit, reported by r2 (10.0.1.2)" in reason


def test_a_scope_is_an_interface_of_the_inspected_host(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - run: {on: server, shell: 'for i in eth0 lo; do ip -6 addr add fe80::77/64 dev $i nodad; done'}\n"
        "  - server: |\n"
        "      s = socket(AF_INET6, SOCK_STREAM)\n"
        '      bind(s, "[fe80::77%eth0]:5000")\n'
        "      listen(s, 2)\n"
        "  - expect: {on: server, listening: 'tcp/[fe80::77%eth0]:5000'}\n"
        "  - expect: {on: server, listening: 'tcp/[fe80::77]:5000'}\n"
        "  - expect: {on: server, not_listening: 'tcp/[fe80::77%lo]:5000'}\n"
        "  - expect: {on: client, reachable: 'fe80::77%eth0'}\n"
        "  - client: |\n"
        "      c = socket(AF_INET6, SOCK_STREAM)\n"
        '      connect(c, "[fe80::77%eth0]:5000")\n'
        "  - expect: {on: client, connection: {peer: '[fe80::77%eth0]:5000', state: ESTABLISHED}}\n"
        "  - expect: {on: server, connection: {local: '[fe80::77%lo]:5000', count: 0}}\n"
        "  - run: {on: client, shell: ip -6 route add fd99::/64 via fe80::77 dev eth0}\n"
        "  - expect: {on: client, route: {to: 'fd99::/64', via: 'fe80::77%eth0'}}\n",
    )


def test_a_message_lists_only_the_first_listeners(tmp_path: Path) -> None:
    ports = range(6001, 6001 + SHOWN + 2)
    calls = "".join(
        f"      s{port} = socket(AF_INET, SOCK_STREAM)\n      bind(s{port}, ':{port}')\n      listen(s{port}, 1)\n"
        for port in ports
    )
    reason = fails(tmp_path, f"  - server: |\n{calls}  - expect: {{on: server, listening: tcp/80, now: true}}\n").reason
    assert reason.count("tcp/0.0.0.0:60") == SHOWN
