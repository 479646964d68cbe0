"""The link-local address that an interface has by its MAC."""

from __future__ import annotations

from ipaddress import IPv6Interface

_LINK_LOCAL = 0xFE80 << 112


def link_local(mac: str) -> IPv6Interface:
    """The link-local address that follows from a MAC: modified EUI-64 (RFC 4291, appendix A), with its /64."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return IPv6Interface((_LINK_LOCAL | int.from_bytes(identifier), 64))
