"""Running a program on a host to its end: its output is read by the thread that waits for it.

What `Host.start(ready=...)` may be: a port or a path that the program listens on, or a line of its output.

A program that was started on a host and runs beside the test: a context manager that ends it.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.api.core import LONGEST_WAIT_S, Core
from labctl.api.journal import ActivityKind, Entry, Seen, show_command, tail
from labctl.errors import LabctlError, LabGone, ProgramFailed, ProgramNotReady, ProgramTimedOut
from labctl.lab.client.process import Process
from labctl.patterns import TooSlow, search
from labctl.programs.program import CHUNK_BYTES, PATIENCE_S, SURELY_S, KeptOutput, describe_status
from labctl.programs.program import Program as Running
from labctl.scenario.results import Stream
from labctl.structs import Struct
from labctl.topology.model import TERMINAL_SIZE
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.api.host import Host
    from labctl.programs.program import LineWatch


if TYPE_CHECKING:
    from labctl.api.core import Address
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


LONGEST_POLL_MS = 1e9  # poll(2) takes an int


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


class Request(Struct, frozen=True):
    """A program that is to run to its end."""

    host: str
    argv: tuple[str, ...]
    input: str | bytes | None
    timeout_s: float | None
    env: Mapping[str, str] | None
    cwd: str | None
    user: str | None
    limit_bytes: int | None
    tty: bool = False  # both streams go to a terminal, and are stdout here

    def outputs(self) -> tuple[KeptOutput, KeptOutput]:
        """Where stdout and stderr are gathered."""
        limit = sys.maxsize if self.limit_bytes is None else max(1, self.limit_bytes // 2)
        return KeptOutput(limit), KeptOutput(limit)

    def timed_out(self, stdout: str, stderr: str) -> ProgramTimedOut:
        """The error to raise when it did not end in time."""
        return ProgramTimedOut(
            f"host {self.host}: `{show_command(self.argv)}` did not end within {self.timeout_s:g} s and was ended."
            f"{written(stdout, stderr)}",
            stdout=stdout,
            stderr=stderr,
        )


def run(core: Core, request: Request) -> Completed:
    """Run it; see `Host.run`."""
    started = monotonic()
    out, err = request.outputs()
    with core.journal.noting(request.host, ActivityKind.RUN, show_command(request.argv)) as entry, ExitStack() as stack:
        process, pipes = spawn(core, request, stack)
        gathering = _Gathering(process, {pipes[0]: out, pipes[1]: err})
        try:
            until = None if request.timeout_s is None else started + request.timeout_s
            status = gathering.until_end(until)
            if status is None:
                end(process, gathering)
                error = request.timed_out(out.text(), err.text())
                entry.end(f"not ended within {request.timeout_s:g} s", stdout=error.stdout, stderr=error.stderr)
                raise error
        except LabGone as error:
            raise core.gone(error) from error
        except ProgramTimedOut:
            raise
        except BaseException:  # Ctrl-C
            kill(process)
            raise
        completed = Completed(
            request.host,
            request.argv,
            status,
            out.text(),
            err.text(),
            monotonic() - started,
            out.truncated_bytes + err.truncated_bytes,
        )
        entry.end(describe_status(status), stdout=completed.stdout, stderr=completed.stderr)
    return completed


def spawn(core: Core, request: Request, stack: ExitStack) -> tuple[Process, tuple[int, int]]:
    """Start it with two pipes for its output, whose reading ends (non-blocking), and itself, `stack` closes.

    With a terminal, its other side takes the place of the first pipe, and the second is at its end.
    """
    with ExitStack() as theirs:
        stdin = None
        if request.input is not None:
            stdin = memory_file(request.input)
            theirs.callback(os.close, stdin)
        ends = []
        for _ in range(2):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, reading)
            theirs.callback(os.close, writing)
            os.set_blocking(reading, False)
            ends.append((reading, writing))
        process = stack.enter_context(
            closing(
                core.engine.spawn(
                    request.host,
                    request.argv,
                    env=request.env,
                    cwd=request.cwd,
                    stdin=stdin,
                    stdout=ends[0][1],
                    stderr=ends[1][1],
                    user=request.user,
                    terminal=TERMINAL_SIZE if request.tty else None,
                    is_terminal_plain=request.tty,
                )
            )
        )
    if process.terminal is None:
        return process, (ends[0][0], ends[1][0])
    os.set_blocking(process.terminal, False)
    return process, (process.terminal, ends[1][0])


def memory_file(content: str | bytes) -> int:
    """A descriptor to read `content` from: nothing has to be fed or cleaned up. The caller closes it."""
    data = content.encode() if isinstance(content, str) else content
    descriptor = os.memfd_create("labctl-stdin", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


class _Gathering:
    """Reads a program's pipes until it has ended; what it left behind may go on to hold them open."""

    def __init__(self, process: Process, outputs: dict[int, KeptOutput]) -> None:
        self._process = process
        self._outputs = outputs
        self._open = set(outputs)

    def until_end(self, until: float | None) -> int | None:
        """The status, when all that it wrote has been read; None when `until` (CLOCK_MONOTONIC) comes first."""
        poller = select.poll()
        for descriptor in (*self._open, self._process.fileno()):
            poller.register(descriptor, select.POLLIN)
        while True:
            left_ms = None if until is None else min(max(0.0, until - monotonic()) * 1000, LONGEST_POLL_MS)
            ready = [descriptor for descriptor, _ in poller.poll(left_ms)]
            for descriptor in ready:
                if descriptor in self._open and not drain(descriptor, self._outputs[descriptor], once=True):
                    self._open.remove(descriptor)
                    poller.unregister(descriptor)
            if self._process.fileno() in ready:
                status = self._process.wait(0)
                if status is not None:
                    for descriptor in self._open:  # what it wrote before it ended is all there by now
                        drain(descriptor, self._outputs[descriptor])
                    return status
            if until is not None and monotonic() >= until:
                return None


