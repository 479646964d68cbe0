"""Line plots with logarithmic axes, as SVG in colours that are readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tests.benchmarks.results import Plot

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 160, 40, 50  # margins; lines are named in the right one
_LABEL_HEIGHT = 15
# Colours that colour-blind people can distinguish (after Okabe and Ito).
_COLOURS = ("#1f83c6", "#d55e00", "#009e73", "#cc79a7", "#c79a00", "#56b4e9", "#8a6fdf", "#7f7f7f")
_STYLE = """\
text { font: 12px sans-serif; fill: #7a828c } .title { font-size: 14px; font-weight: bold }
.grid { stroke: #8884; stroke-width: 1 } .line { fill: none; stroke-width: 2 }"""


def svg(plot: Plot) -> str:
    """Draw the plot; it needs no other file."""
    points = [point for line in plot.lines.values() for point in line]
    across = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    down = _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(plot.title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="20">{escape(plot.title)}</text>',
    ]
    for value in across.ticks:
        x = across.at(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{value:,g}</text>')
    for value in down.ticks:
        y = down.at(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(plot.x_label)}</text>')
    parts.append(
        f'<text transform="translate(16 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(plot.y_label)}</text>'
    )
    ends = [(name, line[-1]) for name, line in plot.lines.items() if line]
    heights = _apart([down.at(y) for _, (_, y) in ends])
    for number, ((name, line), label) in enumerate(
        zip([item for item in plot.lines.items() if item[1]], heights, strict=True)
    ):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{across.at(x):.1f},{down.at(y):.1f}" for x, y in line)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        parts += [f'<circle cx="{across.at(x):.1f}" cy="{down.at(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 10}" y="{label + 4:.1f}" style="fill:{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axis:
    """Places values between two positions on a logarithmic scale; `ticks` are round values within."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self._begin, self._end = begin, end
        low, high = max(min(values, default=1), 1e-6), max(*values, 1e-5)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        candidates = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        self._low = max(one for one in candidates if one <= low)
        self._high = min(one for one in candidates if one >= high and one > self._low)
        within = [one for one in candidates if self._low <= one <= self._high]
        self.ticks = within if len(within) <= 9 else [one for one in within if math.log10(one) % 1 < 1e-9]

    def at(self, value: float) -> float:
        share = math.log(max(value, self._low) / self._low) / math.log(self._high / self._low)
        return self._begin + (self._end - self._begin) * share


def _apart(heights: Sequence[float]) -> list[float]:
    """Move labels up or down until they do not overlap, from the lowest upwards."""
    placed = list(heights)
    limit = float(_HEIGHT - _BOTTOM)
    for number in sorted(range(len(heights)), key=lambda one: -heights[one]):
        placed[number] = limit = min(heights[number], limit)
        limit -= _LABEL_HEIGHT
    return placed
