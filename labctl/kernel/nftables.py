"""nftables over netlink, without the nft program: tables, chains and rules, and the table that drops packets.

The messages are those of linux/netfilter/nf_tables.h and linux/netfilter/nfnetlink.h. They are packed here because
pyroute2's module for them takes 100 ms to import; a test compares both encodings.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from enum import IntEnum

from labctl.errors import errno_name
from labctl.kernel.netlink import (
    I32,
    MESSAGES_PER_SEND,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    attribute,
    attribute_values,
    attributes,
    dump,
    message,
    messages_in,
)
from labctl.structs import Struct

NETLINK_NETFILTER = 12  # linux/netlink.h
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10  # linux/netfilter.h
SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, GET_CHAIN, NEW_RULE, GET_RULE, NEW_SET, NEW_SET_ELEMENT = (
    SUBSYSTEM | number for number in (0, 2, 3, 4, 6, 7, 9, 12)
)
NESTED = 0x8000  # NLA_F_NESTED
GENERIC = struct.Struct("!BBH")  # struct nfgenmsg
META_IIF, META_OIF, META_NFPROTO, META_L4PROTO = 4, 5, 15, 16  # NFT_META_*
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2  # NFT_PAYLOAD_*
EQUAL, NOT_EQUAL, LESS, LESS_OR_EQUAL, GREATER_OR_EQUAL = 0, 1, 2, 3, 5  # NFT_CMP_*
ANONYMOUS, CONSTANT, INTERVAL, MAP, TIMEOUT, EVAL = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20  # NFT_SET_*
PORTS_SPECIFIED, ADDRESS_SPECIFIED, RANDOM_PORT = 0x2, 0x1, 0x10  # NF_NAT_RANGE_*
DROP, ACCEPT = 0, 1  # NF_*

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_DELETE_CONNECTION = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_REGISTER = 1  # NFT_REG_1
_TIMEOUT_S = 5.0
ELEMENTS_PER_MESSAGE = 1000  # the length of an attribute is a number of 16 bits

Request = tuple[int, int, bytes]  # type, flags, payload


def request(type: int, flags: int, attrs: bytes) -> Request:
    """Build a request about tables of the family inet, for `transact`."""
    return type, NLM_F_REQUEST | NLM_F_ACK | flags, GENERIC.pack(NFPROTO_INET, 0, 0) + attrs


def transact(sock: socket.socket, requests: list[Request]) -> None:
    """Send the requests as one nfnetlink batch, which the kernel executes completely or not at all.

    `sock` is borrowed. OSError with the first refusal: EOPNOTSUPP or ENOENT if the kernel lacks a feature.
    """
    bracket = GENERIC.pack(socket.AF_UNSPEC, 0, SUBSYSTEM >> 8)
    parts = [message(_BATCH_BEGIN, NLM_F_REQUEST, bracket, 1)]
    last = len(requests) + 1
    for number, (kind, flags, payload) in enumerate(requests, 2):  # the answers to all must fit into the socket
        parts.append(message(kind, flags | NLM_F_ACK if number == last else flags & ~NLM_F_ACK, payload, number))
    parts.append(message(_BATCH_END, NLM_F_REQUEST, bracket, last + 1))
    sock.settimeout(_TIMEOUT_S)
    sock.sendto(b"".join(parts), (0, 0))
    waits, refused = True, 0
    while waits:
        for answer, _, answered, text in messages_in(sock.recv(65536)):
            waits = waits and answered not in (1, last)  # the answer to the first message refuses the whole batch
            if answer == NLMSG_ERROR:
                (code,) = I32.unpack_from(text)
                refused = refused or -code
    if refused:
        raise OSError(refused, errno_name(refused))


def base_chain(table: bytes, name: bytes, kind: bytes, hook: int, priority: int, policy: int = ACCEPT) -> bytes:
    """Return the attributes of a chain of type `kind` at a hook (NF_INET_*); names end with a zero byte."""
    place = attribute(1, struct.pack("!I", hook)) + attribute(2, struct.pack("!i", priority))
    return (
        attribute(1, table)  # NFTA_CHAIN_TABLE
        + attribute(3, name)  # NFTA_CHAIN_NAME
        + attribute(4 | NESTED, place)  # NFTA_CHAIN_HOOK
        + (b"" if policy == ACCEPT else number(5, policy))  # NFTA_CHAIN_POLICY
        + attribute(7, kind)  # NFTA_CHAIN_TYPE
    )


def new_rule(table: bytes, chain: bytes, expressions: list[bytes]) -> bytes:
    """Return the attributes of a rule; names end with a zero byte."""
    parts = b"".join(attribute(1 | NESTED, one) for one in expressions)  # NFTA_LIST_ELEM
    return attribute(1, table) + attribute(2, chain) + attribute(4 | NESTED, parts)


def chain_requests(
    table: bytes,
    name: bytes,
    kind: bytes,
    hook: int,
    priority: int,
    rules: Iterable[list[bytes]],
    policy: int = ACCEPT,
) -> list[Request]:
    """Return the requests for a base chain and its rules, each of which is a list of expressions."""
    chain = request(NEW_CHAIN, NLM_F_CREATE, base_chain(table, name, kind, hook, priority, policy))
    added = NLM_F_CREATE | NLM_F_APPEND
    return [chain, *(request(NEW_RULE, added, new_rule(table, name, expressions)) for expressions in rules)]


def expression(name: str, data: bytes) -> bytes:
    """Return an expression (NFTA_EXPR_NAME, NFTA_EXPR_DATA)."""
    return attribute(1, name.encode() + b"\0") + attribute(2 | NESTED, data)


def number(type: int, value: int) -> bytes:
    """Return an attribute that is a number of 32 bits."""
    return attribute(type, struct.pack("!I", value))


def register(slot: int) -> int:
    """Return the register at that multiple of 32 bits; the kernel reports every fourth by its name of 128 bits."""
    return 1 + slot // 4 if slot % 4 == 0 else 8 + slot  # NFT_REG_1, NFT_REG32_00


def meta(key: int, to: int = _REGISTER) -> bytes:
    """Load a property of the packet into a register (NFTA_META_DREG, _KEY)."""
    return expression("meta", number(1, to) + number(2, key))


def connection(key: int, to: int = _REGISTER, direction: int | None = None) -> bytes:
    """Load a property (NFT_CT_*) of the packet's connection (NFTA_CT_DREG, _KEY, _DIRECTION)."""
    of = b"" if direction is None else attribute(3, bytes([direction]))
    return expression("ct", number(1, to) + number(2, key) + of)


