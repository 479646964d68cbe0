"""The data of a topology file that needs no other file: one mapping for a file and those that it includes.

It has every key as the files have it, so that a new key needs nothing here, and absolute paths. A topology and a plan
keep it as JSON, for `resolved_file`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.documents import Document, KeyPath
    from labctl.topology.draft import Draft

Data = dict[str, Any]

_NODES = ("hosts", "routers", "switches")
_COMPOSED = ("include", "parameters", "for")  # that is written out


def merged(files: Sequence[tuple[KeyPath, Document]], name: str) -> Data:
    """Return one file's data for several: the last is the main one, whose settings apply where others have none."""
    parts = [_alone(document.tree(path).data, document) for path, document in files]
    main = parts[-1]
    if len(parts) > 1:
        parts = [*(_with_defaults(part, main) for part in parts[:-1]), main]
        # Members of networks come before links: in several files that order can only be kept as links.
        parts = [_members_as_links(part) for part in parts]
    data: Data = {"name": name}
    for part in parts:
        for key, value in part.items():
            known = data.get(key)
            if isinstance(known, dict) and isinstance(value, dict):
                data[key] = {**known, **value}
            elif isinstance(known, list) and isinstance(value, list):
                data[key] = [*known, *value]
            elif part is parts[-1] or isinstance(value, dict | list):
                data[key] = value
    return {**data, "name": name}


def _alone(data: Any, document: Document) -> Data:
    """Return a file's data without what is written out already, with absolute paths."""
    directory = document.directory
    found = {key: value for key, value in data.items() if key not in _COMPOSED and value is not None}
    for kind in _NODES:
        if isinstance(nodes := found.get(kind), dict):
            found[kind] = {name: _with_paths(node, directory) if node else {} for name, node in nodes.items()}
    return _with_profiles(found, directory) if "profile" in document.text else found


def _with_profiles(data: Any, directory: Path) -> Any:
    """Return data with absolute paths of the files of profiles, wherever an impairment may stand."""
    if isinstance(data, list):
        return [_with_profiles(each, directory) for each in data]
    if not isinstance(data, dict):
        return data
    found = {key: _with_profiles(value, directory) for key, value in data.items()}
    profile = found.get("profile")
    if isinstance(profile, str):
        found["profile"] = os.path.normpath(directory / profile)
    elif isinstance(profile, dict) and isinstance(profile.get("file"), str):
        found["profile"] = {**profile, "file": os.path.normpath(directory / profile["file"])}
    return found


def _with_paths(node: Data, directory: Path) -> Data:
    """Return a node's data with absolute paths, and with the working directory of each program."""

    def absolute(path: str) -> str:
        return os.path.normpath(directory / path)

    def program(written: Any) -> Data:
        given = written if isinstance(written, dict) else {"run" if isinstance(written, list) else "shell": written}
        config = given.get("config")
        if isinstance(config, str):
            given = {**given, "config": absolute(config)}
        elif isinstance(config, dict) and "source" in config:
            given = {**given, "config": {**config, "source": absolute(config["source"])}}
        return {**given, "cwd": absolute(given.get("cwd") or "")}

    def bind(written: Any) -> Any:
        if isinstance(written, str):
            return f"{absolute(written.partition(':')[0])}:{written.partition(':')[2]}"
        return {**written, "source": absolute(written["source"])}

    found = dict(node)
    if commands := found.get("exec"):
        found["exec"] = [program(each) for each in (commands if isinstance(commands, list) else [commands])]
    if services := found.get("services"):
        found["services"] = {name: program(each) for name, each in services.items()}
    if files := found.get("files"):
        found["files"] = {
            path: {**each, "source": absolute(each["source"])} if "source" in each else each
            for path, each in files.items()
        }
    if binds := found.get("binds"):
        found["binds"] = [bind(each) for each in binds]
    return found


def _with_defaults(part: Data, main: Data) -> Data:
    """Return an included file's data with its own defaults on each of its parts, unless the main file has the same."""
    found = {key: value for key, value in part.items() if key not in ("mtu", "routes", "routing", "dns")}
    mtu, dns = part.get("mtu", 1500), part.get("dns")
    if mtu != main.get("mtu", 1500):
        networks = found.get("networks", {})
        found["networks"] = {name: {"mtu": mtu, **(network or {})} for name, network in networks.items()}
        found["links"] = [{"mtu": mtu, **as_link(link)} for link in found.get("links", ())]
    is_other = _routing(part) != _routing(main)
    for kind in ("hosts", "routers") if is_other or dns else ():
        for name, node in found.get(kind, {}).items():
            routing = {"routing": _routing(part)} if is_other and not _routing(node, "") else {}
            servers = {"dns": dns} if dns and not node.get("dns") else {}
            found[kind] = {**found[kind], name: {**node, **routing, **servers}}
    return found


def _routing(data: Data, default: str = "automatic") -> str:
    """Return whether a file or a node has automatic routes: the value of `routing`, or of `routes` if it is no list."""
    routes = data.get("routes")
    return data.get("routing") or (routes if isinstance(routes, str) else None) or default


def _members_as_links(part: Data) -> Data:
    networks = part.get("networks", {})
    members = [
        {"ends": [member, name]} for name, network in networks.items() for member in (network or {}).get("members", ())
    ]
    bare = {
        name: {key: value for key, value in (network or {}).items() if key != "members"}
        for name, network in networks.items()
    }
    return {**part, "networks": bare, "links": [*members, *part.get("links", ())]}


def as_link(written: Any) -> Data:
    """Return a link's data as a mapping."""
    return {"ends": written} if isinstance(written, list) else written


def as_end(written: Any) -> Data:
    """Return an end's data as a mapping."""
    return {"node": written} if isinstance(written, str) else written


def of_shape(draft: Draft) -> Data:
    """Return the data of a draft that a shape made: names and links alone."""
    sections = {NodeKind.HOST: "hosts", NodeKind.ROUTER: "routers", NodeKind.SWITCH: "switches"}
    data: Data = {"name": draft.name}
    for node in draft.nodes:
        data.setdefault(sections[node.kind], {})[node.name] = {}
    return data | {"links": [[link.a.node, link.b.node] for link in draft.links]}
