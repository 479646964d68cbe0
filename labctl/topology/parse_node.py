"""Keys of a host or router in a topology file: files and mounts, ports and limits, services and commands."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from labctl.documents import Document
from labctl.documents.diagnostics import Hint, suggest, suggestion
from labctl.documents.schema import PlacedText
from labctl.documents.yaml_tree import read_bytes
from labctl.names import name_key, node_name_problem
from labctl.structs import replace
from labctl.topology.address_variables import example_of, may_have_references
from labctl.topology.draft import DraftNode, Mistakes, Place
from labctl.topology.endpoints import parse_address, parse_listening
from labctl.topology.model import (
    COMMAND_WITHIN_S,
    NO_FILES,
    OWN_DIRECTORIES,
    READY_WITHIN_S,
    SHELL,
    Address,
    Bind,
    Command,
    Exposure,
    FileTree,
    Limits,
    PlacedFile,
    Readiness,
    Service,
    Transport,
    entries_of,
    lies_in,
)
from labctl.topology.schema import (
    PORT_MAX,
    BindFile,
    CommandFile,
    Daemon,
    ExposureFile,
    LimitsFile,
    PlacedFileFile,
    ProgramFile,
    ReadyFile,
    ServiceFile,
)
from labctl.units import size_bytes

ENTRIES_LIMIT, SIZE_LIMIT_BYTES = 10_000, 256 << 20  # of one `source` directory
_RESERVED_DIRECTORIES = ("/proc", "/sys", "/dev", "/run/lab")  # of the kernel and of labctl
_MODE = re.compile(r"[0-7]{3,4}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


def file_tree_of(
    files: Mapping[str, PlacedFileFile],
    binds: Sequence[PlacedText | BindFile],
    private: Sequence[PlacedText],
    place: Place,
    mistakes: Mistakes,
) -> FileTree:
    """Read `files`, `binds` and `private` of the node at that place, and check the sources on this machine."""
    if not (files or binds or private):
        return NO_FILES
    directory = place.document.directory
    placed = [_file(path, model, directory, place.at("files", path), mistakes) for path, model in files.items()]
    bound = [_bind(model, directory, Place(place.document, model.at_path), mistakes) for model in binds]
    private_paths = [_path(one.text, Place(place.document, one.at_path), mistakes) for one in private]
    tree = FileTree(
        tuple(one for one in placed if one is not None),
        tuple(one for one in bound if one is not None),
        tuple(path for path in private_paths if path),
    )
    tree = replace(tree, owners=_owners(tree))
    _check_paths(tree, place, mistakes)
    return tree


def _owners(tree: FileTree) -> tuple[tuple[str, int, int], ...]:
    """Return the owners of the machine's directories at these paths: a lab of an ordinary user cannot see them."""
    paths = {*tree.private, *(bind.path for bind in tree.binds)}
    for file in tree.files:
        entries = entries_of(file.source) if file.source else (("", ""),)
        paths.update(os.path.normpath(os.path.join(file.path, relative)) for _, relative in entries)
    found: dict[str, tuple[int, int]] = {}
    for path in {*paths, *map(os.path.dirname, paths)}:
        directory = path
        while not os.path.isdir(directory):
            directory = os.path.dirname(directory)
        directory = os.path.realpath(directory)
        if not any(lies_in(directory, own) for own in OWN_DIRECTORIES):
            info = os.stat(directory)
            found[directory] = (info.st_uid, info.st_gid)
    return tuple((path, *ids) for path, ids in sorted(found.items()) if ids != (0, 0))


