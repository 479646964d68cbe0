"""The screen of `labctl top`: every panel, rates from two samples, rows that fit, the selected row."""

from __future__ import annotations

import pytest

from labctl.cli.network import Cable
from labctl.cli.top_view import HELP, LinkSample, Panel, Sample, Ui, cut_painted, rate, screen, share
from labctl.lab.description import ProcessInfo, ProcessState
from labctl.observe.network import Traffic
from labctl.plan.operations import LinkEnd
from labctl.report.terminal import ASCII, Look
from labctl.structs import replace

CABLE = Cable(LinkEnd("client", "eth0", "", 1500), LinkEnd("server", "eth0", "", 1500))
NONE = Traffic(0, 0, 0, 0, 0, 0)
SAMPLE = Sample(
    at_s=10.0,
    name="pair",
    started_at=0.0,
    nodes=(("client", "host", ("10.0.0.1",)), ("server", "host", ("10.0.0.2",))),
    links=(LinkSample(CABLE, is_up=True, near=NONE, far=NONE),),
    programs=(ProcessInfo("server", "web", 2, ("python3",), 0.0, ProcessState.RUNNING),),
)


def shown(sample: Sample = SAMPLE, ui: Ui | None = None, *, rows: int = 30, before: Sample | None = None) -> list[str]:
    return screen(sample, before, ui or Ui(), ["a line"], Look(80), rows)


def test_the_screen_has_as_many_rows_as_the_terminal_and_none_is_wider() -> None:
    many = replace(SAMPLE, nodes=tuple((f"h{number}", "host", ("10.0.0.1",) * 20) for number in range(1000)))
    for rows in (5, 10, 24, 60):
        for sample in (SAMPLE, many):
            lines = shown(sample, rows=rows)
            assert len(lines) == rows
            assert max(map(len, lines)) <= 80


def test_rates_and_losses_are_those_between_two_samples() -> None:
    now = replace(
        SAMPLE,
        at_s=12.0,
        links=(
            LinkSample(CABLE, is_up=True, near=Traffic(200, 250_000, 0, 0, 3, 0), far=Traffic(10, 250, 0, 0, 0, 1)),
        ),
    )
    (line,) = (line for line in shown(now, before=SAMPLE) if "server:eth0" in line)
    assert "1.0 Mbit/s 100/s" in line
    assert "1.0 kbit/s 5/s" in line
    assert line.rstrip().endswith("4")


def test_a_cut_link_is_down() -> None:
    down = replace(SAMPLE, links=(LinkSample(CABLE, is_up=False),))
    assert any("down" in line for line in shown(down))


def test_the_selected_row_of_the_focused_panel_is_marked_and_stays_in_sight() -> None:
    many = replace(SAMPLE, nodes=tuple((f"h{number}", "host", ()) for number in range(1000)))
    ui = Ui(focus=Panel.NODES, selected={Panel.NODES: 700})
    lines = shown(many, ui)
    assert any(line.startswith(">h700 ") for line in lines)
    (title,) = (line for line in lines if line.startswith("> NODES"))
    first, last = (int(each) for each in title.split()[2:5:2])
    assert first <= 701 <= last
    assert title.endswith("of 1000")


def test_the_time_between_samples_is_shown_if_it_is_long() -> None:
    assert "every" not in shown()[0]
    assert shown(ui=Ui(interval_s=8.2))[0].endswith("  every 8 s")


def test_the_log_shows_its_end() -> None:
    lines = screen(SAMPLE, None, Ui(log_of="server/web"), [f"line {n}" for n in range(500)], Look(80), 30)
    assert "  LOG  server/web" in lines
    assert "line 499" in lines


def test_the_help_lists_every_key() -> None:
    lines = shown(ui=Ui(shows_help=True))
    assert [line for line in HELP if line not in lines] == []


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert "\n".join(screen(SAMPLE, None, Ui(), [], Look(80, glyphs=ASCII), 30)).isascii()


@pytest.mark.parametrize(
    ("bits_s", "text"), [(0, "0"), (850, "850 bit/s"), (1_200_000, "1.2 Mbit/s"), (3e9, "3.0 Gbit/s")]
)
def test_a_rate_has_a_unit(bits_s: float, text: str) -> None:
    assert rate(bits_s) == text


def test_small_panels_leave_their_rows_to_large_ones() -> None:
    nodes, links = Panel.NODES, Panel.LINKS
    assert share({nodes: 3, links: 100}, 20, nodes) == {nodes: 3, links: 17}
    assert share({nodes: 100, links: 100}, 20, Panel.LOG) == {nodes: 10, links: 10}
    assert share({nodes: 100, links: 100}, 20, links) == {nodes: 8, links: 12}
    assert share({nodes: 9, links: 100, Panel.SOCKETS: 100}, 21, nodes) == {nodes: 9, links: 6, Panel.SOCKETS: 6}


def test_a_painted_line_is_cut_by_what_people_see() -> None:
    assert cut_painted("\x1b[1mabcdef\x1b[0mgh", 7) == "\x1b[1mabcdef\x1b[0mg"
    assert cut_painted("\x1b[1mabcdef\x1b[0mgh", 3) == "\x1b[1mabc\x1b[0m"
