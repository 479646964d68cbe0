"""A program on a host as an event loop has it: its pipes and its end are watched by the loop, not by threads."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.api.core import LONGEST_WAIT_S
from labctl.api.journal import ActivityKind, Entry, Seen, show_command
from labctl.api.program import Completed, Request, drain, kill, listening, not_ready, signal_number, spawn, written
from labctl.errors import LabctlError, LabGone, ProgramNotReady
from labctl.kernel import syscalls
from labctl.lab.client.process import Process
from labctl.patterns import TooSlow, search, search_lines
from labctl.programs.program import PATIENCE_S, SURELY_S, describe_status
from labctl.programs.waiting import FIRST_LOOK_AGAIN_S, LAST_LOOK_AGAIN_S
from labctl.topology.model import BUFFERED
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.api.async_lab import AsyncHost, Worker
    from labctl.api.core import Core
    from labctl.api.program import Ready


@asynccontextmanager
async def deadline(until: float | None) -> AsyncIterator[None]:
    """As asyncio.timeout_at(), by CLOCK_MONOTONIC: the clock of an event loop may be frozen (freezegun). TimeoutError.

    None is no deadline.
    """
    if until is None:
        yield
        return
    loop = asyncio.get_running_loop()
    timer = syscalls.timer(min(until, monotonic() + LONGEST_WAIT_S))
    try:
        async with asyncio.timeout(None) as timeout:

            def expire() -> None:
                loop.remove_reader(timer)
                timeout.reschedule(loop.time())

            loop.add_reader(timer, expire)
            try:
                yield
            finally:
                loop.remove_reader(timer)
    finally:
        os.close(timer)


class AsyncProgram:
    """A program that runs on a host. Leaving its `async with` block ends it, and so does the end of the lab.

    It belongs to the event loop that started it. Its output is read all the time.
    """

    def __init__(
        self,
        host: AsyncHost,
        core: Core,
        worker: Worker,
        request: Request,
        process: Process,
        pipes: tuple[int, int],
        stack: ExitStack,
        entry: Entry,
        all_of_lab: set[AsyncProgram],
    ) -> None:
        """For `AsyncHost`: takes over what `stack` closes. To be made in the loop; in `all_of_lab` until it is over."""
        self.host = host
        self._core = core
        self._worker = worker
        self._request = request
        self._process = process
        self._stack = stack
        self._entry = entry
        self._all_of_lab = all_of_lab
        self._started = monotonic()
        self._loop = asyncio.get_running_loop()
        self._outputs = dict(zip(pipes, request.outputs(), strict=True))
        self._stdout, self._stderr = self._outputs.values()
        self._reading = set(pipes)
        self._changed = asyncio.Event()
        self._status: int | None = None
        self._gone: LabGone | None = None
        self._closed = False
        for descriptor in pipes:
            self._loop.add_reader(descriptor, self._readable, descriptor)
        self._loop.add_reader(process.fileno(), self._told)
        entry.look = self._seen
        all_of_lab.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None and not self._closed:
                from labctl.api.journal import snapshot_of_failure

                await self._worker.call(partial(snapshot_of_failure, self._core, error))
                await self._settle()
        finally:
            await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncProgram {self._request.argv[0]!r} on {self.host.name}, {self.state}>"

    @property
    def argv(self) -> tuple[str, ...]:
        """The command."""
        return self._request.argv

    @property
    def pid(self) -> int:
        """Its number on its host."""
        return self._process.pid

    @property
    def state(self) -> str:
        """`running`, `exited with status 0`, `was ended by SIGTERM`."""
        if self._gone is not None or (self._closed and self._status is None):
            return "gone with its lab"
        return "running" if self._status is None else describe_status(self._status)

    @property
    def stdout(self) -> str:
        """What it has written so far; other bytes than UTF-8 are U+FFFD."""
        return self._stdout.text()

    @property
    def stderr(self) -> str:
        """As `stdout`."""
        return self._stderr.text()

    @property
    def returncode(self) -> int | None:
        """As Popen's: None while it runs."""
        return self._status

    async def wait(self, timeout_s: float | None = 60.0) -> int:
        """Wait for its end; its returncode. TimeoutError when it still runs after `timeout_s` (None: no limit)."""
        if not await self._ended_within(timeout_s):
            raise TimeoutError(
                f"host {self.host.name}: {self.argv[0]} still runs after {timeout_s:g} s."
                f"{written(self.stdout, self.stderr)}"
            )
        return self._known_status()

    async def wait_for_output(self, pattern: str | re.Pattern[str], *, timeout_s: float = 10.0) -> str:
        """Wait until its output (either stream) matches; the match. ProgramNotReady when it does not in time."""
        compiled = re.compile(pattern) if isinstance(pattern, str) else pattern
        until = monotonic() + timeout_s
        while True:
            for text in (self.stdout, self.stderr):
                try:
                    found = search(compiled, text, wall_s=timeout_s)
                except TooSlow as error:
                    raise self._failure(f"was to write {compiled.pattern!r}; {error}") from error
                if found:
                    return found[0]
            if self._is_over or not await self._change(until):
                how = f"it {self.state}" if self._is_over else f"not within {timeout_s:g} s"
                raise self._failure(f"was to write {compiled.pattern!r}; {how}")

    def signal(self, number: int | str) -> None:
        """Send a signal, `signal.SIGHUP` or "HUP", to the program alone; one that has ended is left alone."""
        number = signal_number(number)
        if not self._is_over:
            self._process.signal(number)

    async def terminate(self) -> None:
        """SIGTERM to its process group, without waiting for its end."""
        await self._signal_group(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL to its process group, without waiting for its end."""
        await self._signal_group(signal.SIGKILL)

    async def aclose(self) -> None:
        """End it: SIGTERM to its process group, SIGKILL after 2 s; returns when it has ended. Idempotent.

        When that is cancelled it is SIGKILLed at once.
        """
        if self._closed:
            return
        try:
            if not self._is_over and not self._core.closed:
                await self._end()
        except (LabGone, RuntimeError):
            return  # the lab ends, and the program with it
        finally:
            self._let_go()

    async def _settle(self) -> None:
        """What may be the cause of an error is let crash by itself."""
        from labctl.scenario.last_look import QUIET_S, SETTLE_S, is_idle

        until = monotonic() + SETTLE_S
        idle = partial(is_idle, self._core.engine, self.host.name, self._process.pid)
        with suppress(LabctlError, RuntimeError):  # the lab has ended, or is closed by another thread
            while not await self._ended_within(QUIET_S) and monotonic() < until:
                if await self._worker.call(idle):
                    return

    async def _end(self) -> None:
        await self._signal_group(signal.SIGTERM)
        await self._signal_group(signal.SIGCONT)
        if not await self._ended_within(PATIENCE_S):
            await self._signal_group(signal.SIGKILL)
            if not await self._ended_within(SURELY_S):
                import warnings

                warnings.warn(f"{self!r}: not even SIGKILL has ended it", RuntimeWarning, stacklevel=3)

    async def _to_end(self, timeout_s: float | None) -> Completed:
        """For `AsyncHost.run`. ProgramTimedOut, LabGone."""
        try:
            if not await self._ended_within(timeout_s):
                await self._end()
                error = self._request.timed_out(self.stdout, self.stderr)
                self._entry.end(f"not ended within {timeout_s:g} s", stdout=error.stdout, stderr=error.stderr)
                raise error
            status = self._known_status()
        finally:
            self._let_go()
        return Completed(
            self.host.name,
            self.argv,
            status,
            self.stdout,
            self.stderr,
            monotonic() - self._started,
            self._stdout.truncated_bytes + self._stderr.truncated_bytes,
        )

    async def _await_ready(self, ready: Ready, before: frozenset[int], timeout_s: float) -> None:
        """ProgramNotReady when it is not ready in time, or ends before."""
        until = monotonic() + timeout_s
        interval_s = FIRST_LOOK_AGAIN_S
        while True:
            over, late = self._is_over, monotonic() >= until
            if isinstance(ready, re.Pattern):
                try:
                    if search_lines(ready, [*self.stdout.splitlines(), *self.stderr.splitlines()]):
                        return
                except TooSlow as error:
                    raise self._failure(not_ready(ready, before, str(error))) from error
            elif not over and await self._worker.call(lambda: listening(self._core, self.host.name, ready)) - before:
                return
            if over or late:
                how = f"it {self.state}" if over else f"that was not so within {timeout_s:g} s"
                raise self._failure(not_ready(ready, before, how))
            if isinstance(ready, re.Pattern):
                await self._change(until)
            else:
                await self._change(min(until, monotonic() + interval_s), of_end=True)
                interval_s = min(interval_s * 2, LAST_LOOK_AGAIN_S)

    @property
    def _is_over(self) -> bool:
        """Whether there is nothing more to come: it has ended, with its lab or without, or was let go of."""
        return self._status is not None or self._gone is not None or self._closed

    def _known_status(self) -> int:
        """How it ended, once it is over. LabGone; RuntimeError when the lab was closed before it had ended."""
        if self._gone is not None:
            raise self._core.gone(self._gone)
        if self._status is None:
            raise RuntimeError(f"host {self.host.name}: {self.argv[0]} was still running when its lab was closed")
        return self._status

    async def _ended_within(self, timeout_s: float | None) -> bool:
        until = None if timeout_s is None else monotonic() + timeout_s
        while not self._is_over:
            if not await self._change(until):
                break
        return self._is_over

    async def _change(self, until: float | None, *, of_end: bool = False) -> bool:
        """Wait until it has written something or has ended; False when `until` (CLOCK_MONOTONIC) comes first."""
        while True:
            changed = self._changed
            try:
                async with deadline(until):
                    await changed.wait()
            except TimeoutError:
                return False
            if self._is_over or not of_end:
                return True

    async def _signal_group(self, number: int) -> None:
        if not self._is_over:
            await self._worker.call(lambda: self._process.signal(number, group=True))

    def _failure(self, problem: str) -> ProgramNotReady:
        stdout, stderr = self.stdout, self.stderr
        is_silent = not (stdout or stderr or self._request.tty or self._is_over)
        hint = f" {BUFFERED}".replace("tty: true", "tty=True") if is_silent else ""
        return ProgramNotReady(
            f"host {self.host.name}: `{show_command(self.argv)}` {problem}.{written(stdout, stderr)}{hint}",
            returncode=self.returncode,
            stdout=stdout,
            stderr=stderr,
        )

    def _seen(self) -> Seen:
        return Seen(self.state, self._is_over, self.stdout, self.stderr)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # called by the loop

    def _readable(self, descriptor: int) -> None:
        if not drain(descriptor, self._outputs[descriptor], once=True):
            self._stop_reading(descriptor)
        self._notify()

    def _told(self) -> None:
        try:
            status = self._process.wait(0)
        except LabGone as error:
            self._gone, status = error, None
        if status is None and self._gone is None:
            return
        self._loop.remove_reader(self._process.fileno())
        for descriptor in tuple(self._reading):  # what it wrote before it ended is all there by now
            drain(descriptor, self._outputs[descriptor])
        self._status = status
        self._notify()

    def _stop_reading(self, descriptor: int) -> None:
        if descriptor in self._reading:
            self._reading.remove(descriptor)
            self._loop.remove_reader(descriptor)

    def _let_go(self) -> None:
        """Close the descriptors; a program that still runs is killed, by the thread that makes requests."""
        if self._closed:
            return
        has_ended, self._closed = self._is_over, True
        self._all_of_lab.discard(self)
        if not self._loop.is_closed():
            for descriptor in tuple(self._reading):
                self._stop_reading(descriptor)
            self._loop.remove_reader(self._process.fileno())
            self._notify()  # another task may wait for its end
        self._entry.end(self.state, stdout=self.stdout, stderr=self.stderr)
        process, stack = self._process, self._stack
        if has_ended:
            stack.close()
            return

        def end() -> None:
            with stack:
                kill(process)

        self._worker.later(end)


class Starting:
    """A program that is about to be started: to be awaited, or used in `async with`, which ends it."""

    def __init__(self, begin: Callable[[], Coroutine[None, None, AsyncProgram]]) -> None:
        """For `AsyncHost.start`."""
        self._begin = begin
        self._program: AsyncProgram | None = None

    def __await__(self) -> Generator[None, None, AsyncProgram]:
        return self._begin().__await__()

    async def __aenter__(self) -> AsyncProgram:
        self._program = await self._begin()
        return self._program

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._program is not None:
            await self._program.__aexit__(kind, error, traceback)


async def started(
    host: AsyncHost,
    core: Core,
    worker: Worker,
    request: Request,
    kind: ActivityKind,
    all_of_lab: set[AsyncProgram],
) -> AsyncProgram:
    """Start a program. KernelError when it cannot be run."""
    with core.journal.noting(request.host, kind, show_command(request.argv)) as entry:

        def start() -> tuple[Process, tuple[int, int], ExitStack]:
            with ExitStack() as stack:
                process, pipes = spawn(core, request, stack)
                return process, pipes, stack.pop_all()

        def undo(made: tuple[Process, tuple[int, int], ExitStack]) -> None:
            process, _, stack = made
            with stack:
                kill(process)

        process, pipes, stack = await worker.call(start, undo)
        return AsyncProgram(host, core, worker, request, process, pipes, stack, entry, all_of_lab)
