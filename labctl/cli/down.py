"""The end of labs that stay: `labctl down`, and `gc` for leftovers. Imports nothing that is slow to import."""

from __future__ import annotations

from labctl.cli.exit import complain
from labctl.cli.lab_selection import lab_name
from labctl.errors import InputError, LabctlError
from labctl.lab.client import registry, state_dir
from labctl.report.terminal import standard_output, waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def down(labs: Sequence[str], every: bool, force: bool) -> int:
    """Run `labctl down`: stop the named labs, all, or the only one. Return the worst exit status."""
    if every and labs:
        raise InputError("labctl down: give names of labs or --all, not both.")
    registry.sweep(complain)
    unregistered = [orphan.name for orphan in registry.orphans()]
    if every:
        chosen = [*state_dir.labs(), *unregistered]
        if not chosen:
            complain("No lab is running.")
    else:
        wanted: list[str | None] = [*labs] or [lab_name()]
        chosen = [name if name in unregistered else state_dir.choose(name) for name in wanted]
    screen = standard_output()
    worst = 0
    for name in dict.fromkeys(chosen):
        try:
            with waiting(f"stopping lab {name}"):
                registry.take_down(name, force=force)
        except LabctlError as error:
            complain(str(error))
            worst = max(worst, error.exit_status)
            continue
        screen.line(f"lab {name} was removed.")
    return worst


def gc() -> int:
    """Run `labctl gc`: remove leftovers of this user's dead labs, and list them."""
    screen = standard_output()
    found = registry.orphans()
    for orphan in found:
        registry.end(orphan)
        screen.line(f"stopped lab {orphan.name}, whose directory was deleted")
    removed = registry.sweep(complain)
    for path in removed:
        screen.line(f"removed {path}")
    if not removed and not found:
        screen.line("Nothing to remove: no dead lab of yours left anything.")
    return 0
