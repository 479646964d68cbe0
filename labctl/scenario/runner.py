"""Run scenarios: each in a thread and usually a lab of its own, step by step, to a result.

The result has what went wrong in the scenario. A fault of this machine (MachineError) is raised, except LabImpossible:
other scenarios may still be possible.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.clock import monotonic
from labctl.errors import LabctlError, LabGone, LabImpossible, MachineError
from labctl.programs.output import Stream
from labctl.programs.waiting import Scope, Watcher
from labctl.scenario.model import Cancellation, RunOptions, Scenario
from labctl.scenario.requirements import unmet
from labctl.scenario.results import Listener, Outcome, RunResult, ScenarioResult, StepResult
from labctl.scenario.run_order import ScheduledRun, draw_seed, schedule
from labctl.scenario.scenario_recording import ScenarioRecording
from labctl.scenario.state import Run, Variables
from labctl.scenario.steps import run_steps, step_order
from labctl.structs import replace
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.services import Failure
    from labctl.plan.operations import Plan
    from labctl.programs.program import Program, ServiceTraces
    from labctl.scenario.call_steps import EndedCaller
    from labctl.scenario.network_steps import Changes
    from labctl.timeline.recording import Recording


SIGNAL_CHECK_S = 0.25
_SHELLS_SHOWN = 8  # hosts of a kept lab whose command is printed
_LAB_NAME_CHARACTERS = 20  # of the file name, in the name of a kept lab
CLEAN_UP_S = 15.0  # for the work after the last step, whatever the deadline of the scenario

Finished = Callable[..., ScenarioResult]


def run_many(
    scenarios: Sequence[Scenario],
    options: RunOptions | None = None,
    listener: Listener | None = None,
    cancellation: Cancellation | None = None,
) -> RunResult:
    """Run the scenarios, at most `options.jobs` at the same time; return the results in the order of the schedule.

    `cancellation.cancel()` ends the running scenarios promptly; they and those not begun become errors, but no further
    repetition begins. KeyboardInterrupt does the same and is raised again when every lab has ended.

    Raises: MachineError if this machine can run no lab; the first one, when all threads have ended.
    """
    options = options or RunOptions()
    listener = listener or Listener()
    cancellation = cancellation or Cancellation()
    started_at, started = _now(), monotonic()
    seed = options.seed if options.seed is not None else draw_seed()
    results: dict[int, ScenarioResult] = {}
    raised: list[BaseException] = []
    failed = threading.Event()
    waiting = enumerate(_until_failure_or_cancel(schedule(scenarios, options, seed), options, cancellation, failed))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                index, run = next(waiting, (0, None))
            if run is None:
                return
            try:
                own = replace(options, seed=run.seed)
                result = run_scenario(run.scenario, own, listener, cancellation, repetition=run.repetition)
                if result.outcome in (Outcome.FAILED, Outcome.ERROR):
                    failed.set()
                elif options.until_fail:
                    result = replace(result, steps=())  # bounds the memory of a run without end
                results[index] = result
            except BaseException as error:  # noqa: BLE001  # the waiting thread raises it
                raised.append(error)
                cancellation.cancel(str(error) or type(error).__name__)
                return

    jobs = max(1, options.jobs)
    workers = min(jobs, len(scenarios) * (jobs if options.repeat is None else options.repeat))
    threads = [threading.Thread(target=work, name=f"labctl-scenario-{number}") for number in range(workers)]
    _run_threads(threads, cancellation)
    if raised:
        raise raised[0]
    done = tuple(results[index] for index in sorted(results))
    return RunResult(started_at, monotonic() - started, done, seed)


def _until_failure_or_cancel(
    runs: Iterator[ScheduledRun], options: RunOptions, cancellation: Cancellation, failed: threading.Event
) -> Iterator[ScheduledRun]:
    """Yield the runs until one fails, with `until_fail`, or until the end of a repetition after a cancellation."""
    repetition = 0
    for run in runs:
        if options.until_fail and failed.is_set():
            return
        if run.repetition > max(repetition, 1) and cancellation.reason:
            return
        repetition = run.repetition
        yield run


def _run_threads(threads: Sequence[threading.Thread], cancellation: Cancellation) -> None:
    """Start the threads and wait for them; an interruption, or one that cannot be started, cancels the run first."""
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            # Python runs a signal handler only after an endless wait if the signal arrives just before it.
            while thread.is_alive():
                thread.join(SIGNAL_CHECK_S)
    except BaseException as interruption:  # KeyboardInterrupt, or an exception of a signal handler
        cancellation.cancel(str(interruption) or "interrupted")
        for thread in threads:
            if thread.ident is not None:  # it was started
                thread.join()
        raise


def run_scenario(
    scenario: Scenario,
    options: RunOptions | None = None,
    listener: Listener | None = None,
    cancellation: Cancellation | None = None,
    *,
    repetition: int = 0,
) -> ScenarioResult:
    """Run one scenario in this thread; nothing of its lab remains afterwards.

    `repetition` (0: the only run) goes into the result.

    Raises: MachineError, except LabImpossible.
    """
    options = options or RunOptions()
    listener = listener or Listener()
    cancellation = cancellation or Cancellation()
    listener.scenario_started(scenario)
    finished = _finisher(scenario, options.seed, repetition, options)
    if cancellation.reason:
        result = finished(Outcome.ERROR, f"not run: {cancellation.reason}", interrupted=True)
    elif missing := unmet(scenario.requires):
        result = finished(Outcome.SKIPPED, missing)
    else:
        result = _run_in_lab(scenario, options, listener, cancellation, finished)
    listener.scenario_finished(scenario, result)
    return result


def _run_in_lab(
    scenario: Scenario,
    options: RunOptions,
    listener: Listener,
    cancellation: Cancellation,
    finished: Finished,
) -> ScenarioResult:
    from labctl.lab.client.handle import Lab
    from labctl.programs.program import ServiceTraces
    from labctl.scenario.network_steps import Changes

    results: list[StepResult] = []
    try:
        with ExitStack() as after_lab, ExitStack() as stack:
            ScenarioRecording.start_ahead(options.record)
            if options.lab is None:
                plan, lab = _own_lab(scenario, options)
                changes = Changes()
            else:
                lab = Lab.attach(options.lab)
                plan = lab.describe().plan
                changes = Changes(lab, scenario.hosts)
                stack.callback(_restore_by_name, options.lab, changes)
            stack.callback(lab.close)
            recording = ScenarioRecording.start(lab, plan, scenario, options.record)
            stack.callback(recording.close)
            if options.lab is None:
                traces = ServiceTraces(recording.tracer, everything=options.trace)
                after_lab.callback(traces.close)
                for failure in _start_services(lab, plan, cancellation, traces):
                    written = f"{failure}\n".encode()
                    listener.output(scenario, failure.node, failure.program, Stream.STDERR, written)
            run = _begin(
                stack,
                scenario,
                lab,
                plan,
                changes,
                listener,
                recording,
                seed=options.seed,
                results=results,
                own_lab=options.lab is None,
                traces_everything=options.trace,
            )

            def stop(reason: str) -> None:
                run.scope.cancel(reason)
                lab.close()

            cancellation.add(stop)
            stack.callback(cancellation.remove, stop)
            return _run_and_clean_up(run, finished, options)
    except LabImpossible as error:
        about = _worst(results)
        reason = str(error) if about is None else _reason(scenario, about)
        return finished(Outcome.ERROR, reason, results, impossible=True)
    except MachineError:
        raise
    except (LabctlError, RuntimeError) as error:
        if cancellation.reason:
            return finished(Outcome.ERROR, cancellation.reason, results, interrupted=True)
        if not isinstance(error, LabctlError):
            raise
        return finished(Outcome.ERROR, str(error), results)


def _own_lab(scenario: Scenario, options: RunOptions) -> tuple[Plan, Lab]:
    """Create the scenario's own lab: without a name, or with one that can be published if the lab may be kept."""
    from labctl.lab.client.handle import Lab
    from labctl.plan.build import build

    plan = build(scenario.topology)
    impaired = any(each.impairment for node in scenario.topology.nodes for each in node.interfaces)
    if options.seed is not None and impaired:
        from labctl.plan.build import with_seed

        plan = with_seed(plan, options.seed)
    paths = [str(scenario.directory)]
    if any(node.services or node.commands or node.tree for node in plan.nodes):
        from labctl.observe.services import visible_paths

        paths += visible_paths(plan)
    if not options.keep_on_failure:
        return plan, Lab.open(plan, visible_paths=paths)
    name = re.sub(r"[^a-z0-9]+", "-", Path(scenario.file).stem.lower()).strip("-")[:_LAB_NAME_CHARACTERS] or "lab"
    unique = f"{name}-{threading.get_native_id()}"  # scenarios run in a thread each
    return plan, Lab.up(plan, unique, source=scenario.file, visible_paths=paths)


