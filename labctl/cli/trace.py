"""`labctl trace`: record a running lab for a while, show its timeline, and write it to files."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli.exec import ExecRequest, check_request, exit_status, open_standard_descriptors, spawn, status_of_refusal
from labctl.cli.exit import Stopped
from labctl.cli.lab_selection import attach_lab_and_nodes
from labctl.cli.signals import Signals, wait_passing_signals
from labctl.clock import monotonic
from labctl.errors import InputError, KernelError, LabctlError
from labctl.report.terminal import standard_error, standard_output
from labctl.structs import replace
from labctl.timeline.events import Drop, Packet
from labctl.timeline.recording import Recording, RecordOptions
from labctl.topology.model import NodeKind
from labctl.units import duration_s

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan
    from labctl.programs.program import Trace
    from labctl.programs.waiting import Watcher
    from labctl.report.terminal import Screen
    from labctl.timeline.events import AnyEvent, Timeline

LIVE_INTERVAL_S = 0.05
FOLLOW_EVERY_S = 1.0  # interval at which nodes are looked for that have joined the lab
LAST_OUTPUT_TIMEOUT_S = 0.3  # for the last lines of strace, after the end of the command
CALLS_OF_RUNNING_PROGRAMS = (
    "calls of programs that run already: they need BPF, as root (labctl trace NODE -- COMMAND works)"
)


def trace(
    nodes: Sequence[str],
    command: Sequence[str],
    lab: str | None,
    duration: str | None,
    follow: bool,
    packet_filter: str | None,
    html: Path | None,
    pcap: Path | None,
    svg: Path | None,
    json: Path | None,
    perfetto: Path | None,
) -> int:
    """Run `labctl trace`: until Ctrl-C, for a duration, or until the command ends, whose exit status it returns."""
    from labctl.report.artifacts import check_writable

    standard = open_standard_descriptors()  # before another file can get one of these numbers
    files = {"html": html, "pcap": pcap, "svg": svg, "json": json, "perfetto": perfetto}
    wanted = {name: path for name, path in files.items() if path is not None}
    for name, path in wanted.items():
        check_writable(path, f"--{name}")
    for_s = _seconds(duration)
    with ExitStack() as stack:
        attached, chosen = attach_lab_and_nodes(nodes, lab)
        stack.callback(attached.close)
        if command and len(chosen) != 1:
            raise InputError("labctl trace: the command needs one node to run on. Try: labctl trace NODE -- COMMAND...")
        plan = attached.describe().plan
        concerned = Concerned(() if command else chosen)
        options = RecordOptions(packet_filter=packet_filter or "", syscalls=chosen or ("*",))
        title = f"lab {attached.name}" if not command else f"{' '.join(command)} on {chosen[0]}"
        recording = stack.enter_context(Recording.start(attached, options, title=title, plan=plan))
        recording.wait_ready()
        hosts = [node.name for node in plan.nodes if node.kind is NodeKind.HOST]
        screen = standard_error() if command else standard_output()
        status = 0
        with _shown_live(recording, plan, chosen or hosts, screen, concerned) if follow else ExitStack():
            if command:
                request = ExecRequest(chosen[0], tuple(command))
                status = _run(attached, recording, request, standard)
            else:
                if not all(map(recording.traces_calls_of, chosen or hosts)):
                    recording.note_missing(CALLS_OF_RUNNING_PROGRAMS)
                _wait(attached, for_s, recording)
        timeline = recording.stop()
        timeline = replace(timeline, events=tuple(concerned.of(timeline.events)))
    from labctl.report.ladder import conversation, endings

    shown = [] if follow else conversation(timeline, screen.look)
    screen.write(shown + endings(timeline, screen.look))
    if not (shown or follow or command):
        standard_error().line(f"{title}: no calls or packets while it was recorded")
    _write_files(timeline, wanted)
    return status


class Concerned:
    """Selects the events of some nodes, with all hops of the packets that they send or receive; () is all nodes.

    The packets of all nodes are recorded: a packet to a node that is not would look lost.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = frozenset(nodes)
        self._journeys: set[int] = set()

    def of(self, events: Sequence[AnyEvent]) -> list[AnyEvent]:
        """Return those of the events that concern the nodes; later calls know the packets of earlier ones."""
        if not self._nodes:
            return list(events)
        for event in events:
            if isinstance(event, Packet):
                ends = {event.host, event.receiver, *(hop.node for hop in event.others)}
                if not ends.isdisjoint(self._nodes):
                    self._journeys.add(event.journey)
        return [event for event in events if self._is_selected(event)]

    def _is_selected(self, event: AnyEvent) -> bool:
        if isinstance(event, Packet):
            return event.journey in self._journeys
        if isinstance(event, Drop) and event.packet in self._journeys:
            return True
        return not event.host or event.host in self._nodes


