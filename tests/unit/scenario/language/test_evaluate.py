"""Expressions to values."""

from __future__ import annotations

import pytest

from labctl.kernel.sockaddr import decode, inet
from labctl.lab.agent.messages import Value
from labctl.scenario.language.evaluate import CannotEvaluate, evaluate
from labctl.scenario.language.parser import parse_expression
from labctl.scenario.language.syntax import Problem

NAMES: dict[str, Value] = {"peer": decode(inet("10.0.0.1", 40000)), "cut": decode(inet("10.0.0.1", 9)[:4], 16), "n": 3}
VARIABLES: dict[str, object] = {"port": 5000, "text": "80", "raw": b"\xff", "name": "server", "option": "SO_ERROR"}


def value(text: str) -> Value:
    expression = parse_expression(text)
    assert not isinstance(expression, Problem), str(expression)
    return evaluate(expression, NAMES, VARIABLES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3 - -1", 8),
        ("(1 + 2) * 3", 9),
        ("0x10 | 0b1", 17),
        ("017", 15),
        ("6 & 3", 2),
        ("SOCK_STREAM | SOCK_NONBLOCK", 1 | 0o4000),
        ("ECONNREFUSED", 111),
        ('b"ab" * 2 + b"c"', b"ababc"),
        ('"${name}:${port}"', "server:5000"),
        ('"$${port}"', "${port}"),
        ('b"<${raw}>"', b"<\xff>"),
        ("$port", 5000),
        ("$text", "80"),
        ("${text}", 80),
        ("${option}", 4),
        ("peer.port", 40000),
        ("peer.host", "10.0.0.1"),
        ("cut.port", 9),
        ("[1, 2, 3][n - 1]", 3),
        ("len([1, 2]) == 2", 1),
        ('"a" in "abc"', 1),
        ("4 in [1, 2]", 0),
        ('b"a" < b"b"', 1),
        ("True != False", 1),
    ],
)
def test_an_expression_has_this_value(text: str, expected: Value) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cut.host", "it has only 4 of its 16 bytes"),
        ("n.port", "3 has no `.port`"),
        ("nobody", "`nobody` has not been assigned"),
        ("$nothing", "the scenario variable `nothing` has not been set"),
        ("[1][4]", "there are only 1"),
        ('b"x" * 999999999', "too large"),
        ('"a" - 1', "`-` does not take"),
        ('"a" < 1', "have no order"),
        ("len(3)", "3 has no length"),
    ],
)
def test_an_expression_without_a_value_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(CannotEvaluate) as raised:
        value(text)
    assert reason in str(raised.value)
