"""The interfaces, addresses, routes and policy rules of a network namespace, as the kernel reports them.

Each function reads the namespace of an rtnetlink(7) socket, which it borrows; it raises OSError if the kernel refuses.
Routes and rules are written as ip(8) writes them. The structures are those of linux/rtnetlink.h, linux/if_addr.h and
linux/fib_rules.h, unpacked here so that a reader does not import pyroute2.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from labctl.kernel import netlink
from labctl.kernel.devices import reported
from labctl.kernel.netlink import attribute_values, dump, u32
from labctl.structs import Struct

RTA_OIF, RTA_MULTIPATH, RTA_CACHEINFO, RTA_NH_ID = 4, 9, 12, 30  # linux/rtnetlink.h
NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, hops (the weight less one), index
CLONED = 0x200  # RTM_F_CLONED: a cached copy, not a route
MAIN_TABLE, _LOCAL_TABLE = 254, 255
KERNEL, BOOT, STATIC = 2, 3, 4  # RTPROT_*: added by the kernel for an address, by ip-route(8), by an administrator
_RTA_DST, _RTA_SRC, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE, _RTA_VIA = 1, 2, 5, 6, 7, 15, 18
_RTA_METRICS, _RTA_ENCAP_TYPE = 8, 21
_METRIC_NAMES = (  # RTAX_*, from RTAX_MTU (2) on
    *("mtu", "window", "rtt", "rttvar", "ssthresh", "cwnd", "advmss", "reordering"),
    *("hoplimit", "initcwnd", "features", "rto_min", "initrwnd", "quickack"),
)
_METRICS = dict(enumerate(_METRIC_NAMES, start=2))
_ENCAPSULATIONS = {1: "mpls", 2: "ip", 3: "ila", 4: "ip6", 5: "seg6", 6: "bpf", 7: "seg6local", 8: "rpl", 9: "ioam6"}
_ONLINK = 0x4  # RTNH_F_ONLINK
_LOCAL = 2  # RTN_*
_KINDS = {1: "unicast", _LOCAL: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw", 10: "nat"}
_TABLES = {253: "default", 254: "main", 255: "local"}  # /etc/iproute2/rt_tables
_RULE = struct.Struct("=BBBBBxxBI")  # struct fib_rule_hdr: family, dst_len, src_len, tos, table, (2), action, flags
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 3, 4, 6, 10
_FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME, _FRA_L3MDEV, _FRA_UID_RANGE = 14, 15, 16, 17, 19, 20
_FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 22, 23, 24
_INVERTED = 0x2  # FIB_RULE_INVERT
_TO_TABLE, _GOTO, _NOP = 1, 2, 3  # FR_ACT_*
_ACTIONS = {_NOP: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_ALL_BITS = 0xFFFF_FFFF
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

Prefix = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


# -- interfaces and addresses


class KernelLink(Struct, frozen=True):
    """An interface."""

    name: str
    index: int
    mac: str  # "" if it has none
    mtu: int  # bytes
    up: bool  # IFF_UP
    carrier: bool  # IFF_LOWER_UP: the other end is up, too
    master: int = 0  # index of the bridge, bond or VRF that it is a member of, 0 for none
    kind: str = ""  # of ip-link(8): `vlan`; "" for `lo`
    options: tuple[tuple[str, str | int], ...] = ()  # of the kinds in kernel/devices.py
    on: int = 0  # of those kinds: index of the interface that it is on


class KernelAddress(Struct, frozen=True):
    """An address of an interface."""

    ifname: str
    address: IPv4Interface | IPv6Interface
    tentative: bool = False  # unusable until duplicate address detection has finished
    learned: bool = False  # with a lifetime (router advertisement, DHCP), or marked by a daemon as its own

    def __str__(self) -> str:
        return f"{self.address} on {self.ifname}"


def links(sock: socket.socket) -> tuple[KernelLink, ...]:
    """Return every interface."""
    found = []
    for _, payload in dump(sock, netlink.RTM_GETLINK, netlink.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _, _, index, flags, _ = netlink.IFINFO.unpack_from(payload)
        values = attribute_values(payload, netlink.IFINFO.size)
        kind, options, on = reported(values)
        found.append(
            KernelLink(
                name=values[netlink.IFLA_IFNAME].rstrip(b"\0").decode(),
                index=index,
                mac=values.get(netlink.IFLA_ADDRESS, b"").hex(":"),
                mtu=u32(values, netlink.IFLA_MTU),
                up=bool(flags & netlink.IFF_UP),
                carrier=bool(flags & netlink.IFF_LOWER_UP),
                master=u32(values, netlink.IFLA_MASTER),
                kind=kind,
                options=options,
                on=on,
            )
        )
    return tuple(found)


class LinkStatistics(Struct, frozen=True, gc=False):
    """The counters of an interface since it was made: parts of struct rtnl_link_stats64 (linux/if_link.h)."""

    received_packets: int
    sent_packets: int
    received_bytes: int  # with the Ethernet header
    sent_bytes: int
    received_dropped: int  # packets, for lack of room in the kernel
    sent_dropped: int


_IFLA_STATS64 = 23  # linux/if_link.h
_STATISTICS = struct.Struct("=8Q")  # the beginning of struct rtnl_link_stats64


def link_statistics(sock: socket.socket) -> dict[str, LinkStatistics]:
    """Return the counters of every interface, by its name."""
    found = {}
    for _, payload in dump(sock, netlink.RTM_GETLINK, netlink.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        values = attribute_values(payload, netlink.IFINFO.size)
        if len(values.get(_IFLA_STATS64, b"")) >= _STATISTICS.size:
            counts = _STATISTICS.unpack_from(values[_IFLA_STATS64])
            received, sent, received_bytes, sent_bytes, _, _, received_dropped, sent_dropped = counts
            name = values[netlink.IFLA_IFNAME].rstrip(b"\0").decode()
            found[name] = LinkStatistics(received, sent, received_bytes, sent_bytes, received_dropped, sent_dropped)
    return found


def addresses(sock: socket.socket) -> tuple[KernelAddress, ...]:
    """Return every address of both families, including those of `lo`."""
    names = interface_names(sock)
    found = []
    for _, payload in dump(sock, netlink.RTM_GETADDR, netlink.IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, prefix_length, flags, _, index = netlink.IFADDR.unpack_from(payload)
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        values = attribute_values(payload, netlink.IFADDR.size)
        address = ip_interface((values.get(netlink.IFA_LOCAL, values.get(netlink.IFA_ADDRESS, b"")), prefix_length))
        all_flags = u32(values, netlink.IFA_FLAGS, flags)
        is_learned = not all_flags & netlink.IFA_F_PERMANENT
        is_learned |= values.get(netlink.IFA_PROTO, b"\0")[0] > netlink.IFAPROT_KERNEL_LL
        is_tentative = bool(all_flags & netlink.IFA_F_TENTATIVE)
        found.append(KernelAddress(names.get(index, str(index)), address, is_tentative, is_learned))
    return tuple(found)


def interface_names(sock: socket.socket) -> dict[int, str]:
    """Return the names of the interfaces by index."""
    return {link.index: link.name for link in links(sock)}


# -- routes


class NextHop(Struct, frozen=True):
    """A next hop of a route. Without a gateway, the destination is on the link."""

    gateway: Address | None
    ifname: str
    weight: int = 1

    def text(self, version: int) -> str:
        """Return `via 10.0.1.2 dev eth0`, for a route whose destination is of that IP version."""
        if self.gateway is None:
            return f"dev {self.ifname}"
        family = "" if self.gateway.version == version else f"inet{'6' if self.gateway.version == 6 else ''} "
        return f"via {family}{self.gateway} dev {self.ifname}"


class KernelRoute(Struct, frozen=True):
    """A route of any table but `local`, unless the kernel delivers an address of its own with it (VRFs).

    `kind` is `unicast`, with one hop or several, `local`, or `blackhole`, `unreachable`, `prohibit` or `throw`,
    without hops.
    """

    destination: Prefix
    hops: tuple[NextHop, ...] = ()
    metric: int = 0
    kind: str = "unicast"
    table: int = MAIN_TABLE
    protocol: int = BOOT
    source: Prefix | None = None  # of the packets (IPv6); None: any
    tos: int = 0
    options: str = ""  # `src 10.0.1.1 mtu 1400 onlink`

    @property
    def is_plain(self) -> bool:
        """Whether this is a unicast route of the main table for all packets."""
        return self.kind == "unicast" and self.table == MAIN_TABLE and self.source is None and not self.tos

    def text(self, vrfs: Mapping[int, str] | None = None) -> str:
        """Return `10.0.2.0/24 via 10.0.1.2 dev eth0 metric 20`; `vrfs` has the names of VRFs by their tables."""
        several = len(self.hops) > 1
        words = [f"from {self.source}"] if self.source else []
        words += [f"tos {self.tos:#04x}"] if self.tos else []
        for hop in self.hops:
            text = hop.text(self.destination.version)
            words.append(f"nexthop {text} weight {hop.weight}" if several else text)
        words += [place_of(self.table, vrfs or {})] if self.table != MAIN_TABLE else []
        words += [self.options] if self.options else []
        words += [f"metric {self.metric}"] if self.metric and self.metric != default_metric(self.destination) else []
        return " ".join([*([] if self.kind == "unicast" else [self.kind]), str(self.destination), *words])

    def __str__(self) -> str:
        return self.text()


class KernelRule(Struct, frozen=True):
    """A policy rule: packets that match `selector` undergo `action`, such as `lookup main` or `prohibit`."""

    version: int  # IP version: 4 or 6
    priority: int
    selector: str  # `from 10.0.0.0/24 iif eth0`
    action: str

    @property
    def text(self) -> str:
        """The rule, with its family unless that is IPv4."""
        return f"{self} (IPv6)" if self.version == 6 else str(self)

    def __str__(self) -> str:
        return f"{self.priority}: {self.selector} {self.action}"


STANDARD_RULES = tuple(
    KernelRule(version, priority, "from all", f"lookup {table}")
    for version, rules in (
        (4, ((0, "local"), (32766, "main"), (32767, "default"))),
        (6, ((0, "local"), (32766, "main"))),
    )
    for priority, table in rules
)


def default_metric(destination: Prefix) -> int:
    """Return the metric of a route that is added without one."""
    return 0 if destination.version == 4 else 1024


def table_name(table: int) -> str:
    """Return the table's name or else its number."""
    return _TABLES.get(table, str(table))


