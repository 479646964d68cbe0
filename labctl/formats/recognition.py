"""Recognise the format of a file by its content: formats that labctl reads, and others that it can only name."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Any

from labctl.errors import InputError

_BEGINNING_BYTES = 1 << 18
_GML = r"(?i)\A\s*(?:(?:#|Creator|Version|comment)[^\n]*\n\s*)*graph\s*\["
_KATHARA_LINE = r"(?m)^[\w.-]+\[(?:\d+|image|mem|cpus|bridged|port|sysctl|exec)\]\s*="
_KATHARA_NAMES = ("lab.conf", "lab.ext")


class Format(Enum):
    """A format of another tool; the value is what its files are called in messages."""

    GRAPHML = "a GraphML graph"
    GML = "a GML graph"
    CONTAINERLAB = "a containerlab file"
    KATHARA = "a Kathara lab"
    MININET = "a Mininet program"
    MINIEDIT = "a MiniEdit file"
    NETLAB = "a netlab file"
    COMPOSE = "a Docker Compose file"
    # Not read.
    CORE = "a CORE file"
    GNS3 = "a GNS3 project"
    KUBERNETES = "a Kubernetes manifest"
    NETPLAN = "a netplan file"
    VAGRANT = "a Vagrantfile"

    @property
    def is_read(self) -> bool:
        """Whether labctl makes a topology of it."""
        return self not in _NOT_READ


_NETLAB = frozenset({"module", "provider", "plugin", "fabric", "validate", "defaults", "defaults.device", "components"})
_NOT_READ = frozenset({Format.CORE, Format.GNS3, Format.KUBERNETES, Format.NETPLAN, Format.VAGRANT})


def recognise(path: Path) -> Format | None:
    """Return the format of another tool's file or directory; None for all others. Opens regular files only."""
    if path.is_dir():
        return Format.KATHARA if (path / "lab.conf").is_file() else None
    text = _beginning(path)
    if text is None:
        return None
    if path.name in _KATHARA_NAMES or (path.suffix == ".conf" and re.search(_KATHARA_LINE, text)):
        return Format.KATHARA
    if path.suffix == ".py":
        is_mininet = re.search(r"^\s*(?:from|import) mininet\b|^topos\s*=", text, re.MULTILINE)
        return Format.MININET if is_mininet else None
    if path.name == "Vagrantfile" and "Vagrant.configure" in text:
        return Format.VAGRANT
    start = text.lstrip("\ufeff \t\r\n")[:200]
    if start.startswith("<") and re.search(r"<(?:\w+:)?graphml\b", text):
        return Format.GRAPHML
    if (path.suffix == ".imn" and re.match(r"node \w+ \{", start)) or (start.startswith("<") and "<scenario" in text):
        return Format.CORE
    if re.match(_GML, text):
        return Format.GML
    if re.search(r"(?m)^topology:", text) and (template := re.search(r"(?m)^.*\{\{", text)):
        line = text.count("\n", 0, template.end()) + 1
        raise InputError(
            f"{path}:{line}: the containerlab file is a Go template (`{{{{`), which only containerlab fills in. "
            "Write its values into a copy, or use `parameters` and `for` of a topology file."
        )
    return by_keys(_data(path)) if len(text) < _BEGINNING_BYTES else None


def by_keys(data: Any) -> Format | None:
    """Return the format of YAML or JSON data by its keys; None if no other tool has such files."""
    if not isinstance(data, dict) or ("hosts" in data and not {"switches", "application"} <= data.keys()):
        return None
    topology, services, nodes = (data.get(key) for key in ("topology", "services", "nodes"))
    if isinstance(topology, dict) and isinstance(topology.get("nodes"), list) and {"version", "type"} & data.keys():
        return Format.GNS3
    if {"apiVersion", "kind"} <= data.keys():
        return Format.KUBERNETES
    if isinstance(network := data.get("network"), dict) and {"version", "ethernets", "bridges"} & network.keys():
        return Format.NETPLAN
    if isinstance(topology, dict) and "nodes" in topology:
        return Format.CONTAINERLAB
    if {"hosts", "links", "switches", "application"} <= data.keys():
        return Format.MINIEDIT
    if isinstance(services, dict) and any(
        isinstance(each, dict) and each.keys() & {"image", "build"} for each in services.values()
    ):
        return Format.COMPOSE
    if "steps" in data:
        return None
    groups = data.get("groups")
    if isinstance(groups, dict) and any(
        key == "_auto_create" or isinstance(each, dict) for key, each in groups.items()
    ):
        return Format.NETLAB
    if data.keys() & {"links", "vlans", "vrfs"} and data.keys() & _NETLAB:
        return Format.NETLAB
    return Format.NETLAB if nodes and isinstance(nodes, dict | list | str) else None


def _data(path: Path) -> Any:
    from labctl import documents
    from labctl.documents.yaml_tree import read_bytes

    try:
        return documents.parse(read_bytes(path).decode("utf-8-sig"), str(path)).data
    except (InputError, OSError, ValueError):
        return None


def _beginning(path: Path) -> str | None:
    """Return the beginning of a regular file; None for other files."""
    from labctl.documents.yaml_tree import read_bytes

    try:
        return read_bytes(path, _BEGINNING_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
