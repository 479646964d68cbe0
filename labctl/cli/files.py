"""Find the files that a command line names: paths, directories, shipped examples; and recognise the kind of a file.

Files of another tool, or of the other kind, get a message that names the command or the page that helps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.errors import InputError, MachineError, describe_errno

if TYPE_CHECKING:
    from labctl.topology.model import Imported, Topology


REPORT_LINES = 12  # of an import, unless all are asked for
_SUFFIXES = (".yaml", ".yml")
_LISTED = r"(?m)^\| \[[^\]]+\]\(([\w./-]+)\.yaml\)"
_HAS_STEPS = r"(?m)^steps\s*:"


def directory(kind: str) -> Path | None:
    """Return the directory of the shipped files of `kind` ("topologies" or "scenarios"); None if there is none.

    The wheel has them as package data; a checkout has them beside the package.
    """
    package = Path(__file__).resolve().parent.parent
    installed = package / "_shipped" / kind
    if installed.is_dir():
        return installed
    checkout = package.parent / kind
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else None


def shipped_scenarios() -> dict[str, Path]:
    """Return the shipped scenarios by name (`tcp-echo`, `folder/name`), in the order of their README.

    Scenarios that the README does not list come last, sorted.
    """
    found = {name: path for name, path in _files("scenarios").items() if re.search(_HAS_STEPS, _text(path))}
    root = directory("scenarios")
    listed = re.findall(_LISTED, _text(root / "README.md")) if root and (root / "README.md").is_file() else []
    return {name: found[name] for name in dict.fromkeys([*listed, *found]) if name in found}


def shipped_topologies() -> dict[str, Path]:
    """Return the shipped topologies by name, sorted."""
    return _files("topologies")


def shipped_scenario(name: str) -> Path | None:
    """Return the shipped scenario of that name, without reading others."""
    return _named("scenarios", name)


def shipped_topology(name: str) -> Path | None:
    """Return the shipped topology of that name."""
    return _named("topologies", name)


def tool(name: str) -> Path | None:
    """Return a script of tools/ that the wheel contains, too; None if this installation lacks it."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "_shipped" / name, package.parent / "tools" / name)
    return next((path for path in places if path.is_file()), None)


def first_comment(path: Path) -> str:
    """Return the first sentence of the comment at the beginning of a topology file; "" if it has none."""
    words = []
    for line in _text(path).splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# ").rstrip())
    sentence = re.match(r".*?[.:](?=\s|$)", " ".join(words))
    return sentence.group()[:-1] + "." if sentence else " ".join(words)


def _named(kind: str, name: str) -> Path | None:
    root = directory(kind)
    if root is None or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) or ".." in name:
        return None
    return next((path for suffix in _SUFFIXES if (path := root / f"{name}{suffix}").is_file()), None)


def _files(kind: str) -> dict[str, Path]:
    root = directory(kind)
    if root is None:
        return {}
    paths = sorted(path for suffix in _SUFFIXES for path in root.rglob(f"*{suffix}") if path.is_file())
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace")


_LARGEST_UNPARSED_BYTES = 4 << 20  # the loader refuses larger files
_SCENARIO_KEYS = {"steps", "topology", "requires", "within", "timeout", "variables"}
_TOPOLOGY_KEYS = {
    "hosts",
    "routers",
    "switches",
    "networks",
    "links",
    "include",
    "for",
    "addresses",
    "ipv4_pool",
    "ipv6_pool",
}
_NEAR = 0.78  # `stesp` and `hots` are typing errors, `services` is another tool's key


class Kind(Enum):
    """The kind of a file, recognised by its keys."""

    SCENARIO = auto()
    TOPOLOGY = auto()
    FOREIGN = auto()  # a topology of another tool
    NEITHER = auto()


def kind_of(path: Path) -> Kind:
    """Return the kind of the file. DocumentError if it cannot be read or is not YAML."""
    glanced = _kind_without_parsing(path)
    if glanced is not None:
        return glanced  # without parsing, because the loader parses most files anyway
    from labctl import documents
    from labctl.documents.diagnostics import NotALabctlFile
    from labctl.formats.recognition import recognise

    if recognise(path):
        return Kind.FOREIGN
    try:
        data = documents.read(path).data
    except NotALabctlFile:
        return Kind.NEITHER
    if not isinstance(data, dict):
        return Kind.NEITHER
    keys = {str(key) for key in data}
    if "steps" in keys:
        return Kind.SCENARIO
    if keys & _TOPOLOGY_KEYS:
        return Kind.TOPOLOGY
    from difflib import get_close_matches

    if keys & _SCENARIO_KEYS or any(get_close_matches(key, ["steps"], cutoff=_NEAR) for key in keys):
        return Kind.SCENARIO
    if any(get_close_matches(key, _TOPOLOGY_KEYS, cutoff=_NEAR) for key in keys):
        return Kind.TOPOLOGY
    return Kind.NEITHER


