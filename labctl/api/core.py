"""The state behind `Lab` and `AsyncLab`: the lab's handle, the topology, programs and the journal.

It does not refer to those objects, so that a lab whose object is garbage can be ended.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property, partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

from labctl.api.journal import ActivityKind, ActivityState, Entry, Journal, show_command
from labctl.api.sockets import Address, ip_version
from labctl.clock import monotonic
from labctl.errors import DeadlineExceeded, InputError, LabctlError, LabGone, NotFound
from labctl.lab.client.handle import Lab as Engine
from labctl.plan.hosts_files import HostsFiles
from labctl.programs.output import Stream
from labctl.programs.program import Program as Running
from labctl.programs.program import Programs, ServiceTraces
from labctl.programs.waiting import Scope, Watcher

if TYPE_CHECKING:
    from labctl.api.netns import Visits
    from labctl.plan.operations import Plan
    from labctl.programs.program import Tracer
    from labctl.scenario.network_steps import Changes
    from labctl.timeline.events import Timeline
    from labctl.timeline.recording import Recording, RecordOptions
    from labctl.topology.model import Node, Topology

LONGEST_WAIT_S = 1e9  # what waits take; beyond it is "for ever"


class Core:
    """An open lab. Owns the handle, the programs, their watcher and the descriptors of namespaces. Thread-safe."""

    def __init__(self, engine: Engine, model: Topology, plan: Plan) -> None:
        """Used by `opened` and `of_running`. Takes over `engine`."""
        self.engine = engine
        self.model = model
        self.plan = plan
        self.journal = Journal()
        self.condition = threading.Condition()
        self.watcher = Watcher()
        self.programs = Programs(engine, self.condition, self.watcher)
        self.services: dict[str, Entry] = {}  # by NODE/SERVICE
        self.owner = os.getpid()
        self.closed = False
        self.attached = False
        self.recording: Recording | None = None  # of the lab, which ends with it
        self.not_recorded = ""  # why there is no recording although one was wanted
        self._tracer: Tracer | None = None
        self._service_traces: ServiceTraces | None = None
        self._visits: Visits | None = None
        self.hosts_files = HostsFiles(plan)
        self._lock = threading.RLock()

    @cached_property
    def changes(self) -> Changes:
        """The translations and firewalls that were changed."""
        from labctl.scenario.network_steps import Changes

        return Changes()

    @classmethod
    def opened(
        cls,
        model: Topology,
        visible_paths: Iterable[str | os.PathLike[str]],
        deadline_s: float | None,
        record: RecordOptions | None = None,
        *,
        trace: bool = False,
    ) -> Core:
        """Make the lab of that topology and wait for its services; with `record`, record it from before they start.

        With `trace`, the recording has the system calls of all programs; otherwise of services that ask for it.
        MachineError, KernelError, DeadlineExceeded. A recording that cannot be made is no error: see `not_recorded`.
        """
        from labctl.plan.build import build

        plan = build(model)
        has_services = any(node.services or node.commands or node.tree for node in plan.nodes)
        paths = [os.fspath(path) for path in visible_paths]
        if has_services:
            from labctl.observe import services

            paths += services.visible_paths(plan)
        engine = Engine.open(plan, visible_paths=paths, deadline_s=deadline_s)
        with ExitStack() as opened:
            opened.callback(engine.close)
            core = cls(engine, model, plan)
            opened.callback(core.watcher.close)
            if record is not None:
                opened.callback(core._end_recording)
                core._record(record)
            core.programs.tracer, core.programs.traces_everything = core.tracer, trace
            if has_services:
                core._service_traces = ServiceTraces(core.tracer, everything=trace)
                for failure in services.start(engine, plan, traces=core._service_traces):
                    warnings.warn(str(failure), RuntimeWarning, stacklevel=4)
            core._watch_services()
            if core.recording is not None:
                with suppress(DeadlineExceeded):  # it records what it can
                    core.recording.wait_ready()
            opened.pop_all()
        return core

    @classmethod
    def of_running(cls, name: str | None, deadline_s: float) -> Core:
        """Connect to a running lab, which `close` leaves running. InputError, DeadlineExceeded."""
        from labctl.plan.build import topology_of

        engine = Engine.attach(name, deadline_s=deadline_s)
        try:
            plan = engine.describe().plan
            core = cls(engine, topology_of(plan), plan)
            core.attached = True
            core._watch_services()
        except BaseException:
            engine.close()
            raise
        return core

    def _record(self, options: RecordOptions) -> None:
        from labctl.timeline.recording import Recording

        try:
            self.recording = Recording.start(self.engine, options, title=self.model.name, plan=self.plan)
        except (LabctlError, OSError) as error:
            self.not_recorded = str(error)

    def tracer(self) -> Tracer | None:
        """Return what records the system calls of programs; None without a recording, or if the kernel reports them."""
        with self._lock:
            if self._tracer is None and self.recording is not None:
                from labctl.timeline.sources.strace import tracer_of

                self._tracer = tracer_of(self.recording, seccomp=not self.attached)
            return self._tracer

    def mark(self, text: str, host: str) -> None:
        """Add a note to the recording, if there is one. NotFound for an unknown host."""
        self.check_open("mark its timeline")
        if host:
            self.node(host)
        if self.recording is not None:
            from labctl.clock import monotonic_ns
            from labctl.timeline.events import Mark, Source

            self.recording.add(Mark(at_ns=monotonic_ns(), host=host, source=Source.MARKS, seq=0, text=text))

    def timeline(self) -> Timeline:
        """Return what was recorded, and what was done through the API as steps. RuntimeError without a recording."""
        self.check_open("return its timeline")
        if self.recording is None:
            why = f": {self.not_recorded}" if self.not_recorded else ". Make it by Lab(record=True) or Lab(trace=True)"
            raise RuntimeError(f"lab {self.model.name}: is not recorded{why}")
        from labctl.api.activity_events import with_activities

        return with_activities(self.recording.timeline(), self.journal)

    def _end_recording(self) -> None:
        if self._service_traces is not None:
            self._service_traces.close()
        if self.recording is not None:
            self.recording.close()

    def _watch_services(self) -> None:
        if not any(node.services for node in self.plan.nodes):
            return
        self.programs.add_services(self.plan, may_have_ended=self.attached)
        for key, service in self.programs.services.items():
            what = f"{service.command.name}: {show_command(tuple(service.command.argv))}"
            entry = self.services[key] = self.journal.begin(service.command.host, ActivityKind.SERVICE, what)
            entry.read_state = partial(program_state, service)

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a forked child of the lab's owner."""
        return os.getpid() != self.owner

    @property
    def state(self) -> str:
        """The state, for `repr`."""
        if self.closed:
            return "closed"
        if self.is_forked:
            return f"process {self.owner}'s"
        return "attached" if self.attached else "running"

    def check_open(self, what: str) -> None:
        """RuntimeError if the lab has been closed, or belongs to the parent process."""
        if self.closed:
            raise RuntimeError(f"lab {self.model.name}: cannot {what}: the lab has been closed")
        if self.is_forked:
            raise RuntimeError(
                f"lab {self.model.name}: cannot {what}: the lab belongs to the parent process {self.owner}"
            )

    def gone(self, error: LabGone) -> Exception:
        """Return what a LabGone means to the caller: a RuntimeError if another thread has closed the lab."""
        return RuntimeError(f"lab {self.model.name}: another thread has closed it") if self.closed else error

    def node(self, name: str) -> Node:
        """Return the node of that name. NotFound suggests a similar name."""
        if not isinstance(name, str):
            raise TypeError(f"lab {self.model.name}: {name!r}: the name of a node must be a str")
        if name in self.model:
            return self.model.node(name)
        raise not_found(f"lab {self.model.name}: no node `{name}`", name, [node.name for node in self.model.nodes])

    def addresses_of(self, name: str, on: str) -> tuple[Address, ...]:
        """Return the addresses of a name in the /etc/hosts of the node `on`, nearest first."""
        return tuple(dict.fromkeys(map(ip_address, self.hosts_files.find(name, on))))

    def addresses_on(self, node: str, name: str, family: int | None = None) -> tuple[Address, ...]:
        """Return the addresses of a name (or of a written address) on the node. NotFound."""
        from labctl.topology.endpoints import parse_address

        literal = parse_address(name)
        addresses = (literal,) if literal is not None else self.addresses_of(name, node)
        version = ip_version(family)
        chosen = tuple(address for address in addresses if version in (None, address.version))
        if chosen:
            return chosen
        if addresses:
            raise InputError(f"host {node}: {name} has no IPv{version} address; it has {addresses[0]}.")
        raise not_found(f"host {node}: no address for `{name}`", name, self.hosts_files.names)

    def scope(self, timeout_s: float) -> Scope:
        """Return a deadline that many seconds from now."""
        return Scope(self.condition, monotonic() + min(timeout_s, LONGEST_WAIT_S))

    @property
    def visits(self) -> Visits:
        """What threads of this process need to enter hosts."""
        with self._lock:
            if self._visits is None:
                from labctl.api.netns import Visits

                self._visits = Visits(self)
            return self._visits

    def close(self) -> None:
        """End the lab, or leave it if attached; in a forked child, close only copied descriptors. Idempotent."""
        with self._lock if not self.is_forked else threading.Lock():  # a forked copy may be locked for ever
            if self.closed:
                return
            failed = [] if self.is_forked else self._failed_services()
            self.closed = True
        try:
            self.engine.close()
        finally:
            if not self.is_forked:
                self.watcher.close()
                self.programs.close()
                self._end_recording()
            if self._visits is not None:
                self._visits.close()
        for problem in failed:
            warnings.warn(problem, RuntimeWarning, stacklevel=4)

    def _failed_services(self) -> list[str]:
        """Return a sentence for each service that failed by itself and whose state the caller never looked at."""
        return [
            f"lab {self.model.name}: service {service.command.host}/{service.command.name} {service.state}"
            for service in self.programs.unaccounted()
            if service.kind == "service"
        ]


def program_state(running: Running) -> ActivityState:
    """Return the state of a program, for the journal."""
    outcome = "ended with its lab" if running.gone else running.state
    return ActivityState(outcome, running.ended, running.text(Stream.STDOUT), running.text(Stream.STDERR))


def not_found(problem: str, word: str, allowed: Iterable[str]) -> NotFound:
    """Return the error to raise for an unknown name."""
    from labctl.documents.diagnostics import suggest

    return NotFound(f"{problem}; {suggest(word, allowed) or 'none exist'}")


def check_argv(argv: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return the words of a command. TypeError for a single string, which is usually a shell's line."""
    if isinstance(argv, str | bytes):
        line = argv if isinstance(argv, str) else argv.decode(errors="replace")
        raise TypeError(f"a command is a list of words: {line.split()!r}; for a shell's line: {['sh', '-c', line]!r}")
    given = tuple(os.fspath(word) for word in argv)
    if any(not isinstance(word, str) for word in given):
        raise TypeError(f"the words of a command are str: {given!r}")
    return given


def check_env(env: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return the environment unchanged. TypeError for names and values other than str."""
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"env: {name!r}: {value!r}: names and values must be str")
    return env
