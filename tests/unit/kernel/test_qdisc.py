"""Messages about queueing disciplines, read by pyroute2's codec; and the kernel's answers, as bytes."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.tcmsg import tcmsg  # type: ignore[import-untyped]  # it has no annotations

from labctl.kernel import qdisc
from labctl.kernel.netlink import HEADER, RTM_NEWQDISC, attribute_values
from labctl.kernel.qdisc import ROOT, KernelQdisc

REPLACE = 0x0001 | 0x0004 | 0x0100 | 0x0400  # REQUEST, ACK, REPLACE, CREATE


def decoded(message: bytearray) -> Any:
    found = tcmsg(bytes(message))
    found.decode()
    return found


def echoed(message: bytearray) -> KernelQdisc:
    """What would be read if the kernel answered with what it was told: the attributes are the same both ways."""
    return qdisc.parse_qdisc(memoryview(bytes(message))[HEADER.size :])


def test_netem_s_message() -> None:
    message = qdisc.replace_netem(
        7, 0x20000, ROOT, delay_us=20_000, jitter_us=2_000, loss_ppm=10_000, limit_packets=5, seed=1 << 63
    )
    found = decoded(message)
    assert (found["header"]["type"], found["header"]["flags"]) == (RTM_NEWQDISC, REPLACE)
    assert (found["index"], found["handle"], found["parent"]) == (7, 0x20000, ROOT)
    assert found.get_attr("TCA_KIND") == "netem"
    options = found.get_attr("TCA_OPTIONS")
    assert (options["delay"], options["jitter"]) == (20_000_000 // 64, 2_000_000 // 64)
    assert (options["limit"], options["loss"]) == (5, round(0xFFFFFFFF / 100))
    assert (options["gap"], options["duplicate"]) == (0, 0)


def test_netem_gets_nanoseconds_and_a_seed_if_there_is_one() -> None:
    def attributes(seed: int | None) -> dict[int, bytes]:
        message = qdisc.replace_netem(
            7, 0x20000, ROOT, delay_us=12_345, jitter_us=1, loss_ppm=0, limit_packets=5, seed=seed
        )
        options = HEADER.size + 20 + 4 + 8 + 4 + 24  # tcmsg, TCA_KIND "netem", the head of TCA_OPTIONS, tc_netem_qopt
        return attribute_values(bytes(message), options)

    times = {10: struct.pack("=q", 12_345_000), 11: struct.pack("=q", 1000)}  # TCA_NETEM_LATENCY64, JITTER64
    assert attributes(None) == times
    for seed in (0, (1 << 64) - 1):
        assert attributes(seed) == times | {14: struct.pack("=Q", seed)}  # TCA_NETEM_PRNG_SEED


def test_tbf_s_message() -> None:
    message = qdisc.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=1_250_000, burst_bytes=5000, limit_bytes=70_000)
    options = decoded(message).get_attr("TCA_OPTIONS")
    parameters = options.get_attr("TCA_TBF_PARMS")
    assert (parameters["rate"], parameters["limit"]) == (1_250_000, 70_000)
    assert parameters["buffer"] == 5000 * 1_000_000_000 // 1_250_000 // 64
    assert options.get_attr("TCA_TBF_RATE64") is None


def test_tbf_gets_its_burst_in_bytes_too_which_are_exact_if_ticks_overflow() -> None:
    message = qdisc.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=125, burst_bytes=131_106, limit_bytes=131_106)
    options = 36 + 4 + 4 + 4  # the heads of the message, tcmsg, TCA_KIND "tbf", the head of TCA_OPTIONS
    values = attribute_values(bytes(message), options)
    parameters = values[1]  # TCA_TBF_PARMS: two struct tc_ratespec of 12 bytes, then limit, buffer, mtu
    assert parameters[1] == 1  # TC_LINKLAYER_ETHERNET, without which the kernel wants a table of rates
    assert struct.unpack_from("=III", parameters, 24) == (131_106, 0xFFFF_FFFF, 0)
    assert values[6] == struct.pack("=I", 131_106)  # TCA_TBF_BURST


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


FIELDS = HEADER.size + 20 + 4 + 8 + 4  # of tc_netem_qopt: after tcmsg, TCA_KIND "netem", the head of TCA_OPTIONS


@pytest.mark.parametrize("field", [3, 4])  # gap (reordering), duplicate
def test_a_netem_that_does_more_than_labctl_sets_is_recognised(field: int) -> None:
    message = qdisc.replace_netem(7, 0x20000, ROOT, delay_us=1000, jitter_us=0, loss_ppm=0, limit_packets=5)
    assert not echoed(message).has_more
    message[FIELDS + field * 4 : FIELDS + field * 4 + 4] = b"\xff\xff\xff\x0f"
    assert echoed(message).has_more


@pytest.mark.parametrize(("kind", "does_more"), [(3, True), (4, True), (5, True), (6, True), (12, False)])
def test_what_netem_has_in_attributes_of_its_own_is_more_unless_it_is_nothing(kind: int, does_more: bool) -> None:
    # TCA_NETEM_REORDER, CORRUPT, LOSS (a model of losses), RATE; TCA_NETEM_ECN is about how, not what.
    def having(value: int) -> KernelQdisc:
        message = qdisc.replace_netem(7, 0x20000, ROOT, delay_us=1000, jitter_us=0, loss_ppm=0, limit_packets=5)
        (length,) = struct.unpack_from("=H", message, FIELDS - 4)
        struct.pack_into("=H", message, FIELDS - 4, length + 8)
        return echoed(message + struct.pack("=HHI", 8, kind, value))

    assert having(1).has_more is does_more
    assert having(0).has_more is (kind == 5)
