"""`labctl down` and `labctl gc`: labs ended, and what dead ones left swept."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.cli.main import complain
from labctl.errors import InputError, LabctlError
from labctl.report.screen import standard_output
from labctl.report.waiting import waiting


def end_labs(names: Sequence[str], *, every: bool, force: bool) -> int:
    """Ends the labs that are named, or every one, or the only one; the worst exit status of them."""
    import os

    from labctl.cli.labs import LAB_VARIABLE
    from labctl.lab import orphans, registry

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
    from labctl.lab import orphans, registry

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