def _kind_without_parsing(path: Path) -> Kind | None:
    """Return the kind if it is certain without parsing; None if the file must be parsed or cannot be read."""
    from labctl.documents.yaml_tree import read_bytes
    from labctl.scenario.loader import has_hosts, has_steps

    try:
        content = read_bytes(path, _LARGEST_UNPARSED_BYTES)
    except (OSError, ValueError):
        return None
    if has_steps(content):
        return Kind.SCENARIO
    return Kind.TOPOLOGY if has_hosts(content) and len(content) <= _LARGEST_UNPARSED_BYTES else None


def yaml_files(words: list[str], shipped_kinds: tuple[Kind, ...]) -> tuple[list[Path], list[Path], list[InputError]]:
    """Return the files that `words` name: (named, found in directories, errors).

    A word is a path or, when there is no such path, the name of a shipped file of one of `shipped_kinds`. Each file
    is listed once, in the order of the words; a directory's files are sorted.
    """
    explicit: list[Path] = []
    found: list[Path] = []
    errors: list[InputError] = []
    known: set[str] = set()

    def take(path: Path, into: list[Path]) -> None:
        real = os.path.realpath(path)
        if real not in known:
            known.add(real)
            into.append(path)

    for word in words:
        if not word:
            errors.append(InputError('a file name is empty (""). Is a variable unset in your shell?'))
            continue
        path = Path(word)
        try:
            if path.is_dir():
                for inner in _yaml_files(path, errors):
                    take(inner, found)
                continue
            if path.exists():
                take(path, explicit)
                continue
        except OSError as error:
            errors.append(InputError(f"{word}: cannot access: {describe_errno(error.errno or 0)}."))
            continue
        except ValueError as error:  # a NUL byte in the word
            errors.append(InputError(f"{word!r}: not a path: {error}."))
            continue
        if path.is_symlink():
            errors.append(InputError(f"{word}: symbolic link to {os.readlink(path)}, which does not exist."))
            continue
        named = _shipped(word, shipped_kinds)
        if named is not None:
            take(named, explicit)
        else:
            errors.append(unknown(word, shipped_kinds))
    return explicit, found, errors


def unknown(word: str, shipped_kinds: tuple[Kind, ...], *, takes_paths: bool = True) -> InputError:
    """Return the error for a word that is neither a shipped name nor a path (`takes_paths`), with a suggestion."""
    from difflib import get_close_matches

    names = [
        *(shipped_scenarios() if Kind.SCENARIO in shipped_kinds else ()),
        *(shipped_topologies() if Kind.TOPOLOGY in shipped_kinds else ()),
    ]
    close = get_close_matches(Path(word).stem, names)
    parent = Path(word).parent
    if takes_paths and parent.is_dir():
        beside = {path.stem: path.name for path in parent.iterdir() if path.suffix in _SUFFIXES}
        close += [str(parent / beside[stem]) for stem in get_close_matches(Path(word).stem, beside)]
    what = (
        "scenario"
        if shipped_kinds == (Kind.SCENARIO,)
        else "topology"
        if Kind.SCENARIO not in shipped_kinds
        else "file"
    )
    hint = f"Did you mean {' or '.join(dict.fromkeys(close))}?" if close else "See what ships with: labctl examples"
    neither = "no such file or directory, and no" if takes_paths else "no"
    return InputError(f"{word}: {neither} shipped {what} has that name. {hint}")


def find_topology(source: str) -> str | Path:
    """Return a shape, the path of a file, or the path of the shipped topology of that name.

    A file takes precedence over a shape and a shipped name. InputError if the word is none of them.
    """
    from labctl.topology import is_shape

    if os.path.exists(source):
        return Path(source)
    if not is_shape(source) or shipped_topology(source):
        if named := shipped_topology(source):
            return named
        # `sttar:10`: the parser of shapes explains their syntax.
        if ":" not in source or source.endswith(_SUFFIXES) or "/" in source:
            raise unknown(source, (Kind.TOPOLOGY,))
    return source


def one_topology(command: str, argument: str | None, option: str | None) -> str:
    """Return the topology that the command line names by its argument or by --topo. InputError unless it names one."""
    if (argument is None) == (option is None):
        raise InputError(f"labctl {command}: give one topology, a file or a shape. Try: labctl {command} star:10")
    return argument or option or ""


def load_topology(source: str, values: Sequence[str] = (), *, to_create: bool = False) -> Topology:
    """Load the topology that `find_topology` finds; `values` are its parameters (`n=12`). InputError.

    A foreign file's report is printed. `to_create`: for a lab on this machine, whose kernel may lack netem; otherwise
    nothing is run, not even a Mininet program.
    """
    from labctl import topology

    found = find_topology(source)
    arguments: dict[str, Any] = {}
    if values:
        from labctl.documents import Mistake
        from labctl.topology.composition import arguments_of

        try:
            arguments = arguments_of(values)
        except Mistake as error:
            raise InputError(f"--set: {error}; {error.hint}" if error.hint else f"--set: {error}") from error
    try:
        loaded = topology.load(found, arguments=arguments, programs=to_create)
    except InputError as error:
        if isinstance(found, str):
            raise

        raise explained(found, Kind.TOPOLOGY, error) from error
    if loaded.imported is not None:
        from labctl.observe.derived_delays import feasible

        loaded = feasible(loaded) if to_create else loaded
        if loaded.imported is not None:
            show_report(loaded.imported)
    return loaded


