"""A scenario file to a checked `Scenario`, or every mistake in it at once. Nothing is built, no privilege is needed.

Whether a YAML file is a scenario or a topology, told at a glance: of a folder's many files few need be parsed.

What a scenario may require of the machine, each with a probe that asks the machine itself.

A probe returns the reason why the feature is not there, or "".

Whether a program that a step runs will be there: looked up on this machine before anything is built.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from labctl.scenario.model import Requirements, Scenario
from labctl.topology.model import OWN_DIRECTORIES, FileTree, entries_of, lies_in
from labctl.unpatched import Socket

if TYPE_CHECKING:
    from labctl.documents.diagnostics import Diagnostic
    from labctl.documents.yaml_tree import Document, KeyPath
    from labctl.scenario.file_schema import ScenarioFile
    from labctl.topology.model import Topology


_STEPS = re.compile(rb"^(?:steps|\"steps\"|'steps')[ \t]*:", re.MULTILINE)
_HOSTS = re.compile(rb"^(?:hosts|\"hosts\"|'hosts')[ \t]*:", re.MULTILINE)


def has_steps(content: bytes) -> bool:
    """Whether its top level has the key `steps`, as a scenario has. An oddly written one may be taken for none."""
    return _STEPS.search(content) is not None


def has_hosts(content: bytes) -> bool:
    """Whether its top level has the key `hosts`, as a topology has. An oddly written one may be taken for none."""
    return _HOSTS.search(content) is not None


def _ipv6() -> str:
    # Absent when the kernel was built without IPv6 or booted with ipv6.disable=1.
    return "" if Path("/proc/sys/net/ipv6").is_dir() else "the kernel has no IPv6 (/proc/sys/net/ipv6 is not there)"


def _netfilter_netlink() -> str:
    # The socket itself is the probe: EPROTONOSUPPORT when nfnetlink is neither built in nor to be loaded.
    import socket

    try:
        Socket(socket.AF_NETLINK, socket.SOCK_RAW, 12).close()  # NETLINK_NETFILTER, linux/netlink.h
    except OSError as error:
        return f"the kernel has no nftables (a netfilter netlink socket gives: {error.strerror})"
    return ""


def _reuseport() -> str:
    import socket

    return "" if hasattr(socket, "SO_REUSEPORT") else "SO_REUSEPORT is not there"


def _unprivileged() -> str:
    limit = Path("/proc/sys/user/max_user_namespaces")
    try:
        allowed = int(limit.read_text())
    except (OSError, ValueError):
        return "the kernel has no user namespaces"
    return "" if allowed > 0 else f"{limit} is 0"


def _mptcp() -> str:
    return "" if Path("/proc/sys/net/mptcp/enabled").exists() else "the kernel has no MPTCP (/proc/sys/net/mptcp)"


def _sctp() -> str:
    import socket

    try:
        Socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()  # IPPROTO_SCTP
    except OSError as error:
        return f"the kernel has no SCTP ({error.strerror})"
    return ""


def _core_sysctls() -> str:
    # Before Linux 6.3 a network namespace that belongs to a user namespace has an empty /proc/sys/net/core.
    import subprocess

    namespaces = ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]
    probe = ["unshare", *namespaces, "test", "-e", "/proc/sys/net/core/somaxconn"]
    try:
        there = subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError as error:
        return f"cannot look for net.core.somaxconn in a new network namespace: unshare: {error.strerror}"
    return "" if there else "a lab's hosts have no net.core sysctls (without root they need Linux 6.3)"


def _netem() -> str:
    from labctl.observe.machine import without_qdisc

    return without_qdisc("netem")


def _tbf() -> str:
    from labctl.observe.machine import without_qdisc

    return without_qdisc("tbf")


def _root() -> str:
    return "" if os.geteuid() == 0 else "not run as root"


FEATURES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "ipv6": _ipv6,
        "nftables": _netfilter_netlink,
        "reuseport": _reuseport,
        "user-namespaces": _unprivileged,
        "mptcp": _mptcp,
        "sctp": _sctp,
        "core-sysctls": _core_sysctls,
        "netem": _netem,
        "tbf": _tbf,
        "root": _root,
    }
)


def unmet(requires: Requirements) -> str:
    """Why a scenario with these requirements cannot run here (all reasons), or ""."""
    reasons = [f"the program `{name}` is not installed" for name in requires.programs if not shutil.which(name)]
    if requires.root and (reason := _root()):
        reasons.append(f"needs root: {reason}")
    for name in requires.features:
        if name not in FEATURES:
            continue  # a mistake of the file, which is reported by itself
        reason = FEATURES[name]()
        if reason:
            reasons.append(f"needs {name}: {reason}")
    return "; ".join(reasons)


class KnownPrograms:
    """What can be run, as far as it is known when the file is read: the machine's programs and what steps add.

    A program that `requires.programs` names is never missing: without it the scenario is skipped.
    """

    def __init__(self, directory: Path, required: Iterable[str]) -> None:
        self._directory = directory
        self._names = set(required)
        self._placed: set[str] = set()
        self._bound = False  # some node has binds: what is in them shows when it is run

    def built(self, name: str) -> None:
        self._names.add(name)

    def placed(self, path: str) -> None:
        self._placed.add(path)

    def on_nodes(self, trees: Iterable[FileTree]) -> None:
        """Take what the topology places on nodes for programs, too."""
        for tree in trees:
            self._bound = self._bound or bool(tree.binds)
            for file in tree.files:
                for _, relative in entries_of(file.source) if file.source else [("", "")]:
                    path = os.path.normpath(os.path.join(file.path, relative))
                    self._placed.add(path)
                    self._names.add(os.path.basename(path))

    def missing(self, program: str, cwd: str | None) -> tuple[str, str]:
        """What is wrong with running `program`, and what to try, or ("", ""). No `cwd`: the scenario's directory."""
        if self._bound or program in self._names or program in self._placed or Path(program).name in self._names:
            return "", ""
        if "/" in program:
            path = Path(os.path.normpath(self._directory / (cwd or "") / program))
            own = any(lies_in(str(path), directory) for directory in OWN_DIRECTORIES)
            if own and not path.is_relative_to(self._directory):
                return "", ""  # a host's own directory: what is there shows when it is run
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return "", ""
            if os.path.isfile(path):
                return f"{program} is not executable", f"chmod +x {program}, or run it with its interpreter"
            return f"there is no program {program}", "paths are relative to the scenario's directory, or to its `cwd`"
        if located(program, self._directory) is not None:
            return "", ""
        hint = f"install it, `build` it in an earlier step, or skip without it: requires: {{programs: [{program}]}}"
        return f"the program `{program}` is not installed on this machine", hint


