"""What a suite returns: samples, and the tables and plots that show them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text below a heading; the first column is left-aligned, the others right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines through points (x, y). `name` is its file's; axes are logarithmic, from the least value to the largest."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Section:
    """The result of a suite. `headline` is a sentence with its main figures; `samples` is the raw data, for JSON."""

    name: str
    title: str
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    headline: str = ""
    samples: dict[str, object] = field(default_factory=dict)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> float:
    """Half of the interquartile range, as a fraction of the median: 0.05 is 5 %."""
    if len(values) < 4 or not (middle := median(values)):
        return (max(values) - min(values)) / 2 / middle if (middle := median(values)) else 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle


def milliseconds(seconds: float) -> str:
    """Three significant digits, in ms."""
    return f"{_digits(seconds * 1000)} ms"


def with_spread(values: Sequence[float]) -> str:
    """The median in ms with its spread, as in `12.3 ms ±4 %`; one sample has no spread."""
    return milliseconds(median(values)) + (f" ±{spread(values) * 100:.0f} %" if len(values) > 1 else "")


def ratio(value: float, base: float) -> str:
    """`value` as a multiple of `base`, as in `2.4x`."""
    return f"{_digits(value / base)}x" if base else "-"


def mebibytes(size: float) -> str:
    return f"{_digits(size / (1 << 20))} MiB"


def _digits(value: float) -> str:
    """About three significant digits, without an exponent."""
    for limit, places in ((1, 2), (10, 2), (100, 1)):
        if abs(value) < limit:
            return f"{value:.{places}f}"
    return f"{value:,.0f}"
