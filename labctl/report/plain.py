"""Results as lines for people: conversations, reports of scenarios, failures, one line for each, the summary.

A conversation has the calls and other steps in time order, with a column for each host. A call during which something
else happened appears twice, where it begins and where it returns. So a server that waits in accept, and the client
whose connect ends the wait, appear in the order in which they acted.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from labctl.printable import printable
from labctl.programs.output import OutputRecord
from labctl.report.terminal import INK_OF_OUTCOME, UNICODE, Ink, Look, cells, milliseconds, pad, seconds, shorten, wrap
from labctl.scenario.results import CallRecord, Outcome, ProgramRecord, RunResult, ScenarioResult, StepResult
from labctl.structs import Struct, replace

_NARROWEST_COLUMN = 21  # cells; with less, hosts are named in front of each call instead
_SHOWN_DURATION_S = 0.001  # a call that took this long has its duration shown
_LONGEST_TEXT = 400  # cells of a title or reason; the failure below the conversation has all of it
_CALLS = "calls"
# Calls whose arguments after the first are filled in by the kernel; a record has them as they were afterwards.
_FILL_IN_ARGUMENTS = frozenset({"accept", "accept4", "recv", "recvfrom", "recvmsg", "read", "poll", "select"})
_BRACED = r"\{[^{}]*\}|\[\d+ -> \d+\]"
_BOUND_BLANK = "\u00a0"


class _Event(Struct, frozen=True):
    """What appears at one moment: in a host's column, or across all columns (`host` None)."""

    time_s: float
    host: str | None
    text: str
    result: str = ""  # kept together with the end of the text where it fits
    ink: Ink = Ink.PLAIN


def render(result: ScenarioResult, look: Look) -> list[str]:
    """Return the conversation as painted lines of at most `look.width` cells; empty if no step began."""
    steps = list(result.steps)
    events = _events(steps, look)
    if not events:
        return []
    hosts = _talking_hosts(result.hosts, events)
    times = _times([event.time_s for event in events])
    time_width = max(len(times[-1]), *(len(text) for text in times), len("ms"))
    widths = _column_widths(hosts, events, look.width - time_width - 3)
    if widths is None:
        return _render_named(hosts, events, times, time_width, look)
    return _render_columns(hosts, widths, events, times, time_width, look)


def call_text(call: CallRecord, *, named: bool) -> str:
    """Return the call, after its process's name if there are several (`named`), and its number of repetitions."""
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


def _events(steps: Sequence[StepResult], look: Look) -> list[_Event]:
    calls = _without_double_records(steps)
    processes = Counter(host for host, _ in {(call.host, call.process) for call in calls})
    starts = sorted([call.started_s for call in calls] + [step.started_s for step in steps if step.kind != _CALLS])
    # (time, rank, order): at the same moment a return stands before what follows it, a step's verdict after its calls.
    events: list[tuple[float, int, int, _Event]] = []

    def put(event: _Event, rank: int = 1) -> None:
        events.append((event.time_s, rank, len(events), event))

    last_s = max((step.started_s + step.duration_s for step in steps), default=0.0)
    for call in calls:
        for event in _events_of_call(call, processes[call.host] > 1, starts, last_s, look):
            put(event)
    causes = {step.index for step in steps if step.outcome is not Outcome.PASSED}
    for step in steps:
        around = any(index.startswith(f"{step.index}.") for index in causes)
        line = _step_line(step, look, reason="" if around else step.reason)
        if line:
            after_calls = step.kind == _CALLS
            time_s = step.started_s + step.duration_s if after_calls else step.started_s
            ink = Ink.FAINT if step.outcome is Outcome.PASSED else INK_OF_OUTCOME[step.outcome]
            put(_Event(time_s, None, line, ink=ink), rank=2 if after_calls else 1)
    events.sort(key=lambda entry: entry[:3])
    return [entry[3] for entry in events]


