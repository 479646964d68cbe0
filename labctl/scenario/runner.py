"""Runs scenarios: each in a lab of its own and a thread of its own, step by step, to a result.

What went wrong in the scenario is in the result. What is wrong with this machine (MachineError) is raised, unless
other scenarios may run on it (LabImpossible).

What a scenario's run comes to: its result, and the step that a failure is about.

A scenario that is run in somebody else's lab, and whose programs and sockets are held until the caller is done.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import LabctlError, LabGone, LabImpossible, MachineError
from labctl.programs.waiting import Scope, Watcher
from labctl.scenario.model import Cancellation, RunOptions, Scenario
from labctl.scenario.results import (
    Listener,
    ListeningRecord,
    Outcome,
    ProgramRecord,
    RunResult,
    ScenarioResult,
    SilentListener,
    StepResult,
)
from labctl.scenario.run_order import Turn, draw_seed, turns
from labctl.scenario.state import Run
from labctl.scenario.steps import run_steps, step_order
from labctl.scenario.variables import Variables
from labctl.structs import replace
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.lab.client.boot_process import Boot
    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan
    from labctl.programs.program import Program
    from labctl.scenario.call_steps import EndedCaller
    from labctl.scenario.network_steps import Changes


Finished = Callable[..., ScenarioResult]


def finisher(scenario: Scenario, seed: int | None = None, repetition: int = 0) -> Finished:
    """What makes the result of a run that begins now: of an outcome, its reason, and the steps."""
    started_at, started = now(), monotonic()

    def finished(
        outcome: Outcome,
        reason: str,
        steps: Sequence[StepResult] = (),
        *,
        impossible: bool = False,
        interrupted: bool = False,
        programs: tuple[ProgramRecord, ...] = (),
        listening: tuple[ListeningRecord, ...] = (),
    ) -> ScenarioResult:
        return ScenarioResult(
            name=scenario.name,
            file=scenario.file,
            about=scenario.about,
            outcome=outcome,
            reason=reason,
            started_at=started_at,
            duration_s=monotonic() - started,
            hosts=scenario.hosts,
            steps=tuple(sorted(steps, key=step_order)),
            seed=seed,
            repetition=repetition,
            impossible=impossible,
            interrupted=interrupted,
            programs=programs,
            listening=listening,
        )

    return finished


def verdict(run: Run, finished: Finished) -> ScenarioResult:
    """The result of a run whose steps are over: of the worst of them, if something went wrong."""
    from labctl.scenario.last_look import programs

    about = worst(run.results)
    outcome, reason = (Outcome.PASSED, "") if about is None else (about.outcome, _reason(run.scenario, about))
    return finished(outcome, reason, run.results, programs=programs(run), listening=run.listening)


def impossible(
    scenario: Scenario, error: LabImpossible, results: Sequence[StepResult], finished: Finished
) -> ScenarioResult:
    """The result of a scenario whose lab cannot be had on this machine, or no longer from some step on."""
    about = worst(results)
    reason = str(error) if about is None else _reason(scenario, about)
    return finished(Outcome.ERROR, reason, results, impossible=True)


def worst(results: Sequence[StepResult]) -> StepResult | None:
    """The step that the scenario's failure is about; None when all is well."""
    bad = [result for result in results if result.outcome in (Outcome.FAILED, Outcome.ERROR)]
    return min(bad, key=_severity, default=None)


def _reason(scenario: Scenario, about: StepResult) -> str:
    return f"step {about.index} ({scenario.file}:{about.line}), {about.title}: {about.reason}"


def _severity(result: StepResult) -> tuple[bool, bool, int, float]:
    """Errors before failures; steps of the file first; the deepest (the cause) before those around it; the earliest."""
    return result.outcome is not Outcome.ERROR, result.kind == "end", -result.index.count("."), result.started_s


def end_badly(run: Run, program: Program, seen: str) -> None:
    """Add a step to the result that says so: no step of the file is at fault."""
    name, line = program.command.name, program.command.where.rpartition(":")[2]
    result = _end(
        run,
        program.command.host,
        f"{program.kind} {name}",
        f"{name} to run until the end; {seen}",
        int(line) if line.isdecimal() else run.scenario.topology_line,
    )
    _add(run, replace(result, output=program.record(), exit_status=program.exit_status))


