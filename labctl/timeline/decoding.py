"""Decode what a recorder wrote into its spool, with the events that were added: at once, or as it comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from labctl.structs import json_decode
from labctl.timeline.events import AnyEvent, Clock, Wire
from labctl.timeline.inferred_drops import InferredDrops
from labctl.timeline.joins import Joins, moment
from labctl.timeline.merge import Merger
from labctl.timeline.sources import kernel
from labctl.timeline.sources.packets import sightings
from labctl.timeline.sources.sockets import SocketSamples
from labctl.timeline.spool import CLOCK_PAYLOAD, WHOLE_LAB, Kind, Record
from labctl.timeline.wires import stacked_on, wires_of

if TYPE_CHECKING:
    from labctl.plan.operations import Plan


class RecordDecoder:
    """Turns records, which it is given in their order, into events."""

    def __init__(self, plan: Plan, nodes: Sequence[str]) -> None:
        """`nodes` are the names of the recorded nodes, by the index that records have."""
        self._nodes = nodes
        self._merger = Merger(wires_of(plan), nodes, stacked_on(plan))
        self._joins = Joins()
        self._inferred = InferredDrops()
        self._samples = SocketSamples()
        self._interfaces: dict[int, dict[int, str]] = {}
        self._first_clock: Clock | None = None
        self._clock = Clock()
        self.missing: list[str] = []  # what the recording cannot have
        self._others: list[AnyEvent] = []  # that are no packets, not yet returned

    @property
    def wires(self) -> tuple[Wire, ...]:
        """The wires of the lab, and those of further interfaces with packets."""
        return self._merger.wires

    @property
    def clock(self) -> Clock:
        """The clock of the start, with the offset at the end."""
        first = self._first_clock or self._clock
        return Clock(first.offset_ns, first.bracket_ns, self._clock.offset_ns)

    def add(self, records: Iterable[Record], events: Iterable[AnyEvent] = ()) -> None:
        """Take records, and events of other sources."""
        self._others += events
        for record in records:
            node = "" if record.node == WHOLE_LAB else self._nodes[record.node]
            match record.kind:
                case Kind.CLOCK:
                    self._clock = Clock(*CLOCK_PAYLOAD.unpack(record.payload))
                    self._first_clock = self._first_clock or self._clock
                case Kind.INTERFACES:
                    names = json_decode(record.payload, type=dict[int, str])
                    self._interfaces.setdefault(record.node, {}).update(names)
                case Kind.PACKETS:
                    known = self._interfaces.get(record.node, {})
                    self._merger.add(sightings(record.payload, node, known, self._clock))
                case Kind.SOCKETS:
                    self._others += self._samples.decode(node, record.at_ns, record.payload)
                case Kind.KERNEL:
                    self._others += kernel.events(record.payload, node)
                case Kind.SYSCALLS:
                    from labctl.timeline.sources.syscalls import calls

                    self._others += calls(record.payload, node)
                case Kind.MISSING:
                    self.missing.append((f"{node}: " if node else "") + record.payload.decode())
                case _:
                    pass

    def read(self, until_ns: int) -> tuple[tuple[AnyEvent, ...], int]:
        """Return events that are complete, in order, and the time up to which they are: at most `until_ns`.

        Everything that was recorded before `until_ns` has been added. An event that is added afterwards with an earlier
        time, such as a call that has returned, is among the next events.
        """
        packets, complete_ns = self._merger.packets(until_ns)
        ready = [event for event in self._others if event.at_ns < complete_ns]
        self._others = [event for event in self._others if event.at_ns >= complete_ns]
        return self._joined([*ready, *packets]), complete_ns

    def finish(self) -> tuple[AnyEvent, ...]:
        """Return all further events, in order."""
        others, self._others = self._others, []
        return self._joined([*others, *self._merger.finish()])

    def _joined(self, events: Iterable[AnyEvent]) -> tuple[AnyEvent, ...]:
        """Return the events in order, with the drops that they imply."""
        found = self._joins.join(events)
        drops = self._joins.join(self._inferred.of(found))
        return tuple(sorted([*found, *drops], key=moment)) if drops else found
