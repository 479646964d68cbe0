"""How scenario files write sockets: as topology files do."""

from __future__ import annotations

from labctl.topology.endpoints import (
    EndpointPattern,
    ListeningAt,
    Protocol,
    TcpState,
    fits,
    parse_address,
    parse_endpoint,
    parse_listening,
    parse_port,
    parse_state,
)

__all__ = [
    "EndpointPattern",
    "ListeningAt",
    "Protocol",
    "TcpState",
    "fits",
    "parse_address",
    "parse_endpoint",
    "parse_listening",
    "parse_port",
    "parse_state",
]
