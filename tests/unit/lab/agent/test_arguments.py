"""The arguments of a call: checked by kind; the buffers of ioctl."""

from __future__ import annotations

import socket
import struct

import pytest

from labctl.lab.agent.addresses import CannotForm
from labctl.lab.agent.arguments import Arguments, family_of, pack_request, show_request, unpack_request
from labctl.lab.agent.constants import CONSTANTS
from labctl.lab.agent.messages import CStruct, SystemCall, Value
from labctl.lab.agent.options import ioctl_request

SET_MTU = ioctl_request(CONSTANTS["SIOCSIFMTU"])
GET_MTU = ioctl_request(CONSTANTS["SIOCGIFMTU"])


def arguments(*values: Value, addrlen: int | None = None) -> Arguments:
    return Arguments(SystemCall("call", values, addrlen))


@pytest.mark.parametrize("number", [-(2**31), 0, 2**32 - 1])
def test_an_int_of_c_is_signed_or_unsigned(number: int) -> None:
    assert arguments(number).integer(0) == number


@pytest.mark.parametrize("value", [2**32, -(2**31) - 1, "1", b"1", None])
def test_another_value_is_no_int(value: Value) -> None:
    with pytest.raises(CannotForm, match=r"argument 1 is .*, not an integer of 32 bits"):
        arguments(value).integer(0)


def test_a_missing_argument_is_named_by_its_position() -> None:
    with pytest.raises(CannotForm, match="call lacks its argument 2"):
        arguments(1).data(1)


def test_a_timeout_is_milliseconds_or_a_duration_and_for_ever_when_left_out() -> None:
    assert [arguments(250).timeout_ms(0), arguments("1.5s").timeout_ms(0), arguments().timeout_ms(0)] == [250, 1500, -1]


def test_an_address_has_the_length_that_the_call_gives() -> None:
    raw, length = arguments("10.0.0.1:80", addrlen=20).address(0, socket.AF_INET)
    assert (len(raw), length) == (20, 20)
    raw, length = arguments("10.0.0.1:80").address(0, socket.AF_INET)
    assert (len(raw), length) == (16, 16)


def test_poll_takes_one_pair_or_a_list_of_them() -> None:
    assert arguments([3, 1]).poll_entries(0) == [(3, 1)]
    assert arguments([[3, 1], [4, 4]]).poll_entries(0) == [(3, 1), (4, 4)]


def test_a_mixed_list_is_no_list_of_buffers() -> None:
    assert arguments([b"a", b"b"]).buffers(0) == [b"a", b"b"]
    with pytest.raises(CannotForm, match="a list of bytes"):
        arguments([b"a", 1]).buffers(0)


def test_the_family_of_a_socket_is_the_kernels() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        assert family_of(sock.fileno()) == socket.AF_INET6


def test_a_request_on_an_interface_is_a_struct_ifreq() -> None:
    buffer = pack_request(SET_MTU, CStruct((("", "eth0"), ("", 1400))))
    assert buffer == b"eth0".ljust(16, b"\0") + struct.pack("@i", 1400).ljust(24, b"\0")
    assert unpack_request(GET_MTU, buffer) == 1400
    assert show_request(GET_MTU, "eth0", 1400) == '{ifr_name="eth0", ifr_mtu=1400}'


def test_an_interface_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(CannotForm, match="longer than the 15 bytes"):
        pack_request(GET_MTU, "interface-name-16")