def _events_of_call(call: CallRecord, named: bool, starts: list[float], last_s: float, look: Look) -> Iterable[_Event]:
    text = call_text(call, named=named)
    ink = Ink.ODD if call.errno else Ink.PLAIN
    if call.returned is None or call.duration_s is None:
        waited_s = last_s - call.started_s
        after = f"  [{milliseconds(waited_s)}]" if waited_s >= _SHOWN_DURATION_S else ""
        yield _Event(call.started_s, call.host, text, f"{look.glyphs.goes_on} has not returned{after}", Ink.ODD)
        return
    ended_s = call.started_s + call.duration_s
    after = f"  [{milliseconds(call.duration_s)}]" if call.duration_s >= _SHOWN_DURATION_S else ""
    following = bisect_right(starts, call.started_s)
    if following < len(starts) and starts[following] < ended_s:
        begun = _as_begun(text, look)
        yield _Event(
            call.started_s, call.host, begun, f"{look.glyphs.goes_on} blocks" if after else look.glyphs.goes_on
        )
        goes_on = f"{look.glyphs.goes_on} {text.split('(', 1)[0]}"
        yield _Event(ended_s, call.host, goes_on, result_text(call, look, beside=begun) + after, ink)
    else:
        yield _Event(call.started_s, call.host, text, result_text(call, look, beside=call.call) + after, ink)


def _as_begun(text: str, look: Look) -> str:
    """Return the call as it began: `accept(3, ...)`, because the peer was not known then."""
    name, _, arguments = text.partition("(")
    first, comma, _ = arguments.partition(", ")
    if name.rpartition(" ")[2] in _FILL_IN_ARGUMENTS and comma:
        return f"{name}({first}, {look.glyphs.goes_on})"
    return text


def _without_double_records(steps: Sequence[StepResult]) -> list[CallRecord]:
    """Drop the first record of a call that one step left pending and another awaited."""
    best: dict[tuple[str, str, float, str], CallRecord] = {}
    for step in steps:
        for call in step.calls:
            key = (call.host, call.process, call.started_s, call.call.split("(", 1)[0])
            known = best.get(key)
            if known is None or known.duration_s is None:
                best[key] = call
    return sorted(best.values(), key=lambda call: call.started_s)


def _step_line(step: StepResult, look: Look, *, reason: str) -> str:
    """Return the line across all columns; none for a calls step that passed, whose calls are shown."""
    mark = look.glyphs.mark(step.outcome)
    passed = step.outcome is Outcome.PASSED
    if step.kind == _CALLS:
        return "" if passed else f"{mark} step {step.index}: {shorten(printable(reason), _LONGEST_TEXT)}"
    text = f"{mark} {shorten(printable(step.title or step.kind), _LONGEST_TEXT)}"
    if step.duration_s >= _SHOWN_DURATION_S:
        text += f"  [{milliseconds(step.duration_s)}]"
    return text if passed or not reason else f"{text}: {shorten(printable(reason), _LONGEST_TEXT)}"


def _talking_hosts(hosts: Sequence[str], events: Iterable[_Event]) -> list[str]:
    talking = {event.host for event in events if event.host is not None}
    known = [host for host in hosts if host in talking]
    return known + sorted(talking.difference(known))


def _times(times_s: Sequence[float]) -> list[str]:
    """Return milliseconds, all with as many decimals as fit the longest."""
    decimals = 2 if max(times_s) < 1 else 1 if max(times_s) < 100 else 0
    return [f"{time_s * 1000:.{decimals}f}" for time_s in times_s]


