"""The shapes of `nat`, `forward` and `firewall` in topology files."""

from __future__ import annotations

from labctl.documents.diagnostics import Mistake
from labctl.documents.schema import (
    STRICT_TEXT,
    TEXT,
    Duration,
    Flag,
    KeyPath,
    ListOf,
    Of,
    OneOf,
    Placed,
    PlacedText,
    Reading,
    Schema,
    Schemas,
    Shape,
    TextOr,
    Whole,
    defaulted,
    optional,
    required,
)
from labctl.topology.packet_rules import FirewallPreset, FlowDirection, FlowProtocol, NatPreset, Policy


class NatFile(Shape):
    """Address translation between the inside and the outside of a router."""

    PLURAL = "`nat`"

    preset = defaulted(OneOf(NatPreset), NatPreset.MASQUERADE, "Behaviour of mapping and filtering.")
    outside = optional(STRICT_TEXT, "Outside: a network, a neighbour or an interface; default: towards other routers.")
    hairpin = optional(Flag(), "Hosts inside reach each other at outside addresses.")
    ipv6 = defaulted(Flag(), False, "Translate IPv6 as well.")
    ports = optional(Whole(1, 65535), "cgnat: number of outside ports of each inside address; default: 1024.")
    timeout = optional(Duration(), "Lifetime of a mapping without packets out; default: 5min.")


class NatValue:
    """`true` for the machine's network, a preset, or a mapping."""

    def __init__(self) -> None:
        self._flag = Flag()
        words = ", ".join(NatPreset)
        otherwise = Mistake(f"expected true, a preset ({words}), or a mapping", "write for example `nat: full-cone`")
        self._mapping = Of(NatFile, short={str: "preset"}, otherwise=otherwise)

    def read(self, value: object, at: Reading, path: KeyPath) -> bool | NatFile:
        if isinstance(value, bool) or value in ("true", "false"):
            return self._flag.read(value, at, path)
        preset = value.get("preset") if isinstance(value, dict) else value
        if preset in ("nat64", "NAT64"):
            where = (*path, "preset") if isinstance(value, dict) else path
            hint = "run tayga (Debian package tayga) as a service of the router, or Jool"
            raise at.wrong(where, "the kernel's nftables cannot translate between IPv6 and IPv4 (NAT64)", hint)
        return self._mapping.read(value, at, path)

    def schema(self, into: Schemas) -> Schema:
        return {"anyOf": [self._flag.schema(into), self._mapping.schema(into)]}


class PortForwardFile(Shape):
    """Ports of a router's outside address that lead to a host."""

    PLURAL = "`forward`"

    port = required(TEXT, "Port or range outside: 8080, 5000-5010.")
    to = required(STRICT_TEXT, "The host, with or without a port: web, web:80.")
    to_port = optional(TEXT, "Port there, the first one of a range; default: the same.")
    protocol = defaulted(OneOf(FlowProtocol), FlowProtocol.TCP, "tcp or udp.")


class PortForwardInStep(PortForwardFile):
    """The same in a step of a scenario."""


def _forwards(shape: type[PortForwardFile]) -> ListOf[PlacedText | PortForwardFile]:
    mistake = Mistake("expected a text such as `8080:web:80`, or a mapping with `port` and `to`")
    return ListOf(TextOr(Of(shape), mistake), or_one=True)


FORWARD, STEP_FORWARD = _forwards(PortForwardFile), _forwards(PortForwardInStep)

_ENDS = ListOf(Placed(STRICT_TEXT), or_one=True)


class FlowFile(Shape):
    """Packets that match every key."""

    from_ = defaulted(_ENDS, [], "Senders: nodes, groups, networks, VLANs, prefixes or addresses.", name="from")
    to = defaulted(_ENDS, [], "Receivers, likewise.")
    protocol = optional(OneOf(FlowProtocol), "tcp, udp or icmp.")
    port = optional(TEXT, "Destination port or range: 80, 8000-8010.")
    direction = optional(OneOf(FlowDirection), "in, out, or forward; default: in, and for routers forward as well.")


class FlowInStep(FlowFile):
    """The same in a step of a scenario."""


def _flows(shape: type[FlowFile]) -> ListOf[PlacedText | FlowFile]:
    mistake = Mistake("expected a text such as `tcp/80`, or a mapping with `from`, `to`, `port`")
    return ListOf(TextOr(Of(shape), mistake), or_one=True)


_FLOWS, STEP_FLOWS = _flows(FlowFile), _flows(FlowInStep)


class FirewallFile(Shape):
    """Which packets a node accepts."""

    PLURAL = "`firewall`"

    preset = defaulted(OneOf(FirewallPreset), FirewallPreset.OPEN, "What passes beside the lists.")
    policy = optional(OneOf(Policy), "What happens to other packets: accept, drop or reject.")
    outside = optional(STRICT_TEXT, "Outside of a router: a network, a neighbour or an interface.")
    deny = defaulted(_FLOWS, [], "Packets that are dropped, before all else.")
    allow = defaulted(_FLOWS, [], "Packets that pass: tcp/80, icmp, or mappings.")


FIREWALL = Of(
    FirewallFile,
    short={str: "preset"},
    otherwise=Mistake(
        f"expected a preset ({', '.join(FirewallPreset)}), or a mapping",
        "write for example `{preset: stateful, allow: [tcp/80]}`",
    ),
)