def _start_services(lab: Lab, plan: Plan, cancellation: Cancellation, traces: ServiceTraces) -> tuple[Failure, ...]:
    """Run the commands and start the services of the scenario's own lab; return failures of those that may fail.

    Raises: LabError if another one fails.
    """
    if not any(node.services or node.commands for node in plan.nodes):
        return ()
    from labctl.observe import services

    def stop(reason: str) -> None:
        lab.close()

    cancellation.add(stop)
    try:
        return services.start(lab, plan, traces=traces)
    finally:
        cancellation.remove(stop)


def _begin(
    stack: ExitStack,
    scenario: Scenario,
    lab: Lab,
    plan: Plan,
    changes: Changes,
    listener: Listener,
    recording: ScenarioRecording,
    *,
    seed: int | None = None,
    results: list[StepResult] | None = None,
    own_lab: bool = False,
    traces_everything: bool = False,
) -> Run:
    """Return a run of the scenario in the lab, before its first step; `stack` closes what it opens.

    A service of another lab may have ended before the scenario began.
    """
    from labctl.programs.program import Programs
    from labctl.scenario.call_steps import Callers, hosts_that_call_first
    from labctl.scenario.observations import counters_at_start

    condition = threading.Condition()
    watcher = Watcher()
    started = monotonic()
    listener = recording.attach(scenario, listener, round(started * 1e9))
    programs = Programs(lab, condition, watcher, lambda *output: listener.output(scenario, *output))
    programs.tracer, programs.traces_everything = recording.tracer, traces_everything
    stack.callback(programs.close)
    stack.callback(watcher.close)
    if any(node.services for node in plan.nodes):
        programs.add_services(plan, may_have_ended=not own_lab)
    variables = Variables(dict(scenario.variables))
    callers = Callers(lab, variables, started)
    stack.callback(callers.close)
    if hosts := hosts_that_call_first(scenario.steps):
        callers.start_ahead(hosts)
    recording.wait_ready()
    return Run(
        scenario=scenario,
        plan=plan,
        lab=lab,
        listener=listener,
        variables=variables,
        started=started,
        changes=changes,
        recording=recording,
        owns_lab=own_lab,
        scope=Scope(condition, started + scenario.timeout_s),
        watcher=watcher,
        programs=programs,
        callers=callers,
        counters=counters_at_start(lab, scenario),
        seed=seed,
        results=[] if results is None else results,
    )


