"""Socket addresses to bytes and back, truncated ones included."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labctl.kernel import sockaddr


@settings(max_examples=40, deadline=None, database=None)
@given(st.ip_addresses(v=4).map(str), st.integers(0, 65535))
def test_ipv4_addresses_survive(host: str, port: int) -> None:
    address = sockaddr.decode(sockaddr.inet(host, port))
    assert (address.family, address.host, address.port) == (socket.AF_INET, host, port)


@settings(max_examples=40, deadline=None, database=None)
@given(st.ip_addresses(v=6), st.integers(0, 65535), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_ipv6_addresses_survive(host: object, port: int, flowinfo: int, scope_id: int) -> None:
    text = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, str(host)))
    address = sockaddr.decode(sockaddr.inet6(text, port, flowinfo=flowinfo, scope_id=scope_id))
    assert (address.host, address.port, address.flowinfo, address.scope_id) == (text, port, flowinfo, scope_id)


@pytest.mark.parametrize("path", ["/run/x.sock", "@abstract", ""])
def test_unix_addresses_survive(path: str) -> None:
    assert sockaddr.decode(sockaddr.unix(path)).path == path


def test_a_packet_address_has_protocol_interface_and_hardware_address() -> None:
    address = sockaddr.decode(sockaddr.packet(0x0300, 7, b"\x02\0\0\0\0\x01"))
    assert (address.protocol, address.scope_id, address.hwaddr) == (0x0300, 7, "02:00:00:00:00:01")


@pytest.mark.parametrize(("length", "port", "host"), [(1, None, None), (4, 80, None), (8, 80, "192.0.2.1")])
def test_a_truncated_address_has_what_its_bytes_hold(length: int, port: int | None, host: str | None) -> None:
    address = sockaddr.decode(sockaddr.inet("192.0.2.1", 80)[:length], 16)
    assert (address.port, address.host, address.truncated) == (port, host, True)


def test_the_kernel_takes_and_returns_these_bytes() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0labctl-test-{os.getpid()}")
        name = sock.getsockname()
        assert sockaddr.unix("@" + name[1:].decode())[2:] == name


def test_an_interface_has_a_name_and_an_index() -> None:
    with socket.socket() as sock:
        assert sockaddr.interface_name(sock, sockaddr.interface_index(sock, "lo")) == "lo"
        assert sockaddr.scope_id(sock, "7") == 7
        for name in ("none", "a-name-that-is-too-long"):
            with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
                sockaddr.interface_index(sock, name)
