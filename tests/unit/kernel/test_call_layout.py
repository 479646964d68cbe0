"""The table of system calls agrees with the kernel's headers and with what timelines show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labctl.kernel.call_layout import LAYOUTS, call_numbers
from labctl.timeline.call_table import TRACED

INCLUDE = Path("/usr/include")
STRUCT_CALL_LAYOUT_BYTES = 20


def test_every_call_of_timelines_has_a_layout() -> None:
    assert LAYOUTS.keys() == TRACED


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_number_has_a_layout(machine: str) -> None:
    numbers = call_numbers(machine)
    assert set(numbers.values()) <= LAYOUTS.keys()
    assert len(set(numbers.values())) == len(numbers)


@pytest.mark.parametrize(
    ("machine", "header"), [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")]
)
def test_numbers_are_those_of_the_headers(machine: str, header: str) -> None:
    path = INCLUDE / header
    if not path.exists():
        pytest.skip(f"not installed: linux-libc-dev with {header}")
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+([0-9]+)", path.read_text()))
    assert {name: defined.get(name) for name in call_numbers(machine).values()} == {
        name: str(number) for number, name in call_numbers(machine).items()
    }


def test_an_unknown_architecture_has_no_numbers() -> None:
    assert call_numbers("pdp11") == {}


def test_packed_layouts_have_the_size_of_the_structure() -> None:
    assert {len(layout.packed()) for layout in LAYOUTS.values()} == {STRUCT_CALL_LAYOUT_BYTES}
