"""Messages filled into templates are, byte for byte, what pyroute2 encodes."""

from __future__ import annotations

import struct
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.kernel import rtnl
from labctl.kernel.netlink import HEADER, NLM_F_ACK, NLM_F_REQUEST

INDEXES = st.integers(1, 2**31 - 1)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-._", min_size=1, max_size=15)
MACS = st.binary(min_size=6, max_size=6).map(lambda packed: packed.hex(":"))
ENDS = st.builds(rtnl.VethEnd, NAMES, INDEXES, MACS, st.integers(68, 65535), st.integers(3, 2**31 - 1))
V4 = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(IPv4Interface)
V6 = st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(IPv6Interface)


@settings(max_examples=40, deadline=None, database=None)
@given(ENDS, ENDS, st.one_of(st.just(0), INDEXES))
def test_veth_pairs(first: rtnl.VethEnd, second: rtnl.VethEnd, master: int) -> None:
    assert bytes(rtnl.new_veth(first, second, master)) == rtnl.encode_veth(first, second, master)


@settings(max_examples=30, deadline=None, database=None)
@given(NAMES, INDEXES, st.integers(68, 65535))
def test_bridges(ifname: str, index: int, mtu: int) -> None:
    assert bytes(rtnl.new_bridge(ifname, index, mtu)) == rtnl.encode_bridge(ifname, index, mtu)


@settings(max_examples=30, deadline=None, database=None)
@given(INDEXES, INDEXES, st.booleans())
def test_changes_of_links(index: int, master: int, up: bool) -> None:
    assert bytes(rtnl.set_up(index, up)) == rtnl.encode_up(index, up)
    assert bytes(rtnl.set_master(index, master)) == rtnl.encode_master(index, master)
    assert bytes(rtnl.set_mtu(index, master)) == rtnl.encode_mtu(index, master)
    assert bytes(rtnl.set_group(index, master)) == rtnl.encode_group(index, master)
    generated = rtnl.encode_without_generated_addresses(index)
    assert bytes(rtnl.without_generated_addresses(index)) == generated


@settings(max_examples=60, deadline=None, database=None)
@given(INDEXES, st.one_of(V4, V6))
def test_addresses(index: int, address: IPv4Interface | IPv6Interface) -> None:
    assert bytes(rtnl.new_address(index, address)) == rtnl.encode_address(index, address)


@settings(max_examples=60, deadline=None, database=None)
@given(INDEXES, st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)), st.booleans())
def test_routes(
    index: int, ends: tuple[IPv4Interface, IPv4Interface] | tuple[IPv6Interface, IPv6Interface], direct: bool
) -> None:
    destination, gateway = ends[0].network, None if direct else ends[1].ip
    assert bytes(rtnl.new_route(index, destination, gateway)) == rtnl.encode_route(index, destination, gateway)


def test_a_gateway_of_the_other_family_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="another family"):
        rtnl.new_route(1, IPv4Network("10.0.0.0/8"), IPv6Network("2001:db8::/64")[1])


def test_a_message_knows_its_length_and_asks_for_an_answer() -> None:
    message = rtnl.set_up(7, True)
    length, type, flags, sequence, _ = HEADER.unpack_from(message)
    assert (length, type, flags, sequence) == (len(message), rtnl.RTM_NEWLINK, 0x5, 0)
    assert struct.unpack_from("=iII", message, HEADER.size + 4) == (7, rtnl.IFF_UP, rtnl.IFF_UP)


def test_an_ipv6_address_skips_duplicate_detection() -> None:
    message = rtnl.new_address(7, IPv6Interface("2001:db8::1/64"))
    assert message[HEADER.size + 2] & rtnl.IFA_F_NODAD


@settings(max_examples=30, deadline=None, database=None)
@given(INDEXES, st.one_of(V4, V6))
def test_removing_differs_from_making_in_type_and_flags_only(
    index: int, address: IPv4Interface | IPv6Interface
) -> None:
    pairs = (
        (rtnl.new_address(index, address), rtnl.remove_address(index, address), rtnl.RTM_DELADDR),
        (
            rtnl.new_route(index, address.network, None),
            rtnl.remove_route(index, address.network, None),
            rtnl.RTM_DELROUTE,
        ),
        (rtnl.set_group(0, index), rtnl.remove_group(index), rtnl.RTM_DELLINK),
    )
    for making, removing, kind in pairs:
        assert struct.unpack_from("=HH", removing, 4) == (kind, NLM_F_REQUEST | NLM_F_ACK)
        assert removing[:4] == making[:4]
        assert removing[8:] == making[8:]