def place_of(table: int, vrfs: Mapping[int, str]) -> str:
    """Return `vrf red` for the table of a VRF, else `table 100`."""
    return f"vrf {vrfs[table]}" if table in vrfs else f"table {table_name(table)}"


def routes(sock: socket.socket) -> tuple[KernelRoute, ...]:
    """Return every route of both families and all tables but `local`."""
    names = interface_names(sock)
    found = (parse_route(payload, names) for payload in route_payloads(sock))
    return tuple(route for route in found if route is not None)


_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH (Linux 4.15): the route, not what a packet gets of it


def route_to(sock: socket.socket, address: Address) -> KernelRoute | None:
    """Return the route that the kernel would use for a packet of this node to the address (ip route get).

    None if there is none, if the packet would be refused, and for the node's own addresses.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    fixed = netlink.RTMSG.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    request = netlink.message(
        netlink.RTM_GETROUTE, netlink.NLM_F_REQUEST, fixed + netlink.attribute(_RTA_DST, address.packed), 1
    )
    names = interface_names(sock)
    sock.sendto(request, (0, 0))
    for kind, _, _, payload in netlink.messages_in(sock.recv(netlink.RECEIVE_BYTES)):
        if kind == netlink.RTM_NEWROUTE:
            return parse_route(payload, names)
    return None


def route_payloads(sock: socket.socket) -> Iterator[memoryview]:
    """Yield the payload of a message for every route of both families."""
    for family in _FAMILIES:
        for _, payload in dump(sock, netlink.RTM_GETROUTE, netlink.RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            if netlink.RTMSG.unpack_from(payload)[0] == family:
                yield payload


def parse_route(payload: memoryview, names: dict[int, str]) -> KernelRoute | None:
    """Parse a route; `names` are the interfaces' by index. None for cached routes and those of the table `local`."""
    family, length, source_length, tos, table, protocol, _, kind, flags = netlink.RTMSG.unpack_from(payload)
    values = attribute_values(payload, netlink.RTMSG.size)
    table = u32(values, _RTA_TABLE, table)
    if kind not in _KINDS or flags & CLONED or table == _LOCAL_TABLE or (kind == _LOCAL and protocol == KERNEL):
        return None
    any_address = bytes(4 if family == socket.AF_INET else 16)
    return KernelRoute(
        destination=_network(values.get(_RTA_DST, any_address), length),
        hops=tuple(_hops(values, names)) if _KINDS[kind] in ("unicast", "local") else (),
        metric=u32(values, _RTA_PRIORITY),
        kind=_KINDS[kind],
        table=table,
        protocol=protocol,
        source=_network(values[_RTA_SRC], source_length) if source_length else None,
        tos=tos,
        options=" ".join(_options(values, flags, protocol)),
    )


