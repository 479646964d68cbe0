"""The screen of `labctl top` as lines: nodes, links, sockets, programs and the tail of a log.

Nothing here reads the kernel or the terminal: `labctl.cli.top` samples the lab and handles keys.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum

from labctl.cli.network import Cable
from labctl.cli.ps import process_rows
from labctl.cli.sockets import ListedSocket, socket_table
from labctl.lab.description import ProcessInfo
from labctl.observe.network import Traffic
from labctl.printable import printable
from labctl.report.terminal import Cell, Ink, Look, age, cells, shorten, table
from labctl.structs import Struct, field

KEYS = "Tab panel  arrows select  c cut/heal  s shell  p packets  l log  q quit"
_UNCUT = 1000  # cells: rows are cut, not wrapped
_SLOW_S = 2.0  # seconds between samples from which they are shown
_ESCAPE = "\x1b"
HELP = (
    "Tab, Shift-Tab   next, previous panel",
    "up, down, k, j   select a row; PageUp, PageDown, Home, End",
    "c                cut the selected link, or heal it",
    "s                open a shell on the selected node",
    "p                show the packets of the selected link or node until Ctrl-C",
    "l, Enter         show the log of the selected program",
    "space            pause, or go on",
    "q, Ctrl-C        quit",
)


class Panel(StrEnum):
    """The parts of the screen, from top to bottom."""

    NODES = "nodes"
    LINKS = "links"
    SOCKETS = "sockets"
    PROGRAMS = "programs"
    LOG = "log"


class LinkSample(Struct, frozen=True):
    """The state of a link, and its traffic at one moment."""

    cable: Cable
    is_up: bool
    impairment: str = ""
    near: Traffic | None = None  # None: the interface does not exist
    far: Traffic | None = None


class Sample(Struct, frozen=True):
    """The state of a lab at one moment."""

    at_s: float  # CLOCK_MONOTONIC
    name: str
    started_at: float  # seconds since 1970
    nodes: tuple[tuple[str, str, tuple[str, ...]], ...]  # name, kind, addresses
    links: tuple[LinkSample, ...] = ()
    sockets: tuple[ListedSocket, ...] = ()
    programs: tuple[ProcessInfo, ...] = ()
    left_out: str = ""  # what is not sampled: `sockets of 36 nodes`


class Ui(Struct):
    """What the person has chosen."""

    focus: Panel = Panel.NODES
    selected: dict[Panel, int] = field(default_factory=dict)
    log_of: str = ""  # NODE/NAME
    message: str = ""
    is_paused: bool = False
    shows_help: bool = False
    interval_s: float = 1.0  # between two samples

    def selection(self, panel: Panel, count: int) -> int:
        """Return the selected row of a panel with that many rows; 0 if it has none."""
        return max(0, min(self.selected.get(panel, 0), count - 1))


def rate(bits_s: float) -> str:
    """Return `0`, `850 bit/s`, `1.2 Mbit/s`."""
    for size, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits_s >= size:
            return f"{bits_s / size:.1f} {unit}"
    return f"{bits_s:.0f} bit/s" if bits_s >= 1 else "0"


def flow_of(now: Traffic, before: Traffic, seconds: float) -> tuple[float, int, int]:
    """Return bits per second sent, packets sent, and packets dropped before they were sent."""
    bits = max(0, now.sent_bytes - before.sent_bytes) * 8 / seconds
    return bits, max(0, now.sent_packets - before.sent_packets), max(0, now.send_drops - before.send_drops)


def screen(sample: Sample, before: Sample | None, ui: Ui, log: Sequence[str], look: Look, rows: int) -> list[str]:
    """Return exactly `rows` painted lines of at most `look.width` cells.

    `before` is an earlier sample, from which rates are computed; `log` has the last lines of the chosen program.
    """
    state = "paused" if ui.is_paused else f"up {age(time.time() - sample.started_at)}"
    running = sum(1 for each in sample.programs if each.state.value == "running")
    title = f"lab {sample.name}  {state}  {len(sample.nodes)} nodes  {running} programs"
    if ui.interval_s >= _SLOW_S:
        title += f"  every {ui.interval_s:.0f} s"
    if sample.left_out:
        title += f"  ({sample.left_out})"
    lines = [look.paint(shorten(title, look.width), Ink.STRONG)]
    if ui.shows_help:
        return _exactly([*lines, "", *(shorten(line, look.width) for line in HELP)], rows)
    panels = {
        Panel.NODES: _nodes(sample, look),
        Panel.LINKS: _links(sample, before, look),
        Panel.SOCKETS: socket_table(look, sample.sockets, _names(sample)),
        Panel.PROGRAMS: _programs(sample, look),
        Panel.LOG: [ui.log_of, *(shorten(printable(line), look.width) for line in log)] if ui.log_of else [],
    }
    shown = {panel: body for panel, body in panels.items() if len(body) > 1 or panel is ui.focus}
    room = rows - 2 - 1  # the title, the message and the keys
    heights = share({panel: len(body) + 1 for panel, body in shown.items()}, room, ui.focus)
    has_gaps = sum(heights.values()) + len(heights) <= room
    for panel, body in shown.items():
        lines += [*([""] if has_gaps else []), *_panel(panel, body, heights[panel], ui, look)]
    lines = _exactly(lines, rows - 2)
    lines.append(look.paint(shorten(ui.message, look.width), Ink.ODD))
    lines.append(look.paint(shorten(f"{KEYS}  ? help", look.width), Ink.FAINT))
    return lines


def share(wanted: Mapping[Panel, int], room: int, focus: Panel) -> dict[Panel, int]:
    """Divide `room` rows: each panel gets what it asks for, or its part of what the smaller ones leave.

    The part of `focus` is half as large again as that of another.
    """
    heights: dict[Panel, int] = {}
    parts = {panel: 3 if panel is focus else 2 for panel in wanted}
    for panel in sorted(wanted, key=lambda each: wanted[each] / parts[each]):
        left = sum(parts[each] for each in parts if each not in heights)
        part = max(room - sum(heights.values()), 0) * parts[panel] // left
        heights[panel] = min(wanted[panel], part)
    return heights


def _panel(panel: Panel, body: Sequence[str], height: int, ui: Ui, look: Look) -> list[str]:
    """Return the panel: a table's header, and the rows around the selected one."""
    if height < 1:
        return []
    head, *rows = body or [""]
    focused = panel is ui.focus
    mark = ">" if focused else " "
    title = f"{mark} {panel.value.upper()}" if panel is not Panel.LOG else f"{mark} LOG  {head}"
    ink = Ink.STRONG if focused else Ink.FAINT
    lines = [look.paint(title, ink)]
    if panel is Panel.LOG:
        return [*lines, *rows[-(height - 1) :]][:height] if height > 1 else lines
    lines.append(head)
    room = height - len(lines)
    if room <= 0:
        return lines[:height]
    at = ui.selection(panel, len(rows))
    first = max(0, min(at - room // 2, len(rows) - room))
    if len(rows) > room:
        lines[0] = look.paint(f"{title}  {first + 1} to {first + room} of {len(rows)}", ink)
    for number, row in enumerate(rows[first : first + room], first):
        chosen = focused and number == at and panel is not Panel.SOCKETS
        lines.append(_chosen(row, look) if chosen else row)
    return lines


def _chosen(row: str, look: Look) -> str:
    text = f">{''.join(part for part in _split_escapes(row) if not part.startswith(_ESCAPE))[1:]}"
    return f"\x1b[7m{text}\x1b[0m" if look.colour else text


def _exactly(lines: list[str], rows: int) -> list[str]:
    return [*lines[:rows], *[""] * (rows - len(lines))]


def _names(sample: Sample) -> dict[str, str]:
    return {address: name for name, _, addresses in sample.nodes for address in addresses}


def _nodes(sample: Sample, look: Look) -> list[str]:
    rows: list[list[Cell | str]] = []
    for name, kind, addresses in sample.nodes:
        sockets = sum(1 for each in sample.sockets if each.node == name)
        programs = sum(1 for each in sample.programs if each.node == name and each.state.value == "running")
        rows.append([f" {name}", kind, str(programs or ""), str(sockets or ""), " ".join(addresses)])
    return _rows((" NODE", "KIND", "PROGRAMS", "SOCKETS", "ADDRESSES"), rows, look)


def _links(sample: Sample, before: Sample | None, look: Look) -> list[str]:
    earlier = {str(each.cable): each for each in before.links} if before is not None else {}
    seconds = max(sample.at_s - before.at_s, 1e-3) if before is not None else 1.0
    rows: list[list[Cell | str]] = []
    for each in sample.links:
        last = earlier.get(str(each.cable))
        ends = ((each.near, last.near if last else None), (each.far, last.far if last else None))
        state = Cell("up", Ink.GOOD) if each.is_up else Cell("down", Ink.BAD)
        lost = sum(_drops(now, then) for now, then in ends)
        directions = [_direction(now, then, seconds) for now, then in ends]
        rows.append([f" {each.cable}", state, *directions, Cell(str(lost or ""), Ink.BAD), each.impairment])
    back = "<-" if look.glyphs.returns == "->" else "\u2190"
    return _rows((" LINK", "STATE", look.glyphs.returns, back, "LOST", "IMPAIRMENT"), rows, look)


def _direction(now: Traffic | None, before: Traffic | None, seconds: float) -> str:
    if now is None or before is None:
        return ""
    bits, packets, _ = flow_of(now, before, seconds)
    return f"{rate(bits)} {packets / seconds:.0f}/s" if packets else ""


def _drops(now: Traffic | None, before: Traffic | None) -> int:
    if now is None or before is None:
        return 0
    return flow_of(now, before, 1.0)[2] + max(0, now.receive_drops - before.receive_drops)


def _programs(sample: Sample, look: Look) -> list[str]:
    rows = process_rows(sample.programs)
    for row in rows:
        row[0] = f" {row[0]}"
    return _rows((" NODE", "NAME", "PID", "SINCE", "STATE", "COMMAND"), rows, look)


def _rows(heads: Sequence[str], rows: Sequence[Sequence[Cell | str]], look: Look) -> list[str]:
    """Return a table with one line for each row, cut to the width."""
    return [cut_painted(line, look.width) for line in table(Look(_UNCUT, look.colour, look.glyphs), heads, rows)]


def cut_painted(line: str, width: int) -> str:
    """Cut a painted line to `width` cells; its colours end with it."""
    parts, room = [], width
    for part in _split_escapes(line):
        if part.startswith(_ESCAPE):
            parts.append(part)
        else:
            text = part if cells(part) <= room else shorten(part, room, "")
            parts.append(text)
            room -= cells(text)
    return "".join(parts)


def _split_escapes(line: str) -> list[str]:
    return [part for part in re.split(r"(\x1b\[[0-9;]*m)", line) if part]
