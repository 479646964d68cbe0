"""What was done through the API, from the journal, as steps of a timeline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from labctl.api.journal import Activity, ActivityKind, Journal
from labctl.structs import replace
from labctl.timeline.events import Source, Step

if TYPE_CHECKING:
    from labctl.timeline.events import Timeline

_OF_SCENARIOS = (ActivityKind.CALL, ActivityKind.SCENARIO)  # which are in the recording, with their steps
_FAILURE = re.compile(r"E[A-Z0-9]+$|[A-Z]\w+(: |$)|exited with status [1-9]")  # an errno, an exception, a program's end
_SOURCES = {source: index for index, source in enumerate(Source)}


def with_activities(timeline: Timeline, journal: Journal) -> Timeline:
    """Return the timeline with the activities as steps; its times count from the moment when the lab was made."""
    origin_ns = round(journal.origin * 1e9)
    known = max((event.seq for event in timeline.events if event.source is Source.STEPS), default=-1)
    activities = (each for each in journal.activities() if each.kind not in _OF_SCENARIOS)
    steps = _steps(activities, origin_ns, known + 1)
    events = sorted((*timeline.events, *steps), key=lambda event: (event.at_ns, _SOURCES[event.source], event.seq))
    return replace(timeline, started_ns=origin_ns, events=tuple(events))


def _steps(activities: Iterator[Activity], origin_ns: int, first: int) -> Iterator[Step]:
    for number, activity in enumerate(activities):
        at_ns = origin_ns + round(activity.started_s * 1e9)
        has_ended = activity.duration_s is not None
        has_failed = _FAILURE.match(activity.outcome) is not None
        yield Step(
            at_ns=at_ns,
            host=activity.host,
            source=Source.STEPS,
            seq=first + number,
            index=str(number + 1),
            kind=activity.kind.value,
            title=f"{activity.kind} {activity.what}",
            until_ns=None if activity.duration_s is None else at_ns + round(activity.duration_s * 1e9),
            outcome="" if not has_ended else "failed" if has_failed else "passed",
            reason=activity.outcome if has_failed else "",
        )
