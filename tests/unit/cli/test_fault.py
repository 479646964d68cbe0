"""The words of `labctl fault` as values of faults."""

from __future__ import annotations

import time

import pytest

from labctl.cli.fault import _FORMS, fault_table, value_of
from labctl.errors import InputError
from labctl.lab.description import FaultInfo
from labctl.plan.fault_effects import FaultKind
from labctl.plan.faults import read
from labctl.report.terminal import Look


@pytest.mark.parametrize(
    ("kind", "words", "options", "text"),
    [
        ("partition", ["h1,h2", "h3"], {"one_way": True}, "partition h1 h2 -> h3"),
        ("isolate", ["h1,h2", "h3"], {}, "isolate h1 h2 h3"),
        ("blackhole", ["10.9.0.0/16"], {"on": ["h1"]}, "blackhole 10.9.0.0/16 on h1"),
        ("down", ["h1", "s1"], {}, "down h1 - s1"),
        ("flap", ["h1", "s1"], {"times": 2, "period": "2s"}, "flap h1 - s1 every 2s, 2 times"),
        ("mtu", ["h1", "s1", "1280"], {}, "mtu h1 - s1 1280"),
        ("remove_address", ["h1", "10.0.0.1"], {}, "remove_address 10.0.0.1 on h1"),
        ("blackhole", ["h2"], {"port": "udp/53"}, "blackhole h2 port udp/53"),
        ("remove_route", ["h1", "default"], {"via": "10.0.0.9"}, "remove_route default via 10.0.0.9 on h1"),
        ("kill", ["h1/web"], {}, "kill h1/web"),
        ("dns", ["h1"], {"on": ["h2"]}, "dns h1 on h2"),
    ],
)
def test_words_and_options_of_a_fault(kind: str, words: list[str], options: dict[str, object], text: str) -> None:
    assert str(read(kind, value_of(FaultKind(kind), words, options))) == text


@pytest.mark.parametrize(
    ("kind", "words", "options", "message"),
    [
        ("mtu", ["h1", "s1"], {}, "fault mtu: has 2 arguments. Try: labctl fault mtu h1 s1 1280"),
        ("isolate", [], {}, "fault isolate: has 0 arguments. Try: labctl fault isolate h1"),
        ("isolate", ["h1"], {"one_way": True}, "fault isolate: takes no --one-way. Try: labctl fault isolate h1"),
    ],
)
def test_wrong_words_show_the_right_form(kind: str, words: list[str], options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        value_of(FaultKind(kind), words, options)
    assert str(raised.value) == message


def test_every_kind_has_a_form() -> None:
    assert _FORMS.keys() == set(FaultKind)


def test_the_table_shows_until_when_a_fault_lasts() -> None:
    now = time.time()
    faults = [
        FaultInfo(1, "isolate", "isolate h1", ("h1",), now),
        FaultInfo(2, "down", "down h1 - s1", ("h1", "s1"), now, "cut", is_owned=True),
        FaultInfo(3, "flap", "flap h1 - s1 every 1s", ("h1", "s1"), now - 1, duration_s=61.0),
    ]
    lines = fault_table(faults, Look())
    assert [line.split() for line in lines[:2]] == [
        ["FAULT", "NAME", "SINCE", "UNTIL", "WHAT"],
        ["1", "-", "0", "s", "healed", "isolate", "h1"],
    ]
    assert "its client ends" in lines[2]
    assert "in 1m" in lines[3] or "in 59" in lines[3]