def drain(descriptor: int, output: KeptOutput, *, once: bool = False) -> bool:
    """Read what is there (`once`: a piece of it); False at the end of the stream."""
    while True:
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # nobody has the terminal open any more (pty(7))
        if not data:
            return False
        output.append(data)
        if once:
            return True


def end(process: Process, gathering: _Gathering) -> None:
    """End a program and its process group: SIGTERM, and SIGKILL when that does not help within 2 s."""
    process.signal(signal.SIGTERM, group=True)
    process.signal(signal.SIGCONT, group=True)  # a stopped one acts on nothing else
    if gathering.until_end(monotonic() + PATIENCE_S) is None:
        process.signal(signal.SIGKILL, group=True)
        gathering.until_end(monotonic() + SURELY_S)


def kill(process: Process) -> None:
    """SIGKILL for the process group; for the program alone where the keeper cannot be asked any more."""
    try:
        process.signal(signal.SIGKILL, group=True)
    except (LabctlError, RuntimeError):
        with suppress(RuntimeError):
            process.signal(signal.SIGKILL)


def written(stdout: str, stderr: str) -> str:
    """What a program wrote, as the end of a message."""
    parts = [
        f"\n{name}:\n{tail(text).rstrip()}" for name, text in (("stdout", stdout), ("stderr", stderr)) if text.strip()
    ]
    return "".join(parts) or " It wrote nothing."


class Program:
    """A program that runs on a host: one that was started, or a service of the topology (`Lab.services`).

    Leaving its `with` block ends it, and so does the end of the lab. A service is not started again after that.
    Its output is read all the time: it is never kept waiting by a full pipe. The first and the last MiB of each stream
    are kept. Thread-safe.
    """

    def __init__(self, host: Host, core: Core, running: Running, entry: Entry) -> None:
        """For `Host.start` and `Lab.services`."""
        self.host = host
        self._core = core
        self._running = running
        self._entry = entry
        entry.look = partial(seen, running)

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

    def __repr__(self) -> str:
        return f"<Program {self._running.command.name!r} on {self.host.name}, {self.state}>"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command."""
        return tuple(self._running.command.argv)

    @property
    def name(self) -> str:
        """What it goes by: as given to `start`, else the program's own."""
        return self._running.command.name

    @property
    def pid(self) -> int:
        """Its number on its host; of a service that does not run 0."""
        return self._running.process.pid

    @property
    def state(self) -> str:
        """`running`, `exited with status 0`, `was ended by SIGTERM`; with its lab `closed`."""
        self._running.accounted_for |= not self._running.is_running
        return "gone with its lab" if self._running.gone else self._running.state

    @property
    def stdout(self) -> str:
        """What it has written so far; other bytes than UTF-8 are U+FFFD."""
        return self._running.text(Stream.STDOUT)

    @property
    def stderr(self) -> str:
        """As `stdout`."""
        return self._running.text(Stream.STDERR)

    @property
    def returncode(self) -> int | None:
        """As Popen's: None while it runs, minus the signal's number when one has ended it."""
        self._running.accounted_for |= not self._running.is_running
        return self._running.status

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
        running = self._running

        def look() -> re.Match[str] | bool | None:
            for stream in Stream:
                if found := search(compiled, running.text(stream), wall_s=timeout_s):
                    return found
            return running.ended or None

        try:
            found = self._core.scope(timeout_s).wait_for(look)
        except TooSlow as error:
            raise self._failure(f"was to write {compiled.pattern!r}; {error}") from error
        if isinstance(found, re.Match):
            return found[0]
        how = f"it {self.state}" if running.ended else f"not within {timeout_s:g} s"
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

    def _failure(self, problem: str) -> ProgramNotReady:
        stdout, stderr = self.stdout, self.stderr
        hint = self._running.hint.replace("tty: true", "tty=True") if not stderr else ""
        return ProgramNotReady(
            f"host {self.host.name}: `{self.name}` {problem}.{written(stdout, stderr)}{hint and f' {hint}'}",
            returncode=self.returncode,
            stdout=stdout,
            stderr=stderr,
        )

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


def seen(running: Running) -> Seen:
    """How it is doing, for the journal."""
    outcome = "gone with its lab" if running.gone else running.state
    return Seen(outcome, running.ended, running.text(Stream.STDOUT), running.text(Stream.STDERR))
