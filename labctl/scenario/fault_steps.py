"""The steps on faults: fault, heal, during, schedule."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from labctl.clock import monotonic
from labctl.errors import InputError, LabctlError
from labctl.plan.faults import Kill, Pause, read
from labctl.programs.output import OutputRecord
from labctl.scenario.file_schema import DuringBody, FaultBody, HealBody, ScheduleBody
from labctl.scenario.results import FaultRecord
from labctl.scenario.state import NOTHING, Done, StepFailed, StepRun
from labctl.structs import replace
from labctl.units import format_duration

if TYPE_CHECKING:
    from labctl.plan.fault_effects import FaultPlan
    from labctl.plan.faults import Fault
    from labctl.scenario.fault_schedule import ScheduledFault


def execute(at: StepRun, body: FaultBody | HealBody) -> Done:
    """Run a step that injects or heals faults."""
    match body:
        case FaultBody():
            inject(at, *body.fault, name=body.name or "", duration_s=body.for_)
        case HealBody():
            _heal(at, body.fault)
    return NOTHING


@contextmanager
def in_force(at: StepRun, body: DuringBody) -> Iterator[None]:
    """Keep the fault of the step in force inside the `with`."""
    number = inject(at, *body.fault, name=body.name or "")
    try:
        yield
    except BaseException:
        with suppress(LabctlError, RuntimeError):  # the lab may have been closed; the first failure counts
            end(at, number)
        raise
    end(at, number)


def inject(
    at: StepRun,
    kind: str,
    value: object,
    *,
    name: str = "",
    duration_s: float | None = None,
    seed: int | None = None,
) -> int:
    """Begin a fault and record it; return its number. `seed` is that of the schedule that has chosen it.

    Raises: StepFailed if it does not fit the lab.
    """
    try:
        plan = _plan(at, read(kind, value))
        began_s = at.run.elapsed_s
        number = at.lab.begin_fault(plan, name=name, duration_s=duration_s)
    except (ValueError, InputError) as error:
        raise StepFailed(str(error)) from error
    at.run.changes.fault(number)
    ended_s = None if duration_s is None else began_s + duration_s
    with at.run.lock:
        at.run.faults[number] = FaultRecord(at.index, plan.kind, plan.text, plan.nodes, began_s, ended_s, name, seed)
    at.run.recording.read_faults()
    return number


def end(at: StepRun, number: int) -> None:
    """Heal a fault and record that."""
    at.lab.heal([number])
    _record_end(at, number)
    at.run.recording.read_faults()


def _record_end(at: StepRun, number: int) -> None:
    now_s = at.run.elapsed_s
    with at.run.lock:
        fault = at.run.faults.get(number)
        if fault is None or (fault.ended_s is not None and fault.ended_s <= now_s):
            return
        at.run.faults[number] = replace(fault, ended_s=now_s)


def _heal(at: StepRun, name: str) -> None:
    """Heal the fault of that name, or all that this scenario has injected."""
    with at.run.lock:
        chosen = [number for number, fault in at.run.faults.items() if name in ("all", fault.name)]
    if not chosen and name != "all":
        raise StepFailed(f"no fault called `{name}` has been injected")
    for number in reversed(chosen):
        end(at, number)


def _plan(at: StepRun, fault: Fault) -> FaultPlan:
    """Return the effects of the fault; programs are those of the scenario, by their names."""
    if not isinstance(fault, Pause):
        return fault.plan(at.run.scenario.topology)
    words = []
    for name in fault.programs:
        program = at.run.background(name)
        if isinstance(fault, Kill):
            program.asked_to_end = True  # so that its end is no failure
        node = program.command.host
        words.append(f"{node}/{program.command.name if program.kind == 'service' else program.process.pid}")
    return replace(replace(fault, programs=tuple(words)).plan(at.run.scenario.topology), text=str(fault))


class RandomFaults:
    """Injects the faults of a schedule in a thread, until its time is over or it is stopped."""

    THREAD = "labctl-faults-"

    def __init__(self, at: StepRun, planned: Iterator[ScheduledFault], for_s: float | None, seed: int) -> None:
        self._at = at
        self._planned = planned
        self._for_s = for_s
        self._seed = seed
        self._stopped = threading.Event()
        self._started = monotonic()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name=f"{self.THREAD}{at.index}")
        self.log = [f"seed {seed}"]

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether its time is over, or it has failed."""
        return self._failure is not None or (self._for_s is not None and monotonic() - self._started >= self._for_s)

    def wait(self) -> None:
        """Wait until its time is over, if it has one. Raises what injecting a fault raised."""
        while self._for_s is not None and self._thread.is_alive():
            self._at.scope.check()
            self._thread.join(0.1)
        self.stop()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Heal all faults that are in force, and inject no more."""
        self._stopped.set()
        self._thread.join()

    def _guarded(self) -> None:
        active: dict[int, float] = {}  # by number: when to heal it
        try:
            self._run(active)
        except BaseException as error:  # noqa: BLE001  # the waiting thread raises it
            self._failure = error
        finally:
            for number in reversed(active):
                with suppress(LabctlError, RuntimeError):
                    end(self._at, number)

    def _run(self, active: dict[int, float]) -> None:
        following = self._next()
        while not self._stopped.is_set():
            now_s = monotonic() - self._started
            for due in [number for number, until_s in active.items() if until_s <= now_s]:
                end(self._at, due)
                del active[due]
            if following is not None and following.at_s <= now_s:
                begun = self._begin(following)
                if begun is not None:
                    active[begun] = following.at_s + following.lasting_s
                following = self._next()
                continue
            if self._for_s is not None and now_s >= self._for_s:
                return
            moments = [*active.values(), *([] if following is None else [following.at_s])]
            until_s = min(moments, default=self._for_s) if self._for_s is None else min([*moments, self._for_s])
            if until_s is None:
                return
            self._stopped.wait(max(0.0, until_s - now_s))

    def _next(self) -> ScheduledFault | None:
        """Return the next fault that begins within the time."""
        planned = next(self._planned, None)
        return planned if planned and (self._for_s is None or planned.at_s < self._for_s) else None

    def _begin(self, planned: ScheduledFault) -> int | None:
        """Inject a fault; one that is not possible now, as of a program that has ended, is only noted."""
        lasting = format_duration(round(planned.lasting_s, 3))
        text = f"{planned.at_s:.3f} s: {read(planned.kind, planned.value)} for {lasting}"
        try:
            number = inject(self._at, planned.kind, planned.value, seed=self._seed)
        except StepFailed as failure:
            self.log.append(f"{text}: not injected: {failure.reason}")
            return None
        self.log.append(text)
        return number


@contextmanager
def random_faults(at: StepRun, body: ScheduleBody) -> Iterator[RandomFaults]:
    """Inject random faults inside the `with`; at its end all of them have been healed.

    Raises: StepFailed if there is nothing that the faults could hit.
    """
    from labctl.scenario.fault_schedule import faults_of, targets_in
    from labctl.topology.selection import select, with_addresses

    topology = at.run.scenario.topology
    try:
        nodes = select(topology.nodes, body.targets or [node.name for node in topology.nodes])
    except ValueError as error:
        raise StepFailed(str(error)) from error
    targets = targets_in(topology, with_addresses(topology.nodes, nodes), body.programs)
    seed = body.seed if body.seed is not None else at.run.seed or 0
    planned = faults_of(seed, body.faults, targets, body.every, body.lasting)
    faults = RandomFaults(at, planned, body.for_, seed)
    faults.start()
    try:
        yield faults
    finally:
        faults.stop()


def log_of(faults: RandomFaults) -> Done:
    """Return what happened, as the output of the step."""
    return Done(OutputRecord("".join(f"{line}\n" for line in faults.log), "", 0))
