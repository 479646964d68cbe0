"""Durations, sizes, rates and percentages as people write them: `200ms`, `64KiB`, `10Mbit`, `1%`.

Every function takes what stood in the file and raises ValueError with a message that shows how to write it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_DURATIONS: Mapping[str, float] = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
}
_SIZES: Mapping[str, int] = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_RATES: Mapping[str, int] = {
    "bit": 1,
    "kbit": 1000,
    "Kbit": 1000,
    "mbit": 1000**2,
    "Mbit": 1000**2,
    "gbit": 1000**3,
    "Gbit": 1000**3,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµ%/]*)")
LONGEST_DURATION_S = 7 * 24 * 3600.0


def duration_s(value: object) -> float:
    """Seconds of `200ms`, `2s`, `1m`, `1m30s`; 0 needs no unit. At most a week."""
    if _is_zero(value):
        return 0.0
    text = _text(value, "duration", "200ms, 2s or 1m", "s")
    total_s = 0.0
    for number, unit in _parts(text, "duration", "200ms, 2s, 1m or 1m30s"):
        total_s += number * _factor(text, number, unit, _DURATIONS, "duration", "s")
    if total_s > LONGEST_DURATION_S:
        raise ValueError(f"`{text}` is longer than the longest duration, a week")
    return total_s


def size_bytes(value: object) -> int:
    """Bytes of `64KiB`, `1500B`, `2MB`; a plain whole number is bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    text = _text(value, "size", "64KiB or 1500B", "B")
    if text.isascii() and text.isdigit():
        return int(text)
    number, unit = _single(text, "size", "64KiB or 1500B")
    return _whole(text, number * _factor(text, number, unit, _SIZES, "size", "KiB"), "bytes")


def rate_bit_s(value: object) -> int:
    """Bits a second of `10mbit`, `256kbit`, `1Gbit` (also with `/s` or `ps` behind)."""
    text = _text(value, "rate", "10mbit or 256kbit", "mbit")
    number, unit = _single(text, "rate", "10mbit or 256kbit")
    for ending in ("/s", "ps"):
        unit = unit.removesuffix(ending)
    return _whole(text, number * _factor(text, number, unit, _RATES, "rate", "mbit"), "bits a second")


def fraction(value: object) -> float:
    """0.01 of `1%`: a percentage from 0% to 100%."""
    if _is_zero(value):
        return 0.0
    text = _text(value, "percentage", "1% or 0.5%", "%")
    number, unit = _single(text, "percentage", "1% or 0.5%")
    if unit != "%":
        raise ValueError(f"`{text}` is not a percentage; write for example {number:g}%")
    if number > 100:
        raise ValueError(f"`{text}` is more than 100%")
    return number / 100


def format_duration(seconds: float) -> str:
    """`200ms`, `1.5s`, `2m`, `90us`: short, and read back by `duration_s`."""
    if seconds == 0:
        return "0s"
    if seconds < 0.001:
        return f"{seconds * 1e6:.3g}us"
    if seconds < 1:
        return f"{seconds * 1e3:.3g}ms"
    if seconds >= 60 and seconds % 60 == 0:
        return f"{seconds / 60:.0f}m"
    return f"{seconds:.10g}s" if seconds == round(seconds, 3) else f"{seconds:.3f}s"


def format_us(duration_us: int) -> str:
    """`20ms`, `1500us`, `2s`: exact, and read back by `duration_s`."""
    for unit, factor in (("s", 1_000_000), ("ms", 1000)):
        if duration_us % factor == 0 and duration_us:
            return f"{duration_us // factor}{unit}"
    return f"{duration_us}us"


def format_ppm(share_ppm: int) -> str:
    """`1%`, `0.25%`: exact, and read back by `fraction`."""
    return f"{share_ppm / 10_000:g}%"


def format_rate(rate_bit_s: int) -> str:
    """`10mbit`, `1500kbit`: exact, as tc(8) writes it, and read back by `rate_bit_s`."""
    for unit, factor in (("gbit", 1000**3), ("mbit", 1000**2), ("kbit", 1000)):
        if rate_bit_s % factor == 0 and rate_bit_s:
            return f"{rate_bit_s // factor}{unit}"
    return f"{rate_bit_s}bit"


def format_size(size: int) -> str:
    """`64KiB`, `1500B`, `4MiB`: whole units only where they are exact."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


def _is_zero(value: object) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool) and value == 0) or value == "0"


def _text(value: object, what: str, example: str, unit: str) -> str:
    if isinstance(value, bool) or value is None or not isinstance(value, str | int | float):
        raise ValueError(f"expected a {what} such as {example}")
    if isinstance(value, int | float):
        raise ValueError(f"the {what} {value} has no unit; did you mean `{value}{unit}`?")
    text = value.strip()
    if text.startswith("-"):
        raise ValueError(f"the {what} `{text}` is negative")
    return text


def _parts(text: str, what: str, example: str) -> list[tuple[float, str]]:
    """The number-and-unit pairs that the text consists of; ValueError when it has anything else in it."""
    parts: list[tuple[float, str]] = []
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            break
        parts.append((float(match[1]), match[2]))
        position = match.end()
        while text[position : position + 1] == " ":
            position += 1
    if position < len(text) or not parts:
        raise ValueError(f"`{text}` is not a {what}; write for example {example}")
    return parts


def _single(text: str, what: str, example: str) -> tuple[float, str]:
    parts = _parts(text, what, example)
    if len(parts) != 1:
        raise ValueError(f"`{text}` is not a {what}; write for example {example}")
    return parts[0]


def _factor(text: str, number: float, unit: str, units: Mapping[str, float], what: str, likely: str) -> float:
    if unit in units:
        return units[unit]
    if not unit:
        raise ValueError(f"the {what} `{text}` has no unit; did you mean `{text}{likely}`?")
    for known in units:
        if known.casefold() == unit.casefold():
            raise ValueError(f"the {what} `{text}` has an unknown unit; did you mean `{number:g}{known}`?")
    raise ValueError(f"the {what} `{text}` has an unknown unit `{unit}`; allowed: {', '.join(units)}")


def _whole(text: str, number: float, what: str) -> int:
    if number != int(number):
        raise ValueError(f"`{text}` is not a whole number of {what}")
    return int(number)
