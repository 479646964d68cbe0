"""Drop rules as values."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from labctl.errors import InputError
from labctl.plan.drop_rules import Direction, DropProtocol, DropRule, TcpFlag, TcpFlags, from_json, parse_flags, to_json


def test_flags_are_given_or_absent() -> None:
    assert parse_flags("ack, !SYN,! fin") == TcpFlags(TcpFlag.ACK, TcpFlag.SYN | TcpFlag.FIN)


@pytest.mark.parametrize(
    ("text", "told"), [("akc", "not a TCP flag; allowed: fin, syn"), ("", "not a TCP flag"), ("syn,!syn", "both")]
)
def test_bad_flags_are_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_flags(text)


@pytest.mark.parametrize(
    "rule",
    [
        DropRule(),
        DropRule(Direction.OUT, DropProtocol.TCP, 5000, flags=parse_flags("ack,!syn")),
        DropRule(sources=(ip_address("10.0.0.1"), ip_address("fd00::1")), destinations=(ip_address("fe80::1"),)),
    ],
)
def test_a_rule_survives_the_way_to_the_keeper(rule: DropRule) -> None:
    assert from_json(to_json(rule)) == rule


@pytest.mark.parametrize(
    "text", ["", "{}", "5", "[]", '{"flags": [1]}', to_json(DropRule()).replace('"in"', '"up"'), "[" * 100_000]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="drop rule: cannot read it"):
        from_json(text)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="icmp has no ports"):
        DropRule(protocol=DropProtocol.ICMP, port=1)
    with pytest.raises(ValueError, match="protocol must be tcp"):
        DropRule(protocol=DropProtocol.UDP, flags=parse_flags("syn"))
    with pytest.raises(ValueError, match="not between"):
        DropRule(protocol=DropProtocol.UDP, port=0)