def load(base: int, offset: int, length: int, to: int = _REGISTER) -> bytes:
    """Load part of a header into a register (NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN)."""
    return expression("payload", number(1, to) + number(2, base) + number(3, offset) + number(4, length))


def constant(value: bytes, to: int) -> bytes:
    """Load a value into a register (NFTA_IMMEDIATE_DREG, _DATA)."""
    return expression("immediate", number(1, to) + attribute(2 | NESTED, attribute(1, value)))


def compare(how: int, value: bytes) -> bytes:
    """Compare the first register with a value (NFTA_CMP_SREG, _OP, _DATA)."""
    data = attribute(3 | NESTED, attribute(1, value))
    return expression("cmp", number(1, _REGISTER) + number(2, how) + data)


def outside_range(first: bytes, last: bytes) -> bytes:
    """Match values of the first register that are not in the range (NFTA_RANGE_SREG, _OP, _FROM_DATA, _TO_DATA)."""
    ends = attribute(3 | NESTED, attribute(1, first)) + attribute(4 | NESTED, attribute(1, last))
    return expression("range", number(1, _REGISTER) + number(2, NOT_EQUAL) + ends)


def masked(mask: int | bytes) -> bytes:
    """Mask the first register (NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR)."""
    value = bytes([mask]) if isinstance(mask, int) else mask
    masks = attribute(4 | NESTED, attribute(1, value)) + attribute(5 | NESTED, attribute(1, bytes(len(value))))
    return expression("bitwise", number(1, _REGISTER) + number(2, _REGISTER) + number(3, len(value)) + masks)


