"""Failures on the real kernel are explained: as root and as an ordinary user, from a recording."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labctl.scenario import RunOptions
from labctl.scenario.results import Outcome, ScenarioResult
from labctl.timeline.recording import RecordOptions
from tests.integration.scenarios import run
from tests.patience import patient

pytestmark = pytest.mark.stock_kernel
WAIT = f"{patient(1.3):.1f}s"  # TCP sends SYN again after 1 s
SHORT = f"{patient(0.3):.1f}s"
LISTEN = """
  - server: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, "{address}:5000")
      listen(s, 1)
"""
CONNECT = """
  - client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:5000") within {within}
"""
ACCEPT = """
  - server: |
      conn, _ = accept(s)
"""
DATAGRAM = """
  - client: |
      c = socket(AF_INET, SOCK_DGRAM)
      connect(c, "server:5000")
      send(c, b"hello")
"""


ROUTED = """
hosts: {client: {}, server: {}}
routers: {gw: {}}
links:
  - [client, gw]
  - [gw, server]
"""


REPEATED = re.compile(r"(?<=\basked )\d+(?= times)|(?<=Overflows grew by )\d+")
SENT_AGAIN = re.compile(r"(?<=^SYN) \(sent \d+ times\)")


def explained(directory: Path, *steps: str, header: str = "topology: pair\n") -> tuple[str, ...]:
    """The explanation of the failure of these steps, with N for counts of what the kernel repeats while it waits.

    How often SYN was sent is left out: on a busy machine, the second one may come too late.
    """
    result = failed(directory, *steps, header=header)
    assert result.explanation, result.reason
    return tuple(SENT_AGAIN.sub("", REPEATED.sub("N", sentence)) for sentence in result.explanation)


def failed(directory: Path, *steps: str, header: str = "topology: pair\n") -> ScenarioResult:
    options = RunOptions(record=RecordOptions())
    result = run(directory, "".join(steps), header=header, options=options)
    assert result.outcome is Outcome.FAILED, result.reason
    return result


def listen(address: str = "0.0.0.0") -> str:
    return LISTEN.format(address=address)


def connect(within: str = WAIT) -> str:
    return CONNECT.format(within=within)


def test_a_refused_port_is_one_cause_of_syn_rst_and_the_other_listener(tmp_path: Path) -> None:
    result = failed(tmp_path, listen("127.0.0.1"), connect())
    assert result.explanation == (
        "SYN reached server; server answered RST: nothing listens on 5000; server listens on 127.0.0.1:5000 only",
    )
    assert "client:" in result.last_packets[0]
    assert "RST ACK" in result.last_packets[1]


def test_a_refused_port_whose_server_crashed_names_its_end(tmp_path: Path) -> None:
    start = "  - start: {on: server, name: web, run: [sh, -c, 'exit 3']}\n  - wait: {process: web, any_exit: true}\n"
    (sentence, *_) = explained(tmp_path, start, connect())
    assert "nothing listens on 5000; server has no listening socket; web on server exited with status 3 at" in sentence


def test_a_refused_port_whose_server_was_killed_names_its_end(tmp_path: Path) -> None:
    steps = """
  - start: {on: server, name: web, run: [python3, -m, http.server, "5000"], ready: {listening: tcp/5000}}
  - expect: {on: client, command: [curl, -s, "http://server:5000/"]}
  - signal: {process: web, signal: KILL}
  - wait: {process: web, any_exit: true}
"""
    (sentence, *_) = explained(tmp_path, steps, connect())
    assert sentence.startswith("SYN reached server; server answered RST: nothing listens on 5000; ")
    assert "web on server was ended by SIGKILL at" in sentence
    assert "although" not in sentence


def test_a_program_that_is_refused_is_explained_like_a_call(tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('10.0.0.2', 5000))"
    (sentence, *_) = explained(
        tmp_path, listen("127.0.0.1"), f'  - run: {{on: client, run: [python3, -c, "{code}"]}}\n'
    )
    assert sentence == (
        "client to server:5000: SYN reached server; server answered RST: nothing listens on 5000; "
        "server listens on 127.0.0.1:5000 only"
    )


def test_a_full_accept_queue_is_inferred_from_a_sample(tmp_path: Path) -> None:
    fill = """
  - client: |
      a = socket(AF_INET, SOCK_STREAM)
      connect(a, "server:5000")
      b = socket(AF_INET, SOCK_STREAM)
      connect(b, "server:5000")
