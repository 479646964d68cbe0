from __future__ import annotations

from pathlib import Path

from labctl import topology
from labctl.documents.schema import Reading
from labctl.scenario.file_schema import DropBody
from labctl.scenario.network_steps import drop_rule
from tests.integration.scenarios import fails, passes

LISTEN = '  - server: |\n      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, "server:5000")\n      listen(s, 2)\n'


def test_a_link_carries_nothing_while_it_is_down_and_everything_after_it_is_up(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - expect: {on: client, reachable: server}\n"
        "  - link: {down: [client, server]}\n"
        "  - expect: {on: client, unreachable: server}\n"
        "  - link: {up: [client, server]}\n"
        "  - expect: {on: client, reachable: {node: server, family: ipv4}, within: 15s}\n"
        "  - expect: {on: client, reachable: {node: server, family: ipv6}, within: 15s}\n"
        "  - expect: {on: server, reachable: client, within: 15s}\n",
    )


def test_a_link_comes_up_whichever_end_is_named_first(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - link: {down: [client, server]}\n  - link: {up: [server, client]}\n"
        "  - expect: {on: client, reachable: server}\n",
    )


def test_a_link_step_gives_back_no_route_that_was_removed(tmp_path: Path) -> None:
    remove = "  - run: {on: r2, shell: 'ip route del 10.0.0.0/24; ip route add 10.9.0.0/16 via 10.0.1.1'}\n"
    header = "topology: line:2\n"
    passes(
        tmp_path,
        remove
        + "  - link: {down: [r1, r2]}\n  - link: {up: [r1, r2]}\n"
        + "  - expect: {on: r2, route: {to: 10.9.0.0/16, via: r1}}\n",
        header=header,
    )
    steps = remove + "  - link: {down: [r1, r2]}\n  - link: {up: [r1, r2]}\n"
    fails(tmp_path, steps + "  - expect: {on: r2, route: {to: 10.0.0.0/24}, within: 10ms}\n", header=header)


def test_a_routers_link_comes_back_with_its_routes(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - link: {down: [r1, r2]}\n"
        "  - expect: {on: h1, unreachable: h2}\n"
        "  - link: {up: [r1, r2]}\n"
        "  - expect: {on: h1, reachable: h2, within: 15s}\n",
        header="topology: line:3\n",
    )


def test_a_host_is_cut_off_from_its_switch_and_the_others_are_not(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - link: {down: [h1, s1]}\n"
        "  - expect: {on: h2, unreachable: h1}\n"
        "  - expect: {on: h2, reachable: h3}\n"
        "  - link: {up: [h1, s1]}\n"
        "  - expect: {on: h2, reachable: h1, within: 15s}\n",
        header="topology: star:3\n",
    )


def test_dropped_packets_do_not_arrive_until_nothing_is_dropped(tmp_path: Path) -> None:
    passes(
        tmp_path,
        LISTEN + "  - drop: {on: server, protocol: tcp, port: 5000, from: client}\n"
        "  - client: |\n"
        "      c = socket(AF_INET, SOCK_STREAM)\n"
        '      connect(c, "server:5000") -> blocks 200ms\n'
        "  - undrop: server\n"
        "  - client: await -> 0 within 15s\n",
    )


def test_a_node_in_a_drop_rule_stands_for_its_addresses_in_both_families() -> None:
    pair = topology.load("pair")
    body = DropBody.read({"on": "server", "from": "client", "to": "10.0.0.9"}, Reading(final=True))
    rule = drop_rule(body, pair)
    assert {address.version for address in rule.sources} == {4, 6}
    assert [str(address) for address in rule.destinations] == ["10.0.0.9"]
