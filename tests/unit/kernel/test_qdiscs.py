"""tc(8)'s messages: what pyroute2 reads in them, what is read back, and the tables of delays."""

from __future__ import annotations

import re
import statistics
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.rtnl.tcmsg import tcmsg  # type: ignore[import-untyped]  # it has no annotations

from labctl.kernel import qdiscs
from labctl.kernel.netlink import HEADER, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, RTM_NEWQDISC, attribute_values
from labctl.kernel.qdiscs import ROOT, KernelQdisc, NetemSettings, delay_table, replace_netem
from labctl.structs import asdict

REPLACE = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
FIELDS = HEADER.size + 20 + 4 + 8 + 4  # of tc_netem_qopt: after tcmsg, TCA_KIND "netem", the head of TCA_OPTIONS
ALL = NetemSettings(
    delay_us=20_000,
    jitter_us=2_000,
    delay_correlation_ppm=250_000,
    duplicate_ppm=10_000,
    duplicate_correlation_ppm=1,
    corrupt_ppm=1_000,
    corrupt_correlation_ppm=500_000,
    reorder_ppm=250_000,
    reorder_correlation_ppm=999_999,
    gap=5,
    gemodel=(10_000, 100_000, 700_000, 1_000),
    limit_packets=7,
)


def decoded(message: bytes) -> Any:
    found = tcmsg(bytes(message))
    found.decode()
    return found


def echoed(message: bytes | bytearray) -> KernelQdisc:
    """Return what would be read if the kernel answered with what it was sent: the attributes are the same both ways."""
    return qdiscs.parse_qdisc(memoryview(bytes(message))[HEADER.size :])


def netem(**values: Any) -> bytes:
    return replace_netem(7, 0x20000, ROOT, NetemSettings(**values))


def test_netem_s_message() -> None:
    settings = NetemSettings(delay_us=20_000, jitter_us=2_000, loss_ppm=10_000, limit_packets=5)
    found = decoded(replace_netem(7, 0x20000, ROOT, settings, seed=1 << 63))
    assert (found["header"]["type"], found["header"]["flags"]) == (RTM_NEWQDISC, REPLACE)
    assert (found["index"], found["handle"], found["parent"]) == (7, 0x20000, ROOT)
    assert found.get_attr("TCA_KIND") == "netem"
    options = found.get_attr("TCA_OPTIONS")
    assert (options["delay"], options["jitter"]) == (20_000_000 // 64, 2_000_000 // 64)
    assert (options["limit"], options["loss"]) == (5, round(0xFFFFFFFF / 100))
    assert (options["gap"], options["duplicate"]) == (0, 0)


def test_netem_gets_nanoseconds_all_that_a_change_would_keep_and_a_seed_if_there_is_one() -> None:
    def attributes(seed: int | None) -> dict[int, bytes]:
        settings = NetemSettings(delay_us=12_345, jitter_us=1)
        return attribute_values(bytes(replace_netem(7, 0x20000, ROOT, settings, seed=seed)), FIELDS + 24)

    times = {10: struct.pack("=q", 12_345_000), 11: struct.pack("=q", 1000)}  # TCA_NETEM_LATENCY64, JITTER64
    nothing = {1: bytes(12), 3: bytes(8), 4: bytes(8)}  # TCA_NETEM_CORR, REORDER, CORRUPT
    assert attributes(None) == times | nothing
    for seed in (0, (1 << 64) - 1):
        assert attributes(seed) == times | nothing | {14: struct.pack("=Q", seed)}  # TCA_NETEM_PRNG_SEED


def test_tbf_s_message() -> None:
    message = qdiscs.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=1_250_000, burst_bytes=5000, limit_bytes=70_000)
    options = decoded(message).get_attr("TCA_OPTIONS")
    parameters = options.get_attr("TCA_TBF_PARMS")
    assert (parameters["rate"], parameters["limit"]) == (1_250_000, 70_000)
    assert parameters["buffer"] == 5000 * 1_000_000_000 // 1_250_000 // 64
    assert options.get_attr("TCA_TBF_RATE64") is None


def test_tbf_gets_its_burst_in_bytes_too_which_are_exact_if_ticks_overflow() -> None:
    message = qdiscs.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=125, burst_bytes=131_106, limit_bytes=131_106)
    options = 36 + 4 + 4 + 4  # the heads of the message, tcmsg, TCA_KIND "tbf", the head of TCA_OPTIONS
    values = attribute_values(bytes(message), options)
    parameters = values[1]  # TCA_TBF_PARMS: two struct tc_ratespec of 12 bytes, then limit, buffer, mtu
    assert parameters[1] == 1  # TC_LINKLAYER_ETHERNET, without which the kernel wants a table of rates
    assert struct.unpack_from("=III", parameters, 24) == (131_106, 0xFFFF_FFFF, 0)
    assert values[6] == struct.pack("=I", 131_106)  # TCA_TBF_BURST


