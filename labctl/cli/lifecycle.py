"""Labs that stay: `labctl up`, and the difference that `labctl plan --lab` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli.exit import Stopped, complain
from labctl.cli.files import load_topology, one_topology, warn_of_gateways, with_way_out
from labctl.cli.lab_selection import attach
from labctl.errors import InputError, LabGone, MachineError
from labctl.report.terminal import Ink, Screen, standard_output, waiting
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.description import Description, FaultInfo
    from labctl.observe.services import Failure
    from labctl.plan.diff import Difference
    from labctl.plan.operations import Operation, Plan
    from labctl.topology.model import Topology
    from labctl.topology.netem import Impairment

_FAILURES_SHOWN = 8  # with their output
_ATTEMPTS = 4  # another command may stop or create the lab in the meantime


def up(
    topology: str | None,
    topo: str | None,
    name: str | None = None,
    dry_run: bool = False,
    values: Sequence[str] = (),
    strict: bool = False,
) -> int:
    """Run `labctl up`."""
    return bring_up(one_topology("up", topology, topo), name, dry_run=dry_run, values=values, strict=strict)


class Target(Struct, frozen=True):
    """The lab to create, or the state to update it to."""

    name: str
    topology: Topology
    plan: Plan
    source: str  # the file's text, or the shape
    visible_paths: tuple[Path, ...]


def bring_up(
    source: str,
    name: str | None = None,
    *,
    dry_run: bool = False,
    values: Sequence[str] = (),
    strict: bool = False,
) -> int:
    """Create the lab, or update the running lab of that name, and print the changes.

    `source` is a file or a shape, and `values` are values of its parameters. `strict`: no command may fail.
    """
    from labctl.lab.client import registry, state_dir

    with waiting(f"reading {source}"):
        target = _target(source, name, values)
    if problem := state_dir.lab_name_problem(target.name):
        raise InputError(f"the lab name `{target.name}` {problem}. Try: --name NAME")
    screen = standard_output()
    if dry_run:
        _show_dry_run(screen, target)
        return 0
    registry.sweep(complain)
    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1
        running = target.name in state_dir.labs()
        try:
            (_update if running else _create)(screen, target, strict=strict)
        except Stopped as stopped:
            stopped.outcome = f"lab {target.name} {'is unchanged' if running else 'was removed'}"
            raise
        except MachineError as error:
            raise with_way_out(error, target.topology) from error
        except (InputError, LabGone):
            if last or running == (target.name in state_dir.labs()):
                raise
            continue
        break
    return 0


def show_difference(source: str, lab: str, *, as_json: bool, values: Sequence[str] = ()) -> int:
    """Run `labctl plan TOPOLOGY --lab LAB`: show what `labctl up` would change in the running lab."""
    from labctl.plan.build import build
    from labctl.plan.render import render_difference_json

    planned = build(load_topology(source, values))
    with attach(lab) as attached:
        found = difference_from(attached, planned)
    screen = standard_output()
    if as_json:
        screen.write([render_difference_json(found).rstrip("\n")])
    else:
        _show_changes(screen, found)
    return 0


def _target(source: str, name: str | None, values: Sequence[str]) -> Target:
    from labctl.plan.build import build

    topology = load_topology(source, values, to_create=True)
    path = Path(source)
    text, visible = topology.source or source, tuple[Path, ...]()
    if topology.imported is not None:
        text, visible = topology.imported.text, (path.resolve() if path.is_dir() else path.resolve().parent,)
    elif path.is_file():
        text, visible = path.read_text("utf-8", "replace"), (path.resolve().parent,)
    return Target(name or topology.name, topology, build(topology), text, visible)


def _create(screen: Screen, target: Target, *, strict: bool) -> None:
    from labctl.lab.client.handle import Lab

    started = time.monotonic()
    topology = target.topology
    if topology.imported is None:
        warn_of_gateways(topology)
    parts = [_count(len(topology.nodes), "node"), _count(len(topology.links), "link")]
    ready = sum(len(node.services) for node in topology.nodes)
    paths: tuple[str | Path, ...] = target.visible_paths
    needs_services = any(node.services or node.commands or node.tree for node in target.plan.nodes)
    failures: Sequence[Failure] = ()
    if needs_services:
        from labctl.observe import services

        paths += services.visible_paths(target.plan)
    with (
        waiting(f"creating lab {target.name}: {', '.join(parts)}") as shown,
        Lab.up(target.plan, target.name, source=target.source, visible_paths=paths) as lab,
    ):
        if needs_services:
            shown.does(f"starting {_count(ready, 'service')} of lab {target.name}")
            failures = services.start(lab, target.plan, strict=strict)
        lab.stay()
    _complain_of(failures)
    counted = ", ".join([*parts, *([_count(ready, "service")] if ready else [])])
    screen.line(f"lab {target.name} is up: {counted}, in {time.monotonic() - started:.2f} s")
    if topology.hosts:
        from labctl.lab.client import state_dir

        host = topology.hosts[0].name
        choice = "" if len(state_dir.labs()) == 1 else f" --lab {target.name}"
        screen.line(f"Try: labctl shell{choice} {host}")
        screen.line(f"     labctl exec{choice} {host} -- ip address")
        screen.line(f"     labctl inspect {target.name}")
        screen.line(f"To stop it: labctl down {target.name}")


def _complain_of(failures: Sequence[Failure]) -> None:
    """Report commands and services that failed and may fail."""
    for failure in failures[:_FAILURES_SHOWN]:
        complain(f"warning: {failure}")
    if further := [f"{one.program} of {one.node}" for one in failures[_FAILURES_SHOWN:]]:
        complain(f"warning: {len(further)} more failed: {', '.join(dict.fromkeys(further))}")
    if failures:
        complain("The lab is up without what failed. With --strict, a failure ends it.")


def _update(screen: Screen, target: Target, *, strict: bool) -> None:
    from labctl.lab.client.handle import Lab
    from labctl.observe import services

    failures: list[Failure] = []
    with waiting(f"updating lab {target.name}"), Lab.attach(target.name) as lab, lab.changing():
        found = difference_from(lab, target.plan)
        before = lab.describe()
        faults = before.faults
        if faults:
            lab.heal()
            before = lab.describe()
        strayed = _strayed(lab, before)
        lab.apply(each for each, _ in strayed)
        idle = _idle(lab, target.plan, found)
        if found or idle:
            with services.replacing(
                lab, before.plan, target.plan, found.ended, found.restarted, strict=strict
            ) as failures:
                lab.reconcile(target.plan, source=target.source)
        elif before.source != target.source:
            lab.reconcile(target.plan, source=target.source)  # so that `labctl inspect` reports the current file
    _complain_of(failures)
    if found or not (idle or faults or strayed):
        _show_changes(screen, found)
    _show_idle(screen, idle)
    _show_restored(screen, faults, strayed)
    changed = found or idle or faults or strayed
    screen.line(f"lab {target.name} {'was updated' if changed else 'is unchanged: its topology did not change'}.")


def _idle(lab: Lab, planned: Plan, found: Difference) -> tuple[str, ...]:
    """Return services that the file has unchanged, but that do not run."""
    from labctl.observe import services
    from labctl.plan.operations import runs_alike, services_of

    before, after = services_of(lab.describe().plan.nodes), services_of(planned.nodes)
    return tuple(
        key
        for key in (services.not_running(lab, planned) if after else ())
        if key in before and runs_alike(before[key][1], after[key][1]) and after[key][0] not in found.ended
    )


def _show_idle(screen: Screen, idle: tuple[str, ...]) -> None:
    for key in idle:
        screen.write([screen.look.paint(f"~ service {key}: restarted, because it did not run", Ink.ODD)])


def _show_dry_run(screen: Screen, target: Target) -> None:
    from labctl.lab.client import state_dir
    from labctl.lab.client.handle import Lab
    from labctl.plan.render import render_text

    if target.name not in state_dir.labs():
        screen.line(f"lab {target.name} does not run. Operations that would create it:")
        screen.write([render_text(target.plan).rstrip("\n")])
        return
    with Lab.attach(target.name) as lab:
        found = difference_from(lab, target.plan)
        idle = _idle(lab, target.plan, found)
        before = lab.describe()
        faults, strayed = before.faults, _strayed(lab, before)
    if found or idle or faults or strayed:
        screen.line(f"lab {target.name} would be updated:")
    if found or not (idle or faults or strayed):
        _show_changes(screen, found)
    _show_idle(screen, idle)
    _show_restored(screen, faults, strayed)


def _strayed(lab: Lab, before: Description) -> list[tuple[Operation, str]]:
    """Return what gives the links their states of the plan in force, with a line for people.

    Faults, which also set links down, have been healed.
    """
    from labctl.plan.build import set_impairments
    from labctl.plan.operations import SetImpairment, SetUp
    from labctl.topology.netem import Impairment

    plan, in_force, none = before.plan, lab.impaired(), Impairment()
    planned = {
        (one.node, one.ifname): one.impairment
        for one in plan.operations
        if isinstance(one, SetImpairment) and one.impairment
    }
    changed = [end for end in {**planned, **in_force} if not _is_same(planned.get(end, none), in_force.get(end, none))]
    ups = [SetUp(*end) for end in before.down]
    found: list[tuple[Operation, str]] = [
        (one, f"{one.node}:{one.ifname}: set up again") for one in ups if one in plan.operations
    ]
    for end in changed:
        found += [
            (one, f"{':'.join(end)}: impairment as in the file again")
            for one in set_impairments(plan, [end], planned.get(end))
        ]
    return found


def _is_same(planned: Impairment, present: Impairment) -> bool:
    """Return whether it is in force; of a profile the present moment is."""
    return planned == present or (planned.profile is not None and planned.profile == present.profile)


def _show_restored(screen: Screen, faults: Sequence[FaultInfo], strayed: Sequence[tuple[Operation, str]]) -> None:
    lines = [f"~ fault {fault.text}: healed" for fault in faults] + [f"~ {line}" for _, line in strayed]
    screen.write([screen.look.paint(line, Ink.ODD) for line in lines])


def difference_from(lab: Lab, planned: Plan) -> Difference:
    """Return the changes."""
    from labctl.plan.diff import difference

    return difference(lab.describe().plan, planned)


def _show_changes(screen: Screen, found: Difference) -> None:
    from labctl.plan.render import render_difference_text
    from labctl.printable import printable

    inks = {"+": Ink.GOOD, "-": Ink.BAD, "~": Ink.ODD}
    paint: Callable[[str, Ink], str] = screen.look.paint
    lines = printable(render_difference_text(found)).rstrip("\n").split("\n")
    screen.write([paint(line, inks.get(line[:1], Ink.PLAIN)) for line in lines])


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
