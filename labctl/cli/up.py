"""`labctl up`, and `labctl plan --lab`: a lab that stays is made, or changed to what an edited file says.

`labctl down` and `labctl gc`: labs ended, and what dead ones left swept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli.files import load_topology
from labctl.cli.main import Stopped, complain
from labctl.errors import InputError, LabctlError, LabGone
from labctl.report.terminal import Ink, Screen, standard_output, waiting
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.plan.diff import Difference
    from labctl.plan.operations import Plan
    from labctl.topology.model import Topology


def end_labs(names: Sequence[str], *, every: bool, force: bool) -> int:
    """Ends the labs that are named, or every one, or the only one; the worst exit status of them."""
    import os

    from labctl.cli.labs import LAB_VARIABLE
    from labctl.lab.client import orphans, registry

    if every and names:
        raise InputError("labctl down: give names, or --all, not both.")
    registry.sweep(complain)
    unregistered = [orphan.name for orphan in orphans.orphans()]
    if every:
        chosen = [*registry.labs(), *unregistered]
        if not chosen:
            complain("No lab is running.")
    else:
        wanted: list[str | None] = [*names] or [os.environ.get(LAB_VARIABLE) or None]
        chosen = [name if name in unregistered else registry.choose(name) for name in wanted]
    screen = standard_output()
    worst = 0
    for name in dict.fromkeys(chosen):
        try:
            with waiting(f"ending lab {name}"):
                registry.take_down(name, force=force)
        except LabctlError as error:
            complain(str(error))
            worst = max(worst, error.exit_status)
            continue
        screen.line(f"{name} is down; nothing of it is left.")
    return worst


def collect_garbage() -> int:
    """Sweeps what dead labs of this user left, and says what that was."""
    from labctl.lab.client import orphans, registry

    screen = standard_output()
    found = orphans.orphans()
    for orphan in found:
        orphans.end(orphan)
        screen.line(f"ended lab {orphan.name}, whose directory had been deleted")
    removed = registry.sweep(complain)
    for path in removed:
        screen.line(f"removed {path}")
    if not removed and not found:
        screen.line("Nothing to remove: no dead lab of yours has left anything.")
    return 0


_ATTEMPTS = 4  # the lab may be ended, or made, by another command while this one looks


class UpRequest(Struct, frozen=True):
    """The command line of `labctl up`. `source` is a file, a shape or the name of a shipped topology."""

    source: str
    name: str | None
    dry_run: bool


class Wanted(Struct, frozen=True):
    """What the lab is to be."""

    name: str
    topology: Topology
    plan: Plan
    source: str  # the file's text, or the shape
    visible_paths: tuple[Path, ...]


def bring_up(request: UpRequest) -> int:
    """Makes the lab, or changes the running lab of that name; says what was done. Nothing is done with `dry_run`."""
    from labctl.lab.client import registry

    with waiting(f"reading {request.source}"):
        wanted = _wanted(request)
    if problem := registry.lab_name_problem(wanted.name):
        raise InputError(f"The name `{wanted.name}` of a lab {problem}. Try --name.")
    screen = standard_output()
    if request.dry_run:
        _show_dry(screen, wanted)
        return 0
    registry.sweep(complain)
    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1
        running = wanted.name in registry.labs()
        try:
            (_change if running else _make)(screen, wanted)
        except Stopped as stopped:
            stopped.outcome = f"lab {wanted.name} {'is as it was' if running else 'was removed'}"
            raise
        except (InputError, LabGone):
            if last or running == (wanted.name in registry.labs()):
                raise
            continue
        break
    return 0


def show_difference(source: str, lab_name: str, *, as_json: bool) -> int:
    """`labctl plan TOPOLOGY --lab LAB`: what `labctl up` would change in the running lab."""
    from labctl.cli.labs import attach
    from labctl.plan.build import build
    from labctl.plan.render import render_difference_json

    planned = build(load_topology(source))
    with attach(lab_name) as lab:
        found = _difference(lab, planned)
    screen = standard_output()
    if as_json:
        screen.write([render_difference_json(found).rstrip("\n")])
    else:
        _show_changes(screen, found)
    return 0


def _wanted(request: UpRequest) -> Wanted:
    from labctl.plan.build import build

    made = load_topology(request.source)
    path = Path(request.source)
    source, visible = made.source or request.source, tuple[Path, ...]()
    if path.is_file():
        source, visible = path.read_text("utf-8", "replace"), (path.resolve().parent,)
    return Wanted(request.name or made.name, made, build(made), source, visible)


def _make(screen: Screen, wanted: Wanted) -> None:
    from labctl.lab.client.handle import Lab

    began = time.monotonic()
    from labctl.observe import services

    made = wanted.topology
    parts = [_count(len(made.nodes), "node"), _count(len(made.links), "link")]
    ready = sum(len(node.services) for node in made.nodes)
    paths: tuple[str | Path, ...] = (*wanted.visible_paths, *services.visible_paths(wanted.plan))
    with (
        waiting(f"making lab {wanted.name}: {', '.join(parts)}") as shown,
        Lab.up(wanted.plan, wanted.name, source=wanted.source, visible_paths=paths) as lab,
    ):
        shown.does(f"starting {_count(ready, 'service')} of lab {wanted.name}")
        services.start(lab, wanted.plan)
        lab.stay()
    counted = ", ".join([*parts, *([_count(ready, "service")] if ready else [])])
    screen.line(f"lab {wanted.name} is up: {counted}, in {time.monotonic() - began:.2f} s")
    if made.hosts:
        host = made.hosts[0].name
        choice = "" if _is_alone() else f" --lab {wanted.name}"
        screen.line(f"Try: labctl shell{choice} {host}, labctl exec{choice} {host} -- ip address, labctl inspect.")
        screen.line(f"To end it: labctl down {wanted.name}")


def _change(screen: Screen, wanted: Wanted) -> None:
    from labctl.lab.client.handle import Lab
    from labctl.observe import services

    with waiting(f"changing lab {wanted.name}"), Lab.attach(wanted.name) as lab, lab.changing():
        found = _difference(lab, wanted.plan)
        before = lab.describe()
        idle = _idle(lab, wanted.plan, found)
        if found or idle:
            with services.replacing(lab, before.plan, wanted.plan, found.ended, found.restarted):
                lab.reconcile(wanted.plan, source=wanted.source)
        elif before.source != wanted.source:
            lab.reconcile(wanted.plan, source=wanted.source)  # for `labctl inspect` to tell of the file as it is now
    if found or not idle:
        _show_changes(screen, found)
    _show_idle(screen, idle)
    screen.line(f"lab {wanted.name} is {'changed' if found or idle else 'as it was'}.")


def _idle(lab: Lab, wanted: Plan, found: Difference) -> tuple[str, ...]:
    """Services that are in the file as they were, but do not run."""
    from labctl.observe import services
    from labctl.plan.operations import runs_alike, services_of

    before, after = services_of(lab.describe().plan.nodes), services_of(wanted.nodes)
    return tuple(
        key
        for key in (services.not_running(lab, wanted) if after else ())
        if key in before and runs_alike(before[key][1], after[key][1]) and after[key][0] not in found.ended
    )


def _show_idle(screen: Screen, idle: tuple[str, ...]) -> None:
    for key in idle:
        screen.write([screen.look.paint(f"~ service {key}: started again, for it did not run", Ink.ODD)])


def _show_dry(screen: Screen, wanted: Wanted) -> None:
    from labctl.lab.client import registry
    from labctl.lab.client.handle import Lab
    from labctl.plan.render import render_text

    if wanted.name not in registry.labs():
        screen.line(f"lab {wanted.name} does not run; it would be made:")
        screen.write([render_text(wanted.plan).rstrip("\n")])
        return
    with Lab.attach(wanted.name) as lab:
        found = _difference(lab, wanted.plan)
        idle = _idle(lab, wanted.plan, found)
    if found or idle:
        screen.line(f"lab {wanted.name} would be changed:")
    if found or not idle:
        _show_changes(screen, found)
    _show_idle(screen, idle)


def _difference(lab: Lab, planned: Plan) -> Difference:
    """What there is to change. InputError when some of it cannot be changed while the lab runs."""
    from labctl.plan.diff import difference, refuse_changes

    before = lab.describe().plan
    refuse_changes(lab.name, before.nodes, planned.nodes)
    return difference(before, planned)


def _show_changes(screen: Screen, found: Difference) -> None:
    from labctl.plan.render import render_difference_text
    from labctl.printable import printable

    inks = {"+": Ink.GOOD, "-": Ink.BAD, "~": Ink.ODD}
    paint: Callable[[str, Ink], str] = screen.look.paint
    lines = printable(render_difference_text(found)).rstrip("\n").split("\n")
    screen.write([paint(line, inks.get(line[:1], Ink.PLAIN)) for line in lines])


def _is_alone() -> bool:
    from labctl.lab.client import registry

    return len(registry.labs()) == 1


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
