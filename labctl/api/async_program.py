"""A program on a host, for an event loop, which watches its pipes and its end without a thread."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.api.core import LONGEST_WAIT_S
from labctl.api.journal import ActivityKind, Entry, record_failure, show_command
from labctl.api.program import (
    Completed,
    ProgramFacts,
    bytes_of_each_end,
    completed,
    kill_and_close,
    listening,
    signal_number,
    timed_out,
)
from labctl.clock import monotonic
from labctl.errors import LabGone
from labctl.kernel import syscalls
from labctl.programs.program import launch
from labctl.programs.waiting import FIRST_LOOK_AGAIN_S, LAST_LOOK_AGAIN_S

if TYPE_CHECKING:
    from labctl.api.async_lab import AsyncHost
    from labctl.api.program import Ready
    from labctl.programs.output import LineWatch
    from labctl.programs.program import Command
    from labctl.programs.program import Program as Running


@asynccontextmanager
async def deadline(until: float | None) -> AsyncIterator[None]:
    """Do as asyncio.timeout_at() on CLOCK_MONOTONIC; a test may freeze the event loop's clock. TimeoutError.

    None means no deadline.
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


class _LoopCondition(threading.Condition):
    """Wakes tasks of an event loop instead of threads. Notified in the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Event()

    def notify_all(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class _LoopWatcher:
    """Calls back from an event loop when descriptors become readable."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def add(self, fd: int, readable: Callable[[], bool]) -> None:
        self._loop.add_reader(fd, lambda: readable() or self._loop.remove_reader(fd))


