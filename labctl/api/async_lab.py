"""`AsyncLab`, `AsyncHost`, `AsyncLink`: the API as coroutines, for asyncio (and anyio on asyncio).

The event loop waits for programs and peers. One thread of the lab makes the requests to its keeper, which take about a
millisecond each (docs/decisions/0015).
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, wraps
from socket import SO_ERROR, SOCK_STREAM, SOL_SOCKET
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from labctl.api import sockets
from labctl.api.async_program import AsyncProgram, Starting, deadline, started
from labctl.api.host import Host, Link, NodeFacts, RunRequest, StartRequest, StrPath, takes
from labctl.api.journal import Activity, ActivityKind
from labctl.api.lab import DEADLINE_S, Lab
from labctl.api.program import Completed, listening
from labctl.clock import monotonic
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from socket import socket as PythonSocket

    from labctl.api.core import Core
    from labctl.api.fault import AsyncFault, FaultKeywords
    from labctl.api.lab import Reachability, ScenarioRun
    from labctl.api.program import Program
    from labctl.api.topology import Topology
    from labctl.scenario.model import Scenario
    from labctl.timeline.events import Timeline
    from labctl.topology.model import Endpoint


T = TypeVar("T")
P = ParamSpec("P")


class Worker:
    """One thread, started at the first call. It belongs to no event loop: each call uses the running one."""

    def __init__(self, name: str, *, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def call(self, function: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Return what the function returns, or raise what it raises. If the caller is cancelled, `undo` gets a late
        result.
        """
        future = self._pool.submit(function)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # The thread may have begun the call, whose result is then undone. It never begins a cancelled future.
            if undo is not None:
                future.add_done_callback(partial(_undo, undo))
            raise

    async def once(self, function: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Do as `call`, and end the thread afterwards."""
        try:
            return await self.call(function, undo)
        finally:
            self._pool.shutdown(wait=False)

    def later(self, function: Callable[[], object]) -> None:
        """Call the function and do not wait."""
        self._pool.submit(function)

    def close(self) -> None:
        """Wait for running calls; the worker accepts no more. Blocks."""
        self._pool.shutdown(wait=True)


def _undo(undo: Callable[[T], object], future: Future[T]) -> None:
    if not future.cancelled() and future.exception() is None:
        undo(future.result())


def awaited(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Make a coroutine of a method of `sync`: the lab's thread for requests calls it."""

    @wraps(method)
    async def called(self: AsyncHost | AsyncLink, /, *args: P.args, **options: P.kwargs) -> T:
        return await self._worker.call(lambda: method(self.sync, *args, **options))

    return called


def awaited_socket(
    method: Callable[Concatenate[Any, P], PythonSocket],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, PythonSocket]]:
    """Do as `awaited`, for a socket: it does not block, and is closed where the caller was cancelled meanwhile."""

    @wraps(method)
    async def called(self: AsyncHost, /, *args: P.args, **options: P.kwargs) -> PythonSocket:
        made = await self._worker.call(lambda: method(self.sync, *args, **options), lambda made: made.close())
        made.setblocking(False)
        return made

    called.__doc__ = (
        f"{method.__doc__}\n\n        The socket does not block: it is for the event loop (`loop.sock_accept`, ...)."
    )
    return called


Address = tuple[Any, ...]  # host and port, or what getaddrinfo() gives
KEPT_BYTES = 2 << 20  # of each stream of a program that was started


