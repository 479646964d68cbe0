"""The spool of a recording: records come back, the oldest half is overwritten and counted, readers keep their place."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import closing

import pytest

from labctl.errors import MachineError
from labctl.timeline.spool import (
    HALF_BYTES_MIN,
    WHOLE_LAB,
    Kind,
    Position,
    SpoolReader,
    SpoolWriter,
    dropped_of,
    make_spool,
)

LARGE = bytes(300_000)  # three fit in a half of the smallest spool


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = make_spool(0)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def writer(file: int) -> SpoolWriter:
    return SpoolWriter(file, 0)


@pytest.fixture
def reader(file: int) -> Iterator[SpoolReader]:
    with closing(SpoolReader(os.dup(file), 0)) as reader:
        yield reader


def test_records_come_back_as_they_were_written(writer: SpoolWriter, reader: SpoolReader) -> None:
    writer.write(Kind.PACKETS, 3, 7, b"ab", bytearray(b"cd"), memoryview(b"ef"))
    writer.write(Kind.MISSING, WHOLE_LAB, 0, b"drop reasons")
    records, _ = reader.read()
    assert [(each.kind, each.node, each.count, each.payload) for each in records] == [
        (Kind.PACKETS, 3, 7, b"abcdef"),
        (Kind.MISSING, WHOLE_LAB, 0, b"drop reasons"),
    ]
    assert records[0].at_ns <= records[1].at_ns


def test_a_record_may_have_thousands_of_parts(writer: SpoolWriter, reader: SpoolReader) -> None:
    writer.write(Kind.KERNEL, 0, 3000, *[b"x"] * 3000)
    assert reader.read()[0][0].payload == b"x" * 3000


def test_a_spool_that_nobody_has_written_is_empty(reader: SpoolReader) -> None:
    assert reader.read() == ([], Position())


def test_a_reader_goes_on_where_it_was(writer: SpoolWriter, reader: SpoolReader) -> None:
    writer.write(Kind.PACKETS, 0, 1, b"first")
    _, position = reader.read(Position())
    writer.write(Kind.PACKETS, 0, 1, b"second")
    records, position = reader.read(position)
    assert [each.payload for each in records] == [b"second"]
    assert reader.read(position) == ([], position)


def test_the_older_half_is_overwritten_and_counted(writer: SpoolWriter, reader: SpoolReader) -> None:
    for number in range(10):
        writer.write(Kind.PACKETS, 1, 100 + number, LARGE)
    records, _ = reader.read()
    kept = [each.count for each in records if each.kind is Kind.PACKETS]
    (dropped,) = dropped_of([each for each in records if each.kind is Kind.DROPPED][-1].payload)
    assert kept == [106, 107, 108, 109]
    assert (dropped.kind, dropped.node, dropped.count) == (Kind.PACKETS, 1, sum(range(100, 106)))
    assert dropped.from_ns < dropped.until_ns


def test_each_half_begins_with_what_decoding_needs(writer: SpoolWriter, reader: SpoolReader) -> None:
    writer.begin(lambda: writer.write(Kind.CLOCK, WHOLE_LAB, 0, b"clock"))
    for _ in range(7):
        writer.write(Kind.PACKETS, 1, 1, LARGE)
    records = reader.read()[0]
    assert [each.kind for each in records] == [Kind.CLOCK, *[Kind.PACKETS] * 3, Kind.DROPPED, Kind.CLOCK, Kind.PACKETS]


def test_a_reader_that_is_too_slow_goes_on_with_what_is_left(writer: SpoolWriter, reader: SpoolReader) -> None:
    _, position = reader.read(Position())
    for number in range(10):
        writer.write(Kind.PACKETS, 1, number, LARGE)
    records, _ = reader.read(position)
    assert [each.count for each in records if each.kind is Kind.PACKETS] == [6, 7, 8, 9]


def test_the_spool_takes_no_more_memory_than_its_limit(file: int, writer: SpoolWriter) -> None:
    for _ in range(20):
        writer.write(Kind.PACKETS, 1, 1, LARGE)
    assert os.fstat(file).st_blocks * 512 <= 2 * HALF_BYTES_MIN + (1 << 16)


def test_a_limit_on_the_size_of_files_is_reported() -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF_BYTES_MIN, limits[1]))
    try:
        with pytest.raises(MachineError, match=r"in memory: EFBIG, File too large\. See `ulimit -f`\."):
            make_spool(0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