def located(program: str, directory: Path) -> str | None:
    """`program` as it is to be started: as it is when PATH has it, its path when it lies in `directory`, or None."""
    if "/" in program or shutil.which(program):
        return program
    beside = directory / program
    return str(beside) if os.path.isfile(beside) and os.access(beside, os.X_OK) else None


def load(path: str | Path, *, topology: str | Path | Topology | None = None, routes: bool = True) -> Scenario:
    """The scenario in the file at `path`, checked.

    `topology` replaces the file's own: a shape, a path relative to the working directory, or a resolved one (a running
    lab's). Without `routes`, the topology has no static routes (`topology.load`). Raises DocumentError with every
    mistake in the file and in the topology that it names; InputError when `topology` itself is wrong.
    """
    from labctl.documents import DocumentError, read

    scenario, diagnostics = checked(read(Path(path)), topology, routes=routes)
    if scenario is None:
        raise DocumentError(diagnostics)
    return scenario


def checked(
    document: Document, topology: str | Path | Topology | None = None, *, routes: bool = True
) -> tuple[Scenario | None, list[Diagnostic]]:
    """The scenario that the document has, or None and every mistake; `topology` replaces the document's own."""
    from labctl.documents.schema import Reading, Unusable
    from labctl.scenario.file_schema import ScenarioFile
    from labctl.scenario.step_checker import StepReader

    path = Path(document.file)
    directory = path.resolve().parent
    reading = Reading(final=True)
    try:
        header = ScenarioFile.read(document.data, reading)
    except Unusable:
        header = None  # why is among the problems
    diagnostics = [document.problem(one) for one in reading.problems]
    data = document.data if isinstance(document.data, dict) else {}
    resolved, wrong = _topology(document, data, path.parent, topology, routes)
    diagnostics += wrong
    data = _with_addresses(document, data, resolved, diagnostics)
    requires = _requirements(document, header, diagnostics)
    reader = StepReader(document, resolved, directory, requires, _variables(document, header, diagnostics))
    raw_steps = data.get("steps")
    steps = reader.read(raw_steps, ("steps",)) if isinstance(raw_steps, list) else ()
    diagnostics += reader.diagnostics
    if diagnostics:
        return None, diagnostics
    assert header is not None  # or there would be a diagnostic
    assert resolved is not None  # the same
    scenario = Scenario(
        name=header.name or path.stem,
        file=document.file,
        directory=directory,
        about=" ".join(header.about.split()),
        topology=resolved,
        requires=requires,
        within_s=header.within,
        timeout_s=header.timeout,
        steps=steps,
        variables=tuple((name, data["variables"][name]) for name in header.variables),
        topology_line=document.position(("topology",), key=True).line if "topology" in data else 1,
    )
    return scenario, []


