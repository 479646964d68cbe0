"""Running a program on a host to its end: its output is read by the thread that waits for it.

What `Host.start(ready=...)` may be: a port or a path that the program listens on, or a line of its output.

A program that was started on a host and runs beside the test: a context manager that ends it.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.api.core import LONGEST_WAIT_S, Core, seen
from labctl.api.journal import ActivityKind, Entry, show_command, tail
from labctl.errors import LabctlError, LabGone, ProgramFailed, ProgramNotReady, ProgramTimedOut
from labctl.patterns import TooSlow, search
from labctl.programs.output import Stream
from labctl.programs.program import KILL_TIMEOUT_S, TERM_TIMEOUT_S, describe_status, launch
from labctl.programs.program import Program as Running
from labctl.programs.waiting import Poller
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.api.core import Address
    from labctl.api.host import Host
    from labctl.programs.output import LineWatch
    from labctl.programs.program import Command, Handle
    from labctl.topology.endpoints import ListeningAt

    Ready = ListeningAt | re.Pattern[str]


def parse_ready(ready: int | str | re.Pattern[str]) -> ListeningAt | re.Pattern[str]:
    """8000, "tcp/8000", "udp/53", "tcp/10.0.0.1:80", "unix:/run/x", or a compiled pattern. ValueError, TypeError."""
    from labctl.topology.endpoints import Protocol, parse_listening

    if isinstance(ready, re.Pattern):
        if not isinstance(ready.pattern, str):
            raise TypeError(f"ready={ready!r}: output is text; compile the pattern from a str")
        return ready
    if isinstance(ready, bool) or not isinstance(ready, int | str):
        raise TypeError(f'ready={ready!r}: a port (8000), "udp/53", "unix:/run/x", or re.compile(...) for its output')
    where = parse_listening(f"tcp/{ready}" if isinstance(ready, int) else re.sub(r"\A(tcp|udp|unix):", r"\1/", ready))
    if where.port == 0 and where.protocol is not Protocol.UNIX:
        raise ValueError(f"ready={ready!r}: nothing listens on port 0, which stands for one of the kernel's choice")
    return where


def listening(core: Core, node: str, where: Ready | None) -> frozenset[int]:
    """The inodes of the sockets of the node that listen (UDP: are bound) there; none for a pattern of output.

    What listens before a program is started says nothing of the program, so both times are compared.
    """
    if where is None or isinstance(where, re.Pattern):
        return frozenset()
    from labctl.errors import NotFound
    from labctl.observe.network import Transport, sockets
    from labctl.observe.services import is_at

    def addresses_of(name: str) -> tuple[Address, ...]:
        try:
            return core.addresses_on(node, name)
        except NotFound:
            return ()

    found = sockets(core.engine, node, (Transport(where.protocol),))
    return frozenset(each.inode for each in found if each.listening and is_at(each, where, addresses_of))


def not_ready(ready: Ready, before: frozenset[int], how: str) -> str:
    """`was to listen on tcp/8000 before it is used; that was not so within 10 s`; `before` listened there already."""
    if isinstance(ready, re.Pattern):
        return f"was to write a line with {ready.pattern!r} before it is used; {how}"
    taken = "; another socket listened there before it was started" if before else ""
    return f"was to listen on {ready} before it is used; {how}{taken}"


def signal_number(which: int | str) -> int:
    """The number of `signal.SIGTERM`, 15, "TERM" or "SIGTERM". ValueError."""
    if not isinstance(which, str):
        return which
    known = signal.Signals.__members__
    name = f"SIG{which.upper().removeprefix('SIG')}"
    if name not in known:
        raise ValueError(f'`{which}` is not a signal: write "TERM" or signal.SIGTERM')
    return known[name]


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that has ended. `returncode` is as Popen's: minus the signal's number when one ended it."""

    host: str
    args: tuple[str, ...]
    returncode: int
    stdout: str = field(repr=False)
    stderr: str = field(repr=False)
    duration_s: float
    truncated_bytes: int = 0  # left out in the middle, where `limit_bytes` was given

    def __bool__(self) -> bool:
        """Whether it ended with status 0."""
        return self.returncode == 0

    def check(self) -> Completed:
        """Itself, if it ended with status 0. ProgramFailed, with what it wrote."""
        if self.returncode == 0:
            return self
        raise ProgramFailed(
            f"host {self.host}: `{show_command(self.args)}` {describe_status(self.returncode)}, where 0 was asked for."
            f"{written(self.stdout, self.stderr)}",
            returncode=self.returncode,
            stdout=self.stdout,
            stderr=self.stderr,
        )


