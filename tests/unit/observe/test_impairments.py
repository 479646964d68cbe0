"""Impairments of an interface, from the queueing disciplines that the kernel reports."""

from __future__ import annotations

import pytest

from labctl.kernel.qdiscs import ROOT, KernelQdisc
from labctl.observe.impairments import FoundImpairment, combine
from labctl.topology.model import Impairment

TBF = KernelQdisc(2, "tbf", 0xF30000, ROOT, rate_bit_s=8_000_000)
NETEM = KernelQdisc(2, "netem", 0xF40000, 0xF30001, delay_us=20_000, jitter_us=2_000, loss_ppm=10_000)
FIFO = KernelQdisc(2, "bfifo", 0xF50000, 0xF40001)
WHOLE = Impairment(20_000, 2_000, 10_000, 8_000_000)


@pytest.mark.parametrize(
    ("found", "sending", "said"),
    [
        ([TBF, NETEM, FIFO], FoundImpairment(WHOLE), "delay 20ms jitter 2ms loss 1% rate 8mbit"),
        ([FIFO, NETEM, TBF], FoundImpairment(WHOLE), "delay 20ms jitter 2ms loss 1% rate 8mbit"),
        ([KernelQdisc(2, "htb", 0x10000, ROOT)], FoundImpairment(foreign="htb"), "htb"),
        ([TBF, KernelQdisc(2, "htb", 0x10000, 0xF30001)], FoundImpairment(Impairment(0, 0, 0, 8_000_000), "htb"), None),
        (
            [KernelQdisc(2, "netem", 0x10000, ROOT, delay_us=1000, has_more=True)],
            FoundImpairment(Impairment(1000), "more of netem"),
            "delay 1ms and more of netem",
        ),
    ],
)
def test_disciplines_of_an_interface_are_one_impairment(
    found: list[KernelQdisc], sending: FoundImpairment, said: str | None
) -> None:
    assert combine({2: "eth0"}, found) == {"eth0": sending}
    assert said is None or str(sending) == said


def test_default_disciplines_and_those_of_removed_interfaces_are_ignored() -> None:
    its_own = KernelQdisc(2, "noqueue", 0, ROOT)
    assert combine({2: "eth0"}, [its_own, KernelQdisc(3, "tbf", 0xF10000, ROOT, rate_bit_s=8000)]) == {}
