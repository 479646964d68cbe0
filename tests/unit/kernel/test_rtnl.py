"""rtnetlink(7) messages are, byte for byte, what pyroute2 encodes; its message classes load without the package."""

from __future__ import annotations

import struct
import subprocess
import sys
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.tcmsg import tcmsg  # type: ignore[import-untyped]  # it has no annotations

from labctl.kernel import rtnl
from labctl.kernel.netlink import (
    HEADER,
    IFA_F_NODAD,
    IFF_UP,
    NLM_F_REQUEST,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWLINK,
    RTM_NEWQDISC,
    RTM_SETLINK,
    attribute_values,
)
from labctl.kernel.rtnl import ROOT, KernelQdisc
from labctl.structs import replace

INDEXES = st.integers(1, 2**31 - 1)


NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-._", min_size=1, max_size=15)


MACS = st.binary(min_size=6, max_size=6).map(lambda packed: packed.hex(":"))


ENDS = st.builds(rtnl.VethEnd, NAMES, INDEXES, MACS, st.integers(68, 65535), st.integers(3, 2**31 - 1))


V4 = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(IPv4Interface)


V6 = st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(IPv6Interface)


@settings(max_examples=40, deadline=None, database=None)
@given(ENDS, ENDS, st.one_of(st.just(0), INDEXES))
def test_veth_pairs(first: rtnl.VethEnd, second: rtnl.VethEnd, master: int) -> None:
    one, other = (replace(end, ifname=end.ifname.ljust(15, "\0")) for end in (first, second))
    assert rtnl.new_veth(first, second, master) == rtnl.encode_veth(one, other, master)


@settings(max_examples=30, deadline=None, database=None)
@given(NAMES, INDEXES, st.integers(68, 65535))
def test_bridges(ifname: str, index: int, mtu: int) -> None:
    assert rtnl.new_bridge(ifname, index, mtu) == rtnl.encode_bridge(ifname.ljust(15, "\0"), index, mtu)


@settings(max_examples=30, deadline=None, database=None)
@given(INDEXES, INDEXES, st.booleans())
def test_changes_of_links(index: int, number: int, up: bool) -> None:
    assert rtnl.set_up(index, up) == changed_link(RTM_NEWLINK, index, flags=IFF_UP if up else 0, change=IFF_UP)
    assert rtnl.set_master(index, number) == changed_link(RTM_SETLINK, index, ("IFLA_MASTER", number))
    assert rtnl.set_mtu(index, number) == changed_link(RTM_SETLINK, index, ("IFLA_MTU", number))
    assert rtnl.set_group(index, number) == changed_link(RTM_SETLINK, index, ("IFLA_GROUP", number))
    assert rtnl.remove_link(index) == changed_link(RTM_DELLINK, index)
    no_addresses = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
    disabled = changed_link(RTM_SETLINK, index, ("IFLA_AF_SPEC", no_addresses))
    assert rtnl.disable_address_generation(index) == disabled


def changed_link(type: int, index: int, *attrs: tuple[str, Any], flags: int = 0, change: int = 0) -> bytes:
    """A message without creation flags, as pyroute2 encodes it."""
    message = rtnl.message_class("ifinfmsg")()
    message["header"]["type"], message["header"]["flags"] = type, NLM_F_REQUEST
    message["index"], message["flags"], message["change"] = index, flags, change
    message["attrs"] = list(attrs)
    message.encode()
    return bytes(message.data)


@settings(max_examples=60, deadline=None, database=None)
@given(INDEXES, st.one_of(V4, V6))
def test_addresses(index: int, address: IPv4Interface | IPv6Interface) -> None:
    assert rtnl.new_address(index, address) == rtnl.encode_address(index, address)


