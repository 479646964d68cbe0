""""""

from __future__ import annotations

import re

import pytest

from labctl.report import ladder
from labctl.report.terminal import ASCII, Look, cells
from labctl.scenario.results import Outcome
from labctl.scenario.timeline_events import timeline_of
from labctl.timeline.events import Timeline
from labctl.timeline.fold import speaking_hosts
from tests import timelines
from tests.unit.report.samples import ECHO, FAILED, call, scenario, step

NARROW, WIDE = Look(80), Look(200)
ALL = {
    "echo": timelines.tcp_echo(),
    "refused": timelines.refused(),
    "full queue": timelines.full_queue(),
    "datagrams": timelines.datagrams(),
    "bulk": timelines.bulk(),
    "3 hosts": timelines.several(2),
    "8 hosts": timelines.several(7),
    "20 hosts": timelines.several(19),
    "result": timeline_of(ECHO),
    "failed result": timeline_of(FAILED),
}
ECHO_AT_80 = """\
   ms client 10.0.0.1                      server 10.0.0.2
── the server binds its socket and waits for a client ──────────────────────────
 0.10 │                                    │ socket(AF_INET, SOCK_STREAM) → 3
 1.00 │                                    │ bind(3, 10.0.0.2:5000) → 0
 1.20 │                                    │ listen(3, 5) → 0  LISTEN
 1.40 │                                    │ accept(3, …) blocks
── the client connects and sends first ─────────────────────────────────────────
 1.90 │ socket(AF_INET, SOCK_STREAM) → 3   │
 2.50 │ connect(3, 10.0.0.2:5000) ─ SYN ──►│
 2.53 │ ESTABLISHED ◄ SYN ACK seq 0 ack 1 ─┤
 2.55 │ … connect → 0 ─ ACK seq 1 ack 1 ──►│ … accept → 4 10.0.0.1:43768
 2.90 │ getsockname(3, 10.0.0.1:43768) → 0 │
 3.30 │ send(3, "hello", 5) → 5 ─ 5 bytes ►│
── accept returns a new descriptor and the client's address; the server echoes ─
 3.80 │                                    │ recv(4, "hello", 100) → 5
 4.10 │◄───── 5 bytes "hello" seq 1 ack 6 ─┤ send(4, "hello", 5) → 5
── the client reads the echo and closes ────────────────────────────────────────
 4.50 │ recv(3, "hello", 100) → 5          │
 4.80 │ close(3) → 0  FIN_WAIT1 ─ FIN ACK ►│ CLOSE_WAIT
── the server reads end of file ────────────────────────────────────────────────
 5.10 │                                    │ recv(4, "", 100) → 0
 5.30 │◄───────────── FIN ACK seq 6 ack 7 ─┤ close(4) → 0  LAST_ACK  CLOSE
"""


def render(timeline: Timeline, look: Look) -> list[str]:
    return ladder.conversation(timeline, look) + ladder.endings(timeline, look)


def drawn(timeline: Timeline, look: Look = NARROW) -> str:
    return "\n".join(render(timeline, look))


def of_steps(*steps: object, look: Look = NARROW, **more: object) -> str:
    return "\n".join(ladder.conversation(timeline_of(scenario(*steps, **more)), look))  # type: ignore[arg-type]


def test_the_whole_conversation_of_an_echo_is_22_lines_of_80_columns() -> None:
    assert render(timelines.tcp_echo(), NARROW) == ECHO_AT_80.rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [40, 60, 80, 132, 250])