def caller_gone(run: Run, caller: EndedCaller) -> None:
    """Add a step that says that this calling process ended; after its last call, or that one would have failed."""
    what = f"calling process {caller.name}"
    reason = f"the {what} to run until the end; it had ended by itself: it {caller.how}"
    _add(run, _end(run, caller.host, what, reason, caller.line))


def _end(run: Run, host: str, what: str, expected: str, line: int) -> StepResult:
    return StepResult(
        index=str(len(run.scenario.steps) + 1),
        host=host,
        kind="end",
        title=f"end of {what}",
        outcome=Outcome.FAILED,
        reason=f"expected {expected}",
        started_s=run.elapsed_s,
        duration_s=0.0,
        line=line,
    )


def _add(run: Run, result: StepResult) -> None:
    run.results.append(result)
    run.listener.step_finished(run.scenario, result)


def now() -> str:
    """The wall clock, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


NO_OPTIONS = RunOptions()
SIGNALS_SEEN_S = 0.25
_SHELLS_SHOWN = 8  # hosts of a kept lab whose command is printed
_NAME_PART = 20  # characters of a file's name in that of a kept lab
CLEAN_UP_S = 15.0  # for what is left to do after the last step, whatever the scenario's own deadline


def run_many(
    scenarios: Sequence[Scenario],
    options: RunOptions = NO_OPTIONS,
    listener: Listener | None = None,
    cancellation: Cancellation | None = None,
    *,
    boot: Boot | None = None,
) -> RunResult:
    """The results of the scenarios, in the order of their turns, at most `options.jobs` of them at the same time.

    `cancellation.cancel()` ends the running ones promptly; they and those that have not begun are errors then, but no
    further repetition begins. KeyboardInterrupt does that too, and is raised again when every lab is gone. `boot`
    (taken over) was started ahead, for the first lab.

    Raises MachineError when this machine can have no labs at all; the first one, when all threads have ended.
    """
    listener = listener or SilentListener()
    cancellation = cancellation or Cancellation()
    started_at, started = now(), monotonic()
    seed = options.seed if options.seed is not None else draw_seed()
    results: dict[int, ScenarioResult] = {}
    raised: list[BaseException] = []
    failed = threading.Event()
    waiting = enumerate(_while_wanted(turns(scenarios, options, seed), options, cancellation, failed))
    lock = threading.Lock()
    boots = [boot] if boot is not None else []

    def work() -> None:
        while True:
            with lock:
                index, turn = next(waiting, (0, None))
                first_boot = boots.pop() if boots and turn is not None else None
            if turn is None:
                return
            try:
                result = _take(turn, options, listener, cancellation, first_boot)
                if result.outcome in (Outcome.FAILED, Outcome.ERROR):
                    failed.set()
                elif options.until_fail:
                    result = replace(result, steps=())  # of a run without end, what is kept must not grow much
                results[index] = result
            except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
                raised.append(error)
                cancellation.cancel(str(error) or type(error).__name__)
                return

    threads = [
        threading.Thread(target=work, name=f"labctl-scenario-{number}")
        for number in range(_workers(scenarios, options))
    ]
    for thread in threads:
        thread.start()
    _join(threads, cancellation)
    for left in boots:
        left.close()
    if raised:
        raise raised[0]
    done = tuple(results[index] for index in sorted(results))
    return RunResult(started_at, monotonic() - started, done, seed)


def _workers(scenarios: Sequence[Scenario], options: RunOptions) -> int:
    jobs = max(1, options.jobs)
    return min(jobs, len(scenarios) * (jobs if options.repeat is None else options.repeat))


def _while_wanted(
    coming: Iterator[Turn], options: RunOptions, cancellation: Cancellation, failed: threading.Event
) -> Iterator[Turn]:
    """The turns, until one has failed and that ends the run, or a repetition is over and the run was stopped."""
    repetition = 0
    for turn in coming:
        if options.until_fail and failed.is_set():
            return
        if turn.repetition > max(repetition, 1) and cancellation.reason:
            return
        repetition = turn.repetition
        yield turn


def _take(
    turn: Turn, options: RunOptions, listener: Listener, cancellation: Cancellation, boot: Boot | None
) -> ScenarioResult:
    own = replace(options, seed=turn.seed)
    return run_scenario(turn.scenario, own, listener, cancellation, boot=boot, repetition=turn.repetition)


def run_scenario(
    scenario: Scenario,
    options: RunOptions = NO_OPTIONS,
    listener: Listener | None = None,
    cancellation: Cancellation | None = None,
    *,
    boot: Boot | None = None,
    repetition: int = 0,
) -> ScenarioResult:
    """Run one scenario in a lab of its own, in this thread; nothing of the lab is left when it returns.

    Raises MachineError, but for LabImpossible. `boot` is taken over. `repetition` (0: the only run) goes into the
    result.
    """
    listener = listener or SilentListener()
    cancellation = cancellation or Cancellation()
    listener.scenario_started(scenario)
    finished = finisher(scenario, options.seed, repetition)

    with ExitStack() as stack:
        if boot is not None:
            stack.callback(boot.close)
        result = _before(scenario, cancellation, finished)
        if result is None:
            stack.pop_all()  # the lab takes the boot over
            result = _in_a_lab(scenario, options, listener, cancellation, boot, finished)
    listener.scenario_finished(scenario, result)
    return result


def _before(scenario: Scenario, cancellation: Cancellation, finished: Finished) -> ScenarioResult | None:
    from labctl.scenario.requirements import unmet

    if cancellation.reason:
        return finished(Outcome.ERROR, f"not run: {cancellation.reason}", interrupted=True)
    if missing := unmet(scenario.requires):
        return finished(Outcome.SKIPPED, missing)
    return None


def _in_a_lab(
    scenario: Scenario,
    options: RunOptions,
    listener: Listener,
    cancellation: Cancellation,
    boot: Boot | None,
    finished: Finished,
) -> ScenarioResult:
    from labctl.lab.client.handle import Lab
    from labctl.plan.build import build
    from labctl.scenario.network_steps import Changes

    steps: list[StepResult] = []
    try:
        with ExitStack() as stack:
            if options.lab is None:
                plan = _seeded(build(scenario.topology), scenario, options)
                paths = (str(scenario.directory), *_service_paths(plan))
                lab = _own_lab(scenario, plan, paths, options, boot)
                changes = Changes()
            else:
                lab = Lab.attach(options.lab)
                plan = lab.describe().plan
                changes = Changes(lab, scenario.hosts)
                stack.callback(_give_back, options.lab, changes)
            stack.callback(lab.close)
            if options.lab is None:
                _start_services(lab, plan, cancellation)
            own = options.lab is None
            run = begin(stack, scenario, lab, plan, changes, listener, seed=options.seed, results=steps, own_lab=own)

            def stop(reason: str) -> None:
                run.scope.cancel(reason)
                lab.close()

            cancellation.add(stop)
            stack.callback(cancellation.remove, stop)
            return _carry_out(run, finished, options)
    except LabImpossible as error:
        return impossible(scenario, error, steps, finished)
    except MachineError:
        raise
    except (LabctlError, RuntimeError) as error:
        if cancellation.reason:
            return finished(Outcome.ERROR, cancellation.reason, steps, interrupted=True)
        if not isinstance(error, LabctlError):
            raise
        return finished(Outcome.ERROR, str(error), steps)


def _own_lab(scenario: Scenario, plan: Plan, paths: tuple[str, ...], options: RunOptions, boot: Boot | None) -> Lab:
    """The scenario's own lab: without a name, or under one that can be published if it is to be kept."""
    from labctl.lab.client.handle import Lab

    if not options.keep_on_failure:
        return Lab.open(plan, visible_paths=paths, boot=boot)
    if boot is not None:
        boot.close()
    # Scenarios run in a thread each; `labctl ps` shows what the name says.
    name = re.sub(r"[^a-z0-9]+", "-", Path(scenario.file).stem.lower()).strip("-")[:_NAME_PART] or "lab"
    return Lab.up(plan, f"{name}-{threading.get_native_id()}", source=scenario.file, visible_paths=paths)