# The nodes of a lab have routes to the same prefixes: a thousand routers have a million routes to a few thousand.
_SHARED_VALUES = 1 << 16


@lru_cache(_SHARED_VALUES)
def _network(packed: bytes, length: int) -> Prefix:
    return ip_network((packed, length))


@lru_cache(_SHARED_VALUES)
def _address(packed: bytes) -> Address:
    return ip_address(packed)


@lru_cache(_SHARED_VALUES)
def _next_hop(gateway: Address | None, ifname: str) -> NextHop:
    return NextHop(gateway, ifname)


def _options(values: dict[int, bytes], flags: int, protocol: int) -> Iterator[str]:
    """Yield what else ip(8) shows; no source address for the kernel's own routes, where it is the interface's."""
    if _RTA_ENCAP_TYPE in values:
        (kind,) = struct.unpack("=H", values[_RTA_ENCAP_TYPE])
        yield f"encap {_ENCAPSULATIONS.get(kind, kind)}"
    if _RTA_PREFSRC in values and protocol != KERNEL:
        yield f"src {ip_address(values[_RTA_PREFSRC])}"
    for kind, data in attribute_values(values.get(_RTA_METRICS, b"")).items():
        if kind in _METRICS and len(data) == netlink.U32.size:
            yield f"{_METRICS[kind]} {netlink.U32.unpack(data)[0]}"
    if flags & _ONLINK and RTA_MULTIPATH not in values:
        yield "onlink"


