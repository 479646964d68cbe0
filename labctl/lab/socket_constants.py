"""The constants of the socket interface by name, and names for the values that come back.

From the interpreter's own modules, which have the running architecture's values; `socket_numbers` has what those lack.
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

from labctl.lab.socket_numbers import NUMBERS

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
    (select, ("POLL", "EPOLL")),
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
    found.update(NUMBERS)
    found.update({f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)})
    return found


ERRNOS: Mapping[str, int] = MappingProxyType(
    {name: value for name in dir(errno) if name.startswith("E") and isinstance(value := getattr(errno, name), int)}
)
CONSTANTS: Mapping[str, int] = MappingProxyType(_collect())

TCP_STATES = tuple(  # netinet/tcp.h; their numbers are those of options, too
    f"TCP_{state}"
    for state in (
        *("ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE"),
        *("CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"),
    )
)

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


def socket_type_name(value: int) -> str:
    """`SOCK_STREAM|SOCK_NONBLOCK`: the type, which is a number, and its flags."""
    flags = value & (CONSTANTS["SOCK_NONBLOCK"] | CONSTANTS["SOCK_CLOEXEC"])
    kind = name_of(value & ~flags, "SOCK_")
    return f"{kind}|{flags_of(flags, 'SOCK_NONBLOCK', 'SOCK_CLOEXEC')}" if flags else kind
