"""What a NAT does to UDP, as RFC 5780 finds it out: sockets inside send to two hosts outside, at two ports each."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import Self

from labctl.lab.client.handle import Lab
from tests.patience import patient

ANSWER_S, SILENCE_S, AGAIN_S = patient(10.0), patient(1.0), patient(0.25)
PORTS = (3478, 3479)

Outer = tuple[str, int]


class Endpoint:
    """A UDP socket on a node, at a port."""

    def __init__(self, lab: Lab, node: str, port: int, stack: ExitStack) -> None:
        self.sock = stack.enter_context(lab.socket(node, socket.AF_INET, socket.SOCK_DGRAM))
        self.sock.bind(("", port))
        self.first: bytes | None = None  # that it has received

    def delivers(self, text: bytes, to: Outer, receiver: Endpoint, within_s: float) -> Outer | None:
        """The sender that the receiver sees, None if nothing arrives; sent again, as a busy machine loses datagrams."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self.sock.sendto(text, to)
            if peer := receiver.receives(text, AGAIN_S):
                return peer
        return None

    def receives(self, wanted: bytes, timeout_s: float) -> Outer | None:
        """The sender of that datagram, None if it does not come."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                data, peer = self.sock.recvfrom(100)
            except TimeoutError:
                break
            self.first = self.first or data
            if data == wanted:
                return str(peer[0]), int(peer[1])
        return None


class Outside:
    """Servers on hosts outside (name and address of each), at both ports."""

    def __init__(self, lab: Lab, hosts: dict[str, str]) -> None:
        self.lab = lab
        self.addresses = hosts
        self.stack = ExitStack()
        self.servers = {(host, port): Endpoint(lab, host, port, self.stack) for host in hosts for port in PORTS}
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def inside(self, node: str, port: int) -> Endpoint:
        """A socket on a host inside."""
        return Endpoint(self.lab, node, port, self.stack)

    def outer(self, inside: Endpoint, host: str, port: int = PORTS[0]) -> Outer | None:
        """The endpoint that the server sees; None if nothing arrives."""
        self.count += 1
        text = b"request %d" % self.count
        return inside.delivers(text, (self.addresses[host], port), self.servers[host, port], ANSWER_S)

    def passes(self, host: str, port: int, to: Outer, inside: Endpoint) -> bool:
        """Whether a datagram from that server to the outer endpoint arrives inside."""
        self.count += 1
        text = b"answer %d" % self.count
        return self.servers[host, port].delivers(text, to, inside, SILENCE_S) is not None

    def behaviour(self, node: str, port: int = 40000) -> tuple[str, str]:
        """Mapping and filtering of the NAT before that host, in the words of RFC 4787."""
        first, second = self.addresses
        inside = self.inside(node, port)
        outers = [
            self.outer(inside, host, at) for host, at in ((first, PORTS[0]), (first, PORTS[1]), (second, PORTS[0]))
        ]
        assert None not in outers, outers
        mapping = "endpoint-independent" if len(set(outers)) == 1 else "address and port-dependent"
        fresh = self.inside(node, port + 1)
        outer = self.outer(fresh, first)
        assert outer is not None
        assert self.passes(first, PORTS[0], outer, fresh)
        if self.passes(second, PORTS[0], outer, fresh):
            return mapping, "endpoint-independent"
        if self.passes(first, PORTS[1], outer, fresh):
            return mapping, "address-dependent"
        return mapping, "address and port-dependent"
