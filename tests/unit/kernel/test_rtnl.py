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
    RTM_SETLINK,
)
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
        added = removing[len(making) :]
        assert removing[8 : len(making)] == making[8:]
        assert struct.unpack_from("=I", removing) == (len(removing),)
        of_ipv6 = kind == RTM_DELROUTE and address.version == 6  # without a metric, any route is removed
        assert added == (struct.pack("=HHI", 8, 6, 1024) if of_ipv6 else b"")


def test_the_message_classes_come_without_the_package_around_them() -> None:
    program = """
import sys
from labctl.kernel import rtnl
print(*[rtnl.message_class(name).__name__ for name in ('ifinfmsg', 'ifaddrmsg', 'rtmsg')])
print({"pyroute2.iproute", "asyncio"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "ifinfmsg ifaddrmsg rtmsg\nset()\n", done.stderr
