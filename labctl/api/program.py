"""Programs on hosts for blocking code: `Host.run` and `Host.start`."""

from __future__ import annotations

import re
import signal
import sys
import threading
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.api.core import LONGEST_WAIT_S, Core, program_state
from labctl.api.journal import ActivityKind, Entry, show_command, tail
from labctl.clock import monotonic
from labctl.errors import LabctlError, LabGone, ProgramFailed, ProgramNotReady, ProgramTimedOut
from labctl.patterns import TooSlow, search
from labctl.programs.output import Stream
from labctl.programs.program import Program as Running
from labctl.programs.program import describe_status, launch
from labctl.programs.waiting import Poller
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.api.host import Host
    from labctl.api.sockets import Address
    from labctl.programs.output import LineWatch
    from labctl.programs.program import Command, Handle
    from labctl.topology.endpoints import ListeningAt

    Ready = ListeningAt | re.Pattern[str]


def parse_ready(ready: int | str | re.Pattern[str]) -> ListeningAt | re.Pattern[str]:
    """Parse 8000, "tcp/8000", "udp/53", "tcp/10.0.0.1:80", "unix:/run/x" or a pattern. ValueError, TypeError."""
    from labctl.topology.endpoints import Protocol, parse_listening

    if isinstance(ready, re.Pattern):
        if not isinstance(ready.pattern, str):
            raise TypeError(f"ready={ready!r}: output is text; compile the pattern from a str")
        return ready
    if isinstance(ready, bool) or not isinstance(ready, int | str):
        raise TypeError(f'ready={ready!r}: a port (8000), "udp/53", "unix:/run/x", or re.compile(...) for its output')
    where = parse_listening(f"tcp/{ready}" if isinstance(ready, int) else re.sub(r"\A(tcp|udp|unix):", r"\1/", ready))
    if where.port == 0 and where.protocol is not Protocol.UNIX:
        raise ValueError(f"ready={ready!r}: port 0 means a port of the kernel's choice; give the port")
    return where


def listening(core: Core, node: str, where: Ready | None) -> frozenset[int]:
    """Return the inodes of the node's sockets that listen (UDP: are bound) there; none for a pattern.

    A socket that listened before the program started says nothing about the program, so both moments are compared.
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
    """Return `did not listen on tcp/8000 within 10 s`; `before` are sockets that listened before the start."""
    if isinstance(ready, re.Pattern):
        return f"printed no line with {ready.pattern!r}{how}"
    taken = "; another socket listened there before it started" if before else ""
    return f"did not listen on {ready}{how}{taken}"


def signal_number(which: int | str) -> int:
    """Return the number of `signal.SIGTERM`, 15, "TERM" or "SIGTERM". ValueError."""
    if not isinstance(which, str):
        return which
    known = signal.Signals.__members__
    name = f"SIG{which.upper().removeprefix('SIG')}"
    if name not in known:
        raise ValueError(f'`{which}` is not a signal: write "TERM" or signal.SIGTERM')
    return known[name]


class Completed(Struct, frozen=True):
    """A program that has ended. `returncode` is as Popen's: negative for the signal that ended it."""

    host: str
    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    duration_s: float
    truncated_bytes: int = 0  # left out in the middle, where `limit_bytes` was given

    def __repr__(self) -> str:
        shown = ((name, getattr(self, name)) for name in self.__struct_fields__ if name not in ("stdout", "stderr"))
        return f"Completed({', '.join(f'{name}={value!r}' for name, value in shown)})"

    def __bool__(self) -> bool:
        """Return whether the exit status is 0."""
        return self.returncode == 0

    def check(self) -> Completed:
        """Return the result itself if the exit status is 0. ProgramFailed has the output."""
        if self.returncode == 0:
            return self
        raise ProgramFailed(
            f"host {self.host}: `{show_command(self.args)}` {describe_status(self.returncode)}, expected status 0."
            f"{output_text(self.stdout, self.stderr)}",
            returncode=self.returncode,
            stdout=self.stdout,
            stderr=self.stderr,
        )


def run(core: Core, command: Command, timeout_s: float | None, limit_bytes: int | None) -> Completed:
    """Run a program to its end; see `Host.run`."""
    started = monotonic()
    with core.journal.noting(command.host, ActivityKind.RUN, show_command(command.argv)) as entry, ExitStack() as stack:
        limit = bytes_of_each_end(limit_bytes)
        tracer = core.programs.tracer_for(command)
        running = launch(core.engine, command, threading.Condition(), limit_bytes=limit, tracer=tracer)
        stack.callback(running.close)
        poller = Poller()
        running.attach(poller)

        def has_ended(until: float | None) -> bool:
            poller.run_until(lambda: running.ended, until)
            if running.gone is not None:
                raise running.gone
            return running.ended

        try:
            in_time = has_ended(None if timeout_s is None else started + timeout_s)
            for wait_s in () if in_time else running.ending():
                has_ended(monotonic() + wait_s)
        except LabGone as error:
            raise core.gone(error) from error
        except BaseException:  # Ctrl-C
            kill(running.process)
            raise
        if not in_time:
            raise timed_out(running, timeout_s, entry)
        result = completed(running, started)
        entry.end(running.state, stdout=result.stdout, stderr=result.stderr)
    return result


