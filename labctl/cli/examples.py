"""`labctl examples` and `labctl init`: where people begin.

`labctl validate`, `labctl plan` and `labctl schema`: what needs neither privilege nor kernel.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path
from typing import Any

from labctl.cli import files
from labctl.cli.app import PlanFormat, SchemaKind
from labctl.cli.files import Kind, kind_of, load_topology, unknown, yaml_files
from labctl.cli.main import complain
from labctl.errors import InputError, LabctlError, LabError, describe_errno
from labctl.report.terminal import Ink, Screen, cells, pad, standard_output, waiting, wrap

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
    scenarios = {name: _about(path) for name, path in files.shipped_scenarios().items()}
    topologies = {name: files.first_comment(path) for name, path in files.shipped_topologies().items()}
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
    found = files.shipped_scenario(name) or files.shipped_topology(name)
    if found is None:
        from labctl.topology.generators import SHAPES

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


_BOTH = (Kind.SCENARIO, Kind.TOPOLOGY)
EXIT_WRONG = InputError.exit_status


def validate_files(words: list[str]) -> int:
    """A line for each good file on standard output, every mistake of every other on standard error."""
    screen = standard_output()
    look = screen.look
    given, found, errors = yaml_files(words, _BOTH)
    good = 0
    wrong = len(errors)
    for error in errors:
        complain(str(error))
    for path in [*given, *found]:
        try:
            with waiting(f"checking {path}"):
                said = _validated(path, strict=path in given)
        except InputError as error:
            from labctl.cli.files import answered

            complain(str(answered(path, Kind.NEITHER, error)))
            wrong += 1
            continue
        if said:
            good += 1
            screen.write([f"{look.paint(look.glyphs.passed, Ink.GOOD)} {path}: {said}"])
    if not good and not wrong:
        from labctl.cli.files import nothing_in

        raise nothing_in(words, "no topology and no scenario in there.")
    if wrong:
        complain(f"{_count(wrong, 'file')} wrong, {good} good." if good else f"{_count(wrong, 'file')} wrong.")
        return EXIT_WRONG
    return 0


def _validated(path: Path, *, strict: bool) -> str:
    """What the good file at `path` is, in a few words; "" for a file that is neither and was not asked for by name."""
    kind = kind_of(path)
    if kind is Kind.SCENARIO:
        from labctl.scenario import load

        loaded = load(path, routes=False)
        steps = sum(1 for _ in loaded.walk())
        return f"scenario, {_count(steps, 'step')} on {_count(len(loaded.topology.hosts), 'host')}"
    if kind is Kind.TOPOLOGY:
        from labctl import topology

        made = topology.load(path, routes=False)
        return f"topology, {_count(len(made.nodes), 'node')}, {_count(len(made.links), 'link')}"
    if strict:
        raise InputError(
            f"{path}: is neither a topology (it has no `hosts`) nor a scenario (it has no `steps`). "
            "For one of each that works: labctl init DIR"
        )
    return ""


def show_plan(source: str, format: PlanFormat) -> int:
    """Prints the plan of a file, a shape or a shipped topology."""
    from labctl.plan.build import build
    from labctl.plan.render import render_json, render_shell, render_text

    with waiting(f"planning {source}"):
        planned = build(load_topology(source))
    render = {
        PlanFormat.TEXT: render_text,
        PlanFormat.JSON: render_json,
        PlanFormat.SH: render_shell,
    }[format]
    standard_output().write([render(planned).rstrip("\n")])
    return 0


def show_schema(kind: SchemaKind) -> int:
    """Prints a JSON Schema: the published ones of output as they are, a file's as its model gives it."""
    if kind in (SchemaKind.RESULT, SchemaKind.INSPECT):
        path = Path(__file__).resolve().parent.parent / "schemas" / f"{kind.value}.schema.json"
        text = path.read_text("utf-8").rstrip("\n")
    else:
        import json

        text = json.dumps(_file_schema(kind), indent=2)
    standard_output().write([text])
    return 0


def _file_schema(kind: SchemaKind) -> dict[str, Any]:
    if kind is SchemaKind.TOPOLOGY:
        from labctl.topology.schema import schema

        return schema()
    from labctl import scenario

    return scenario.json_schema()


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
