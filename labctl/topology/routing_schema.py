"""The shapes of a node's routing in a topology file: its routes, policy rules, loopback addresses and gateway.

A route or a rule may also be a text as ip-route(8) and ip-rule(8) take it: `default via r1 metric 10`.
"""

from __future__ import annotations

from labctl.documents.diagnostics import Mistake
from labctl.documents.schema import (
    STRICT_TEXT,
    TEXT,
    Excludes,
    Flag,
    ListOf,
    Of,
    OneOf,
    OrFalse,
    OrList,
    Shape,
    TextOr,
    Whole,
    defaulted,
    optional,
    required,
)
from labctl.topology.model import RouteKind, RuleAction

METRIC_MAX = 0xFFFF_FFFF
WEIGHT_MAX = 256  # rtnh_hops is one byte: the weight less one (linux/rtnetlink.h)
_METRIC = Whole(1, METRIC_MAX)
_WEIGHT = Whole(1, WEIGHT_MAX)


class HopFile(Shape):
    """A next hop of a route with several."""

    via = optional(STRICT_TEXT, "The gateway: a node, or an address.")
    dev = optional(STRICT_TEXT, "The interface; default: the one on the gateway's network.")
    weight = defaulted(_WEIGHT, 1, "Its share of the flows, relative to the other next hops.")
    onlink = defaulted(Flag(), False, "The gateway is on the link although no prefix there contains it.")

    def problem(self) -> str:
        """A next hop is somewhere."""
        return "" if {"via", "dev"} & self.given else "a next hop needs `via` or `dev`"


_HOP = Of(HopFile, short="via", otherwise=Mistake("expected a gateway, or a mapping with `via` or `dev`"))


class RouteFile(Shape):
    """A route of the node."""

    PLURAL = "`routes`"

    to = required(TEXT, "Destination: a prefix, an address, `default`, or the name of a network or a node.")
    via = optional(ListOf(STRICT_TEXT, at_least=1, or_one=True), "The gateway: a node or an address; a list: several.")
    dev = optional(STRICT_TEXT, "The interface; default: the one on the gateway's network.")
    hops = optional(ListOf(_HOP, at_least=1), "Several next hops, among which flows are distributed by weight.")
    weight = optional(_WEIGHT, "Join it with other routes that differ only in the next hop: its share of the flows.")
    metric = optional(_METRIC, "Of several routes to a destination, the one with the lowest metric is used.")
    kind = defaulted(OneOf(RouteKind), RouteKind.UNICAST, "What happens to the packets.")
    table = optional(TEXT, "The routing table: a number, main, or a name of your own, which gets a number from 100 on.")
    vrf = optional(TEXT, "The VRF of this node in whose table it is; `via` and `dev` are in the VRF.")
    src = optional(STRICT_TEXT, "Source address of packets from this node itself.")
    onlink = defaulted(Flag(), False, "The gateway is on the link although no prefix there contains it.")

    RULES = (
        Excludes("vrf", ("table",), "a route is in one table: remove one of `vrf` and `table`"),
        Excludes("hops", ("via", "dev", "weight", "onlink"), "write `via`, `dev`, `weight` and `onlink` inside `hops`"),
    )

    def problem(self) -> str:
        """Routes of other kinds have no next hop (local ones may have an interface), and unicast ones need one."""
        at_most = ("via", "hops", "weight", "onlink", *(() if self.kind is RouteKind.LOCAL else ("dev",)))
        hop = next((key for key in at_most if key in self.values), "")
        if self.kind is not RouteKind.UNICAST:
            return f"a route of the kind {self.kind} has no next hop: remove `{hop}`" if hop else ""
        has_hop = {"via", "dev", "hops"} & self.given
        return "" if has_hop else "a route needs `via`, `dev` or `hops`, or another `kind`, such as blackhole"


class RuleFile(Shape):
    """A policy rule: packets that all its keys select are looked up in a table, or refused."""

    PLURAL = "`rules`"

    source = optional(TEXT, "Packets from this prefix, address, network or node.", name="from")
    to = optional(TEXT, "Packets to this prefix, address, network or node.")
    fwmark = optional(TEXT, "Packets with this mark: 1, 0x10 or 0x10/0xff.")
    iif = optional(STRICT_TEXT, "Packets that arrive on this interface; lo: packets of the node itself.")
    oif = optional(STRICT_TEXT, "Packets of sockets that are bound to this interface.")
    invert = defaulted(Flag(), False, "Select all other packets.", name="not")
    table = optional(TEXT, "The table to look up: a number, main, or a name of your own.")
    lookup = optional(TEXT, "The same as `table`.")
    vrf = optional(TEXT, "The VRF of this node whose table to look up.")
    action = defaulted(OneOf(RuleAction), RuleAction.LOOKUP, "What to do instead of a lookup.")
    priority = optional(Whole(1, 32765), "Rules are tried in ascending order; default: 1000, 1001, ... in the list.")

    RULES = (
        Excludes("lookup", ("table",), "a rule looks up one table: remove one of `lookup` and `table`"),
        Excludes("vrf", ("table", "lookup"), "a rule looks up one table: `vrf` is that of the VRF"),
    )

    def problem(self) -> str:
        """A lookup needs a table, and other actions have none."""
        table = next((key for key in ("table", "lookup", "vrf") if key in self.values), "")
        if self.action is not RuleAction.LOOKUP:
            return f"a rule with the action {self.action} looks up no table: remove `{table}`" if table else ""
        return "" if table else "a rule needs a `table` or a `vrf`, or another `action`, such as prohibit"


class LoopbackFile(Shape):
    """An address of `lo`."""

    address = required(STRICT_TEXT, "The address, 10.255.0.1 or 10.255.0.1/32.")
    anycast = defaulted(Flag(), False, "Other nodes may have the same address; packets go to the nearest.")


NO_ROUTES = Mistake("expected a list of routes", "write for example `routes: [{to: default, via: r1}]`")
ROUTE = TextOr(
    Of(RouteFile),
    Mistake("expected a route", "write for example `{to: default, via: r1}` or `default via r1`"),
)
RULE = TextOr(
    Of(RuleFile),
    Mistake("expected a rule", "write for example `{from: 10.0.1.0/24, table: 100}`"),
)
LOOPBACKS = ListOf(
    Of(LoopbackFile, short={str: "address"}, otherwise=Mistake("expected an address such as 10.255.0.1")),
    or_one=True,
)
GATEWAYS = OrList(OrFalse("a node or an address"), ListOf(STRICT_TEXT, at_least=1))
ROUTING_KEYS = frozenset({"loopback", "gateway", "routes", "rules"})  # of a node