class AsyncProgram(ProgramFacts):
    """A program that runs on a host. Leaving its `async with` block ends it; so does the end of the lab.

    It belongs to the event loop that started it, which always reads its output.
    """

    def __init__(self, host: AsyncHost, running: Running, condition: _LoopCondition, entry: Entry) -> None:
        """Used by `AsyncHost`, in the event loop. Takes over `running`."""
        super().__init__(host._core, running, entry)
        self.host = host
        self._worker = host._worker
        self._condition = condition
        self._started = monotonic()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        running.attach(_LoopWatcher(self._loop))
        host.lab._programs.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None and not self._closed:
                await asyncio.to_thread(record_failure, self._core, error, self._running)
        finally:
            await self.aclose()

    async def wait(self, timeout_s: float | None = 60.0) -> int:
        """Wait for its end; return its returncode. TimeoutError if it still runs after `timeout_s` (None: no limit)."""
        if not await self._ended_within(timeout_s):
            raise self._still_runs(timeout_s)
        return self._known_status()

    async def wait_for_output(self, pattern: str | re.Pattern[str], *, timeout_s: float = 10.0) -> str:
        """Wait until its output (either stream) matches; return the match. ProgramNotReady if it never does."""
        compiled = re.compile(pattern) if isinstance(pattern, str) else pattern
        until = monotonic() + timeout_s
        while not (found := self._find(compiled, timeout_s)):
            if self._is_over or not await self._wait_for_change(until):
                raise self._not_matched(compiled, timeout_s)
        return found[0]

    def signal(self, number: int | str) -> None:
        """Send a signal (`signal.SIGHUP` or "HUP") to the program alone. Does nothing if the program has ended."""
        number = signal_number(number)
        if not self._is_over:
            self._running.process.signal(number)

    async def terminate(self) -> None:
        """Send SIGTERM to its process group, and do not wait."""
        await self._signal_group(signal.SIGTERM)

    async def kill(self) -> None:
        """Send SIGKILL to its process group, and do not wait."""
        await self._signal_group(signal.SIGKILL)

    async def aclose(self) -> None:
        """End the program: SIGTERM to its process group, SIGKILL after 2 s, then wait for its end. Idempotent.

        Cancelling sends SIGKILL at once.
        """
        if self._closed:
            return
        try:
            if not self._is_over and not self._core.closed:
                await self._end()
        except (LabGone, RuntimeError):
            return  # the lab ends, and the program with it
        finally:
            self._release()

    async def _end(self) -> None:
        steps = self._running.ending()
        while not self._is_over and (wait_s := await self._worker.call(lambda: next(steps, None))) is not None:
            await self._ended_within(wait_s)
        if not self._is_over:
            import warnings

            warnings.warn(f"{self!r}: SIGKILL did not end it", RuntimeWarning, stacklevel=3)

    async def _run_to_end(self, timeout_s: float | None) -> Completed:
        """Used by `AsyncHost.run`. ProgramTimedOut, LabGone."""
        try:
            if not await self._ended_within(timeout_s):
                await self._end()
                raise timed_out(self._running, timeout_s, self._entry)
            self._known_status()
        finally:
            self._release()
        return completed(self._running, self._started)

    async def _await_ready(
        self, ready: Ready, before: frozenset[int], watch: LineWatch | None, timeout_s: float
    ) -> None:
        """Wait until it is ready. ProgramNotReady if it is not in time, or ends before."""
        until = monotonic() + timeout_s
        interval_s = FIRST_LOOK_AGAIN_S
        is_ready = False
        if watch is not None:
            while not watch.decided and not self._is_over and await self._wait_for_change(until):
                pass
            is_ready = watch.found
        while watch is None and not is_ready:
            over, late = self._is_over, monotonic() >= until
            if not over:
                found = await self._worker.call(lambda: listening(self._core, self.host.name, ready))
                is_ready = bool(found - before)
            if over or late:
                break
            await self._wait_for_change(min(until, monotonic() + interval_s), of_end=True)
            interval_s = min(interval_s * 2, LAST_LOOK_AGAIN_S)
        self._check_ready(is_ready, ready, before, watch, timeout_s)

    @property
    def _is_over(self) -> bool:
        """Whether the program or its lab has ended, or it was closed."""
        return self._running.ended or self._closed

    @property
    def _is_lost(self) -> bool:
        return self._running.gone is not None or (self._closed and self._running.status is None)

    @property
    def _title(self) -> str:
        return show_command(self.argv)

    def _known_status(self) -> int:
        """Return how it ended. LabGone; RuntimeError if the lab was closed before the program ended."""
        if self._running.gone is not None:
            raise self._core.gone(self._running.gone)
        if self._running.status is None:
            raise RuntimeError(f"host {self.host.name}: {self.argv[0]} was still running when its lab was closed")
        return self._running.status

    async def _ended_within(self, timeout_s: float | None) -> bool:
        until = None if timeout_s is None else monotonic() + timeout_s
        while not self._is_over:
            if not await self._wait_for_change(until):
                break
        return self._is_over

    async def _wait_for_change(self, until: float | None, *, of_end: bool = False) -> bool:
        """Wait until it has printed something or has ended; False if `until` (CLOCK_MONOTONIC) comes first."""
        while True:
            changed = self._condition.changed
            try:
                async with deadline(until):
                    await changed.wait()
            except TimeoutError:
                return False
            if self._is_over or not of_end:
                return True

    async def _signal_group(self, number: int) -> None:
        if not self._is_over:
            await self._worker.call(lambda: self._running.process.signal(number, group=True))

    def _release(self) -> None:
        """Close the descriptors. The thread for requests kills a program that still runs."""
        if self._closed:
            return
        has_ended, self._closed = self._is_over, True
        running = self._running
        self.host.lab._programs.discard(self)
        if not self._loop.is_closed():
            for descriptor in running.descriptors:
                self._loop.remove_reader(descriptor)
            self._condition.notify_all()  # another task may wait for its end
        self._entry.end(self.state, stdout=self.stdout, stderr=self.stderr)
        if has_ended:
            running.close()
        else:
            self._worker.later(lambda: kill_and_close(running))


class Starting:
    """A program that starts when you await this, or use it in `async with`, which also ends the program."""

    def __init__(self, begin: Callable[[], Coroutine[None, None, AsyncProgram]]) -> None:
        """Used by `AsyncHost.start`."""
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
    host: AsyncHost, command: Command, limit_bytes: int | None, kind: ActivityKind, line: re.Pattern[str] | None = None
) -> tuple[AsyncProgram, LineWatch | None]:
    """Start a program, and watch its output for `line` from the first byte. KernelError if it cannot be run."""
    with host._core.journal.noting(command.host, kind, show_command(command.argv)) as entry:
        condition = _LoopCondition()
        limit = bytes_of_each_end(limit_bytes)
        tracer = host._core.programs.tracer_for(command)
        start = partial(launch, host._core.engine, command, condition, limit_bytes=limit, tracer=tracer)
        running = await host._worker.call(start, kill_and_close)
        watch = None if line is None else running.watch_lines(line)
        return AsyncProgram(host, running, condition, entry), watch
