"""`labctl play`: make socket calls on the hosts of a lab, one line at a time, and see what each does."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from labctl.cli import play_lines
from labctl.cli.exit import complain
from labctl.cli.play_lines import COMMANDS, Comment, Own, Statements, Switch
from labctl.cli.play_view import View, call_lines, variables
from labctl.cli.play_wire import Wire
from labctl.cli.prompt import completion, history, interruptible, is_interrupt
from labctl.clock import monotonic_ns
from labctl.errors import InputError, LabctlError, LabGone
from labctl.printable import printable
from labctl.report.plain import call_text, result_text
from labctl.report.terminal import Ink, standard_output, wrap
from labctl.scenario.language.parser import parse
from labctl.scenario.language.syntax import SIGNATURES, Await, Call
from labctl.scenario.live_calls import Caller, LiveCall, LiveCalls, patience_s
from labctl.scenario.transcript import Transcript
from labctl.timeline.call_errors import call_error

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.scenario.language.syntax import Problem
    from labctl.topology.model import Topology

EXIT_FAILED = 1
_LOOK_S = 0.2  # between looks for packets while a call blocks, and for a while after a line
_QUIET_NS = 3_000_000_000


class _Exit(Exception):
    """The command `exit`."""


def play(target: str | None, lab_option: str | None = None) -> int:
    """Run `labctl play`. Return 0 on a terminal, the status of the first line that failed for a script."""
    interactive = sys.stdin is not None and sys.stdin.isatty()
    with ExitStack() as stack:
        lab, topology, source = _lab(stack, target, lab_option)
        return stack.enter_context(Play(lab, topology, source, interactive=interactive)).run()


def _lab(stack: ExitStack, target: str | None, lab_option: str | None) -> tuple[Lab, Topology, str]:
    """Return a running lab, or one of this command's own, which `stack` ends; its topology; and where that is from."""
    from labctl.cli.files import load_topology
    from labctl.lab.client import state_dir
    from labctl.lab.client.handle import Lab

    if target is not None and lab_option is not None:
        raise InputError("labctl play: TOPOLOGY and --lab exclude each other: a running lab has its topology.")
    name = lab_option if lab_option is not None else target
    if name is not None and (lab_option is not None or (name in state_dir.labs() and not os.path.exists(name))):
        from labctl.cli.lab_selection import attach
        from labctl.plan.build import topology_of

        lab = stack.enter_context(attach(name))
        description = lab.describe()
        return lab, topology_of(description.plan), description.source or description.plan.topology
    from labctl.plan.build import build

    source = target or "pair"
    topology = load_topology(source)
    plan = build(topology)
    paths: tuple[str | Path, ...] = (Path(source).resolve().parent,) if Path(source).is_file() else ()
    if any(node.services or node.commands or node.tree for node in plan.nodes):
        from labctl.observe import services

        lab = stack.enter_context(Lab.open(plan, visible_paths=(*paths, *services.visible_paths(plan))))
        services.start(lab, plan)
    else:
        lab = stack.enter_context(Lab.open(plan, visible_paths=paths))
    return lab, topology, source