@pytest.mark.parametrize("glyphs", [Look().glyphs, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize("timeline", ALL.values(), ids=ALL)
def test_no_line_is_wider_than_the_screen(timeline: Timeline, glyphs: object, width: int) -> None:
    lines = render(timeline, Look(width, glyphs=glyphs))  # type: ignore[arg-type]
    assert [line for line in lines if cells(line) > width] == []


@pytest.mark.parametrize("timeline", ALL.values(), ids=ALL)
def test_ascii_glyphs_give_ascii_only(timeline: Timeline) -> None:
    assert drawn(timeline, Look(80, glyphs=ASCII)).isascii()


@pytest.mark.parametrize("look", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("timeline", ALL.values(), ids=ALL)
def test_colour_changes_nothing_but_colour(timeline: Timeline, look: Look) -> None:
    painted = drawn(timeline, Look(look.width, colour=True))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", painted)
    assert [line.rstrip() for line in plain.split("\n")] == drawn(timeline, look).split("\n")


@pytest.mark.parametrize("timeline", ALL.values(), ids=ALL)
def test_events_fed_one_by_one_give_every_call_packet_and_step_of_the_whole(timeline: Timeline) -> None:
    live = ladder.LiveLadder(WIDE, speaking_hosts(timeline), timeline.nodes, timeline.started_ns)
    lines = [line for event in timeline.events for line in live.feed((event,), event.at_ns - 1)]
    lines += live.finish()
    assert sorted(re.findall(r"[\w:]+\(|SYN|FIN|✓|✗", "\n".join(lines))) == sorted(
        re.findall(r"[\w:]+\(|SYN|FIN|✓|✗", "\n".join(ladder.conversation(timeline, WIDE)))
    )


def test_a_line_lags_at_most_50_ms_behind_what_is_complete() -> None:
    timeline = timelines.tcp_echo()
    live = ladder.LiveLadder(NARROW, timeline.hosts, timeline.nodes, timeline.started_ns)
    last_ns = timeline.events[-1].at_ns
    lines = live.feed(timeline.events, last_ns + 50_000_000)
    assert lines == ladder.conversation(timeline, NARROW)
    assert live.finish() == []


def test_a_wide_screen_shows_every_packet_with_its_numbers_and_calls_in_full() -> None:
    shown = drawn(timelines.tcp_echo(), WIDE)
    assert "connect(3, {AF_INET, 10.0.0.2:5000}, 16)  SYN_SENT ─ SYN seq 0 win 64240 ───" in shown
    assert 'PSH ACK seq 1 ack 1, 5 bytes "hello" win 64240' in shown
    assert shown.count("ACK seq 1 ack 6 win 64240 ─┤") == 1


def test_a_refused_connect_shows_the_reason_and_the_rst_beside_errno() -> None:
    assert drawn(timelines.refused()).split("\n")[2:] == [
        " 0.50 │ connect(3, 10.0.0.2:81) ─ SYN ────►│ NO_SOCKET",
        " 0.52 │ … connect → -1 ECONNREFUSED ◄ RST ─┤",
    ]
    assert "ECONNREFUSED (Connection refused)" in drawn(timelines.refused(), WIDE)


def test_a_dropped_packet_ends_in_a_cross_at_the_host_with_the_reason() -> None:
    assert ' 1.81 ├─ UDP 4 bytes "lost" ──────────────►✗ dropped: NETFILTER_DROP at input' in drawn(
        timelines.datagrams()
    )
    assert "►✗ dropped: accept queue full (2 of 1)\n      │                                    │   (inferred)" in drawn(
        timelines.full_queue()
    )


def test_a_packet_that_did_not_arrive_ends_in_a_cross() -> None:
    assert "├─ 50000 bytes ─────────────────────►✗ not seen to arrive" in drawn(timelines.bulk())


def test_retransmissions_are_marked_and_silences_folded() -> None:
    shown = drawn(timelines.full_queue())
    assert "      ┊ … 1.0 s of silence                 ┊\n 1022 ├╌ :40002 SYN retransmitted seq 0 ╌╌►✗" in shown


def test_queue_lengths_stand_beside_the_packet_that_changed_them() -> None:
    shown = drawn(timelines.full_queue())
    assert "─ :40001 ACK ───────►│ ESTABLISHED  2 of 1 in queue" in shown


def test_data_in_one_direction_becomes_one_arrow() -> None:
    assert "├─ 5 packets, 250000 bytes ─────────►│" in drawn(timelines.bulk())


def test_losses_and_what_could_not_be_recorded_stand_at_the_end() -> None:
    assert drawn(timelines.datagrams()).split("\n")[-2:] == [
        "7 packets of server lost: ring of 1 MiB was full",
        "not recorded: drop reasons: not root",
    ]


def test_a_call_that_never_returns_is_marked() -> None:
    assert "│ recv(3, …) … has not returned" in drawn(timelines.datagrams())


def test_more_hosts_than_columns_fit_have_lanes_for_arrows_and_are_named_behind_them() -> None:
    lines = drawn(timelines.several(7)).split("\n")
    assert lines[:6] == [
        "      client-1    client-4    client-7",
        "      │   client-2│   client-5│   server",
        "   ms │   │   client-3│   client-6│",
        " 0.00 ├───┼───┼───┼───┼───┼───┼──►│ client-1: connect(3, 10.0.0.2:5000) ─ SYN",
        " 0.02 │◄──┼───┼───┼───┼───┼───┼───┤ server → client-1: SYN ACK seq 0 ack 1",
        " 0.03 ├───┼───┼───┼───┼───┼───┼──►│ client-1: … connect → 0 ─ ACK seq 1 ack 1",
    ]


def test_what_one_host_does_is_marked_in_its_lane() -> None:
    steps = [step(str(number), call(f"h{number}", "getpid()", 2, number)) for number in range(5)]
    lines = of_steps(*steps, hosts=("h0", "h1", "h2", "h3", "h4")).split("\n")
    assert lines[-1].split() == ["4.00", "│", "│", "│", "│", "●", "h4:", "getpid()", "→", "2"]


def test_more_hosts_than_lanes_fit_are_named_in_front() -> None:
    lines = drawn(timelines.several(19)).split("\n")
    assert lines[:2] == [
        " 0.00 │ client-1: connect(3, 10.0.0.2:5000) ─ SYN seq 0 ─► server",
        " 0.02 │ server ─ SYN ACK seq 0 ack 1 ─► client-1",
    ]


def test_an_arrow_crosses_the_lifelines_between_its_hosts() -> None:
    assert " 0.02 │◄──────────────────────┼─ SYN ACK seq 0 ack 1 ─┤" in drawn(timelines.several(2))


# Without a recording: the calls of a result


def test_hosts_without_calls_have_no_column() -> None:
    said = of_steps(step("1", call("h2", "getpid()", 2, 0)), hosts=("h1", "h2", "h3"))
    assert said.split("\n")[0].split() == ["ms", "h2"]


def test_processes_with_a_name_of_their_own_are_named() -> None:
    said = of_steps(
        step("1", call("server", "getpid()", 2, 0), call("server", "getpid()", 3, 1, process="worker")),
        step("2", call("client", "getpid()", 2, 2, process="only")),
    )
    assert "│ getpid() → 2" in said
    assert "│ worker: getpid() → 3" in said
    assert "│ only: getpid() → 2" in said


def test_calls_of_all_hosts_are_sorted_by_time() -> None:
    said = of_steps(step("1", call("server", "listen(3, 1)", 0, 5)), step("2", call("client", "getpid()", 2, 1)))
    assert said.index("getpid") < said.index("listen")


def test_a_call_that_blocks_does_not_show_beforehand_who_will_come() -> None:
    said = of_steps(
        step("1", call("server", "accept(3, {AF_INET, 10.0.0.1:40}, [16 -> 16])", 4, 1, 9, value="10.0.0.1:40")),
        step("2", call("client", "connect(3, ...)", 0, 2, 8)),
        step("3", call("client", "getpid()", 2, 3)),
        look=WIDE,
    )
    assert "│ accept(3, …) blocks" in said
    assert "│ connect(3, ...) blocks" in said
    assert "… accept → 4 10.0.0.1:40 [9.0 ms]" in said


def test_a_pending_call_recorded_twice_is_shown_once_with_its_return() -> None:
    said = of_steps(
        step("1", call("server", "accept(3, ..., 16)", None, 1, None)),
        step("2", call("client", "connect(3, ...)", 0, 2)),
        step("3", call("server", "accept(3, ..., 16)", 4, 1, 200)),
    )
    assert "has not returned" not in said
    assert said.count("accept(3, …)") == 1
    assert "… accept → 4" in said


def test_a_value_that_the_call_shows_already_is_not_repeated() -> None:
    said = of_steps(step("1", call("server", 'recv(4, "hello", 100, 0)', 5, 1, value='"hello"')))
    assert said.endswith('│ recv(4, "hello", 100) → 5')


def test_the_name_of_a_calls_step_is_a_heading_and_an_unnamed_one_has_none() -> None:
    said = of_steps(
        step("1", call("client", "getpid()", 2, 1), host="client", title="the client asks"),
        step("2", call("client", "getpid()", 2, 2), host="client", title="calls on client"),
    )
    assert "── the client asks ──" in said
    assert "calls on" not in said


def test_steps_around_a_failed_one_do_not_repeat_its_reason() -> None:
    said = of_steps(
        step("1", kind="repeat", title="repeat 2 times", outcome=Outcome.FAILED, reason="round 2 of 2 failed: no"),
        step("1.2.1", kind="expect", title="expect", outcome=Outcome.FAILED, reason="no\nmore", at_ms=1),
    )
    assert said.split("\n")[-2:] == [" 0.00 ├ ✗ repeat 2 times", " 1.00 ├ ✗ expect: no"]


def test_a_failed_calls_step_appears_after_its_calls() -> None:
    said = of_steps(
        step("1", call("client", "getpid()", 2, 1), took_ms=3, outcome=Outcome.FAILED, reason="3 expected"),
    )
    assert said.split("\n")[-1] == " 3.00 ├ ✗ step 1: 3 expected"


def test_a_repeated_call_shows_its_number() -> None:
    said = of_steps(step("1", call("client", "send(3, ...)", 4096, 0, repeated=17)), look=Look(80, glyphs=ASCII))
    assert "-> 4096 (x 17)" in said


def test_control_characters_are_shown_not_obeyed() -> None:
    said = of_steps(step("1", call("client", "send(3, \x1b[2J)", 4, 1, value="a\nb")))
    assert "\x1b" not in said
    assert "send(3, \\x1b[2J) → 4 a\\nb" in said


def test_wide_characters_keep_the_columns_straight() -> None:
    said = of_steps(
        step("1", call("客户", "send(3, 你好)", 6, 1), call("server", "getpid()", 2, 2)), hosts=("客户", "server")
    )
    assert len({cells(line[: line.rindex("│")]) for line in said.split("\n") if "│" in line}) == 1


def test_nothing_happened_gives_nothing() -> None:
    assert of_steps() == ""
