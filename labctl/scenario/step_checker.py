"""The steps of a scenario file, read and checked one by one in file order.

Names of nodes, background programs and variables are followed through the file: a step may only use what an earlier
one has made. Inside `repeat` and `parallel` the order of the file is not the order of events, so there anything that
is made somewhere in the file will do.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.documents.diagnostics import SHOWN_LIMIT, Diagnostic, Hint, describe, suggest, suggestion
from labctl.documents.schema import Key, Reading, Unusable
from labctl.scenario import call_steps, loader
from labctl.scenario.file_schema import BODIES, SHORTHAND, STEP_NAME, STEP_WITHIN
from labctl.scenario.model import Requirements, Step, StepKind, program_name, title_of
from labctl.scenario.variables import has_references, is_name, is_template, references, references_within
from labctl.topology.model import OWN_DIRECTORIES, FileTree, NodeKind, links_between

if TYPE_CHECKING:
    from labctl.documents.yaml_tree import Document
    from labctl.observe.network import Counters
    from labctl.topology.model import Topology


KeyPath = tuple[str | int, ...]

_BESIDE_THE_KIND = ("name", "within")
_SET_IN_CALLS = re.compile(r"^[ \t]*\$([A-Za-z_][A-Za-z0-9_]*)[ \t]*=(?!=)", re.MULTILINE)


class StepReader:
    """Reads the list of steps; afterwards `diagnostics` has every mistake in them.

    Without a topology (it had mistakes of its own) nothing is said about names of nodes.
    """

    def __init__(
        self,
        document: Document,
        topology: Topology | None,
        directory: Path,
        requires: Requirements,
        variables: Iterable[str],
    ) -> None:
        self.diagnostics: list[Diagnostic] = []
        self._document = document
        self._topology = topology
        self._directory = directory
        nodes = topology.nodes if topology else ()
        self._places = [node.name for node in nodes]  # where programs run and calls are made
        self._with_addresses = [node.name for node in nodes if node.kind is not NodeKind.SWITCH]
        self._step_keys = (*StepKind, *_BESIDE_THE_KIND, *self._places)
        self._requires = requires
        self._variables = set(variables)
        self._variables_anywhere = set(variables)
        self._services = _service_names(topology)
        self._processes = set(self._services)
        self._processes_anywhere = set(self._services)
        self._programs = loader.KnownPrograms(directory, requires.programs)
        self._programs.on_nodes(node.tree for node in topology.nodes if node.tree) if topology else None
        self._any_order = 0  # how many `repeat` and `parallel` are open
        self._scripts = call_steps.ScriptChecker(document, topology)
        self._unknown_counters = 0
        self._counters: Counters | None = None  # this machine's, once a step names one

    def read(self, data: list[Any], path: KeyPath) -> tuple[Step, ...]:
        """The steps of the list at `path`; those with mistakes are left out."""
        self._look_ahead(data)
        return self._list(data, path)

    # what the file makes anywhere

    def _look_ahead(self, data: Any) -> None:
        for step in _mappings(data):
            for key, body in step.items():
                self._notice(key, body)

    def _notice(self, key: str, body: Any) -> None:
        if isinstance(body, str):
            self._variables_anywhere.update(_SET_IN_CALLS.findall(body))
        if not isinstance(body, dict):
            return
        if key == "set":
            self._variables_anywhere.update(body)
        if key == "calls" and isinstance(body.get("do"), str):
            self._variables_anywhere.update(_SET_IN_CALLS.findall(body["do"]))
        save = body.get("save")
        if isinstance(save, dict):
            self._variables_anywhere.update(name for name in save.values() if isinstance(name, str))
        if key == "repeat" and isinstance(body.get("as"), str):
            self._variables_anywhere.add(body["as"])
        if key == "start":
            argv = body.get("run")
            words = [str(word) for word in argv] if isinstance(argv, list) else None
            shell = body.get("shell")
            name = body.get("name") or program_name(words, shell if isinstance(shell, str) else None)
            self._processes_anywhere.add(str(name))

    # steps

    def _list(self, data: list[Any], path: KeyPath) -> tuple[Step, ...]:
        steps = (self._step(step, (*path, index), index + 1) for index, step in enumerate(data))
        return tuple(step for step in steps if step is not None)

    def _step(self, data: Any, path: KeyPath, number: int) -> Step | None:
        if not isinstance(data, dict):
            kinds = "a step is a mapping with one kind: a host's name, or " + ", ".join(StepKind)
            self._misshapen(path, "not a step", kinds)
            return None
        title = self._beside_the_kind(STEP_NAME, data, path) or ""
        within_s = self._beside_the_kind(STEP_WITHIN, data, path)
        self._references(title, (*path, "name"))
        keys = [key for key in data if key not in _BESIDE_THE_KIND]
        known = [key for key in keys if self._kind_of(key, data[key]) is not None]
        for key in keys:
            if key not in known:
                self._unknown_key(path, key, data[key], _where_it_stands(key, known), in_schema=len(keys) > 1)
        if not keys:
            self._misshapen(path, "the step has no kind", "a host's name for calls, or one of: " + ", ".join(StepKind))
        if len(known) > 1:
            named = " and ".join(f"`{key}`" for key in known)
            problem = f"a step has exactly one kind, not {named}"
            inside = _where_it_stands(known[1], known[:1]) or _where_it_stands(known[0], known[1:2])
            self._misshapen((*path, known[1]), problem, f"make it two steps{inside and ', or '}{inside}", key=True)
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
        host = key.partition("/")[0]
        if host in self._places or (self._topology is None and isinstance(body, str) and not _near_a_kind(key)):
            return StepKind.CALLS
        return None

    def _unknown_key(self, path: KeyPath, key: str, body: Any, where: str, *, in_schema: bool) -> None:
        host = key.partition("/")[0]
        if isinstance(body, str) and self._topology is not None and not _near_a_kind(key):
            problem, hint = f"there is no host `{host}`", suggestion(host, self._places)
        else:
            problem, hint = f"unknown kind of step `{key}`", suggestion(key, self._step_keys)
        if where:
            problem, hint = f"`{key}` does not stand beside the kind of a step", where
        in_schema = in_schema or not isinstance(body, str)
        self.diagnostics.append(self._document.diagnostic((*path, key), problem, hint, key=True, in_schema=in_schema))

    def _one_kind(
        self, key: str, data: Any, path: KeyPath, number: int, title: str, within_s: float | None
    ) -> Step | None:
        kind = self._kind_of(key, data)
        assert kind is not None
        branches: tuple[tuple[Step, ...], ...] = ()
        script: Any = None
        body: Any = None
        position = self._document.position(path, key=True)
        if kind is StepKind.PARALLEL:
            branches = self._parallel(data, path)
        elif kind is StepKind.SET:
            self._set(data, path)
        else:
            before = len(self.diagnostics)
            data = self._long_form(kind, key, data)
            body = self._body(kind, data, path)
            if kind is not StepKind.CALLS:  # whose checker knows them itself
                self._references(_own(kind, data), path)
            if body is None:
                return None
            if kind is StepKind.REPEAT:
                branches = (self._repeat(body, path),)
            if kind is StepKind.CALLS:
                script = self._calls(body, _text_path(key, path))
            else:
                self._check(kind, body, path)
            if len(self.diagnostics) > before and kind is not StepKind.REPEAT:
                return None
        try:
            title = title or title_of(kind, body, data)
        except (AttributeError, TypeError):
            return None  # the body is not of the kind's shape, which has been told
        text = self._document.position_in_text(_text_path(key, path), 0, 0) if script else None
        return Step(
            kind=kind,
            number=number,
            title=title,
            host=getattr(body, "on", None),
            within_s=within_s,
            file=self._document.file,
            line=position.line,
            body=body,
            data=data,
            templated=kind is not StepKind.PARALLEL and has_references(_own(kind, data)),
            branches=branches,
            script=script,
            text_line=text.line if text else 0,
            text_column=text.column if text else 0,
        )

    def _long_form(self, kind: StepKind, key: str, data: Any) -> Any:
        if kind is StepKind.CALLS and key != "calls":
            host, _, process = key.partition("/")
            return {"on": host, "process": process, "do": data}
        if kind in SHORTHAND and isinstance(data, str):
            return {SHORTHAND[kind]: data}
        return data

    def _body(self, kind: StepKind, data: Any, path: KeyPath) -> Any:
        if not isinstance(data, dict):
            form = f"`{kind}` takes a mapping: {', '.join(BODIES[kind].KEYS)}"
            self._misshapen(path, f"expected a mapping, got {describe(data)}", form)
            return None
        if kind is StepKind.CALLS and "do" in data and not isinstance(data["do"], str):
            problem = f"expected the text of the calls, got {describe(data['do'])}"
            self._misshapen((*path, "do"), problem, "write it as a block: `|`")
            return None
        reading = Reading()
        try:
            body = BODIES[kind].read(data, reading, path)
        except Unusable:
            body = None  # why is among the problems
        self.diagnostics += map(self._document.problem, reading.problems)
        return body

    # containers

    def _parallel(self, data: Any, path: KeyPath) -> tuple[tuple[Step, ...], ...]:
        if not isinstance(data, list) or not data:
            self._misshapen(path, "`parallel` takes a list of branches", "a branch is a list of steps, or one step")
            return ()
        self._any_order += 1
        branches = []
        for index, branch in enumerate(data):
            inner = (*path, index)
            if isinstance(branch, list):
                if not branch:
                    self._misshapen(inner, "the branch has no steps")
                branches.append(self._list(branch, inner))
            else:
                step = self._step(branch, inner, 1)
                branches.append((step,) if step is not None else ())
        self._any_order -= 1
        return tuple(branches)

    def _repeat(self, body: Any, path: KeyPath) -> tuple[Step, ...]:
        if body.as_:
            self._new_variable(body.as_, (*path, "as"))
        self._any_order += 1
        steps = self._list(body.steps, (*path, "steps"))
        self._any_order -= 1
        return steps

    def _set(self, data: Any, path: KeyPath) -> None:
        if not isinstance(data, dict) or not data:
            self._misshapen(path, "`set` takes variables and their values", "set: {name: value}")
            return
        self._references(data, path)
        for name, value in data.items():
            self._new_variable(name, (*path, name), key=True)
            if isinstance(value, dict | list) or value is None:
                self._misshapen((*path, name), f"a variable is a text or a number, not {describe(value)}")

    # one kind at a time

    def _calls(self, body: Any, path: KeyPath) -> Any:
        if not self._host(body.on, path if path[-1] != "do" else (*path[:-1], "on")):
            return None
        known = self._variables_anywhere if self._any_order else self._variables
        script, diagnostics = self._scripts.check(body, path, known)
        self.diagnostics += diagnostics
        self._variables.update(_SET_IN_CALLS.findall(body.do))
        self._processes.add(f"{body.on}/{body.process}" if body.process else body.on)
        return script

    def _check(self, kind: StepKind, body: Any, path: KeyPath) -> None:
        on = getattr(body, "on", None)
        if on is not None:
            self._host(on, (*path, "on"))
        match kind:
            case StepKind.RUN | StepKind.START:
                self._program(kind, body, path)
            case StepKind.STOP | StepKind.PAUSE | StepKind.RESUME | StepKind.WAIT:
                self._process(body.process, (*path, "process"))
                self._saves(getattr(body, "save", None), path)
            case StepKind.SIGNAL:
                self._signalled(body.process, (*path, "process"))
            case StepKind.EXPECT:
                self._expect(body, path)
            case StepKind.LINK:
                self._link(body, path)
            case StepKind.UNDROP:
                self._filtering(body.on, (*path, "on"))
            case StepKind.DROP:
                self._filtering(body.on, (*path, "on"))
                for field, end in (("from", body.from_), ("to", body.to)):
                    self._node_or_address(end, (*path, field))
                    if end is not None and "%" in end and not is_template(end):
                        self._wrong(
                            (*path, field), f"`{end}`: a packet has no interface in its addresses", "leave out %"
                        )
                self._packets(body, path)
            case StepKind.FILE:
                self._file(body, path)
            case StepKind.BUILD:
                self._build(body, path)

    def _program(self, kind: StepKind, body: Any, path: KeyPath) -> None:
        if body.run and not is_template(body.run[0]) and not (body.cwd and is_template(body.cwd)):
            problem, hint = self._programs.missing(body.run[0], body.cwd)
            if problem:
                self._wrong((*path, "run", 0), problem, hint)
        if kind is StepKind.START:
            self._processes.add(body.name or program_name(body.run, body.shell))
            if body.ready is not None and body.ready.command and not is_template(body.ready.command[0]):
                problem, hint = self._programs.missing(body.ready.command[0], body.cwd)
                if problem:
                    self._wrong((*path, "ready", "command", 0), problem, hint)
        else:
            self._saves(body.save, path)

    def _saves(self, save: Any, path: KeyPath) -> None:
        for field in ("stdout", "stderr", "exit"):
            name = getattr(save, field, None)
            if name is not None:
                self._new_variable(name, (*path, "save", field))

    def _expect(self, body: Any, path: KeyPath) -> None:
        from labctl.scenario.file_schema import parse_listening

        for name in body.counters or ():
            self._counter(name, (*path, "counters", name))
        for field in ("running", "not_running"):
            if (name := getattr(body, field)) is not None:
                self._process(name, (*path, field))
        if body.output is not None:
            self._process(body.output.process, (*path, "output", "process"))
        for field in ("reachable", "unreachable"):
            if (reach := getattr(body, field)) is not None:
                self._node_or_address(reach.node, (*path, field, "node"))
        for field in ("listening", "not_listening"):
            if (where := getattr(body, field)) is not None and not is_template(where):
                self._node_or_address(parse_listening(where).address, (*path, field))
        if body.route is not None:
            self._node_or_address(body.route.via, (*path, "route", "via"))
        for field in ("local", "peer"):
            end = getattr(body.connection, field, None)
            if end is not None and not is_template(end):
                self._end(body.connection.protocol, end, (*path, "connection", field))
        if body.connection is not None and body.connection.state is not None:
            self._state(body.connection, (*path, "connection", "state"))
        if body.command and not is_template(body.command[0]) and not (body.cwd and is_template(body.cwd)):
            problem, hint = self._programs.missing(body.command[0], body.cwd)
            if problem:
                self._wrong((*path, "command", 0), problem, hint)
        self._saves(body.save, path)
        if body.that is not None:
            known = self._variables_anywhere if self._any_order else self._variables
            self.diagnostics += self._scripts.check_comparison(body.that, (*path, "that"), known)

    def _end(self, protocol: str, end: str, path: KeyPath) -> None:
        """One end of the sockets to look for: an end of another protocol's would match nothing."""
        from labctl.scenario.file_schema import Protocol, parse_endpoint

        host = parse_endpoint(end).host
        is_path = host is not None and host.startswith(("/", "@"))
        if is_path is not (protocol == Protocol.UNIX):
            form = "/tmp/x.sock or @name" if protocol == Protocol.UNIX else "HOST:PORT"
            self._wrong(path, f"`{end}` is no end of a socket of `protocol: {protocol}`", f"write {form}")
        else:
            self._node_or_address(host, path)

    def _state(self, connection: Any, path: KeyPath) -> None:
        from labctl.scenario.file_schema import Protocol, TcpState, parse_state

        if is_template(connection.state) or connection.protocol == Protocol.TCP:
            return
        has = [TcpState.ESTABLISHED, TcpState.CLOSE]
        if connection.protocol == Protocol.UNIX:
            has.append(TcpState.LISTEN)
        if parse_state(connection.state) not in has:
            names = {TcpState.ESTABLISHED: "ESTAB", TcpState.CLOSE: "UNCONN", TcpState.LISTEN: "LISTEN"}
            allowed = ", ".join(names[state] for state in has)
            problem = f"a socket of `protocol: {connection.protocol}` is never {connection.state}"
            self._wrong(path, problem, f"allowed: {allowed}")

    def _counter(self, name: str, path: KeyPath) -> None:
        """Other kernels have other counters: names are judged by this one's, unless it is not to run the scenario."""
        from labctl.observe.network import UnknownCounter, counters_here
        from labctl.scenario.loader import unmet

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

    def _link(self, body: Any, path: KeyPath) -> None:
        verb, ends = body.verb, body.ends
        if not ends or self._topology is None or any(is_template(end) for end in ends):
            return
        if body.from_ is not None and not is_template(body.from_) and body.from_ not in ends:
            self._wrong((*path, "from"), f"`{body.from_}` is no end of that link", suggestion(body.from_, ends))
        names = [node.name for node in self._topology.nodes]
        unknown = [(index, end) for index, end in enumerate(ends) if end not in names]
        for index, end in unknown:
            self._wrong((*path, verb, index), f"there is no node or network `{end}`", suggestion(end, names))
        if unknown:
            return
        there = links_between(self._topology.links, *ends)
        if not there:
            neighbours = sorted({n for link in self._topology.links for n in (link.a.node, link.b.node)
                                 if ends[0] in (link.a.node, link.b.node)} - {ends[0]})  # fmt: skip
            hint = f"{ends[0]} is linked to: {', '.join(neighbours)}" if neighbours else f"{ends[0]} has no links"
            self._wrong((*path, verb), f"there is no link between {ends[0]} and {ends[1]}", hint)
        elif body.which is None and len(there) > 1:
            problem = f"there are {len(there)} links between {ends[0]} and {ends[1]}"
            self._wrong((*path, verb), problem, f"say which, in file order: `which: 1` to `which: {len(there)}`")
        elif isinstance(body.which, int) and body.which > len(there):
            self._wrong((*path, "which"), f"there are only {len(there)} links between {ends[0]} and {ends[1]}")

    def _packets(self, body: Any, path: KeyPath) -> None:
        from labctl.plan.drop_rules import parse_flags

        if body.flags is not None and not is_template(body.flags):
            try:
                parse_flags(body.flags)
            except ValueError as error:
                self._wrong((*path, "flags"), str(error))

    def _file(self, body: Any, path: KeyPath) -> None:
        if not is_template(body.path):
            resolved = str(Path(body.path))
            on = self._topology is not None and body.on in self._topology and self._topology.node(body.on)
            tree = on.tree if on else FileTree()
            if not (tree.owns(resolved) or (not on and not is_template(body.on))) or ".." in Path(body.path).parts:
                own = ", ".join((*OWN_DIRECTORIES, *tree.private))
                hint = f"the host's own are {own}, and what `files` and `private` of the topology give it"
                self._wrong((*path, "path"), f"cannot place a file at {body.path}, which is the machine's", hint)
            elif resolved.startswith("/run/lab/"):
                self._wrong(
                    (*path, "path"), "/run/lab is the lab's own directory", "place it elsewhere in /run or /tmp"
                )
            elif Path(resolved).is_relative_to(self._directory):
                self._wrong((*path, "path"), "that is the scenario's own directory on the machine", "use another one")
            self._programs.placed(body.path)
        if body.source is not None:
            self._exists(body.source, (*path, "source"))

    def _build(self, body: Any, path: KeyPath) -> None:
        for index, source in enumerate(body.source):
            self._exists(source, (*path, "source", index))
        if not is_template(body.program):
            if "/" in body.program or body.program in ("", ".", ".."):
                self._wrong((*path, "as"), f"`{body.program}` is not a program's name: no `/` in it")
            self._programs.built(body.program)
        problem, hint = self._programs.missing("cc", None)
        if problem:
            self._wrong(path, problem, hint, key=True)

    # names

    def _host(self, name: str, path: KeyPath) -> bool:
        if self._topology is None or is_template(name) or name in self._places:
            return True
        self._wrong(path, f"there is no host `{name}`", suggestion(name, self._places))
        return False

    def _filtering(self, name: str, path: KeyPath) -> None:
        """A switch passes frames on below its packet filter, so that a drop there would do nothing."""
        if self._topology is not None and name in self._places and name not in self._with_addresses:
            hint = "drop them on a host or router, or take a link down"
            self._wrong(path, f"`{name}` is a switch: it passes packets on without looking at them", hint)

    def _node_or_address(self, name: str | None, path: KeyPath) -> None:
        from labctl.scenario.file_schema import parse_address

        if name is None or is_template(name) or name.startswith(("/", "@")) or parse_address(name) is not None:
            return
        if self._topology is not None and name not in self._with_addresses:
            self._wrong(path, f"`{name}` is neither an address nor a host", suggestion(name, self._with_addresses))

    def _process(self, name: str, path: KeyPath) -> None:
        known = self._processes_anywhere | self._processes if self._any_order else self._processes
        if is_template(name) or name in known or any(is_template(other) for other in known):
            return
        if name in self._processes_anywhere:
            self._wrong(path, f"`{name}` is started only later in the file", "move this step below its `start`")
            return
        several = [service for service in self._services if service.endswith(f"/{name}")]
        if several:
            self._wrong(path, f"several nodes have a service `{name}`", f"say which: {', '.join(several)}")
            return
        what = "a background program, and no node has a service," if self._services else "a background program"
        self._wrong(path, f"no step starts {what} called `{name}`", partial(self._process_hint, name))

    def _process_hint(self, name: str) -> str:
        started = sorted(other for other in self._processes_anywhere if not is_template(other))
        return suggest(name, started) if started else "no step starts a background program: add a `start` step"

    def _signalled(self, name: str, path: KeyPath) -> None:
        host, slash, _ = name.partition("/")
        if (slash or host in self._places) and name not in self._processes_anywhere:
            if not is_template(name):
                self._host(host, path)
        else:
            self._process(name, path)

    def _new_variable(self, name: str, path: KeyPath, *, key: bool = False) -> None:
        if not is_name(name):
            rule = "letters, digits and `_`, not starting with a digit"
            self._wrong(path, f"`{name}` is not a variable's name", rule, key=key)
        self._variables.add(name)

    def _references(self, data: Any, path: KeyPath) -> None:
        known = self._variables_anywhere if self._any_order else self._variables
        told: set[tuple[KeyPath, str]] = set()
        for inner, name, offset in references_within(data):
            if name in known or (inner, name) in told:
                continue
            told.add((inner, name))
            if len(told) > SHOWN_LIMIT:
                break
            place = (*path, *inner)
            text = _at(data, inner)
            written = self._document.tree(place).data
            if isinstance(written, str) and written != text:  # addresses stand there for `${h2.ipv4}` and the like
                text = written
                offset = next((there for found, there in references(written) if found == name), 0)
            line = text.count("\n", 0, offset)
            column = offset - (text.rfind("\n", 0, offset) + 1)
            position = self._document.position_in_text(place, line, column)
            later = name in self._variables_anywhere
            problem = f"`{name}` is set only later in the file" if later else f"there is no variable `{name}`"
            hint = "" if later else partial(self._variable_hint, name)
            self.diagnostics.append(self._document.diagnostic_at(position, problem, hint))

    def _variable_hint(self, name: str) -> str:
        return suggest(name, sorted(self._variables_anywhere)) or "a literal `${` is written `$${`"

    def _exists(self, name: str, path: KeyPath) -> None:
        if not is_template(name) and not os.path.isfile(self._directory / name):  # False too for what cannot be a path
            self._wrong(path, f"there is no file {name}", partial(self._file_hint, name))

    def _file_hint(self, name: str) -> str:
        beside = sorted(entry.name for entry in self._directory.iterdir() if entry.is_file())
        return suggest(name, beside, near_only=True) or "paths are relative to the scenario's directory"

    def _wrong(self, path: KeyPath, message: str, hint: Hint = "", *, key: bool = False) -> None:
        self.diagnostics.append(self._document.diagnostic(path, message, hint, key=key))

    def _misshapen(self, path: KeyPath, message: str, hint: Hint = "", *, key: bool = False) -> None:
        """A mistake that the JSON Schema knows, too."""
        self.diagnostics.append(self._document.diagnostic(path, message, hint, key=key, in_schema=True))


