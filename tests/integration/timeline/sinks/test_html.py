"""The page of a timeline in a real browser: no request, quick, by keyboard, readable aloud, printed in full."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labctl.structs import replace
from labctl.timeline.events import Drop, Header, Mark, Packet, SocketKey, SocketSample, Source, Step, Timeline, Verdict
from labctl.timeline.sinks.html import write
from tests.chromium import Page, chromium
from tests.skips import needs_programs
from tests.timelines import STARTED_NS, Builder, many, tcp_echo

READY = "document.documentElement.dataset.ready || document.documentElement.dataset.failed"
FOCUS = "document.getElementById('ladder').focus()"
SELECTED = "document.querySelector('#rows [aria-selected=true]')?.getAttribute('aria-label') ?? ''"
FRAMES = 30
ROWS = "[...document.querySelectorAll('#rows .row')].map((row) => row.getAttribute('aria-label'))"
STATUS = "document.getElementById('status').textContent"
DETAILS = "document.getElementById('details').innerText"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


def show(browser: Page, timeline: Timeline, directory: Path, **more: Any) -> None:
    path = directory / "page.html"
    with path.open("wb") as file:
        write(timeline, file)
    browser.requests.clear()
    browser.problems.clear()
    browser.open(path, **more)
    browser.wait_for(READY)
    assert browser.run("document.documentElement.dataset.failed") is None


def refused() -> Timeline:
    """A refused connection, after which a program prints markup."""
    b = Builder()
    key = SocketKey("client", inode=7, flow=b.flow)
    b.step(0, "1", "server", "the server does not listen", 900)
    b.call(100, 120, "server", "socket", "AF_INET, SOCK_STREAM, 0", 3)
    b.step(1000, "2", "client", "the client connects", 2000)
    step = b.events.pop()
    assert isinstance(step, Step)
    b.events.append(replace(step, outcome="failed", reason="expected 0"))
    more: dict[str, Any] = {"errno": "ECONNREFUSED", "fd": 3, "socket": key, "step": "2"}
    b.call(1100, 1190, "client", "connect", "3, {AF_INET, 10.0.0.2:5000}, 16", -1, **more)
    b.packet(1110, "client", "SYN", 0, 0)
    b.packet(1130, "server", "RST ACK", 0, 1)
    b.output(1500, "client", b"</script><img src=x onerror=document.title='injected'>")
    b.events.append(Mark(at_ns=STARTED_NS + 400_000_000, host="", source=Source.MARKS, seq=0, text="<b>the end</b>"))
    return b.timeline(
        verdict=Verdict("failed", "step 2: connect failed", ("Nothing listens on 5000.",), "labctl run x")
    )


def test_a_page_asks_for_nothing_and_reports_no_problem(browser: Page, tmp_path: Path) -> None:
    show(browser, refused(), tmp_path)
    assert browser.requests == [(tmp_path / "page.html").as_uri()]
    assert browser.problems == []


def test_text_of_programs_and_names_does_not_become_markup(browser: Page, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=document.title='injected'>"
    show(browser, replace(refused(), title=hostile, hosts=("client", "server", hostile)), tmp_path)
    assert browser.run("document.title") == hostile
    assert browser.run("document.querySelectorAll('img, main script, b b').length") == 0
    assert hostile in " ".join(
        browser.run("[...document.querySelectorAll('#heads text')].map((each) => each.textContent)")
    )
    assert any(hostile[:20] in row for row in browser.run(ROWS))


def test_the_ladder_has_a_row_for_each_event_in_order(browser: Page, tmp_path: Path) -> None:
    show(browser, tcp_echo(), tmp_path)
    rows = browser.run(ROWS)
    assert [row.split(", ", 2)[1:] for row in rows[10:14]] == [
        ["client", "CLOSE \u2192 SYN_SENT"],
        ["client to server", "SYN  seq 0"],
        ["server to client", "SYN\u00b7ACK  seq 0  ack 1"],
        ["client", "SYN_SENT \u2192 ESTABLISHED"],
    ]
    moments = [float(row.split(" ms")[0]) for row in rows]
    assert moments == sorted(moments)
    assert browser.run(STATUS) == f"{len(rows)} rows, 0.000 to 5.340 ms"


def test_a_failure_is_selected_with_its_details_at_first(browser: Page, tmp_path: Path) -> None:
    show(browser, refused(), tmp_path)
    assert browser.run(SELECTED).startswith("1.100 ms, client, connect(3, {AF_INET, 10.0.0.2:5000}, 16)")
    details = browser.run(DETAILS)
    assert "ECONNREFUSED" in details
    assert "90 us" in details


def test_keys_move_select_and_show_the_whole_packet(browser: Page, tmp_path: Path) -> None:
    show(browser, tcp_echo(), tmp_path)
    browser.run(FOCUS)
    browser.press("ArrowDown", "ArrowDown")
    assert "socket(AF_INET" in browser.run(SELECTED)
    browser.press("ArrowUp")
    assert browser.run(SELECTED).startswith("0.000 ms, step")
    browser.press("End", "ArrowUp")
    assert "ACK  ack 7" in browser.run(SELECTED)
    browser.wait_for("document.querySelector('#details .bytes').textContent.length > 0")
    assert "0000  00 00 00" in browser.run(DETAILS)
    assert browser.run("document.getElementById('ladder').getAttribute('aria-activedescendant')").startswith("row-")
    browser.press("Home", "Escape")
    assert browser.run(SELECTED) == ""


def test_the_bytes_of_a_packet_are_those_of_its_frame(browser: Page, tmp_path: Path) -> None:
    b = Builder()
    for number in range(400):  # more than one chunk of the stream of bytes
        b.packet(number * 10, "client", "PSH ACK", number, 1, frame=bytes([number % 256]) * 1000)
    show(browser, b.timeline(), tmp_path)
    browser.run(FOCUS)
    browser.press("End")
    browser.wait_for("document.querySelector('#details .bytes')?.textContent.length > 0")
    lines = browser.run("document.querySelector('#details .bytes').textContent").splitlines()
    assert len(lines) == -(-1000 // 8)
    assert set(re.findall(r" ([0-9a-f]{2})(?= )", " ".join(lines))) == {f"{399 % 256:02x}"}


def test_search_marks_counts_and_goes_through_the_matches(browser: Page, tmp_path: Path) -> None:
    show(browser, tcp_echo(), tmp_path)
    browser.run(FOCUS)
    browser.press("/", *"fin_wait")
    browser.wait_for("document.getElementById('found').textContent === '2 matches'")
    assert browser.run("document.querySelectorAll('#rows g.hit').length") == 2
    browser.press("Enter")
    assert "ESTABLISHED \u2192 FIN_WAIT1" in browser.run(SELECTED)
    browser.press("Enter")
    assert "FIN_WAIT1 \u2192 FIN_WAIT2" in browser.run(SELECTED)
    browser.run("document.getElementById('only-found').click()")
    assert browser.run(STATUS).startswith("2 rows")


def test_a_connection_is_followed_alone(browser: Page, tmp_path: Path) -> None:
    show(browser, many(400), tmp_path)
    browser.run(FOCUS)
    browser.press("ArrowDown", "ArrowDown", "f")  # the first state change, whose socket is known
    rows = browser.run(ROWS)
    assert browser.run(STATUS).startswith(f"{len(rows)} rows")
    assert 10 <= len(rows) <= 20
    browser.press("Escape")
    assert not browser.run(STATUS).startswith(f"{len(rows)} rows")


def test_a_click_selects_and_dims_other_connections(browser: Page, tmp_path: Path) -> None:
    show(browser, many(400), tmp_path)
    x, y, _, height = browser.place("#row-2")
    browser.click(x + 300, y + height / 2)
    assert "SYN  seq 0" in browser.run(SELECTED)
    assert browser.run("document.querySelectorAll('#rows g.same').length") >= 5
    assert browser.run("document.querySelectorAll('#rows .apart').length") >= 20


def test_pointing_at_a_row_shows_it_and_leaving_shows_the_selected_one(browser: Page, tmp_path: Path) -> None:
    show(browser, tcp_echo(), tmp_path)
    x, y, _, height = browser.place("#row-10")
    browser.move(x + 300, y + height / 2)
    assert "CLOSE" in browser.run(DETAILS)
    browser.move(2, 2)
    assert "Keys" in browser.run(DETAILS)


def test_filters_leave_out_kinds_and_join_calls_without_anything_between(browser: Page, tmp_path: Path) -> None:
    show(browser, tcp_echo(), tmp_path)
    for kind in ("packets", "kernel", "queues", "steps"):
        browser.run(f"document.querySelector('#filters [value={kind}]').click()")
    assert [row.split(", ")[2].split("(")[0] for row in browser.run(ROWS)][:4] == ["socket", "bind", "listen", "accept"]
    assert "16 bytes" not in browser.run(STATUS)
    assert "listen(3, 5), \u2192 0" in browser.run(ROWS)[2]


def test_address_resolution_is_shown_on_request(browser: Page, tmp_path: Path) -> None:
    b = Builder()
    b.packet(10, "client", "", 0, 0)
    packet = b.events.pop()
    assert isinstance(packet, Packet)
    header = Header("arp", summary="who has 10.0.0.2, tell 10.0.0.1")
    b.events.append(replace(packet, header=header, relative_seq=None))
    b.packet(20, "client", "SYN", 0, 0)
    show(browser, b.timeline(), tmp_path)
    assert len(browser.run(ROWS)) == 1
    browser.run("document.querySelector('#filters [value=upkeep]').click()")
    assert browser.run(ROWS)[0].endswith("client to server, ARP who has 10.0.0.2, tell 10.0.0.1")


def test_a_dropped_packet_ends_in_a_cross_and_the_reason_stands_at_its_host(browser: Page, tmp_path: Path) -> None:
    b = Builder()
    b.packet(10, "client", "SYN", 0, 0)
    packet = b.events[-1]
    assert isinstance(packet, Packet)
    drop = Drop(
        at_ns=packet.at_ns + 5000,
        host="server",
        source=Source.KERNEL,
        seq=0,
        reason="NETFILTER_DROP",
        hook="input",
        header=packet.header,
        packet=packet.journey,
    )
    b.events.append(drop)
    b.packet(30, "client", "SYN", 0, 0)
    show(browser, b.timeline(), tmp_path)
    tips = browser.run("[...document.querySelectorAll('#rows .wire')].map((each) => each.getAttribute('marker-end'))")
    assert tips == ["url(#cross)", "url(#tip)"]
    assert "server, \u2715 dropped: NETFILTER_DROP at input" in browser.run(ROWS)[1]


def test_zoom_leaves_the_events_of_the_range(browser: Page, tmp_path: Path) -> None:
    show(browser, tcp_echo(), tmp_path)
    browser.run(FOCUS)
    browser.press("End", "+", "+", "+")
    assert browser.run(STATUS).endswith("to 5.340 ms")
    assert len(browser.run(ROWS)) < 10
    browser.press("0")
    assert len(browser.run(ROWS)) > 40


def test_plots_show_queues_and_throughput(browser: Page, tmp_path: Path) -> None:
    b = Builder()
    for number in range(50):
        b.packet(number * 100, "client", "PSH ACK", number * 1000, 1, bytes(1000))
        b.events.append(
            SocketSample(
                at_ns=STARTED_NS + number * 100_000,
                host="client",
                source=Source.SOCKETS,
                seq=number,
                socket=SocketKey("client", inode=5, flow=b.flow),
                state="ESTABLISHED",
                receive_queue=0,
                send_queue=number * 10,
                congestion_window=10 + number,
                rtt_us=50,
            )
        )
    b.listener(60, 2, 5)
    show(browser, b.timeline(), tmp_path)
    titles = browser.run("[...document.querySelectorAll('#plots figcaption b')].map((each) => each.textContent)")
    assert titles == ["Throughput on the wire", "Accept queue", "Send queue", "Congestion window", "Round-trip time"]
    labels = browser.run(
        "[...document.querySelectorAll('#plots svg.plot')].map((each) => each.getAttribute('aria-label'))"
    )
    assert labels[2] == "Send queue: at most 490 B; client 10.0.0.1:43768 \u2192 10.0.0.2:5000"
    browser.run("document.querySelector('#plots').scrollIntoView()")
    x, y, width, height = browser.place("#plots svg")
    browser.move(x + width - 17, y + height / 2)
    readings = browser.run("[...document.querySelectorAll('#plots output')].map((each) => each.textContent.trim())")
    assert "490 B" in readings
    assert "59 segments" in readings


def test_a_packet_over_a_router_that_has_no_column_is_one_arrow(browser: Page, tmp_path: Path) -> None:
    b = Builder()
    b.packet(10, "client", "SYN", 0, 0, receiver="gw", journey=1)
    b.packet(20, "client", "SYN", 0, 0, journey=1)
    hop = b.events.pop()
    assert isinstance(hop, Packet)
    b.events.append(replace(hop, host="gw", receiver="server"))
    show(browser, b.timeline(), tmp_path)
    assert [row.split(", ")[1] for row in browser.run(ROWS)] == ["client to server"]
    browser.run(FOCUS)
    browser.press("ArrowDown")
    details = browser.run(DETAILS)
    assert "client:eth0 \u2192 gw:eth0" in details
    assert "gw:eth0 \u2192 server:eth0" in details


def test_silences_are_folded_and_calls_in_progress_are_shown_as_such(browser: Page, tmp_path: Path) -> None:
    b = Builder()
    b.call(10, None, "server", "accept", "3, 0x0, 0x0", None)
    b.packet(1_200_010, "client", "SYN", 0, 0)
    show(browser, b.timeline(), tmp_path)
    rows = browser.run(ROWS)
    assert "has not returned" in rows[0]
    assert rows[1] == "1.20 s of silence"
    assert len(rows) == 3


def test_screen_readers_get_names_roles_and_headings(browser: Page, tmp_path: Path) -> None:
    show(browser, refused(), tmp_path)
    nodes = [node for node in browser.accessible() if not node.get("ignored")]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes}
    roles = {role for role, _ in named}
    assert ("listbox", "Events in the order of time, hosts: client, server") in named
    assert {"heading", "option", "button", "searchbox", "checkbox", "table", "complementary"} <= roles
    assert any(role in ("image", "img") and name.startswith("2 hosts. client to server") for role, name in named)
    assert any(role == "option" and name.startswith("1.110 ms, client to server, SYN") for role, name in named)
    kinds = ("button", "checkbox", "searchbox", "option")
    unnamed = [node for node in nodes if node["role"]["value"] in kinds and not node["name"]["value"]]
    assert unnamed == []


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_contrasts_with_its_ground(browser: Page, tmp_path: Path, dark: bool) -> None:
    show(browser, refused(), tmp_path, dark=dark)
    browser.run(FOCUS)
    browser.press("Escape")
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) < 0.05) == dark
    colours = browser.run(
        "[...new Set([...document.querySelectorAll('#rows text')].map((each) => getComputedStyle(each).fill).concat("
        "[...document.querySelectorAll('h1, p, dt, dd, td, summary')].map((each) => getComputedStyle(each).color)))]"
    )
    assert len(colours) >= 5
    for colour in colours:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def test_a_narrow_page_does_not_scroll_sideways(browser: Page, tmp_path: Path) -> None:
    show(browser, refused(), tmp_path, width=390, height=800)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")


@needs_programs("pdftotext")
def test_all_rows_are_printed(browser: Page, tmp_path: Path) -> None:
    show(browser, many(2000), tmp_path)
    (tmp_path / "page.pdf").write_bytes(browser.pdf())
    text = subprocess.run(["pdftotext", tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True).stdout
    assert text.count("SYN\u00b7ACK") == 100
    assert text.count("FIN\u00b7ACK") == 200
    assert browser.run("document.getElementById('printed').childElementCount") == 0  # only while it is printed


@pytest.mark.alone
def test_a_hundred_thousand_events_are_ready_in_a_second_and_scroll_without_long_frames(
    browser: Page, tmp_path: Path
) -> None:
    timeline = many(105_000)
    assert len(timeline.events) >= 99_000
    # The aims on a machine of 2026 are 1,000 ms and 50 ms. Other programs run, and a processor may be taken away.
    assert min(_ready_ms(browser, timeline, tmp_path) for _ in range(3)) < 5000
    assert len(browser.run(ROWS)) < 300  # of the ladder are in the document, wherever it is scrolled to
    assert min(_long_tasks(browser) for _ in range(5)) < FRAMES / 2
    assert len(browser.run(ROWS)) < 300


def _ready_ms(browser: Page, timeline: Timeline, directory: Path) -> float:
    show(browser, timeline, directory)
    return float(browser.run("document.documentElement.dataset.ready"))


def _long_tasks(browser: Page) -> int:
    """The number of tasks of the page above 100 ms while it scrolls up and down for FRAMES frames."""
    tasks: int = browser.run(
        """(async (frames) => {
            const ladder = document.getElementById('ladder'), tasks = [];
            const note = (list) => tasks.push(...list.getEntries().map((each) => each.duration));
            const observer = new PerformanceObserver(note);
            observer.observe({ type: 'longtask' });
            for (let turn = 0; turn < frames; turn++) {
                ladder.scrollTop = turn % 2 ? turn * 337 : Math.random() * ladder.scrollHeight;
                await new Promise(requestAnimationFrame);
            }
            await new Promise((done) => setTimeout(done, 100));
            observer.disconnect();
            return tasks.filter((each) => each > 100).length;
        })"""
        f"({FRAMES})"
    )
    return tasks