def lookup(name: bytes, *, number_of_set: int = 0, to: int | None = None, negated: bool = False) -> bytes:
    """Match if the set has the value of the first register, or load the map's data for it into register `to`.

    `number_of_set` is the one that a set of the same transaction was given (NFTA_LOOKUP_SET, _SREG, _DREG, _SET_ID,
    _FLAGS).
    """
    data = attribute(1, name) + number(2, _REGISTER)
    data += b"" if to is None else number(3, to)
    data += number(4, number_of_set) if number_of_set else b""
    return expression("lookup", data + (number(5, 1) if negated else b""))


def update(name: bytes, data_from: int | None, timeout_ms: int) -> bytes:
    """Put the first registers' value into the set, or renew it (NFTA_DYNSET_SET_NAME, _OP, _SREG_KEY, _SREG_DATA)."""
    data = attribute(1, name) + number(3, 1) + number(4, _REGISTER)
    data += b"" if data_from is None else number(5, data_from)
    return expression("dynset", data + attribute(6, struct.pack("!Q", timeout_ms)))


def masquerade(ports: tuple[int, int] | None, flags: int) -> bytes:
    """Give the packet the interface's address; `ports` are registers (NFTA_MASQ_FLAGS, _REG_PROTO_MIN, _MAX)."""
    data = number(1, flags) if flags else b""
    return expression("masq", data + (number(2, ports[0]) + number(3, ports[1]) if ports else b""))


def translate(*, is_source: bool, family: int, address: int, ports: tuple[int, int] | None, flags: int) -> bytes:
    """Translate an address; `address` and `ports` are registers (NFTA_NAT_TYPE, _FAMILY, _REG_ADDR_MIN, ...)."""
    data = number(1, int(not is_source)) + number(2, family) + number(3, address) + number(4, address)
    data += number(5, ports[0]) + number(6, ports[1]) if ports else b""
    return expression("nat", data + (number(7, flags) if flags else b""))


def verdict(code: int) -> bytes:
    """Decide what happens to the packet (NFTA_IMMEDIATE_DREG = NFT_REG_VERDICT, NFTA_IMMEDIATE_DATA = NF_*)."""
    return expression("immediate", number(1, 0) + attribute(2 | NESTED, attribute(2 | NESTED, number(1, code))))


def drop() -> bytes:
    """Drop the packet."""
    return verdict(DROP)


def reject(*, with_reset: bool) -> bytes:
    """Refuse the packet: with a TCP reset, or with ICMP port unreachable (NFTA_REJECT_TYPE, _ICMP_CODE)."""
    # NFT_REJECT_TCP_RST, or NFT_REJECT_ICMPX_UNREACH with NFT_REJECT_ICMPX_PORT_UNREACH
    return expression("reject", number(1, 1) if with_reset else number(1, 2) + attribute(2, b"\1"))


def new_set(
    table: bytes,
    name: bytes,
    flags: int,
    *,
    key: tuple[int, int],
    data: tuple[int, int] | None = None,
    size: int,
    number_of_set: int,
    timeout_ms: int = 0,
) -> Request:
    """Return the request for a set, or a map with `data`; `key` and `data` are nft's type and the length in bytes.

    `size` is that of the elements that follow, or the largest number of those that rules add.
    """
    values = attribute(1, table) + attribute(2, name) + number(3, flags) + number(4, key[0]) + number(5, key[1])
    values += number(6, data[0]) + number(7, data[1]) if data else b""
    values += attribute(9 | NESTED, number(1, size)) + number(10, number_of_set)
    values += attribute(11, struct.pack("!Q", timeout_ms)) if timeout_ms else b""
    return request(NEW_SET, NLM_F_CREATE, values)


def new_elements(table: bytes, name: bytes, number_of_set: int, elements: list[tuple[bytes, bool]]) -> list[Request]:
    """Return the requests for elements of a set; true marks the end of an interval, which is not in the set."""
    requests = []
    for first in range(0, len(elements), ELEMENTS_PER_MESSAGE):
        packed = b"".join(
            attribute(1 | NESTED, attribute(1 | NESTED, attribute(1, value)) + (number(3, 1) if is_end else b""))
            for value, is_end in elements[first : first + ELEMENTS_PER_MESSAGE]
        )
        values = attribute(1, table) + attribute(2, name) + attribute(3 | NESTED, packed) + number(4, number_of_set)
        requests.append(request(NEW_SET_ELEMENT, NLM_F_CREATE, values))
    return requests


