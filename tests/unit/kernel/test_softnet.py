"""Packets that wait for a processor, as the kernel reports them for each."""

from __future__ import annotations

from labctl.kernel.softnet import waiting_packets

ROW = "141941ff 023e1176 0000055d 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000"


def test_the_queues_of_all_processors_are_counted() -> None:
    assert waiting_packets(f"{ROW} 00000000 00000000\n{ROW} 00000000 00000001\n") == 0
    assert waiting_packets(f"{ROW} 00000002 00000000 00000002 00000000\n{ROW} 00000010 00000001\n") == 18


def test_before_linux_5_10_the_queues_are_unknown() -> None:
    assert waiting_packets(f"{ROW}\n") == 0
