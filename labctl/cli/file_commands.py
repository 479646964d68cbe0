"""Commands that need no lab: `labctl examples`, `init`, `validate`, `plan` and `schema`."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from labctl.cli import files
from labctl.cli.exit import complain
from labctl.cli.files import Kind, explained, kind_of, load_topology, nothing_in, one_topology, unknown, yaml_files
from labctl.errors import InputError, LabctlError, LabError, describe_errno
from labctl.report.terminal import Ink, Screen, cells, pad, standard_output, waiting, wrap

_PACKAGE = Path(__file__).resolve().parent.parent
# The files that `labctl init` writes, and their sources. The YAML files name their schemas, for editors.
_STARTER = {
    **{name: _PACKAGE / "starter" / name for name in ("topology.yaml", "hello.yaml", "test_hello.py")},
    **{
        f".schemas/{kind}.schema.json": _PACKAGE / "schemas" / f"{kind}.schema.json"
        for kind in ("topology", "scenario")
    },
}


_OF_NO_PATH = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)


def examples(name: str | None, copy_to: Path | None) -> int:
    """Run `labctl examples`: list the examples, or print or copy one."""
    if name is None:
        if copy_to is not None:
            raise InputError("labctl examples: --copy needs a NAME. Try: labctl examples tcp-echo --copy DIR")
        list_examples()
    elif copy_to is None:
        standard_output().write([_example(name).read_text("utf-8").rstrip("\n")])
    else:
        copy_example(name, copy_to)
    return 0


def list_examples() -> None:
    """Print names and a sentence each. `labctl run` and `labctl plan` accept the names."""
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
        "Shapes, without a file: labctl plan SHAPE, or `topology: SHAPE` in a scenario",
        {
            "pair": "Two hosts, client and server, on a direct link.",
            "star:N": "N hosts on a switch.",
            "line:N": "N routers in a chain with a host at each end.",
            "tree:D,F": "Switches as a tree of depth D with fanout F, hosts at its leaves.",
            "mesh:N": "N routers, every two of them linked, with a host each.",
            "random:N,LINKS": "N routers with so many links at random, with a host each; random:N,LINKS,SEED.",
        },
        width,
    )


def copy_example(name: str, directory: Path) -> None:
    """Copy the file of a shipped example, and the shipped files that it names, to `directory`. Overwrite nothing."""
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
        raise InputError(f"{', '.join(taken)}: cannot copy: the file exists. Give another directory.")
    _write_new(directory, contents)


def _write_new(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Write files that do not exist, by their names in the directory: all, or none. InputError, LabError."""
    with ExitStack() as undo:
        for name, content in contents.items():
            path = directory / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    undo.callback(path.unlink)
                    file.write(content)
            except OSError as error:
                raise cannot_write(path, error) from error
        undo.pop_all()
    for name in contents:
        standard_output().line(f"wrote {directory / name}")


def _example(name: str) -> Path:
    found = files.shipped_scenario(name) or files.shipped_topology(name)
    if found is None:
        from labctl.topology.draft import SHAPES

        if shape := SHAPES.get(name.partition(":")[0]):
            raise InputError(f"{name}: a shape has no file. Try: labctl plan {shape.example}")
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
    """Return InputError if another path may work, LabError if the disk is full or broken."""
    number = error.errno or 0
    kind = LabError if number in _OF_NO_PATH else InputError
    return kind(f"{path}: cannot write: {describe_errno(number)}.")


