"""Durations, sizes, rates and percentages as people write them: `200ms`, `64KiB`, `10Mbit`, `1%`.

Readers take a value of a YAML file and raise ValueError with a message that shows the right form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from labctl.structs import Struct, replace


class _Quantity(Struct, frozen=True):
    noun: str
    example: str
    usual_unit: str  # suggested for a bare number
    units: Mapping[str, float]
    others: Mapping[str, tuple[str, int]] = {}  # units of other tools: one of `units`, and how many of it


_DURATION = _Quantity(
    "duration",
    "200ms, 2s, 1m or 1m30s",
    "s",
    {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0},
    {
        f"{prefix}{second}": (f"{prefix}s", 1)
        for prefix in ("m", "u", "")
        for second in ("sec", "secs", "second", "seconds")
    },
)
_SIZE = _Quantity(
    "size",
    "64KiB or 1500B",
    "B",
    {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30},
    {f"{prefix}{end}": (f"{prefix.upper()}iB", 1) for prefix in "kKmMgG" for end in ("", "i")},
)
_RATE = _Quantity(
    "rate",
    "10mbit or 256kbit",
    "mbit",
    {"bit": 1, "kbit": 1000, "Kbit": 1000, "mbit": 1000**2, "Mbit": 1000**2, "gbit": 1000**3, "Gbit": 1000**3},
    {
        f"{prefix}{end}": (f"{prefix.lower()}bit", count)
        for prefix in ("", "k", "K", "m", "M", "g", "G")
        for end, count in (("", 1), ("b", 1), ("b/s", 1), ("bps", 1), ("B", 8), ("B/s", 8), ("Bps", 8))
    },
)
_DISTANCE = _Quantity("distance", "120km or 300m", "km", {"m": 1, "km": 1000, "mi": 1609.344})
_PERCENTAGE = _Quantity("percentage", "1% or 0.5%", "%", {"%": 1}, {"pct": ("%", 1), "percent": ("%", 1)})
_PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµ%/]*) *"
_PER_SECOND = r"(?i)(?<=bit)(?:ps|/s)$"
DURATION_MAX_S = 7 * 24 * 3600.0


def duration_s(value: object, *, noun: str = "duration", usual_unit: str = "s") -> float:
    """Return the seconds of `200ms`, `2s` or `1m30s`; 0 needs no unit. At most a week.

    `noun` names the value in messages; `usual_unit` is suggested for a bare number.
    """
    if _is_zero(value):
        return 0.0
    parts = _parts(value, replace(_DURATION, noun=noun, usual_unit=usual_unit))
    total_s = sum(number * factor for number, factor in parts)
    if total_s > DURATION_MAX_S:
        raise ValueError(f"the {noun} `{value}` is longer than a week, the longest duration")
    return total_s


def size_bytes(value: object) -> int:
    """Return the bytes of `64KiB`, `1500B` or `2MB`; a plain whole number is bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    return _whole(value, _single(value, _SIZE), "bytes")


def rate_bit_s(value: object) -> int:
    """Return the bits per second of `10mbit`, `256kbit` or `1Gbit`, with or without `/s` or `ps`; 0 needs no unit."""
    if _is_zero(value):
        return 0
    written = re.sub(_PER_SECOND, "", value.strip()) if isinstance(value, str) else value
    return _whole(value, _single(written, _RATE), "bits per second")


def distance_m(value: object) -> float:
    """Return the metres of `120km`, `300m` or `75mi`; 0 needs no unit."""
    return 0.0 if _is_zero(value) else _single(value, _DISTANCE)


def fraction(value: object) -> float:
    """Return 0.01 for `1%`: a percentage from 0% to 100%; 0 needs no unit."""
    if _is_zero(value):
        return 0.0
    if re.fullmatch(r"0?\.[0-9]+", text := str(value).strip()):
        raise ValueError(
            f"the percentage `{text}` has no unit; did you mean `{float(text):g}%` or `{float(text) * 100:g}%`?"
        )
    percent = _single(value, _PERCENTAGE)
    if percent > 100:
        raise ValueError(f"the percentage `{value}` is more than 100%")
    return percent / 100