def _path(written: str, place: Place, mistakes: Mistakes, *, key: bool = False, root: bool = False) -> str:
    """Return the normal path on the node; "" if the node cannot have a file of its own there."""
    path = os.path.normpath(written)
    path = path[1:] if path.startswith("//") else path
    message = hint = ""
    if not written.startswith("/") or "\0" in written:
        message, hint = f"`{written[:80]}` is not an absolute path", f"did you mean `/{written[:80].lstrip('./')}`?"
    elif ".." in written.split("/"):
        message = f"`{written}` contains `..`"
    elif path == "/" and not root:
        message = "`/` is the whole file tree of the node"
    elif reserved := next((one for one in _RESERVED_DIRECTORIES if lies_in(path, one)), ""):
        message = f"{written}: {reserved} is reserved for the kernel and labctl"
    if message:
        mistakes.add(place, message, hint, key=key)
        return ""
    return path


def _file(written: str, model: PlacedFileFile, directory: Path, place: Place, mistakes: Mistakes) -> PlacedFile | None:
    path = _path(written, place, mistakes, key=True, root=model.source is not None)
    mode = None
    if model.mode is not None:
        if _MODE.fullmatch(model.mode):
            mode = int(model.mode, 8)
        else:
            mistakes.add(
                place.at("mode"), f"`{model.mode}` is not a file mode", 'write three or four octal digits: "0755"'
            )
    owner = model.owner or ""
    if owner and not _OWNER.fullmatch(owner):
        mistakes.add(place.at("owner"), f"`{owner[:40]}` is not an owner", "write for example `frr` or `frr:frrvty`")
    if model.source is None:
        return PlacedFile(path, model.content, mode=mode, owner=owner) if path else None
    source = _source(model.source, directory, place.at("source"), mistakes)
    if not source or not path:
        return None
    try:
        version = _version(source)
    except (OSError, ValueError) as error:
        mistakes.add(place.at("source"), str(error))
        return None
    if path == "/" and not os.path.isdir(source):
        mistakes.add(place.at("source"), f"`{model.source}` is a file, which cannot be placed at /")
        return None
    return PlacedFile(path, None, source, mode, owner, version)


def _bind(model: PlacedText | BindFile, directory: Path, place: Place, mistakes: Mistakes) -> Bind | None:
    at_source = at_target = place
    if isinstance(model, PlacedText):
        parts = model.text.split(":")
        if len(parts) not in (2, 3) or not all(parts) or parts[2:] not in ([], ["ro"], ["rw"]):
            mistakes.add(
                place, f"`{model.text}` is not SOURCE:PATH or SOURCE:PATH:rw", "write for example data:/srv/data"
            )
            return None
        source, path, writable = parts[0], parts[1], parts[2:] == ["rw"]
    else:
        source, path, writable = model.source, model.target, model.rw
        at_source, at_target = place.at("source"), place.at("target")
    found, target = _source(source, directory, at_source, mistakes), _path(path, at_target, mistakes)
    return Bind(target, found, writable) if found and target else None


def _source(written: str, directory: Path, place: Place, mistakes: Mistakes) -> str:
    """Return the path on the machine; "" if it does not exist."""
    path = os.path.normpath(directory / written)
    if "\0" not in path and os.path.exists(path):
        return path
    names = sorted(os.listdir(directory)) if directory.is_dir() else []
    hint = suggest(written, names, near_only=True) or "paths are relative to the topology file"
    mistakes.add(place, f"there is no file or directory `{written[:80]}`", hint)
    return ""