def init(directory: Path) -> int:
    """Run `labctl init`: write the starter files. InputError if one exists already."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: is a file. Give the name of a directory; labctl creates it.")
    existing = [name for name in _STARTER if os.path.lexists(directory / name)]
    if existing:
        raise InputError(
            f"{directory}: already contains {', '.join(existing)}; labctl overwrites nothing. Give another directory."
        )
    _write_new(directory, {name: source.read_bytes() for name, source in _STARTER.items()})
    screen = standard_output()
    screen.line()
    screen.line("Try:")
    for command in (
        ("labctl", "run", directory),
        ("labctl", "plan", directory / "topology.yaml"),
        ("pytest", directory),
    ):
        screen.line(f"  {shlex.join(map(str, command))}")
    return 0


def validate(paths: Sequence[str]) -> int:
    """Run `labctl validate`: a line for each valid file on standard output, all errors on standard error."""
    screen = standard_output()
    look = screen.look
    labs, words = _kathara_labs(paths)
    explicit, found, errors = yaml_files(words, (Kind.SCENARIO, Kind.TOPOLOGY))
    explicit = [*labs, *explicit]
    valid, invalid = 0, len(errors)
    for error in errors:
        complain(str(error))
    for path in [*explicit, *found]:
        try:
            with waiting(f"checking {path}"):
                summary = _validated(path, strict=path in explicit)
        except InputError as error:
            complain(str(explained(path, Kind.NEITHER, error)))
            invalid += 1
            continue
        if summary:
            valid += 1
            screen.write([f"{look.paint(look.glyphs.passed, Ink.GOOD)} {path}: {summary}"])
    if not valid and not invalid:
        raise nothing_in(paths, "the directory contains no topology and no scenario.")
    if invalid:
        complain(f"{_count(invalid, 'file')} invalid" + (f", {valid} valid." if valid else "."))
        return InputError.exit_status
    return 0


def _kathara_labs(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return directories that are labs of Kathara, and the other words."""
    labs = [Path(word) for word in words if os.path.isfile(os.path.join(word, "lab.conf"))]
    return labs, [word for word in words if Path(word) not in labs]


def _validated(path: Path, *, strict: bool) -> str:
    """Return what the valid file at `path` contains; "" for a file of neither kind, unless `strict`."""
    kind = kind_of(path)
    if kind is Kind.SCENARIO:
        from labctl.scenario import load

        loaded = load(path, routes=False)
        steps = sum(1 for _ in loaded.walk())
        return f"scenario, {_count(steps, 'step')} on {_count(len(loaded.topology.hosts), 'host')}"
    if kind in (Kind.TOPOLOGY, Kind.FOREIGN) and (strict or kind is Kind.TOPOLOGY):
        from labctl import topology

        made = topology.load(path, routes=False, programs=False)
        if made.imported is not None:
            files.show_report(made.imported)
        else:
            files.warn_of_gateways(made)
        return f"topology, {_count(len(made.nodes), 'node')}, {_count(len(made.links), 'link')}"
    if strict:
        raise InputError(
            f"{path}: neither a topology (no `hosts`) nor a scenario (no `steps`). "
            "For a valid file of each kind: labctl init DIR"
        )
    return ""


def plan(topology: str | None, topo: str | None, format: str, lab: str | None, values: Sequence[str] = ()) -> int:
    """Run `labctl plan`: print the plan of a topology, or the difference from a running lab."""
    source = one_topology("plan", topology, topo)
    if lab is not None:
        from labctl.cli.lifecycle import show_difference

        if format in ("sh", "yaml"):
            raise InputError(f"labctl plan: --lab has no --format {format}. Try --format text or json.")
        return show_difference(source, lab, as_json=format == "json", values=values)
    from labctl.plan.build import build
    from labctl.plan.render import render_json, render_shell, render_text

    if format == "yaml":
        from labctl.topology.resolved_file import text_of

        standard_output().write_bytes(text_of(load_topology(source, values).file).encode())
        return 0
    with waiting(f"planning {source}"):
        planned = build(load_topology(source, values))
    render = {"text": render_text, "json": render_json, "sh": render_shell}[format]
    standard_output().write([render(planned).rstrip("\n")])
    return 0


def schema(kind: str) -> int:
    """Run `labctl schema`: print a published JSON Schema."""
    standard_output().write([(_PACKAGE / "schemas" / f"{kind}.schema.json").read_text("utf-8").rstrip("\n")])
    return 0


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
