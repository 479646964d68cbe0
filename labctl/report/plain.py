"""Results as lines for people: reports of scenarios, failures, one line for each, the summary.

What the hosts did is drawn by labctl.report.ladder, from the recording or, without one, from the result's own calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.printable import printable
from labctl.programs.output import OutputRecord
from labctl.report import ladder
from labctl.report.terminal import INK_OF_OUTCOME, UNICODE, Ink, Look, cells, seconds, shorten, wrap
from labctl.scenario.results import (
    CallRecord,
    Outcome,
    ProgramRecord,
    RunResult,
    ScenarioInfo,
    ScenarioResult,
    StepResult,
)
from labctl.scenario.timeline_events import timeline_of
from labctl.structs import replace
from labctl.timeline.events import Mark, Source

if TYPE_CHECKING:
    from labctl.timeline.events import AnyEvent, Timeline

_WIDE = 120  # cells; with less, a report has no description, so that a short conversation fits a screen


LAST_LINES = 20  # of each stream of a program that no failed step is about
FAILURES = (Outcome.FAILED, Outcome.ERROR)


def scenario_report(result: ScenarioResult, look: Look, timeline: Timeline | None = None) -> list[str]:
    """Return heading, ladder and verdict, with the reason of a failure. The ladder is that of the recording, if any."""
    talk = conversation(result, look, timeline)
    return [*heading(result, look), *talk, *conclusion(result, look, timeline)]


def conclusion(result: ScenarioResult, look: Look, timeline: Timeline | None = None) -> list[str]:
    """Return the verdict, the reason of a failure, and what the recording does not have: after a pass, in short."""
    lines = verdict(result, look, packets=timeline is None)
    if timeline is None or result.outcome is not Outcome.PASSED:
        return lines + (ladder.endings(timeline, look) if timeline is not None else [])
    if timeline.missing:
        subjects = "; ".join(dict.fromkeys(each.partition(": ")[0] for each in timeline.missing))
        room = look.width - cells(verdict(result, Look(look.width, glyphs=look.glyphs))[0]) - 2
        lines[0] += "  " + look.paint(
            shorten(f"not recorded: {printable(subjects)}", room, look.glyphs.goes_on), Ink.FAINT
        )
    return lines + ladder.endings(replace(timeline, missing=()), look)


def conversation(result: ScenarioResult, look: Look, timeline: Timeline | None = None) -> list[str]:
    """Return the ladder of the recording, or of the result's own calls; no line if no step began."""
    timeline = timeline or timeline_of(result)
    return ladder.conversation(replace(timeline, events=tuple(shown(timeline.events))), look)


def shown(events: Iterable[AnyEvent]) -> Iterator[AnyEvent]:
    """Return the events that a report draws: not the output and ends of programs; `failure` shows those that matter."""
    return (
        event
        for event in events
        if event.source not in (Source.OUTPUT, Source.MARKS) or (isinstance(event, Mark) and event.fault)
    )


def heading(scenario: ScenarioInfo | ScenarioResult, look: Look) -> list[str]:
    """Return the scenario's name and file, on one line if they fit, and with enough room its description."""
    name, file = printable(scenario.name), printable(_relative(scenario.file))
    left = look.width - cells(name) - 2
    if file and 10 < left < cells(file):
        file = look.glyphs.goes_on + file[cells(file) + cells(look.glyphs.goes_on) - left :]
    if file and cells(file) <= left:
        lines = [look.paint(name, Ink.STRONG) + " " * (left + 2 - cells(file)) + look.paint(file, Ink.FAINT)]
    else:
        lines = [look.paint(line, Ink.STRONG) for line in wrap(name, look.width, indent="  ")]
    if scenario.about and look.width >= _WIDE:
        lines += wrap(printable(scenario.about).rstrip("\n"), look.width)
    return lines