def forget_connections(sock: socket.socket) -> None:
    """Remove every entry of connection tracking from the namespace of `sock` (borrowed); none are no error. OSError."""
    sock.settimeout(_TIMEOUT_S)
    payload = GENERIC.pack(socket.AF_UNSPEC, 0, 0)
    sock.sendto(message(_DELETE_CONNECTION, NLM_F_REQUEST | NLM_F_ACK, payload, 1), (0, 0))
    for kind, _, _, answer in messages_in(sock.recv(65536)):
        (code,) = I32.unpack_from(answer) if kind == NLMSG_ERROR else (0,)
        if code and -code not in (errno.ENOENT, errno.EINVAL):  # EINVAL: nf_conntrack_netlink is not loaded
            raise OSError(-code, errno_name(-code))


class FoundChain(Struct, frozen=True):
    """A chain of a table: whether its policy is to drop, and the expressions of its rules."""

    drops: bool
    rules: tuple[bytes, ...]


def chains_of(sock: socket.socket, table: bytes) -> dict[str, FoundChain]:
    """Return the chains of a table of the family inet, by name; none if there is no such table. OSError.

    `sock` is borrowed; `table` ends with a zero byte.
    """
    policies: dict[str, bool] = {}
    rules: dict[str, list[bytes]] = {}
    generic = GENERIC.pack(NFPROTO_INET, 0, 0)
    for _, payload in dump(sock, GET_CHAIN, generic):
        values = attribute_values(payload, GENERIC.size)
        if payload[0] == NFPROTO_INET and values[1] == table:  # NFTA_CHAIN_TABLE, _NAME, _POLICY
            policies[_text(values[3])] = 5 in values and int.from_bytes(values[5], "big") == DROP
    for _, payload in dump(sock, GET_RULE, generic + attribute(1, table)) if policies else ():
        values = attribute_values(payload, GENERIC.size)
        rules.setdefault(_text(values[2]), []).append(values.get(4, b""))  # NFTA_RULE_CHAIN, _EXPRESSIONS
    return {name: FoundChain(drops, tuple(rules.get(name, ()))) for name, drops in policies.items()}


def is_rule(planned: list[bytes], found: bytes) -> bool:
    """Return whether the kernel's expressions are those that were sent; it adds defaults, and names anonymous sets."""
    parts = [attribute_values(found[start : start + length]) for _, start, length in attributes(found)]
    if len(parts) != len(planned):
        return False
    for one, other in zip((attribute_values(each) for each in planned), parts, strict=True):
        sent, there = attribute_values(one[2]), attribute_values(other.get(2, b""))  # NFTA_EXPR_DATA
        if one[1] == b"lookup\0":
            sent.pop(4, None)  # NFTA_LOOKUP_SET_ID
            if sent[1].startswith(b"__set"):  # NFTA_LOOKUP_SET
                sent[1] = there.get(1, b"")
        if one[1] != other[1] or not all(_is_value(value, there.get(kind, b"")) for kind, value in sent.items()):
            return False  # NFTA_EXPR_NAME
    return True


def _is_value(sent: bytes, found: bytes) -> bool:
    """Return whether an attribute's payload is the same; the kernel omits NLA_F_NESTED in it."""
    nested = attribute_values(sent)
    return sent == found or (bool(nested) and nested == attribute_values(found))


# -- what any rules of a namespace drop

_NETDEV = 5  # NFPROTO_NETDEV, whose hooks are ingress and egress
_FAMILIES = {1: "inet", 2: "ip", _NETDEV: "netdev", 7: "bridge", 10: "ip6"}  # NFPROTO_*: those with the hooks below
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")  # NF_INET_*, NF_BR_*
_NF_DROP = 0


class DroppingRule(Struct, frozen=True):
    """A rule that drops or rejects packets, or a base chain whose policy is to drop them."""

    table: str  # `inet filter`
    chain: str
    hook: str  # input; "" for a chain that other chains jump to
    verdict: str  # drop, reject, policy drop
    packets: int | None  # None: the rule has no counter


