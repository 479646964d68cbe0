"""`labctl play`: make socket calls on the hosts of a lab, one line at a time, and see what each does."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from labctl.cli import play_lines
from labctl.cli.exit import complain
from labctl.cli.play_session import Exit, PlaySession, statement_lines
from labctl.cli.prompt import completion, history, interruptible, is_interrupt, signals_end_the_prompt
from labctl.clock import monotonic_ns
from labctl.errors import InputError, LabctlError

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan
    from labctl.topology.model import Topology

_LOOK_S = 0.2  # between looks for packets while a call blocks, and for a while after a line
_QUIET_NS = 3_000_000_000


def play(target: str | None, lab_option: str | None = None) -> int:
    """Run `labctl play`. Return 0 on a terminal, the status of the first line that failed for a script."""
    interactive = sys.stdin is not None and sys.stdin.isatty()
    with ExitStack() as stack:
        lab, topology, source = _lab(stack, target, lab_option)
        session = stack.enter_context(closing(PlaySession(lab, topology, source, interactive=interactive)))
        if not interactive:
            return run_script(session, sys.stdin if sys.stdin is not None else ())
        hosts = session.view.hosts
        shown = f"{', '.join(hosts[:6])}{', ...' * (len(hosts) > 6)}"
        session.screen.line(f"{source}: {shown}. HOST: changes the host. Try: help")
        stack.enter_context(interruptible())
        stack.enter_context(history("play"))
        stack.enter_context(completion(session.candidates, play_lines.DELIMITERS))
        stack.enter_context(signals_end_the_prompt())
        Prompt(session).run()
    return 0


def _lab(stack: ExitStack, target: str | None, lab_option: str | None) -> tuple[Lab, Topology, str]:
    """Return a running lab, or one of this command's own, which `stack` ends; its topology; and where that is from."""
    from labctl.cli.files import load_topology
    from labctl.lab.client import state_dir

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
    topology = load_topology(source, to_create=True)
    directory = (Path(source).resolve().parent,) if Path(source).is_file() else ()
    return open_lab(stack, build(topology), directory), topology, source


def open_lab(stack: ExitStack, plan: Plan, visible_paths: tuple[Path, ...]) -> Lab:
    """Open a lab, which `stack` closes, and start its services."""
    from labctl.lab.client.handle import Lab

    if not any(node.services or node.commands or node.tree for node in plan.nodes):
        return stack.enter_context(Lab.open(plan, visible_paths=visible_paths))
    from labctl.observe import services

    lab = stack.enter_context(Lab.open(plan, visible_paths=(*visible_paths, *services.visible_paths(plan))))
    for failure in services.start(lab, plan):
        complain(f"warning: {failure}")
    return lab


def run_script(session: PlaySession, lines: Iterable[str]) -> int:
    """Run all lines, also after a failure. Return the first status that is not 0.

    A blocked call whose line has an expectation fails when it has not returned a few seconds after the last line.
    """
    try:
        for line in statement_lines(lines):
            session.run_line(line, echo=True)
    except UnicodeDecodeError as error:
        raise InputError(f"labctl play: standard input is not text in {sys.stdin.encoding}: {error}.") from error
    except Exit:
        pass
    session.finish()
    return session.status


class Prompt:
    """Reads lines from a person and runs them; shows what happens meanwhile above the line that is being typed."""

    def __init__(self, session: PlaySession) -> None:
        self._session = session
        self._turn = threading.Lock()  # a line, or the returns of blocked calls while the person types
        self._wake = -1  # a pipe to the thread that waits for these

    def run(self) -> None:
        """Run lines until the end or `exit`. LabGone if the lab ends."""
        import readline

        session = self._session
        with self._watching():
            while True:
                try:
                    text = input(session.prompt)
                    while play_lines.is_unfinished(text):
                        text += "\n" + input(f"{'...':>{len(session.prompt) - 1}} ")
                except EOFError:
                    session.screen.line()
                    return
                except KeyboardInterrupt as stopped:
                    if not is_interrupt(stopped):
                        raise
                    session.screen.line("^C")
                    if not readline.get_line_buffer():
                        with self._interrupting(), self._turn:
                            session.interrupt()
                    continue
                try:
                    with self._interrupting(), self._turn:
                        lines = list(statement_lines(text.split("\n")))
                        for line in lines:
                            session.run_line(line, echo=len(lines) > 1)
                except Exit:
                    return
                os.write(self._wake, b"\n")

    @contextmanager
    def _interrupting(self) -> Iterator[None]:
        """A context in which Ctrl-C interrupts the present call, and not a request to the lab."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            self._session.live.interrupt(self._session.present)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """A context in which returns of blocked calls are shown above the prompt while the person types."""
        import readline

        session = self._session
        reading, self._wake = os.pipe2(os.O_CLOEXEC)

        def watch() -> None:
            while True:
                with self._turn:
                    descriptors = session.live.descriptors()
                is_quiet = not descriptors and monotonic_ns() - session.line_ns >= _QUIET_NS
                ready = select.select([reading, *descriptors], [], [], None if is_quiet else _LOOK_S)[0]
                if reading in ready:
                    if not os.read(reading, 4096):
                        return
                    continue
                with self._turn:
                    prompt = session.prompt  # as readline shows it
                    try:
                        lines = session.news()
                    except LabctlError:  # the next line meets it, too, and reports it
                        return
                    if lines:
                        sys.stdout.write("\r\x1b[K")
                        session.screen.write(lines)
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
