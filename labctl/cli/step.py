"""`labctl run --step`: run a scenario one statement at a time, and look at the hosts in between."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from labctl.cli import play_lines
from labctl.cli.cancellation import STOPPING, cancelled_by_signals
from labctl.cli.exit import Stopped
from labctl.cli.play import open_lab
from labctl.cli.play_session import Exit, PlaySession
from labctl.cli.play_view import record_lines
from labctl.cli.prompt import completion, history, is_interrupt, signals_end_the_prompt
from labctl.clock import monotonic_ns
from labctl.errors import InputError
from labctl.report import plain
from labctl.report.terminal import INK_OF_OUTCOME, Ink, is_terminal
from labctl.scenario.language.syntax import Program
from labctl.scenario.model import Cancellation, Scenario, Step, StepKind, caller_name
from labctl.scenario.results import CallRecord, Listener, Outcome, ScenarioInfo, ScenarioResult, StepResult
from labctl.structs import replace

if TYPE_CHECKING:
    pass

WITHOUT_END_S = 10 * 86400.0  # the time of a scenario that waits for a person
_HELP = (
    "Enter, n   the next statement",
    "s          the rest of this step",
    "c          everything until the end",
    "q          end here",
    "HOST: CALL a call of your own, in another process of the host",
    "why  sockets  wire on|off  vars  help CALL",
)
_OUTPUT_LINES = 10


def run_step_by_step(scenarios: list[Scenario], lab_name: str | None, seed: int | None) -> ScenarioResult:
    """Run the scenario, of which there must be one, for a person at the terminal. InputError; Stopped by a signal."""
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        raise InputError("labctl run --step: standard input and output must be a terminal. Leave out --step.")
    if len(scenarios) != 1:
        raise InputError(f"labctl run --step: runs one scenario, got {len(scenarios)}. Give one file.")
    scenario = replace(scenarios[0], steps=by_statement(scenarios[0].steps), timeout_s=WITHOUT_END_S)
    from labctl.plan.build import build
    from labctl.scenario.runner import run_and_hold

    cancellation = Cancellation()
    with ExitStack() as stack:
        if lab_name is not None:
            from labctl.cli.lab_selection import attach

            lab = stack.enter_context(attach(lab_name))
            plan = lab.describe().plan
        else:
            plan = build(scenario.topology)
            lab = open_lab(stack, plan, (scenario.directory,))
        session = stack.enter_context(closing(PlaySession(lab, scenario.topology, "", interactive=True)))
        stepper = Stepper(session, scenario, cancellation)
        stack.enter_context(history("play"))
        stack.enter_context(completion(session.candidates, play_lines.DELIMITERS))
        stack.enter_context(signals_end_the_prompt())
        received = stack.enter_context(cancelled_by_signals(cancellation))
        session.wire.wait_ready()
        recording = session.wire.recording
        with run_and_hold(
            scenario,
            lab,
            plan,
            stepper,
            seed=seed,
            on_start=stepper.begin,
            cancellation=cancellation,
            recording=recording,
        ) as result:
            session.screen.write(["", *plain.verdict(result, session.screen.look)])
            if not received and not stepper.has_quit:
                stepper.look_around()
        if received:
            raise Stopped(received[0], "the lab was removed")
    return result


def by_statement(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Return steps of which each has one statement. Those of one step keep its number, and only the first its name.

    Branches of `parallel` stay as they are.
    """
    return tuple(each for step in steps for each in _split(step))


def _split(step: Step) -> Iterator[Step]:
    if step.kind is StepKind.REPEAT:
        yield replace(step, branches=tuple(by_statement(branch) for branch in step.branches), within_s=None)
    elif step.script is None or len(step.script.statements) < 2:
        yield step
    else:
        for number, statement in enumerate(step.script.statements):
            title = step.title if number == 0 else f"calls on {step.host}"
            line = step.text_line + statement.span.line
            yield replace(step, script=Program((statement,)), title=title, line=line if number else step.line)


