"""A session of `labctl play`: what a line does, and what is shown of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli import play_lines
from labctl.cli.exit import complain
from labctl.cli.play_lines import COMMANDS, Comment, Own, Statements, Switch
from labctl.cli.play_view import View, call_lines, variables
from labctl.cli.play_wire import Wire
from labctl.clock import monotonic_ns
from labctl.errors import InputError, LabctlError, LabGone
from labctl.printable import printable
from labctl.report.plain import call_text, result_text
from labctl.report.terminal import Ink, standard_output, wrap
from labctl.scenario.language.parser import parse
from labctl.scenario.language.syntax import SIGNATURES, Await, Call
from labctl.scenario.live_calls import Caller, LiveCall, LiveCalls, patience_s
from labctl.scenario.model import caller_name
from labctl.scenario.transcript import Transcript
from labctl.structs import Struct
from labctl.timeline.call_errors import call_error

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.network import Counters
    from labctl.scenario.language.syntax import Problem
    from labctl.scenario.results import CallRecord
    from labctl.topology.model import Topology

EXIT_FAILED = 1
_ATTEMPTS_KEPT = 50  # calls that `why` may be about
_FINISH_S = 3.0  # for which a script waits for blocked calls that should return; as the step `expect` does


class Exit(Exception):
    """The command `exit`."""


class _Attempt(Struct, frozen=True):
    """A call, with the counters of all hosts before it and after it; None while it has not returned."""

    record: CallRecord
    before: Mapping[str, Counters]
    after: Mapping[str, Counters] | None

    @property
    def has_failed(self) -> bool:
        return self.record.errno is not None or self.record.duration_s is None


class PlaySession:
    """Makes the calls of lines on a lab, which it borrows. For one thread at a time; `close` ends its processes.

    `source` is where the topology is from: a shape or file, for the saved scenario.
    """

    def __init__(self, lab: Lab, topology: Topology, source: str, *, interactive: bool) -> None:
        self.screen = standard_output()
        self.view = View(lab, topology, self.screen.look)
        self.line_ns = origin_ns = monotonic_ns()  # when the last line began
        self.wire = Wire(lab, topology, self.screen.look, self.view.hosts, origin_ns=origin_ns, at_a_prompt=interactive)
        self.live = LiveCalls(lab, topology, origin_ns=origin_ns, patience_s=patience_s(topology))
        self.present = Caller(self.view.hosts[0])  # which makes the calls of the next line
        self.status = 0  # the exit status of the first line that failed, at once or when its blocked call returned
        self._attempts: list[_Attempt] = []  # for `why`
        self._source = source
        self._interactive = interactive
        self._transcript = Transcript()
        self._saved: set[Path] = set()

    def close(self) -> None:
        """End the calling processes and the recording."""
        self.live.close()
        self.wire.close()

    @property
    def prompt(self) -> str:
        """`server> `, or `server (in accept)> ` while its process is blocked."""
        blocked = self.live.blocked(self.present).partition("(")[0]
        return f"{self.present}{f' (in {blocked})' if blocked else ''}> "

    def candidates(self, line: str, word: str) -> list[str]:
        """Return what Tab offers in place of `word`, the last one of the line."""
        return play_lines.candidates(line, word, self.view.hosts, self.live.names(self.present))

    def interrupt(self) -> None:
        """Interrupt the call in which the present process is blocked, and show its return."""
        if self.live.interrupt(self.present):
            self._transcript.signal(self.present)
            self.screen.write(self.news())

    def finish(self) -> None:
        """Wait for blocked calls that should return, as at the end of a script, and show those that have."""
        self.screen.write(self.news(*self.live.finish(_FINISH_S)))

    def run_line(self, line: str, *, echo: bool) -> None:
        """Run a line. Errors are reported and kept in `status`, and the session continues."""
        try:
            asked = play_lines.parse(line, self.view.hosts)
            if isinstance(asked, Statements | Switch | Own):
                self.present = asked.caller or self.present
            if echo and asked is not None and not isinstance(asked, Switch):
                self.screen.line(self.prompt + play_lines.without_prompt(line, self.view.hosts), Ink.STRONG)
            match asked:
                case None | Switch():
                    pass
                case Comment(text):
                    self._transcript.comment(self.present, text)
                case Own(word, rest, _):
                    self._command(word, rest)
                case Statements(_, text):
                    self._statements(text)
        except LabGone:
            raise
        except LabctlError as error:
            complain(str(error))
            self.status = self.status or error.exit_status

    def _statements(self, text: str) -> None:
        program = parse(text)
        if not self._interactive and not any(isinstance(each, Await) for each in program.statements[:1]):
            self._await_return()
        if problems := self.live.check(self.present, program):
            self._show_problems(problems)
            self.status = self.status or InputError.exit_status
            return
        self.wire.wait_ready()
        for statement in program.statements:
            if self._interactive and isinstance(statement, Call | Await) and _waits(statement):
                self.screen.line(f"  {self.screen.look.glyphs.goes_on} Ctrl-C interrupts the call", Ink.FAINT)
            self.line_ns, before = monotonic_ns(), self.view.counters
            call = self.live.execute(self.present, statement)
            lines = self.news(call)
            if call.record is not None:
                self.remember(call.record, before)
            self.screen.write(lines)

    def _await_return(self, *, only_due: bool = False) -> None:
        """Wait for the blocked call of the present process, which on a busy machine may only seem to block."""
        if returned := self.live.await_return(self.present, _FINISH_S, only_due=only_due):
            self.screen.write(self.news(*returned))

    def _show_problems(self, problems: Iterable[Problem]) -> None:
        blocked, look = self.live.blocked(self.present), self.screen.look
        for problem in problems:
            hint = problem.hint
            if blocked and "pending in this process" in problem.message:
                hint = f"Ctrl-C interrupts it; {self.present.host}/2: is another process of the host"
            text = f"  {printable(problem.message)}{f' ({printable(hint)})' if hint else ''}"
            self.screen.write([look.paint(line, Ink.BAD) for line in wrap(text, look.width, indent="    ")])

    # what happened

    def news(self, *calls: LiveCall) -> list[str]:
        """Return lines about these calls, blocked ones that have returned, packets, and sockets that have changed."""
        calls += tuple(self.live.returned())
        for call in calls:
            self._transcript.add(call)
            self.wire.add(call)
            self.status = self.status or (EXIT_FAILED if call.failure else 0)
        ladder = self.wire.news(self.line_ns)
        if not calls and not ladder:
            return []
        lines = [line for call in calls for line in call_lines(call, self.screen.look, is_drawn=bool(ladder))]
        lines += self.view.changed()
        for call in calls:
            if call.is_return and call.record is not None:
                self.remember(call.record)
        return ladder + lines

    def remember(self, record: CallRecord, before: Mapping[str, Counters] | None = None) -> None:
        """Keep a call that was shown for `why`; `before` are the counters before it (None: it was kept as blocked)."""
        attempts = [each for each in self._attempts if each.record.started_s != record.started_s]
        if before is None:
            before = next((each.before for each in self._attempts if each not in attempts), self.view.counters)
        after = self.view.counters if record.duration_s is not None else None
        self._attempts = [*attempts[-_ATTEMPTS_KEPT:], _Attempt(record, before, after)]

    # commands

    def _command(self, word: str, rest: str) -> None:
        match word:
            case "exit":
                raise Exit
            case "help":
                self._help(rest)
            case "vars":
                self._vars()
            case "sockets":
                self.screen.write(self.view.sockets())
            case "why":
                self._why()
            case "wire":
                self._switch_wire(rest)
            case "save":
                self._save(rest)
            case _:
                raise InputError(f"{word}: there is no such command. Try: help")

    def _help(self, about: str) -> None:
        name = about.partition("(")[0].strip()
        if not name:
            self.screen.write([f"  {line}" for line in COMMANDS.values()])
            self.screen.line()
            self.screen.write(wrap(f"  {', '.join(SIGNATURES)}", self.screen.look.width, indent="  "))
            return
        signature = SIGNATURES.get(name)
        if signature is None:
            from labctl.cli.lab_selection import suggestion

            raise InputError(f"help {name}: there is no such call; {suggestion(name, SIGNATURES)}")
        self.screen.line(f"  {signature.usage}")
        for form in signature.forms:
            self.screen.write([f"    {wants.value.meaning}" for wants in form])

    def _why(self) -> None:
        """Explain the last call that failed or blocks from its manual page, the events of all hosts, and counters."""
        if not self._interactive:
            self._await_return(only_due=True)
        if not self._attempts:
            raise InputError("why: no call has been made yet.")
        look, last = self.screen.look, self._attempts[-1]
        attempt = next((each for each in reversed(self._attempts) if each.has_failed), last)
        record = attempt.record
        who = caller_name(record.host, record.process)
        sentences = [f"{who}: {call_text(record, named=False)} {result_text(record, look)}"]
        if attempt.has_failed:
            name = record.call.partition("(")[0]
            error = call_error(name, record.errno or "", is_unix="AF_UNIX" in record.call)
            sentences += [str(error)] if error is not None else []
            sentences += self.wire.explanation(record)
            sentences += self.view.moved(attempt.before, attempt.after)
        else:
            sentences.append("No call has failed.")
        for each in sentences:
            self.screen.write(wrap(f"  {printable(each)}", look.width, indent="    "))

    def _switch_wire(self, state: str) -> None:
        if state not in ("on", "off"):
            raise InputError("Usage: wire on|off")
        if self.wire.problem:
            raise InputError(f"wire {state}: packets are not recorded: {self.wire.problem}")
        self.wire.is_shown = state == "on"

    def _vars(self) -> None:
        for caller in self.live.callers:
            self.screen.line(f"{caller}:", Ink.STRONG)
            self.screen.write([*variables(self.live.names(caller))])
            if blocked := self.live.blocked(caller):
                self.screen.line(f"  {self.screen.look.glyphs.goes_on} {blocked}", Ink.ODD)

    def _save(self, name: str) -> None:
        if not name:
            raise InputError("save: the name of the file is missing. Try: save mine.yaml")
        path = Path(name).expanduser()
        path = path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")
        if not len(self._transcript):
            raise InputError(f"save {path}: there is nothing to save: no call has been made.")
        if path.exists() and path.resolve() not in self._saved:
            raise InputError(f"save {path}: the file exists. Give another name.")
        from labctl import documents
        from labctl.report.artifacts import write_whole
        from labctl.scenario.loader import checked

        topology = self._source
        if Path(topology).is_file():
            topology = os.path.relpath(topology, path.resolve().parent)
        text = self._transcript.scenario(path.stem, topology)
        scenario, diagnostics = checked(documents.parse(text, str(path)))
        if scenario is None:
            raise documents.DocumentError(diagnostics)
        write_whole(path, text.encode())
        self._saved.add(path.resolve())
        self.screen.line(f"  wrote {path}. Try: labctl run {path}")


def _waits(statement: Call | Await) -> bool:
    """Return whether the statement asks the prompt to wait for the call."""
    return isinstance(statement, Await) or statement.modifiers.within is not None


def statement_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, joined while a bracket is open."""
    text = ""
    for line in lines:
        text = f"{text}\n{line.rstrip()}" if text else line.rstrip()
        if not play_lines.is_unfinished(text):
            yield play_lines.joined(text) if "\n" in text else text
            text = ""
    if text:
        yield play_lines.joined(text)
