"""Read the steps of a scenario file and check them one by one in file order.

The checker tracks the names of background programs and variables: a step may only use what an earlier step has made.
Inside `repeat` and `parallel` the order of the file is not the order of execution, so there a step may use whatever any
step of the file makes.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.documents.diagnostics import SHOWN_LIMIT, Diagnostic, Hint, Mistake, describe, suggest, suggestion
from labctl.documents.schema import Key, Reading, Unusable
from labctl.errors import InputError
from labctl.plan.fault_effects import FaultKind
from labctl.scenario.file_schema import (
    BODIES,
    NODES,
    SHORT_FAULTS,
    STEP_NAME,
    STEP_WITHIN,
    BuildBody,
    CallsBody,
    Connection,
    DropBody,
    DuringBody,
    ExpectBody,
    FaultKeys,
    FileBody,
    FirewallBody,
    HealBody,
    LinkBody,
    NatBody,
    ParallelBody,
    PauseBody,
    RepeatBody,
    Requires,
    ResumeBody,
    RunBody,
    Save,
    ScheduleBody,
    SetBody,
    SignalBody,
    StartBody,
    StopBody,
    UndropBody,
    WaitBody,
    program_name,
    title_of,
)
from labctl.scenario.language.checker import CheckContext, check, check_expression
from labctl.scenario.language.parser import parse, parse_expression
from labctl.scenario.language.syntax import Problem, Program
from labctl.scenario.model import WITH_STEPS, Step, StepKind, caller_name
from labctl.scenario.requirements import KnownPrograms, unmet
from labctl.scenario.state import NAME_RULE, has_references, is_name, is_template, references, references_within
from labctl.structs import replace
from labctl.topology.endpoints import Protocol, TcpState, parse_address, parse_endpoint, parse_listening, parse_state
from labctl.topology.model import OWN_DIRECTORIES, FileTree, NodeKind, device_advice, links_between

if TYPE_CHECKING:
    from labctl.documents.yaml_tree import Document, KeyPath
    from labctl.observe.network import Counters
    from labctl.scenario.file_schema import Body
    from labctl.topology.model import Topology


_BESIDE_THE_KIND = ("name", "within")
_ASSIGNED_VARIABLE = r"(?m)^[ \t]*\$([A-Za-z_][A-Za-z0-9_]*)[ \t]*=(?!=)"
_KINDS = ", ".join(StepKind)
_ON_SEVERAL = frozenset(  # kinds whose `on` may be a group, a label or a list
    kind for kind, body in BODIES.items() if "on" in body.KEYS and body.KEYS["on"].reader is NODES
)


class StepChecker:
    """Read the list of steps; `diagnostics` then has every mistake in them.

    Without a topology (because it has mistakes) the names of nodes are not checked.
    """

    def __init__(
        self,
        document: Document,
        topology: Topology | None,
        directory: Path,
        requires: Requires,
        variables: Iterable[str],
    ) -> None:
        self.diagnostics: list[Diagnostic] = []
        self._document = document
        self._topology = topology
        self._directory = directory
        nodes = topology.nodes if topology else ()
        self._nodes = [node.name for node in nodes]
        self._with_addresses = [node.name for node in nodes if node.kind is not NodeKind.SWITCH]
        self._requires = requires
        self._variables = set(variables)
        self._variables_anywhere = set(variables)
        self._faults: set[str] = set()  # the names that steps give to faults
        self._services = _service_names(topology)
        self._processes = set(self._services)
        self._processes_anywhere = set(self._services)
        self._programs = KnownPrograms(directory, requires.programs, (node.tree for node in nodes if node.tree))
        self._unordered_depth = 0  # how many `repeat` and `parallel` are open
        self._scripts = ScriptChecker(document, topology)
        self._unknown_counters = 0
        self._counters: Counters | None = None  # of this machine, once a step names one

    def read(self, data: list[Any], path: KeyPath) -> tuple[Step, ...]:
        """Return the steps of the list at `path`, without those that have mistakes."""
        for step in _mappings(data):
            for key, body in step.items():
                self._look_ahead(key, body)
        return self._list(data, path)

    def _look_ahead(self, key: str, body: Any) -> None:
        """Note the variables and background programs that the step makes."""
        if isinstance(body, str):
            self._variables_anywhere.update(re.findall(_ASSIGNED_VARIABLE, body))
        if not isinstance(body, dict):
            return
        save = body.get("save")
        made: list[object] = list(save.values()) if isinstance(save, dict) else []
        if key == "set":
            made += body
        elif key == "repeat":
            made.append(body.get("as"))
        elif key == "calls" and isinstance(body.get("do"), str):
            made += re.findall(_ASSIGNED_VARIABLE, body["do"])
        elif key == "start":
            name, nodes = _process_name(body), self._several(StepKind.START, body) or (body.get("on"),)
            self._processes_anywhere.update([name, *(f"{node}/{name}" for node in nodes)])
        self._variables_anywhere.update(name for name in made if isinstance(name, str))

    # steps

    def _list(self, data: list[Any], path: KeyPath) -> tuple[Step, ...]:
        steps = (self._step(step, (*path, index), index + 1) for index, step in enumerate(data))
        return tuple(step for step in steps if step is not None)

    def _step(self, data: Any, path: KeyPath, number: int) -> Step | None:
        if not isinstance(data, dict):
            self._misshapen(path, "not a step", f"a step is a mapping with one kind: a host's name, or {_KINDS}")
            return None
        title = self._beside_the_kind(STEP_NAME, data, path) or ""
        within_s = self._beside_the_kind(STEP_WITHIN, data, path)
        self._references(title, (*path, "name"))
        keys = [key for key in data if key not in _BESIDE_THE_KIND]
        known = [key for key in keys if self._kind_of(key, data[key]) is not None]
        for key in keys:
            if key not in known:
                self._unknown_key(path, key, data[key], _in_body_of(key, known), in_schema=len(keys) > 1)
        if not keys:
            self._misshapen(path, "the step has no kind", f"write the name of a host for calls, or one of: {_KINDS}")
        if len(known) > 1:
            named = " and ".join(f"`{key}`" for key in known)
            inside = _in_body_of(known[1], known[:1]) or _in_body_of(known[0], known[1:2])
            hint = f"make it two steps{inside and ', or '}{inside}"
            self._misshapen((*path, known[1]), f"a step has exactly one kind, not {named}", hint, key=True)
        steps = [self._one_kind(key, data[key], (*path, key), number, title, within_s) for key in known]
        return steps[0] if len(steps) == 1 else None

    def _beside_the_kind(self, key: Key[Any], data: dict[str, Any], path: KeyPath) -> Any:
        value = data.get(key.name)
        if value is None:
            return None
        reading = Reading(final=True)
        try:
            return key.reader.read(value, reading, (*path, key.name))
        except Unusable:
            self.diagnostics += map(self._document.problem, reading.problems)
            return None

    def _kind_of(self, key: str, body: Any) -> StepKind | None:
        if key in list(StepKind):
            return StepKind(key)
        if key in SHORT_FAULTS:
            return StepKind.FAULT
        host = key.partition("/")[0]
        if host in self._nodes or (isinstance(body, str) and self._members(host)):
            return StepKind.CALLS
        if self._topology is None and isinstance(body, str) and not _near_a_kind(key):
            return StepKind.CALLS
        return None

    def _unknown_key(self, path: KeyPath, key: str, body: Any, where: str, *, in_schema: bool) -> None:
        host = key.partition("/")[0]
        problem: str
        hint: Hint
        if where:
            problem, hint = f"`{key}` cannot stand beside the kind of a step", where
        elif isinstance(body, str) and self._topology is not None and not _near_a_kind(key):
            problem, hint = f"there is no host `{host}`", suggestion(host, self._nodes)
        else:
            allowed = (*StepKind, *_BESIDE_THE_KIND, *self._nodes)
            problem, hint = f"unknown kind of step `{key}`", suggestion(key, allowed)
        in_schema = in_schema or not isinstance(body, str)
        self.diagnostics.append(self._document.diagnostic((*path, key), problem, hint, key=True, in_schema=in_schema))

    def _one_kind(
        self,
        key: str,
        data: Any,
        path: KeyPath,
        number: int,
        title: str,
        within_s: float | None,
        text_path: KeyPath | None = None,  # of calls
    ) -> Step | None:
        kind = self._kind_of(key, data)
        assert kind is not None
        text_path = text_path or (path if key != "calls" else (*path, "do"))
        if kind is StepKind.CALLS and key != "calls":
            host, _, process = key.partition("/")
            data = {"on": host, "process": process, "do": data}
        elif key in SHORT_FAULTS:
            data = {key: data}
        elif BODIES[kind].SHORT and isinstance(data, str):
            data = {BODIES[kind].SHORT: data}
        nodes = self._several(kind, data)
        if len(nodes) > 1:
            return self._on_each(nodes, kind, data, path, number, title, within_s, text_path)
        if nodes:
            data = {**data, "on": nodes[0]}
        before = len(self.diagnostics)
        body = self._body(kind, data, path)
        own = _without_steps(kind, data)
        if kind is not StepKind.CALLS:  # the checker of calls checks references itself
            self._references(own, path)
        if body is None:
            return None
        script: Program | None = None
        branches: tuple[tuple[Step, ...], ...] = ()
        match body:
            case CallsBody():
                script = self._calls(body, text_path)
            case RepeatBody() | ParallelBody() | DuringBody() | ScheduleBody():
                self._check(body, path)
                branches = self._branches(body, path)
            case _:
                self._check(body, path)
        if len(self.diagnostics) > before:
            return None
        text = self._document.position_in_text(text_path, 0, 0) if script else None
        return Step(
            number=number,
            title=title or title_of(body, data),
            within_s=within_s,
            file=self._document.file,
            line=self._document.position(path, key=True).line,
            body=body,
            data=data,
            templated=has_references(own),
            branches=branches,
            script=script,
            text_line=text.line if text else 0,
            text_column=text.column if text else 0,
        )

    def _several(self, kind: StepKind, data: Any) -> tuple[str, ...]:
        """Return the nodes that `on` stands for, if it is a group, a label, or a list of them and of nodes."""
        on = data.get("on") if isinstance(data, dict) and kind in _ON_SEVERAL else None
        if isinstance(on, list) and all(isinstance(word, str) for word in on):
            found = (self._several(kind, {"on": word}) or (word,) for word in on)
            return tuple(dict.fromkeys(node for nodes in found for node in nodes))
        return self._members(on) if isinstance(on, str) else ()

    def _members(self, word: str) -> tuple[str, ...]:
        """Return the nodes of a group or with a label; none for the name of a node."""
        if is_template(word) or word in self._nodes or self._topology is None:
            return ()
        from labctl.topology.selection import select, with_addresses

        try:
            return with_addresses(self._topology.nodes, select(self._topology.nodes, [word]))
        except Mistake:
            return ()  # reported as an unknown host

    def _on_each(
        self,
        nodes: Sequence[str],
        kind: StepKind,
        data: dict[str, Any],
        path: KeyPath,
        number: int,
        title: str,
        within_s: float | None,
        text_path: KeyPath,
    ) -> Step | None:
        """Return the step on each of these nodes at the same time: branches of `parallel`."""
        named = " ".join(data["on"]) if isinstance(data["on"], list) else data["on"]
        saved = re.search(_ASSIGNED_VARIABLE, str(data.get("do", "")))
        if data.get("save") is not None or saved:
            at = text_path if saved else (*path, "save")
            what = f"`{named}` is several nodes, each with values of its own"
            self._wrong(at, what, "write a step for each node, with variables of its own")
            return None
        steps: list[Step] = []
        for node in nodes:
            step = self._one_kind(kind.value, {**data, "on": node}, path, 1, "", within_s, text_path)
            if step is None:
                return None  # the others have the same mistakes
            steps.append(step)
        return replace(
            steps[0],
            number=number,
            title=title or re.sub(f" on {re.escape(nodes[0])}(?=/|$)", f" on {named}", steps[0].title),
            within_s=None,
            body=ParallelBody({"branches": []}),
            data=[],
            templated=False,
            branches=tuple((step,) for step in steps),
        )

    def _body(self, kind: StepKind, data: Any, path: KeyPath) -> Body | None:
        shape = BODIES[kind]
        program = data.get("process") if isinstance(data, dict) else data
        if isinstance(program, list) and "process" in shape.KEYS and kind is not StepKind.CALLS:
            hint = "write a step for each program, inside `parallel` for all at the same time"
            self._misshapen((*path, "process") if program is not data else path, f"`{kind}` takes one program", hint)
            return None
        if shape.KEYS and not isinstance(data, dict):
            form = f"`{kind}` takes a mapping: {', '.join(shape.KEYS)}"
            self._misshapen(path, f"expected a mapping, got {describe(data)}", form)
            return None
        if kind is StepKind.CALLS and "do" in data and not isinstance(data["do"], str):
            problem = f"expected the text of the calls, got {describe(data['do'])}"
            self._misshapen((*path, "do"), problem, "write it as a block: `|`")
            return None
        reading = Reading()
        try:
            body: Body | None = shape.read(data, reading, path)
        except Unusable:
            body = None  # the problems have the reason
        self.diagnostics += map(self._document.problem, reading.problems)
        return body

    def _branches(
        self, body: RepeatBody | ParallelBody | DuringBody | ScheduleBody, path: KeyPath
    ) -> tuple[tuple[Step, ...], ...]:
        if isinstance(body, RepeatBody) and body.as_:
            self._new_variable(body.as_, (*path, "as"))
        if isinstance(body, DuringBody):
            return (self._list(body.steps, (*path, "steps")),)
        self._unordered_depth += 1
        branches: list[tuple[Step, ...]] = []
        if isinstance(body, RepeatBody | ScheduleBody):
            branches.append(self._list(body.steps, (*path, "steps")))
        else:
            for index, branch in enumerate(body.branches):
                if isinstance(branch, list):
                    branches.append(self._list(branch, (*path, index)))
                elif (step := self._step(branch, (*path, index), 1)) is not None:
                    branches.append((step,))
        self._unordered_depth -= 1
        return tuple(branches)

    # one kind at a time

    @property
    def _known_variables(self) -> set[str]:
        return self._variables_anywhere if self._unordered_depth else self._variables

    def _calls(self, body: CallsBody, path: KeyPath) -> Program | None:
        if not self._host(body.on, path if path[-1] != "do" else (*path[:-1], "on")):
            return None
        script, diagnostics = self._scripts.check(body, path, self._known_variables)
        self.diagnostics += diagnostics
        self._variables.update(re.findall(_ASSIGNED_VARIABLE, body.do))
        self._processes.add(caller_name(body.on, body.process))
        return script

    def _check(self, body: Body, path: KeyPath) -> None:
        on = getattr(body, "on", None)
        if on is not None:
            self._host(on, (*path, "on"))
        match body:
            case RunBody():
                self._program(body.run, body.cwd, (*path, "run"))
                self._saves(body.save, path)
            case StartBody():
                self._program(body.run, body.cwd, (*path, "run"))
                self._program(body.ready.command if body.ready else None, body.cwd, (*path, "ready", "command"))
                self._processes.update((body.process_name, f"{body.on}/{body.process_name}"))
            case StopBody() | PauseBody() | ResumeBody():
                self._process(body.process, (*path, "process"))
            case WaitBody():
                self._process(body.process, (*path, "process"))
                self._saves(body.save, path)
            case SignalBody():
                self._signalled(body.process, (*path, "process"))
            case ExpectBody():
                self._expect(body, path)
            case LinkBody():
                self._link(body, path)
            case FaultKeys():
                self._fault(body, path)
            case HealBody():
                self._healed(body.fault, (*path, "fault"))
            case ScheduleBody():
                self._schedule(body, path)
            case UndropBody():
                self._filtering(body.on, (*path, "on"))
            case DropBody():
                self._drop(body, path)
            case NatBody() | FirewallBody():
                self._table(body, path)
            case FileBody():
                self._file(body, path)
            case BuildBody():
                self._build(body, path)
            case SetBody():
                for name in body.values:
                    self._new_variable(name, (*path, name), key=True)

    def _program(self, argv: list[str] | None, cwd: str | None, path: KeyPath) -> None:
        if argv and not is_template(argv[0]) and not is_template(cwd):
            problem, hint = self._programs.missing(argv[0], cwd)
            if problem:
                self._wrong((*path, 0), problem, hint)

    def _saves(self, save: Save | None, path: KeyPath) -> None:
        for field, name in save.values.items() if save is not None else ():
            self._new_variable(name, (*path, "save", field))

    def _expect(self, body: ExpectBody, path: KeyPath) -> None:
        for name in body.counters or ():
            self._counter(name, (*path, "counters", name))
        for field, process in (("running", body.running), ("not_running", body.not_running)):
            if process is not None:
                self._process(process, (*path, field))
        if body.output is not None:
            self._process(body.output.process, (*path, "output", "process"))
        for field, reach in (("reachable", body.reachable), ("unreachable", body.unreachable)):
            if reach is not None:
                self._node_or_address(reach.node, (*path, field, "node"))
        for field, where in (("listening", body.listening), ("not_listening", body.not_listening)):
            if where is not None and not is_template(where):
                self._node_or_address(parse_listening(where).address, (*path, field))
        if body.route is not None:
            self._node_or_address(body.route.via, (*path, "route", "via"))
            self._vrf(body.route.vrf, body.on, (*path, "route", "vrf"))
        if body.connection is not None:
            self._connection(body.connection, (*path, "connection"))
        self._program(body.command, body.cwd, (*path, "command"))
        self._saves(body.save, path)
        if body.that is not None:
            self.diagnostics += self._scripts.check_comparison(body.that, (*path, "that"), self._known_variables)

    def _connection(self, wanted: Connection, path: KeyPath) -> None:
        """Report an address or a state that no socket of the protocol has."""
        for field, end in (("local", wanted.local), ("peer", wanted.peer)):
            if end is None or is_template(end):
                continue
            host = parse_endpoint(end).host
            is_path = host is not None and host.startswith(("/", "@"))
            if is_path is not (wanted.protocol == Protocol.UNIX):
                form = "/tmp/x.sock or @name" if wanted.protocol == Protocol.UNIX else "HOST:PORT"
                problem = f"`{end}` is not an address of `protocol: {wanted.protocol}`"
                self._wrong((*path, field), problem, f"write {form}")
            else:
                self._node_or_address(host, (*path, field))
        if wanted.state is None or is_template(wanted.state) or wanted.protocol == Protocol.TCP:
            return
        names = {TcpState.ESTABLISHED: "ESTAB", TcpState.CLOSE: "UNCONN"}
        if wanted.protocol == Protocol.UNIX:
            names[TcpState.LISTEN] = "LISTEN"
        if parse_state(wanted.state) not in names:
            problem = f"a socket of `protocol: {wanted.protocol}` is never in state {wanted.state}"
            self._wrong((*path, "state"), problem, f"allowed: {', '.join(names.values())}")

    def _counter(self, name: str, path: KeyPath) -> None:
        """Report a counter that this kernel lacks, unless the scenario cannot run here: other kernels have others."""
        from labctl.observe.network import UnknownCounter, counters_here

        if self._counters is None:
            self._counters = counters_here()
        if self._counters is None or self._unknown_counters > SHOWN_LIMIT:
            return
        try:
            self._counters.resolve(name)
        except UnknownCounter as error:
            self._unknown_counters += 1
            if not unmet(self._requires):
                self._wrong(path, f"{error.problem} in this kernel", error.hint, key=True)

    def _link(self, body: LinkBody, path: KeyPath) -> None:
        ends = body.ends
        if not ends or self._topology is None or any(is_template(end) for end in ends):
            return
        if body.from_ is not None and not is_template(body.from_) and body.from_ not in ends:
            self._wrong((*path, "from"), f"`{body.from_}` is not an end of that link", suggestion(body.from_, ends))
        unknown = [(index, end) for index, end in enumerate(ends) if end not in self._nodes]
        for index, end in unknown:
            node, _, ifname = end.partition(":")
            hint: Hint = suggestion(end, self._nodes)
            if members := self._members(end):
                hint = f"it is several nodes: write a step for each, of {', '.join(members[:4])}"
            elif ifname and node in self._nodes:
                hint = device_advice(self._topology.devices, end)
                hint = hint or f"name the node {node}; `which: 2` selects the second of several links"
            self._wrong((*path, body.verb, index), f"there is no node or network `{end}`", hint)
        if unknown:
            return
        found = len(links_between(self._topology.links, *ends))
        if not found and (body.between or body.clear):
            try:
                found = len(self._topology.neighbours(*ends))
            except InputError as error:
                self._wrong((*path, body.verb), str(error))
                return
        if not found:
            neighbours = {n for link in self._topology.links for n in (link.a.node, link.b.node)
                          if ends[0] in (link.a.node, link.b.node)} - {ends[0]}  # fmt: skip
            linked = f"is linked to: {', '.join(sorted(neighbours))}" if neighbours else "has no links"
            problem = f"there is no link between {ends[0]} and {ends[1]}"
            self._wrong((*path, body.verb), problem, f"{ends[0]} {linked}")
        elif body.which is None and found > 1:
            problem = f"there are {found} links between {ends[0]} and {ends[1]}"
            self._wrong((*path, body.verb), problem, f"write which, in file order: `which: 1` to `which: {found}`")
        elif isinstance(body.which, int) and body.which > found:
            count = "is only 1 link" if found == 1 else f"are only {found} links"
            self._wrong((*path, "which"), f"there {count} between {ends[0]} and {ends[1]}")

    def _drop(self, body: DropBody, path: KeyPath) -> None:
        from labctl.plan.drop_rules import parse_flags

        self._filtering(body.on, (*path, "on"))
        for field, end in (("from", body.from_), ("to", body.to)):
            self._node_or_address(end, (*path, field))
            if end is not None and "%" in end and not is_template(end):
                self._wrong((*path, field), f"`{end}`: the addresses of a packet have no interface", "leave out %")
        if body.flags is not None and not is_template(body.flags):
            try:
                parse_flags(body.flags)
            except ValueError as error:
                self._wrong((*path, "flags"), str(error))

    def _fault(self, body: FaultKeys, path: KeyPath) -> None:
        """Report names that the topology does not have; record the name of the fault."""
        from labctl.plan.faults import Pause, read

        if body.values.keys().isdisjoint(FaultKind):
            return  # its value is not valid, which has been reported
        kind, value = body.fault
        if body.name is not None:
            self._faults.add(body.name)
        if has_references(value):
            return
        fault = read(kind, value)
        if isinstance(fault, Pause):
            for program in fault.programs:
                self._process(program, (*path, kind))
        elif self._topology is not None:
            try:
                fault.plan(self._topology)
            except ValueError as error:
                self._wrong((*path, kind), str(error), error.what_to_try if isinstance(error, Mistake) else "")

    def _healed(self, name: str, path: KeyPath) -> None:
        if name != "all" and not is_template(name) and name not in self._faults and not self._unordered_depth:
            self._wrong(
                path, f"no earlier step injects a fault called `{name}`", suggestion(name, ["all", *self._faults])
            )

    def _schedule(self, body: ScheduleBody, path: KeyPath) -> None:
        from labctl.topology.selection import select

        for index, target in enumerate(body.targets):
            if self._topology is not None and not is_template(target):
                try:
                    select(self._topology.nodes, [target])
                except Mistake as error:
                    self._wrong((*path, "targets", index), str(error), error.what_to_try)
        for index, program in enumerate(body.programs):
            self._process(program, (*path, "programs", index))

    def _table(self, body: NatBody | FirewallBody, path: KeyPath) -> None:
        if self._topology is None or is_template(body.on) or body.on not in self._nodes:
            return
        from labctl.scenario.network_steps import node_with

        try:
            node_with(body, self._topology)
        except InputError as error:
            self._wrong(path, str(error))

    def _file(self, body: FileBody, path: KeyPath) -> None:
        if not is_template(body.path):
            resolved = str(Path(body.path))
            node = self._topology.node(body.on) if self._topology and body.on in self._topology else None
            tree = node.tree if node else FileTree()
            is_own = tree.owns(resolved) or (node is None and not is_template(body.on))
            problem, hint = "", ""
            if not is_own or ".." in Path(body.path).parts:
                own = ", ".join((*OWN_DIRECTORIES, *tree.private))
                problem = f"cannot place a file at {body.path}: it belongs to the machine"
                hint = f"use {own}, or what `files` and `private` of the topology give the host"
            elif resolved.startswith("/run/lab/"):
                problem, hint = "/run/lab is the lab's own directory", "place it elsewhere in /run or /tmp"
            elif Path(resolved).is_relative_to(self._directory):
                problem, hint = "that is the scenario's own directory on the machine", "use another one"
            if problem:
                self._wrong((*path, "path"), problem, hint)
            self._programs.add_path(body.path)
        if body.source is not None:
            self._source(body.source, (*path, "source"))

    def _build(self, body: BuildBody, path: KeyPath) -> None:
        for index, source in enumerate(body.source):
            self._source(source, (*path, "source", index))
        if not is_template(body.program):
            if "/" in body.program or body.program in ("", ".", ".."):
                self._wrong((*path, "as"), f"`{body.program}` is not a program name", "use a name without `/`")
            self._programs.add_name(body.program)
        problem, hint = self._programs.missing("cc", None)
        if problem:
            self._wrong(path, problem, hint, key=True)

    # names

    def _host(self, name: str, path: KeyPath) -> bool:
        if self._topology is None or is_template(name) or name in self._nodes:
            return True
        groups = dict.fromkeys(group for node in self._topology.nodes for group in node.groups)
        self._wrong(path, f"there is no host `{name}`", suggestion(name, [*self._nodes, *groups]))
        return False

    def _filtering(self, name: str, path: KeyPath) -> None:
        """Report a switch: it forwards frames below its packet filter, so that a drop there would have no effect."""
        if self._topology is not None and name in self._nodes and name not in self._with_addresses:
            hint = "drop packets on a host or router, or take a link down"
            self._wrong(path, f"`{name}` is a switch: it forwards packets without inspecting them", hint)

    def _node_or_address(self, name: str | None, path: KeyPath) -> None:
        if name is None or is_template(name) or name.startswith(("/", "@")) or parse_address(name) is not None:
            return
        if self._topology is not None and name not in self._with_addresses:
            self._wrong(path, f"`{name}` is neither an address nor a host", suggestion(name, self._with_addresses))

    def _vrf(self, name: str | None, on: str | None, path: KeyPath) -> None:
        if name is None or is_template(name) or on is None or self._topology is None or on not in self._nodes:
            return
        if name not in (vrfs := self._topology.node(on).vrfs):
            self._wrong(path, f"{on} has no VRF `{name[:40]}`", suggestion(name, vrfs) if vrfs else "")

    def _process(self, name: str, path: KeyPath) -> None:
        known = self._processes_anywhere | self._processes if self._unordered_depth else self._processes
        if is_template(name) or name in known or any(is_template(other) for other in known):
            return
        if name in self._processes_anywhere:
            self._wrong(path, f"a later step starts `{name}`", "move this step below its `start`")
            return
        several = [service for service in self._services if service.endswith(f"/{name}")]
        if several:
            self._wrong(path, f"several nodes have a service `{name}`", f"write which: {', '.join(several)}")
            return
        what = "a background program, and no node has a service," if self._services else "a background program"
        self._wrong(path, f"no step starts {what} called `{name}`", partial(self._process_hint, name))

    def _process_hint(self, name: str) -> str:
        names = [each for each in self._processes_anywhere if "/" not in each or each in self._services]
        started = sorted(other for other in names if not is_template(other))
        return suggest(name, started) if started else "no step starts a background program: add a `start` step"

    def _signalled(self, name: str, path: KeyPath) -> None:
        host, slash, _ = name.partition("/")
        if (slash or host in self._nodes) and name not in self._processes_anywhere:
            self._host(host, path)
        else:
            self._process(name, path)

    def _new_variable(self, name: str, path: KeyPath, *, key: bool = False) -> None:
        if not is_name(name):
            self._wrong(path, f"`{name}` is not a valid variable name", NAME_RULE, key=key)
        self._variables.add(name)

    def _references(self, data: Any, path: KeyPath) -> None:
        reported: set[tuple[KeyPath, str]] = set()
        for inner, name, offset in references_within(data):
            if name in self._known_variables or (inner, name) in reported:
                continue
            reported.add((inner, name))
            if len(reported) > SHOWN_LIMIT:
                break
            text = _at(data, inner)
            written = self._document.tree((*path, *inner)).data
            if isinstance(written, str) and written != text:  # `text` has addresses in place of `${h2.ipv4}`
                text = written
                offset = next((start for found, start in references(written) if found == name), 0)
            line = text.count("\n", 0, offset)
            column = offset - (text.rfind("\n", 0, offset) + 1)
            position = self._document.position_in_text((*path, *inner), line, column)
            later = name in self._variables_anywhere
            problem = f"a later step sets `{name}`" if later else f"there is no variable `{name}`"
            hint = "" if later else partial(self._variable_hint, name)
            self.diagnostics.append(self._document.diagnostic_at(position, problem, hint))

    def _variable_hint(self, name: str) -> str:
        return suggest(name, sorted(self._variables_anywhere)) or "write `$${` for a literal `${`"

    def _source(self, name: str, path: KeyPath) -> None:
        if not is_template(name) and not os.path.isfile(self._directory / name):  # False too if it cannot be a path
            self._wrong(path, f"there is no file {name}", partial(self._file_hint, name))

    def _file_hint(self, name: str) -> str:
        beside = sorted(entry.name for entry in self._directory.iterdir() if entry.is_file())
        return suggest(name, beside, near_only=True) or "paths are relative to the directory of the scenario"

    def _wrong(self, path: KeyPath, message: str, hint: Hint = "", *, key: bool = False) -> None:
        self.diagnostics.append(self._document.diagnostic(path, message, hint, key=key))

    def _misshapen(self, path: KeyPath, message: str, hint: Hint = "", *, key: bool = False) -> None:
        """Report a mistake that the JSON Schema finds, too."""
        self.diagnostics.append(self._document.diagnostic(path, message, hint, key=key, in_schema=True))


class ScriptChecker:
    """Check the texts of calls in file order; keep the names that each calling process has assigned."""

    def __init__(self, document: Document, topology: Topology | None) -> None:
        self._document = document
        self._hosts: frozenset[str] | None = None
        self._versions: dict[str, frozenset[int]] = {}
        if topology is not None:
            hosts = [node for node in topology.nodes if node.kind is not NodeKind.SWITCH]
            self._hosts = frozenset(node.name for node in hosts)
            self._versions = {node.name: frozenset(one.version for one in node.addresses) for node in hosts}
        self._contexts: dict[tuple[str, str], CheckContext] = {}

    def check(self, body: CallsBody, path: KeyPath, variables: set[str]) -> tuple[Program, list[Diagnostic]]:
        """Return the parsed text at `path` and every mistake in it, each at its place in the block."""
        program = parse(body.do)
        before = self._contexts.get((body.on, body.process), CheckContext())
        context = CheckContext(self._hosts, before.names, variables, before.pending, self._versions)
        checked = check(program, context)
        self._contexts[body.on, body.process] = checked.context
        return program, [self._diagnostic(problem, path) for problem in checked.problems]

    def check_comparison(self, text: str, path: KeyPath, variables: set[str]) -> list[Diagnostic]:
        """Return every mistake in the expression at `path`."""
        expression = parse_expression(text)
        if isinstance(expression, Problem):
            return [self._diagnostic(expression, path)]
        problems = check_expression(expression, CheckContext(variables=variables))
        return [self._diagnostic(problem, path) for problem in problems]

    def _diagnostic(self, problem: Problem, path: KeyPath) -> Diagnostic:
        position = self._document.position_in_text(path, problem.line, problem.column)
        return self._document.diagnostic_at(position, problem.message, problem.what_to_try)


def _process_name(start: dict[str, Any]) -> str:
    """Return the name of the program of a step `start`."""
    argv, shell = start.get("run"), start.get("shell")
    words = [str(word) for word in argv] if isinstance(argv, list) else None
    return str(start.get("name") or program_name(words, shell if isinstance(shell, str) else None))


def _service_names(topology: Topology | None) -> tuple[str, ...]:
    """Return the names of services for steps: NODE/SERVICE, and SERVICE if only one node has a service of that name."""
    services = [(node.name, service.name) for node in topology.nodes for service in node.services] if topology else []
    counts = Counter(name for _, name in services)
    return (*(f"{node}/{name}" for node, name in services), *(name for name, count in counts.items() if count == 1))


def _mappings(data: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in nested data."""
    stack = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(part for part in value.values() if isinstance(part, dict | list))
        elif isinstance(value, list):
            stack.extend(value)


def _without_steps(kind: StepKind, data: Any) -> Any:
    """Return the data of a step without the steps inside it."""
    if kind in WITH_STEPS and isinstance(data, dict):
        return {name: value for name, value in data.items() if name != "steps"}
    return None if kind is StepKind.PARALLEL else data


def _at(data: Any, path: KeyPath) -> str:
    """Return the text at that path."""
    for element in path:
        data = data[element]
    return str(data)


def _in_body_of(key: str, kinds: Iterable[str]) -> str:
    """Return how to write a key into the body of the first of these kinds that takes it; "" if none does."""
    takers = (kind for kind in kinds if kind in list(StepKind) and key in BODIES[StepKind(kind)].KEYS)
    taker = next(takers, "")
    return taker and f"write `{taker}: {{..., {key}: ...}}`"


def _near_a_kind(word: str) -> bool:
    import difflib

    return "/" not in word and bool(difflib.get_close_matches(word, list(StepKind), n=1, cutoff=0.7))