def _column_widths(hosts: Sequence[str], events: Iterable[_Event], room: int) -> list[int] | None:
    """Return the cells of each host's column: the width of its longest call, or a fair share.

    None if a column would become too narrow to read.
    """
    longest = {host: cells(host) for host in hosts}
    for event in events:
        if event.host is not None:
            longest[event.host] = max(longest[event.host], cells(event.text) + 1 + cells(event.result))
    widths: dict[str, int] = {}
    left = room - 3 * max(len(hosts) - 1, 0)  # " │ " between columns
    for at, host in enumerate(sorted(hosts, key=lambda host: longest[host])):
        widths[host] = min(longest[host], left // (len(hosts) - at))
        left -= widths[host]
    if any(widths[host] < min(_NARROWEST_COLUMN, longest[host]) for host in hosts):
        return None
    return [max(widths[host], 1) for host in hosts]


def _cell(event: _Event, width: int) -> list[str]:
    """Return the call, wrapped, and its result, on the same line if it fits."""
    room = width - 4  # what a line after the first has, whichever it belongs to
    bound = replace(event, text=_bind(event.text, room), result=_bind(event.result, room))
    return [line.replace(_BOUND_BLANK, " ") for line in _cell_lines(bound, width)]


def _bind(text: str, room: int) -> str:
    """Keep an address ({AF_INET, 10.0.0.2:81}) and a changed length ([16 -> 16]) on one line if they fit."""

    def bound(found: re.Match[str]) -> str:
        braced = found.group()
        return braced.replace(" ", _BOUND_BLANK) if cells(braced) < room else braced

    return re.sub(_BRACED, bound, text)


def _cell_lines(event: _Event, width: int) -> list[str]:
    lines = wrap(event.text, width, indent="  ")
    if not event.result:
        return lines
    if cells(lines[-1]) + 1 + cells(event.result) <= width:
        lines[-1] = f"{lines[-1]} {event.result}"
        return lines
    hanging = "  " if width > _NARROWEST_COLUMN else ""
    return lines + ["  " + line for line in wrap(event.result, max(width - 2, 1), indent=hanging)]


def _render_columns(
    hosts: Sequence[str],
    widths: Sequence[int],
    events: Sequence[_Event],
    times: Sequence[str],
    time_width: int,
    look: Look,
) -> list[str]:
    glyphs = look.glyphs
    between = look.paint(f" {glyphs.column} ", Ink.FAINT)
    lines = []
    if hosts:
        names = between.join(
            look.paint(pad(shorten(host, width, glyphs.goes_on), width), Ink.STRONG)
            for host, width in zip(hosts, widths, strict=True)
        )
        lines.append((look.paint("ms".rjust(time_width), Ink.FAINT) + between + names).rstrip())
        rule = f"{glyphs.line}{glyphs.cross}{glyphs.line}".join(
            [glyphs.line * time_width, *(glyphs.line * width for width in widths)]
        )
        lines.append(look.paint(rule, Ink.FAINT))
    for event, time in zip(events, times, strict=True):
        if event.host is None:
            lines.extend(_spanning(event, time, time_width, look))
            continue
        at = hosts.index(event.host)
        for row, text in enumerate(_cell(event, widths[at])):
            painted = [
                look.paint(pad(text, width), event.ink) if column == at else " " * width
                for column, width in enumerate(widths)
            ]
            moment = look.paint((time if row == 0 else "").rjust(time_width), Ink.FAINT)
            lines.append((moment + between + between.join(painted)).rstrip())
    return lines


def _spanning(event: _Event, time: str, time_width: int, look: Look) -> list[str]:
    lead = f" {look.glyphs.branch} "
    lines = []
    for row, text in enumerate(wrap(event.text, look.width - time_width - cells(lead), indent="  ")):
        moment = (time if row == 0 else "").rjust(time_width)
        branch = lead if row == 0 else f" {look.glyphs.column}  "
        lines.append(look.paint(moment + branch, Ink.FAINT) + look.paint(text, event.ink))
    return lines


def _render_named(
    hosts: Sequence[str], events: Sequence[_Event], times: Sequence[str], time_width: int, look: Look
) -> list[str]:
    """Render more hosts than columns fit: each call on lines of its own after its host's name."""
    name_width = min(max(cells(host) for host in hosts), look.width // 3)
    between = look.paint(f" {look.glyphs.column} ", Ink.FAINT)
    lines = []
    for event, time in zip(events, times, strict=True):
        if event.host is None:
            lines.extend(_spanning(event, time, time_width, look))
            continue
        name = pad(shorten(event.host, name_width, look.glyphs.goes_on), name_width)
        for row, text in enumerate(_cell(event, look.width - time_width - name_width - 5)):
            moment = look.paint((time if row == 0 else "").rjust(time_width), Ink.FAINT)
            who = look.paint(f"{name}:", Ink.STRONG) if row == 0 else " " * (name_width + 1)
            lines.append(f"{moment}{between}{who} {look.paint(text, event.ink)}".rstrip())
    return lines


LAST_LINES = 20  # of each stream of a program that no failed step is about
FAILURES = (Outcome.FAILED, Outcome.ERROR)


def scenario_report(result: ScenarioResult, look: Look) -> list[str]:
    """Return heading, description, conversation and verdict, with the reason of a failure."""
    lines = [*heading(result, look), ""]
    talk = render(result, look)
    if talk:
        lines += [*talk, ""]
    return lines + verdict(result, look)


def heading(result: ScenarioResult, look: Look) -> list[str]:
    """Return the scenario's name, file and description."""
    lines = [look.paint(line, Ink.STRONG) for line in wrap(printable(result.name), look.width, indent="  ")]
    lines += [look.paint(line, Ink.FAINT) for line in wrap(printable(result.file), look.width, break_words=False)]
    if result.about:
        lines += wrap(printable(result.about).rstrip("\n"), look.width)
    return lines


def verdict(result: ScenarioResult, look: Look) -> list[str]:
    """Return the line with the outcome and, below it, all that is known about a failure."""
    mark = look.glyphs.mark(result.outcome)
    word = "interrupted" if result.interrupted else result.outcome.value
    outcome = f"{mark} {word}" if look.glyphs is UNICODE else word.upper() if mark.isupper() else word
    text = f"{outcome} in {seconds(result.duration_s)}"
    if result.outcome is Outcome.SKIPPED:
        text = f"{outcome}: {printable(result.reason)}"
    lines = [look.paint(line, INK_OF_OUTCOME[result.outcome]) for line in wrap(text, look.width, indent="  ")]
    return lines + failure(result, look)


def failure(result: ScenarioResult, look: Look) -> list[str]:
    """Return why it failed: step, file and line, expected and actual, the whole output of the program."""
    if result.outcome not in FAILURES:
        return []
    steps = failed_steps(result)
    lines = [line for step in steps for line in ("", *_failed_step(result, step, look))]
    if result.reason and not any(step.reason and step.reason in result.reason for step in steps):
        lines = [*_indented(result.reason, look, 2), *lines]
    return [*lines, *_programs(result, steps, look), *_listening(result, look)]


def failed_steps(result: ScenarioResult) -> list[StepResult]:
    """Return the steps that failed, without those that only contain a failed step."""
    failed = [step for step in result.steps if step.outcome in FAILURES]
    return [step for step in failed if not any(other.index.startswith(f"{step.index}.") for other in failed)]


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


def _failed_step(result: ScenarioResult, step: StepResult, look: Look) -> Iterator[str]:
    where = f"{result.file}:{step.line}: step {step.index}"
    title = f"{where}, {step.title}" if step.title else where
    yield from (look.paint(line, Ink.STRONG) for line in _indented(title, look, 2))
    yield from _indented(step.reason or "failed", look, 4)
    if step.exit_status is not None and str(step.exit_status) not in step.reason:
        yield from _indented(f"exit status {step.exit_status}", look, 4)
    if step.output is not None:
        yield from output(step.output, look)


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


def failures(results: Sequence[ScenarioResult], look: Look) -> list[str]:
    """Return the whole report of every scenario that did not pass, for the end of a run of several.

    Of an interrupted run, `summary` only counts the scenarios that were running or not begun, except those with a call
    that has not returned.
    """
    lines: list[str] = []
    for result in results:
        pending = any(call.returned is None for step in result.steps for call in step.calls)
        if result.outcome in FAILURES and (pending or not result.interrupted):
            lines += [look.paint(look.glyphs.line * look.width, Ink.FAINT), *scenario_report(result, look), ""]
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