class Stepper(Listener):
    """Waits for the person before each statement and shows what it did. Steps in `parallel` do not wait."""

    def __init__(self, session: PlaySession, scenario: Scenario, cancellation: Cancellation) -> None:
        self.has_quit = False
        self._session = session
        self._cancellation = cancellation
        self._statements: Mapping[tuple[int, str], str] = {
            (step.line, step.kind): step.script.statements[0].text
            for step in scenario.walk()
            if step.script is not None and len(step.script.statements) == 1
        }
        self._processes = {step.line: getattr(step.body, "process", "") for step in scenario.walk()}
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._records: list[CallRecord] = []
        self._shown = ""  # index of the step whose heading was shown last
        self._runs_until = ""  # `step`: to the end of the step, `end`: of the scenario
        self._has_helped = False
        self._offset_s = 0.0

    def begin(self, started_s: float) -> None:
        """Take the moment (CLOCK_MONOTONIC) from which the times of calls count."""
        self._offset_s = started_s - self._session.wire.origin_ns / 1e9

    # what the run reports

    def step_started(
        self, scenario: ScenarioInfo, index: str, kind: str, host: str | None, title: str, line: int
    ) -> None:
        """Show the statement, and wait."""
        if threading.get_ident() != self._thread:
            return
        screen, look = self._session.screen, self._session.screen.look
        if index != self._shown:
            self._shown = index
            if self._runs_until == "step":
                self._runs_until = ""
            rule = look.glyphs.line * 2
            screen.line(f"{rule} step {index}: {title} {rule}", Ink.STRONG)
        statement = self._statements.get((line, kind))
        if statement is not None:
            screen.line(f"{caller_name(host or '', self._processes.get(line, ''))}> {statement}", Ink.STRONG)
        if not self._runs_until and not self.has_quit:
            self._wait(f"step {index}")
        self._session.line_ns = monotonic_ns()

    def call_begun(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """Keep it until the end of its step."""
        with self._lock:
            self._records.append(call)

    def call_finished(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """Keep it until the end of its step."""
        with self._lock:
            self._records = [each for each in self._records if each.started_s != call.started_s] + [call]

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None:
        """Show what happened."""
        if threading.get_ident() != self._thread:
            return
        session = self._session
        with self._lock:
            records, self._records = self._records, []
        before = session.view.counters
        ladder = session.wire.news(session.line_ns)
        lines = [line for each in records for line in record_lines(each, session.screen.look, is_drawn=bool(ladder))]
        ending = self._ending(step, has_output=not ladder)
        session.screen.write(ladder + lines + ending + session.view.changed())
        for each in records:
            session.remember(replace(each, started_s=each.started_s + self._offset_s), before)

    def _ending(self, step: StepResult, *, has_output: bool) -> list[str]:
        """Return the lines about the outcome; with the output of a program, if no ladder shows it."""
        look = self._session.screen.look
        lines: list[str] = []
        if step.output is not None and has_output:
            lines += plain.output(step.output, look, blanks=2, lines=_OUTPUT_LINES)
        if step.outcome is not Outcome.PASSED or step.kind != StepKind.CALLS:
            reason = step.reason.partition("\n")[0] or step.outcome.value
            lines.append(look.paint(f"  {look.glyphs.mark(step.outcome)} {reason}", INK_OF_OUTCOME[step.outcome.value]))
        return lines

    # the person

    def look_around(self) -> None:
        """Wait once more at the end, while the programs and sockets of the scenario still exist."""
        if self._session.view.hosts:
            self._session.screen.line("The lab is still there; Enter ends it.", Ink.FAINT)
            self._wait("end")

    def _wait(self, where: str) -> None:
        """Read commands until one goes on."""
        screen = self._session.screen
        if not self._has_helped:
            self._has_helped = True
            screen.line("Enter: next statement, s: step, c: continue, q: quit, ?: help", Ink.FAINT)
        while not self._cancellation.reason:
            try:
                with _signals_raise():
                    line = input(f"{where}> ").strip()
            except EOFError:
                screen.line()
                line = "q"
            except KeyboardInterrupt as stopped:
                screen.line("^C")
                if not is_interrupt(stopped):
                    signal.raise_signal(getattr(stopped, "number", signal.SIGTERM))  # which cancels the run
                continue
            if self._obeys(line):
                return

    def _obeys(self, line: str) -> bool:
        """Carry out a command; return whether the run goes on."""
        match line:
            case "" | "n":
                return True
            case "s" | "c":
                self._runs_until = "step" if line == "s" else "end"
                return True
            case "?" | "help":
                self._session.screen.write([f"  {each}" for each in _HELP])
            case "q" | "quit" | "exit":
                self._quit()
                return True
            case _:
                try:
                    self._session.run_line(line, echo=False)
                except Exit:
                    self._quit()
                    return True
        return False

    def _quit(self) -> None:
        self.has_quit = True
        self._cancellation.cancel("ended by you")


@contextmanager
def _signals_raise() -> Iterator[None]:
    """A context in which the signals that cancel a run raise Stopped, which ends the prompt."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
