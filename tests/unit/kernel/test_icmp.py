"""Checksums of ICMP messages."""

from __future__ import annotations

from labctl.kernel import icmp


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert icmp.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert icmp.checksum(b"\xff") == 0x00FF