def _service_names(topology: Topology | None) -> tuple[str, ...]:
    """What steps call the services: NODE/SERVICE, and SERVICE where only one node has one of that name."""
    services = [(node.name, service.name) for node in topology.nodes for service in node.services] if topology else []
    counts = Counter(name for _, name in services)
    return (*(f"{node}/{name}" for node, name in services), *(name for name, count in counts.items() if count == 1))


def _mappings(data: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in nested data that may be a step, and those inside it."""
    stack = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(part for part in value.values() if isinstance(part, dict | list))
        elif isinstance(value, list):
            stack.extend(value)


def _own(kind: StepKind, data: Any) -> Any:
    """The step's data without the steps inside it."""
    if kind is StepKind.REPEAT and isinstance(data, dict):
        return {name: value for name, value in data.items() if name != "steps"}
    return data


def _text_path(key: str, path: KeyPath) -> KeyPath:
    """Where the text of a calls step stands, in its short or its long form."""
    return path if key != "calls" else (*path, "do")


def _at(data: Any, path: KeyPath) -> str:
    """The text at that path."""
    for element in path:
        data = data[element]
    return str(data)


def _where_it_stands(key: str, kinds: Iterable[str]) -> str:
    """How a key is written into the mapping of one of these kinds of steps, which takes it; "" when none does."""
    takers = (kind for kind in kinds if kind in list(StepKind) and StepKind(kind) in BODIES)
    taker = next((kind for kind in takers if key in BODIES[StepKind(kind)].KEYS), "")
    return taker and f"write `{taker}: {{..., {key}: ...}}`"


def _near_a_kind(word: str) -> bool:
    import difflib

    return "/" not in word and bool(difflib.get_close_matches(word, list(StepKind), n=1, cutoff=0.7))
