"""`firewall` in files."""

from __future__ import annotations

import pytest

from labctl.topology.firewall import parse_flow
from labctl.topology.packet_rules import Firewall, FirewallPreset, FlowDirection, FlowProtocol, FlowRule, Policy
from tests.unit.topology.drafts import from_lines, resolved

NETWORK = ("networks: {lan: {members: [gw, web, client]}}", "routers: {gw: }")
TCP, UDP = FlowProtocol.TCP, FlowProtocol.UDP


def of_web(written: str) -> Firewall | None:
    lines = (f"hosts: {{client: {{count: 2}}, web: {{firewall: {written}}}}}", *NETWORK)
    return resolved(*lines).node("web").firewall


def mistakes(written: str) -> list[str]:
    return [one.message for one in from_lines(f"hosts: {{client: , web: {{firewall: {written}}}}}", *NETWORK)[1]]


def test_a_preset_has_a_short_and_a_long_form() -> None:
    expected = Firewall(FirewallPreset.STATEFUL)
    assert of_web("stateful") == of_web("{preset: stateful}") == expected


def test_lists_have_texts_and_mappings_and_groups_stand_for_their_nodes() -> None:
    found = of_web(
        "{policy: reject, allow: [tcp/80, {from: client, port: 53, protocol: udp}], "
        "deny: [{from: [10.9.0.1/16, fd00::1], direction: forward}]}"
    )
    assert found == Firewall(
        FirewallPreset.OPEN,
        Policy.REJECT,
        deny=(FlowRule(sources=("10.9.0.0/16", "fd00::1"), direction=FlowDirection.FORWARD),),
        allow=(FlowRule(TCP, 80, 80), FlowRule(UDP, 53, 53, ("client-1", "client-2"))),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp/80", FlowRule(TCP, 80, 80)),
        ("80-90", FlowRule(None, 80, 90)),
        ("udp", FlowRule(UDP)),
        ("icmp from a, b to lan", FlowRule(FlowProtocol.ICMP, 0, 0, ("a", "b"), ("lan",))),
        ("any from a", FlowRule(None, 0, 0, ("a",))),
    ],
)
def test_a_rule_has_a_short_form(text: str, expected: FlowRule) -> None:
    assert parse_flow(text) == expected


@pytest.mark.parametrize("text", ["", "tcp/", "tcp/0", "icmp/8", "htp/80", "tcp/80 web"])
def test_invalid_short_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_flow(text)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{allow: [{from: wbe}]}", "`wbe` is neither a node, a network, a VLAN, a prefix nor an address"),
        ("{allow: [{protocol: icmp, port: 80}]}", "icmp has no ports"),
        ("{allow: [{port: http}]}", "`http` is neither a port nor a range"),
        ("{preset: shut}", "expected one of open, stateful, drop-in, lockdown, corporate, got the text `shut`"),
    ],
)
def test_mistakes(written: str, message: str) -> None:
    assert mistakes(written)[:1] == [message]
