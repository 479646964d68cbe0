"""Texts that are prefixes, addresses and MACs; each mistake goes where the text stands."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_interface

from labctl.topology.draft import Choice, Family, Mistakes, Place, WantedAddress, WantedPrefix

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_EXAMPLES = {Family.IPV4: ("10.0.1.0/24", "10.0.1.5"), Family.IPV6: ("fd00:1::/64", "fd00:1::5")}


def parse_prefix(written: str | bool | None, family: Family, place: Place, mistakes: Mistakes) -> WantedPrefix:
    """A prefix, NONE for `false`, AUTOMATIC where nothing or nothing usable is written."""
    example = _EXAMPLES[family][0]
    if written is None or isinstance(written, bool):
        return Choice.AUTOMATIC if written is None else Choice.NONE
    if "/" not in written:
        mistakes.add(place, f"`{written}` is not a prefix: it has no length", f"write for example {example}")
        return Choice.AUTOMATIC
    interface = _interface(written, family, place, mistakes, f"an {family} prefix", example)
    if interface is None:
        return Choice.AUTOMATIC
    if interface.ip != interface.network.network_address:
        mistakes.add(place, f"{written} is an address in a prefix", f"did you mean `{interface.network}`?")
        return Choice.AUTOMATIC
    problem = _unusable(interface.network.network_address)
    if interface.network.prefixlen == 0:
        problem = "is everything"
    if problem:
        mistakes.add(place, f"{written} {problem}", f"write for example {example}")
        return Choice.AUTOMATIC
    return interface.network


def parse_pool(written: str, family: Family, place: Place, mistakes: Mistakes) -> IPv4Network | IPv6Network | None:
    """The prefix that automatic ones are taken from; None when nothing usable is written."""
    prefix = parse_prefix(written, family, place, mistakes)
    if isinstance(prefix, Choice):
        return None
    if prefix.prefixlen > (30 if family is Family.IPV4 else 64):
        mistakes.add(place, f"the pool {prefix} is too small", f"write for example {_EXAMPLES[family][0]}")
        return None
    return prefix


def parse_address(written: str | bool | None, family: Family, place: Place, mistakes: Mistakes) -> WantedAddress:
    """An address with or without its prefix's length, NONE for `false`, AUTOMATIC where nothing usable is written."""
    example = _EXAMPLES[family][1]
    if written is None or isinstance(written, bool):
        return Choice.AUTOMATIC if written is None else Choice.NONE
    interface = _interface(written, family, place, mistakes, f"an {family} address", example)
    if interface is None:
        return Choice.AUTOMATIC
    problem = _unusable(interface.ip)
    if problem:
        mistakes.add(place, f"{interface.ip} {problem}", f"write for example {example}")
        return Choice.AUTOMATIC
    if "/" not in written:
        return interface.ip
    return interface


def parse_mac(written: str, place: Place, mistakes: Mistakes) -> str:
    """The MAC in lower case with colons, "" when it is none that an interface can have."""
    mac = written.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        mistakes.add(place, f"`{written}` is not a MAC address", "write for example 02:00:00:00:00:01")
        return ""
    if int(mac[:2], 16) & 1:
        better = f"{int(mac[:2], 16) & 0xFC | 2:02x}{mac[2:]}"
        mistakes.add(place, f"{mac} is a group (multicast) address", f"did you mean `{better}`?")
        return ""
    if mac == "00:00:00:00:00:00":
        mistakes.add(place, f"{mac} is no interface's address", "write for example 02:00:00:00:00:01")
        return ""
    return mac


def _interface(
    written: str, family: Family, place: Place, mistakes: Mistakes, what: str, example: str
) -> IPv4Interface | IPv6Interface | None:
    try:
        if "%" in written:
            raise ValueError("scope")
        interface = ip_interface(written.strip())
    except ValueError:
        mistakes.add(place, f"`{written}` is not {what}", f"write for example {example}")
        return None
    if interface.version != family.value:
        other = "ipv4" if interface.version == 4 else "ipv6"
        mistakes.add(place, f"{written} is not {what}", f"did you mean `{other}: {written}`?")
        return None
    return interface


def _unusable(address: IPv4Address | IPv6Address) -> str:
    if address.is_multicast:
        return "is a multicast address"
    if address.is_loopback:
        return "is a loopback address"
    if address.is_unspecified or (address.version == 4 and int(address) >> 24 == 0):
        return "stands for no address at all"
    if address.version == 6 and address.is_link_local:
        return "is link-local; every interface has a link-local address already"
    if address.version == 4 and int(address) >> 28 == 15:
        return "is reserved (class E)"
    return ""