def _restore_by_name(name: str, changes: Changes) -> None:
    """Restore the network of a running lab, through a handle of its own: the scenario's may be closed."""
    from labctl.lab.client.handle import Lab

    with Lab.attach(name) as lab:
        changes.restore(lab)


def _run_and_clean_up(run: Run, finished: Finished, options: RunOptions) -> ScenarioResult:
    """Run the steps, then end every program that still runs."""
    _run_and_check(run)
    if run.scope.cancelled:
        return _conclude(run, finished(Outcome.ERROR, run.scope.cancelled, run.results, interrupted=True))
    has_failed = _worst(run.results) is not None
    if options.look_at_failure is not None and has_failed:
        options.look_at_failure(run.lab)
    if options.keep_on_failure and has_failed:
        kept = _conclude(run, _verdict(run, finished))
        if options.lab is None:
            run.lab.publish()
        run.listener.scenario_kept(run.scenario, kept, _commands_to_enter(run), run.lab.fileno())
        # Ctrl-C, which may end the kept lab at any moment from here on, is not part of the scenario.
        with suppress(LabctlError, RuntimeError):
            _stop_programs(run)
        return kept
    for program in _stop_programs(run):
        _add_program_step(run, program, "it did not end, not even by SIGKILL")
    return _conclude(run, _verdict(run, finished))


