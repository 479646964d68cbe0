"""Which node reaches which, as a table: a row for each source, a column for each target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from labctl.report.screen import Ink, Look
from labctl.report.text import cells, pad, shorten, wrap

_SHOWN_FAILURES = 20


class Attempt(Protocol):
    """What is shown of an echo request that was made."""

    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def address(self) -> object: ...
    @property
    def problem(self) -> str: ...  # why there was no answer; "" when there was one
    @property
    def family(self) -> str: ...  # `4` or `6`


def render(nodes: Sequence[str], tries: Sequence[Attempt], look: Look, *, sampled: bool = False) -> list[str]:
    """The matrix (only where it fits, and of all pairs), what was unreachable and why, the counts, and of what.

    `sampled`: the pairs that are missing were left out by choice; the others have no addresses of each other.
    """
    failed = [each for each in tries if each.problem]
    lines = [] if sampled else _matrix(nodes, tries, look)
    for each in failed[:_SHOWN_FAILURES]:
        text = f"{each.source} -> {each.target} ({each.address}): {each.problem}"
        lines += [look.paint(line, Ink.BAD) for line in wrap(text, look.width, indent="    ")]
    if len(failed) > _SHOWN_FAILURES:
        lines.append(f"and {len(failed) - _SHOWN_FAILURES} more.")
    counts = []
    for family in ("4", "6"):
        of_family = [each for each in tries if each.family == family]
        if of_family:
            reached = sum(1 for each in of_family if not each.problem)
            counts.append(f"IPv{family} {reached} of {len(of_family)}")
    lines.append(look.paint(f"reached: {', '.join(counts)}", Ink.BAD if failed else Ink.GOOD))
    pairs, possible = len({(each.source, each.target) for each in tries}), len(nodes) * (len(nodes) - 1)
    if pairs < possible:
        lines.append(
            f"tested: {pairs} of {possible} pairs{' (a sample; labctl ping --every-pair tests all)' if sampled else ''}"
        )
    return lines


def _matrix(nodes: Sequence[str], tries: Sequence[Attempt], look: Look) -> list[str]:
    """A row for each source, a column for each target; what stands there are the families in which it was reached."""
    head = min(max(cells(name) for name in ("from \\ to", *nodes)), 20)
    numbers = [str(number + 1) for number in range(len(nodes))]
    widest = max(cells(name) for name in nodes)
    titles = list(nodes)
    if head + (max(widest, 3) + 1) * len(nodes) > look.width:
        titles = numbers
        head = min(head + len(numbers[-1]) + 1, 24)
    width = max(3, *(cells(title) for title in titles))
    if head + (width + 1) * len(nodes) > look.width:
        return []
    by_pair: dict[tuple[str, str], list[Attempt]] = {}
    for each in tries:
        by_pair.setdefault((each.source, each.target), []).append(each)
    header = pad("from \\ to", head) + "".join(" " + pad(title, width) for title in titles)
    lines = [look.paint(header.rstrip(), Ink.STRONG)]
    for number, source in zip(numbers, nodes, strict=True):
        name = source if titles is not numbers else f"{number} {source}"
        line = pad(shorten(name, head), head)
        for target in nodes:
            there = by_pair.get((source, target), [])
            text, ink = _cell(there, same=source == target, look=look)
            line += " " + look.paint(text, ink) + " " * (width - cells(text))
        lines.append(line.rstrip())
    return lines


def _cell(there: Sequence[Attempt], *, same: bool, look: Look) -> tuple[str, Ink]:
    if same or not there:
        return look.glyphs.separator if same else "?", Ink.FAINT
    text = " ".join(each.family if not each.problem else "-" for each in there)
    bad = any(each.problem for each in there)
    return text, Ink.BAD if bad else Ink.GOOD
