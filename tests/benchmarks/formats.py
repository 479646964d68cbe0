"""A report as text for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.benchmarks.results import Section, Table


def text(machine: dict[str, str], sections: Sequence[Section]) -> str:
    """The tables in columns, for a terminal."""
    parts = ["\n".join(f"{key}: {value}" for key, value in machine.items())]
    for section in sections:
        parts.append(f"{section.title}\n{'=' * len(section.title)}")
        parts += [_text_table(table) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def _text_table(table: Table) -> str:
    widths = [max(len(row[at]) for row in (table.columns, *table.rows)) for at in range(len(table.columns))]
    lines = [table.title, ""]
    for row in (table.columns, *table.rows):
        cells = [
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *(f"* {note}" for note in table.notes)])


def markdown(section: Section, pictures: str) -> str:
    """The section without its heading; `pictures` is the folder of its plots, relative to the page."""
    parts = [_markdown_table(table) for table in section.tables]
    parts += [
        f"![{plot.title}, {plot.y_label} over {plot.x_label}]({pictures}/{plot.name}.svg)" for plot in section.plots
    ]
    return "\n\n".join(parts)


def _markdown_table(table: Table) -> str:
    lines = [f"{table.title}:", "", _markdown_row(table.columns), "|---|" + "---:|" * (len(table.columns) - 1)]
    lines += [_markdown_row(row) for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def machine_sentence(machine: dict[str, str]) -> str:
    return "Measured on: " + ", ".join(f"{key} {value}" for key, value in machine.items()) + "."


def raw(machine: dict[str, str], sections: Sequence[Section]) -> str:
    """Every sample, as JSON."""
    return json.dumps({"machine": machine, "sections": {one.name: one.samples for one in sections}}, indent=1) + "\n"