def _run_and_check(run: Run) -> None:
    """Run the steps until one fails, then check the programs and calling processes that they have started."""
    from labctl.scenario import state

    passed = run_steps(run)
    if not run.scope.cancelled:
        patience = {"quiet_s": 0.0, "within_s": state.BUSY_S} if passed else {}
        state.settle(run.lab, run.condition, run.programs.everything(), **patience)
    if run.scope.cancelled:
        return
    for program in run.programs.unaccounted():
        _add_program_step(run, program, f"it had ended by itself: it {program.failure}")
    for caller in run.callers.unaccounted():
        _add_caller_step(run, caller)
    if _worst(run.results) is not None:
        run.listening = state.listeners(run)
        took_part = state.hosts_that_took_part(run)
        others = (node.name for node in run.scenario.topology.nodes if node.kind is not NodeKind.SWITCH)
        since_ns = round(run.started * 1e9) if run.owns_lab else None
        run.recording.read_failure(run.lab, dict.fromkeys((*took_part, *others)), since_ns=since_ns)


def _conclude(run: Run, result: ScenarioResult) -> ScenarioResult:
    """End the recording; return the result with its explanation."""
    return run.recording.conclude(run.scenario, result, _worst(run.results), run.programs.everything(), run.listener)


def _stop_programs(run: Run) -> list[Program]:
    """End the programs of the run; return those that survive SIGKILL."""
    return run.programs.stop_all(Scope(run.condition, monotonic() + CLEAN_UP_S))


def _commands_to_enter(run: Run) -> tuple[str, ...]:
    """Return commands that enter the hosts of a kept lab from another terminal."""
    shells = (f"labctl shell --lab {run.lab.name} {host}" for host in run.scenario.hosts[:_SHELLS_SHOWN])
    return (*shells, f"labctl console {run.lab.name}")


@contextmanager
def run_and_hold(
    scenario: Scenario,
    lab: Lab,
    plan: Plan,
    listener: Listener | None = None,
    *,
    seed: int | None = None,
    on_start: Callable[[float], None] | None = None,
    cancellation: Cancellation | None = None,
    recording: Recording | None = None,
) -> Iterator[ScenarioResult]:
    """Run the steps in a lab of the caller and yield the result; at the end of the `with`, undo the scenario.

    Until then its programs run, its calling processes have their sockets open, and the links are as it left them. A
    scenario that fails or is cancelled yields its result, too. `on_start` receives the moment (CLOCK_MONOTONIC) from
    which the times of the calls count. `recording` is one of the lab, which goes on: it receives the scenario's events.

    Raises: MachineError.
    """
    from labctl.scenario.network_steps import Changes

    listener = listener or Listener()
    finished = _finisher(scenario, seed)
    listener.scenario_started(scenario)
    if missing := unmet(scenario.requires):
        result = finished(Outcome.SKIPPED, missing)
        listener.scenario_finished(scenario, result)
        yield result
        return
    with ExitStack() as stack:
        changes = Changes(lab, scenario.hosts)
        stack.callback(_restore, changes, lab)
        recorded = ScenarioRecording(recording, is_borrowed=True)
        run = _begin(stack, scenario, lab, plan, changes, listener, recorded, seed=seed)
        stack.callback(_stop_programs, run)  # a program that survives SIGKILL ends with the lab
        if on_start is not None:
            on_start(run.started)
        if cancellation is not None:

            def stop(reason: str) -> None:
                run.scope.cancel(reason)
                run.callers.interrupt()

            cancellation.add(stop)
            stack.callback(cancellation.remove, stop)
        try:
            _run_and_check(run)
            if run.scope.cancelled:
                result = finished(Outcome.ERROR, run.scope.cancelled, run.results, interrupted=True)
            else:
                result = _conclude(run, _verdict(run, finished))
        except MachineError:
            raise
        except LabctlError as error:
            result = finished(Outcome.ERROR, str(error), run.results)
        listener.scenario_finished(scenario, result)
        yield result