class Play:
    """A session on a lab, which it borrows. A context manager: its end ends the calling processes."""

    def __init__(self, lab: Lab, topology: Topology, source: str, *, interactive: bool) -> None:
        self._lab = lab
        self._source = source
        self._interactive = interactive
        self._screen = standard_output()
        self._view = View(lab, topology, self._screen.look)
        origin_ns = self._line_ns = monotonic_ns()  # when the last line began
        self._wire = Wire(lab, topology, self._screen.look, self._view.hosts, origin_ns=origin_ns)
        self._live = LiveCalls(lab, topology, origin_ns=origin_ns, patience_s=patience_s(topology))
        self._transcript = Transcript()
        self._hosts = self._view.hosts
        self._present = Caller(self._hosts[0])
        self._last: LiveCall | None = None  # for `why`
        self._counted = self._view.counters  # before that
        self._saved: set[Path] = set()
        self._turn = threading.Lock()  # a line, or the returns of blocked calls while the person types
        self._wake = -1  # a pipe to the thread that waits for blocked calls

    def __enter__(self) -> Play:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.close()
        self._wire.close()

    def run(self) -> int:
        """Read and execute lines until the end or `exit`. LabGone if the lab ends."""
        if not self._interactive:
            return self._run_lines(sys.stdin if sys.stdin is not None else ())
        with interruptible(), history("play"), completion(self._candidates, play_lines.DELIMITERS):
            self._read_prompt()
        return 0

    def _candidates(self, line: str, word: str) -> list[str]:
        return play_lines.candidates(line, word, self._hosts, self._live.names(self._present))

    # lines

    def _read_prompt(self) -> None:
        hosts = f"{', '.join(self._hosts[:6])}{', ...' * (len(self._hosts) > 6)}"
        self._screen.line(f"{self._source}: {hosts}. HOST: changes the host. Try: help")
        with self._watching():
            while True:
                try:
                    text = input(self._prompt())
                    while play_lines.is_unfinished(text):
                        text += "\n" + input(f"{'...':>{len(self._prompt()) - 1}} ")
                except EOFError:
                    self._screen.line()
                    return
                except KeyboardInterrupt as stopped:
                    if not is_interrupt(stopped):
                        raise
                    self._screen.line("^C")
                    with self._interrupting(), self._turn:
                        self._interrupt()
                    continue
                try:
                    with self._interrupting(), self._turn:
                        lines = list(_statement_lines(text.split("\n")))
                        for line in lines:
                            self._run_line(line, echo=len(lines) > 1)
                except _Exit:
                    return
                os.write(self._wake, b"\n")

    def _prompt(self) -> str:
        blocked = self._live.blocked(self._present).partition("(")[0]
        return f"{self._present}{f' (in {blocked})' if blocked else ''}> "

    def _interrupt(self) -> None:
        """Ctrl-C on an empty line ends the call in which the present process is blocked."""
        import readline

        if not readline.get_line_buffer() and self._live.interrupt(self._present):
            self._transcript.signal(self._present)
            self._show()

    def _run_lines(self, lines: Iterable[str]) -> int:
        """Run all lines, also after a failure. Return the first status that is not 0."""
        first = 0
        try:
            for line in _statement_lines(lines):
                status = self._run_line(line, echo=True)
                first = first or status
        except UnicodeDecodeError as error:
            raise InputError(f"play: standard input is not text in {sys.stdin.encoding}: {error}.") from error
        except _Exit:
            pass
        return first

    def _run_line(self, line: str, *, echo: bool) -> int:
        """Run a line and return its exit status. Errors are reported, and the session continues."""
        try:
            asked = play_lines.parse(line, self._hosts)
            if isinstance(asked, Statements | Switch):
                self._present = asked.caller or self._present
            if echo and asked is not None and not isinstance(asked, Switch):
                self._screen.line(self._prompt() + (asked.text if isinstance(asked, Statements) else line), Ink.STRONG)
            match asked:
                case None:
                    return 0
                case Comment(text):
                    self._transcript.comment(self._present, text)
                    return 0
                case Switch():
                    return 0
                case Own(word, rest):
                    return self._command(word, rest)
                case Statements(_, text):
                    return self._statements(text)
        except LabGone:
            raise
        except LabctlError as error:
            complain(str(error))
            return error.exit_status

    def _statements(self, text: str) -> int:
        program = parse(text)
        if problems := self._live.check(self._present, program):
            self._show_problems(text, problems)
            return InputError.exit_status
        status = 0
        self._wire.wait_ready()
        for statement in program.statements:
            if self._interactive and isinstance(statement, Call | Await) and _waits(statement):
                self._screen.line(f"  {self._screen.look.glyphs.goes_on} Ctrl-C interrupts the call", Ink.FAINT)
            self._line_ns, counted = monotonic_ns(), self._view.counters
            call = self._live.execute(self._present, statement)
            if call.record is not None:
                self._last, self._counted = call, counted
            self._show(call)
            status = status or (EXIT_FAILED if call.failure else 0)
        return status

    def _show_problems(self, text: str, problems: Iterable[Problem]) -> None:
        blocked = self._live.blocked(self._present)
        for problem in problems:
            hint = problem.hint
            if blocked and "pending in this process" in problem.message:
                hint = f"Ctrl-C interrupts it; {self._present.host}/2: is another process of the host"
            self._screen.line(f"  {problem.message}{f' ({hint})' if hint else ''}", Ink.BAD)

    @contextmanager
    def _interrupting(self) -> Iterator[None]:
        """A context in which Ctrl-C interrupts the present call, and not a request to the lab."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            self._live.interrupt(self._present)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # what happened

    def _show(self, *calls: LiveCall) -> None:
        """Show calls and what happened: packets, blocked calls that have returned, sockets that have changed."""
        self._screen.write(self._news(*calls))

    def _news(self, *calls: LiveCall) -> list[str]:
        calls += tuple(self._live.returned())
        for call in calls:
            self._transcript.add(call)
            self._wire.add(call)
            if call.is_return and (self._last is None or self._last.caller == call.caller):
                self._last = call
        ladder = self._wire.news(self._line_ns)
        if not calls and not ladder:
            return []
        lines = [line for call in calls for line in call_lines(call, self._screen.look, is_drawn=bool(ladder))]
        return ladder + lines + self._view.changed()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """A context in which returns of blocked calls are shown above the prompt while the person types."""
        import readline

        reading, self._wake = os.pipe2(os.O_CLOEXEC)

        def watch() -> None:
            while True:
                with self._turn:
                    descriptors = self._live.descriptors()
                is_quiet = not descriptors and monotonic_ns() - self._line_ns >= _QUIET_NS
                ready = select.select([reading, *descriptors], [], [], None if is_quiet else _LOOK_S)[0]
                if reading in ready:
                    if not os.read(reading, 4096):
                        return
                    continue
                with self._turn:
                    prompt = self._prompt()  # as readline shows it
                    lines = self._news()
                    if lines:
                        sys.stdout.write("\r\x1b[K")
                        self._screen.write(lines)
                        sys.stdout.write(prompt + readline.get_line_buffer())
                        sys.stdout.flush()

        watcher = threading.Thread(target=watch, name="labctl-play")
        watcher.start()
        try:
            yield
        finally:
            os.close(self._wake)
            watcher.join()
            os.close(reading)

    # commands

    def _command(self, word: str, rest: str) -> int:
        match word:
            case "exit":
                raise _Exit
            case "help":
                self._help(rest)
            case "vars":
                self._vars()
            case "sockets":
                self._screen.write(self._view.sockets())
            case "why":
                self._why()
            case "wire":
                self._switch_wire(rest)
            case "save":
                self._save(rest)
            case _:
                raise InputError(f"{word}: there is no such command. Try: help")
        return 0

    def _help(self, about: str) -> None:
        name = about.partition("(")[0].strip()
        if not name:
            self._screen.write([f"  {line}" for line in COMMANDS.values()])
            self._screen.line()
            self._screen.write(wrap(f"  {', '.join(SIGNATURES)}", self._screen.look.width, indent="  "))
            return
        signature = SIGNATURES.get(name)
        if signature is None:
            from labctl.cli.lab_selection import suggestion

            raise InputError(f"help {name}: there is no such call; {suggestion(name, SIGNATURES)}")
        self._screen.line(f"  {signature.usage}")
        for form in signature.forms:
            self._screen.write([f"    {wants.value.meaning}" for wants in form])

    def _why(self) -> None:
        """Explain the last call: what the manual pages tell, what the events of all hosts show, and counters."""
        call, look = self._last, self._screen.look
        if call is None or call.record is None:
            raise InputError("why: no call has been made yet.")
        text = f"{call.caller}: {call_text(call.record, named=False)} {result_text(call.record, look)}"
        lines = wrap(f"  {printable(text)}", look.width, indent="    ")
        if call.record.errno or call.is_blocked:
            name = call.record.call.partition("(")[0]
            error = call_error(name, call.record.errno or "", is_unix="AF_UNIX" in call.record.call)
            reasons = [str(error)] if error is not None else []
            reasons += self._wire.explanation(call)
            reasons += self._view.moved(self._counted, now=call.is_blocked)
            lines += [line for each in reasons for line in wrap(f"  {printable(each)}", look.width, indent="    ")]
        else:
            lines.append("  It did not fail.")
        self._screen.write(lines)

    def _switch_wire(self, state: str) -> None:
        if state not in ("on", "off"):
            raise InputError("Usage: wire on|off")
        if self._wire.problem:
            raise InputError(f"wire {state}: packets are not recorded: {self._wire.problem}")
        self._wire.is_shown = state == "on"

    def _vars(self) -> None:
        for caller in self._live.callers:
            self._screen.line(f"{caller}:", Ink.STRONG)
            self._screen.write([*variables(self._live.names(caller))])
            if blocked := self._live.blocked(caller):
                self._screen.line(f"  {self._screen.look.glyphs.goes_on} {blocked}", Ink.ODD)

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
        self._screen.line(f"  wrote {path}. Try: labctl run {path}")


def _waits(statement: Call | Await) -> bool:
    """Return whether the person wants to wait for the call."""
    return isinstance(statement, Await) or statement.modifiers.within is not None


def _statement_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, joined while a bracket is open."""
    text = ""
    for line in lines:
        text = f"{text}\n{line.rstrip()}" if text else line.rstrip()
        if not play_lines.is_unfinished(text):
            yield play_lines.joined(text) if "\n" in text else text
            text = ""
    if text:
        yield play_lines.joined(text)