def _relative(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def call_text(call: CallRecord, *, named: bool) -> str:
    """Return the call with all its arguments, after its process's name if there are several (`named`)."""
    name = f"{call.process}: " if named and call.process else ""
    return name + printable(call.call).replace("\n", "\\n")


def result_text(call: CallRecord, look: Look, *, beside: str = "") -> str:
    """Return `→ 4 10.0.0.1:40000` or `→ -1 ECONNREFUSED (Connection refused)`; `…` for a call that has not returned.

    The value is omitted if the text `beside` has it: `recv(3, "hello", 100, 0) → 5`.
    """
    glyphs = look.glyphs
    if call.returned is None:
        return glyphs.goes_on
    text = f"{glyphs.returns} {call.returned}"
    if call.errno:
        text += f" {call.errno}" + (f" ({call.errno_meaning})" if call.errno_meaning else "")
    if call.value and call.value.split(" ")[0].rstrip(",") not in beside:
        text += "  " + printable(call.value).replace("\n", "\\n")
    if call.repeated > 1:
        text += f"  ({glyphs.times} {call.repeated})"
    return text


def verdict(result: ScenarioResult, look: Look, *, packets: bool = True) -> list[str]:
    """Return the line with the outcome and, below it, all that is known about a failure; see `failure`."""
    mark = look.glyphs.mark(result.outcome)
    word = "interrupted" if result.interrupted else result.outcome.value
    outcome = f"{mark} {word}" if look.glyphs is UNICODE else word.upper() if mark.isupper() else word
    text = f"{outcome} in {seconds(result.duration_s)}"
    if result.outcome is Outcome.SKIPPED:
        text = f"{outcome}: {printable(result.reason)}"
    lines = [look.paint(line, INK_OF_OUTCOME[result.outcome]) for line in wrap(text, look.width, indent="  ")]
    return lines + failure(result, look, packets=packets)


def failure(result: ScenarioResult, look: Look, *, packets: bool = True) -> list[str]:
    """Return why it failed: step, file and line, expected and actual, the cause, the whole output of the program.

    Then its last packets (with `packets`: if no ladder has them), the state of programs, and how to run it again.
    """
    if result.outcome not in FAILURES:
        return []
    steps = failed_steps(result)
    about = next((step for step in steps if step.reason and step.reason in result.reason), None)
    explanation = [*_explanation(result.explanation, look)]
    lines = [] if about is not None or not result.reason else [*_indented(result.reason, look, 2), *explanation]
    for step in steps:
        lines += ["", *_failed_step(result, step, look, explanation if step is about else ())]
    shown = result.last_packets if packets else ()
    parts = (_packets(shown, look), _programs(result, steps, look), _listening(result, look), _rerun(result, look))
    return [*lines, *(line for part in parts for line in part)]


def failed_steps(result: ScenarioResult) -> list[StepResult]:
    """Return the steps that failed, without those that only contain a failed step."""
    failed = [step for step in result.steps if step.outcome in FAILURES]
    return [step for step in failed if not any(other.index.startswith(f"{step.index}.") for other in failed)]


def _explanation(sentences: Sequence[str], look: Look) -> Iterator[str]:
    lead = "    cause: "
    for number, sentence in enumerate(sentences):
        lines = wrap(printable(sentence), look.width - len(lead), indent="", break_words=False)
        for row, line in enumerate(lines):
            yield (look.paint(lead, Ink.STRONG) if number == row == 0 else " " * len(lead)) + line


def _packets(lines: Sequence[str], look: Look) -> Iterator[str]:
    if lines:
        yield ""
        yield look.paint("  last packets:", Ink.STRONG)
    for line in lines:
        yield "    " + shorten(printable(line), look.width - 4, look.glyphs.goes_on)


def _rerun(result: ScenarioResult, look: Look) -> Iterator[str]:
    if result.rerun and not result.impossible:
        yield ""
        yield look.paint("  to run it again:", Ink.STRONG) + f" {printable(result.rerun)}"


def _programs(result: ScenarioResult, shown: Sequence[StepResult], look: Look) -> Iterator[str]:
    """Return the final states and last lines of background programs and services, except those of the steps `shown`."""
    others = [program for program in result.programs if not any(_is_of(program, step) for step in shown)]
    if others:
        yield ""
        yield look.paint("  programs:", Ink.STRONG)
    for program in others:
        service = "service " if program.kind == "service" else ""
        state = "is running" if program.state == "running" else program.state
        yield from _indented(f"{program.host}: {service}{program.name} {state}", look, 4)
        if program.output.stdout or program.output.stderr:
            yield from output(program.output, look, blanks=6, lines=LAST_LINES)
        else:
            yield look.paint("      printed nothing", Ink.FAINT)


def _is_of(program: ProgramRecord, step: StepResult) -> bool:
    """Whether the step's report already shows the program."""
    if step.output is None or (step.host or program.host) != program.host:
        return False
    ends = ((step.output.stdout, program.output.stdout), (step.output.stderr, program.output.stderr))
    return step.exit_status == program.exit_status and all(whole.endswith(end) for whole, end in ends)


def _listening(result: ScenarioResult, look: Look) -> Iterator[str]:
    """Return the listening sockets of the hosts that took part."""
    if result.listening:
        yield ""
        yield look.paint("  listening:", Ink.STRONG)
    for record in result.listening:
        sockets = record.problem or ", ".join(record.sockets) or "nothing"
        yield from _indented(f"{record.host}: {sockets}", look, 4)


def _failed_step(result: ScenarioResult, step: StepResult, look: Look, explanation: Sequence[str]) -> Iterator[str]:
    where = f"{result.file}:{step.line}: step {step.index}"
    title = f"{where}, {step.title}" if step.title else where
    yield from (look.paint(line, Ink.STRONG) for line in _indented(title, look, 2))
    yield from _indented(_without_output(step) or "failed", look, 4)
    yield from explanation
    if step.exit_status is not None and str(step.exit_status) not in step.reason:
        yield from _indented(f"exit status {step.exit_status}", look, 4)
    if step.output is not None:
        yield from output(step.output, look)


def _without_output(step: StepResult) -> str:
    """Return the reason without lines that the output below it repeats."""
    first, _, rest = step.reason.partition("\n")
    written = step.output.stdout + step.output.stderr if step.output is not None else ""
    return first if rest.strip() and rest.strip() in written else step.reason


def output(record: OutputRecord, look: Look, *, blanks: int = 4, lines: int | None = None) -> Iterator[str]:
    """Return a program's output, unwrapped, because people copy it.

    All of it, or the last `lines` of each stream that has any.
    """
    lead = " " * blanks
    bar = look.paint(f"{lead}{look.glyphs.column} ", Ink.FAINT)
    for name, text in (("stdout", record.stdout), ("stderr", record.stderr)):
        if not text:
            if lines is None:
                yield look.paint(f"{lead}{name}: nothing", Ink.FAINT)
            continue
        written = printable(text).rstrip("\n").split("\n")
        shown = written if lines is None else written[-lines:]
        of = f", the last {len(shown)} of {len(written)} lines" if len(shown) < len(written) else ""
        yield look.paint(f"{lead}{name}{of}:", Ink.FAINT)
        for line in shown:
            yield (bar + line).rstrip()
    if record.truncated_bytes and lines is None:
        yield look.paint(f"{lead}({record.truncated_bytes} bytes omitted in the middle)", Ink.FAINT)


def one_line(result: ScenarioResult, look: Look) -> list[str]:
    """Return a finished scenario in one line; a skipped one with its reason, wrapped."""
    mark = look.glyphs.mark(result.outcome)
    ink = INK_OF_OUTCOME[result.outcome]
    lead = f"{mark} "
    time = f"  {seconds(result.duration_s)}"
    if result.outcome is Outcome.SKIPPED:
        text = f"{printable(result.name)}: skipped, {printable(result.reason)}"
        first, *rest = wrap(text, look.width - cells(lead), indent="  ")
        return [look.paint(lead, ink) + first, *(" " * cells(lead) + line for line in rest)]
    name = shorten(printable(result.name), look.width - cells(lead) - cells(time), look.glyphs.goes_on)
    return [look.paint(lead, ink) + name + look.paint(time, Ink.FAINT)]


def failures(
    results: Sequence[ScenarioResult],
    look: Look,
    timeline_of: Callable[[ScenarioResult], Timeline | None] = lambda result: None,
) -> list[str]:
    """Return the whole report of every scenario that did not pass, for the end of a run of several.

    `timeline_of` returns a result's recording, if there is one.

    Of an interrupted run, `summary` only counts the scenarios that were running or not begun, except those with a call
    that has not returned.
    """
    lines: list[str] = []
    for result in results:
        pending = any(call.returned is None for step in result.steps for call in step.calls)
        if result.outcome in FAILURES and (pending or not result.interrupted):
            lines += [
                look.paint(look.glyphs.line * look.width, Ink.FAINT),
                *scenario_report(result, look, timeline_of(result)),
                "",
            ]
    return lines


def summary(run: RunResult, look: Look) -> list[str]:
    """Return `3 passed, 1 failed, 1 skipped in 1.2 s`; if interrupted `3 passed, 1 interrupted, 26 not run`."""
    finished = [result for result in run.scenarios if not result.interrupted]
    counts = [(outcome, sum(result.outcome is outcome for result in finished)) for outcome in Outcome]
    worst = Ink.GOOD
    for outcome, count in counts:
        if count and outcome is not Outcome.PASSED and worst is not Ink.BAD:
            worst = INK_OF_OUTCOME[outcome]
    plural = {Outcome.ERROR: "errors"}
    words = [f"{count} {plural.get(outcome, outcome) if count > 1 else outcome}" for outcome, count in counts if count]
    if len(finished) != len(run.scenarios):
        not_run = sum(result.not_run for result in run.scenarios)
        stopped = len(run.scenarios) - len(finished) - not_run
        words += [f"{count} {word}" for count, word in ((stopped, "interrupted"), (not_run, "not run")) if count]
        worst = Ink.BAD if worst is Ink.BAD else Ink.ODD
    text = (", ".join(words) or "no scenario ran") + f" in {seconds(run.duration_s)}"
    lines = [look.paint(text, worst)]
    if run.scenarios and all(result.outcome is Outcome.SKIPPED for result in run.scenarios):
        number = len(run.scenarios)
        skipped = "the scenario was" if number == 1 else f"all {number} scenarios were"
        lines.append(look.paint(f"Nothing was tested: {skipped} skipped.", Ink.ODD))
    return lines


def _indented(text: str, look: Look, blanks: int) -> Iterator[str]:
    lead = " " * blanks
    for paragraph in printable(text).rstrip("\n").split("\n"):
        for line in wrap(paragraph, look.width - blanks, indent="  ", break_words=False):
            yield (lead + line).rstrip()
