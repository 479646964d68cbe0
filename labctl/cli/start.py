"""`labctl examples` and `labctl init`: where people begin."""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path

from labctl.cli import shipped
from labctl.cli.find import Kind, unknown
from labctl.errors import InputError, LabctlError, LabError, describe_errno
from labctl.report.screen import Ink, Screen, standard_output
from labctl.report.text import cells, pad, wrap

_PACKAGE = Path(__file__).resolve().parent.parent
# What `labctl init` writes, and what of. The YAML files name their schemas, for editors.
_STARTER = {
    "topology.yaml": _PACKAGE / "starter" / "topology.yaml",
    "hello.yaml": _PACKAGE / "starter" / "hello.yaml",
    "test_hello.py": _PACKAGE / "starter" / "test_hello.py",
    ".schemas/topology.schema.json": _PACKAGE / "schemas" / "topology.schema.json",
    ".schemas/scenario.schema.json": _PACKAGE / "schemas" / "scenario.schema.json",
}


def list_examples() -> int:
    """Names and a sentence each; the names are what `labctl run` and `labctl plan` take."""
    scenarios = {name: _about(path) for name, path in shipped.scenarios().items()}
    topologies = {name: shipped.first_comment(path) for name, path in shipped.topologies().items()}
    if not scenarios and not topologies:
        raise LabError("This installation of labctl has no examples: reinstall it from its wheel or a checkout.")
    screen = standard_output()
    width = max(cells(name) for name in (*scenarios, *topologies))
    _table(screen, "Scenarios: labctl run NAME", scenarios, width)
    screen.line()
    _table(screen, "Topologies: labctl plan NAME", topologies, width)
    screen.line()
    _table(
        screen,
        "Shapes, which need no file: labctl plan SHAPE, or `topology: SHAPE` in a scenario",
        {
            "pair": "Two hosts, client and server, on a direct link.",
            "star:N": "N hosts on a switch.",
            "line:N": "N routers in a chain with a host at each end.",
            "tree:D,F": "Switches as a tree of depth D with fanout F, hosts at its leaves.",
            "mesh:N": "N routers, every two of them linked, with a host each.",
        },
        width,
    )
    return 0


def show_example(name: str) -> int:
    """Print the file of a shipped scenario or topology as it is."""
    standard_output().write([_example(name).read_text("utf-8").rstrip("\n")])
    return 0


def copy_example(name: str, directory: Path) -> int:
    """Copy the file of a shipped example, and the shipped files that it names, into `directory`; overwrites nothing."""
    example = _example(name)
    text = example.read_text("utf-8")
    contents: dict[str, bytes] = {}
    # A scenario names the programs that it builds or runs, and its topology, relative to itself.
    code = re.sub(r"^\s*#.*", "", text, flags=re.MULTILINE)
    for used in dict.fromkeys(re.findall(r"[\w./-]+\.(?:c|py|ya?ml|conf)\b", code)):
        source = (example.parent / used).resolve()
        if source.is_file() and source.is_relative_to(example.parent.parent) and source != example.resolve():
            contents[source.name] = source.read_bytes()
            text = text.replace(used, source.name)
    contents = {example.name: text.encode(), **contents}
    if taken := [str(directory / each) for each in contents if os.path.lexists(directory / each)]:
        raise InputError(f"{', '.join(taken)}: cannot copy there: the file exists. Give another directory.")
    for each, content in contents.items():
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / each).write_bytes(content)
        except OSError as error:
            raise cannot_write(directory / each, error) from error
        standard_output().line(f"wrote {directory / each}")
    return 0


def _example(name: str) -> Path:
    found = shipped.scenario(name) or shipped.topology(name)
    if found is None:
        from labctl.topology.shapes import SHAPES

        if shape := SHAPES.get(name.partition(":")[0]):
            raise InputError(f"{name}: is a shape, which has no file. Try: labctl plan {shape.example}")
        raise unknown(name, (Kind.SCENARIO, Kind.TOPOLOGY), takes_paths=False)
    return found


def _about(path: Path) -> str:
    from labctl import documents

    data = documents.read(path).data
    if not isinstance(data, dict):
        return ""
    return " ".join(str(data.get("about") or data.get("name") or "").split())


def _table(screen: Screen, title: str, rows: dict[str, str], width: int) -> None:
    look = screen.look
    lines = [look.paint(line, Ink.STRONG) for line in wrap(title, look.width)]
    for name, sentence in rows.items():
        first, *rest = wrap(sentence, max(look.width - width - 4, 20))
        lines.append(f"  {pad(name, width)}  {first}".rstrip())
        lines += [f"  {' ' * width}  {line}" for line in rest]
    screen.write(lines)


def cannot_write(path: object, error: OSError) -> LabctlError:
    """The error to raise: InputError where another path may do, LabError where the disk is full or broken."""
    number = error.errno or 0
    kind = LabError if number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE) else InputError
    return kind(f"{path}: cannot write: {describe_errno(number)}.")


def write_starter(directory: Path) -> int:
    """Writes the starter files into `directory`, which is made when needed. InputError when one is there already."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: is a file. Give the name of a directory, which need not be there yet.")
    there = [name for name in _STARTER if (directory / name).exists() or (directory / name).is_symlink()]
    if there:
        raise InputError(
            f"{directory}: has {', '.join(there)} already, and nothing is overwritten. Give another directory."
        )
    try:
        for name, source in _STARTER.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(source.read_text("utf-8"))
    except OSError as error:
        raise cannot_write(error.filename or directory, error) from error
    screen = standard_output()
    for name in _STARTER:
        screen.line(f"wrote {directory / name}")
    screen.line()
    screen.line("Try:")
    for command in (
        ("labctl", "run", directory),
        ("labctl", "plan", directory / "topology.yaml"),
        ("pytest", directory),
    ):
        screen.line(f"  {shlex.join(map(str, command))}")
    return 0