def _restore(changes: Changes, lab: Lab) -> None:
    if lab.is_open:
        with suppress(LabGone):
            changes.restore(lab)


# results


def _finisher(
    scenario: Scenario, seed: int | None = None, repetition: int = 0, options: RunOptions | None = None
) -> Finished:
    """Return a function that makes the result of a run that begins now, from its outcome, reason, steps and details.

    With `options`, `labctl run` can run it again.
    """
    started = monotonic()
    unfinished = ScenarioResult(
        name=scenario.name,
        file=scenario.file,
        about=scenario.about,
        outcome=Outcome.ERROR,
        reason="",
        started_at=_now(),
        duration_s=0.0,
        hosts=scenario.hosts,
        seed=seed,
        repetition=repetition,
    )

    def finished(outcome: Outcome, reason: str, steps: Sequence[StepResult] = (), **details: Any) -> ScenarioResult:
        ordered = tuple(sorted(steps, key=step_order))
        duration_s = monotonic() - started
        if options is not None and outcome in (Outcome.FAILED, Outcome.ERROR):
            details["rerun"] = _rerun(scenario, options)
        return replace(unfinished, outcome=outcome, reason=reason, steps=ordered, duration_s=duration_s, **details)

    return finished


def _rerun(scenario: Scenario, options: RunOptions) -> str:
    import shlex

    seed = () if options.seed is None else ("--seed", str(options.seed))
    lab = () if options.lab is None else ("--lab", options.lab)
    return shlex.join(("labctl", "run", scenario.file, *lab, *options.rerun, *seed))


def _verdict(run: Run, finished: Finished) -> ScenarioResult:
    """Return the result of a run whose steps have ended: the outcome of the worst step."""
    from labctl.scenario.state import programs

    about = _worst(run.results)
    outcome, reason = (Outcome.PASSED, "") if about is None else (about.outcome, _reason(run.scenario, about))
    faults = tuple(run.faults[number] for number in sorted(run.faults))
    return finished(outcome, reason, run.results, programs=programs(run), listening=run.listening, faults=faults)


def _worst(results: Sequence[StepResult]) -> StepResult | None:
    """Return the step that the scenario's failure is about; None if no step failed.

    Errors precede failures; steps of the file precede added ones; the deepest (the cause) precedes its containers.
    """
    bad = [result for result in results if result.outcome in (Outcome.FAILED, Outcome.ERROR)]
    return min(
        bad,
        key=lambda each: (
            each.outcome is not Outcome.ERROR,
            each.kind == "end",
            -each.index.count("."),
            each.started_s,
        ),
        default=None,
    )


def _reason(scenario: Scenario, about: StepResult) -> str:
    return f"step {about.index} ({scenario.file}:{about.line}), {about.title}: {about.reason}"


def _add_program_step(run: Run, program: Program, found: str) -> None:
    """Add a step that reports the end of a program: no step of the file failed."""
    name, line = program.command.name, program.command.where.rpartition(":")[2]
    result = _end_step(
        run,
        program.command.host,
        f"{program.kind} {name}",
        f"{name} to run until the end; {found}",
        int(line) if line.isdecimal() else run.scenario.topology_line,
    )
    _add(run, replace(result, output=program.record(), exit_status=program.exit_status))


def _add_caller_step(run: Run, caller: EndedCaller) -> None:
    """Add a step that reports the end of a calling process after its last call."""
    what = f"calling process {caller.name}"
    reason = f"the {what} to run until the end; it had ended by itself: it {caller.how}"
    _add(run, _end_step(run, caller.host, what, reason, caller.line))


def _end_step(run: Run, host: str, what: str, expected: str, line: int) -> StepResult:
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


def _now() -> str:
    """Return the wall-clock time in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