def begin(
    stack: ExitStack,
    scenario: Scenario,
    lab: Lab,
    plan: Plan,
    changes: Changes,
    listener: Listener,
    *,
    seed: int | None = None,
    results: list[StepResult] | None = None,
    own_lab: bool = False,
) -> Run:
    """A run of the scenario in a lab that is there, before its first step; `stack` closes what it holds.

    In its `own_lab` a service that has ended already ended in its time.
    """
    from labctl.programs.program import Programs
    from labctl.scenario.call_steps import Callers
    from labctl.scenario.observations import counters_at_start

    condition = threading.Condition()
    watcher = Watcher()
    programs = Programs(
        lab,
        condition,
        watcher,
        lambda host, process, stream, data: listener.output(scenario, host, process, stream, data),
    )
    stack.callback(programs.close)
    stack.callback(watcher.close)
    if any(node.services for node in plan.nodes):
        programs.add_services(plan, may_have_ended=not own_lab)
    started = monotonic()
    variables = Variables(dict(scenario.variables))
    callers = Callers(lab, variables, started)
    stack.callback(callers.close)
    return Run(
        scenario=scenario,
        plan=plan,
        lab=lab,
        listener=listener,
        variables=variables,
        started=started,
        changes=changes,
        scope=Scope(condition, started + scenario.timeout_s),
        watcher=watcher,
        programs=programs,
        callers=callers,
        counters=counters_at_start(lab, scenario),
        seed=seed,
        results=[] if results is None else results,
    )


