"""Keys of switches and ports: what they become. Mistakes are in tests/bad-input/topologies/switching.yaml."""

from __future__ import annotations

import pytest

from labctl.topology.parse_switching import PORT_KEYS
from labctl.topology.schema import EndFile, LinkFile
from labctl.topology.switching import Port
from tests.unit.topology.drafts import resolved


def option(written: str) -> dict[str, int]:
    made = resolved(f"switches: {{s: {written}}}")
    return {key: value for key, value in made.node("s").switching.options if key != "address"}


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ("{}", {}),
        ("{stp: false}", {}),
        ("{ageing: 20s}", {"ageing_time": 2000}),
        ("{snooping: true}", {"mcast_query_response_interval": 100, "mcast_querier": 1, "mcast_snooping": 1}),
        ("{stp: stp}", {"forward_delay": 200, "hello_time": 100, "max_age": 600, "stp_state": 1}),
        (
            "{stp: {priority: 4096, forward_delay: 4s, hello_time: 2s, max_age: 20s}}",
            {"priority": 4096, "hello_time": 200, "forward_delay": 400, "max_age": 2000, "stp_state": 1},
        ),
    ],
)
def test_options_of_a_switch(written: str, options: dict[str, int]) -> None:
    assert option(written) == options


@pytest.mark.parametrize(
    ("written", "port"),
    [
        ("vlan: 10", Port(10)),
        ("vlan: red", Port(30)),
        ("trunk: [10, red]", Port(0, (10, 30))),
        ("trunk: 10", Port(0, (10,))),
        ("trunk: 10-12, native: 11", Port(11, (10, 12))),
        ("trunk: all, native: 5", Port(5, (30,))),
        ("isolated: true, learning: false, cost: 100", Port(options=(("isolated", 1), ("learning", 0), ("cost", 100)))),
    ],
)
def test_settings_of_a_port(written: str, port: Port) -> None:
    for links in (
        f"networks: {{s: {{members: [{{node: h, {written}}}]}}}}",
        f"switches: {{s: }}\nlinks: [{{ends: [h, s], {written}}}]",
        f"switches: {{s: }}\nlinks: [{{ends: [{{node: h, {written}}}, s]}}]",
        f"switches: {{s: }}\nlinks: [{{ends: [h, {{node: s, {written}}}]}}]",
    ):
        assert resolved("vlans: {red: 30}", "hosts: {h: }", links).node("s").interface("h").port == port


def test_the_keys_of_ports_are_those_of_ends_and_links() -> None:
    assert all(key in EndFile.KEYS and key in LinkFile.KEYS for key in PORT_KEYS)
