"""Read impairments from files, the command line and Python, and change present ones key by key.

Values by key are those of `KEYS`, in the units of `Impairment`, and `preset`. A value that is none (0) removes what was
there before; a key that is missing leaves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from labctl.structs import Struct, replace
from labctl.topology.model import Impairment
from labctl.topology.netem import Discipline, Distribution, GilbertElliott, QueueLimit, QueueUnit
from labctl.units import distance_m, duration_s, format_us, fraction, rate_bit_s, size_bytes

# struct tc_netem_qopt (linux/pkt_sched.h) has 32 bits for a delay in ticks of 64 ns.
DELAY_MAX_US = 274_000_000
# The kernel draws from twice the jitter in 32 bits of nanoseconds (tabledist in net/sched/sch_netem.c).
JITTER_MAX_US = 2_000_000
# At the minimum a packet of usual size takes 12 s; a lab has no use for more than the maximum.
RATE_MIN_BIT_S, RATE_MAX_BIT_S = 1_000, 1_000_000_000_000
QUEUE_MAX_BYTES = BURST_MAX_BYTES = 256 << 20
QUEUE_MAX_PACKETS, GAP_MAX = 1_000_000, 1_000_000
US_PER_KM = 5  # optical fibre (ITU-T G.114, table A.1)


class ProfileSource(Struct, frozen=True):
    """A profile as it is written (topology/profiles.py): the name of a file, a list of moments, or options.

    Names are relative to `directory`. `is_far` as of `expanded`.
    """

    written: object
    directory: str = "."
    is_far: bool = False


Value = int | ProfileSource | Distribution | Discipline | GilbertElliott | QueueLimit | str | None
Values = dict[str, Value]
E = TypeVar("E", Distribution, Discipline)


class Flaw(Struct, frozen=True):
    """A mistake in the value of a key."""

    key: str
    message: str
    hint: str = ""


def read(written: Mapping[str, object]) -> tuple[Values, list[Flaw]]:
    """Return the values by key and the mistakes; None equals a missing key."""
    values: Values = {}
    flaws: list[Flaw] = []
    for name, value in written.items():
        key = SPELLINGS.get(name, name)
        if value is None:
            continue
        if key in values:
            flaws.append(Flaw(name, f"`{name}` and `{'delay' if key == 'delay' else 'queue'}` are the same: keep one"))
            continue
        try:
            values[key] = _READERS[name](value)
        except ValueError as error:
            flaws.append(Flaw(name, str(error)))
    return values, flaws


def choices(key: str) -> list[str]:
    """Return the values of a key that has only some, such as `distribution`."""
    from labctl.topology.link_presets import PRESETS

    known: Mapping[str, Iterable[str]] = {"preset": PRESETS, "distribution": Distribution, "discipline": Discipline}
    return [str(choice) for choice in known.get(key, ())]


def check(key: str, value: object) -> None:
    """Check that it is a value of that key. ValueError."""
    _READERS[key](value)


def expanded(values: Mapping[str, Value], *, is_far: bool = False) -> Values:
    """Return the values of the preset among them, replaced by the others.

    Links of presets are asymmetric: `is_far` is for packets to the node that has this access, sent by the provider.
    """
    name = values.get("preset")
    others = {key: value for key, value in values.items() if key != "preset"}
    if isinstance(source := others.get("profile"), ProfileSource):
        others["profile"] = replace(source, is_far=is_far)
    if not isinstance(name, str):
        return others
    from labctl.topology.link_presets import PRESETS

    return merged(PRESETS[name].values(is_far=is_far), others)


def merged(before: Mapping[str, Value], now: Mapping[str, Value]) -> Values:
    """Return the values `before` with those of `now` in place of them.

    A value that is set to none takes those with it that only vary it, and each model of loss replaces the other.
    """
    values = {**before, **now}
    for one, other in (("loss", "gemodel"), ("gemodel", "loss")):
        if now.get(one) and not now.get(other):
            values.pop(other, None)
    removed = {key for key, value in now.items() if not value}
    needs = {key: needed for key, (needed, _) in _NEEDS.items()} | {"queue": "rate", "discipline": "rate"}
    for key, needed in needs.items():  # each after what it needs
        if key not in now and needed in removed:
            removed.add(key)
            values.pop(key, None)
    return values


def together(values: Mapping[str, Value]) -> tuple[Impairment, Flaw | None]:
    """Return the impairment with these values, and a mistake in their combination."""
    given = {_FIELDS[key]: value for key, value in values.items() if value and key in _FIELDS}
    if values.get("gap") and not values.get("reorder"):  # as tc does
        given["reorder_ppm"] = 1_000_000
    made = Impairment(**given)  # type: ignore[arg-type]  # of the types that the readers return
    return made, _flaw(made, values)


def _flaw(made: Impairment, values: Mapping[str, Value]) -> Flaw | None:
    has_rate = made.rate_bit_s or values.get("profile")  # whose moments are checked each
    for key, (needed, hint) in _NEEDS.items():
        if needed == "rate" and has_rate:
            continue
        if values.get(key) and not values.get(needed) and not (key == "gap" or values.get(key) == "uniform"):
            purpose = "that it varies" if key == "jitter" else ""
            return Flaw(key, f"{key} needs a {needed} {purpose}".rstrip(), hint)
    if made.jitter_us > made.delay_us:
        least = format_us(made.jitter_us)
        message = f"the jitter {least} is more than the delay {format_us(made.delay_us)}"
        return Flaw("jitter", message, f"use a delay of at least {least}")
    if made.loss_ppm and made.gemodel:
        return Flaw("gemodel", "`loss` and `gemodel` are two models of the same", "keep one of them")
    if made.discipline is not Discipline.FIFO and not has_rate:
        return Flaw("discipline", "a discipline needs a rate: without one no packet waits", "add `rate: 10mbit`")
    if made.queue and not has_rate and (made.queue.unit is not QueueUnit.PACKETS or not made.is_emulated):
        return Flaw("queue", "a queue needs a rate: without one no packet waits", "add for example `rate: 10mbit`")
    return None


def parse(written: Mapping[str, object]) -> Impairment:
    """Return the impairment of values by key (see `KEYS`). ValueError, with all mistakes."""
    return changed(None, read_changes(written))


def parse_words(words: Iterable[str]) -> Impairment:
    """Return the impairment of the words `delay=20ms`, `loss=1%`. ValueError."""
    return changed(None, read_words(words))


def read_words(words: Iterable[str]) -> Values:
    """Return the values of the words `delay=20ms`, `loss=1%`. ValueError."""
    written: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ValueError(f"`{word}` is not KEY=VALUE: write for example delay=20ms or loss=1%")
        if key in written:
            raise ValueError(f"duplicate key `{key}`")
        written[key] = value
    return read_changes(written)


def read_changes(written: Mapping[str, object]) -> Values:
    """Return the values by key. ValueError, with all mistakes in them."""
    unknown = [key for key in written if key not in _READERS]
    if unknown:
        from labctl.documents.diagnostics import suggest

        raise ValueError("; ".join(f"unknown key `{key}`; {suggest(key, _READERS)}" for key in unknown))
    values, flaws = read(written)
    if flaws:
        raise ValueError("; ".join(map(_sentence, flaws)))
    return values


def changed(before: Impairment | None, values: Mapping[str, Value], *, is_far: bool = False) -> Impairment:
    """Return the impairment with these values changed; `is_far` as of `expanded`. A profile ends. ValueError."""
    now = expanded(values, is_far=is_far)
    present = values_of(before) if before and "preset" not in values else {}
    made, flaw = together(merged(present, now))
    if flaw is not None:
        raise ValueError(_sentence(flaw))
    return replace(made, pairs=before.pairs) if before and before.pairs else made


def values_of(impairment: Impairment) -> Values:
    """Return its values that are not none, by key."""
    return {key: value for key, field in _FIELDS.items() if (value := getattr(impairment, field))}


def _sentence(flaw: Flaw) -> str:
    return f"{flaw.message}; {flaw.hint}" if flaw.hint else flaw.message


def _duration_us(value: object, what: str, most: int) -> int:
    if isinstance(value, str) and len(words := value.split()) > 1 and re.match("[0-9.]+[a-z]", words[0]):
        raise ValueError(f"`{value}` is more than a {what}; write for example `delay: 20ms, jitter: 5ms`")
    seconds = duration_s(value, noun=what, usual_unit="ms")
    duration_us = round(seconds * 1e6)
    if abs(seconds * 1e6 - duration_us) > 1e-4:
        raise ValueError(f"`{value}` is not a whole number of microseconds")
    if duration_us > most:
        raise ValueError(f"the {what} `{value}` is too long: the kernel allows {format_us(most)}")
    return duration_us


def _distance_us(value: object) -> int:
    """Return the delay of a signal in optical fibre of that length."""
    delay_us = round(distance_m(value) / 1000 * US_PER_KM)
    if delay_us > DELAY_MAX_US:
        raise ValueError(
            f"the distance `{value}` is too long: the kernel delays packets at most {format_us(DELAY_MAX_US)}"
        )
    return delay_us


def _share_ppm(value: object, what: str) -> int:
    share = fraction(value) * 1e6
    share_ppm = round(share)
    if abs(share - share_ppm) > 1e-4:
        raise ValueError(f"the {what} `{value}` is not a multiple of 0.0001%")
    return share_ppm


def _gemodel(value: object) -> GilbertElliott | None:
    """Read {p: 1%, r: 10%, 1-h: 70%, 1-k: 0.1%}, or the same as text, in the order of tc-netem(8)."""
    example = "write for example {p: 1%, r: 10%, 1-h: 70%, 1-k: 0.1%} or `1% 10% 70% 0.1%`"
    names = ("p", "r", "1-h", "1-k")
    if isinstance(value, Mapping):
        given = dict(value)
    else:
        texts = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else [value]
        if len(texts) > len(names):
            raise ValueError(f"the gemodel `{value}` has too many values; {example}")
        given = dict(zip(names, texts, strict=False))
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"a gemodel has no `{unknown[0]}`; {example}")
    if "p" not in given:
        raise ValueError(f"a gemodel needs `p`; {example}")
    shares = {name: _share_ppm(share, f"gemodel's {name}") for name, share in given.items()}
    if not shares["p"] and len(shares) == 1:
        return None
    p_ppm = shares["p"]
    return GilbertElliott(p_ppm, shares.get("r", 1_000_000 - p_ppm), shares.get("1-h", 1_000_000), shares.get("1-k", 0))


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


def _size(value: object, what: str) -> int:
    size = size_bytes(value)
    if size > BURST_MAX_BYTES:
        raise ValueError(f"the {what} `{value}` is too large: the maximum is 256MiB")
    return size


def _number(value: object, what: str) -> int:
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,9}", str(value).strip()):
        raise ValueError(f"the {what} `{value}` is not a whole number")
    if int(str(value)) > GAP_MAX:
        raise ValueError(f"the {what} `{value}` is too large: the maximum is {GAP_MAX}")
    return int(str(value))


def _queue(value: object) -> QueueLimit | None:
    """Read `100packets` (or 100), `64KiB`, `50ms`."""
    text = str(value).strip()
    if isinstance(value, bool) or not re.match("[0-9.]", text):
        raise ValueError(f"`{value}` is not the size of a queue; write for example 100packets, 64KiB or 50ms")
    if packets := re.fullmatch(r"([0-9]{1,9})\s*(?:p|pkts?|packets?)?", text):
        if int(packets[1]) > QUEUE_MAX_PACKETS:
            raise ValueError(f"the queue `{value}` is too long: the maximum is {QUEUE_MAX_PACKETS} packets")
        return QueueLimit(int(packets[1]), QueueUnit.PACKETS) if int(packets[1]) else None
    if text.endswith("s"):
        return QueueLimit(_duration_us(text, "queue", DELAY_MAX_US), QueueUnit.TIME)
    try:
        return QueueLimit(_size(text, "queue"), QueueUnit.BYTES)
    except ValueError as error:
        raise ValueError(f"{error} (a queue is 100packets, 64KiB or 50ms)") from error


def _distribution(value: object) -> Distribution:
    return _one_of(Distribution, value, "distribution")


def _discipline(value: object) -> Discipline:
    text = str(value).strip()
    return _one_of(Discipline, {"pfifo": "fifo", "bfifo": "fifo"}.get(text, text), "discipline")


def _preset(value: object) -> str:
    from labctl.topology.link_presets import PRESETS

    if value not in PRESETS:
        from labctl.documents.diagnostics import suggest

        raise ValueError(f"there is no preset `{value}`; {suggest(str(value), PRESETS)}")
    return str(value)


def _profile(value: object) -> ProfileSource | None:
    return ProfileSource(value) if value not in (0, "0", "none") else None


def _one_of(kind: type[E], value: object, what: str) -> E:
    try:
        return kind(str(value).strip())
    except ValueError:
        from labctl.documents.diagnostics import suggest

        raise ValueError(f"there is no {what} `{value}`; {suggest(str(value), [str(one) for one in kind])}") from None


_READERS: Mapping[str, Callable[[object], Value]] = MappingProxyType(
    {
        "delay": partial(_duration_us, what="delay", most=DELAY_MAX_US),
        "jitter": partial(_duration_us, what="jitter", most=JITTER_MAX_US),
        "distribution": _distribution,
        "delay_correlation": partial(_share_ppm, what="delay_correlation"),
        "loss": partial(_share_ppm, what="loss"),
        "loss_correlation": partial(_share_ppm, what="loss_correlation"),
        "gemodel": _gemodel,
        "duplicate": partial(_share_ppm, what="duplicate"),
        "duplicate_correlation": partial(_share_ppm, what="duplicate_correlation"),
        "corrupt": partial(_share_ppm, what="corrupt"),
        "corrupt_correlation": partial(_share_ppm, what="corrupt_correlation"),
        "reorder": partial(_share_ppm, what="reorder"),
        "reorder_correlation": partial(_share_ppm, what="reorder_correlation"),
        "gap": partial(_number, what="gap"),
        "rate": _rate_bit_s,
        "burst": partial(_size, what="burst"),
        "queue": _queue,
        "discipline": _discipline,
        "preset": _preset,
        "profile": _profile,
        "limit": _queue,
        "distance": _distance_us,
    }
)
SPELLINGS = MappingProxyType({"limit": "queue", "distance": "delay"})
WORDS = tuple(_READERS)  # that people may write
_FIELDS = MappingProxyType(
    {
        "delay": "delay_us",
        "jitter": "jitter_us",
        "distribution": "distribution",
        "delay_correlation": "delay_correlation_ppm",
        "loss": "loss_ppm",
        "loss_correlation": "loss_correlation_ppm",
        "gemodel": "gemodel",
        "duplicate": "duplicate_ppm",
        "duplicate_correlation": "duplicate_correlation_ppm",
        "corrupt": "corrupt_ppm",
        "corrupt_correlation": "corrupt_correlation_ppm",
        "reorder": "reorder_ppm",
        "reorder_correlation": "reorder_correlation_ppm",
        "gap": "gap",
        "rate": "rate_bit_s",
        "burst": "burst_bytes",
        "queue": "queue",
        "discipline": "discipline",
    }
)
KEYS = tuple(_FIELDS)
_NEEDS = MappingProxyType(  # what only varies another value: that one, and how to add it
    {
        "jitter": ("delay", "add for example `delay: 20ms`"),
        "distribution": ("jitter", "add for example `jitter: 5ms`"),
        "delay_correlation": ("jitter", "add for example `jitter: 5ms`"),
        "loss_correlation": ("loss", "add for example `loss: 1%`"),
        "duplicate_correlation": ("duplicate", "add for example `duplicate: 1%`"),
        "corrupt_correlation": ("corrupt", "add for example `corrupt: 1%`"),
        "reorder": ("delay", "add for example `delay: 20ms`"),
        "gap": ("reorder", ""),
        "reorder_correlation": ("reorder", "add for example `reorder: 25%`"),
        "burst": ("rate", "add for example `rate: 10mbit`"),
    }
)
