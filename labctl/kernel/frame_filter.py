"""Frames that interfaces drop as they arrive: tables of nftables in the family netdev, at the ingress hook.

The hook is before bridges, ARP and IP (nf_ingress in __netif_receive_skb_core(), net/core/dev.c), and after packet
sockets: a capture on the receiver still shows the frame, as on a cut wire it would not. The sender notices nothing.
Linux 4.2 has the hook (CONFIG_NETFILTER_INGRESS), 4.10 sets of MAC addresses there. A table has sets of its own, so
that a thousand addresses cost a packet one look-up each.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from labctl.kernel.netlink import (
    MESSAGES_PER_SEND,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    attribute,
)
from labctl.kernel.nftables import (
    DELETE_TABLE,
    EQUAL,
    GENERIC,
    IPPROTO_ICMPV6,
    META_L4PROTO,
    NESTED,
    NETWORK_HEADER,
    NEW_CHAIN,
    NEW_RULE,
    NEW_TABLE,
    SUBSYSTEM,
    TRANSPORT_HEADER,
    Request,
    compare,
    drop,
    expression,
    load,
    meta,
    new_rule,
    number,
    transact,
)
from labctl.structs import Struct

NFPROTO_NETDEV = 5  # linux/netfilter.h
_NEW_SET, _NEW_ELEMENTS = SUBSYSTEM | 9, SUBSYSTEM | 12  # NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM
_META_PROTOCOL = 1  # NFT_META_PROTOCOL: the EtherType
_LINK_HEADER = 0  # NFT_PAYLOAD_LL_HEADER
_AT_MOST, _AT_LEAST = 3, 5  # NFT_CMP_LTE, _GTE
_INGRESS, _PRIORITY = 0, -500  # NF_NETDEV_INGRESS; before other tables
_ARP, _IPV4, _IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"  # linux/if_ether.h
_FIRST_DISCOVERY, _LAST_DISCOVERY = b"\x85", b"\x89"  # router solicitation to redirect (RFC 4861)
_KEY_TYPES = {4: 7, 16: 8, 6: 9}  # by length, for nft(8): ipv4_addr, ipv6_addr, ether_addr
_ELEMENTS = 1000  # of one message: an attribute has at most 64 KiB


class FrameFilter(Struct, frozen=True):
    """Frames to drop: those that any criterion matches; without criteria, all. With `resolves`, ARP and ND pass.

    `ports` (IP protocol, port) narrows `destinations`: packets to one of these ports there.
    """

    interfaces: tuple[str, ...]
    macs: tuple[bytes, ...] = ()
    sources: tuple[IPv4Address | IPv6Address, ...] = ()
    destinations: tuple[IPv4Network | IPv6Network, ...] = ()
    resolves: bool = False
    ports: tuple[tuple[int, int], ...] = ()


def add(sock: socket.socket, table: str, chosen: FrameFilter) -> None:
    """Drop the frames, in the namespace of `sock` (NETLINK_NETFILTER, borrowed), until `remove` of the table.

    OSError: EOPNOTSUPP or ENOENT on a kernel without nf_tables or the family, ENODEV for an unknown interface; then
    nothing is dropped.
    """
    wanted = list(requests(table, chosen))
    try:
        for first in range(0, len(wanted), MESSAGES_PER_SEND):
            transact(sock, wanted[first : first + MESSAGES_PER_SEND])
    except OSError:
        with suppress(OSError):  # the first refusal is the one to report
            remove(sock, table)
        raise


def remove(sock: socket.socket, table: str) -> None:
    """Remove the table from the namespace of `sock` (borrowed), if there is one. OSError."""
    name = attribute(1, _name(table))
    transact(sock, [_request(NEW_TABLE, NLM_F_CREATE, name), _request(DELETE_TABLE, 0, name)])


def requests(table: str, chosen: FrameFilter) -> Iterator[Request]:
    """Yield the requests that make the table."""
    name = _name(table)
    yield _request(NEW_TABLE, NLM_F_CREATE, attribute(1, name))
    ipv4, ipv6 = ([one.packed for one in chosen.sources if one.version == version] for version in (4, 6))
    found = {"macs": (1, list(chosen.macs)), "ipv4": (2, ipv4), "ipv6": (3, ipv6)}
    for key, (id, elements) in found.items():
        if elements:
            yield from _set(name, _name(key), id, list(dict.fromkeys(elements)))
    rules = list(_rules(chosen, {key for key, (_, elements) in found.items() if elements}))
    for index, ifname in enumerate(dict.fromkeys(chosen.interfaces)):
        chain = _name(f"ingress{index}")
        hook = attribute(1, struct.pack("!I", _INGRESS)) + attribute(2, struct.pack("!i", _PRIORITY))
        hook += attribute(3, _name(ifname))  # NFTA_HOOK_DEV
        attrs = attribute(1, name) + attribute(3, chain) + attribute(4 | NESTED, hook) + attribute(7, b"filter\0")
        yield _request(NEW_CHAIN, NLM_F_CREATE, attrs)
        for rule in rules:
            yield _request(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, new_rule(name, chain, rule))


def _rules(chosen: FrameFilter, sets: set[str]) -> Iterator[list[bytes]]:
    """Yield the expressions of each rule."""
    if chosen.resolves:
        yield [meta(_META_PROTOCOL), compare(EQUAL, _ARP), _accept()]
        yield [
            *(meta(_META_PROTOCOL), compare(EQUAL, _IPV6)),
            *(load(NETWORK_HEADER, 6, 1), compare(EQUAL, bytes([IPPROTO_ICMPV6]))),
            *(load(TRANSPORT_HEADER, 0, 1), compare(_AT_LEAST, _FIRST_DISCOVERY), compare(_AT_MOST, _LAST_DISCOVERY)),
            _accept(),
        ]
    if "macs" in sets:
        yield [load(_LINK_HEADER, 6, 6), _in_set("macs", 1), *_dropped()]
    for name, id, kind, offset, size in (("ipv4", 2, _IPV4, 12, 4), ("ipv6", 3, _IPV6, 8, 16)):
        if name in sets:
            source = load(NETWORK_HEADER, offset, size)
            yield [meta(_META_PROTOCOL), compare(EQUAL, kind), source, _in_set(name, id), *_dropped()]
    for prefix in chosen.destinations:
        kind, offset = (_IPV4, 16) if prefix.version == 4 else (_IPV6, 24)
        match = [meta(_META_PROTOCOL), compare(EQUAL, kind)]
        if prefix.prefixlen:
            address = prefix.network_address.packed
            loaded = load(NETWORK_HEADER, offset, len(address))
            match += [loaded, _masked(prefix.netmask.packed), compare(EQUAL, address)]
        for protocol, port in chosen.ports:
            to_port = [meta(META_L4PROTO), compare(EQUAL, bytes([protocol]))]
            to_port += [load(TRANSPORT_HEADER, 2, 2), compare(EQUAL, struct.pack("!H", port))]
            yield [*match, *to_port, *_dropped()]
        if not chosen.ports:
            yield [*match, *_dropped()]
    if not (sets or chosen.destinations):
        yield _dropped()


def _set(table: bytes, name: bytes, id: int, elements: list[bytes]) -> Iterator[Request]:
    """Yield the requests for a set of packed keys of one length."""
    size = len(elements[0])
    # NFTA_SET_TABLE, _NAME, _KEY_TYPE, _KEY_LEN, _ID
    attrs = attribute(1, table) + attribute(2, name) + number(4, _KEY_TYPES[size]) + number(5, size) + number(10, id)
    yield _request(_NEW_SET, NLM_F_CREATE, attrs)
    for first in range(0, len(elements), _ELEMENTS):
        listed = b"".join(
            attribute(1 | NESTED, attribute(1 | NESTED, attribute(1, key)))  # NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE
            for key in elements[first : first + _ELEMENTS]
        )
        attrs = attribute(1, table) + attribute(2, name) + number(4, id) + attribute(3 | NESTED, listed)
        yield _request(_NEW_ELEMENTS, NLM_F_CREATE, attrs)


def _in_set(name: str, id: int) -> bytes:
    """Look the register up in a set (NFTA_LOOKUP_SET, _SREG, _SET_ID); the rule ends if it is not there."""
    return expression("lookup", attribute(1, _name(name)) + number(2, 1) + number(4, id))


def _masked(mask: bytes) -> bytes:
    """Mask the register (NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR)."""
    masks = attribute(4 | NESTED, attribute(1, mask)) + attribute(5 | NESTED, attribute(1, bytes(len(mask))))
    return expression("bitwise", number(1, 1) + number(2, 1) + number(3, len(mask)) + masks)


def _dropped() -> list[bytes]:
    return [expression("counter", b""), drop()]


def _accept() -> bytes:
    """Accept the packet: NF_ACCEPT."""
    return expression("immediate", number(1, 0) + attribute(2 | NESTED, attribute(2 | NESTED, number(1, 1))))


def _request(type: int, flags: int, attrs: bytes) -> Request:
    return type, NLM_F_REQUEST | NLM_F_ACK | flags, GENERIC.pack(NFPROTO_NETDEV, 0, 0) + attrs


def _name(text: str) -> bytes:
    return text.encode() + b"\0"
