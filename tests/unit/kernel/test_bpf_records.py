"""Records of the BPF programs: their sizes are those of the structures in C, and a row of them is split."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labctl.kernel import bpf_records
from labctl.kernel.bpf_records import RECORD, Kind, split

SOURCE = Path(bpf_records.__file__).parent / "bpf_programs" / "tracer.bpf.c"


def test_records_in_a_row_are_split_by_their_lengths() -> None:
    first = RECORD.pack(24, Kind.STATE, 7, 1) + b"12345678"
    second = RECORD.pack(16, Kind.DROP, 7, 2)
    assert list(split(first + second)) == [(Kind.STATE, first), (Kind.DROP, second)]
    assert list(split(b"")) == []


@pytest.mark.parametrize("kind", list(Kind))
def test_kinds_have_the_numbers_of_the_programs(kind: Kind) -> None:
    assert re.search(rf"\bKIND_{kind.name} = {kind.value}\b|\b{kind.name} = {kind.value}\b", SOURCE.read_text())
