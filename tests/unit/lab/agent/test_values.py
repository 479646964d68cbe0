"""Values of options and control messages: to the bytes of C and back."""

from __future__ import annotations

import struct

from labctl.lab.agent.constants import CONSTANTS
from labctl.lab.agent.messages import CStruct
from labctl.lab.agent.options import INFO, LINGER, OPTIONS
from labctl.lab.agent.values import pack, pack_control, pack_struct, unpack, unpack_control, unpack_struct


def test_values_become_the_bytes_of_c() -> None:
    membership = OPTIONS["IP_ADD_MEMBERSHIP"].type
    group, own, index = b"\xef\1\1\1", b"\x0a\0\0\1", struct.pack("@i", 3)
    assert pack("x", membership, CStruct((("", "239.1.1.1"), ("", "10.0.0.1")))) == group + own
    named = CStruct((("imr_multiaddr", "239.1.1.1"), ("imr_ifindex", 3)))
    assert pack("x", membership, named) == group + bytes(4) + index
    request = pack("x", OPTIONS["MCAST_JOIN_GROUP"].type, CStruct((("", 3), ("", "239.1.1.1"))))
    assert isinstance(request, bytes)
    assert len(request) == 136
    assert request[8:16] == struct.pack("@H", 2) + b"\0\0" + group
    timeout = CStruct((("", 1), ("", 500_000)))
    assert pack("x", OPTIONS["SO_RCVTIMEO"].type, timeout) == pack("x", OPTIONS["SO_RCVTIMEO"].type, "1500ms")
    assert pack_struct("x", LINGER, [1, 5]) == struct.pack("@ii", 1, 5)
    assert unpack(OPTIONS["SO_LINGER"].type, struct.pack("@ii", 1, 5)) == CStruct((("l_onoff", 1), ("l_linger", 5)))


def test_control_messages_go_there_and_back() -> None:
    sent = [[1, 1, [7, 8, 9]], [0, CONSTANTS["IP_TTL"], 9]]
    first, second = unpack_control(pack_control(sent))  # type: ignore[arg-type]  # a list of values, invariant
    assert first == CStruct((("cmsg_level", 1), ("cmsg_type", 1), ("cmsg_data", [7, 8, 9])))
    assert second == CStruct((("cmsg_level", 0), ("cmsg_type", CONSTANTS["IP_TTL"]), ("cmsg_data", 9)))


def test_a_short_structure_of_an_older_kernel_has_its_first_members() -> None:
    read = unpack_struct(INFO, bytes([1, 0, 0, 0, 0, 7, 0x78, 0]) + struct.pack("@I", 204000))
    assert isinstance(read, CStruct)
    assert dict(read.fields)["tcpi_snd_wscale"] == 8
    assert read.fields[-1] == ("tcpi_rto", 204000)
