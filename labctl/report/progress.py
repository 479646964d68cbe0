"""Progress of a run: finished scenarios, program output on request, and a live view on a terminal.

The live view is a few lines at the bottom, drawn by a thread of its own. A run of less than half a second never shows
it.
"""

from __future__ import annotations

import codecs
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from labctl.clock import monotonic, monotonic_ns
from labctl.errors import LabctlError
from labctl.printable import printable
from labctl.programs.output import Stream
from labctl.report import plain
from labctl.report.ladder import LiveLadder
from labctl.report.terminal import Ink, Screen, cells, is_terminal, live_status, pad, shorten
from labctl.scenario.results import (
    CallRecord,
    Listener,
    LiveRecording,
    Outcome,
    ScenarioInfo,
    ScenarioResult,
    StepResult,
)
from labctl.structs import Struct, field, replace

if TYPE_CHECKING:
    from labctl.report.ci import CiLog
    from labctl.timeline.events import AnyEvent, Timeline

_READ_S = 0.03  # from one reading of a recording to the next
_LATE_NS = 35_000_000  # calls of agents are reported when they return, or 20 ms after their begin
_LATE_IN_A_PIPE_NS = 1_000_000_000  # nobody watches, so there is time for calls that are reported late
_LONGEST_LINE = 16384  # characters of a program's output without a line end


class _Running(Struct):
    """A running scenario in the live view."""

    scenario: ScenarioInfo
    since_s: float
    doing: str = "building the lab"


class _PartialLine(Struct):
    """Decodes a program's stream and cuts it into lines."""

    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("backslashreplace")
    )
    text: str = ""

    def lines(self, data: bytes, *, final: bool = False) -> list[str]:
        *lines, self.text = (self.text + self.decoder.decode(data, final)).split("\n")
        if self.text and (final or len(self.text) > _LONGEST_LINE):
            lines.append(self.text)
            self.text = ""
        return lines