def _seconds(duration: str | None) -> float | None:
    if duration is None:
        return None
    try:
        return duration_s(duration)
    except ValueError as error:
        raise InputError(f"labctl trace: --for {duration}: {error}") from error


def _wait(lab: Lab, for_s: float | None, recording: Recording) -> None:
    """Wait for the end of the duration, of the lab, or for a signal that ends programs; record changes of the lab."""
    poller = select.poll()
    poller.register(lab.fileno(), 0)  # POLLHUP is always reported
    until = None if for_s is None else monotonic() + for_s
    try:
        while until is None or monotonic() < until:
            left_s = FOLLOW_EVERY_S if until is None else min(FOLLOW_EVERY_S, until - monotonic())
            if poller.poll(max(0.0, left_s) * 1000):
                return
            with suppress(LabctlError):  # the lab ends, which the next poll reports, or is being changed
                recording.follow_changes()
    except Stopped:
        return  # Ctrl-C is the usual end


def _run(lab: Lab, recording: Recording, request: ExecRequest, standard: Sequence[int | None]) -> int:
    """Run the command, traced, with these three descriptors. Return its exit status, or 126 or 127."""
    import os

    from labctl.programs.program import trace_pipe
    from labctl.programs.waiting import Watcher
    from labctl.timeline.sources.strace import tracer_of

    check_request(request)
    # Its children may go on when labctl has ended: without seccomp, strace leaves them as they are.
    tracer = None if recording.traces_calls_of(request.node) else tracer_of(recording, seccomp=False)
    with ExitStack() as stack, Signals() as signals:
        reading, writing = None, None
        if tracer is not None:
            reading, writing = trace_pipe(tracer.consumer(request.node, request.command[0]))
            stack.callback(reading.close)
            watcher = Watcher()
            stack.callback(_read_rest, watcher, reading)
            watcher.add(reading.descriptor, reading.take)
        try:
            process = spawn(lab, request, standard, tracer=tracer.command if tracer else (), trace=writing)
        except KernelError as error:
            return status_of_refusal(error, request.command[0])
        finally:
            if writing is not None:
                os.close(writing)
        stack.callback(process.close)
        return exit_status(wait_passing_signals(process, signals))


def _read_rest(watcher: Watcher, trace: Trace) -> None:
    """Read what strace writes until it ends, a bit later than the program, or much later: its children."""
    watcher.close()
    poller = select.poll()
    poller.register(trace.descriptor, select.POLLIN)
    until = monotonic() + LAST_OUTPUT_TIMEOUT_S
    while not trace.has_ended and poller.poll(max(0.0, until - monotonic()) * 1000):
        trace.take()


@contextmanager
def _shown_live(
    recording: Recording, plan: Plan, nodes: Sequence[str], screen: Screen, concerned: Concerned
) -> Iterator[None]:
    """Show events as they happen, in a thread, until the end of the `with`."""
    from labctl.report.ladder import LiveLadder
    from labctl.timeline.wires import nodes_of

    ladder = LiveLadder(screen.look, nodes, nodes_of(plan), recording.started_ns)
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(LIVE_INTERVAL_S):
            events, until_ns = recording.read()
            screen.write(ladder.feed(concerned.of(events), until_ns))

    thread = threading.Thread(target=show, name="labctl-trace", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        events, _ = recording.read()
        screen.write(ladder.feed(concerned.of(events), None))


def _write_files(timeline: Timeline, files: dict[str, Path]) -> None:
    if not files:
        return
    from labctl.report.timeline_files import format_named, save

    for name, path in files.items():
        save(timeline, path, format_named(name))
        standard_error().line(f"wrote {path}")