def with_way_out(error: MachineError, topology: Topology) -> MachineError:
    """Return the error, with the command that leaves delay and loss out of a foreign file if that may be the reason."""
    impairments = [interface.impairment for node in topology.nodes for interface in node.interfaces]
    if topology.imported is None or not any(impairments):
        return error
    from shlex import quote

    way = f"labctl import {quote(topology.imported.path)} --without delay --without loss -o OUT.yaml"
    return type(error)(f"{error} To leave delay and loss out: {way}")


def show_report(imported: Imported, *, every: bool = False) -> None:
    """Print on standard error what differs from the foreign file; the most important lines, unless `every`."""
    from shlex import quote

    from labctl.cli.exit import complain

    lines = list(imported.report)
    if not every and len(lines) > REPORT_LINES:
        hidden = len(lines) - REPORT_LINES + 1
        lines[REPORT_LINES - 1 :] = [f"and {hidden} more; labctl import {quote(imported.path)} lists all"]
    complain("\n".join([f"{imported.path}: {imported.summary}", *(f"  {line}" for line in lines)]))


def warn_of_gateways(topology: Topology) -> None:
    """Print on standard error which default gateways of hosts are addresses of no node."""
    if any(node.static_routes for node in topology.hosts):
        from labctl.cli.exit import complain
        from labctl.topology.static_routes import absent_gateways

        for line in absent_gateways(topology):
            complain(f"warning: {topology.source}: {line}")


def _shipped(word: str, kinds: tuple[Kind, ...]) -> Path | None:
    if Kind.SCENARIO in kinds and (path := shipped_scenario(word)):
        return path
    return shipped_topology(word) if Kind.TOPOLOGY in kinds else None


def _yaml_files(root: Path, errors: list[InputError]) -> list[Path]:
    """Return the YAML files below `root`, sorted, without hidden files, devices and pipes.

    Directories that cannot be read are added to `errors`.
    """

    def unreadable(error: OSError) -> None:
        errors.append(InputError(f"{error.filename}: cannot read the directory: {describe_errno(error.errno or 0)}."))

    files = []
    for directory, names, leaves in os.walk(root, onerror=unreadable):
        names[:] = sorted(name for name in names if not name.startswith("."))
        paths = [Path(directory, leaf) for leaf in leaves if leaf.endswith(_SUFFIXES) and not leaf.startswith(".")]
        files += [path for path in paths if path.is_file() or path.is_symlink()]
    return sorted(files)


def explained(path: str | Path, wanted: Kind, error: InputError) -> InputError:
    """Return an error with the page or command that helps, if the file has another tool or kind; else `error`."""
    from shlex import quote

    from labctl.formats.recognition import recognise

    path = Path(path)
    if foreign := recognise(path):
        if not foreign.is_read or wanted is not Kind.SCENARIO:
            return error  # of the translation
        shown = quote(str(path))
        return InputError(
            f"{path}: is {foreign.value}, not a scenario. Try: labctl up {shown}, or labctl import {shown} -o "
            f"{quote(_stem(path))}.yaml. A scenario names its topology: `topology: {path}`."
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
            f"{path}: is a topology, not a scenario. Try: labctl plan {quote(str(path))}. "
            f"A scenario names its topology: `topology: {path}`."
        )
    if wanted is Kind.TOPOLOGY and kind is Kind.SCENARIO:
        return InputError(
            f"{path}: is a scenario, not a topology. Try: labctl run {quote(str(path))}{_its_topology(path)}"
        )
    return error


def nothing_in(words: Sequence[str], what: str) -> InputError:
    """Return the error for directories without a file of labctl; it names the tool of a lab that is recognised."""
    from labctl.formats.recognition import recognise

    error = InputError(f"{' '.join(words)}: {what}")
    return next((explained(word, Kind.SCENARIO, error) for word in words if recognise(Path(word))), error)


def _stem(path: Path) -> str:
    return path.resolve().name.partition(".")[0] or "topology"


def _topology_in(directory: Path) -> Path | None:
    """Return the first topology file in that directory."""
    with suppress(OSError):
        for path in sorted(directory.iterdir()):
            with suppress(InputError):
                if path.suffix in (".yaml", ".yml") and path.is_file() and kind_of(path) is Kind.TOPOLOGY:
                    return path
    return None


def _its_topology(path: Path) -> str:
    """Return a sentence with the command that creates the scenario's network; "" if it names none."""
    topology = (_data(path) or {}).get("topology")
    if not isinstance(topology, str):
        return ""
    from shlex import quote

    beside = path.parent / topology
    return f". Its network: labctl up {quote(str(beside) if beside.is_file() else topology)}"


def _data(path: Path) -> Any:
    from labctl import documents
    from labctl.documents.yaml_tree import read_bytes

    try:
        return documents.parse(read_bytes(path).decode("utf-8-sig"), str(path)).data
    except (InputError, OSError, ValueError):
        return None