def _version(source: str) -> str:
    """Return a digest that changes when the source does. OSError; ValueError for devices and large directories."""
    import hashlib

    digest, size_bytes, count = hashlib.sha256(), 0, 0
    for path, relative in entries_of(source):
        info = os.stat(path) if path == source else os.lstat(path)
        if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode) and not stat.S_ISLNK(info.st_mode):
            raise ValueError(f"{path} is neither a file nor a directory")
        if not stat.S_ISLNK(info.st_mode) and not os.access(path, os.R_OK):
            raise ValueError(f"{path} cannot be read")
        is_file = stat.S_ISREG(info.st_mode)
        count, size_bytes = count + 1, size_bytes + (info.st_size if is_file else 0)
        if count > ENTRIES_LIMIT or size_bytes > SIZE_LIMIT_BYTES:
            limit = f"{ENTRIES_LIMIT} entries or {SIZE_LIMIT_BYTES >> 20} MiB"
            raise ValueError(f"{source} has more than {limit}: mount it with `binds` instead")
        changed_ns = 0 if stat.S_ISDIR(info.st_mode) else info.st_mtime_ns
        facts = f"{relative}\0{info.st_mode}\0{info.st_size if is_file else 0}\0{changed_ns}\0"
        digest.update(facts.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _check_paths(tree: FileTree, place: Place, mistakes: Mistakes) -> None:
    """Report paths that are given twice, and files that would be written to the machine through a bind."""
    seen: dict[str, str] = {}
    for kind, path in (
        *(("files", one.path) for one in tree.files),
        *(("binds", one.path) for one in tree.binds),
        *(("private", path) for path in tree.private),
    ):
        if path in seen:
            message = f"{path} is given twice" if seen[path] == kind else f"{path} is in `{seen[path]}` and in `{kind}`"
            mistakes.add(place.at(kind), message)
        seen[path] = kind
    for bind in tree.binds:
        for path, kind in seen.items():
            if path != bind.path and lies_in(path, bind.path) and kind != "binds":
                at = place.at(kind, path) if kind == "files" else place.at(kind)
                mistakes.add(at, f"{path} lies in the bind at {bind.path}, a directory of the machine")


MEMORY_MIN_BYTES = 1 << 20  # with less, no program starts
CPU_MIN, CPU_MAX = 0.01, 1024.0
CYCLES_SHOWN = 20
_EXAMPLE = "write for example 8080:80, 192.0.2.1:8080:80 or 5353:53/udp"
_MACHINE_EXAMPLE = "write for example 8080, 192.0.2.1:8080 or [::1]:8080"
_PERCENTAGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


def exposures_of(
    models: Sequence[PlacedText | ExposureFile], document: Document, mistakes: Mistakes
) -> tuple[Exposure, ...]:
    """Return the ports of an `expose` in that document."""
    found = (_exposure(model, Place(document, model.at_path), mistakes) for model in models)
    return tuple(exposure for exposure in found if exposure is not None)


def limits_of(model: LimitsFile | None, place: Place, mistakes: Mistakes) -> Limits | None:
    """Return the values of `limits` at that place; None if nothing is limited."""
    if model is None:
        return None
    memory_bytes: int | None = None
    cpu: float | None = None
    if model.memory is not None:
        try:
            memory_bytes = size_bytes(model.memory)
        except ValueError as error:
            mistakes.add(place.at("memory"), str(error))
        else:
            if memory_bytes < MEMORY_MIN_BYTES:
                mistakes.add(
                    place.at("memory"), f"`{model.memory}` is too little memory for a program", "write at least 1MiB"
                )
    if model.cpu is not None:
        cpu = _cpu(model.cpu, place.at("cpu"), mistakes)
    if model.pids is None and memory_bytes is None and cpu is None:
        return None
    return Limits(model.pids, memory_bytes, cpu)


def check_exposures(nodes: Iterable[DraftNode], mistakes: Mistakes) -> None:
    """Report ports of the machine that would lead to two hosts."""
    taken: dict[tuple[Transport, int], dict[Address | None, tuple[Exposure, DraftNode]]] = {}
    for node in nodes:
        for exposure in node.spec.exposures:
            others = taken.setdefault((exposure.transport, exposure.machine_port), {})
            found = others.get(exposure.address) or _overlapping(exposure.address, others)
            if found is None:
                others[exposure.address] = (exposure, node)
                continue
            owner = found[1]
            same_group = owner.place == node.place and owner is not node
            where = f" (see {owner.place.describe(key=True)})" if owner.place and owner.place != node.place else ""
            message = f"the machine's port {exposure.machine}/{exposure.transport} is exposed twice{where}"
            hint = "nodes of a group cannot share a port; name them one by one" if same_group else ""
            mistakes.add(node.place.at("expose") if node.place else None, message, hint)


def _overlapping(
    address: Address | None, others: Mapping[Address | None, tuple[Exposure, DraftNode]]
) -> tuple[Exposure, DraftNode] | None:
    """Return an exposure whose address covers this one, such as that of all interfaces."""
    if address is None or address.is_unspecified:
        return next((found for other, found in others.items() if _overlap(address, other)), None)
    every = ip_address(bytes(address.max_prefixlen // 8))
    return others.get(every) or (others.get(None) if address.is_loopback else None)


def _overlap(one: Address | None, other: Address | None) -> bool:
    if one is None or other is None:
        known = one or other
        return known is None or known.is_loopback or known.is_unspecified
    if one.version != other.version:
        return False
    return one == other or one.is_unspecified or other.is_unspecified


def _exposure(model: PlacedText | ExposureFile, place: Place, mistakes: Mistakes) -> Exposure | None:
    if isinstance(model, PlacedText):
        return _short_form(model.text, place, mistakes)
    machine = _machine(model.machine)
    if machine is None:
        mistakes.add(place.at("machine"), f"`{model.machine}` is not a port of the machine", _MACHINE_EXAMPLE)
        return None
    return Exposure(model.protocol, *machine, model.port)


def _short_form(written: str, place: Place, mistakes: Mistakes) -> Exposure | None:
    """Parse `[ADDRESS:]MACHINE_PORT:PORT[/udp]`."""
    text, slash, protocol = written.strip().partition("/")
    if slash and protocol not in set(Transport):
        mistakes.add(place, f"cannot expose a port of the protocol `{protocol}`", suggest(protocol, list(Transport)))
        return None
    machine_text, colon, port_text = text.rpartition(":")
    machine, port = _machine(machine_text), _port(port_text)
    if not colon or machine is None or port is None:
        mistakes.add(place, f"`{written}` is not MACHINE_PORT:PORT", _EXAMPLE)
        return None
    return Exposure(Transport(protocol) if slash else Transport.TCP, *machine, port)


def _machine(text: str) -> tuple[Address | None, int] | None:
    address_text, colon, port_text = text.strip().rpartition(":")
    port = _port(port_text)
    if port is None:
        return None
    if not colon:
        return None, port
    bracketed = address_text.startswith("[") and address_text.endswith("]")
    try:
        address = ip_address(address_text[1:-1] if bracketed else address_text)
    except ValueError:
        return None
    if bracketed is not (address.version == 6) or address.is_multicast or "%" in address_text:
        return None
    return address, port


def _port(text: str) -> int | None:
    plain = text.strip()
    if not (plain.isascii() and plain.isdigit() and len(plain) <= 5):
        return None
    return int(plain) if 1 <= int(plain) <= PORT_MAX else None


def _cpu(written: str | int | float, place: Place, mistakes: Mistakes) -> float | None:
    match = _PERCENTAGE.fullmatch(str(written).strip())
    share = float(match[1]) / 100 if match else 0.0
    if not CPU_MIN <= share <= CPU_MAX:
        mistakes.add(
            place, f"`{written}` is not a share of a processor", "write for example 50% (half of one), or 200%"
        )
        return None
    return share


def services_of(
    models: Mapping[str, ServiceFile], place: Place, mistakes: Mistakes
) -> tuple[tuple[Service, ...], tuple[PlacedFile, ...]]:
    """Return the services at that place, and the configuration files of daemons.

    `with_service_order` resolves their `after`.
    """
    services: dict[str, Service] = {}
    files: dict[str, PlacedFile] = {}
    for name, model in models.items():
        at = place.at(name)
        made = _service(name, model, at, mistakes)
        if made is None:
            continue
        programs: tuple[Service, ...] = (made,)
        if model.use is not None:
            programs, placed = _daemon(model.use, model, made, at, mistakes)
            for file in placed:
                if file.path in files:
                    message = f"another service places {file.path}, too: a node runs one {model.use}"
                    mistakes.add(at, message, "use several nodes, or `run`", key=True)
                files[file.path] = file
        for program in programs:
            if program.name in services:
                mistakes.add(at, f"there are two services {program.name} on this node", key=True)
            services[program.name] = program
    return tuple(services.values()), tuple(files.values())


def _daemon(
    daemon: Daemon, model: ServiceFile, service: Service, place: Place, mistakes: Mistakes
) -> tuple[tuple[Service, ...], list[PlacedFile]]:
    """Return the services of a daemon and its configuration files."""
    from labctl.topology.daemons import FRR_DAEMONS, DaemonRequest, parts_of

    config = model.config
    text = config.content if config is not None else ""
    source = ""
    if config is not None and config.source is not None:
        source = _source(config.source, place.document.directory, place.at("config"), mistakes)
        try:
            text = read_bytes(Path(source)).decode() if source else ""
        except (OSError, ValueError) as error:
            mistakes.add(place.at("config"), f"cannot read {config.source}: {error}")
    for number, name in enumerate(model.daemons):
        if name not in FRR_DAEMONS:
            mistakes.add(
                place.at("daemons", number), f"`{name[:40]}` is not a daemon of FRR", suggestion(name, FRR_DAEMONS)
            )
    request = DaemonRequest(text or "", config is not None, tuple(model.options), tuple(model.daemons))
    parts = parts_of(daemon, service, request)
    files = list(parts.files)
    if config is not None:
        files.append(PlacedFile(parts.path, text))
    elif daemon is not Daemon.DNSMASQ:
        mistakes.add(place, f"{daemon} needs a configuration", "write for example `config: r1.conf`")
    return parts.services, files


def with_service_order(
    nodes: dict[str, DraftNode], groups: Mapping[str, tuple[str, ...]], mistakes: Mistakes
) -> dict[str, DraftNode]:
    """Return the nodes (by `name_key`) with `after` of services as NODE/SERVICE; report unknown names and cycles."""
    if not any(node.spec.services for node in nodes.values()):
        return nodes
    reported: set[Place] = set()
    result: dict[str, DraftNode] = {}
    for key, node in nodes.items():
        services = (_resolved(service, node, nodes, groups, mistakes, reported) for service in node.spec.services)
        result[key] = replace(node, spec=replace(node.spec, services=tuple(services)))
    _check_cycles(result.values(), mistakes)
    return result


def _service(name: str, model: ServiceFile, place: Place, mistakes: Mistakes) -> Service | None:
    if problem := node_name_problem(name):
        mistakes.add(place, f"the service name `{name[:40]}` {problem}", key=True)
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
        trace=model.trace,
        may_fail=model.may_fail,
        origin=model.origin or "",
    )


def commands_of(models: Iterable[CommandFile], place: Place, mistakes: Mistakes) -> tuple[Command, ...]:
    """Return the commands at that place; none if one is invalid, because positions are counted by index."""
    found = []
    for model in models:
        directory, argv, environment = _program(model, Place(place.document, model.at_path), mistakes)
        within_s = COMMAND_WITHIN_S if model.within is None else model.within
        found.append(Command(argv, directory, environment, within_s, model.user, model.may_fail, model.origin or ""))
    written = place.document.tree(place.path).data
    return () if isinstance(written, list) and len(written) != len(found) else tuple(found)


def _program(
    model: ProgramFile, place: Place, mistakes: Mistakes
) -> tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the program's working directory, arguments and environment."""
    argv: tuple[str, ...] = ()
    if model.run is not None:
        argv = tuple(model.run)
        if not argv[0]:
            mistakes.add(place.at("run", 0), "the program's name is empty")
    elif model.shell is not None:
        argv = (*SHELL, model.shell)
    for path, text in (*((("run", number), word) for number, word in enumerate(argv)), (("cwd",), model.cwd or "")):
        if "\0" in text:
            mistakes.add(place.at("shell") if model.shell else place.at(*path), "the text contains a NUL character")
    if model.user is not None and (not model.user or "\0" in model.user):
        mistakes.add(place.at("user"), "the user name is empty or contains a NUL character")
    for key, value in model.env.items():
        if not key or "=" in key or "\0" in f"{key}{value}":
            mistakes.add(place.at("env", key), f"`{key}` cannot be the name of an environment variable", key=True)
    return os.path.normpath(place.document.directory / (model.cwd or "")), argv, tuple(model.env.items())


def _readiness(model: ReadyFile, place: Place, mistakes: Mistakes) -> Readiness | None:
    if model.listening is not None:
        try:
            parse_listening(example_of(model.listening))
        except ValueError as error:
            mistakes.add(place.at("listening"), str(error))
            return None
    if model.line == "":
        mistakes.add(place.at("line"), "an empty regular expression matches every line")
    if model.file is not None and (not model.file.startswith("/") or "\0" in model.file):
        mistakes.add(place.at("file"), f"`{model.file}` is not an absolute path", "write for example /run/web.pid")
    command = tuple(model.command or ())
    if any("\0" in word for word in command):
        mistakes.add(place.at("command"), "the text contains a NUL character")
    return Readiness(model.listening or "", model.line or "", model.file or "", command)


def _resolved(
    service: Service,
    node: DraftNode,
    nodes: Mapping[str, DraftNode],
    groups: Mapping[str, tuple[str, ...]],
    mistakes: Mistakes,
    reported: set[Place],
) -> Service:
    """Return the service with `after` as NODE/SERVICE; a group's name stands for all its nodes."""
    assert node.place is not None
    at = node.place.at("services", service.name)
    after: list[str] = []

    def report(place: Place, message: str, hint: Hint) -> None:
        if place not in reported:  # the nodes of a group share their services
            reported.add(place)
            mistakes.add(place, message, hint)

    if service.ready is not None and service.ready.listening and not may_have_references(service.ready.listening):
        wanted = parse_listening(service.ready.listening).address
        if wanted is not None and parse_address(wanted) is None and name_key(wanted) not in nodes:
            message = f"`{wanted}` is neither an address nor a node"
            report(at.at("ready", "listening"), message, partial(_near_node, wanted, nodes))
    for number, written in enumerate(service.after):
        place = at.at("after", number)
        where, slash, name = written.rpartition("/")
        members = groups.get(name_key(where)) if slash else (node.name,)
        if members is None:
            report(place, f"there is no node `{where[:40]}`", partial(_near_node, where, nodes))
            continue
        for member in members:
            other = nodes.get(name_key(member))
            names = [one.name for one in other.spec.services] if other is not None else []
            if name in names:
                after.append(f"{other.name if other is not None else member}/{name}")
                continue
            hint: Hint = suggestion(name, names) if names else "it has no services"
            report(place, f"there is no service `{name[:40]}` on {member}", hint)
            break
    return replace(service, after=tuple(dict.fromkeys(after)))


def _near_node(word: str, nodes: Mapping[str, DraftNode]) -> str:
    return suggest(word, [node.name for node in nodes.values()])


def _check_cycles(nodes: Iterable[DraftNode], mistakes: Mistakes) -> None:
    """Report services that wait for each other, each cycle once, at most CYCLES_SHOWN."""
    after: dict[str, tuple[str, ...]] = {}
    places: dict[str, Place] = {}
    for node in nodes:
        for service in node.spec.services:
            assert node.place is not None
            after[f"{node.name}/{service.name}"] = service.after
            places[f"{node.name}/{service.name}"] = node.place.at("services", service.name, "after")
    if not any(after.values()):
        return
    from graphlib import CycleError, TopologicalSorter

    for _ in range(CYCLES_SHOWN):
        try:
            TopologicalSorter(after).prepare()
            return
        except CycleError as error:
            cycle: list[str] = error.args[1][::-1]
            mistakes.add(places[cycle[0]], f"the services wait for each other: {' after '.join(cycle)}")
            at_cycle = {places[key] for key in cycle}  # the nodes of a group share their services
            after = {key: before for key, before in after.items() if places[key] not in at_cycle}