"""
    found = explained(tmp_path, listen(), fill, connect())
    assert found[0].startswith("SYN reached server, which did not answer: the accept queue of ")
    assert "was full (2 of 1); TcpExtListenOverflows grew by N (inferred)" in found[0]


@pytest.mark.parametrize(("direction", "hook"), [("in", "prerouting"), ("out", "postrouting")])
def test_a_drop_rule_is_the_cause_at_its_host_and_hook(tmp_path: Path, direction: str, hook: str) -> None:
    drop = f"  - drop: {{on: server, direction: {direction}, protocol: tcp, port: 5000}}\n"
    (sentence, *_) = explained(tmp_path, drop, listen(), connect())
    assert "server" in sentence
    assert f"at hook {hook}" in sentence


def test_a_link_that_is_down_is_the_cause(tmp_path: Path) -> None:
    (sentence, *_) = explained(tmp_path, "  - link: {down: [client, server]}\n", connect(SHORT))
    assert sentence == ("no packet for 10.0.0.2:5000 left client: client:eth0 has no carrier: the other end is down")


def test_a_network_without_a_route_is_the_cause(tmp_path: Path) -> None:
    step = '  - client: |\n      c = socket(AF_INET, SOCK_STREAM)\n      connect(c, "10.99.0.1:5000")\n'
    assert explained(tmp_path, step) == ("client has no route to 10.99.0.1; its routes: 10.0.0.0/24 dev eth0",)


@pytest.mark.parametrize(
    ("family", "address", "how"),
    [("AF_INET", "10.0.0.77", "ARP"), ("AF_INET6", "[fd00::77]", "neighbour discovery")],
)
def test_an_address_that_no_host_has_is_asked_for_in_vain(tmp_path: Path, family: str, address: str, how: str) -> None:
    step = f'  - client: |\n      c = socket({family}, SOCK_STREAM)\n      connect(c, "{address}:5000")\n'
    (sentence, *_) = explained(tmp_path, step)
    plain = address.strip("[]")
    assert sentence == (
        f"client asked N times for the MAC address of {plain} ({how}); no host answered: no host has this address"
    )


def test_an_address_in_use_names_its_holder(tmp_path: Path) -> None:
    again = '  - server: |\n      t = socket(AF_INET, SOCK_STREAM)\n      bind(t, "server:5000")\n'
    (sentence, *_) = explained(tmp_path, listen("server"), again)
    assert sentence.startswith("the same process on server has bound 10.0.0.2:5000 at ")


def test_a_connection_in_time_wait_keeps_an_address_in_use(tmp_path: Path) -> None:
    close = "  - server: |\n      close(conn)\n      close(s)\n"
    end = '  - client: |\n      recv(c, 10) -> b""\n      close(c)\n'
    again = '  - server: |\n      t = socket(AF_INET, SOCK_STREAM)\n      bind(t, "server:5000")\n'
    (sentence, *_) = explained(tmp_path, listen("server"), connect(), ACCEPT, close, end, again)
    assert "of server is in TIME_WAIT; SO_REUSEADDR before bind allows the address" in sentence


def test_a_reset_by_close_with_unread_data_is_explained(tmp_path: Path) -> None:
    send = '  - client: send(c, b"hello")\n'
    (sentence, *_) = explained(
        tmp_path, listen(), connect(), send, ACCEPT, "  - server: close(conn)\n", "  - client: recv(c, 10)\n"
    )
    assert sentence.startswith("server sent RST at ")
    assert sentence.endswith(": it closed the socket with 5 unread bytes")


def test_two_ends_that_wait_for_each_other_are_a_deadlock(tmp_path: Path) -> None:
    wait = "  - server: recv(conn, 10) -> pending\n"
    found = explained(tmp_path, listen(), connect(), ACCEPT, wait, f"  - client: recv(c, 10) within {SHORT}\n")
    assert found[0] == "server has sent no data on this connection"
    assert found[1].startswith("server waits in recv(4, buf, 10, 0) since ")
    assert found[1].endswith(": both ends wait for the other")


def test_a_connection_that_nobody_accepts_is_in_the_accept_queue(tmp_path: Path) -> None:
    found = explained(tmp_path, listen(), connect(), f"  - client: recv(c, 10) within {SHORT}\n")
    assert found[1] == "server has not accepted the connection (accept queue 1 of 1) (inferred)"


def test_a_send_that_blocks_meets_a_closed_window(tmp_path: Path) -> None:
    send = f'  - client: send(c, b"x" * 20000000) within {WAIT}\n'
    (sentence, *_) = explained(tmp_path, listen(), connect(), ACCEPT, send)
    assert sentence.startswith("the receive window of server is 0")


def test_a_refused_datagram_joins_the_icmp_error(tmp_path: Path) -> None:
    assert explained(tmp_path, DATAGRAM, "  - client: recv(c, 10)\n") == (
        "datagram reached server; server answered ICMP port unreachable: no UDP socket is bound to 5000",
    )


def test_a_datagram_for_another_port_is_the_near_miss(tmp_path: Path) -> None:
    bind = '  - server: |\n      s = socket(AF_INET, SOCK_DGRAM)\n      bind(s, "0.0.0.0:5001")\n'
    assert explained(tmp_path, bind, DATAGRAM, f"  - server: recv(s, 10) within {SHORT}\n") == (
        "no datagram for port 5001 of server has been sent; client sent one to port 5000",
    )


def test_a_datagram_that_is_too_long_is_the_cause(tmp_path: Path) -> None:
    step = '  - client: |\n      c = socket(AF_INET, SOCK_DGRAM)\n      sendto(c, b"x" * 70000, "server:5000")\n'
    assert explained(tmp_path, step) == ("70000 bytes are more than the largest datagram of UDP, 65507 bytes",)


def test_data_in_pieces_is_explained_by_the_sends(tmp_path: Path) -> None:
    send = '  - client: |\n      send(c, b"hel")\n      send(c, b"lo")\n'
    assert explained(tmp_path, listen(), connect(), send, ACCEPT, '  - server: recv(conn, 3) -> b"hello"\n') == (
        "client had sent 5 bytes in 2 sends (3, 2); 2 bytes are not read yet: TCP keeps no message boundaries",
    )


def test_end_of_file_names_the_close_of_the_peer(tmp_path: Path) -> None:
    (sentence, *_) = explained(
        tmp_path, listen(), connect(), "  - client: close(c)\n", ACCEPT, '  - server: recv(conn, 3) -> b"hello"\n'
    )
    assert sentence.startswith("client has ended its sending direction by close(3): FIN at ")


def test_a_listener_of_ipv6_only_does_not_take_ipv4(tmp_path: Path) -> None:
    only = """
  - server: |
      s = socket(AF_INET6, SOCK_STREAM)
      setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, 1)
      bind(s, "[::]:5000")
      listen(s, 1)
