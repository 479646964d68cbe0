"""Files given to a command by mistake: another tool's, or of the other kind. One sentence answers each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from labctl.cli.find import Kind, kind_of
from labctl.documents.document import read_bytes
from labctl.errors import InputError

_GLANCE_BYTES = 1 << 18
_GML = re.compile(r"\A\s*(?:(?:#|Creator|Version|comment)[^\n]*\n\s*)*graph\s*\[", re.IGNORECASE)
_KATHARA_LINE = re.compile(r"^[\w.-]+\[(?:\d+|image|mem|cpus|bridged|port|sysctl|exec)\]\s*=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Another tool's file: the tool, and the page that shows how to write the same for labctl."""

    what: str
    page: str


_CONTAINERLAB = Foreign("a containerlab file", "docs/how-to/from-containerlab.md")
_KATHARA = Foreign("a Kathara lab", "docs/how-to/from-kathara.md")
_MININET = Foreign("a Mininet program", "docs/how-to/from-mininet.md")
_MINIEDIT = Foreign("a MiniEdit file", "docs/how-to/from-mininet.md")
_COMPOSE = Foreign("a Docker Compose file", "docs/topology-files.md")
_NETLAB = Foreign("a netlab file", "docs/topology-files.md")
_GNS3 = Foreign("a GNS3 project", "docs/topology-files.md")
_CORE = Foreign("a CORE file", "docs/topology-files.md")
_KUBERNETES = Foreign("a Kubernetes manifest", "docs/topology-files.md")
_NETPLAN = Foreign("a netplan file", "docs/topology-files.md")
_VAGRANT = Foreign("a Vagrantfile", "docs/topology-files.md")
_GRAPH = Foreign("a graph (GraphML or GML)", "docs/topology-files.md")


def answered(path: str | Path, wanted: Kind, error: InputError) -> InputError:
    """The error in one sentence where the file is another tool's or of the other kind; else `error` itself."""
    path = Path(path)
    if foreign := recognise(path):
        return InputError(
            f"{path}: cannot read it: it is {foreign.what}. {foreign.page} shows the same for labctl. "
            "An example: labctl examples office"
        )
    if path.is_dir():
        topology = _topology_in(path) if wanted is Kind.TOPOLOGY else None
        return InputError(f"{error}. A topology in it: {quote(str(topology))}") if topology else error
    try:
        kind = kind_of(path)
    except InputError:
        return error  # the file cannot be read at all, which `error` reports
    if wanted is Kind.SCENARIO and kind is Kind.TOPOLOGY:
        return InputError(
            f"{path}: is a topology, not a scenario. To see what it would make: labctl plan {quote(str(path))}. "
            f"A scenario names the topology that it runs on: `topology: {path}`."
        )
    if wanted is Kind.TOPOLOGY and kind is Kind.SCENARIO:
        return InputError(
            f"{path}: is a scenario, not a topology. Try: labctl run {quote(str(path))}{_its_topology(path)}"
        )
    return error


def nothing_in(words: Sequence[str], what: str) -> InputError:
    """The error for directories without a file of ours: one that is another tool's lab is told as such."""
    error = InputError(f"{' '.join(words)}: {what}")
    return next((answered(word, Kind.NEITHER, error) for word in words if recognise(Path(word))), error)


def recognise(path: Path) -> Foreign | None:
    """Which other tool's file this is; None for labctl's own and for what is not known. Opens regular files only."""
    if path.is_dir():
        return _KATHARA if (path / "lab.conf").is_file() else None
    text = _glance(path)
    if text is None:
        return None
    if path.name == "lab.conf" or (path.suffix == ".conf" and _KATHARA_LINE.search(text)):
        return _KATHARA
    if path.suffix == ".py":
        return _MININET if re.search(r"^\s*(?:from|import) mininet\b|^topos\s*=", text, re.MULTILINE) else None
    if path.name == "Vagrantfile" and "Vagrant.configure" in text:
        return _VAGRANT
    start = text.lstrip()[:200]
    if start.startswith("<") and "<graphml" in text:
        return _GRAPH
    if (path.suffix == ".imn" and re.match(r"node \w+ \{", start)) or (start.startswith("<") and "<scenario" in text):
        return _CORE
    if _GML.match(text):
        return _GRAPH
    return _by_keys(_data(path)) if len(text) < _GLANCE_BYTES else None


def _by_keys(data: Any) -> Foreign | None:
    if not isinstance(data, dict) or ("hosts" in data and not {"switches", "application"} <= data.keys()):
        return None
    topology, services, nodes = (data.get(key) for key in ("topology", "services", "nodes"))
    if isinstance(topology, dict) and isinstance(topology.get("nodes"), list) and {"version", "type"} & data.keys():
        return _GNS3
    if {"apiVersion", "kind"} <= data.keys():
        return _KUBERNETES
    if isinstance(network := data.get("network"), dict) and {"version", "ethernets", "bridges"} & network.keys():
        return _NETPLAN
    if isinstance(topology, dict) and "nodes" in topology:
        return _CONTAINERLAB
    if {"hosts", "links", "switches", "application"} <= data.keys():
        return _MINIEDIT
    if isinstance(services, dict) and any(
        isinstance(each, dict) and each.keys() & {"image", "build"} for each in services.values()
    ):
        return _COMPOSE
    if nodes and "steps" not in data and ("links" in data or data.keys() & {"provider", "module", "defaults"}):
        return _NETLAB
    return None


def _topology_in(directory: Path) -> Path | None:
    """The first topology file in that directory."""
    with suppress(OSError):
        for path in sorted(directory.iterdir()):
            with suppress(InputError):
                if path.suffix in (".yaml", ".yml") and path.is_file() and kind_of(path) is Kind.TOPOLOGY:
                    return path
    return None


def _its_topology(path: Path) -> str:
    """How to make the network that the scenario in that file runs on, if it names one."""
    topology = (_data(path) or {}).get("topology")
    if not isinstance(topology, str):
        return ""
    beside = path.parent / topology
    return f". The network that it runs on: labctl up {quote(str(beside) if beside.is_file() else topology)}"


def _data(path: Path) -> Any:
    from labctl import documents

    try:
        return documents.parse(read_bytes(path).decode("utf-8-sig"), str(path)).data
    except (InputError, OSError, ValueError):
        return None


def _glance(path: Path) -> str | None:
    """The beginning of a regular file; None for anything else."""
    try:
        return read_bytes(path, _GLANCE_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
