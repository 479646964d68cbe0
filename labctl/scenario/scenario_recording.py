"""The recording of a scenario's lab, from before the first step to the result, which it explains if that is a failure.

Without a recording, a failure is explained from steps, calls and the state of the hosts. A recorder that cannot start
or ends early never fails a scenario: the timeline names what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from labctl.errors import LabctlError
from labctl.scenario.results import Listener, Outcome, Several, StepResult
from labctl.structs import replace

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan
    from labctl.programs.program import Program, Tracer
    from labctl.scenario.model import Scenario
    from labctl.scenario.results import FaultRecord, ScenarioInfo, ScenarioResult
    from labctl.timeline.events import AnyEvent, Timeline
    from labctl.timeline.recording import Recording, RecordOptions
    from labctl.timeline.sources.host_state import FailureState


class ScenarioRecording:
    """Records one scenario; `close` ends the recorder. For the thread of the scenario."""

    def __init__(self, recording: Recording | None = None, *, problem: str = "", is_borrowed: bool = False) -> None:
        """Feed `recording`, which this closes unless it is borrowed; None: record nothing, for the reason `problem`."""
        self._recording = recording
        self._problem = problem
        self._is_borrowed = is_borrowed
        self._origin_ns = 0
        self._failure: FailureState | None = None

    @staticmethod
    def start_ahead(options: RecordOptions | None) -> None:
        """Start the recorder before the lab is made, if there is to be a recording."""
        if options is not None:
            from labctl.timeline.recorder_process import recorders

            recorders.start_ahead(kernel=options.kernel)

    @classmethod
    def start(cls, lab: Lab, plan: Plan, scenario: Scenario, options: RecordOptions | None) -> ScenarioRecording:
        """Start to record the lab; with None as `options`, record nothing."""
        if options is None:
            return cls()
        from labctl.timeline.recording import Recording

        try:
            return cls(Recording.start(lab, options, title=scenario.name, file=scenario.file, plan=plan))
        except (LabctlError, OSError) as error:
            return cls(problem=str(error))

    @property
    def is_running(self) -> bool:
        """Whether the lab is recorded."""
        return self._recording is not None

    @cached_property
    def _tracer(self) -> Tracer | None:
        if self._recording is None:
            return None
        from labctl.timeline.sources.strace import tracer_of

        return tracer_of(self._recording)

    def tracer(self) -> Tracer | None:
        """Return what traces programs; None without a recording or without strace, which the timeline then names."""
        return self._tracer

    def attach(self, scenario: ScenarioInfo, listener: Listener, origin_ns: int) -> Listener:
        """Return the listener that also records; times of the scenario's records count from `origin_ns`."""
        self._origin_ns = origin_ns
        if self._recording is None:
            return listener
        from labctl.scenario.timeline_events import TimelineEvents

        listener.recording(scenario, self._recording)
        return Several(TimelineEvents(self._recording.add, origin_ns), listener)

    def wait_ready(self) -> None:
        """Wait until everything is recorded, or cannot be."""
        if self._recording is not None and not self._is_borrowed:
            try:
                self._recording.wait_ready()
            except LabctlError as error:
                self._give_up(error)

    def read_failure(self, lab: Lab, hosts: Iterable[str], *, since_ns: int | None) -> None:
        """Read the state of these hosts, which explains a failure; see `host_state.read`."""
        from labctl.timeline.sources import host_state

        self._failure = host_state.read(lab, hosts, since_ns)
        self._add(self._failure.events)

    def conclude(
        self,
        scenario: Scenario,
        result: ScenarioResult,
        failed: StepResult | None,
        programs: Sequence[Program],
        listener: Listener,
    ) -> ScenarioResult:
        """End the recording; return the result with its explanation, after the listener has received the timeline.

        `failed` is the step that the failure is about, if there is one.
        """
        is_failure = result.outcome in (Outcome.FAILED, Outcome.ERROR)
        is_recorded = self._recording is not None or bool(self._problem)
        is_wanted = is_recorded and not self._is_borrowed and listener.wants_every_timeline
        if not is_failure and not is_wanted:
            return result
        timeline = self._timeline(scenario, result, programs)
        if is_failure:
            from labctl.timeline.explain import last_packets

            packets = last_packets(timeline, (failed and failed.host) or "")
            sentences = (*_explained(timeline, failed), *faults_about(result.faults, failed))
            result = replace(result, explanation=sentences, last_packets=packets)
        if is_recorded:
            from labctl.timeline.events import Verdict

            verdict = Verdict(result.outcome.value, result.reason, result.explanation, result.rerun)
            listener.recorded(scenario, result, replace(timeline, verdict=verdict))
        return result

    def close(self) -> None:
        """End the recorder, if it is this scenario's. Idempotent."""
        recording, self._recording = self._recording, None
        if recording is not None and not self._is_borrowed:
            recording.close()

    def _timeline(self, scenario: Scenario, result: ScenarioResult, programs: Sequence[Program]) -> Timeline:
        states = self._failure.states if self._failure is not None else ()
        if self._recording is not None:
            from labctl.scenario.timeline_events import ends_of

            self._add(ends_of(programs))
            try:
                timeline = self._recording.timeline() if self._is_borrowed else self._recording.stop()
                return replace(timeline, started_ns=self._origin_ns, states=states)
            except (LabctlError, OSError) as error:
                self._give_up(error)
        from labctl.scenario.timeline_events import timeline_of

        more = self._failure.events if self._failure is not None else ()
        timeline = timeline_of(
            result, scenario.topology.nodes, origin_ns=self._origin_ns, programs=programs, events=more
        )
        missing = (f"packets and kernel events: {self._problem}",) if self._problem else timeline.missing
        return replace(timeline, states=states, missing=missing)

    def read_faults(self) -> None:
        """Add marks of what has happened to faults."""
        if self._recording is not None:
            self._recording.read_faults()

    def _add(self, events: Iterable[AnyEvent]) -> None:
        if self._recording is not None:
            for event in events:
                self._recording.add(event)

    def _give_up(self, error: Exception) -> None:
        self._problem = str(error)
        self.close()


def faults_about(faults: Sequence[FaultRecord], failed: StepResult | None) -> tuple[str, ...]:
    """Return a sentence for each fault that was in force during the failed step.

    If there were none, return one for the last fault of a schedule: the step may have found what it left.
    """
    if failed is None:
        return ()
    begun = [fault for fault in faults if fault.began_s <= failed.started_s + failed.duration_s]
    active = [fault for fault in begun if fault.ended_s is None or fault.ended_s >= failed.started_s]
    lead = "fault in force" if active else "no fault was in force; the last one"
    return tuple(f"{lead}: {_lifetime(fault)}" for fault in active or begun[-1:] if active or fault.seed is not None)


def _lifetime(fault: FaultRecord) -> str:
    until = "to the end" if fault.ended_s is None else f"to {fault.ended_s * 1000:.0f} ms"
    of = f"step {fault.step}" if fault.seed is None else f"schedule of step {fault.step}, seed {fault.seed}"
    return f"{fault.text}, from {fault.began_s * 1000:.0f} ms {until} ({of})"


def _explained(timeline: Timeline, failed: StepResult | None) -> tuple[str, ...]:
    from labctl.timeline.events import Step
    from labctl.timeline.explain import explain

    steps = [event for event in timeline.events if isinstance(event, Step)]
    step = None if failed is None else next((each for each in reversed(steps) if each.index == failed.index), None)
    return explain(timeline, step)
