"""Delay, jitter, loss and rate: as they are written, and on which interface they end up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.topology.impairments import (
    DELAY_MAX_US,
    JITTER_MAX_US,
    KEYS,
    RATE_MAX_BIT_S,
    RATE_MIN_BIT_S,
    parse,
    parse_words,
)
from labctl.topology.model import Impairment, Topology
from labctl.topology.netem import Discipline, Distribution, GilbertElliott, QueueLimit, QueueUnit
from tests.unit.topology.drafts import resolved


@st.composite
def impairments(draw: st.DrawFn) -> Impairment:
    delay_us = draw(st.integers(0, DELAY_MAX_US))
    jitter_us = draw(st.integers(0, min(delay_us, JITTER_MAX_US)))
    rate = draw(st.just(0) | st.integers(RATE_MIN_BIT_S // 8, RATE_MAX_BIT_S // 8).map(lambda rate: rate * 8))
    return Impairment(delay_us, jitter_us, draw(st.integers(0, 1_000_000)), rate)


EVERYTHING = Impairment(
    20_000,
    2_000,
    1_000,
    8_000_000,
    Distribution.NORMAL,
    250_000,
    1,
    GilbertElliott(1, 2, 3, 4),
    *(500_000,) * 6,
    5,
    32_000,
    QueueLimit(7, QueueUnit.PACKETS),
    Discipline.RED,
)


@given(impairments())
def test_what_is_printed_is_read_back(impairment: Impairment) -> None:
    assert parse(dict(impairment.texts())) == impairment
    assert parse_words(f"{key}={value}" for key, value in impairment.texts()) == impairment


def test_an_impairment_is_printed_as_it_is_written() -> None:
    assert str(Impairment(20_000, 1500, 2500, 10_000_000)) == "delay 20ms jitter 1500us loss 0.25% rate 10mbit"
    assert str(Impairment()) == "none"
    assert not Impairment()


def sent_by(topology: Topology) -> dict[str, str]:
    return {
        f"{node.name}:{interface.name}": str(interface.impairment)
        for node in topology.nodes
        for interface in node.interfaces
        if interface.impairment
    }


def test_a_link_s_own_hold_for_each_direction_and_an_end_s_for_what_it_sends() -> None:
    topology = resolved(
        "hosts: {a: , b: }",
        "links:",
        "  - {ends: [a, b], delay: 20ms, jitter: 2ms, loss: 1%, rate: 10mbit}",
        "  - {ends: [{node: a, delay: 10ms}, b], rate: 1gbit}",
        "  - {ends: [a, {node: b, delay: 0, loss: 5%}], delay: 3ms}",
    )
    whole = "delay 20ms jitter 2ms loss 1% rate 10mbit"
    assert sent_by(topology) == {
        "a:eth0": whole,
        "a:eth1": "delay 10ms rate 1gbit",
        "a:eth2": "delay 3ms",
        "b:eth0": whole,
        "b:eth1": "rate 1gbit",
        "b:eth2": "loss 5%",
    }


def test_a_member_s_are_those_of_what_it_sends_and_a_group_s_of_each_of_its_nodes() -> None:
    topology = resolved(
        "hosts: {server: , client: {count: 2}}",
        "networks: {lan: {members: [server, {node: client, loss: 5%}]}}",
    )
    assert sent_by(topology) == {"client-1:eth0": "loss 5%", "client-2:eth0": "loss 5%"}


def test_what_a_switch_sends_to_a_host_is_said_at_the_switch_s_end() -> None:
    topology = resolved("hosts: {h: }", "switches: {s: }", "links: [{ends: [{node: s, rate: 1mbit}, h]}]")
    assert sent_by(topology) == {"s:h": "rate 1mbit"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dealy=2ms"], "unknown key `dealy`; did you mean `delay`?"),
        (["latency=2ms"], "unknown key `latency`; did you mean `delay`?"),
        (["bandwidth=2mbit"], "did you mean `rate`?"),
        (["packet-loss=2%"], "did you mean `loss`?"),
        (["delay=20ms 5ms"], "`20ms 5ms` is more than a delay; write for example `delay: 20ms, jitter: 5ms`"),
        (["delay=20ms 5ms 25%"], "more than a delay"),
        (["delay"], "`delay` is not KEY=VALUE"),
        (["delay="], "`delay=` is not KEY=VALUE"),
        (["delay=1ms", "delay=2ms"], "duplicate key `delay`"),
        (["jitter=2ms"], "jitter needs a delay that it varies"),
        (["delay=1ms", "jitter=2ms"], "the jitter 2ms is more than the delay 1ms"),
        (["loss=101%"], "`101%` is more than 100%"),
        (["loss=1"], "no unit; did you mean `1%`?|is not a percentage"),
        (["rate=10Megabit"], "unknown unit `Megabit`"),
        (["rate=7bit"], "too low: the minimum is 1kbit"),
        (["delay=275s"], "too long: the kernel allows 274s"),
        (["delay=3s", "jitter=2001ms"], "too long: the kernel allows 2s"),
        (["delay=1.5us"], "not a whole number of microseconds"),
        (["loss=0.00001%"], "not a multiple of 0.0001%"),
        (["rate=1001bit"], "not a whole number of bytes per second"),
        (["rate=2000gbit"], "too high: the maximum is 1000gbit"),
        (["delay=x", "jitter=1ms"], "^`x` is not a delay; write [^;]*$"),
        (["queue=10ms"], "a queue needs a rate"),
        (["queue=ten"], "`ten` is not the size of a queue; write for example 100packets, 64KiB or 50ms"),
        (["rate=1mbit", "queue=1TB"], "unknown unit.* \\(a queue is 100packets, 64KiB or 50ms\\)"),
        (["delay=1ms", "discipline=cake"], "a discipline needs a rate"),
        (["rate=1mbit", "discipline=fqcodel"], "there is no discipline `fqcodel`; did you mean `fq_codel`?"),
        (["delay=1ms", "distribution=normal"], "distribution needs a jitter"),
        (["delay=1ms", "jitter=1ms", "distribution=gauss"], "there is no distribution `gauss`"),
        (["loss_correlation=25%"], "loss_correlation needs a loss"),
        (["loss=1%", "gemodel=1%"], "`loss` and `gemodel` are two models of the same; keep one of them"),
        (["gemodel=1%,2%,3%,4%,5%"], "too many values; write for example"),
        (["reorder=25%"], "reorder needs a delay"),
        (["gap=x"], "the gap `x` is not a whole number"),
        (["distance=99999999km"], "the distance .* is too long"),
        (["distance=10"], "no unit; did you mean `10km`?"),
        (["distance=10km", "delay=1ms"], "`delay` and `delay` are the same|`distance`.*the same"),
        (["burst=1MB"], "burst needs a rate"),
        (["delay=x", "loss=y"], "`x` is not a delay.*; `y` is not a percentage"),
    ],
)
def test_what_is_wrong_is_told_in_words(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_words(words)


def test_the_limits_themselves_are_allowed() -> None:
    assert parse_words(["delay=274s", "jitter=2s", "loss=100%"]) == Impairment(DELAY_MAX_US, JITTER_MAX_US, 1_000_000)
    assert [parse_words([f"rate={rate}"]).rate_bit_s for rate in ("1kbit", "1000gbit")] == [1000, 10**12]
    assert parse_words(["delay=2s", "jitter=2s"]) == Impairment(2_000_000, 2_000_000)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["queue=100"], "queue 100packets"),
        (["limit=100p"], "queue 100packets"),
        (["queue=64KiB"], "queue 64KiB"),
        (["queue=50ms"], "queue 50ms"),
        (["discipline=pfifo"], ""),
        (["gemodel=1%"], "gemodel 1% 99% 100% 0%"),
        (["distance=570km"], "delay 2850us"),
        (["delay=10ms", "gap=5"], "delay 10ms reorder 100% gap 5"),
        (["delay=10ms", "jitter=1ms", "distribution=pareto"], "delay 10ms jitter 1ms distribution pareto"),
    ],
)
def test_usual_spellings_are_understood(words: list[str], said: str) -> None:
    assert str(parse_words([*words, "rate=8mbit"])).replace("rate 8mbit", "").split() == said.split()


def test_a_gilbert_elliott_model_is_a_mapping_or_tc_s_text() -> None:
    whole = GilbertElliott(10_000, 100_000, 700_000, 1_000)
    assert parse({"gemodel": {"p": "1%", "r": "10%", "1-h": "70%", "1-k": "0.1%"}}).gemodel == whole
    assert parse({"gemodel": "1% 10% 70% 0.1%"}).gemodel == whole
    with pytest.raises(ValueError, match="a gemodel has no `q`; write for example"):
        parse({"gemodel": {"p": "1%", "q": "10%"}})


@pytest.mark.parametrize("nothing", [0, "0", "0mbit", "0bit"])
def test_no_rate_is_written_as_a_rate_of_zero(nothing: object) -> None:
    assert parse({"rate": nothing, "loss": "1%"}) == Impairment(loss_ppm=10_000)


def test_every_field_of_an_impairment_has_a_key() -> None:
    whole = {"pairs", "profile"}  # written apart
    fields = [name for name in Impairment.__struct_fields__ if name not in whole]
    assert [key for key, _ in EVERYTHING.texts()] == list(KEYS)
    assert len(KEYS) == len(fields)
