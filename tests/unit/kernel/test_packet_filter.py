"""Filters in libpcap's syntax: instructions, libpcap's own errors, names of hosts in place of addresses."""

from __future__ import annotations

import pytest

from labctl.errors import InputError, MachineError
from labctl.kernel.packet_filter import INSTRUCTION_BYTES, compile_filter, with_addresses

NAMES = {"server": ("10.0.0.2", "fd00::2"), "host": ("10.0.0.9",)}


@pytest.fixture(autouse=True)
def _needs_libpcap() -> None:
    try:
        compile_filter("", 64)
    except MachineError as error:
        pytest.skip(f"feature libpcap: {error}")


def test_a_filter_is_compiled_to_whole_instructions() -> None:
    program = compile_filter("tcp port 5000", 256)
    assert len(program) % INSTRUCTION_BYTES == 0
    assert len(program) > 5 * INSTRUCTION_BYTES


def test_no_filter_takes_everything() -> None:
    assert compile_filter("", 256) == (0x06).to_bytes(2, "little") + bytes(2) + (256).to_bytes(4, "little")


def test_a_bad_filter_is_refused_with_the_reason_of_libpcap() -> None:
    with pytest.raises(InputError, match=r"filter `tcp prt 80`: can't parse filter expression: syntax error"):
        compile_filter("tcp prt 80", 256)


def test_names_of_hosts_stand_for_their_addresses() -> None:
    assert with_addresses("host server and tcp port 80", NAMES) == "host (10.0.0.2 or fd00::2) and tcp port 80"
    assert compile_filter("host server", 64, NAMES) == compile_filter("host 10.0.0.2 or fd00::2", 64)