def dropping_rules(sock: socket.socket) -> tuple[DroppingRule, ...]:
    """Return the rules of every table that drop or reject packets, in the namespace of `sock` (borrowed).

    OSError as of `add`.
    """
    hooks: dict[tuple[str, str], str] = {}
    found = []
    for _, payload in dump(sock, GET_CHAIN, GENERIC.pack(socket.AF_UNSPEC, 0, 0)):
        values = attribute_values(payload, GENERIC.size)
        if payload[0] not in _FAMILIES:
            continue
        table, chain = f"{_FAMILIES[payload[0]]} {_text(values[1])}", _text(values[3])  # NFTA_CHAIN_TABLE, _NAME
        if 4 not in values:  # NFTA_CHAIN_HOOK
            continue
        number = int.from_bytes(attribute_values(values[4])[1], "big")  # NFTA_HOOK_HOOKNUM
        known = ("ingress", "egress") if payload[0] == _NETDEV else _HOOKS
        hook = hooks[table, chain] = known[number] if number < len(known) else "ingress"
        if 5 in values and int.from_bytes(values[5], "big") == _NF_DROP:  # NFTA_CHAIN_POLICY
            found.append(DroppingRule(table, chain, hook, "policy drop", None))
    for _, payload in dump(sock, GET_RULE, GENERIC.pack(socket.AF_UNSPEC, 0, 0)):
        values = attribute_values(payload, GENERIC.size)
        if payload[0] not in _FAMILIES:
            continue
        table, chain = f"{_FAMILIES[payload[0]]} {_text(values[1])}", _text(values[2])  # NFTA_RULE_TABLE, _CHAIN
        verdict, packets = _verdict(values.get(4, b""))  # NFTA_RULE_EXPRESSIONS
        if verdict:
            found.append(DroppingRule(table, chain, hooks.get((table, chain), ""), verdict, packets))
    return tuple(found)


def _verdict(expressions: bytes) -> tuple[str, int | None]:
    """Return `drop`, `reject` or "", and the packets that the rule has counted, if it counts."""
    verdict, packets = "", None
    for _, start, length in attributes(expressions):
        named = attribute_values(expressions[start : start + length])
        name = _text(named.get(1, b""))  # NFTA_EXPR_NAME
        data = attribute_values(named.get(2, b""))
        if name == "counter":
            packets = int.from_bytes(data[2], "big")  # NFTA_COUNTER_PACKETS
        elif name == "reject":
            verdict = name
        elif name == "immediate" and int.from_bytes(data.get(1, b""), "big") == 0:  # NFT_REG_VERDICT
            code = attribute_values(attribute_values(data.get(2, b"")).get(2, b"")).get(1, b"\xff")  # NFTA_DATA_VERDICT
            if int.from_bytes(code, "big") == _NF_DROP:
                verdict = "drop"
    return verdict, packets


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


# -- the table of a node: it drops packets before connection tracking on the way in and after it on the way out, so that
# -- a router drops what it forwards as well as what it receives or sends

TABLE = b"labctl\0"
_TABLE_NAME = attribute(1, TABLE)  # NFTA_TABLE_NAME
IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6 = 6, 17, 1, 58
FIRST_DISCOVERY_TYPE = 130  # ICMPv6 types of MLD and neighbour discovery; those below are errors and echo (RFC 4443)

_TCP_FLAGS_OFFSET = 13


class Hook(IntEnum):
    """The hook that a rule is at (NF_INET_*)."""

    PREROUTING = 0
    POSTROUTING = 4


class Match(Struct, frozen=True):
    """Packets of one family that match every field; addresses are packed, `flags` is (mask, value)."""

    hook: Hook
    family: int  # NFPROTO_IPV4, NFPROTO_IPV6
    protocol: int | None = None  # IPPROTO_*
    excluded_protocol: int | None = None
    source: bytes = b""
    destination: bytes = b""
    source_port: int | None = None
    destination_port: int | None = None
    flags: tuple[int, int] | None = None
    icmp_type_below: int | None = None


class Dropped(Struct, frozen=True):
    """What the rules of a namespace have dropped."""

    packets: int
    size_bytes: int


