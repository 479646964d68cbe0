"""`Lab`: a topology that exists in the kernel as long as this object does; `Lab.scenario` runs steps on it."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from socket import AF_INET, AF_INET6
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from labctl.api.core import Core, not_found
from labctl.api.host import Host, Link
from labctl.api.journal import Activity, ActivityKind, Journal, show_command, tail
from labctl.clock import monotonic
from labctl.errors import InputError, LabctlError
from labctl.scenario.model import Cancellation, Scenario
from labctl.scenario.results import CallRecord, Listener, Outcome, ScenarioInfo, ScenarioResult, StepResult
from labctl.structs import Struct
from labctl.topology.model import NodeKind, device_advice, links_between

if TYPE_CHECKING:
    from labctl.api.core import Core
    from labctl.api.fault import Fault, FaultKeywords
    from labctl.api.program import Program
    from labctl.api.topology import Topology
    from labctl.lab.description import FaultInfo
    from labctl.observe.ping import PingPair
    from labctl.scenario.model import Scenario
    from labctl.timeline.events import Timeline


class ScenarioFailed(LabctlError):
    """A scenario did not pass. `result` (labctl.scenario.ScenarioResult) has its steps, calls and outputs.

    `result.outcome` distinguishes a failure, an error of the lab, and a skipped scenario.
    """

    exit_status = 1

    def __init__(self, message: str, result: ScenarioResult) -> None:
        super().__init__(message)
        self.result = result


class ScenarioRun:
    """The result of `Lab.scenario`: a context manager for one `with`."""

    def __init__(self, core: Core, source: str | os.PathLike[str] | Scenario) -> None:
        """Used by `Lab.scenario`."""
        self._core = core
        self._source = source
        self._held = ExitStack()
        self._cancellation = Cancellation()
        self._result: ScenarioResult | None = None

    def __repr__(self) -> str:
        title = self._source.name if isinstance(self._source, Scenario) else os.fspath(self._source)
        state = "not run" if self._result is None else self._result.outcome.value
        return f"<ScenarioRun {title!r} on lab {self._core.model.name}, {state}>"

    @property
    def result(self) -> ScenarioResult:
        """Steps, calls and outputs of programs. RuntimeError before the `with`."""
        if self._result is None:
            raise RuntimeError(f"{self!r}: use it in a `with` statement")
        return self._result

    @property
    def calls(self) -> tuple[CallRecord, ...]:
        """All socket calls of all hosts, in the order in which they were made."""
        found = [call for step in self.result.steps for call in step.calls]
        return tuple(sorted(found, key=lambda call: call.started_s))

    def cancel(self, reason: str = "cancelled") -> None:
        """End the running steps, from another thread: entering the `with` then raises ScenarioFailed."""
        self._cancellation.cancel(reason)

    def __enter__(self) -> Self:
        from labctl import scenario
        from labctl.api.journal import take_snapshot
        from labctl.scenario.runner import run_and_hold

        if self._result is not None:
            raise RuntimeError(f"{self!r} has already run; call scenario() again")
        core = self._core
        core.check_open(f"run {self!r}")
        loaded = self._source
        if not isinstance(loaded, Scenario):
            loaded = scenario.load(Path(loaded), topology=core.model)
        listener = _Noting(core.journal)
        with core.journal.noting("", ActivityKind.SCENARIO, f"{loaded.name} ({loaded.file})") as entry:
            running = run_and_hold(
                loaded,
                core.engine,
                core.plan,
                listener,
                on_start=listener.on_start,
                cancellation=self._cancellation,
                recording=core.recording,
            )
            result = self._result = self._held.enter_context(running)
            if result.outcome is not Outcome.PASSED:
                listener.note_programs(result)
                take_snapshot(core, f"sockets when scenario {result.name} had {result.outcome}")
            entry.end(result.outcome.value)
        if result.outcome is not Outcome.PASSED:
            self._held.close()
            raise ScenarioFailed(f"scenario {result.name}: {result.outcome}: {result.reason}", result)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()


class _Noting(Listener):
    """Records calls and steps in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._offset_s = 0.0

    def on_start(self, started: float) -> None:
        """Times of the scenario count from this moment."""
        self._offset_s = started - self._journal.origin

    def note_programs(self, result: ScenarioResult) -> None:
        """Record state and output of its background programs; services are in the journal already."""
        for program in result.programs:
            if program.kind != "service":
                what, output = f"{program.name}: {show_command(program.argv)}", program.output
                now_s = monotonic() - self._journal.origin
                self._journal.add(
                    Activity(
                        *(program.host, ActivityKind.START, what, now_s, 0.0, program.state),
                        stdout=tail(output.stdout),
                        stderr=tail(output.stderr),
                    )
                )

    def call_finished(self, scenario: ScenarioInfo, index: str, call: CallRecord) -> None:
        """Record a call."""
        if call.returned is None:
            outcome = "has not returned"
        else:
            outcome = f"{call.returned} {call.errno or ''}".rstrip()
        started_s = call.started_s + self._offset_s
        self._journal.add(Activity(call.host, ActivityKind.CALL, call.call, started_s, call.duration_s, outcome))

    def step_finished(self, scenario: ScenarioInfo, step: StepResult) -> None:
        """Record a step that is not a calls step."""
        if step.kind == "calls":
            return
        stdout, stderr = (step.output.stdout, step.output.stderr) if step.output else ("", "")
        outcome = step.outcome.value + (f": {step.reason}" if step.reason else "")
        started_s = step.started_s + self._offset_s
        title = f"step {step.index}: {step.title}"
        self._journal.add(
            Activity(step.host or "", ActivityKind.SCENARIO, title, started_s, step.duration_s, outcome, stdout, stderr)
        )


