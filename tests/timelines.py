"""Timelines for tests of sinks: values built by hand, of the same types that recordings give."""

from __future__ import annotations

from typing import Any

from labctl.timeline.events import (
    AnyEvent,
    Call,
    Clock,
    Flow,
    Header,
    NodeInfo,
    Output,
    Packet,
    SocketKey,
    SocketSample,
    Source,
    State,
    Step,
    Timeline,
    Verdict,
    Wire,
)
from labctl.topology.model import Endpoint, NodeKind

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
ENDS = (Endpoint("client", "eth0"), Endpoint("server", "eth0"))
STARTED_NS = 1_000_000_000_000
US = 1_000
ETHERNET_BYTES, IPV4_BYTES, TCP_BYTES = 14, 20, 32


class Builder:
    """Collects events of a client and a server on one wire; times are microseconds from the start."""

    def __init__(self, port: int = 5000, client_port: int = 43768) -> None:
        self.flow = Flow("tcp", CLIENT, client_port, SERVER, port)
        self.events: list[AnyEvent] = []
        self.journeys = 0

    def _common(self, at_us: float, host: str, source: Source) -> dict[str, Any]:
        return {"at_ns": STARTED_NS + round(at_us * US), "host": host, "source": source, "seq": len(self.events)}

    def step(self, at_us: float, index: str, host: str, title: str, until_us: float) -> None:
        common = self._common(at_us, host, Source.STEPS)
        until_ns = STARTED_NS + round(until_us * US)
        self.events.append(Step(**common, index=index, kind="calls", title=title, until_ns=until_ns, outcome="passed"))

    def call(
        self,
        at_us: float,
        until_us: float | None,
        host: str,
        name: str,
        arguments: str,
        result: int | None,
        **more: Any,
    ) -> None:
        common = self._common(at_us, host, Source.CALLS)
        until_ns = None if until_us is None else STARTED_NS + round(until_us * US)
        self.events.append(
            Call(
                **common,
                until_ns=until_ns,
                pid=2,
                tid=2,
                program=host,
                name=name,
                arguments=arguments,
                result=result,
                **more,
            )
        )

    def packet(
        self, at_us: float, host: str, flags: str, seq: int, ack: int, payload: bytes = b"", **more: Any
    ) -> None:
        """A TCP packet that the other host receives 4 us later; `flags` as `SYN ACK`; seq and ack are relative."""
        outgoing = host == "client"
        flow = self.flow if outgoing else self.flow.reverse
        receiver = "server" if outgoing else "client"
        header = Header(
            protocol="tcp",
            flow=flow,
            flags=tuple(flags.split()),
            seq=(1000 if outgoing else 5000) + seq,
            ack=(5000 if outgoing else 1000) + ack if "ACK" in flags else 0,
            window=64240,
            payload_bytes=len(payload),
            payload=payload,
            options="mss 1460, sackOK, wscale 7" if "SYN" in flags else "",
            ttl=64,
        )
        common = self._common(at_us, host, Source.PACKETS)
        fields: dict[str, Any] = {
            "wire": "client:eth0 - server:eth0",
            "interface": "eth0",
            "receiver": receiver,
            "receiver_interface": "eth0",
            "arrived_ns": STARTED_NS + round((at_us + 4) * US),
            "header": header,
            "length": ETHERNET_BYTES + IPV4_BYTES + TCP_BYTES + len(payload),
            "frame": bytes(ETHERNET_BYTES + IPV4_BYTES + TCP_BYTES) + payload,
            "journey": self.journeys,
            "relative_seq": seq,
            "relative_ack": ack if "ACK" in flags else None,
        }
        self.events.append(Packet(**common, **(fields | more)))
        self.journeys += 1

    def state(self, at_us: float, host: str, old: str, new: str) -> None:
        flow = self.flow if host == "client" else self.flow.reverse
        key = SocketKey(host, cookie=1 if host == "client" else 2, flow=flow)
        self.events.append(State(**self._common(at_us, host, Source.KERNEL), socket=key, old=old, new=new))

    def listener(self, at_us: float, accept_queue: int, limit: int) -> None:
        key = SocketKey("server", cookie=9, flow=Flow("tcp", SERVER, self.flow.target_port, "0.0.0.0", 0))
        common = self._common(at_us, "server", Source.SOCKETS)
        self.events.append(
            SocketSample(**common, socket=key, state="LISTEN", receive_queue=accept_queue, send_queue=limit)
        )

    def output(self, at_us: float, host: str, data: bytes) -> None:
        self.events.append(
            Output(**self._common(at_us, host, Source.OUTPUT), program="cat", stream="stdout", data=data)
        )

    def timeline(self, title: str = "A TCP server and a client on two hosts", **more: Any) -> Timeline:
        events = tuple(sorted(self.events, key=lambda each: (each.at_ns, list(Source).index(each.source), each.seq)))
        fields: dict[str, Any] = {
            "title": title,
            "started_ns": STARTED_NS,
            "ended_ns": max(each.at_ns for each in events) if events else STARTED_NS,
            "started_at": "2026-11-27T12:00:00.000+00:00",
            "hosts": ("client", "server"),
            "nodes": (NodeInfo("client", NodeKind.HOST, (CLIENT,)), NodeInfo("server", NodeKind.HOST, (SERVER,))),
            "wires": (Wire("client:eth0 - server:eth0", ENDS),),
            "links": (ENDS,),
            "events": events,
            "clock": Clock(
                offset_ns=1_700_000_000_000_000_000, bracket_ns=190, end_offset_ns=1_700_000_000_000_000_000
            ),
            "verdict": Verdict("passed"),
        }
        return Timeline(**(fields | more))