def run(core: Core, command: Command, timeout_s: float | None, limit_bytes: int | None) -> Completed:
    """Run it; see `Host.run`."""
    started = monotonic()
    with core.journal.noting(command.host, ActivityKind.RUN, show_command(command.argv)) as entry, ExitStack() as stack:
        running = launch(core.engine, command, threading.Condition(), limit_bytes=half(limit_bytes))
        stack.callback(running.close)
        poller = Poller()
        running.attach(poller)

        def has_ended(until: float | None) -> bool:
            poller.run_until(lambda: running.ended, until)
            if running.gone is not None:
                raise running.gone
            return running.ended

        try:
            if not has_ended(None if timeout_s is None else started + timeout_s):
                running.ask_to_end()
                if not has_ended(monotonic() + TERM_TIMEOUT_S):
                    running.signal(signal.SIGKILL, group=True)
                    has_ended(monotonic() + KILL_TIMEOUT_S)
                raise timed_out(running, timeout_s, entry)
        except LabGone as error:
            raise core.gone(error) from error
        except ProgramTimedOut:
            raise
        except BaseException:  # Ctrl-C
            kill(running.process)
            raise
        result = completed(running, started)
        entry.end(running.state, stdout=result.stdout, stderr=result.stderr)
    return result


def half(limit_bytes: int | None) -> int:
    """How many bytes of the beginning, and of the end, are kept of a stream of which `limit_bytes` are kept."""
    return sys.maxsize if limit_bytes is None else max(1, limit_bytes // 2)


def completed(running: Running, started: float) -> Completed:
    """A program that has ended, as a result; `started` is on CLOCK_MONOTONIC."""
    assert running.status is not None
    command, record = running.command, running.record()
    return Completed(
        command.host,
        tuple(command.argv),
        running.status,
        record.stdout,
        record.stderr,
        monotonic() - started,
        record.truncated_bytes,
    )


def timed_out(running: Running, timeout_s: float | None, entry: Entry) -> ProgramTimedOut:
    """The error to raise when a program did not end in time and was ended; the journal's entry shows it, too."""
    command, record = running.command, running.record()
    entry.end(f"not ended within {timeout_s:g} s", stdout=record.stdout, stderr=record.stderr)
    return ProgramTimedOut(
        f"host {command.host}: `{show_command(command.argv)}` did not end within {timeout_s:g} s and was ended."
        f"{written(record.stdout, record.stderr)}",
        stdout=record.stdout,
        stderr=record.stderr,
    )


def kill(process: Handle) -> None:
    """SIGKILL for the process group; for the program alone where the keeper cannot be asked any more."""
    try:
        process.signal(signal.SIGKILL, group=True)
    except (LabctlError, RuntimeError):
        with suppress(RuntimeError):
            process.signal(signal.SIGKILL)


def kill_and_close(running: Running) -> None:
    """Kill a program and close its descriptors; it is not watched any more."""
    try:
        kill(running.process)
    finally:
        running.close()


def written(stdout: str, stderr: str) -> str:
    """What a program wrote, as the end of a message."""
    parts = [
        f"\n{name}:\n{tail(text).rstrip()}" for name, text in (("stdout", stdout), ("stderr", stderr)) if text.strip()
    ]
    return "".join(parts) or " It wrote nothing."


class ProgramFacts:
    """What a program's handle reports: the same for `Program` and `AsyncProgram`."""

    def __init__(self, core: Core, running: Running, entry: Entry) -> None:
        """For the classes that build on it."""
        self._core = core
        self._running = running
        self._entry = entry
        entry.look = partial(seen, running)  # refers to nothing of the lab's handle

    def __repr__(self) -> str:
        command = self._running.command
        return f"<{type(self).__name__} {command.name!r} on {command.host}, {self.state}>"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command."""
        return tuple(self._running.command.argv)

    @property
    def pid(self) -> int:
        """Process ID on its host; 0 for a service that does not run."""
        return self._running.process.pid

    @property
    def state(self) -> str:
        """`running`, `exited with status 0`, `was ended by SIGTERM`, `gone with its lab`."""
        self._running.accounted_for |= not self._running.is_running
        return "gone with its lab" if self._is_lost else self._running.state

    @property
    def stdout(self) -> str:
        """What it has written so far; bytes that are not UTF-8 are U+FFFD."""
        return self._running.text(Stream.STDOUT)

    @property
    def stderr(self) -> str:
        """As `stdout`."""
        return self._running.text(Stream.STDERR)

    @property
    def returncode(self) -> int | None:
        """As Popen's: None while it runs, minus the signal's number when a signal ended it."""
        self._running.accounted_for |= not self._running.is_running
        return self._running.status

    @property
    def _is_lost(self) -> bool:
        """Whether the lab ended first, so that the exit status is unknown."""
        return self._running.gone is not None

    @property
    def _title(self) -> str:
        """How errors name it."""
        return self._running.command.name

    def _search(self, pattern: re.Pattern[str], timeout_s: float) -> re.Match[str] | None:
        try:
            for text in (self.stdout, self.stderr):
                if found := search(pattern, text, wall_s=timeout_s):
                    return found
        except TooSlow as error:
            raise self._failure(f"was to write {pattern.pattern!r}; {error}") from error
        return None

    def _failure(self, problem: str) -> ProgramNotReady:
        stdout, stderr = self.stdout, self.stderr
        hint = "" if stderr else self._running.hint.replace("tty: true", "tty=True")
        wrote = written(stdout, stderr) + (hint and f" {hint}")
        return ProgramNotReady(
            f"host {self._running.command.host}: `{self._title}` {problem}.{wrote}",
            returncode=self.returncode,
            stdout=stdout,
            stderr=stderr,
        )


class Program(ProgramFacts):
    """A program that runs on a host: one that was started, or a service of the topology (`Lab.services`).

    Leaving its `with` block ends it, and so does the end of the lab. A service is not restarted after that.
    Its output is read all the time: it is never kept waiting by a full pipe. The first and the last MiB of each stream
    are kept. Thread-safe.
    """

    def __init__(self, host: Host, core: Core, running: Running, entry: Entry) -> None:
        """For `Host.start` and `Lab.services`."""
        super().__init__(core, running, entry)
        self.host = host

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            from labctl.api.journal import let_crash, snapshot_of_failure

            snapshot_of_failure(self._core, error)
            let_crash(self._core, [self._running])
        self.close()

    @property
    def name(self) -> str:
        """As given to `start`, else that of the program."""
        return self._running.command.name

    def poll(self) -> int | None:
        """As `returncode`, after a look."""
        return self.returncode

    def wait(self, timeout_s: float | None = 60.0) -> int:
        """Wait for its end; its returncode. TimeoutError when it still runs after `timeout_s` (None: no limit)."""
        scope = self._core.scope(LONGEST_WAIT_S if timeout_s is None else timeout_s)
        try:
            ended = self._running.wait_end(scope)
        except LabGone as error:
            raise self._core.gone(error) from error
        if not ended:
            raise TimeoutError(
                f"host {self.host.name}: {self.name} still runs after {timeout_s:g} s."
                f"{written(self.stdout, self.stderr)}"
            )
        status = self.returncode
        assert status is not None
        return status

    def wait_for_output(self, pattern: str | re.Pattern[str], *, timeout_s: float = 10.0) -> str:
        """Wait until its output (either stream) matches; the match. ProgramNotReady when it does not in time."""
        compiled = re.compile(pattern) if isinstance(pattern, str) else pattern
        scope = self._core.scope(timeout_s)
        found = scope.wait_for(lambda: self._search(compiled, timeout_s) or self._running.ended or None)
        if isinstance(found, re.Match):
            return found[0]
        how = f"it {self.state}" if self._running.ended else f"not within {timeout_s:g} s"
        raise self._failure(f"was to write {compiled.pattern!r}; {how}")

    def signal(self, number: int | str) -> None:
        """Send a signal, `signal.SIGHUP` or "HUP", to the program alone; one that has ended is left alone."""
        number = signal_number(number)
        self._core.check_open(f"signal {self.name}")
        self._running.asked_to_end = True
        self._running.signal(number, group=False)

    def terminate(self) -> None:
        """SIGTERM to its process group, without waiting."""
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to its process group, without waiting."""
        self._signal_group(signal.SIGKILL)

    def close(self) -> None:
        """End it: SIGTERM to its process group, SIGKILL after 2 s; returns when it has ended. Idempotent.

        Output and returncode can still be asked for. RuntimeWarning when not even SIGKILL has ended it.
        """
        if self._core.is_forked or self._core.closed:
            return
        try:
            ended = self._running.ended or self._running.stop(signal.SIGTERM, self._core.scope(60.0))
        except (LabGone, RuntimeError):
            return  # the lab ends, and the program with it
        if not ended:
            import warnings

            warnings.warn(f"{self!r}: not even SIGKILL has ended it", RuntimeWarning, stacklevel=2)
            return
        self._core.programs.release(self._running)
        self._entry.end(self.state, stdout=self.stdout, stderr=self.stderr)

    def _signal_group(self, number: int) -> None:
        self._core.check_open(f"signal {self.name}")
        self._running.asked_to_end = True
        self._running.signal(number, group=True)

    def _await_ready(self, ready: Ready, before: frozenset[int], watch: LineWatch | None, timeout_s: float) -> None:
        """ProgramNotReady when it is not ready in time, or ends before."""
        running = self._running
        scope = self._core.scope(timeout_s)
        if watch is not None:
            scope.wait_for(lambda: watch.decided or running.ended)
            seen = watch.found
            if watch.problem:
                raise self._failure(not_ready(ready, before, watch.problem))
        else:
            seen = False
            for _ in scope.look_again():
                ended = running.ended  # before the look: what it did before its end counts for nothing
                seen = not ended and bool(listening(self._core, self.host.name, ready) - before)
                if seen or ended:
                    break
        if not seen:
            how = f"it {self.state}" if running.ended else f"that was not so within {timeout_s:g} s"
            raise self._failure(not_ready(ready, before, how))