class _Streaming:
    """Draws the ladder of a scenario while it runs, in a thread of its own, from its recording."""

    def __init__(self, screen: Screen, scenario: ScenarioInfo, recording: LiveRecording) -> None:
        self._screen = screen
        self._recording = recording
        self._late_ns = _LATE_NS if is_terminal(screen.stream) else _LATE_IN_A_PIPE_NS
        screen.write(plain.heading(scenario, screen.look))
        self._ladder = LiveLadder(screen.look, scenario.speakers, recording.nodes, monotonic_ns())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="labctl-ladder", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._over.wait(_READ_S):
            try:
                events, until_ns = self._recording.read()
                self._write(events, until_ns - self._late_ns)
            except (LabctlError, OSError):
                return  # the recorder has ended: its timeline reports this

    def _write(self, events: tuple[AnyEvent, ...], until_ns: int | None) -> None:
        self._screen.write(self._ladder.feed(plain.shown(events), until_ns))

    def finish(self) -> None:
        """Write the rest, after the recording has been stopped. Idempotent."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        try:
            events, _ = self._recording.read()
        except (LabctlError, OSError):
            events = ()
        self._write(events, None)


class Progress(Listener):
    """Listens to a run of `expected` scenarios (None: without end), shows it on `screen` and keeps the results.

    One scenario: its ladder as it happens if it is recorded, otherwise at the end, and its verdict. Several: a line for
    each, or its whole report with `verbose`, which also streams program output. In a CI server's `log`, whole reports
    are folded below their line. Without `keep_steps`, steps of scenarios that passed are dropped. Use it as a context
    manager, which removes the live view.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        expected: int | None,
        verbose: bool = False,
        while_kept: Callable[[int], str] | None = None,
        log: CiLog | None = None,
        keep_steps: bool = True,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._screen = screen
        self._expected = expected
        self._verbose = verbose
        self._while_kept = while_kept
        self._log = log
        self._keep_steps = keep_steps
        self._clock = clock
        self._lock = threading.RLock()
        self._running: dict[int, _Running] = {}
        self._finished: list[ScenarioResult] = []
        self._kept: set[int] = set()
        self._streaming: _Streaming | None = None
        self._timelines: dict[int, Timeline] = {}  # of recorded scenarios, by the scenario's id
        self._of_failures: dict[tuple[str, str], Timeline] = {}  # by file and name
        self._partial: dict[tuple[int, str, str, Stream], _PartialLine] = {}
        self._view = live_status(screen, self._status, "labctl-progress")

    def __enter__(self) -> Progress:
        self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, traceback)
        self._screen.show_status([])

    @property
    def screen(self) -> Screen:
        """Where the run is shown."""
        return self._screen

    @property
    def finished(self) -> tuple[ScenarioResult, ...]:
        """The results so far, in the order in which the scenarios finished."""
        with self._lock:
            return tuple(self._finished)

    @property
    def kept_a_lab(self) -> bool:
        """Whether the lab of a failed scenario was kept for a person."""
        with self._lock:
            return bool(self._kept)

    def scenario_started(self, scenario: ScenarioInfo) -> None:
        """Add it to the live view."""
        with self._lock:
            self._running[id(scenario)] = _Running(scenario, self._clock())

    def step_started(
        self, scenario: ScenarioInfo, index: str, kind: str, host: str | None, title: str, line: int
    ) -> None:
        """Show it in the live view."""
        self._does(scenario, f"step {index}: {title or kind}")

    def call_begun(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """Show it in the live view."""
        self._does(scenario, f"step {index}: {call.host}: {call.call}")

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None:
        """Write the unfinished last line of its program."""
        if self._verbose and step.kind == "run":
            self._flush_output(id(scenario), step.host)

    def output(self, scenario: ScenarioInfo, host: str, process: str, stream: Stream, data: bytes) -> None:
        """With `verbose`, write complete lines."""
        if not self._verbose:
            return
        with self._lock:
            partial = self._partial.setdefault((id(scenario), host, process, stream), _PartialLine())
            self._write_output(scenario.name, host, process, stream, partial.lines(data))

    @property
    def wants_every_timeline(self) -> bool:
        """Whether the ladder of a scenario that passed is shown."""
        return self._expected == 1 or self._verbose

    def recording(self, scenario: ScenarioInfo, recording: LiveRecording) -> None:
        """Begin to stream it, if it is the only scenario. A CI server's log gets it as a whole, to fold it."""
        if self._expected == 1 and self._log is None:
            self._streaming = _Streaming(self._screen, scenario, recording)

    def recorded(self, scenario: ScenarioInfo, result: ScenarioResult, timeline: Timeline) -> None:
        """Write the rest of the stream; keep the timeline for the report."""
        if self._streaming is not None:
            self._streaming.finish()
        with self._lock:
            self._timelines[id(scenario)] = timeline
            if result.outcome in plain.FAILURES:
                self._of_failures[result.file, result.name] = timeline

    def timeline_of(self, result: ScenarioResult) -> Timeline | None:
        """Return the recording of a scenario that failed; None if there is none."""
        with self._lock:
            return self._of_failures.get((result.file, result.name))

    def _report(self, scenario: ScenarioInfo, result: ScenarioResult) -> list[str]:
        """Return the whole report, or what is left of it after the stream."""
        timeline = self._timelines.get(id(scenario))
        if self._streaming is not None:
            return plain.conclusion(result, self._screen.look, timeline)
        return plain.scenario_report(result, self._screen.look, timeline)

    def scenario_kept(
        self, scenario: ScenarioInfo, result: ScenarioResult, hints: tuple[str, ...], lab_descriptor: int
    ) -> None:
        """Write the whole report, and commands that enter the lab; return when `while_kept` does.

        `while_kept` gets the lab's descriptor, and returns a line to print: why the wait ended without Enter.
        """
        with self._lock:
            self._kept.add(id(scenario))
            self._running.pop(id(scenario), None)  # Enter moves the cursor, so nothing may be redrawn around it
            self._screen.show_status(self._status() if self._running else [])
            look = self._screen.look
            lines = self._report(scenario, result)
            lines += ["", look.paint(f'The lab of "{printable(result.name)}" is kept. To inspect it:', Ink.STRONG)]
            lines += [f"  {printable(hint)}" for hint in hints]
            how = "Enter or Ctrl-C ends it." if self._expected == 1 else "Enter ends it, Ctrl-C the whole run."
            self._screen.write([*lines, look.paint(how, Ink.STRONG)])
        if self._while_kept is not None and (reason := self._while_kept(lab_descriptor)):
            self._screen.line(reason, Ink.ODD)

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        """Write its line or report."""
        self._flush_output(id(scenario), None)
        if self._streaming is not None:
            self._streaming.finish()
        with self._lock:
            self._finish(scenario, result)
            self._timelines.pop(id(scenario), None)

    def _finish(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        with self._lock:
            self._running.pop(id(scenario), None)
            lean = not self._keep_steps and result.outcome is Outcome.PASSED
            self._finished.append(replace(result, steps=()) if lean else result)
            look = self._screen.look
            if (self._expected == 1 and id(scenario) in self._kept) or (self._expected != 1 and result.not_run):
                return
            if self._log is not None and result.steps and (self._expected != 1 or result.outcome is Outcome.PASSED):
                title, *_ = plain.one_line(result, look)
                report = self._report(scenario, result)
                self._screen.write(self._log.section(title, report, result.duration_s), as_they_are=True)
            elif self._expected == 1:
                self._screen.write(self._report(scenario, result))
            elif self._verbose:
                self._screen.write([*self._report(scenario, result), ""])
            else:
                self._screen.write(plain.one_line(result, look))

    def _does(self, scenario: ScenarioInfo, what: str) -> None:
        with self._lock:
            running = self._running.get(id(scenario))
            if running is not None:
                running.doing = what

    def _flush_output(self, scenario: int, host: str | None) -> None:
        with self._lock:
            for key in [key for key in self._partial if key[0] == scenario and host in (None, key[1])]:
                lines = self._partial.pop(key).lines(b"", final=True)
                name = self._running[scenario].scenario.name if scenario in self._running else ""
                self._write_output(name, key[1], key[2], key[3], lines)

    def _write_output(self, name: str, host: str, process: str, stream: Stream, lines: list[str]) -> None:
        look = self._screen.look
        who = f"{host} {process}" + (" (stderr)" if stream is Stream.STDERR else "")
        if self._expected != 1:
            who = f"{printable(name)}: {who}"
        lead = look.paint(f"{who} {look.glyphs.column} ", Ink.FAINT)
        self._screen.write([lead + printable(line.rstrip("\r")) for line in lines])

    def _status(self) -> list[str]:
        with self._lock:
            running = list(self._running.values())
            done = len(self._finished)
        look = self._screen.look
        width = look.width - 1  # a line that fills the last column would wrap on some terminals
        import shutil

        rows = max(shutil.get_terminal_size().lines - 2, 1)
        shown = running[: rows if len(running) <= rows else rows - 1]
        name_width = min(max((cells(each.scenario.name) for each in shown), default=0), width // 3)
        now = self._clock()
        lines = []
        if self._expected != 1:
            of = f" of {self._expected}" if self._expected is not None else ""
            lines.append(look.paint(f"{done}{of} finished, {len(running)} running", Ink.STRONG))
        for each in shown:
            time_text = f"{now - each.since_s:6.1f} s"
            name = pad(shorten(printable(each.scenario.name), name_width, look.glyphs.goes_on), name_width)
            text = f"{time_text}  {name}  {printable(each.doing)}"
            lines.append(look.paint(shorten(text, width, look.glyphs.goes_on), Ink.FAINT))
        if len(shown) < len(running):
            lines.append(f"         and {len(running) - len(shown)} more")
        return lines
