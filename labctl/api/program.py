"""A program that was started on a host and runs beside the test: a context manager that ends it."""

from __future__ import annotations

import re
import signal
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.api.core import LONGEST_WAIT_S
from labctl.api.journal import Entry, Seen
from labctl.api.readiness import listening, not_ready
from labctl.api.running import signal_number, written
from labctl.errors import LabGone, ProgramNotReady
from labctl.patterns import TooSlow, search
from labctl.scenario.listener import Stream
from labctl.scenario.programs import Program as Running

if TYPE_CHECKING:
    from labctl.api.core import Core
    from labctl.api.host import Host
    from labctl.api.readiness import Ready
    from labctl.scenario.output import LineWatch


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
            from labctl.api.failure import let_crash, snapshot_of_failure

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