def _seeded(plan: Plan, scenario: Scenario, options: RunOptions) -> Plan:
    """The plan whose links lose and delay packets by chance as the seed has it."""
    if options.seed is None or not any(each.impairment for node in scenario.topology.nodes for each in node.interfaces):
        return plan
    from labctl.plan.build import with_seed

    return with_seed(plan, options.seed)


def _service_paths(plan: Plan) -> tuple[str, ...]:
    if not any(node.services or node.commands or node.tree for node in plan.nodes):
        return ()
    from labctl.observe.services import visible_paths

    return visible_paths(plan)


def _start_services(lab: Lab, plan: Plan, cancellation: Cancellation) -> None:
    """The commands and services of the scenario's own lab, done before its first step; LabError when one fails."""
    if not any(node.services or node.commands for node in plan.nodes):
        return
    from labctl.observe import services

    def stop(reason: str) -> None:
        lab.close()

    cancellation.add(stop)
    try:
        services.start(lab, plan)
    finally:
        cancellation.remove(stop)


def _give_back(name: str, changes: Changes) -> None:
    """A running lab's network as it was before; by a handle of its own, for the scenario's may have been given up."""
    from labctl.lab.client.handle import Lab

    with Lab.attach(name) as lab:
        changes.restore(lab)


def _carry_out(run: Run, finished: Finished, options: RunOptions) -> ScenarioResult:
    """The steps, then the end of whatever still runs."""
    take_steps(run)
    if run.scope.cancelled:
        return finished(Outcome.ERROR, run.scope.cancelled, run.results, interrupted=True)
    if options.look_at_failure is not None and worst(run.results) is not None:
        options.look_at_failure(run.lab)
    if options.keep_on_failure and worst(run.results) is not None:
        kept = verdict(run, finished)
        if options.lab is None:
            run.lab.publish()
        run.listener.scenario_kept(run.scenario, kept, ways_in(run))
        # Ctrl-C, which may end what was kept at any moment from here on, is no part of the scenario.
        with suppress(LabctlError, RuntimeError):
            run.programs.stop_all(Scope(run.condition, monotonic() + CLEAN_UP_S))
        return kept
    for program in run.programs.stop_all(Scope(run.condition, monotonic() + CLEAN_UP_S)):
        end_badly(run, program, "it did not end, not even by SIGKILL")
    return verdict(run, finished)


