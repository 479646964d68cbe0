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
    NLM_F_ACK,
    NLM_F_REQUEST,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWLINK,
    RTM_SETLINK,
)

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
def test_changes_of_links(index: int, number: int, up: bool) -> None:
    assert bytes(rtnl.set_up(index, up)) == changed_link(RTM_NEWLINK, index, flags=IFF_UP if up else 0, change=IFF_UP)
    assert bytes(rtnl.set_master(index, number)) == changed_link(RTM_SETLINK, index, ("IFLA_MASTER", number))
    assert bytes(rtnl.set_mtu(index, number)) == changed_link(RTM_SETLINK, index, ("IFLA_MTU", number))
    assert bytes(rtnl.set_group(index, number)) == changed_link(RTM_SETLINK, index, ("IFLA_GROUP", number))
    assert bytes(rtnl.remove_link(index)) == changed_link(RTM_DELLINK, index)
    no_addresses = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
    disabled = changed_link(RTM_SETLINK, index, ("IFLA_AF_SPEC", no_addresses))
    assert bytes(rtnl.disable_address_generation(index)) == disabled


def changed_link(type: int, index: int, *attrs: tuple[str, Any], flags: int = 0, change: int = 0) -> bytes:
    """A message without creation flags, as pyroute2 encodes it."""
    message = rtnl.message_class("ifinfmsg")()
    message["header"]["type"], message["header"]["flags"] = type, NLM_F_REQUEST | NLM_F_ACK
    message["index"], message["flags"], message["change"] = index, flags, change
    message["attrs"] = list(attrs)
    message.encode()
    return bytes(message.data)


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


def test_a_message_has_its_length_and_requests_an_acknowledgement() -> None:
    message = rtnl.set_up(7, True)
    length, type, flags, sequence, _ = HEADER.unpack_from(message)
    assert (length, type, flags, sequence) == (len(message), RTM_NEWLINK, 0x5, 0)
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
        assert struct.unpack_from("=HH", removing, 4) == (kind, NLM_F_REQUEST | NLM_F_ACK)
        assert removing[:4] == making[:4]
        assert removing[8:] == making[8:]


def python(program: str) -> str:
    """What a fresh interpreter prints; its own process, because the loader is about sys.modules."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_message_classes_come_without_the_package_around_them() -> None:
    program = """
import sys
from labctl.kernel import rtnl
print(*[rtnl.message_class(name).__name__ for name in ('ifinfmsg', 'ifaddrmsg', 'rtmsg')])
print([name for name in sys.modules if name.startswith("pyroute2") or name == "asyncio"])
"""
    assert python(program) == "ifinfmsg ifaddrmsg rtmsg\n[]\n"


def test_a_genuine_import_of_pyroute2_still_works_afterwards() -> None:
    program = """
from labctl.kernel import rtnl
link = rtnl.message_class("ifinfmsg")
import pyroute2
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
print(pyroute2.IPRoute.__name__, pyroute2.__file__.endswith("__init__.py"), ifinfmsg is not link)
rtnl.message_class("rtmsg")().encode()
print(pyroute2.netlink.rtnl.rtmsg.rtmsg is not None)
"""
    assert python(program) == "IPRoute True True\nTrue\n"


def test_where_pyroute2_is_imported_already_its_own_classes_are_used() -> None:
    program = """
import pyroute2
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from labctl.kernel import rtnl
print(rtnl.message_class("ifinfmsg") is ifinfmsg)
"""
    assert python(program) == "True\n"


@pytest.mark.parametrize("surprise", ["raise ImportError(name)", "raise AttributeError(name)"])
def test_anything_unexpected_ends_in_the_ordinary_import(surprise: str) -> None:
    program = f"""
import sys
from labctl.kernel import rtnl
def unexpected(name):
    {surprise}
rtnl._import_without_package = unexpected
print(rtnl.message_class("ifinfmsg").__name__, hasattr(sys.modules["pyroute2"], "IPRoute"))
"""
    assert python(program) == "ifinfmsg True\n"


def test_two_kinds_of_message_share_their_base() -> None:
    program = """
from labctl.kernel import rtnl
link, address = rtnl.message_class("ifinfmsg"), rtnl.message_class("ifaddrmsg")
print(link.__mro__[1:] == address.__mro__[1:] or set(link.__mro__) & set(address.__mro__) > {object})
"""
    assert python(program) == "True\n"
