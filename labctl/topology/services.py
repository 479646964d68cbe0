"""Services as texts of a file: what each is, and which has to be ready before which."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from labctl.documents.source import Hint, suggest, suggestion
from labctl.names import name_key, node_name_problem
from labctl.topology.address_variables import example_of, may_have_references
from labctl.topology.draft import DraftNode, Mistakes, Place
from labctl.topology.endpoints import parse_address, parse_listening
from labctl.topology.files import CommandFile, ProgramFile, ReadyFile, ServiceFile
from labctl.topology.service import COMMAND_WITHIN_S, READY_WITHIN_S, SHELL, Command, Readiness, Service


def services_of(models: Mapping[str, ServiceFile], place: Place, mistakes: Mistakes) -> tuple[Service, ...]:
    """The services at that place; what they come `after` is as it was written, for `ordered`."""
    found = (_service(name, model, place.at(name), mistakes) for name, model in models.items())
    return tuple(service for service in found if service is not None)


def ordered(
    nodes: dict[str, DraftNode], groups: Mapping[str, tuple[str, ...]], mistakes: Mistakes
) -> dict[str, DraftNode]:
    """The nodes (by `name_key`), `after` of their services as NODE/SERVICE; names that are not there, and cycles."""
    if not any(node.services for node in nodes.values()):
        return nodes
    told: set[Place] = set()
    result: dict[str, DraftNode] = {}
    for key, node in nodes.items():
        result[key] = replace(
            node, services=tuple(_resolved(service, node, nodes, groups, mistakes, told) for service in node.services)
        )
    _check_cycles(result.values(), mistakes)
    return result


def _service(name: str, model: ServiceFile, place: Place, mistakes: Mistakes) -> Service | None:
    if problem := node_name_problem(name):
        mistakes.add(place, f"the service's name `{name[:40]}` {problem}", key=True)
        return None
    directory, argv, environment = _program(model, place, mistakes)
    return Service(
        name=name,
        argv=argv,
        directory=directory,
        environment=environment,
        ready=_readiness(model.ready, place.at("ready"), mistakes) if model.ready is not None else None,
        within_s=READY_WITHIN_S if model.within is None else model.within,
        restart=model.restart,
        after=tuple(model.after),
        tty=model.tty,
        user=model.user,
    )


def commands_of(models: Iterable[CommandFile], place: Place, mistakes: Mistakes) -> tuple[Command, ...]:
    """The commands at that place, in order; none when one of them had to be left out, for then places do not fit."""
    found = []
    for model in models:
        directory, argv, environment = _program(model, Place(place.document, model.at_path), mistakes)
        within_s = COMMAND_WITHIN_S if model.within is None else model.within
        found.append(Command(argv, directory, environment, within_s, model.user))
    written = place.document.tree(place.path).data
    return () if isinstance(written, list) and len(written) != len(found) else tuple(found)


def _program(
    model: ProgramFile, place: Place, mistakes: Mistakes
) -> tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Where the program is run, its arguments, and its environment."""
    argv: tuple[str, ...] = ()
    if model.run is not None:
        argv = tuple(model.run)
        if not argv[0]:
            mistakes.add(place.at("run", 0), "the program's name is empty")
    else:
        argv = (*SHELL, model.shell or "")
    for path, text in (*((("run", number), word) for number, word in enumerate(argv)), (("cwd",), model.cwd or "")):
        if "\0" in text:
            mistakes.add(place.at("shell") if model.shell else place.at(*path), "a zero byte cannot be in it")
    if model.user is not None and (not model.user or "\0" in model.user):
        mistakes.add(place.at("user"), "the user's name is empty, or has a zero byte in it")
    for key, value in model.env.items():
        if not key or "=" in key or "\0" in f"{key}{value}":
            mistakes.add(place.at("env", key), f"`{key}` cannot be the name of an environment variable", key=True)
    directory = Path(place.document.file).resolve().parent
    return os.path.normpath(directory / (model.cwd or "")), argv, tuple(model.env.items())


def _readiness(model: ReadyFile, place: Place, mistakes: Mistakes) -> Readiness | None:
    if model.listening is not None:
        try:
            parse_listening(example_of(model.listening))
        except ValueError as error:
            mistakes.add(place.at("listening"), str(error))
            return None
    if model.line == "":
        mistakes.add(place.at("line"), "an empty expression matches every line")
    if model.file is not None and (not model.file.startswith("/") or "\0" in model.file):
        mistakes.add(place.at("file"), f"`{model.file}` is not an absolute path", "write for example /run/web.pid")
    command = tuple(model.command or ())
    if any("\0" in word for word in command):
        mistakes.add(place.at("command"), "a zero byte cannot be in it")
    return Readiness(model.listening or "", model.line or "", model.file or "", command)


def _resolved(
    service: Service,
    node: DraftNode,
    nodes: Mapping[str, DraftNode],
    groups: Mapping[str, tuple[str, ...]],
    mistakes: Mistakes,
    told: set[Place],
) -> Service:
    """The service with `after` as NODE/SERVICE; a group's name stands for all its nodes."""
    assert node.place is not None
    at = node.place.at("services", service.name)
    after: list[str] = []

    def tell(place: Place, message: str, hint: Hint) -> None:
        if place not in told:  # the nodes of a group share their services
            told.add(place)
            mistakes.add(place, message, hint)

    if service.ready is not None and service.ready.listening and not may_have_references(service.ready.listening):
        wanted = parse_listening(service.ready.listening).address
        if wanted is not None and parse_address(wanted) is None and name_key(wanted) not in nodes:
            near = partial(_near_node, wanted, nodes)
            tell(at.at("ready", "listening"), f"`{wanted}` is neither an address nor a node", near)
    for number, written in enumerate(service.after):
        place = at.at("after", number)
        where, slash, name = written.rpartition("/")
        members = groups.get(name_key(where)) if slash else (node.name,)
        if members is None:
            tell(place, f"there is no node `{where[:40]}`", partial(_near_node, where, nodes))
            continue
        for member in members:
            other = nodes.get(name_key(member))
            there = [one.name for one in other.services] if other is not None else []
            if name in there:
                after.append(f"{other.name if other is not None else member}/{name}")
                continue
            hint: Hint = suggestion(name, there) if there else "it has no services"
            tell(place, f"there is no service `{name[:40]}` on {member}", hint)
            break
    return replace(service, after=tuple(dict.fromkeys(after)))


def _near_node(word: str, nodes: Mapping[str, DraftNode]) -> str:
    return suggest(word, [node.name for node in nodes.values()])


def _check_cycles(nodes: Iterable[DraftNode], mistakes: Mistakes) -> None:
    after: dict[str, tuple[str, ...]] = {}
    places: dict[str, Place] = {}
    for node in nodes:
        for service in node.services:
            key = f"{node.name}/{service.name}"
            after[key] = service.after
            assert node.place is not None
            places[key] = node.place.at("services", service.name)
    done: set[str] = set()
    told: set[Place] = set()
    for first in after:
        # Depth first, without recursion: a chain may be as long as there are services.
        way: list[str] = []
        left = [first]
        while left:
            key = left[-1]
            if key in done:
                left.pop()
            elif way and way[-1] == key:
                way.pop()
                done.add(left.pop())
            else:
                way.append(key)
                for before in after[key]:
                    if before in way:
                        circle = way[way.index(before) :]
                        if not told & {places[one] for one in circle}:
                            told |= {places[one] for one in circle}
                            names = " after ".join([*circle, before])
                            mistakes.add(places[key].at("after"), f"the services wait for each other: {names}")
                    elif before not in done:
                        left.append(before)
