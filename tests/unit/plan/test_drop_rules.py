"""Drop rules: TCP flags, fields that exclude each other, and the way to the keeper."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from labctl.lab.protocol import Drop, Malformed, Request, decode, encode
from labctl.plan.drop_rules import Direction, DropProtocol, DropRule, TcpFlag, TcpFlags, parse_flags


def test_flags_are_given_or_absent() -> None:
    assert parse_flags("ack, !SYN,! fin") == TcpFlags(TcpFlag.ACK, TcpFlag.SYN | TcpFlag.FIN)


@pytest.mark.parametrize(
    ("text", "told"), [("akc", "not a TCP flag; allowed: fin, syn"), ("", "not a TCP flag"), ("syn,!syn", "both")]
)
def test_a_bad_flag_is_refused(text: str, told: str) -> None:
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
    assert decode(encode(Drop("server", rule)), Request) == Drop("server", rule)


@pytest.mark.parametrize(
    "rule",
    [
        "5",
        "[]",
        '{"flags": [1]}',
        '{"direction": "up"}',
        '{"sources": ["x"]}',
        '{"sources": [5]}',
        '{"sources": [["10.0.0.1"]]}',
        '{"protocol": "icmp", "port": 1}',
        "[" * 100_000,
    ],
)
def test_an_invalid_rule_is_refused(rule: str) -> None:
    with pytest.raises(Malformed, match="cannot read a message"):
        decode(f'["Drop", "server", {rule}]'.encode(), Request)


def test_fields_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="icmp has no ports"):
        DropRule(protocol=DropProtocol.ICMP, port=1)
    with pytest.raises(ValueError, match="need the protocol tcp"):
        DropRule(protocol=DropProtocol.UDP, flags=parse_flags("syn"))
    with pytest.raises(ValueError, match="not between"):
        DropRule(protocol=DropProtocol.UDP, port=0)