@settings(max_examples=60, deadline=None, database=None)
@given(INDEXES, st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)), st.booleans())
def test_routes(
    index: int, ends: tuple[IPv4Interface, IPv4Interface] | tuple[IPv6Interface, IPv6Interface], direct: bool
) -> None:
    destination, gateway = ends[0].network, None if direct else ends[1].ip
    assert rtnl.new_route(index, destination, gateway) == rtnl.encode_route(index, destination, gateway)


def test_a_gateway_of_the_other_family_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="another family"):
        rtnl.new_route(1, IPv4Network("10.0.0.0/8"), IPv6Network("2001:db8::/64")[1])


def test_a_message_has_its_length_and_leaves_acknowledgements_to_the_batch() -> None:
    message = rtnl.set_up(7, True)
    length, type, flags, sequence, _ = HEADER.unpack_from(message)
    assert (length, type, flags, sequence) == (len(message), RTM_NEWLINK, NLM_F_REQUEST, 0)
    assert struct.unpack_from("=iII", message, HEADER.size + 4) == (7, IFF_UP, IFF_UP)


def test_an_ipv6_address_skips_duplicate_detection() -> None:
    message = rtnl.new_address(7, IPv6Interface("2001:db8::1/64"))
    assert message[HEADER.size + 2] & IFA_F_NODAD


@settings(max_examples=30, deadline=None, database=None)
@given(INDEXES, st.one_of(V4, V6))
def test_removing_differs_from_making_in_type_and_flags_only(
    index: int, address: IPv4Interface | IPv6Interface
) -> None:
    pairs = (
        (rtnl.new_address(index, address), rtnl.remove_address(index, address), RTM_DELADDR),
        (
            rtnl.new_route(index, address.network, None),
            rtnl.remove_route(index, address.network, None),
            RTM_DELROUTE,
        ),
        (rtnl.set_group(0, index), rtnl.remove_group(index), RTM_DELLINK),
    )
    for making, removing, kind in pairs:
        assert struct.unpack_from("=HH", removing, 4) == (kind, NLM_F_REQUEST)
        assert removing[:4] == making[:4]
        assert removing[8:] == making[8:]