def _hops(values: dict[int, bytes], names: dict[int, str]) -> Iterator[NextHop]:
    if RTA_MULTIPATH not in values:
        index = u32(values, RTA_OIF)
        yield _next_hop(_gateway(values), names.get(index, str(index)))
        return
    for start, weight, index in hops_in(values[RTA_MULTIPATH]):
        (length,) = struct.unpack_from("=H", values[RTA_MULTIPATH], start)
        own = attribute_values(values[RTA_MULTIPATH][start : start + length], NEXT_HOP.size)
        yield NextHop(_gateway(own), names.get(index, str(index)), weight)


def hops_in(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, weight, interface's index) of each struct rtnexthop in an RTA_MULTIPATH."""
    start = 0
    while start + NEXT_HOP.size <= len(data):
        length, _, more, index = NEXT_HOP.unpack_from(data, start)
        if length < NEXT_HOP.size:
            return
        yield start, more + 1, index
        start += (length + 3) & ~3


def _gateway(values: dict[int, bytes]) -> Address | None:
    if _RTA_GATEWAY in values:
        return _address(values[_RTA_GATEWAY])
    via = values.get(_RTA_VIA)  # struct rtvia: a family other than the destination's, address
    return None if via is None else ip_address(via[2:])


# -- policy rules


def rules(sock: socket.socket) -> tuple[KernelRule, ...]:
    """Return every policy rule, IPv4 first, in the order in which the kernel consults them."""
    found = []
    for family in _FAMILIES:
        try:
            payloads = [payload for _, payload in dump(sock, netlink.RTM_GETRULE, _RULE.pack(family, 0, 0, 0, 0, 0, 0))]
        except OSError:  # EOPNOTSUPP without CONFIG_IP_MULTIPLE_TABLES, EAFNOSUPPORT without IPv6
            continue
        found += [_rule(payload) for payload in payloads if _RULE.unpack_from(payload)[0] == family]
    return tuple(found)


def _rule(payload: memoryview) -> KernelRule:
    family, to_length, from_length, tos, table, action, flags = _RULE.unpack_from(payload)
    values = attribute_values(payload, _RULE.size)
    words = ["not"] if flags & _INVERTED else []
    words.append(f"from {_with_length(values[_FRA_SRC], from_length) if _FRA_SRC in values else 'all'}")
    if _FRA_DST in values:
        words.append(f"to {_with_length(values[_FRA_DST], to_length)}")
    if tos:
        words.append(f"tos {tos:#04x}")
    if _FRA_FWMARK in values or _FRA_FWMASK in values:
        mark, mask = u32(values, _FRA_FWMARK), u32(values, _FRA_FWMASK, _ALL_BITS)
        words.append(f"fwmark {mark:#x}" + (f"/{mask:#x}" if mask != _ALL_BITS else "") if mark or mask else "")
    for word, kind in (("iif", _FRA_IIFNAME), ("oif", _FRA_OIFNAME)):
        if kind in values:
            words.append(f"{word} {values[kind].rstrip(bytes(1)).decode(errors='replace')}")
    if _FRA_UID_RANGE in values:
        words.append("uidrange {}-{}".format(*struct.unpack("=II", values[_FRA_UID_RANGE])))
    if _FRA_IP_PROTO in values:
        words.append(f"ipproto {values[_FRA_IP_PROTO][0]}")
    for word, kind in (("sport", _FRA_SPORT_RANGE), ("dport", _FRA_DPORT_RANGE)):
        if kind in values:
            first, last = struct.unpack("=HH", values[kind])
            words.append(f"{word} {first}" if first == last else f"{word} {first}-{last}")
    return KernelRule(
        version=4 if family == socket.AF_INET else 6,
        priority=u32(values, _FRA_PRIORITY),
        selector=" ".join(word for word in words if word),
        action=_action(action, u32(values, _FRA_TABLE, table), values),
    )


def _action(action: int, table: int, values: dict[int, bytes]) -> str:
    if action == _GOTO:
        return f"goto {u32(values, _FRA_GOTO)}"
    if action != _TO_TABLE:
        return _ACTIONS.get(action, f"action {action}")
    name = "[l3mdev-table]" if any(values.get(_FRA_L3MDEV, b"")) else table_name(table)
    suppressed = u32(values, _FRA_SUPPRESS_PREFIXLEN, _ALL_BITS)
    return f"lookup {name}" + (f" suppress_prefixlength {suppressed}" if suppressed != _ALL_BITS else "")


def _with_length(packed: bytes, length: int) -> str:
    network = ip_network((packed, length))
    return str(network.network_address) if length == network.max_prefixlen else str(network)