"""
    call = '  - client: |\n      c = socket(AF_INET, SOCK_STREAM)\n      connect(c, "10.0.0.2:5000")\n'
    (sentence, *_) = explained(tmp_path, only, call)
    assert sentence.endswith("nothing listens on 5000 for IPv4; server listens on [::]:5000 for IPv6 only")


@pytest.mark.parametrize(
    ("node", "hook", "lead"),
    [
        ("client", "output", ""),
        ("gw", "prerouting", "SYN reached gw only: "),
        ("gw", "forward", "SYN reached gw only: "),
        ("server", "input", "SYN reached server, which did not answer: "),
    ],
)
def test_a_rule_of_nftables_is_the_cause_at_its_host_and_hook(tmp_path: Path, node: str, hook: str, lead: str) -> None:
    (tmp_path / "net.yaml").write_text(ROUTED)
    rules = f"""
table inet mine {{
  chain closed {{
    type filter hook {hook} priority 0;
    tcp dport 5000 counter drop
  }}
}}
"""
    (tmp_path / "rules.nft").write_text(rules)
    load = f"  - run: {{on: {node}, run: [nft, -f, rules.nft]}}\n"
    (sentence, *_) = explained(tmp_path, load, listen(), connect(), header="topology: net.yaml\n")
    assert sentence.startswith(lead)
    assert node in sentence
    assert f"at hook {hook}" in sentence
    assert "inet mine, chain closed" in sentence


def test_a_router_without_a_route_answers_with_icmp(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(ROUTED)
    call = '  - client: |\n      c = socket(AF_INET, SOCK_STREAM)\n      connect(c, "10.99.0.1:5000")\n'
    (sentence, *_) = explained(tmp_path, call, header="topology: net.yaml\n")
    assert "for 10.99.0.1 reached gw; gw answered ICMP network unreachable: " in sentence
    assert "gw has no route to 10.99.0.1" in sentence


def test_a_host_behind_a_router_that_is_not_there_is_asked_for_in_vain(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(ROUTED)
    drop = "  - link: {down: [server, gw]}\n"
    (sentence, *_) = explained(tmp_path, drop, connect(WAIT), header="topology: net.yaml\n")
    assert sentence.startswith("SYN")
    assert "reached gw" in sentence
    assert "gw" in sentence.partition(": ")[2]
