"""Impairments as queueing disciplines: which ones, their handles and their sizes."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from labctl.plan.queueing import (
    ActiveQueue,
    Fifo,
    NetworkEmulator,
    PairClasses,
    Queue,
    TokenBucket,
    needs_counts,
    queues,
)
from labctl.structs import replace
from labctl.topology.netem import Discipline, Distribution, Impairment, Moment, Pair, Profile, QueueLimit, QueueUnit

BAD = Impairment(20_000, 2_000, 10_000, 10_000_000)


def test_a_rate_uses_tbf_a_delay_or_loss_netem_and_both_all_three() -> None:
    kinds = {
        Impairment(): [],
        Impairment(rate_bit_s=1_000_000): [TokenBucket],
        Impairment(delay_us=1): [NetworkEmulator],
        Impairment(loss_ppm=1): [NetworkEmulator],
        BAD: [TokenBucket, NetworkEmulator, Fifo],
    }
    assert {one: [type(queue) for queue in queues(one, 1500)] for one in kinds} == kinds


def test_each_combination_has_its_own_handles_and_each_queue_its_parent() -> None:
    shapes = [queues(one, 1500) for one in (Impairment(rate_bit_s=8000), Impairment(delay_us=1), BAD)]
    handles = [queue.handle for shape in shapes for queue in shape]
    assert len(set(handles)) == len(handles) == 5
    for shape in shapes:
        for above, below in pairwise(shape):
            assert below.parent == above.handle | 1


@pytest.mark.parametrize("rate_bit_s", [1000, 10_000_000, 1_000_000_000, 1_000_000_000_000])
@pytest.mark.parametrize("mtu", [68, 1500, 65_535])
def test_a_bucket_holds_a_packet_and_its_queue_a_datagram_within_32_bits(rate_bit_s: int, mtu: int) -> None:
    bucket = queues(Impairment(delay_us=274_000_000, rate_bit_s=rate_bit_s), mtu)[0]
    assert isinstance(bucket, TokenBucket)
    assert mtu + 18 <= bucket.burst_bytes < 1 << 32
    assert max(65_535, min(bucket.burst_bytes, 256 << 20)) <= bucket.limit_bytes < 1 << 32
    assert 2 * (mtu + 18) <= bucket.burst_bytes
    assert bucket.burst_bytes <= max(rate_bit_s / 8 / 100, 2 * (mtu + 18))


def test_netem_holds_the_packets_of_its_delay() -> None:
    (short,) = queues(Impairment(delay_us=10), 1500)
    (long,) = queues(Impairment(delay_us=50_000), 1500)
    (longest,) = queues(Impairment(delay_us=274_000_000), 1500)
    assert isinstance(short, NetworkEmulator)
    assert isinstance(long, NetworkEmulator)
    assert isinstance(longest, NetworkEmulator)
    assert (short.limit_packets, long.limit_packets, longest.limit_packets) == (1000, 50_000, 100_000)


def test_netem_has_room_for_the_queue_below_it_which_kernels_count_as_well() -> None:
    _, emulator, fifo = queues(Impairment(loss_ppm=1, rate_bit_s=1_000_000_000), 1500)
    assert isinstance(emulator, NetworkEmulator)
    assert isinstance(fifo, Fifo)
    assert emulator.limit_packets >= 1000 + fifo.limit_bytes // 60


@pytest.mark.parametrize("discipline", Discipline)
def test_netem_must_count_a_queue_that_drops_what_it_has_accepted(discipline: Discipline) -> None:
    drops_late = discipline in (Discipline.CODEL, Discipline.FQ_CODEL, Discipline.CAKE)
    one = replace(BAD, discipline=discipline)
    assert needs_counts(one) is drops_late
    assert needs_counts(Impairment(pairs=(Pair("a", "02:00:00:00:00:01", one),))) is drops_late
    assert needs_counts(Impairment(profile=Profile((Moment(0, Impairment()), Moment(1, one))))) is drops_late
    assert not needs_counts(Impairment(rate_bit_s=8000, discipline=discipline))


def handles(made: tuple[Queue, ...]) -> list[int]:
    return [queue.handle for queue in made]


def test_no_two_combinations_share_a_handle_so_that_none_is_changed_to_another_in_place() -> None:
    seen: dict[int, tuple[type, ...]] = {}
    for discipline, distribution, is_emulated, has_rate in product(Discipline, Distribution, (0, 1), (0, 1)):
        if not (is_emulated or has_rate) or (discipline is not Discipline.FIFO and not has_rate):
            continue
        one = Impairment(is_emulated * 1000, is_emulated * 100, 0, has_rate * 8000, distribution, discipline=discipline)
        made = queues(one, 1500)
        key = (discipline, distribution is Distribution.UNIFORM, is_emulated, has_rate)
        for handle in handles(made):
            assert seen.setdefault(handle, key) == key  # type: ignore[arg-type, comparison-overlap]
        for above, below in pairwise(made):
            assert below.parent == above.handle | 1


@pytest.mark.parametrize("discipline", [one for one in Discipline if one is not Discipline.FIFO])
def test_a_discipline_is_below_the_rate_and_below_netem(discipline: Discipline) -> None:
    for one in (Impairment(rate_bit_s=8_000_000), BAD):
        *above, last = queues(replace(one, discipline=discipline), 1500)
        assert isinstance(last, ActiveQueue)
        assert last.discipline is discipline
        assert isinstance(above[0], TokenBucket)
        assert last.limit_packets == above[0].limit_bytes // 1518


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        (QueueLimit(100, QueueUnit.PACKETS), 151_800),
        (QueueLimit(64 << 10, QueueUnit.BYTES), 65_536),
        (QueueLimit(50_000, QueueUnit.TIME), 62_500),
        (QueueLimit(1, QueueUnit.BYTES), 1518),
    ],
)
def test_a_queue_is_as_large_as_asked_for_but_holds_a_packet(limit: QueueLimit, size: int) -> None:
    (bucket,) = queues(Impairment(rate_bit_s=10_000_000, queue=limit), 1500)
    assert isinstance(bucket, TokenBucket)
    assert bucket.limit_bytes == size
    assert isinstance(queues(replace(BAD, queue=limit), 1500)[2], Fifo)


def test_a_queue_without_a_rate_is_netem_s_and_a_burst_is_the_bucket_s() -> None:
    (emulator,) = queues(Impairment(1000, queue=QueueLimit(7, QueueUnit.PACKETS)), 1500)
    assert isinstance(emulator, NetworkEmulator)
    assert emulator.limit_packets == 7
    (bucket,) = queues(Impairment(rate_bit_s=10_000_000, burst_bytes=32_000), 1500)
    assert isinstance(bucket, TokenBucket)
    assert bucket.burst_bytes == 32_000


def test_pairs_have_classes_of_their_own_and_others_the_impairment_of_the_interface() -> None:
    pairs = tuple(Pair(f"n{number}", f"02:00:00:00:00:{number:02x}", Impairment(number * 1000)) for number in (1, 2))
    classes, others, *each = queues(replace(BAD, pairs=pairs), 1500)
    assert isinstance(classes, PairClasses)
    assert classes.macs == tuple(pair.mac for pair in pairs)
    assert others.parent == classes.handle | 1
    emulators = [
        queue
        for queue in each
        if isinstance(queue, NetworkEmulator) and queue.impairment in [p.impairment for p in pairs]
    ]
    assert [queue.parent for queue in emulators] == [classes.handle | 2, classes.handle | 3]
    every = handles(queues(replace(BAD, pairs=pairs), 1500))
    assert len(set(every)) == len(every)
