"""What happened in a lab, as text for a failed test's report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from labctl.api.journal import ActivityKind, Snapshot, describe
from labctl.errors import LabctlError
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.api.core import Core
    from labctl.api.journal import Activity
    from labctl.lab.handle import Lab as Engine
    from labctl.scenario.programs import Program

SHOWN = 200  # activities
SOCKETS_SHOWN = 40  # of each node
_SEEN_IN = "_labctl_seen_in"  # an attribute of errors: the labs whose sockets were looked at when it was raised
LARGEST_SNAPSHOT = 64  # nodes; each takes some 100 us


def report(core: Core, after_s: float) -> str:
    """See `Lab.report`."""
    try:
        let_crash(core, core.programs.everything())
        earlier = (line for each in tuple(core.journal.snapshots) if each.at_s > after_s for line in each.lines)
        return "\n".join((*_activities(core, after_s), *earlier, *_sockets(core, "sockets")))
    except Exception as error:  # noqa: BLE001  # a report of a failure must not hide it behind another one
        return f"lab {core.model.name}: cannot report what happened: {type(error).__name__}: {error}"


def let_crash(core: Core, programs: Iterable[Program]) -> None:
    """Wait for what may be the cause of a failure: a program that is about to end by itself."""
    from labctl.scenario.last_look import settle

    if not core.closed and not core.is_forked:
        with suppress(LabctlError, RuntimeError):  # the lab has ended, or is closed by another thread
            settle(core.engine, core.condition, programs)


def _activities(core: Core, after_s: float) -> Iterator[str]:
    activities = [each for each in core.journal.activities() if _goes_on_after(each, after_s)]
    yield f"lab {core.model.name} ({core.model.source or 'built in code'}), {core.state}: what was done on its hosts"
    left_out = core.journal.forgotten + max(0, len(activities) - SHOWN)
    if left_out:
        yield f"  ... {left_out} earlier ones are left out"
    if not activities:
        yield "  nothing"
    for each in activities[-SHOWN:]:
        yield f"  {each}"
        yield from _output(each)


def _goes_on_after(activity: Activity, after_s: float) -> bool:
    if activity.kind is ActivityKind.SERVICE:  # what ended in an earlier test matters to the later ones
        return True
    return activity.duration_s is None or activity.started_s + activity.duration_s > after_s


def _output(activity: Activity) -> Iterator[str]:
    for name, text in (("stdout", activity.stdout), ("stderr", activity.stderr)):
        for line in text.splitlines():
            yield f"             {name}: {line}"


def take_snapshot(core: Core, title: str) -> None:
    """Remember the sockets as they are now. Never raises LabctlError."""
    journal = core.journal
    journal.snapshots.append(Snapshot(monotonic() - journal.origin, tuple(_sockets(core, title))))


def snapshot_of_failure(core: Core, error: BaseException) -> None:
    """The sockets as they are when an error leaves the `with` of a program, which is to end: once for each error."""
    labs: set[int] = vars(error).setdefault(_SEEN_IN, set())  # it may leave several such blocks, of several labs
    if id(core) not in labs and len(core.model.nodes) <= LARGEST_SNAPSHOT:
        labs.add(id(core))
        take_snapshot(core, f"sockets at {describe(error)}")


def _sockets(core: Core, title: str) -> Iterator[str]:
    if not core.closed and not core.is_forked:
        yield from socket_lines(core.engine, title)


def socket_lines(lab: Engine, title: str) -> Iterator[str]:
    """The sockets of all nodes as they are now. Never raises LabctlError."""
    from labctl.observe.sockets import Transport, sockets

    yield title
    none = True
    for node in lab.nodes:
        try:
            found = [one for one in sockets(lab, node) if one.transport is not Transport.UNIX or one.path]
        except (LabctlError, RuntimeError) as error:
            yield f"  {node}: cannot be listed: {error}"
            none = False
            continue
        none = none and not found
        for one in found[:SOCKETS_SHOWN]:
            yield f"  {node}: {one}"
        if len(found) > SOCKETS_SHOWN:
            yield f"  {node}: and {len(found) - SOCKETS_SHOWN} more"
    if none:
        yield "  none"
