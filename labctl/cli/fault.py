"""`labctl fault`: inject faults into a lab that stays, list them and heal them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl.cli.lab_selection import attach
from labctl.errors import InputError
from labctl.plan.fault_effects import FaultKind
from labctl.report.terminal import Screen, age, standard_output, table
from labctl.units import format_duration

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.description import FaultInfo
    from labctl.plan.fault_effects import FaultPlan
    from labctl.report.terminal import Cell, Look

_FORMS = {
    FaultKind.PARTITION: "fault partition h1,h2 h3",
    FaultKind.ISOLATE: "fault isolate h1",
    FaultKind.BLACKHOLE: "fault blackhole 10.0.2.0/24 --on gw",
    FaultKind.DOWN: "fault down h1 s1",
    FaultKind.FLAP: "fault flap h1 s1 --period 2s --times 5",
    FaultKind.MTU: "fault mtu h1 s1 1280",
    FaultKind.REMOVE_ADDRESS: "fault remove-address h1 10.0.0.1",
    FaultKind.REMOVE_ROUTE: "fault remove-route h1 default",
    FaultKind.PAUSE: "fault pause server/web",
    FaultKind.KILL: "fault kill server/web",
    FaultKind.DNS: "fault dns server --on client",
}


def fault(
    action: str,
    words: Sequence[str],
    on: tuple[str, ...],
    one_way: bool,
    times: int | None,
    period: str | None,
    via: str | None,
    port: str | None,
    duration: str | None,
    name: str | None,
    format: str,
    lab: str | None,
) -> int:
    """Run `labctl fault`."""
    screen = standard_output()
    if action in ("list", "heal"):
        with attach(lab) as attached:
            (_heal if action == "heal" else _list)(screen, attached, words, format)
        return 0
    given = {"on": list(on), "one_way": one_way, "times": times, "period": period, "via": via, "port": port}
    kind = FaultKind(action.replace("-", "_"))
    value = value_of(kind, words, {key: each for key, each in given.items() if each})
    duration_s = _seconds(duration)
    with attach(lab) as attached:
        plan = _planned(attached, kind, value)
        number = attached.begin_fault(plan, name=name or "", duration_s=duration_s, is_owned=False)
        screen.line(f"fault {number}: {plan.text}" + (f", for {format_duration(duration_s)}" if duration_s else ""))
        if not duration_s:
            screen.line(f"To heal it: labctl fault heal {name or number}")
    return 0


def value_of(kind: FaultKind, words: Sequence[str], options: dict[str, object]) -> object:
    """Return the value of the fault as files have it. InputError shows the right form."""
    allowed = {
        FaultKind.PARTITION: ("one_way",), FaultKind.BLACKHOLE: ("on", "port"), FaultKind.FLAP: ("times", "period"),
        FaultKind.REMOVE_ROUTE: ("via",), FaultKind.DNS: ("on",),
    }.get(kind, ())  # fmt: skip
    for key in options:
        if key not in allowed:
            raise InputError(f"fault {kind}: takes no --{key.replace('_', '-')}. Try: labctl {_FORMS[kind]}")
    needed = {FaultKind.DOWN: 2, FaultKind.FLAP: 2, FaultKind.MTU: 3, FaultKind.REMOVE_ADDRESS: 2,
              FaultKind.REMOVE_ROUTE: 2}.get(kind, 0)  # fmt: skip
    if len(words) != needed if needed else not words:
        raise InputError(f"fault {kind}: has {len(words)} arguments. Try: labctl {_FORMS[kind]}")
    match kind:
        case FaultKind.PARTITION:
            return {"groups": [word.split(",") for word in words], **options}
        case FaultKind.FLAP:
            return {"link": [*words], **options}
        case FaultKind.MTU:
            return {"link": [*words[:2]], "to": words[2]}
        case FaultKind.REMOVE_ADDRESS:
            return {"on": words[0], "address": words[1]}
        case FaultKind.REMOVE_ROUTE:
            return {"on": words[0], "to": words[1], **options}
        case FaultKind.BLACKHOLE:
            return {"to": [*words], **options}
        case FaultKind.DNS:
            return {"names": [*words], **options}
        case _:
            return [part for word in words for part in word.split(",")]


def _planned(lab: Lab, kind: FaultKind, value: object) -> FaultPlan:
    from labctl.plan.build import topology_of
    from labctl.plan.faults import read

    try:
        return read(kind, value).plan(topology_of(lab.describe().plan))
    except ValueError as error:
        hint = getattr(error, "what_to_try", "")
        raise InputError(f"fault {kind}: {error}" + (f"; {hint}" if hint else "")) from error


def _seconds(duration: str | None) -> float | None:
    from labctl.units import duration_s

    try:
        return None if duration is None else duration_s(duration)
    except ValueError as error:
        raise InputError(f"--for {duration}: {error}") from error


def _heal(screen: Screen, lab: Lab, words: Sequence[str], format: str) -> None:
    """Heal the faults with these numbers or names; all without any."""
    present = lab.describe().faults
    every = not words or "all" in words
    known = {str(each.number): each for each in present} | {each.name: each for each in present if each.name}
    unknown = [word for word in words if word not in known and not every]
    if unknown:
        listed = ", ".join(each.name or str(each.number) for each in present) or "none"
        raise InputError(f"fault {unknown[0]}: is not in force in lab {lab.name}. In force: {listed}.")
    chosen = present if every else tuple(dict.fromkeys(known[word] for word in words))
    if chosen:
        lab.heal(each.number for each in chosen)
    for each in chosen:
        screen.line(f"healed {each.text}")
    if not chosen:
        screen.line(f"lab {lab.name} has no fault.")


def _list(screen: Screen, lab: Lab, words: Sequence[str], format: str) -> None:
    if words:
        raise InputError(f"fault list: takes no arguments. Try: labctl fault list --lab {words[0]}")
    faults = lab.describe().faults
    if format == "json":
        screen.write_bytes(json.dumps([each.as_data() for each in faults], indent=2).encode() + b"\n")
    elif not faults:
        screen.line(f"lab {lab.name} has no fault.")
    else:
        screen.write(fault_table(faults, screen.look))


def fault_table(faults: Sequence[FaultInfo], look: Look) -> list[str]:
    """Return a table of faults that are in force."""
    now = time.time()
    rows: list[list[Cell | str]] = []
    for each in faults:
        left_s = None if each.duration_s is None else max(0.0, each.began_at + each.duration_s - now)
        until = "its client ends" if each.is_owned else "healed"
        if left_s is not None:
            until = f"in {format_duration(round(left_s, 1))}"
        rows.append([str(each.number), each.name or "-", age(now - each.began_at), until, each.text])
    return table(look, ("FAULT", "NAME", "SINCE", "UNTIL", "WHAT"), rows)
