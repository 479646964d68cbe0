"""The markup of a page: what it says without a script, and that no text becomes markup."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest

from labctl.structs import replace
from labctl.timeline.events import (
    HostState,
    InterfaceState,
    Loss,
    NodeInfo,
    RouteState,
    Source,
    Step,
    Timeline,
    Verdict,
)
from labctl.timeline.sinks.html import write
from labctl.topology.model import NodeKind
from tests.timelines import STARTED_NS, Builder, many, tcp_echo

HOSTILE = "</script></style></title><img src=x onerror=alert(1)>\"'&\x1b]0;x\x07\u202e"


def page(timeline: Timeline) -> str:
    file = io.BytesIO()
    write(timeline, file)
    return file.getvalue().decode()


class Reader(HTMLParser):
    """The text that a browser shows without running scripts, and the tags."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data + " "


def failed() -> Timeline:
    b = Builder()
    b.step(0, "1", "client", "connect to a closed port", 100)
    step = b.events.pop()
    assert isinstance(step, Step)
    b.events.append(replace(step, outcome="failed", reason="expected 0, got ECONNREFUSED"))
    b.call(10, 20, "client", "connect", "3, {AF_INET, 10.0.0.2:81}, 16", -1, errno="ECONNREFUSED", step="1")
    explanation = ("SYN reached server; server answered RST.", "Nothing listens on 81.")
    verdict = Verdict("failed", "step 1: connect failed", explanation, "labctl run a.yaml --seed 5")
    return b.timeline(verdict=verdict)


def test_a_failure_comes_first_with_explanation_and_the_command_that_repeats_it() -> None:
    source = page(failed())
    text = Reader(source).text
    order = [
        *("failed", "step 1: connect failed", "SYN reached server", "Nothing listens on 81."),
        *("labctl run a.yaml --seed 5", "Timeline", "Steps"),
    ]
    found = [text.index(each) for each in order]
    assert found == sorted(found)
    assert '<button id="failed-event" data-event="1">' in source


def test_steps_with_verdicts_output_losses_and_what_is_missing_are_text() -> None:
    b = Builder()
    b.step(0, "1", "server", "the server prints", 1500)
    b.output(10, "server", b"hello\n")
    b.output(20, "server", b"world\n")
    loss = Loss(Source.PACKETS, 120, host="server", why="ring of 1 MiB was full")
    more: dict[str, Any] = {"losses": (loss,), "environment": (("kernel", "6.1.0"),)}
    missing = ("drop reasons: not root",)
    state = HostState(
        1, "server", (InterfaceState("eth0", True, False, 1500),), (RouteState("0.0.0.0/0", "default via 10.0.0.1"),)
    )
    text = Reader(page(b.timeline(**more, missing=missing, states=(state,)))).text
    for wanted in (
        "the server prints", "passed", "hello\nworld\n", "120 packets of server lost: ring of 1 MiB was full",
        "drop reasons: not root", "6.1.0", "eth0: up, no carrier, mtu 1500", "default via 10.0.0.1",
    ):  # fmt: skip
        assert wanted in text


def test_no_text_becomes_markup() -> None:
    b = Builder()
    b.step(0, "1", HOSTILE, HOSTILE, 1)
    b.output(10, HOSTILE, HOSTILE.encode() + b"\xff\xfe")
    b.call(20, 30, HOSTILE, HOSTILE, HOSTILE, 0, errno=HOSTILE, value=HOSTILE)
    harmless = b.timeline()
    hostile = b.timeline(
        title=HOSTILE,
        file=HOSTILE,
        hosts=(HOSTILE,),
        nodes=(NodeInfo(HOSTILE, NodeKind.HOST, (HOSTILE,)),),
        verdict=Verdict("failed", HOSTILE, (HOSTILE,), HOSTILE),
        missing=(HOSTILE,),
        environment=((HOSTILE, HOSTILE),),
        losses=(Loss(Source.PACKETS, 1, HOSTILE, HOSTILE, why=HOSTILE),),
        states=(HostState(1, HOSTILE, (), (RouteState(HOSTILE, HOSTILE),)),),
    )
    reader = Reader(page(hostile))
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    scripts = [attributes for tag, attributes in reader.tags if tag == "script"]
    assert len(scripts) == len([tag for tag, _ in Reader(page(harmless)).tags if tag == "script"])
    assert {attributes.get("type") for attributes in scripts} == {"application/octet-stream", None}
    assert not {name for _, attributes in reader.tags for name in attributes if name.startswith("on")}
    assert "<img src=x onerror=alert(1)>" in reader.text
    assert "\x1b" not in page(hostile)


def test_the_policy_allows_the_script_and_the_style_of_the_page_and_nothing_else() -> None:
    source = page(tcp_echo())
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', source)
    script = source[source.rindex("<script>") + 8 : source.rindex("</script>")]
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert style is not None
    assert policy.startswith("default-src 'none'; ")
    for kind, text in (("script", script), ("style", style[1])):
        assert f"{kind}-src 'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy


def test_a_page_names_no_other_file_and_no_address() -> None:
    tags = Reader(page(failed())).tags
    assert not [(tag, name) for tag, attributes in tags for name in attributes if name in ("src", "href", "style")]


@pytest.mark.parametrize("events", [0, 20, 2000])
def test_a_timeline_of_any_size_has_a_page(events: int) -> None:
    assert page(many(events)).endswith("</html>\n")


def test_long_output_is_cut_at_its_beginning_and_says_so() -> None:
    b = Builder()
    b.output(10, "server", b"first" + b"x" * 300_000 + b"last")
    text = Reader(page(b.timeline())).text
    assert "bytes are left out" in text
    assert "last" in text
    assert "first" not in text.replace("the first", "")


def test_the_failing_step_without_calls_is_the_event_to_show() -> None:
    timeline = failed()
    steps = tuple(event for event in timeline.events if isinstance(event, Step))
    assert 'id="failed-event" data-event="0"' in page(replace(timeline, events=steps))
    assert steps[0].at_ns == STARTED_NS
