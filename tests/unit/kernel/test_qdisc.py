"""Messages about queueing disciplines, read by pyroute2's codec; and the kernel's answers, as bytes."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.tcmsg import tcmsg  # type: ignore[import-untyped]  # it has no annotations

from labctl.kernel import qdisc
from labctl.kernel.netlink import HEADER
from labctl.kernel.qdisc import ROOT, KernelQdisc

REPLACE = 0x0001 | 0x0004 | 0x0100 | 0x0400  # REQUEST, ACK, REPLACE, CREATE


def decoded(message: bytearray) -> Any:
    found = tcmsg(bytes(message))
    found.decode()
    return found


def echoed(message: bytearray) -> KernelQdisc:
    """What would be read if the kernel answered with what it was told: the attributes are the same both ways."""
    return qdisc._qdisc(memoryview(bytes(message))[HEADER.size :])


def test_netem_s_message() -> None:
    message = qdisc.replace_netem(
        7, 0x20000, ROOT, delay_us=20_000, jitter_us=2_000, loss_ppm=10_000, limit_packets=5, seed=1 << 63
    )
    found = decoded(message)
    assert (found["header"]["type"], found["header"]["flags"]) == (qdisc.RTM_NEWQDISC, REPLACE)
    assert (found["index"], found["handle"], found["parent"]) == (7, 0x20000, ROOT)
    assert found.get_attr("TCA_KIND") == "netem"
    options = found.get_attr("TCA_OPTIONS")
    assert (options["delay"], options["jitter"]) == (20_000_000 // 64, 2_000_000 // 64)
    assert (options["limit"], options["loss"]) == (5, round(0xFFFFFFFF / 100))
    assert (options["gap"], options["duplicate"]) == (0, 0)


def test_tbf_s_message() -> None:
    message = qdisc.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=1_250_000, burst_bytes=5000, limit_bytes=70_000)
    parameters = decoded(message).get_attr("TCA_OPTIONS").get_attr("TCA_TBF_PARMS")
    assert (parameters["rate"], parameters["limit"]) == (1_250_000, 70_000)
    assert parameters["buffer"] == 5000 * 1_000_000_000 // 1_250_000 // 64


@pytest.mark.parametrize("delay_us", [0, 1, 20_000, 274_000_000])
@pytest.mark.parametrize("loss_ppm", [0, 1, 10_000, 999_999, 1_000_000])
def test_delay_and_loss_are_read_back_exactly(delay_us: int, loss_ppm: int) -> None:
    message = qdisc.replace_netem(
        7, 0x20000, ROOT, delay_us=delay_us, jitter_us=delay_us // 140, loss_ppm=loss_ppm, limit_packets=5
    )
    assert echoed(message) == KernelQdisc(7, "netem", 0x20000, ROOT, delay_us, delay_us // 140, loss_ppm)


@pytest.mark.parametrize("rate_bit_s", [1000, 10_000_000, 34_359_738_360, 34_359_738_368, 1_000_000_000_000])
def test_rates_are_read_back_exactly_beyond_what_32_bits_hold(rate_bit_s: int) -> None:
    message = qdisc.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=rate_bit_s // 8, burst_bytes=5000, limit_bytes=70_000)
    assert echoed(message).rate_bit_s == rate_bit_s


def test_a_netem_of_somebody_else_s_that_duplicates_is_told_from_ours() -> None:
    message = qdisc.replace_netem(7, 0x20000, ROOT, delay_us=1000, jitter_us=0, loss_ppm=0, limit_packets=5)
    assert not echoed(message).has_more
    duplicate = HEADER.size + 20 + 4 + 8 + 4 + 16  # tcmsg, TCA_KIND "netem", the head of TCA_OPTIONS, four fields
    message[duplicate : duplicate + 4] = b"\xff\xff\xff\x0f"
    assert echoed(message).has_more