@pytest.mark.parametrize("delay_us", [0, 1, 20_000, 274_000_000])
@pytest.mark.parametrize("loss_ppm", [0, 1, 10_000, 999_999, 1_000_000])
def test_delay_and_loss_are_read_back_exactly(delay_us: int, loss_ppm: int) -> None:
    message = netem(delay_us=delay_us, jitter_us=delay_us // 140, loss_ppm=loss_ppm, limit_packets=5)
    wanted = KernelQdisc(7, "netem", 0x20000, ROOT, delay_us, delay_us // 140, loss_ppm, limit_packets=5)
    assert echoed(message) == wanted


def test_all_that_netem_does_is_read_back_exactly() -> None:
    found = asdict(echoed(replace_netem(7, 0x20000, ROOT, ALL)))
    wanted = {key: value for key, value in asdict(ALL).items() if key != "table"}
    assert {key: found[key] for key in wanted} == wanted
    assert not found["has_more"]


@pytest.mark.parametrize("rate_bit_s", [1000, 10_000_000, 34_359_738_360, 34_359_738_368, 1_000_000_000_000])
def test_rates_are_read_back_exactly_beyond_what_32_bits_hold(rate_bit_s: int) -> None:
    message = qdiscs.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=rate_bit_s // 8, burst_bytes=5000, limit_bytes=70_000)
    assert echoed(message).rate_bit_s == rate_bit_s


@pytest.mark.parametrize(("kind", "does_more"), [(6, True), (12, True), (7, False)])
def test_a_netem_that_does_more_than_labctl_sets_is_recognised(kind: int, does_more: bool) -> None:
    # TCA_NETEM_RATE, SLOT; TCA_NETEM_ECN is about how, not what.
    message = bytearray(netem(delay_us=1000))
    (length,) = struct.unpack_from("=H", message, FIELDS - 4)
    struct.pack_into("=H", message, FIELDS - 4, length + 8)
    assert echoed(message + struct.pack("=HHI", 8, kind, 1)).has_more is does_more
    assert not echoed(message).has_more


@pytest.mark.parametrize("name", ["normal", "pareto", "paretonormal"])
def test_a_table_of_delays_rises_around_a_mean_of_0(name: str) -> None:
    table = struct.unpack("=4096h", delay_table(name))
    assert all(one <= other for one, other in pairwise(table))
    assert abs(statistics.fmean(table)) < 8192 * 0.04
    if name == "normal":
        assert statistics.pstdev(table) == pytest.approx(8192, rel=0.01)


@pytest.mark.parametrize("name", ["normal", "pareto", "paretonormal"])
def test_a_table_of_delays_is_that_of_tc(name: str) -> None:
    files = [Path(directory, f"{name}.dist") for directory in ("/usr/lib/tc", "/usr/lib/x86_64-linux-gnu/tc")]
    file = next((one for one in files if one.exists()), None)
    if file is None:
        pytest.skip("iproute2's tables are not installed")
    text = re.sub(r"#.*", "", file.read_text())
    theirs = sorted(map(int, text.split()))
    mine = struct.unpack("=4096h", delay_table(name))
    step = len(theirs) / len(mine)
    inner = range(40, len(mine) - 40)  # the tails of theirs are coarse
    apart = [abs(mine[at] - theirs[int((at + 0.5) * step)]) for at in inner]
    assert statistics.fmean(apart) < 8192 * 0.02


def test_red_is_as_tc_recommends() -> None:
    sizes = qdiscs.red_sizes(120_000, 1000)
    assert (sizes.minimum_bytes, sizes.maximum_bytes, sizes.burst_packets) == (10_000, 30_000, 17)
    message = qdiscs.replace_red(7, 0x10000, ROOT, sizes, rate_bytes_s=1_250_000)
    values = attribute_values(bytes(message), 36 + 4 + 4 + 4)
    limit, least, most, *logs = struct.unpack("=IIIBBBB", values[1])
    assert (limit, least, most, logs[1]) == (120_000, 10_000, 30_000, 20)
    assert len(values[2]) == 256


@pytest.mark.parametrize("limit_bytes", [1, 1500, 70_000, 256 << 20])
@pytest.mark.parametrize("rate_bytes_s", [125, 1_250_000, 125_000_000_000])
def test_any_red_queue_can_be_encoded(limit_bytes: int, rate_bytes_s: int) -> None:
    sizes = qdiscs.red_sizes(limit_bytes, 1518)
    assert sizes.minimum_bytes < sizes.maximum_bytes < sizes.limit_bytes
    assert qdiscs.replace_red(7, 0x10000, ROOT, sizes, rate_bytes_s=rate_bytes_s)


def test_a_filter_puts_a_mac_into_its_class() -> None:
    message = qdiscs.new_mac_filter(7, 0x1300000, 3, "02:00:00:00:00:05", 0x1300004)
    values = attribute_values(message, HEADER.size + 20)
    options = attribute_values(values[2])
    assert values[1] == b"flower\0"
    assert options == {1: struct.pack("=I", 0x1300004), 4: b"\2\0\0\0\0\5", 5: b"\xff" * 6}
