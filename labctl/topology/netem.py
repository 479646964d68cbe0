"""Impairments as values: what netem(8), tbf(8) and a queue below them do with packets that an interface sends."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from labctl.structs import Struct, replace


class Distribution(StrEnum):
    """How delays vary around the delay (tc-netem(8)): the jitter is half the width of `uniform`, else the scale."""

    UNIFORM = "uniform"
    NORMAL = "normal"
    PARETO = "pareto"
    PARETONORMAL = "paretonormal"


class Discipline(StrEnum):
    """What the queue of a link with a rate does with packets."""

    FIFO = "fifo"
    CODEL = "codel"
    FQ_CODEL = "fq_codel"
    CAKE = "cake"
    RED = "red"


class GilbertElliott(Struct, frozen=True):
    """Losses in bursts: a link with a good and a bad state (tc-netem(8), gemodel). Shares are of a million packets."""

    p_ppm: int  # from good to bad, with each packet
    r_ppm: int  # from bad to good
    bad_loss_ppm: int = 1_000_000  # 1-h: lost in the bad state
    good_loss_ppm: int = 0  # 1-k: lost in the good state

    def __str__(self) -> str:
        from labctl.units import format_ppm

        return " ".join(map(format_ppm, (self.p_ppm, self.r_ppm, self.bad_loss_ppm, self.good_loss_ppm)))


class QueueUnit(StrEnum):
    PACKETS = "packets"
    BYTES = "bytes"
    TIME = "us"


class QueueLimit(Struct, frozen=True):
    """The size of a queue: packets, bytes, or the microseconds that they take at the link's rate."""

    amount: int
    unit: QueueUnit

    def __str__(self) -> str:
        from labctl.units import format_size, format_us

        forms = {QueueUnit.PACKETS: "{}packets".format, QueueUnit.BYTES: format_size, QueueUnit.TIME: format_us}
        return forms[self.unit](self.amount)


class Impairment(Struct, frozen=True, omit_defaults=True):
    """What happens to packets that an interface sends, as netem and tbf do it; 0 and None are none. False if all are.

    A share is of a million packets. A correlation is the share of a random number that comes from the one before.
    `pairs` replace the whole for packets to one neighbour; `profile` replaces it over time.
    """

    delay_us: int = 0
    jitter_us: int = 0  # delays vary around `delay_us`, see `distribution`
    loss_ppm: int = 0
    rate_bit_s: int = 0  # with Ethernet headers; 0 for no limit
    distribution: Distribution = Distribution.UNIFORM
    delay_correlation_ppm: int = 0
    loss_correlation_ppm: int = 0
    gemodel: GilbertElliott | None = None
    duplicate_ppm: int = 0
    duplicate_correlation_ppm: int = 0
    corrupt_ppm: int = 0  # one bit is inverted
    corrupt_correlation_ppm: int = 0
    reorder_ppm: int = 0  # sent at once, ahead of those that are delayed
    reorder_correlation_ppm: int = 0
    gap: int = 0  # only every n-th packet may be reordered
    burst_bytes: int = 0  # that pass at once after a pause; 0: derived from the rate
    queue: QueueLimit | None = None  # None: derived from rate and delay
    discipline: Discipline = Discipline.FIFO
    pairs: tuple[Pair, ...] = ()
    profile: Profile | None = None

    def __bool__(self) -> bool:
        return self != _NO_IMPAIRMENT

    def __str__(self) -> str:
        parts = [f"{key} {value}" for key, value in self.texts()]
        parts += [f"to {pair.node}: {pair.impairment}" for pair in self.pairs[:_PAIRS_SHOWN]]
        parts += [f"{len(self.pairs) - _PAIRS_SHOWN} more pairs"] if len(self.pairs) > _PAIRS_SHOWN else []
        parts += [str(self.profile)] if self.profile else []
        first = len(self.texts())
        return ", ".join(filter(None, (" ".join(parts[:first]), *parts[first:]))) or "none"

    @property
    def is_emulated(self) -> bool:
        """Whether it needs netem."""
        return bool(
            self.delay_us or self.loss_ppm or self.gemodel or self.duplicate_ppm or self.corrupt_ppm or self.reorder_ppm
        )

    @property
    def longest_delay_us(self) -> int:
        """The longest delay of any packet, to any neighbour and at any time."""
        moments = self.profile.moments if self.profile else ()
        others = (*(pair.impairment for pair in self.pairs), *(moment.impairment for moment in moments))
        return max((self.delay_us + self.jitter_us, *(other.longest_delay_us for other in others)))

    @property
    def is_random(self) -> bool:
        """Whether chance decides what happens to some packets."""
        moments = self.profile.moments if self.profile else ()
        others = (*(pair.impairment for pair in self.pairs), *(moment.impairment for moment in moments))
        own = replace(self, delay_us=self.jitter_us, pairs=(), profile=None)
        return own.is_emulated or any(other.is_random for other in others)

    def texts(self) -> tuple[tuple[str, str], ...]:
        """Return the values that are not none, by key, as in files: ("delay", "20ms"), ("loss", "1%")."""
        from labctl.units import format_ppm, format_rate, format_size, format_us

        every: tuple[tuple[str, Any, Callable[[Any], str]], ...] = (
            ("delay", self.delay_us, format_us),
            ("jitter", self.jitter_us, format_us),
            ("distribution", self.distribution is not Distribution.UNIFORM and self.distribution, str),
            ("delay_correlation", self.delay_correlation_ppm, format_ppm),
            ("loss", self.loss_ppm, format_ppm),
            ("loss_correlation", self.loss_correlation_ppm, format_ppm),
            ("gemodel", self.gemodel, str),
            ("duplicate", self.duplicate_ppm, format_ppm),
            ("duplicate_correlation", self.duplicate_correlation_ppm, format_ppm),
            ("corrupt", self.corrupt_ppm, format_ppm),
            ("corrupt_correlation", self.corrupt_correlation_ppm, format_ppm),
            ("reorder", self.reorder_ppm, format_ppm),
            ("reorder_correlation", self.reorder_correlation_ppm, format_ppm),
            ("gap", self.gap, str),
            ("rate", self.rate_bit_s, format_rate),
            ("burst", self.burst_bytes, format_size),
            ("queue", self.queue, str),
            ("discipline", self.discipline is not Discipline.FIFO and self.discipline, str),
        )
        return tuple((key, form(value)) for key, value, form in every if value)


class Pair(Struct, frozen=True):
    """The impairment of packets that an interface sends to one neighbour on its network, instead of the interface's."""

    node: str
    mac: str  # of the neighbour's interface
    impairment: Impairment


class Moment(Struct, frozen=True, array_like=True):
    """What applies from a moment of a profile on."""

    at_us: int
    impairment: Impairment


class Profile(Struct, frozen=True):
    """Impairments over time, from the moment at which the profile is set. The first is at 0; later ones replace it."""

    moments: tuple[Moment, ...]
    loop_us: int = 0  # it starts again after that time; 0: the last one stays

    def __str__(self) -> str:
        from labctl.units import format_us

        count = f"{len(self.moments)} moment{'' if len(self.moments) == 1 else 's'}"
        return f"profile of {count}" + (f" every {format_us(self.loop_us)}" if self.loop_us else "")


PAIRS_MAX = 940  # of an interface: handles of disciplines have 16 bits (plan/queueing.py)
_PAIRS_SHOWN = 3
_NO_IMPAIRMENT = Impairment()
