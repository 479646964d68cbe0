""""""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import pytest

from labctl.timeline.events import Timeline, Verdict
from labctl.timeline.sinks import svg
from tests import timelines
from tests.timelines import Builder

SVG = "{http://www.w3.org/2000/svg}"


def document(timeline: Timeline) -> ElementTree.Element:
    file = io.BytesIO()
    svg.write(timeline, file)
    return ElementTree.fromstring(file.getvalue())


def texts(timeline: Timeline) -> list[str]:
    return [text.text or "" for text in document(timeline).iter(f"{SVG}text")]


def test_it_has_every_call_packet_state_and_step() -> None:
    shown = texts(timelines.tcp_echo())
    assert "connect(3, 10.0.0.2:5000)" in shown
    assert "… accept → 4 10.0.0.1:43768" in shown
    assert "SYN ACK seq 0 ack 1" in shown
    assert "LISTEN" in shown
    assert "the client connects and sends first" in shown
    assert shown[-1] == "✓ passed"


def test_an_arrow_has_all_numbers_in_its_title_and_the_document_a_description() -> None:
    root = document(timelines.tcp_echo())
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert titles[0] == "A TCP server and a client on two hosts"
    assert 'client to server: PSH ACK seq 1 ack 1, 5 bytes "hello"' in titles
    described = root.findtext(f"{SVG}desc")
    assert described is not None
    assert described.startswith("A ladder of client and server. the server binds its socket")


@pytest.mark.parametrize(
    "timeline",
    [timelines.tcp_echo(), timelines.full_queue(), timelines.datagrams(), timelines.bulk(), timelines.several(19)],
    ids=repr,
)
def test_nothing_is_drawn_outside_the_picture(timeline: Timeline) -> None:
    root = document(timeline)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for line in root.iter(f"{SVG}line"):
        assert all(0 <= float(line.attrib[each]) <= width for each in ("x1", "x2"))
        assert all(0 <= float(line.attrib[each]) <= height for each in ("y1", "y2"))
    for text in root.iter(f"{SVG}text"):
        assert float(text.attrib["y"]) <= height
        assert float(text.attrib["x"]) + float(text.attrib.get("textLength", 0)) <= width + 1


def test_a_drop_is_a_cross_and_a_retransmission_a_dashed_line() -> None:
    root = document(timelines.full_queue())
    classes = [each.attrib.get("class", "") for each in root.iter()]
    assert classes.count("cross") == 2
    assert classes.count("arrow bad again") + classes.count("arrow odd again") == 2


def test_it_needs_nothing_else_and_follows_light_and_dark() -> None:
    file = io.BytesIO()
    svg.write(timelines.tcp_echo(), file)
    text = file.getvalue().decode()
    assert re.findall(r"(?:href|src|url\(|@import|<script)", text) == []
    assert "prefers-color-scheme:dark" in text


def test_text_of_programs_is_text() -> None:
    b = Builder()
    b.call(0, 10, "client", "send", '3, "</text><script>alert(1)</script>\x1b", 5, 0', 5)
    timeline = b.timeline("<b>&\x00", verdict=Verdict("failed", "<i>"))
    root = document(timeline)
    assert [element.tag for element in root.iter() if element.tag.endswith(("script", "b", "i"))] == []
    assert any("<script>" in text for text in texts(timeline))


def test_an_empty_timeline_is_a_picture_with_a_title() -> None:
    assert texts(Builder().timeline("Nothing", verdict=None)) == ["Nothing"]