def format_duration(seconds: float) -> str:
    """Write `200ms`, `1.5s`, `2m` or `90us`: short, and accepted by `duration_s`."""
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
    """Write `20ms`, `1500us` or `2s`: exact, and accepted by `duration_s`."""
    return _in_whole_units(duration_us, {"s": 1_000_000, "ms": 1000, "us": 1})


def format_ppm(share_ppm: int) -> str:
    """Write `1%` or `0.25%`: exact, and accepted by `fraction`."""
    return f"{share_ppm / 10_000:g}%"


def format_rate(rate_bit_s: int) -> str:
    """Write `10mbit` or `1500kbit` as tc(8) does: exact, and accepted by `rate_bit_s`."""
    return _in_whole_units(rate_bit_s, {"gbit": 1000**3, "mbit": 1000**2, "kbit": 1000, "bit": 1})


def format_size(size: int) -> str:
    """Write `64KiB`, `1500B` or `4MiB`: exact, and accepted by `size_bytes`."""
    return _in_whole_units(size, {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1})


def _in_whole_units(number: int, units: Mapping[str, int]) -> str:
    """Write the number in the first unit that leaves it whole; the last unit is 1."""
    for unit, factor in units.items():
        if factor == 1 or (number and number % factor == 0):
            return f"{number // factor}{unit}"
    raise ValueError("no unit is 1")


def _is_zero(value: object) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool) and value == 0) or value == "0"


def _single(value: object, quantity: _Quantity) -> float:
    parts = _parts(value, quantity)
    if len(parts) != 1:
        raise ValueError(f"`{value}` is not a {quantity.noun}; write for example {quantity.example}")
    return parts[0][0] * parts[0][1]


def _parts(value: object, quantity: _Quantity) -> list[tuple[float, float]]:
    """Return each number in the text with the factor of its unit."""
    noun = quantity.noun
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected a {noun} such as {quantity.example}")
    if isinstance(value, int | float):
        raise ValueError(f"the {noun} {value} has no unit; did you mean `{value}{quantity.usual_unit}`?")
    text = value.strip()
    if text.startswith("-"):
        raise ValueError(f"the {noun} `{text}` is negative")
    parts: list[tuple[float, float]] = []
    position = 0
    while match := re.compile(_PART).match(text, position):
        parts.append((float(match[1]), _factor(text, match[1], match[2], quantity)))
        position = match.end()
    factors = [factor for _, factor in parts]
    if position < len(text) or not parts or factors != sorted(set(factors), reverse=True):
        raise ValueError(f"`{text}` is not a {noun}; write for example {quantity.example}")
    return parts


def _factor(text: str, number: str, unit: str, quantity: _Quantity) -> float:
    noun, units = quantity.noun, quantity.units
    if unit in units:
        return units[unit]
    if not unit and text == number:
        raise ValueError(f"the {noun} `{text}` has no unit; did you mean `{text}{quantity.usual_unit}`?")
    if not unit:
        raise ValueError(f"`{text}` is not a {noun}; write for example {quantity.example}")
    if "".join(text.split()) == f"{number}{unit}" and unit in quantity.others:
        known, count = quantity.others[unit]
        bytes_too = (
            f", or `{float(number) * 8:.15g}{known}`: tc(8) reads {unit} as bytes" if unit.endswith("bps") else ""
        )
        raise ValueError(
            f"the {noun} `{text}` has an unknown unit; did you mean `{float(number) * count:.15g}{known}`{bytes_too}?"
        )
    for known in units:
        if known.casefold() == unit.casefold():
            raise ValueError(f"the {noun} `{text}` has an unknown unit; did you mean `{number}{known}`?")
    raise ValueError(f"the {noun} `{text}` has an unknown unit `{unit}`; allowed: {', '.join(units)}")


def _whole(value: object, number: float, what: str) -> int:
    if not number.is_integer():
        raise ValueError(f"`{value}` is not a whole number of {what}")
    return int(number)