class AsyncLab:
    """A small network for asyncio: `async with AsyncLab("pair") as lab: ...` makes it and ends it.

    All else is as in `Lab`. A lab that you leave open ends with the process at the latest, with a ResourceWarning.
    """

    def __init__(
        self,
        topology: Topology | str | os.PathLike[str] = "pair",
        *,
        visible_paths: Iterable[StrPath] = (),
        deadline_s: float | None = None,
        record: bool = False,
        trace: bool = False,
    ) -> None:
        """Take the arguments of `Lab`. `async with`, or `open`, makes the lab and raises what `Lab` raises."""
        self._make: Callable[[], Lab] = partial(
            Lab, topology, visible_paths=tuple(visible_paths), deadline_s=deadline_s, record=record, trace=trace
        )
        self._lab: Lab | None = None
        self._borrowed = False
        self._worker = Worker("labctl-requests")
        self._programs: set[AsyncProgram] = set()

    @classmethod
    def attach(cls, name: str | None = None, *, deadline_s: float = DEADLINE_S) -> Self:
        """Return a running lab, as `Lab.attach`. `async with` (or `open`) connects to it; closing leaves it running."""
        lab = cls()
        lab._make = partial(Lab.attach, name, deadline_s=deadline_s)
        return lab

    @classmethod
    def over(cls, lab: Lab) -> Self:
        """Return a view of `lab`, whose owner closes it. Closing the view ends what was started through the view."""
        other = cls()
        other._lab = lab
        other._borrowed = True
        return other

    async def open(self) -> Self:
        """Make the lab, unless it exists. RuntimeError if it has been closed."""
        if self._lab is None:
            self._lab = await self._worker.call(self._make, lambda made: made.close())
        self._core.check_open("use it")
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return "<AsyncLab, not open>" if self._lab is None else f"<Async{repr(self._lab)[1:]}"

    def __getitem__(self, name: str) -> AsyncHost:
        """Return the node of that name. NotFound (a KeyError) suggests a similar name."""
        return AsyncHost(self, self._core, self._worker, name)

    @property
    def sync(self) -> Lab:
        """The same lab for blocking code. RuntimeError before the lab is made."""
        if self._lab is None:
            raise RuntimeError("this AsyncLab is not open: use `async with AsyncLab(...) as lab`")
        return self._lab

    @property
    def _core(self) -> Core:
        return self.sync._core

    @property
    def name(self) -> str:
        """The name of the running lab, else of the topology."""
        return self.sync.name

    @property
    def topology(self) -> Topology:
        """The topology of the lab."""
        return self.sync.topology

    @property
    def nodes(self) -> Mapping[str, AsyncHost]:
        """All nodes by name, in file order."""
        return {node.name: self[node.name] for node in self._core.model.nodes}

    @property
    def hosts(self) -> Mapping[str, AsyncHost]:
        """The hosts alone, by name, in file order."""
        return {node.name: self[node.name] for node in self._core.model.nodes if node.kind is NodeKind.HOST}

    @property
    def services(self) -> Mapping[str, Program]:
        """The services, as `Lab.services`; their methods block."""
        return self.sync.services

    @property
    def links(self) -> tuple[AsyncLink, ...]:
        """All links, in file order."""
        return tuple(AsyncLink(link, self._worker) for link in self.sync.links)

    def fault(self, *, for_s: float | None = None, name: str = "", **kind: Unpack[FaultKeywords]) -> AsyncFault:
        """Return a fault for `async with`, as `Lab.fault`."""
        from labctl.api.fault import AsyncFault

        return AsyncFault(self.sync.fault(for_s=for_s, name=name, **kind), self._worker)

    async def heal(self) -> int:
        """Heal all faults of the lab, as `Lab.heal`."""
        return await self._worker.call(self.sync.heal)

    def link(self, a: str, b: str) -> AsyncLink:
        """Return the link between two nodes, as `Lab.link`."""
        return AsyncLink(self.sync.link(a, b), self._worker)

    async def ping(
        self, *, family: int | None = None, timeout_s: float = 1.0, every_pair: bool = False
    ) -> Reachability:
        """Return which hosts reach which, as `Lab.ping`."""
        # Not by the thread for requests, which others wait for: an answer that does not come takes its time.
        return await Worker("labctl-ping").once(
            lambda: self.sync.ping(family=family, timeout_s=timeout_s, every_pair=every_pair)
        )

    def scenario(self, source: StrPath | Scenario) -> AsyncScenarioRun:
        """Return an asynchronous context manager that runs a scenario on this lab, as `Lab.scenario`."""
        return AsyncScenarioRun(self.sync.scenario(source))

    def activity(self) -> tuple[Activity, ...]:
        """Return what was done through this object and through `sync`, in order."""
        return self.sync.activity()

    async def timeline(self) -> Timeline:
        """Return what happened so far, as `Lab.timeline`."""
        return await self._worker.call(self.sync.timeline)

    def mark(self, text: str, *, host: str = "") -> None:
        """Add a note to the timeline, as `Lab.mark`."""
        self.sync.mark(text, host=host)

    async def save_timeline(self, path: StrPath) -> None:
        """Write the timeline to a file, as `Lab.save_timeline`."""
        await self._worker.call(lambda: self.sync.save_timeline(path))

    def report(self, *, after_s: float = -1.0) -> str:
        """Return what `Lab.report` returns. It asks the kernel, which takes some milliseconds."""
        return self.sync.report(after_s=after_s)

    @property
    def closed(self) -> bool:
        """Whether the lab has been closed."""
        return self._lab is not None and self._lab.closed

    async def aclose(self) -> None:
        """End the lab and all that runs in it; of a view made by `over`, only what was started through it. Idempotent.

        The lab ends even if this coroutine is cancelled.
        """
        self._release_programs()
        await Worker("labctl-close").once(self._end)

    def _release_programs(self) -> None:
        for program in tuple(self._programs):
            program._release()

    def _end(self) -> None:
        try:
            if self._lab is not None and not self._borrowed:
                self._lab.close()
        finally:
            self._worker.close()