def take_steps(run: Run) -> None:
    """The steps, until one fails, and a look at the programs and calling processes that they have started."""
    from labctl.scenario import last_look

    passed = run_steps(run)
    if not run.scope.cancelled:
        patience = {"quiet_s": 0.0, "within_s": last_look.BUSY_S} if passed else {}
        last_look.settle(run.lab, run.condition, run.programs.everything(), **patience)
    if run.scope.cancelled:
        return
    for program in run.programs.unaccounted():
        end_badly(run, program, f"it had ended by itself: it {program.failure}")
    for caller in run.callers.unaccounted():
        caller_gone(run, caller)
    if worst(run.results) is not None:
        run.listening = last_look.listeners(run)


def ways_in(run: Run) -> tuple[str, ...]:
    """Commands that enter the hosts of a kept lab from another terminal."""
    shells = (f"labctl shell --lab {run.lab.name} {host}" for host in run.scenario.hosts[:_SHELLS_SHOWN])
    return (*shells, f"labctl console {run.lab.name}")


def _join(threads: Sequence[threading.Thread], cancellation: Cancellation) -> None:
    """Wait for the threads; an interruption cancels the run first."""
    try:
        for thread in threads:
            # A signal that comes just before a wait without end is not seen: Python runs its handler after the wait.
            while thread.is_alive():
                thread.join(SIGNALS_SEEN_S)
    except BaseException as interruption:  # KeyboardInterrupt, or whatever a signal's handler raises
        cancellation.cancel(str(interruption) or "interrupted")
        for thread in threads:
            thread.join()
        raise


Begun = Callable[[float], None]  # told the moment (CLOCK_MONOTONIC) that the times of the calls count from


def nothing(started: float) -> None:
    """For who does not care when it began."""


@contextmanager
def held(
    scenario: Scenario,
    lab: Lab,
    plan: Plan,
    listener: Listener | None = None,
    *,
    seed: int | None = None,
    begun: Begun = nothing,
    cancellation: Cancellation | None = None,
) -> Iterator[ScenarioResult]:
    """Run the steps in that lab (borrowed), and give the result; at the end of the `with` the scenario is undone.

    Until then its programs run, its calling processes have their sockets open, and the links are as it left them. A
    scenario that fails gives its result, too, as does one that is cancelled; MachineError is raised.
    """
    from labctl.scenario.network_steps import Changes
    from labctl.scenario.requirements import unmet

    listener = listener or SilentListener()
    finished = finisher(scenario, seed)
    listener.scenario_started(scenario)
    if missing := unmet(scenario.requires):
        result = finished(Outcome.SKIPPED, missing)
        listener.scenario_finished(scenario, result)
        yield result
        return
    with ExitStack() as stack:
        changes = Changes(lab, scenario.hosts)
        stack.callback(_restore, changes, lab)
        run = begin(stack, scenario, lab, plan, changes, listener, seed=seed)
        stack.callback(_stop, run)
        begun(run.started)
        if cancellation is not None:

            def stop(reason: str) -> None:
                run.scope.cancel(reason)
                run.callers.interrupt()

            cancellation.add(stop)
            stack.callback(cancellation.remove, stop)
        result = _taken(run, finished)
        listener.scenario_finished(scenario, result)
        yield result


def _taken(run: Run, finished: Callable[..., ScenarioResult]) -> ScenarioResult:
    try:
        take_steps(run)
    except MachineError:
        raise
    except LabctlError as error:
        return finished(Outcome.ERROR, str(error), run.results)
    if run.scope.cancelled:
        return finished(Outcome.ERROR, run.scope.cancelled, run.results, interrupted=True)
    return verdict(run, finished)


def _stop(run: Run) -> None:
    """End its programs. One that outlives even SIGKILL ends with the lab."""
    run.programs.stop_all(Scope(run.condition, monotonic() + CLEAN_UP_S))


def _restore(changes: Changes, lab: Lab) -> None:
    if lab.is_open:
        try:
            changes.restore(lab)
        except LabGone:
            return  # and with it all that could be restored
