"""Read delay, jitter, loss and rate from files, the command line and Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

from labctl.structs import Struct
from labctl.topology.model import Impairment
from labctl.units import duration_s, format_us, fraction, rate_bit_s

# struct tc_netem_qopt (linux/pkt_sched.h) has 32 bits for a delay in ticks of 64 ns.
DELAY_MAX_US = 274_000_000
# The kernel draws from twice the jitter in 32 bits of nanoseconds (tabledist in net/sched/sch_netem.c).
JITTER_MAX_US = 2_000_000
# At the minimum a packet of usual size takes 12 s; a lab has no use for more than the maximum.
RATE_MIN_BIT_S, RATE_MAX_BIT_S = 1_000, 1_000_000_000_000


class Flaw(Struct, frozen=True):
    """A mistake in the value of a key."""

    key: str
    message: str
    hint: str = ""


def read(written: Mapping[str, object]) -> tuple[dict[str, int], list[Flaw]]:
    """Return the values by key, in the units of `Impairment`, and the mistakes; None equals a missing key."""
    values: dict[str, int] = {}
    flaws: list[Flaw] = []
    for key, value in written.items():
        if value is None:
            continue
        try:
            values[key] = _READERS[key](value)
        except ValueError as error:
            flaws.append(Flaw(key, str(error)))
    return values, flaws


def check(key: str, text: str) -> None:
    """Check that the text is a value of that key. ValueError."""
    _READERS[key](text)


def together(values: Mapping[str, int]) -> tuple[Impairment, Flaw | None]:
    """Return the impairment with these values, and a mistake in their combination."""
    made = Impairment(*(values.get(key, 0) for key in KEYS))
    if made.jitter_us and not made.delay_us:
        return made, Flaw("jitter", "jitter needs a delay that it varies", "add for example `delay: 20ms`")
    if made.jitter_us > made.delay_us:
        least = format_us(made.jitter_us)
        message = f"the jitter {least} is more than the delay {format_us(made.delay_us)}"
        return made, Flaw("jitter", message, f"use a delay of at least {least}")
    return made, None


def parse(written: Mapping[str, object]) -> Impairment:
    """Return the impairment of values by key (see `KEYS`). ValueError, with all mistakes."""
    unknown = [key for key in written if key not in _READERS]
    if unknown:
        from labctl.documents.diagnostics import suggest

        raise ValueError("; ".join(f"unknown key `{key}`; {suggest(key, KEYS)}" for key in unknown))
    values, flaws = read(written)
    made, flaw = together(values)
    if flaw is not None and not flaws:
        flaws = [flaw]
    if flaws:
        raise ValueError("; ".join(f"{one.message}; {one.hint}" if one.hint else one.message for one in flaws))
    return made


def parse_words(words: Iterable[str]) -> Impairment:
    """Return the impairment of the words `delay=20ms`, `loss=1%`. ValueError."""
    written: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ValueError(f"`{word}` is not KEY=VALUE: write for example delay=20ms or loss=1%")
        if key in written:
            raise ValueError(f"duplicate key `{key}`")
        written[key] = value
    return parse(written)


def _duration_us(value: object, what: str, most: int) -> int:
    seconds = duration_s(value, noun=what, usual_unit="ms")
    duration_us = round(seconds * 1e6)
    if abs(seconds * 1e6 - duration_us) > 1e-4:
        raise ValueError(f"`{value}` is not a whole number of microseconds")
    if duration_us > most:
        raise ValueError(f"the {what} `{value}` is too long: the kernel allows {format_us(most)}")
    return duration_us


def _loss_ppm(value: object) -> int:
    share = fraction(value) * 1e6
    loss_ppm = round(share)
    if abs(share - loss_ppm) > 1e-4:
        raise ValueError(f"the loss `{value}` is not a multiple of 0.0001%")
    return loss_ppm


def _rate_bit_s(value: object) -> int:
    rate = rate_bit_s(value)
    if not rate:
        return 0
    if rate < RATE_MIN_BIT_S:
        raise ValueError(f"the rate `{value}` is too low: the minimum is 1kbit")
    if rate > RATE_MAX_BIT_S:
        raise ValueError(f"the rate `{value}` is too high: the maximum is 1000gbit")
    if rate % 8:
        raise ValueError(f"the rate `{value}` is not a whole number of bytes per second")
    return rate


_READERS: Mapping[str, Callable[[object], int]] = MappingProxyType(
    {
        "delay": partial(_duration_us, what="delay", most=DELAY_MAX_US),
        "jitter": partial(_duration_us, what="jitter", most=JITTER_MAX_US),
        "loss": _loss_ppm,
        "rate": _rate_bit_s,
    }
)
KEYS = tuple(_READERS)  # in the order of the fields of `Impairment`