class AsyncHost(NodeFacts):
    """A node of a lab, for asyncio. All else is as in `Host`."""

    def __init__(self, lab: AsyncLab, core: Core, worker: Worker, name: str) -> None:
        """Used by `AsyncLab`. NotFound."""
        super().__init__(core, name)
        self.lab = lab
        self._worker = worker

    @property
    def sync(self) -> Host:
        """The same host for blocking code."""
        return self.lab.sync[self.name]

    @takes(NodeFacts._run_request)
    async def run(self, request: RunRequest) -> Completed:
        """Run a program to its end, as `Host.run`. Cancelling kills its process group."""
        program, _ = await started(self, request.command, request.limit_bytes, ActivityKind.RUN)
        completed = await program._run_to_end(request.timeout_s)
        return completed.check() if request.check else completed

    @takes(NodeFacts._start_request)
    def start(self, request: StartRequest) -> Starting:
        """Start a program and wait until it is ready, as `Host.start`: `async with host.start(...) as program`.

        `program = await host.start(...)` runs until the lab ends or you close it. Cancelling kills its process group.
        """
        command, ready, ready_timeout_s = request
        line = ready if isinstance(ready, re.Pattern) else None

        async def begin() -> AsyncProgram:
            before = await self._worker.call(lambda: listening(self._core, self.name, ready))
            program, watch = await started(self, command, KEPT_BYTES, ActivityKind.START, line)
            try:
                if ready is not None:
                    await program._await_ready(ready, before, watch, ready_timeout_s)
            except BaseException:
                await program.aclose()
                raise
            return program

        return Starting(begin)

    socket = awaited_socket(Host.socket)
    listen = awaited_socket(Host.listen)

    async def connect(
        self, to: str | Address, *, timeout_s: float | None = 10.0, family: int | None = None
    ) -> PythonSocket:
        """Return a non-blocking TCP socket on the host, connected as by `Host.connect`. The caller owns it. OSError."""
        if sockets.unix_name(to) is not None:  # it may have to wait in the kernel, which an event loop cannot
            connecting = partial(self.sync.connect, to, timeout_s=timeout_s)
            made = await Worker("labctl-connect").once(connecting, lambda made: made.close())
            made.setblocking(False)
            return made
        host, port = sockets.target(to)
        shown = sockets.address_text((host, port))
        with self._core.journal.noting(self.name, ActivityKind.CONNECT, shown) as entry:
            failures: list[OSError] = []
            for address in self._core.addresses_on(self.name, host, family):
                make = partial(sockets.make, self._core, self.name, sockets.FAMILIES[address.version], SOCK_STREAM)
                sock = await self._worker.call(make, lambda made: made.close())
                try:
                    with sockets.closed_on_error(sock):
                        sock.setblocking(False)
                        async with deadline(None if timeout_s is None else monotonic() + timeout_s):
                            addressing = sockets.Addressing(self._core, self.name)
                            await _connect(sock, addressing.inet_address(sock, (str(address), port)))
                except OSError as error:
                    failed = partial(sockets.not_connected, self._core, error, self.name, port, host, address)
                    failures.append(await self._worker.call(failed))
                    continue
                entry.end(sockets.connected(sock))
                return sock
            raise sockets.all_failed(failures, self.name, shown)

    async def open_connection(
        self, to: str | Address, *, timeout_s: float | None = 10.0, family: int | None = None, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Call asyncio.open_connection() from the host; `options` go to it (ssl, ...). OSError."""
        sock = await self.connect(to, timeout_s=timeout_s, family=family)
        try:
            return await asyncio.open_connection(sock=sock, **options)
        except BaseException:
            sock.close()
            raise

    async def start_server(
        self,
        connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
        port: int | str = 0,
        *,
        address: str | None = None,
        family: int | None = None,
        backlog: int = 128,
        **options: Any,
    ) -> asyncio.Server:
        """Call asyncio.start_server() on the host; `options` go to it. The caller closes it."""
        sock = await self.listen(port, address=address, family=family, backlog=backlog)
        try:
            return await asyncio.start_server(connected, sock=sock, backlog=backlog, **options)
        except BaseException:
            sock.close()
            raise

    async def in_netns(self, function: Callable[..., T], *arguments: Any, strict: bool = False) -> T:
        """Call the function in a thread that is on the host, as in `Host.netns()`; return or raise what it does.

        If this coroutine is cancelled, the thread still runs the function to its end.
        """

        from labctl.api.netns import as_hooked

        def visit() -> T:
            with self.sync.netns(strict=strict):
                return as_hooked(function)(*arguments)

        return await Worker(f"labctl-{self.name}").once(visit)

    sockets = awaited(Host.sockets)
    read_text = awaited(Host.read_text)
    write_text = awaited(Host.write_text)
    set_nat = awaited(Host.set_nat)
    set_firewall = awaited(Host.set_firewall)


async def _connect(sock: PythonSocket, address: tuple[Any, ...]) -> None:
    """Connect a non-blocking socket (connect(2)); an event loop may lose the scope (uvloop). OSError."""
    number = sock.connect_ex(address)
    if number == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        loop.add_writer(sock.fileno(), writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(sock.fileno())
        number = sock.getsockopt(SOL_SOCKET, SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


class AsyncLink:
    """A link of a lab, for asyncio. All else is as in `Link`."""

    def __init__(self, link: Link, worker: Worker) -> None:
        """Used by `AsyncLab`."""
        self.sync = link
        self._worker = worker

    def __repr__(self) -> str:
        return f"<Async{repr(self.sync)[1:]}"

    def __str__(self) -> str:
        return str(self.sync)

    @property
    def ends(self) -> tuple[Endpoint, Endpoint]:
        """Node and interface of each end."""
        return self.sync.ends

    async def is_up(self) -> bool:
        """Whether both ends are up and have a carrier. KernelError."""
        return await self._worker.call(lambda: self.sync.is_up)

    down = awaited(Link.down)
    up = awaited(Link.up)
    set = awaited(Link.set)
    clear = awaited(Link.clear)


class AsyncScenarioRun:
    """The result of `AsyncLab.scenario`, for one `async with`. A thread runs the steps; cancelling ends them."""

    def __init__(self, run: ScenarioRun) -> None:
        """Used by `AsyncLab.scenario`."""
        self.sync = run

    def __repr__(self) -> str:
        return f"<Async{repr(self.sync)[1:]}"

    async def __aenter__(self) -> ScenarioRun:
        """Run the steps. DocumentError, ScenarioFailed."""
        run = self.sync
        try:
            return await Worker("labctl-scenario").once(
                run.__enter__, lambda entered: entered.__exit__(None, None, None)
            )
        except asyncio.CancelledError:
            run.cancel()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await Worker("labctl-scenario").once(lambda: self.sync.__exit__(kind, error, traceback))
