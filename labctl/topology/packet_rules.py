"""Address translation and firewalls of nodes as values, as files and steps ask for them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from labctl.structs import Struct

MAPPING_TIMEOUT_S = 300.0  # RFC 4787, REQ-5: of a UDP mapping, at least two minutes, five are recommended


class NatPreset(StrEnum):
    """The behaviour of a translating router, in the terms of RFC 4787 (docs/nat-and-firewalls.md)."""

    MASQUERADE = "masquerade"  # what Linux does by itself
    FULL_CONE = "full-cone"  # endpoint-independent mapping and filtering
    ADDRESS_RESTRICTED = "address-restricted"  # address-dependent filtering
    PORT_RESTRICTED = "port-restricted"  # address and port-dependent filtering
    SYMMETRIC = "symmetric"  # address and port-dependent mapping and filtering
    CGNAT = "cgnat"  # a block of ports for each inside address (RFC 6888), filtering as full-cone
    HAIRPIN = "hairpin"  # port-restricted; hosts inside reach each other at their outside addresses


class FlowProtocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"  # and ICMPv6


class PortForward(Struct, frozen=True, gc=False):
    """Ports of a router's outside addresses that lead to a host; as many ports there, from `to_first` on."""

    protocol: FlowProtocol
    first: int
    last: int
    node: str
    to_first: int

    def __str__(self) -> str:
        outer, inner = span(self.first, self.last), span(self.to_first, self.to_first + self.last - self.first)
        return f"{outer}:{self.node}:{inner}/{self.protocol}"


class Translation(Struct, frozen=True, gc=False):
    """How a router translates addresses of packets that leave by its outside interface."""

    preset: NatPreset | None = NatPreset.MASQUERADE  # None: it only forwards ports
    outside: str = ""  # a network, a neighbour or an interface; resolved: the interface
    hairpin: bool = False
    ipv6: bool = False  # translate IPv6 as well
    ports_per_host: int = 0  # size of a port block of cgnat
    timeout_s: float = MAPPING_TIMEOUT_S  # of a mapping without packets out
    forwards: tuple[PortForward, ...] = ()

    def data(self) -> dict[str, Any]:
        """Return the keys of the router in a topology file."""
        nat = {
            "preset": self.preset and str(self.preset),
            "outside": self.outside or None,
            "hairpin": self.hairpin,
            "ipv6": self.ipv6,
            "ports": self.ports_per_host or None,
            "timeout": f"{self.timeout_s:g}s",
        }
        data: dict[str, Any] = {}
        if self.preset is not None:
            data["nat"] = {key: value for key, value in nat.items() if value is not None}
        if self.forwards:
            data["forward"] = [str(one) for one in self.forwards]
        return data

    def __str__(self) -> str:
        words = [f"nat {self.preset}"] if self.preset else []
        words += [f"outside {self.outside}"] if self.outside else []
        words += ["hairpin"] if self.hairpin and self.preset is not NatPreset.HAIRPIN else []
        words += ["ipv6"] if self.ipv6 else []
        words += [f"forward {one}" for one in self.forwards]
        return " ".join(words)


class FirewallPreset(StrEnum):
    OPEN = "open"  # all packets pass
    STATEFUL = "stateful"  # new connections out, replies in
    DROP_IN = "drop-in"  # nothing comes in, not even replies
    LOCKDOWN = "lockdown"  # nothing in, nothing out
    CORPORATE = "corporate"  # out: TCP to ports 80 and 443, DNS; replies in


class Policy(StrEnum):
    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"


class FlowDirection(StrEnum):
    """Relative to the node: for itself, from itself, or through it."""

    IN = "in"
    OUT = "out"
    FORWARD = "forward"


class FlowRule(Struct, frozen=True, gc=False):
    """Packets that match every field; empty fields match all. Ends are nodes, networks, prefixes or addresses."""

    protocol: FlowProtocol | None = None
    first_port: int = 0  # of the destination; 0: all
    last_port: int = 0
    sources: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    direction: FlowDirection | None = None  # None: in on a host, forward and in on a router

    def data(self) -> dict[str, Any]:
        """Return the entry in a topology file."""
        every = {
            "protocol": self.protocol and str(self.protocol),
            "port": span(self.first_port, self.last_port) if self.first_port else None,
            "from": list(self.sources),
            "to": list(self.destinations),
            "direction": self.direction and str(self.direction),
        }
        return {key: value for key, value in every.items() if value}

    def __str__(self) -> str:
        words = [self.protocol or "all", *([span(self.first_port, self.last_port)] if self.first_port else [])]
        words = ["/".join(words)]
        words += [f"from {' '.join(self.sources)}"] if self.sources else []
        words += [f"to {' '.join(self.destinations)}"] if self.destinations else []
        return " ".join([*words, *([self.direction] if self.direction else [])])


class Firewall(Struct, frozen=True, gc=False):
    """Which packets a node accepts: `deny` first, then replies, then `allow`, then what the preset says."""

    preset: FirewallPreset = FirewallPreset.OPEN
    policy: Policy | None = None  # of packets that nothing else decides; None: the preset's
    outside: str = ""  # of a router, as of Translation
    deny: tuple[FlowRule, ...] = ()
    allow: tuple[FlowRule, ...] = ()

    def data(self) -> dict[str, Any]:
        """Return the value of `firewall` in a topology file."""
        every: dict[str, Any] = {
            "preset": str(self.preset),
            "policy": self.policy and str(self.policy),
            "outside": self.outside or None,
            "deny": [one.data() for one in self.deny],
            "allow": [one.data() for one in self.allow],
        }
        return {key: value for key, value in every.items() if value}

    def __str__(self) -> str:
        words = [f"firewall {self.preset}", *([f"policy {self.policy}"] if self.policy else [])]
        words += [f"deny {one}" for one in self.deny]
        return ", ".join([*words, *(f"allow {one}" for one in self.allow)])


def span(first: int, last: int) -> str:
    """Return `80`, or `80-90`."""
    return str(first) if first == last else f"{first}-{last}"