def tcp_echo() -> Timeline:
    """The conversation of scenarios/tcp-echo.yaml: its calls, packets and states."""
    b = Builder()
    b.step(0, "1", "server", "the server binds its socket and waits for a client", 1500)
    b.call(100, 120, "server", "socket", "AF_INET, SOCK_STREAM, 0", 3, fd=None)
    b.call(1000, 1020, "server", "bind", "3, {AF_INET, 10.0.0.2:5000}, 16", 0, fd=3)
    b.call(1200, 1210, "server", "listen", "3, 5", 0, fd=3)
    b.state(1205, "server", "CLOSE", "LISTEN")
    b.call(1400, 2700, "server", "accept", "3, {AF_INET, 10.0.0.1:43768}, [16 -> 16]", 4,
           value="10.0.0.1:43768 (client), addrlen 16 -> 16", fd=3)  # fmt: skip
    b.step(1500, "2", "client", "the client connects and sends first", 3400)
    b.call(1900, 1915, "client", "socket", "AF_INET, SOCK_STREAM, 0", 3)
    b.call(2500, 2650, "client", "connect", "3, {AF_INET, 10.0.0.2:5000}, 16", 0, fd=3)
    b.state(2505, "client", "CLOSE", "SYN_SENT")
    b.packet(2510, "client", "SYN", 0, 0)
    b.packet(2530, "server", "SYN ACK", 0, 1)
    b.state(2540, "client", "SYN_SENT", "ESTABLISHED")
    b.packet(2550, "client", "ACK", 1, 1)
    b.state(2560, "server", "SYN_RECV", "ESTABLISHED")
    b.listener(2565, 1, 5)
    b.call(2900, 2910, "client", "getsockname", "3, {AF_INET, 10.0.0.1:43768}, [16 -> 16]", 0, fd=3)
    b.call(3300, 3350, "client", "send", '3, "hello", 5, 0', 5, data=b"hello", data_bytes=5, fd=3)
    b.packet(3310, "client", "PSH ACK", 1, 1, b"hello")
    b.packet(3330, "server", "ACK", 1, 6)
    b.step(3500, "3", "server", "accept returns a new descriptor and the client's address; the server echoes", 4400)
    b.call(3800, 3810, "server", "recv", '4, "hello", 100, 0', 5, data=b"hello", data_bytes=5, fd=4)
    b.call(4100, 4150, "server", "send", '4, "hello", 5, 0', 5, data=b"hello", data_bytes=5, fd=4)
    b.packet(4110, "server", "PSH ACK", 1, 6, b"hello")
    b.packet(4130, "client", "ACK", 6, 6)
    b.step(4400, "4", "client", "the client reads the echo and closes", 5000)
    b.call(4500, 4510, "client", "recv", '3, "hello", 100, 0', 5, data=b"hello", data_bytes=5, fd=3)
    b.call(4800, 4850, "client", "close", "3", 0, fd=3)
    b.state(4805, "client", "ESTABLISHED", "FIN_WAIT1")
    b.packet(4810, "client", "FIN ACK", 6, 6)
    b.state(4820, "server", "ESTABLISHED", "CLOSE_WAIT")
    b.packet(4830, "server", "ACK", 6, 7)
    b.state(4840, "client", "FIN_WAIT1", "FIN_WAIT2")
    b.step(5000, "5", "server", "the server reads end of file", 5600)
    b.call(5100, 5110, "server", "recv", '4, "", 100, 0', 0, fd=4)
    b.call(5300, 5350, "server", "close", "4", 0, fd=4)
    b.state(5305, "server", "CLOSE_WAIT", "LAST_ACK")
    b.packet(5310, "server", "FIN ACK", 6, 7)
    b.packet(5330, "client", "ACK", 7, 7)
    b.state(5340, "server", "LAST_ACK", "CLOSE")
    return b.timeline()


def many(events: int) -> Timeline:
    """About that many events: connections of a client and a server, one after the other, each of 20 events."""
    b = Builder()
    at_us = 0.0
    for number in range(events // 20):
        b.flow = Flow("tcp", CLIENT, 1024 + number % 60000, SERVER, 5000)
        b.call(at_us, at_us + 45, "client", "connect", "3, {AF_INET, 10.0.0.2:5000}, 16", 0, fd=3)
        for offset, host, flags, seq, ack, payload in (
            (5, "client", "SYN", 0, 0, b""), (10, "server", "SYN ACK", 0, 1, b""), (15, "client", "ACK", 1, 1, b""),
            (55, "client", "PSH ACK", 1, 1, b"hello"), (60, "server", "ACK", 1, 6, b""),
            (75, "server", "PSH ACK", 1, 6, b"hello"), (80, "client", "ACK", 6, 6, b""),
            (95, "client", "FIN ACK", 6, 6, b""),
            (100, "server", "FIN ACK", 6, 7, b""), (105, "client", "ACK", 7, 7, b""),
        ):  # fmt: skip
            b.packet(at_us + offset, host, flags, seq, ack, payload)
        for offset, host, old, new in (
            (2, "client", "CLOSE", "SYN_SENT"), (12, "client", "SYN_SENT", "ESTABLISHED"),
            (18, "server", "SYN_RECV", "ESTABLISHED"), (92, "client", "ESTABLISHED", "FIN_WAIT1"),
        ):  # fmt: skip
            b.state(at_us + offset, host, old, new)
        b.listener(at_us + 19, number % 3, 5)
        b.call(at_us + 50, at_us + 58, "client", "send", '3, "hello", 5, 0', 5, data=b"hello", data_bytes=5, fd=3)
        b.call(at_us + 64, at_us + 78, "server", "send", '4, "hello", 5, 0', 5, data=b"hello", data_bytes=5, fd=4)
        b.call(at_us + 90, at_us + 96, "client", "close", "3", 0, fd=3)
        at_us += 120
    return b.timeline("Many connections")
