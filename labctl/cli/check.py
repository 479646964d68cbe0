"""`labctl validate`, `labctl plan` and `labctl schema`: what needs neither privilege nor kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labctl.cli.app import PlanFormat, SchemaKind
from labctl.cli.find import Kind, files, kind_of, load_topology
from labctl.cli.main import complain
from labctl.errors import InputError
from labctl.report.screen import Ink, standard_output
from labctl.report.waiting import waiting

_BOTH = (Kind.SCENARIO, Kind.TOPOLOGY)
EXIT_WRONG = InputError.exit_status


def validate_files(words: list[str]) -> int:
    """A line for each good file on standard output, every mistake of every other on standard error."""
    screen = standard_output()
    look = screen.look
    given, found, errors = files(words, _BOTH)
    good = 0
    wrong = len(errors)
    for error in errors:
        complain(str(error))
    for path in [*given, *found]:
        try:
            with waiting(f"checking {path}"):
                said = _validated(path, strict=path in given)
        except InputError as error:
            from labctl.cli.foreign import answered

            complain(str(answered(path, Kind.NEITHER, error)))
            wrong += 1
            continue
        if said:
            good += 1
            screen.write([f"{look.paint(look.glyphs.passed, Ink.GOOD)} {path}: {said}"])
    if not good and not wrong:
        from labctl.cli.foreign import nothing_in

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
    from labctl import plan

    with waiting(f"planning {source}"):
        planned = plan.build(load_topology(source))
    render = {
        PlanFormat.TEXT: plan.render_text,
        PlanFormat.JSON: plan.render_json,
        PlanFormat.SH: plan.render_shell,
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
        from labctl.topology.files import schema

        return schema()
    from labctl import scenario

    return scenario.json_schema()


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
