"""Random loss by nftables, for kernels without netem: rules that drop packets before an interface sends them.

The rules are in the table `netdev labctl`, in a chain of each interface at its egress hook (Linux 5.16).
"""

from __future__ import annotations

import errno
import socket
import struct

from labctl.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    attribute,
    attribute_values,
    attributes,
    dump,
)
from labctl.kernel.nftables import (
    GENERIC,
    GET_RULE,
    LESS,
    NESTED,
    NEW_CHAIN,
    NEW_RULE,
    NEW_TABLE,
    SUBSYSTEM,
    Request,
    compare,
    drop,
    expression,
    new_rule,
    number,
    transact,
)
from labctl.structs import Struct

NFPROTO_NETDEV = 5  # linux/netfilter.h
_DELETE_CHAIN, _DELETE_RULE = SUBSYSTEM | 5, SUBSYSTEM | 8
_TABLE = b"labctl\0"
_EGRESS = 1  # NF_NETDEV_EGRESS
_PPM = 1_000_000
_REGISTER, _RANDOM, _HTON = 1, 1, 1  # NFT_REG_1, NFT_NG_RANDOM, NFT_BYTEORDER_HTON


class Loss(Struct, frozen=True):
    """The share of packets that rules drop before an interface sends them, and how many they have dropped."""

    loss_ppm: int
    packets: int


def set_loss(sock: socket.socket, ifname: str, loss_ppm: int, *, is_new: bool) -> None:
    """Lose that share of packets that the interface sends, in the namespace of `sock` (NETLINK_NETFILTER, borrowed).

    `is_new` is false if the interface has such a rule, which this replaces. OSError: EOPNOTSUPP or ENOENT on a kernel
    without nf_tables or its egress hook.
    """
    name = ifname.encode() + b"\0"
    rule = _request(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, new_rule(_TABLE, name, _program(loss_ppm)))
    if not is_new:
        transact(sock, [_rules_gone(name), rule])
        return
    transact(
        sock,
        [
            _request(NEW_TABLE, NLM_F_CREATE, attribute(1, _TABLE)),
            _request(NEW_CHAIN, NLM_F_CREATE, _chain(name)),
            rule,
        ],
    )


def clear_loss(sock: socket.socket, ifname: str) -> None:
    """Remove the rule of the interface; `sock` and OSError as of `set_loss`."""
    name = ifname.encode() + b"\0"
    transact(sock, [_rules_gone(name), _request(_DELETE_CHAIN, 0, attribute(1, _TABLE) + attribute(3, name))])


def losses(sock: socket.socket) -> dict[str, Loss]:
    """Return the losses by interface, in the namespace of `sock` (borrowed); none without rules. OSError."""
    found: dict[str, Loss] = {}
    try:
        rules = list(dump(sock, GET_RULE, GENERIC.pack(NFPROTO_NETDEV, 0, 0) + attribute(1, _TABLE)))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
            return {}
        raise
    for _, payload in rules:
        values = attribute_values(payload, GENERIC.size)
        loss_ppm = packets = 0
        expressions = values.get(4, b"")  # NFTA_RULE_EXPRESSIONS
        for _, start, length in attributes(expressions):
            named = attribute_values(expressions[start : start + length])
            data = attribute_values(named.get(2, b""))
            if named.get(1) == b"counter\0":  # NFTA_EXPR_NAME
                packets = int.from_bytes(data[2], "big")  # NFTA_COUNTER_PACKETS
            elif named.get(1) == b"cmp\0":
                loss_ppm = int.from_bytes(attribute_values(data[3])[1], "big")  # NFTA_CMP_DATA, NFTA_DATA_VALUE
        found[values[2].rstrip(b"\0").decode()] = Loss(loss_ppm, packets)  # NFTA_RULE_CHAIN
    return found


def _request(type: int, flags: int, attrs: bytes) -> Request:
    return type, NLM_F_REQUEST | NLM_F_ACK | flags, GENERIC.pack(NFPROTO_NETDEV, 0, 0) + attrs


def _rules_gone(chain: bytes) -> Request:
    return _request(_DELETE_RULE, 0, attribute(1, _TABLE) + attribute(2, chain))


def _chain(name: bytes) -> bytes:
    hook = number(1, _EGRESS) + attribute(2, struct.pack("!i", 0)) + attribute(3, name)  # NFTA_HOOK_DEV
    return (
        attribute(1, _TABLE)  # NFTA_CHAIN_TABLE
        + attribute(3, name)  # NFTA_CHAIN_NAME
        + attribute(4 | NESTED, hook)  # NFTA_CHAIN_HOOK
        + attribute(7, b"filter\0")  # NFTA_CHAIN_TYPE
    )


def _program(loss_ppm: int) -> list[bytes]:
    """Return the expressions of `numgen random mod 1000000 < loss_ppm counter drop`."""
    random = number(1, _REGISTER) + number(2, _PPM) + number(3, _RANDOM) + number(4, 0)  # NFTA_NG_*
    order = number(1, _REGISTER) + number(2, _REGISTER) + number(3, _HTON) + number(4, 4) + number(5, 4)
    return [
        expression("numgen", random),
        expression("byteorder", order),  # NFTA_BYTEORDER_*: comparisons are of big-endian numbers
        compare(LESS, struct.pack("!I", loss_ppm)),
        expression("counter", b""),
        drop(),
    ]
