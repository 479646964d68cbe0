"""Addresses: text to bytes, bytes to what they mean, and how they read."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.kernel import sockaddr
from labctl.kernel.sockaddr import Address, decode
from labctl.lab.agent import addresses
from labctl.lab.agent.addresses import CannotForm, address_text, data_text, encode, plain_address


@pytest.fixture
def hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path) + "/hosts"
    lines = ["127.0.0.1 localhost", "# 10.9.9.9 server", "10.0.0.2\tserver web  # first"]
    lines += ["2001:db8::2 server", "10.0.1.2 server", ""]
    with open(path, "w") as file:
        file.write("\n".join(lines))
    monkeypatch.setattr(addresses, "HOSTS_FILE", path)


@pytest.mark.usefixtures("hosts_file")
@pytest.mark.parametrize(
    ("text", "family", "shown"),
    [
        ("server:5000", socket.AF_INET, "{AF_INET, 10.0.0.2:5000}"),
        ("web:5000", socket.AF_INET, "{AF_INET, 10.0.0.2:5000}"),
        ("server:5000", socket.AF_INET6, "{AF_INET6, [2001:db8::2]:5000}"),
        ("10.0.0.9:1", socket.AF_INET, "{AF_INET, 10.0.0.9:1}"),
        ("10.0.0.9:1", socket.AF_INET6, "{AF_INET, 10.0.0.9:1}"),
        ("[::1]:1", socket.AF_INET, "{AF_INET6, [::1]:1}"),
        ("[fe80::1%7]:1", socket.AF_INET6, "{AF_INET6, [fe80::1%7]:1}"),
        (":0", socket.AF_INET, "{AF_INET, 0.0.0.0:0}"),
        ("*:80", socket.AF_INET6, "{AF_INET6, [::]:80}"),
        ("/tmp/x.sock", socket.AF_UNIX, '{AF_UNIX, "/tmp/x.sock"}'),
        ("@name", socket.AF_UNIX, '{AF_UNIX, @"name"}'),
        ("", socket.AF_UNIX, "{AF_UNIX}"),
    ],
)
def test_an_address_text_is_read_in_the_sockets_family(text: str, family: int, shown: str) -> None:
    assert address_text(decode(encode(text, family))) == shown


@pytest.mark.usefixtures("hosts_file")
@pytest.mark.parametrize(
    ("text", "family", "reason"),
    [
        ("nobody:80", socket.AF_INET, "no nobody in this host's"),
        ("web:80", socket.AF_INET6, "web has no AF_INET6 address in"),
        ("server", socket.AF_INET, "is no address of AF_INET"),
        ("server:70000", socket.AF_INET, "a port is 0 to 65535"),
        ("[fe80::1%nope0]:80", socket.AF_INET6, "no interface nope0 on this host"),
        ("x:1", socket.AF_NETLINK, "cannot write addresses of AF_NETLINK"),
    ],
)
def test_an_address_that_cannot_be_formed_says_why(text: str, family: int, reason: str) -> None:
    with pytest.raises(CannotForm) as raised:
        encode(text, family)
    assert reason in str(raised.value)


def test_the_family_and_flow_may_be_said_explicitly() -> None:
    address = decode(encode([socket.AF_INET6, "[2001:db8::1]:80", 5], socket.AF_INET))
    assert (address.family, address.flowinfo) == (socket.AF_INET6, 5)
    assert encode(b"raw", socket.AF_INET) == b"raw"
    assert decode(encode(0, socket.AF_INET)).family == socket.AF_UNSPEC


@pytest.mark.usefixtures("hosts_file")
def test_an_address_is_described_with_its_node() -> None:
    assert addresses.describe(decode(sockaddr.inet("10.0.0.2", 80))).name == "server"
    assert addresses.describe(decode(sockaddr.inet("10.0.0.3", 80))).name == ""
    assert addresses.describe(decode(sockaddr.inet6("::ffff:10.0.0.2", 80))).name == "server"
    assert addresses.describe(decode(sockaddr.inet6("::ffff:10.0.0.3", 80))).name == ""
    assert addresses.describe(decode(sockaddr.inet6("::ffff", 80))).name == ""


@pytest.mark.parametrize(
    ("raw", "addrlen", "shown"),
    [
        (sockaddr.inet("10.0.0.1", 80)[:4], 16, "{AF_INET, ...:80}"),
        (sockaddr.inet("10.0.0.1", 80)[:2], 16, "{AF_INET, ...:...}"),
        (b"", 16, "{...}"),
        (b"", 0, "{}"),
        (sockaddr.unix("/tmp/long")[:6], 12, '{AF_UNIX, "/tmp"...}'),
        (sockaddr.unspec(), 16, "{AF_UNSPEC}"),
    ],
)
def test_a_truncated_address_shows_what_there_is(raw: bytes, addrlen: int, shown: str) -> None:
    assert address_text(decode(raw, addrlen)) == shown


@given(st.binary(max_size=130), st.integers(0, 300))
def test_any_bytes_decode_and_read(raw: bytes, addrlen: int) -> None:
    address = decode(raw, addrlen)
    address_text(address)
    plain_address(address)


def test_data_reads_as_a_c_string_and_is_shortened() -> None:
    assert data_text(b'a"\n\0\xff') == r'"a\"\n\0\xff"'
    assert data_text(b"x" * 33) == '"' + "x" * 32 + '"...'


def test_an_address_without_bytes_is_empty() -> None:
    assert decode(b"") == Address(b"", 0)
