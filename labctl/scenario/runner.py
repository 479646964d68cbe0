"""Runs scenarios: each in a lab of its own and a thread of its own, step by step, to a result.

What went wrong in the scenario is in the result. What is wrong with this machine (MachineError) is raised, unless
other scenarios may run on it (LabImpossible).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import LabctlError, LabImpossible, MachineError
from labctl.scenario.listener import Listener, SilentListener
from labctl.scenario.model import Scenario
from labctl.scenario.options import Cancellation, RunOptions
from labctl.scenario.result import Outcome, RunResult, ScenarioResult, StepResult
from labctl.scenario.sequence import run_steps
from labctl.scenario.state import Run
from labctl.scenario.turns import Turn, draw_seed, turns
from labctl.scenario.variables import Variables
from labctl.scenario.verdict import Finished, caller_gone, end_badly, finisher, impossible, now, verdict, worst
from labctl.scenario.waiting import Scope, Watcher
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.lab.handle import Lab
    from labctl.lab.starting import Boot
    from labctl.plan.operations import Plan
    from labctl.scenario.changes import Changes

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
    from labctl.scenario.features import unmet

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
    from labctl import plan as planning
    from labctl.lab.handle import Lab
    from labctl.scenario.changes import Changes

    steps: list[StepResult] = []
    try:
        with ExitStack() as stack:
            if options.lab is None:
                plan = _seeded(planning.build(scenario.topology), scenario, options)
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
    from labctl.lab.handle import Lab

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
    from labctl.scenario.callsteps import Callers
    from labctl.scenario.looking import counters_at_start
    from labctl.scenario.programs import Programs

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
    from labctl.plan import with_seed

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
    from labctl.lab.handle import Lab

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