class Reachability(Struct, frozen=True):
    """The tested pairs of hosts, in each family in which they have addresses. True if all were reached.

    Above 100 hosts it is a sample, unless `every_pair` was given.
    """

    hosts: tuple[str, ...]
    tries: tuple[PingPair, ...]
    is_sample: bool = False  # of more than 100 hosts not every pair was tested

    def __bool__(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        from labctl.report.terminal import Look, render

        return "\n".join(render(self.hosts, self.tries, Look(), sampled=self.is_sample))

    @property
    def failed(self) -> tuple[PingPair, ...]:
        """The pairs without an answer; `problem` has the reason."""
        return tuple(each for each in self.tries if each.problem)

    @property
    def summary(self) -> str:
        """`6 of 6 reached`."""
        return f"{len(self.tries) - len(self.failed)} of {len(self.tries)} reached"

    def reached(self, source: str, target: str) -> bool:
        """Return whether one host reached another in every tested family. KeyError if the pair was not tested."""
        found = [not each.problem for each in self.tries if (each.source, each.target) == (source, target)]
        if not found:
            hint = "; ping(every_pair=True) tests all" if self.is_sample else ""
            raise KeyError(f"{source} -> {target} was not tested{hint}")
        return all(found)


def enter_private_network() -> bool:
    """Give this process a network of its own, so that `Host.netns()` enters hosts in the kernel without root.

    Call it as an ordinary user in a single-threaded process, before anything else. The process enters user, network and
    mount namespaces of its own: it is root there, has a loopback interface, and can no longer reach the machine's
    network; nor can what it starts. For root it does nothing and returns False. MachineError, with the remedy, if the
    process has several threads or the machine does not let users do this.
    """
    from labctl.kernel import privilege

    return privilege.enter_private_network()


DEADLINE_S = 30.0
_FAMILIES = {None: ("4", "6"), 4: ("4",), 6: ("6",), AF_INET: ("4",), AF_INET6: ("6",)}  # of `Lab.ping`


class Lab:
    """A small network, made by the constructor: `with Lab("pair") as lab: ...`.

    `close`, or the end of the `with`, ends it; at the latest the end of the process does. A lab that becomes garbage
    ends too, with a ResourceWarning. Thread-safe. A forked child can only close it, which does not end the parent's
    lab.
    """

    def __init__(
        self,
        topology: Topology | str | os.PathLike[str] = "pair",
        *,
        visible_paths: Iterable[str | os.PathLike[str]] = (),
        deadline_s: float | None = None,
        record: bool = False,
        trace: bool = False,
    ) -> None:
        """Make the lab of a file, a shape ("pair", "star:4") or a `Topology`, and start its services.

        Hosts have their own /tmp and /run. `visible_paths` are paths below these that hosts see all the same; this
        Python, labctl and the working directory always are. With `record`, the packets of all nodes are kept from the
        start, and `report` explains failed connections from them; a lab that cannot be recorded is made all the same,
        and `report` has the reason. With `trace`, the recording also has the system calls on sockets of all programs:
        by eBPF as root, otherwise by strace(1). Raises DocumentError or InputError for a wrong topology; MachineError,
        with the remedy, if this machine cannot have labs; KernelError; DeadlineExceeded.
        """
        from labctl.api.topology import Topology

        given = Topology.of(topology)
        options = None
        if record or trace:
            from labctl.timeline.recording import RecordOptions

            options = RecordOptions(sample_interval_s=0.1 if trace else 0.0, syscalls=("*",) if trace else ())
        self._take(Core.opened(given.freeze(), visible_paths, deadline_s, options, trace=trace), given)

    @classmethod
    def attach(cls, name: str | None = None, *, deadline_s: float = DEADLINE_S) -> Self:
        """Return the running lab of that name (`labctl up`); None: the only one. Closing leaves it running.

        Closing ends what was started through this object. InputError if no lab has that name; DeadlineExceeded if it
        does not answer.
        """
        from labctl.api.topology import Topology

        core = Core.of_running(name, deadline_s)
        lab = cls.__new__(cls)
        lab._take(core, Topology.of_model(core.model))
        return lab

    def _take(self, core: Core, topology: Topology) -> None:
        self._core = core
        self._topology = topology
        self._hosts: weakref.WeakValueDictionary[str, Host] = weakref.WeakValueDictionary()
        self._finalizer = weakref.finalize(self, _left_open, core)

    def __enter__(self) -> Self:
        self._core.check_open("use it")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        core = self._core
        return f"<Lab {self.name}, {len(core.model.nodes)} nodes, {len(core.model.links)} links, {core.state}>"

    def __getitem__(self, name: str) -> Host:
        """Return the node of that name. NotFound (a KeyError) suggests a similar name."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(self, self._core, name)
        return host

    def __contains__(self, name: object) -> bool:
        """Return whether a node has that name."""
        return isinstance(name, str) and name in self._core.model

    def __iter__(self) -> Iterator[str]:
        """The names of all nodes, in file order."""
        return (node.name for node in self._core.model.nodes)

    @property
    def name(self) -> str:
        """The name of the running lab, else of the topology."""
        return self._core.engine.name

    @property
    def topology(self) -> Topology:
        """The topology of the lab."""
        return self._topology

    @property
    def nodes(self) -> Mapping[str, Host]:
        """All nodes by name, in file order. Switches and routers run programs, too."""
        return {node.name: self[node.name] for node in self._core.model.nodes}

    @property
    def hosts(self) -> Mapping[str, Host]:
        """The hosts alone, by name, in file order."""
        return {node.name: self[node.name] for node in self._core.model.nodes if node.kind is NodeKind.HOST}

    @property
    def services(self) -> Mapping[str, Program]:
        """The services by NODE/SERVICE, in file order, as programs with state, output, `signal` and `close`.

        Closing the lab warns (RuntimeWarning) of a service that ended by itself with a status other than 0, unless you
        have looked at its `state` or `returncode` since.
        """
        from labctl.api.program import Program

        core = self._core
        return {
            key: Program(self[running.command.host], core, running, core.services[key])
            for key, running in core.programs.services.items()
        }

    @property
    def links(self) -> tuple[Link, ...]:
        """All links, in file order."""
        return tuple(Link(self._core, link) for link in self._core.model.links)

    def link(self, a: str, b: str) -> Link:
        """Return the link between two nodes, or else their ends on one network (for values between members).

        Where there are several, `a` or `b` names the interface ("client:eth1").

        NotFound if there is none, ValueError if there are several.
        """
        nodes = [end.partition(":")[0] for end in (a, b)]
        for node in nodes:
            self._core.node(node)
        model = self._core.model
        try:
            found = links_between(model.links, a, b) or model.neighbours(a, b)
        except InputError as error:
            raise ValueError(f"lab {self.name}: {error}") from error
        if not found:
            links = [str(link) for link in model.links if nodes[0] in (link.a.node, link.b.node)]
            advice = device_advice(model.devices, a, b)
            problem = f"lab {self.name}: no link between {a} and {b}"
            raise not_found(f"{problem}: {advice}" if advice else problem, f"{a} - {b}", links)
        if len(found) > 1:
            several = ", ".join(str(link) for link in found)
            raise ValueError(f"lab {self.name}: several links between {a} and {b}: {several}; name an interface")
        return Link(self._core, found[0])

    def fault(self, *, for_s: float | None = None, name: str = "", **kind: Unpack[FaultKeywords]) -> Fault:
        """Return a fault, a context manager: `with lab.fault(partition=[["a", "b"], ["c"]]): ...`.

        The keyword is a kind of fault, with a value as in scenario files: partition, isolate, blackhole, down, flap,
        mtu, remove_address, remove_route, pause, kill (a `Program`, or "NODE/NAME"), dns. It is healed at the end of
        the `with`, after `for_s` seconds, and at last with this object. ValueError for a wrong kind, value or node.
        """
        from labctl.api.fault import Fault

        self._core.check_open("inject faults")
        return Fault(self._core, kind, for_s, name)

    def heal(self) -> int:
        """Heal all faults of the lab, also those of other clients; return how many were in force. LabError."""
        self._core.check_open("heal its faults")
        healed = self._core.engine.heal()
        if self._core.recording is not None:
            self._core.recording.read_faults()
        return healed

    @property
    def faults(self) -> tuple[FaultInfo, ...]:
        """The faults that are in force, in the order in which they began: with `text`, `kind`, `nodes`, `name`."""
        self._core.check_open("list its faults")
        return self._core.engine.describe().faults

    def ping(self, *, family: int | None = None, timeout_s: float = 1.0, every_pair: bool = False) -> Reachability:
        """Return which hosts reach which, in both families or in `family` (4, 6, AF_INET, AF_INET6); true if all do.

        str() of the result is a table. Above 100 hosts a sample of the pairs is tested, unless `every_pair`.
        `timeout_s` is for each host that does not answer. InputError if no two hosts have addresses of the same family.
        """
        core = self._core
        core.check_open("ping")
        with core.journal.noting("", ActivityKind.PING, "all hosts") as entry:
            if family not in _FAMILIES:
                raise ValueError(f"family={family!r}: 4, 6, AF_INET, AF_INET6, or None for both")
            from labctl.observe.ping import choose_pairs, is_sample, ping_pairs, pingable_nodes

            hosts = pingable_nodes(core.plan, routers=False)
            chosen = choose_pairs(core.plan, hosts, every_pair=every_pair)
            pairs = [pair for pair in chosen if pair.family in _FAMILIES[family]]
            tries = ping_pairs(core.engine, core.plan, pairs, deadline_s=timeout_s) if pairs else []
            found = Reachability(tuple(hosts), tuple(tries), is_sample(hosts, every_pair=every_pair))
            entry.end(found.summary)
        return found

    def scenario(self, source: str | os.PathLike[str] | Scenario) -> ScenarioRun:
        """Return a context manager that runs a scenario on this lab, and keeps its programs and sockets until the block
        ends.

        `source` is a file or a loaded scenario. Entering the block runs the steps; it raises DocumentError if the file
        is wrong or does not fit this lab, and ScenarioFailed if the scenario does not pass.
        """

        self._core.check_open("run a scenario")
        return ScenarioRun(self._core, source)

    def activity(self) -> tuple[Activity, ...]:
        """Return what was done through this object (programs, connections, sockets, calls of scenarios), in order.

        It has the last 1000, also after the lab has been closed.
        """
        return self._core.journal.activities()

    def timeline(self) -> Timeline:
        """Return what happened so far, of a lab with `record` or `trace`. RuntimeError for other labs.

        It has packets, system calls, states of sockets, marks and, as steps, what was done through this object.
        """
        return self._core.timeline()

    def mark(self, text: str, *, host: str = "") -> None:
        """Add a note to the timeline, now, of a host or of the lab as a whole; no effect if the lab is not recorded."""
        self._core.mark(text, host)

    def save_timeline(self, path: str | os.PathLike[str]) -> None:
        """Write the timeline in the format that the file's name asks for: .html, .pcapng, .svg, .json, .perfetto.json.

        Raises: InputError for another name, LabError if the file cannot be written, RuntimeError as `timeline`.
        """
        from labctl.report.timeline_files import save

        save(self.timeline(), Path(path))

    def report(self, *, after_s: float = -1.0) -> str:
        """Return what was done on all hosts in order, the end of programs' output, and all present sockets. Never
        raises.

        `after_s` leaves out what had ended by then (seconds as in `Activity.started_s`).
        """
        from labctl.api.journal import report

        return report(self._core, after_s)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._core.closed

    def close(self) -> None:
        """End the lab and all that runs in it; of an attached lab, only what was started through this object.
        Idempotent.
        """
        self._finalizer.detach()
        self._core.close()


def _left_open(core: Core) -> None:
    """End a lab that was never closed: called when its object is garbage, and at the interpreter's exit."""
    forked, title = core.is_forked, f"lab {core.engine.name}"
    core.close()
    if not forked:
        warnings.warn(f"{title} was not closed: use `with Lab(...)`, or close()", ResourceWarning, stacklevel=2)
