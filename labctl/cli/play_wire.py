"""What crossed the wire after a line of `labctl play`, as a ladder; and why a call failed or does not return."""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl.clock import monotonic_ns
from labctl.errors import LabctlError
from labctl.report.ladder import LiveLadder
from labctl.scenario.timeline_events import TimelineEvents
from labctl.structs import replace
from labctl.timeline.events import AnyEvent, Call, Drop, Mark, NodeInfo, Output, Packet, Reset, Retransmit, State, Step
from labctl.timeline.fold import is_pure_ack
from labctl.timeline.recording import Recording, RecordOptions

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.report.terminal import Look
    from labctl.scenario.live_calls import LiveCall
    from labctl.scenario.results import CallRecord
    from labctl.topology.model import Topology

_OPTIONS = RecordOptions(sample_interval_s=0, limit_bytes=16 << 20)
_PAUSE_MS = 2
_LONGEST_WAIT_NS = 3_000_000_000  # for packets to arrive, which a recording takes for lost before
_LONGEST_WAIT_AT_A_PROMPT_NS = 1_000_000_000  # later packets are shown while the person types
_ROUNDING_NS = 1000  # of times that are seconds in records
_LATER_NS = 1_000_000_000  # after the present: the ladder holds nothing back


class Wire:
    """Records the lab, which it borrows, until `close`. Calls that are added stand in the ladder beside the packets."""

    def __init__(
        self,
        lab: Lab,
        topology: Topology,
        look: Look,
        hosts: Sequence[str],
        *,
        origin_ns: int,
        at_a_prompt: bool = False,
    ) -> None:
        """Start to record. Times of the records of calls count from `origin_ns` (CLOCK_MONOTONIC).

        With `at_a_prompt`, `news` waits only a moment for packets that are on their way.
        """
        self._longest_wait_ns = _LONGEST_WAIT_AT_A_PROMPT_NS if at_a_prompt else _LONGEST_WAIT_NS
        self.is_shown = True
        self.problem = ""  # why nothing is recorded
        self._lab = lab
        self._hosts = tuple(hosts)
        self._nodes = tuple(NodeInfo(node.name, node.kind, tuple(map(str, node.addresses))) for node in topology.nodes)
        self._ladder = LiveLadder(look, self._hosts, self._nodes, origin_ns)
        self.origin_ns = origin_ns
        self._count = 0
        self._events: TimelineEvents | None = None
        self.recording: Recording | None = None
        try:
            self.recording = Recording.start(lab, _OPTIONS, title="labctl play", plan=lab.describe().plan)
        except LabctlError as error:
            self.problem = str(error)
        else:
            self._events = TimelineEvents(self.recording.add, origin_ns)

    def close(self) -> None:
        """End the recording."""
        if self.recording is not None:
            self.recording.close()

    def wait_ready(self) -> None:
        """Wait until packets are recorded."""
        if self.recording is not None:
            self.recording.wait_ready()

    def add(self, call: LiveCall) -> None:
        """Add a call that was executed, or has returned."""
        if self._events is not None and call.record is not None:
            self._count += 1
            self._events.add_call(str(self._count), call.record)

    def news(self, since_ns: int) -> list[str]:
        """Return the ladder of what has happened since the last call; times count from `since_ns`.

        It is empty if only calls happened, and no packet crossed a wire but acknowledgements and address resolution.
        """
        if self.recording is None:
            return []
        events = [event for event in self._read(self.recording) if not _is_shown_elsewhere(event)]
        self._ladder.begin_part(since_ns)
        lines = self._ladder.feed(events, monotonic_ns() + _LATER_NS)
        return lines if self.is_shown and any(map(_is_news, events)) else []

    def _read(self, recording: Recording) -> list[AnyEvent]:
        """Return new events, all up to now: a packet is complete when it has arrived."""
        wanted_ns, events, pause = monotonic_ns(), list[AnyEvent](), select.poll()
        while True:
            found, until_ns = recording.read()
            events += found
            if until_ns >= wanted_ns or monotonic_ns() - wanted_ns >= self._longest_wait_ns:
                return events
            pause.poll(_PAUSE_MS)

    def explanation(self, record: CallRecord) -> tuple[str, ...]:
        """Return sentences that explain from all events why the call failed, or does not return.

        The record's time counts from `origin_ns`.
        """
        if self.recording is None:
            return ()
        from labctl.timeline.explain import explain
        from labctl.timeline.sources import host_state

        now = host_state.read(self._lab, self._hosts)
        timeline = self.recording.timeline()
        at_ns = self.origin_ns + round(record.started_s * 1e9)
        calls = [each for each in timeline.events if isinstance(each, Call) and each.host == record.host]
        found = [each for each in calls if each.pid == record.pid and abs(each.at_ns - at_ns) < _ROUNDING_NS]
        timeline = replace(timeline, states=now.states, events=(*timeline.events, *now.events))
        return explain(timeline, found[-1]) if found else ()


def _is_shown_elsewhere(event: AnyEvent) -> bool:
    """Return whether other lines show it: the beginning of a step, states in the list of sockets, a refusal its RST."""
    return isinstance(event, Step | State | Reset) or (isinstance(event, Drop) and event.reason == "NO_SOCKET")


def _is_news(event: AnyEvent) -> bool:
    if not isinstance(event, Packet):
        return isinstance(event, Output | Mark | Drop | Retransmit)
    header = event.header
    if header.protocol in ("icmp", "icmpv6"):
        return header.quoted is not None or header.summary.startswith("echo")
    return header.flow is not None and not is_pure_ack(event)