def bytes_of_each_end(limit_bytes: int | None) -> int:
    """Return how many bytes to keep of the beginning, and of the end, of a stream limited to `limit_bytes`."""
    return sys.maxsize if limit_bytes is None else max(1, limit_bytes // 2)


def completed(running: Running, started: float) -> Completed:
    """Return the result of a program that has ended. `started` is on CLOCK_MONOTONIC."""
    assert running.status is not None
    command, record = running.command, running.record()
    output = (record.stdout, record.stderr, monotonic() - started, record.truncated_bytes)
    return Completed(command.host, tuple(command.argv), running.status, *output)


def timed_out(running: Running, timeout_s: float | None, entry: Entry) -> ProgramTimedOut:
    """Return the error for a program that did not end in time, and record it in the journal."""
    command, record = running.command, running.record()
    entry.end(f"not ended within {timeout_s:g} s", stdout=record.stdout, stderr=record.stderr)
    return ProgramTimedOut(
        f"host {command.host}: `{show_command(command.argv)}` did not end within {timeout_s:g} s; labctl ended it."
        f"{output_text(record.stdout, record.stderr)}",
        stdout=record.stdout,
        stderr=record.stderr,
    )


def kill(process: Handle) -> None:
    """Send SIGKILL to the process group, or to the program alone if the lab does not answer."""
    try:
        process.signal(signal.SIGKILL, group=True)
    except (LabctlError, RuntimeError):
        with suppress(RuntimeError):
            process.signal(signal.SIGKILL)


def kill_and_close(running: Running) -> None:
    """Kill a program, close its descriptors and stop watching it."""
    try:
        kill(running.process)
    finally:
        running.close()


def output_text(stdout: str, stderr: str) -> str:
    """Return a program's output as the end of a message."""
    parts = [
        f"\n{name}:\n{tail(text).rstrip()}" for name, text in (("stdout", stdout), ("stderr", stderr)) if text.strip()
    ]
    return "".join(parts) or " It printed nothing."


class ProgramFacts:
    """What a handle of a program reports, the same for `Program` and `AsyncProgram`."""

    def __init__(self, core: Core, running: Running, entry: Entry) -> None:
        """Used by subclasses."""
        self._core = core
        self._running = running
        self._entry = entry
        entry.read_state = partial(program_state, running)  # refers to nothing of the lab's handle

    def __repr__(self) -> str:
        command = self._running.command
        return f"<{type(self).__name__} {command.name!r} on {command.host}, {self.state}>"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command."""
        return tuple(self._running.command.argv)

    @property
    def pid(self) -> int:
        """The process ID on its host; 0 for a service that does not run."""
        return self._running.process.pid

    @property
    def state(self) -> str:
        """`running`, `exited with status 0`, `was ended by SIGTERM`, `ended with its lab`."""
        self._running.accounted_for |= not self._running.is_running
        return "ended with its lab" if self._is_lost else self._running.state

    @property
    def stdout(self) -> str:
        """The output so far. Bytes that are not UTF-8 become U+FFFD."""
        return self._running.text(Stream.STDOUT)

    @property
    def stderr(self) -> str:
        """The error output so far, as `stdout`."""
        return self._running.text(Stream.STDERR)

    @property
    def returncode(self) -> int | None:
        """As Popen's: None while it runs, negative for the signal that ended it."""
        self._running.accounted_for |= not self._running.is_running
        return self._running.status

    @property
    def _is_over(self) -> bool:
        """Whether it has ended, or the lab with it."""
        return self._running.ended

    @property
    def _is_lost(self) -> bool:
        """Whether the lab ended first, so that the exit status is unknown."""
        return self._running.gone is not None

    @property
    def _title(self) -> str:
        """The program's name in errors."""
        return self._running.command.name

    def _find(self, pattern: re.Pattern[str], timeout_s: float) -> re.Match[str] | None:
        try:
            for text in (self.stdout, self.stderr):
                if found := search(pattern, text, wall_s=timeout_s):
                    return found
        except TooSlow as error:
            raise self._failure(f"printed nothing that matches {pattern.pattern!r}: {error}") from error
        return None

    def _still_runs(self, timeout_s: float | None) -> TimeoutError:
        where = f"host {self._running.command.host}: {self._title}"
        return TimeoutError(f"{where} still runs after {timeout_s:g} s.{output_text(self.stdout, self.stderr)}")

    def _not_matched(self, pattern: re.Pattern[str], timeout_s: float) -> ProgramNotReady:
        return self._failure(f"printed nothing that matches {pattern.pattern!r}{self._in_time(timeout_s)}")

    def _check_ready(
        self, is_ready: bool, ready: Ready, before: frozenset[int], watch: LineWatch | None, timeout_s: float
    ) -> None:
        """Raise ProgramNotReady, with the reason, unless `is_ready`."""
        if watch is not None and watch.problem:
            raise self._failure(not_ready(ready, before, f": {watch.problem}"))
        if not is_ready:
            raise self._failure(not_ready(ready, before, self._in_time(timeout_s)))

    def _in_time(self, timeout_s: float) -> str:
        """Return why something did not happen: the program ended first, or the time was over."""
        return f": it {self.state}" if self._is_over else f" within {timeout_s:g} s"

    def _failure(self, problem: str) -> ProgramNotReady:
        stdout, stderr = self.stdout, self.stderr
        hint = "" if stderr else self._running.hint.replace("tty: true", "tty=True")
        output = output_text(stdout, stderr) + (hint and f" {hint}")
        return ProgramNotReady(
            f"host {self._running.command.host}: `{self._title}` {problem}.{output}",
            returncode=self.returncode,
            stdout=stdout,
            stderr=stderr,
        )


class Program(ProgramFacts):
    """A program on a host: one that was started, or a service of the topology (`Lab.services`).

    Leaving its `with` block ends it; so does the end of the lab. A service is then not restarted. Its output is always
    read, so it never waits for a full pipe; the first and the last MiB of each stream are kept. Thread-safe.
    """

    def __init__(self, host: Host, core: Core, running: Running, entry: Entry) -> None:
        """Used by `Host.start` and `Lab.services`."""
        super().__init__(core, running, entry)
        self.host = host

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            from labctl.api.journal import record_failure

            record_failure(self._core, error, self._running)
        self.close()

    @property
    def name(self) -> str:
        """The name given to `start`, else the program's."""
        return self._running.command.name

    def poll(self) -> int | None:
        """Return the present `returncode`."""
        return self.returncode

    def wait(self, timeout_s: float | None = 60.0) -> int:
        """Wait for its end; return its returncode. TimeoutError if it still runs after `timeout_s` (None: no limit)."""
        scope = self._core.scope(LONGEST_WAIT_S if timeout_s is None else timeout_s)
        try:
            ended = self._running.wait_end(scope)
        except LabGone as error:
            raise self._core.gone(error) from error
        if not ended:
            raise self._still_runs(timeout_s)
        status = self.returncode
        assert status is not None
        return status

    def wait_for_output(self, pattern: str | re.Pattern[str], *, timeout_s: float = 10.0) -> str:
        """Wait until its output (either stream) matches; return the match. ProgramNotReady if it never does."""
        compiled = re.compile(pattern) if isinstance(pattern, str) else pattern
        scope = self._core.scope(timeout_s)
        found = scope.wait_for(lambda: self._find(compiled, timeout_s) or self._is_over or None)
        if isinstance(found, re.Match):
            return found[0]
        raise self._not_matched(compiled, timeout_s)

    def signal(self, number: int | str) -> None:
        """Send a signal (`signal.SIGHUP` or "HUP") to the program alone. Does nothing if the program has ended."""
        number = signal_number(number)
        self._core.check_open(f"signal {self.name}")
        self._running.asked_to_end = True
        self._running.signal(number, group=False)

    def terminate(self) -> None:
        """Send SIGTERM to its process group, and do not wait."""
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to its process group, and do not wait."""
        self._signal_group(signal.SIGKILL)

    def close(self) -> None:
        """End the program: SIGTERM to its process group, SIGKILL after 2 s, then wait for its end. Idempotent.

        Output and returncode stay available. RuntimeWarning if not even SIGKILL ends it.
        """
        if self._core.is_forked or self._core.closed:
            return
        try:
            ended = self._running.ended or self._running.stop(signal.SIGTERM, self._core.scope(60.0))
        except (LabGone, RuntimeError):
            return  # the lab ends, and the program with it
        if not ended:
            import warnings

            warnings.warn(f"{self!r}: SIGKILL did not end it", RuntimeWarning, stacklevel=2)
            return
        self._core.programs.release(self._running)
        self._entry.end(self.state, stdout=self.stdout, stderr=self.stderr)

    def _signal_group(self, number: int) -> None:
        self._core.check_open(f"signal {self.name}")
        self._running.asked_to_end = True
        self._running.signal(number, group=True)

    def _await_ready(self, ready: Ready, before: frozenset[int], watch: LineWatch | None, timeout_s: float) -> None:
        """Wait until it is ready. ProgramNotReady if it is not in time, or ends before."""
        scope = self._core.scope(timeout_s)
        is_ready = False
        if watch is not None:
            scope.wait_for(lambda: watch.decided or self._is_over)
            is_ready = watch.found
        else:
            for _ in scope.look_again():
                over = self._is_over  # read before the sockets: what it did before its end counts for nothing
                is_ready = not over and bool(listening(self._core, self.host.name, ready) - before)
                if is_ready or over:
                    break
        self._check_ready(is_ready, ready, before, watch, timeout_s)