def _with_addresses(
    document: Document, data: dict[str, Any], topology: Topology | None, diagnostics: list[Diagnostic]
) -> dict[str, Any]:
    """The file's data with `${h2.ipv4}` and the like replaced in its steps and variables; wrong ones are noted."""
    if "${" not in document.text:
        return data
    from labctl.documents.diagnostics import LOOKED_AT_LIMIT, Mistake
    from labctl.topology.address_variables import AddressVariables, may_have_references

    if not may_have_references(document.text):
        return data

    def wrong(path: KeyPath, text: str, offset: int, mistake: Mistake) -> None:
        if len(diagnostics) > LOOKED_AT_LIMIT:
            return
        line = text.count("\n", 0, offset)
        position = document.position_in_text(path, line, offset - (text.rfind("\n", 0, offset) + 1))
        diagnostics.append(document.diagnostic_at(position, str(mistake), mistake.what_to_try))

    addresses = AddressVariables(topology)
    parts: dict[str, Any] = {
        key: addresses.put_into(data[key], wrong, (key,)) for key in ("variables", "steps") if key in data
    }
    return {**data, **parts}


def _topology(
    document: Document, data: dict[str, Any], directory: Path, override: str | Path | Topology | None, routes: bool
) -> tuple[Topology | None, list[Diagnostic]]:
    from labctl import topology
    from labctl.documents import DocumentError
    from labctl.errors import InputError

    if override is not None:
        return topology.load(override, routes=routes) if isinstance(override, str | Path) else override, []
    if "topology" not in data:
        return None, []  # the missing key is told with the header
    wanted = data["topology"]
    if isinstance(wanted, dict):
        return topology.resolve_inline(document, ("topology",), directory, routes=routes)
    if not isinstance(wanted, str):
        problem = "a topology is a shape (pair, star:3), a path relative to this file, or a mapping"
        return None, [document.diagnostic(("topology",), problem, in_schema=True)]
    try:
        return topology.load(wanted, base=directory, routes=routes), []
    except DocumentError as error:
        # Its own file's mistakes stand for themselves; one without a place is about the name given here.
        return None, [
            document.diagnostic(("topology",), one.message, one.hint)
            if one.position is None
            else dataclasses.replace(one, in_schema=False)
            for one in error.diagnostics
        ]
    except InputError as error:
        return None, [document.diagnostic(("topology",), str(error))]


def _requirements(document: Document, header: ScenarioFile | None, diagnostics: list[Diagnostic]) -> Requirements:
    from labctl.documents.diagnostics import suggestion

    if header is None:
        return Requirements()
    for position, name in enumerate(header.requires.features):
        if name not in FEATURES:
            path = ("requires", "features", position)
            diagnostics.append(document.diagnostic(path, f"unknown feature `{name}`", suggestion(name, FEATURES)))
    return Requirements(tuple(header.requires.programs), tuple(header.requires.features), header.requires.root)


def _variables(document: Document, header: ScenarioFile | None, diagnostics: list[Diagnostic]) -> set[str]:
    from labctl.scenario.variables import is_name

    names = set(header.variables) if header is not None else set()
    for name in sorted(names):
        if not is_name(name):
            problem = f"`{name}` is not a variable's name: letters, digits and `_`, not starting with a digit"
            diagnostics.append(document.diagnostic(("variables", name), problem, key=True))
    return names
