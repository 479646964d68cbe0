"""The constants of the socket interface by name, and names for the values that come back.

From the interpreter's own modules, which have the running architecture's values; what those lack is added with the
numbers of the UAPI headers (asm-generic, the same on x86 and ARM).
"""

from __future__ import annotations

import _socket  # `socket` would wrap every constant in an enum
import errno
import fcntl
import os
import resource
import select
from collections.abc import Mapping
from types import MappingProxyType

_ADDED = {
    "AF_LOCAL": 1,
    "SOL_IPV6": 41,
    "SOL_ICMPV6": 58,
    "SO_SNDBUFFORCE": 32,  # asm-generic/socket.h
    "SO_RCVBUFFORCE": 33,
    "SO_TIMESTAMP": 29,
    "SO_ATTACH_FILTER": 26,
    "SO_PEERNAME": 28,
    "SO_BUSY_POLL": 46,
    "SO_MAX_PACING_RATE": 47,
    "SO_MEMINFO": 55,
    "SO_INCOMING_NAPI_ID": 56,
    "SO_ZEROCOPY": 60,
    "SO_NO_CHECK": 11,
    "TCP_ULP": 31,  # linux/tcp.h
    "TCP_FASTOPEN_CONNECT": 30,
    "TCP_SAVE_SYN": 27,
    "TCP_INQ": 36,
    "IP_MTU_DISCOVER": 10,  # linux/in.h
    "IP_RECVERR": 11,
    "IP_RECVTTL": 12,
    "IP_PKTINFO": 8,
    "IP_MTU": 14,
    "IP_FREEBIND": 15,
    "IP_LOCAL_PORT_RANGE": 51,
    "IPV6_MTU_DISCOVER": 23,  # linux/in6.h
    "IPV6_MTU": 24,
    "IPV6_RECVERR": 25,
    "IPV6_AUTOFLOWLABEL": 70,
    "UDP_CORK": 1,  # linux/udp.h
    "UDP_SEGMENT": 103,
    "UDP_GRO": 104,
    "MSG_WAITFORONE": 0x10000,  # linux/socket.h
    "FIONREAD": 0x541B,  # asm-generic/ioctls.h
    "SIOCINQ": 0x541B,  # linux/sockios.h
    "SIOCOUTQ": 0x5411,
    "INADDR_ANY": 0,
    "SOMAXCONN": 4096,  # since Linux 5.4
}

CAPABILITIES = (  # in the order of their numbers, linux/capability.h
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)

_FROM_MODULES = (
    (_socket, ("AF_", "SOCK_", "SOL_", "SO_", "IPPROTO_", "TCP_", "IP_", "IPV6_", "MSG_", "SHUT_")),
    (select, ("POLL",)),
    (fcntl, ("F_",)),
    (os, ("O_",)),
    (resource, ("RLIMIT_",)),
)
_OTHER_LEVELS = ("SO_J1939_", "SO_VM_")  # options of other families, with the numbers of common ones


def _collect() -> dict[str, int]:
    found: dict[str, int] = {}
    for module, prefixes in _FROM_MODULES:
        for name in dir(module):
            if name.startswith(prefixes) and not name.startswith(_OTHER_LEVELS):
                found[name] = getattr(module, name)
    found.update(_ADDED)
    found.update({f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)})
    return found


ERRNOS: Mapping[str, int] = MappingProxyType(
    {name: value for name in dir(errno) if name.startswith("E") and isinstance(value := getattr(errno, name), int)}
)
CONSTANTS: Mapping[str, int] = MappingProxyType(_collect())

_PREFERRED = (  # where two names have one value, the one that a program would use
    "AF_UNIX",
    "SOL_SOCKET",
    "IPPROTO_IP",
    "IPPROTO_TCP",
    "IPPROTO_UDP",
    "IPPROTO_IPV6",
    "O_NONBLOCK",
    "POLLIN",
    "POLLOUT",
    "F_GETFL",
    "F_SETFL",
    "F_GETFD",
    "F_SETFD",
    "F_DUPFD",
    "F_GETOWN",
    "F_SETOWN",
    "FIONREAD",
)


def name_of(value: int, *prefixes: str) -> str:
    """`AF_INET` for (2, "AF_"); the number as text when no constant with one of the prefixes has that value."""
    for name in _PREFERRED:
        if CONSTANTS.get(name) == value and name.startswith(prefixes):
            return name
    for name, number in CONSTANTS.items():
        if number == value and name.startswith(prefixes):
            return name
    return str(value)


def flags_of(value: int, *prefixes: str) -> str:
    """`MSG_PEEK|MSG_DONTWAIT` for (0x42, "MSG_"), what has no name in hexadecimal; "0" for 0."""
    names, rest = [], value
    singles = {number for name, number in CONSTANTS.items() if name.startswith(prefixes) and number.bit_count() == 1}
    for number in sorted(singles):
        if rest & number:
            names.append(name_of(number, *prefixes))
            rest &= ~number
    if rest:
        names.append(hex(rest))
    return "|".join(names) or "0"


def option_name(level: int, option: int) -> str:
    """`SO_REUSEADDR` for (SOL_SOCKET, 2)."""
    prefixes = {
        CONSTANTS["SOL_SOCKET"]: "SO_",
        CONSTANTS["IPPROTO_TCP"]: "TCP_",
        CONSTANTS["IPPROTO_IP"]: "IP_",
        CONSTANTS["IPPROTO_IPV6"]: "IPV6_",
        CONSTANTS["IPPROTO_UDP"]: "UDP_",
    }
    return name_of(option, prefixes[level]) if level in prefixes else str(option)


def socket_type_name(value: int) -> str:
    """`SOCK_STREAM|SOCK_NONBLOCK`: the type, which is a number, and its flags."""
    flags = value & (CONSTANTS["SOCK_NONBLOCK"] | CONSTANTS["SOCK_CLOEXEC"])
    kind = name_of(value & ~flags, "SOCK_")
    return f"{kind}|{flags_of(flags, 'SOCK_NONBLOCK', 'SOCK_CLOEXEC')}" if flags else kind