def test_the_message_classes_come_without_the_package_around_them() -> None:
    program = """
import sys
from labctl.kernel import rtnl
print(*[rtnl.message_class(name).__name__ for name in ('ifinfmsg', 'ifaddrmsg', 'rtmsg')])
print({"pyroute2.iproute", "asyncio"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "ifinfmsg ifaddrmsg rtmsg\nset()\n", done.stderr


REPLACE = 0x0001 | 0x0100 | 0x0400  # REQUEST, REPLACE, CREATE


def decoded(message: bytes) -> Any:
    found = tcmsg(bytes(message))
    found.decode()
    return found


def echoed(message: bytes | bytearray) -> KernelQdisc:
    """What would be read if the kernel answered with what it was told: the attributes are the same both ways."""
    return rtnl.parse_qdisc(memoryview(bytes(message))[HEADER.size :])


def test_netem_s_message() -> None:
    message = rtnl.replace_netem(
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
        message = rtnl.replace_netem(
            7, 0x20000, ROOT, delay_us=12_345, jitter_us=1, loss_ppm=0, limit_packets=5, seed=seed
        )
        options = HEADER.size + 20 + 4 + 8 + 4 + 24  # tcmsg, TCA_KIND "netem", the head of TCA_OPTIONS, tc_netem_qopt
        return attribute_values(bytes(message), options)

    times = {10: struct.pack("=q", 12_345_000), 11: struct.pack("=q", 1000)}  # TCA_NETEM_LATENCY64, JITTER64
    assert attributes(None) == times
    for seed in (0, (1 << 64) - 1):
        assert attributes(seed) == times | {14: struct.pack("=Q", seed)}  # TCA_NETEM_PRNG_SEED


def test_tbf_s_message() -> None:
    message = rtnl.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=1_250_000, burst_bytes=5000, limit_bytes=70_000)
    options = decoded(message).get_attr("TCA_OPTIONS")
    parameters = options.get_attr("TCA_TBF_PARMS")
    assert (parameters["rate"], parameters["limit"]) == (1_250_000, 70_000)
    assert parameters["buffer"] == 5000 * 1_000_000_000 // 1_250_000 // 64
    assert options.get_attr("TCA_TBF_RATE64") is None


def test_tbf_gets_its_burst_in_bytes_too_which_are_exact_if_ticks_overflow() -> None:
    message = rtnl.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=125, burst_bytes=131_106, limit_bytes=131_106)
    options = 36 + 4 + 4 + 4  # the heads of the message, tcmsg, TCA_KIND "tbf", the head of TCA_OPTIONS
    values = attribute_values(bytes(message), options)
    parameters = values[1]  # TCA_TBF_PARMS: two struct tc_ratespec of 12 bytes, then limit, buffer, mtu
    assert parameters[1] == 1  # TC_LINKLAYER_ETHERNET, without which the kernel wants a table of rates
    assert struct.unpack_from("=III", parameters, 24) == (131_106, 0xFFFF_FFFF, 0)
    assert values[6] == struct.pack("=I", 131_106)  # TCA_TBF_BURST


@pytest.mark.parametrize("delay_us", [0, 1, 20_000, 274_000_000])
@pytest.mark.parametrize("loss_ppm", [0, 1, 10_000, 999_999, 1_000_000])
def test_delay_and_loss_are_read_back_exactly(delay_us: int, loss_ppm: int) -> None:
    message = rtnl.replace_netem(
        7, 0x20000, ROOT, delay_us=delay_us, jitter_us=delay_us // 140, loss_ppm=loss_ppm, limit_packets=5
    )
    assert echoed(message) == KernelQdisc(7, "netem", 0x20000, ROOT, delay_us, delay_us // 140, loss_ppm)


@pytest.mark.parametrize("rate_bit_s", [1000, 10_000_000, 34_359_738_360, 34_359_738_368, 1_000_000_000_000])
def test_rates_are_read_back_exactly_beyond_what_32_bits_hold(rate_bit_s: int) -> None:
    message = rtnl.replace_tbf(7, 0x10000, ROOT, rate_bytes_s=rate_bit_s // 8, burst_bytes=5000, limit_bytes=70_000)
    assert echoed(message).rate_bit_s == rate_bit_s


FIELDS = HEADER.size + 20 + 4 + 8 + 4  # of tc_netem_qopt: after tcmsg, TCA_KIND "netem", the head of TCA_OPTIONS


@pytest.mark.parametrize("field", [3, 4])  # gap (reordering), duplicate
def test_a_netem_that_does_more_than_labctl_sets_is_recognised(field: int) -> None:
    message = bytearray(rtnl.replace_netem(7, 0x20000, ROOT, delay_us=1000, jitter_us=0, loss_ppm=0, limit_packets=5))
    assert not echoed(message).has_more
    message[FIELDS + field * 4 : FIELDS + field * 4 + 4] = b"\xff\xff\xff\x0f"
    assert echoed(message).has_more


@pytest.mark.parametrize(("kind", "does_more"), [(3, True), (4, True), (5, True), (6, True), (12, False)])
def test_what_netem_has_in_attributes_of_its_own_is_more_unless_it_is_nothing(kind: int, does_more: bool) -> None:
    # TCA_NETEM_REORDER, CORRUPT, LOSS (a model of losses), RATE; TCA_NETEM_ECN is about how, not what.
    def having(value: int) -> KernelQdisc:
        message = bytearray(
            rtnl.replace_netem(7, 0x20000, ROOT, delay_us=1000, jitter_us=0, loss_ppm=0, limit_packets=5)
        )
        (length,) = struct.unpack_from("=H", message, FIELDS - 4)
        struct.pack_into("=H", message, FIELDS - 4, length + 8)
        return echoed(message + struct.pack("=HHI", 8, kind, value))

    assert having(1).has_more is does_more
    assert having(0).has_more is (kind == 5)