def add(sock: socket.socket, matches: Iterable[Match]) -> None:
    """Drop packets that match any of `matches`, in the namespace of `sock` (NETLINK_NETFILTER, borrowed).

    OSError: EOPNOTSUPP or ENOENT on a kernel without nf_tables, EPERM without CAP_NET_ADMIN. Of many matches, some may
    have been added then.
    """
    requests = [request(NEW_TABLE, NLM_F_CREATE, _TABLE_NAME)]
    requests += [request(NEW_CHAIN, NLM_F_CREATE, chain(hook)) for hook in Hook]
    requests += [request(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, rule(match)) for match in matches]
    for first in range(0, len(requests), MESSAGES_PER_SEND):
        transact(sock, requests[first : first + MESSAGES_PER_SEND])


def remove_all(sock: socket.socket) -> None:
    """Remove all rules from the namespace of `sock` (borrowed), if there are any. OSError as of `add`."""
    transact(sock, [request(NEW_TABLE, NLM_F_CREATE, _TABLE_NAME), request(DELETE_TABLE, 0, _TABLE_NAME)])


def dropped(sock: socket.socket) -> Dropped:
    """Return what the rules in the namespace of `sock` (borrowed) have dropped; zeros without rules."""
    packets = size_bytes = 0
    try:
        rules = list(dump(sock, GET_RULE, GENERIC.pack(NFPROTO_INET, 0, 0) + _TABLE_NAME))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return Dropped(0, 0)
        raise
    for _, payload in rules:
        expressions = attribute_values(payload, GENERIC.size).get(4, b"")  # NFTA_RULE_EXPRESSIONS
        for _, start, length in attributes(expressions):
            named = attribute_values(expressions[start : start + length])
            if named.get(1) == b"counter\0":  # NFTA_EXPR_NAME
                counter = attribute_values(named[2])
                size_bytes += int.from_bytes(counter[1], "big")  # NFTA_COUNTER_BYTES
                packets += int.from_bytes(counter[2], "big")  # NFTA_COUNTER_PACKETS
    return Dropped(packets, size_bytes)


def chain(hook: Hook) -> bytes:
    """Return the attributes of the base chain at `hook`, before connection tracking (-200) or after it."""
    return base_chain(TABLE, _chain_name(hook), b"filter\0", hook, -300 if hook is Hook.PREROUTING else 300)


def rule(match: Match) -> bytes:
    """Return the attributes of the rule that counts and drops packets that match."""
    return new_rule(TABLE, _chain_name(match.hook), _program(match))


def _program(match: Match) -> list[bytes]:
    """Return the expressions of a rule; a comparison that fails ends its evaluation."""
    address_bytes, source_offset = (4, 12) if match.family == NFPROTO_IPV4 else (16, 8)
    steps = [meta(META_NFPROTO), compare(EQUAL, bytes([match.family]))]
    if match.protocol is not None:
        steps += [meta(META_L4PROTO), compare(EQUAL, bytes([match.protocol]))]
    if match.excluded_protocol is not None:
        steps += [meta(META_L4PROTO), compare(NOT_EQUAL, bytes([match.excluded_protocol]))]
    if match.source:
        steps += [load(NETWORK_HEADER, source_offset, address_bytes), compare(EQUAL, match.source)]
    if match.destination:
        offset = source_offset + address_bytes
        steps += [load(NETWORK_HEADER, offset, address_bytes), compare(EQUAL, match.destination)]
    for offset, port in ((0, match.source_port), (2, match.destination_port)):
        if port is not None:
            steps += [load(TRANSPORT_HEADER, offset, 2), compare(EQUAL, struct.pack("!H", port))]
    if match.flags is not None:
        mask, value = match.flags
        steps += [load(TRANSPORT_HEADER, _TCP_FLAGS_OFFSET, 1), masked(mask), compare(EQUAL, bytes([value]))]
    if match.icmp_type_below is not None:
        steps += [load(TRANSPORT_HEADER, 0, 1), compare(LESS, bytes([match.icmp_type_below]))]
    return [*steps, expression("counter", b""), drop()]


def _chain_name(hook: Hook) -> bytes:
    return hook.name.lower().encode() + b"\0"
