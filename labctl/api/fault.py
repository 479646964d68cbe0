"""`Fault`, `AsyncFault`: faults of a lab as context managers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypedDict

from labctl.api.journal import ActivityKind
from labctl.api.program import ProgramFacts
from labctl.plan.faults import read
from labctl.structs import replace

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from labctl.api.core import Core
    from labctl.api.journal import Entry
    from labctl.plan.fault_effects import FaultPlan

Nodes = str | Sequence[str]
Programs = str | ProgramFacts | Sequence[str | ProgramFacts]


class FaultKeywords(TypedDict, total=False):
    """The kinds of faults, of which one is given; the values are as in scenario files (docs/how-to/faults.md)."""

    partition: Nodes | Sequence[Sequence[str]] | Mapping[str, object]
    isolate: Nodes
    blackhole: Nodes | Mapping[str, object]
    down: Sequence[str]
    flap: Sequence[str] | Mapping[str, object]
    mtu: Mapping[str, object]
    remove_address: Mapping[str, object]
    remove_route: Mapping[str, object]
    pause: Programs
    kill: Programs
    dns: Nodes | Mapping[str, object]


class Fault:
    """A fault of a lab: in force inside the `with`, or from `begin` to `heal`, at last until its lab is closed."""

    def __init__(self, core: Core, kinds: Mapping[str, object], for_s: float | None, name: str) -> None:
        """Used by `Lab.fault`. ValueError for a wrong kind or value."""
        if len(kinds) != 1:
            raise ValueError(f"lab {core.model.name}: a fault has one kind, such as isolate=..., not {len(kinds)}")
        self._core = core
        self._for_s = for_s
        self._name = name
        self._number: int | None = None
        self._entry: Entry | None = None
        ((kind, value),) = kinds.items()
        self._plan = _planned(core, kind, value)

    def __repr__(self) -> str:
        state = "not begun" if self._entry is None else "in force" if self._number is not None else "healed"
        return f"<Fault {self.text}, {state}>"

    @property
    def text(self) -> str:
        """What it does: `partition a b | c`."""
        return self._plan.text

    def begin(self) -> Self:
        """Inject it. KernelError; LabImpossible if this kernel lacks a feature; InputError; RuntimeError if it was."""
        self._core.check_open(f"inject {self.text}")
        if self._number is not None:
            raise RuntimeError(f"fault {self.text}: it is in force already")
        nodes = self._plan.nodes
        self._entry = self._core.journal.begin(nodes[0] if len(nodes) == 1 else "", ActivityKind.FAULT, self.text)
        try:
            self._number = self._core.engine.begin_fault(self._plan, name=self._name, duration_s=self._for_s)
        except BaseException as error:
            from labctl.api.journal import describe

            self._entry.end(describe(error))
            raise
        self._read_faults()
        return self

    def heal(self) -> None:
        """Give back what it took. Idempotent; no effect on a lab that has been closed. LabError."""
        number, self._number = self._number, None
        if number is None or self._core.closed:
            return
        self._core.engine.heal([number])
        if self._entry is not None:
            self._entry.end("healed")
        self._read_faults()

    def _read_faults(self) -> None:
        if self._core.recording is not None:
            self._core.recording.read_faults()

    def __enter__(self) -> Self:
        return self.begin() if self._number is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.heal()


class Calls(Protocol):
    """The thread of an AsyncLab that makes requests."""

    def call(self, function: Callable[[], Fault], undo: Callable[[Fault], object] | None = None) -> Awaitable[Fault]:
        """Return what the function returns; if the caller is cancelled, `undo` gets a late result."""
        ...


class AsyncFault:
    """A fault for `async with`, or `await begin()` and `await heal()`; all else is as in `Fault`."""

    def __init__(self, fault: Fault, worker: Calls) -> None:
        """Used by `AsyncLab.fault`."""
        self.sync = fault
        self._worker = worker

    def __repr__(self) -> str:
        return f"<Async{repr(self.sync)[1:]}"

    @property
    def text(self) -> str:
        """What it does: `partition a b | c`."""
        return self.sync.text

    async def begin(self) -> Self:
        """Inject it, as `Fault.begin`."""
        await self._worker.call(self.sync.begin, lambda fault: fault.heal())
        return self

    async def heal(self) -> None:
        """Give back what it took. Idempotent. LabError."""

        def heal() -> Fault:
            self.sync.heal()
            return self.sync

        await self._worker.call(heal)

    async def __aenter__(self) -> Self:
        return await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.heal()


def _planned(core: Core, kind: str, value: object) -> FaultPlan:
    """Return the effects; programs of the API are named by their process. ValueError."""
    shown = value
    if kind in ("pause", "kill"):
        programs = [value] if isinstance(value, str | ProgramFacts) else value
        if not isinstance(programs, list | tuple):
            raise ValueError(f"lab {core.model.name}: {kind}: a program, NODE/NAME, or a list of them")
        value = [_word(one) if isinstance(one, ProgramFacts) else one for one in programs]
        shown = [_word(one, for_people=True) if isinstance(one, ProgramFacts) else one for one in programs]
    try:
        plan = read(kind, value).plan(core.model)
        return plan if shown == value else replace(plan, text=str(read(kind, shown)))
    except ValueError as error:
        hint = getattr(error, "what_to_try", "")
        raise ValueError(f"lab {core.model.name}: {error}" + (f"; {hint}" if hint else "")) from error


def _word(program: ProgramFacts, *, for_people: bool = False) -> str:
    """Return NODE/NAME of a service, NODE/PID of other programs."""
    running = program._running
    name = running.command.name if for_people or running.kind == "service" else str(running.process.pid)
    return f"{running.command.host}/{name}"
