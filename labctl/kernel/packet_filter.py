"""Filters of packets in the syntax of pcap-filter(7), compiled by libpcap to instructions for SO_ATTACH_FILTER."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Mapping
from ctypes import POINTER, byref, c_char_p, c_int, c_uint32, c_void_p

from labctl.errors import InputError, MachineError

LIBRARIES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")  # Debian's name, others', a development package's
DLT_EN10MB = 1  # pcap-linktype(7): Ethernet, and `lo`
NETMASK_UNKNOWN = 0xFFFFFFFF
INSTRUCTION_BYTES = 8  # struct bpf_insn, struct sock_filter
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_KEYWORDS = frozenset(
    [
        "host",
        "net",
        "port",
        "portrange",
        "src",
        "dst",
        "gateway",
        "proto",
        "protochain",
        "ether",
        "ip",
        "ip6",
        "arp",
        "rarp",
        "tcp",
        "udp",
        "icmp",
        "icmp6",
        "igmp",
        "igrp",
        "pim",
        "vrrp",
        "sctp",
        "stp",
        "vlan",
        "mpls",
        "multicast",
        "broadcast",
        "less",
        "greater",
        "and",
        "or",
        "not",
        "len",
        "inbound",
        "outbound",
        "mask",
        "type",
        "subtype",
    ]
)


class _Program(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = (("length", c_uint32), ("instructions", c_void_p))


def compile_filter(expression: str, snap_bytes: int, names: Mapping[str, Iterable[str]] | None = None) -> bytes:
    """Return the instructions of a filter that takes the first `snap_bytes` of each packet that matches.

    `names` has the addresses of hosts that the expression may name. InputError with libpcap's reason, MachineError if
    libpcap is not installed.
    """
    library = _libpcap()
    handle = library.pcap_open_dead(DLT_EN10MB, snap_bytes)
    program = _Program()
    try:
        text = with_addresses(expression, names or {}).encode(errors="surrogateescape")
        if library.pcap_compile(handle, byref(program), text, 1, NETMASK_UNKNOWN) != 0:
            reason = library.pcap_geterr(handle).decode(errors="replace")
            raise InputError(f"filter `{expression}`: {reason}. See pcap-filter(7).")
        try:
            return ctypes.string_at(program.instructions, program.length * INSTRUCTION_BYTES)
        finally:
            library.pcap_freecode(byref(program))
    finally:
        library.pcap_close(handle)


def with_addresses(expression: str, names: Mapping[str, Iterable[str]]) -> str:
    """Return the expression with the addresses of hosts in place of their names: libpcap asks the machine for names."""

    def addresses(match: re.Match[str]) -> str:
        name = match[0]
        known = () if name in _KEYWORDS else tuple(names.get(name, ()))
        return f"({' or '.join(known)})" if known else name

    return _NAME.sub(addresses, expression)


def _libpcap() -> ctypes.CDLL:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype, library.pcap_open_dead.argtypes = c_void_p, [c_int, c_int]
        library.pcap_compile.argtypes = [c_void_p, POINTER(_Program), c_char_p, c_int, c_uint32]
        library.pcap_geterr.restype, library.pcap_geterr.argtypes = c_char_p, [c_void_p]
        library.pcap_freecode.argtypes = [POINTER(_Program)]
        library.pcap_close.argtypes = [c_void_p]
        return library
    raise MachineError(
        "filter of packets: cannot compile it: this machine has no libpcap. Try: apt-get install libpcap0.8 "
        "(dnf install libpcap)."
    )
