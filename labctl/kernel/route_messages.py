"""The rtnetlink(7) messages for routes of every kind and for policy rules, as bytes ready to be sent.

`rtnl.py` has the message of a plain route, of which a lab has thousands, as a template. These have as many attributes
as the route needs, and are packed here. The structures are those of linux/rtnetlink.h and linux/fib_rules.h. Tests
compare them with pyroute2's encoding.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from labctl.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    RTMSG,
    U32,
    attribute,
    message,
)
from labctl.structs import Struct, replace

ROUTE_KINDS = {"unicast": 1, "local": 2, "blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9}  # RTN_*
RULE_ACTIONS = {"lookup": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}  # FR_ACT_*
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_MULTIPATH = 1, 4, 5, 6, 7, 9
_RTA_TABLE, _RTA_VIA = 15, 18
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE = 1, 2, 3, 6, 10, 15
_FRA_FWMASK, _FRA_OIFNAME, _FRA_PROTOCOL = 16, 17, 21
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, hops (the weight less one), index
_RULE = struct.Struct("=BBBBBxxBI")  # struct fib_rule_hdr: family, dst_len, src_len, tos, table, (2), action, flags
IPV6_METRIC = 1024  # IP6_RT_PRIO_USER (linux/ipv6_route.h): that of a route without one
_RTPROT_BOOT = 3  # the protocol that ip-route(8) sets by default
_SCOPE_LINK, _SCOPE_HOST = 253, 254
_RTNH_F_ONLINK = 0x4
_FIB_RULE_INVERT = 0x2
_CREATE = NLM_F_REQUEST | NLM_F_CREATE

Prefix = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class Hop(Struct, frozen=True):
    """A next hop: the interface's index, and a gateway unless the destination is on the link."""

    index: int
    gateway: Address | None = None
    weight: int = 1
    onlink: bool = False


class RouteRequest(Struct, frozen=True):
    """A route to add or remove; `metric` 0 is the kernel's default."""

    destination: Prefix
    kind: str
    hops: tuple[Hop, ...]
    metric: int
    table: int
    source: Address | None


def new_route(route: RouteRequest, *, in_place: bool = False) -> bytes:
    """Add the route; EEXIST if there is one with its destination, table and metric, which `in_place` replaces."""
    return message(RTM_NEWROUTE, _CREATE | (NLM_F_REPLACE if in_place else NLM_F_EXCL), _route(route))


def remove_route(route: RouteRequest) -> bytes:
    """Remove what `new_route` added; without a metric, IPv6 would take a route with any."""
    if route.destination.version == 6 and not route.metric:
        route = replace(route, metric=IPV6_METRIC)
    return message(RTM_DELROUTE, NLM_F_REQUEST, _route(route))


def _route(route: RouteRequest) -> bytes:
    version = route.destination.version
    scope = 0
    if version == 4 and all(hop.gateway is None for hop in route.hops):
        scope = {"unicast": _SCOPE_LINK, "local": _SCOPE_HOST}.get(route.kind, 0)
    single = route.hops[0] if len(route.hops) == 1 else None
    payload = RTMSG.pack(
        _family(version),
        route.destination.prefixlen,
        0,
        0,
        route.table if route.table < 256 else 0,
        _RTPROT_BOOT,
        scope,
        ROUTE_KINDS[route.kind],
        _RTNH_F_ONLINK if single is not None and single.onlink else 0,
    )
    payload += attribute(_RTA_DST, route.destination.network_address.packed)
    payload += attribute(_RTA_TABLE, U32.pack(route.table))
    if route.metric:
        payload += attribute(_RTA_PRIORITY, U32.pack(route.metric))
    if route.source is not None:
        payload += attribute(_RTA_PREFSRC, route.source.packed)
    if single is not None:
        payload += _gateway(single, version) + attribute(_RTA_OIF, U32.pack(single.index))
    elif route.hops:
        payload += attribute(_RTA_MULTIPATH, b"".join(_next_hop(hop, version) for hop in route.hops))
    return payload


def _next_hop(hop: Hop, version: int) -> bytes:
    attributes = _gateway(hop, version)
    flags = _RTNH_F_ONLINK if hop.onlink else 0
    return _NEXT_HOP.pack(_NEXT_HOP.size + len(attributes), flags, hop.weight - 1, hop.index) + attributes


def _gateway(hop: Hop, version: int) -> bytes:
    if hop.gateway is None:
        return b""
    if hop.gateway.version == version:
        return attribute(_RTA_GATEWAY, hop.gateway.packed)
    family = struct.pack("=H", _family(hop.gateway.version))  # struct rtvia; Linux 5.2 for IPv4 through IPv6
    return attribute(_RTA_VIA, family + hop.gateway.packed)


class RuleRequest(Struct, frozen=True):
    """A policy rule to add or remove; None and "" select every packet."""

    version: int
    priority: int
    action: str
    table: int
    source: Prefix | None = None
    destination: Prefix | None = None
    mark: tuple[int, int] | None = None  # value and mask
    iif: str = ""
    oif: str = ""
    inverted: bool = False


def new_rule(rule: RuleRequest) -> bytes:
    """Add the rule; EEXIST if there is an equal one."""
    return message(RTM_NEWRULE, _CREATE | NLM_F_EXCL, _rule(rule))


def remove_rule(rule: RuleRequest) -> bytes:
    """Remove what `new_rule` added; ENOENT if there is no such rule."""
    return message(RTM_DELRULE, NLM_F_REQUEST, _rule(rule))


def _rule(rule: RuleRequest) -> bytes:
    lengths = [0 if one is None else one.prefixlen for one in (rule.destination, rule.source)]
    action = RULE_ACTIONS[rule.action]
    table = rule.table if rule.action == "lookup" else 0
    flags = _FIB_RULE_INVERT if rule.inverted else 0
    payload = _RULE.pack(_family(rule.version), *lengths, 0, table if table < 256 else 0, action, flags)
    payload += attribute(_FRA_PRIORITY, U32.pack(rule.priority))
    if table:
        payload += attribute(_FRA_TABLE, U32.pack(table))
    for kind, prefix in ((_FRA_SRC, rule.source), (_FRA_DST, rule.destination)):
        if prefix is not None:
            payload += attribute(kind, prefix.network_address.packed)
    if rule.mark is not None:
        payload += attribute(_FRA_FWMARK, U32.pack(rule.mark[0])) + attribute(_FRA_FWMASK, U32.pack(rule.mark[1]))
    for kind, name in ((_FRA_IIFNAME, rule.iif), (_FRA_OIFNAME, rule.oif)):
        if name:
            payload += attribute(kind, name.encode() + b"\0")
    return payload + attribute(_FRA_PROTOCOL, bytes([_RTPROT_BOOT]))


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6
