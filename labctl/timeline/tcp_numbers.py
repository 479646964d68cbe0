"""Relative sequence numbers and retransmissions of TCP, as one wire shows them."""

from __future__ import annotations

from labctl.structs import Struct
from labctl.timeline.events import Flow, Header

_SIZE = 1 << 32  # sequence numbers (RFC 9293, section 3.4)
_HALF = 1 << 31
_DIRECTIONS_MAX = 100_000  # kept; the oldest are forgotten


class Numbers(Struct, frozen=True, gc=False):
    """The relative numbers of a segment; None for what is not TCP, `ack` also without ACK."""

    seq: int | None = None
    ack: int | None = None
    is_retransmission: bool = False


_NONE = Numbers()


class Direction:
    """One direction of a connection. Relative numbers do not wrap."""

    __slots__ = ("following", "gaps", "opposite", "relative", "start")

    def __init__(self, start: int, relative: int) -> None:
        self.start = start  # the absolute number of its first segment
        self.following = start  # the absolute number after the highest that was seen
        self.relative = relative  # the same, relative
        self.gaps: list[tuple[int, int]] = []  # relative ranges below that were not seen
        self.opposite: Direction | None = None

    def moved(self) -> Direction:
        """Return this direction as another wire continues it."""
        one = Direction(self.start, self.relative)
        one.following, one.gaps = self.following, list(self.gaps)
        return one

    def relative_of(self, number: int) -> int:
        return self.relative + (number - self.following + _HALF) % _SIZE - _HALF

    def add(self, begin: int, end: int) -> bool:
        """Add a range (relative); return whether any of it was seen before."""
        if begin >= self.relative:
            if begin > self.relative:
                self.gaps.append((self.relative, begin))
            self._extend(end)
            return False
        missing = [gap for gap in self.gaps if gap[0] < end and begin < gap[1]]
        new = sum(min(last, end) - max(first, begin) for first, last in missing)
        for gap in missing:
            self.gaps.remove(gap)
            self.gaps += [part for part in ((gap[0], begin), (end, gap[1])) if part[0] < part[1]]
        new += max(end - self.relative, 0)
        if end > self.relative:
            self._extend(end)
        return new < end - begin

    def _extend(self, end: int) -> None:
        self.following = (self.following + end - self.relative) % _SIZE
        self.relative = end


class SegmentNumbers:
    """Numbers the segments of one wire, in their order.

    A SYN has the number 0. In a connection that began before the first packet, the first number that is seen of a
    direction, in a segment or in an acknowledgement, becomes 1, as in Wireshark. A connection that moves here from
    another wire, by a bond or another route, keeps its numbers: `latest` is shared by the wires of a lab.
    """

    def __init__(self, latest: dict[Flow, Direction] | None = None) -> None:
        self._directions: dict[Flow, Direction] = {}
        self._latest = {} if latest is None else latest  # of all wires

    def number(self, header: Header, *, is_forwarded: bool = False) -> Numbers:
        """Return the numbers of a segment; `is_forwarded`: it was on another wire before."""
        flow = header.flow
        if flow is None or header.protocol != "tcp" or not (header.flags or header.window):
            return _NONE
        flags, seq = header.flags, header.seq
        is_syn = "SYN" in flags
        one = self._directions.get(flow)
        if one is None or (is_syn and seq != one.start):
            one = self._begin(flow, seq, is_syn, is_first="ACK" not in flags)
            if is_forwarded:  # what the other wire has seen is this segment
                one.relative, one.following = one.relative_of(seq), seq
        relative = one.relative_of(seq)
        size = header.payload_bytes + is_syn + ("FIN" in flags)
        again = one.add(relative, relative + size) if size else False
        if "ACK" not in flags:
            return Numbers(relative, None, again)
        opposite = one.opposite
        if opposite is None:
            opposite = self._begin(flow.reverse, header.ack, False, is_first=False)
        return Numbers(relative, opposite.relative_of(header.ack), again)

    def _begin(self, flow: Flow, seq: int, is_syn: bool, *, is_first: bool) -> Direction:
        """Begin a direction; `is_first`: of a new connection, so that the other direction is that of an old one."""
        if len(self._directions) >= _DIRECTIONS_MAX:
            for old in list(self._directions)[: _DIRECTIONS_MAX // 2]:
                del self._directions[old]
        known = None if is_syn else self._latest.get(flow)
        one = Direction(seq, 0 if is_syn else 1) if known is None else known.moved()
        if len(self._latest) >= _DIRECTIONS_MAX:
            self._latest.clear()
        self._latest[flow] = one
        reverse = flow.reverse
        opposite = self._directions.get(reverse)
        if is_syn and is_first and opposite is not None:
            del self._directions[reverse]
            opposite = None
        if opposite is not None:
            one.opposite, opposite.opposite = opposite, one
        self._directions[flow] = one
        return one
