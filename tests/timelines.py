"""Timelines for tests of sinks: values built by hand, of the same types that recordings give."""

from __future__ import annotations

from typing import Any

from labctl.structs import replace
from labctl.timeline.events import (
    AnyEvent,
    Call,
    Clock,
    Drop,
    Flow,
    Header,
    Loss,
    NodeInfo,
    Output,
    Packet,
    Reset,
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
        window = more.pop("window", 64240)
        receiver = "server" if outgoing else "client"
        header = Header(
            protocol="tcp",
            flow=flow,
            flags=tuple(flags.split()),
            seq=(1000 if outgoing else 5000) + seq,
            ack=(5000 if outgoing else 1000) + ack if "ACK" in flags else 0,
            window=window,
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

    def datagram(self, at_us: float, host: str, port: int, target_port: int, payload: bytes) -> None:
        """A UDP datagram from `port` to `target_port` of the other host."""
        ends = (CLIENT, port, SERVER, target_port) if host == "client" else (SERVER, port, CLIENT, target_port)
        header = Header(protocol="udp", flow=Flow("udp", *ends), payload_bytes=len(payload), payload=payload, ttl=64)
        length = ETHERNET_BYTES + IPV4_BYTES + 8 + len(payload)
        self.packet(at_us, host, "", 0, 0, header=header, length=length, relative_seq=None, relative_ack=None)

    def drop(self, at_us: float, host: str, reason: str, journey: int | None = None, **more: Any) -> None:
        common = self._common(at_us, host, Source.KERNEL)
        self.events.append(Drop(**common, reason=reason, packet=journey, **more))

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


def refused() -> Timeline:
    """A connection to a port on which nothing listens."""
    b = Builder(port=81)
    b.call(100, 120, "client", "socket", "AF_INET, SOCK_STREAM, 0", 3)
    b.call(500, 560, "client", "connect", "3, {AF_INET, 10.0.0.2:81}, 16", -1, fd=3, errno="ECONNREFUSED")
    b.state(505, "client", "CLOSE", "SYN_SENT")
    b.packet(510, "client", "SYN", 0, 0)
    flow = b.flow.reverse
    b.events.append(
        Reset(**b._common(515, "server", Source.KERNEL), socket=None, flow=flow, is_sent=True, reason="NO_SOCKET")
    )
    b.packet(520, "server", "RST ACK", 0, 1, window=0)
    b.state(530, "client", "SYN_SENT", "CLOSE")
    return b.timeline("A connection to a port where nobody listens is refused")


def full_queue() -> Timeline:
    """Two connections fill the accept queue of a listener; the SYN of the third is ignored, and sent again."""
    b = Builder()
    b.step(0, "1", "server", "a backlog of one", 400)
    b.call(100, 120, "server", "socket", "AF_INET, SOCK_STREAM, 0", 3)
    b.call(200, 220, "server", "bind", "3, {AF_INET, 10.0.0.2:5000}, 16", 0, fd=3)
    b.call(300, 310, "server", "listen", "3, 1", 0, fd=3)
    b.state(305, "server", "CLOSE", "LISTEN")
    b.step(400, "2", "client", "two connections are established without accept", 1500)
    for number in range(2):
        at = 500 + 400 * number
        b.flow = Flow("tcp", CLIENT, 40000 + number, SERVER, 5000)
        b.call(at, at + 20, "client", "socket", "AF_INET, SOCK_STREAM, 0", 3 + number)
        b.call(at + 200, at + 260, "client", "connect", f"{3 + number}, {{AF_INET, 10.0.0.2:5000}}, 16", 0,
               fd=3 + number)  # fmt: skip
        b.packet(at + 210, "client", "SYN", 0, 0)
        b.packet(at + 220, "server", "SYN ACK", 0, 1)
        b.packet(at + 230, "client", "ACK", 1, 1)
        b.state(at + 235, "server", "SYN_RECV", "ESTABLISHED")
        b.listener(at + 240, number + 1, 1)
    b.step(1500, "3", "client", "the third client's SYN is ignored", 3_100_000)
    b.flow = Flow("tcp", CLIENT, 40002, SERVER, 5000)
    b.call(1600, 1620, "client", "socket", "AF_INET, SOCK_STREAM, 0", 5)
    b.call(1700, 3_080_100, "client", "connect", "5, {AF_INET, 10.0.0.2:5000}, 16", 0, fd=5)
    b.drop(1715, "server", "accept queue full (2 of 1)", b.journeys, is_inferred=True)
    b.packet(1710, "client", "SYN", 0, 0)
    b.drop(1_021_715, "server", "accept queue full (2 of 1)", b.journeys, is_inferred=True)
    b.packet(1_021_710, "client", "SYN", 0, 0, is_retransmission=True)
    b.call(1_500_000, 1_500_010, "server", "accept", "3, {AF_INET, 10.0.0.1:40000}, [16 -> 16]", 4,
           value="10.0.0.1:40000 (client), addrlen 16 -> 16", fd=3)  # fmt: skip
    b.listener(1_500_020, 1, 1)
    b.packet(3_080_000, "client", "SYN", 0, 0, is_retransmission=True)
    b.packet(3_080_020, "server", "SYN ACK", 0, 1)
    b.packet(3_080_040, "client", "ACK", 1, 1)
    b.listener(3_080_050, 2, 1)
    return b.timeline("A full accept queue ignores the next SYN")


def datagrams() -> Timeline:
    """Datagrams: one that arrives, one that nftables drops on the server, one to a port without a socket."""
    b = Builder()
    b.call(100, 120, "server", "socket", "AF_INET, SOCK_DGRAM, 0", 3)
    b.call(200, 220, "server", "bind", "3, {AF_INET, 10.0.0.2:5000}, 16", 0, fd=3)
    b.call(300, 900, "server", "recvfrom", '3, "ping", 100, 0, {AF_INET, 10.0.0.1:40000}, [16 -> 16]', 4,
           value='"ping" 10.0.0.1:40000', fd=3)  # fmt: skip
    b.call(500, 520, "client", "socket", "AF_INET, SOCK_DGRAM, 0", 3)
    b.call(800, 850, "client", "sendto", '3, "ping", 4, 0, {AF_INET, 10.0.0.2:5000}, 16', 4, fd=3)
    b.datagram(810, "client", 40000, 5000, b"ping")
    b.call(1800, 1850, "client", "sendto", '3, "lost", 4, 0, {AF_INET, 10.0.0.2:5000}, 16', 4, fd=3)
    b.drop(1815, "server", "NETFILTER_DROP", b.journeys, hook="input")
    b.datagram(1810, "client", 40000, 5000, b"lost")
    b.call(2800, 2850, "client", "sendto", '3, "none", 4, 0, {AF_INET, 10.0.0.2:9}, 16', 4, fd=3)
    b.datagram(2810, "client", 40000, 9, b"none")
    flow = Flow("icmp", SERVER, 0, CLIENT, 0)
    header = Header(protocol="icmp", flow=flow, summary="port unreachable", quoted=b.flow, payload_bytes=32)
    b.packet(2820, "server", "", 0, 0, header=header, relative_seq=None, relative_ack=None, length=74)
    b.call(3000, None, "client", "recv", "3, 100, 0", None, fd=3)
    return b.timeline("Datagrams", losses=(Loss(Source.PACKETS, 7, host="server", why="ring of 1 MiB was full"),),
                      missing=("drop reasons: not root",))  # fmt: skip


def bulk() -> Timeline:
    """300 kB in large segments, one of which is lost on the wire and sent again."""
    b = Builder()
    b.call(0, 900, "client", "send", '3, "xxxxxxxxxxxxxxxx"..., 300000, 0', 300000, data=b"x" * 16,
           data_bytes=300000, fd=3)  # fmt: skip
    for number in range(6):
        payload = b"x" * 50000
        seq = 1 + 50000 * number
        lost: dict[str, Any] = {"receiver": "", "receiver_interface": "", "arrived_ns": None} if number == 5 else {}
        b.packet(10 + 100 * number, "client", "PSH ACK", seq, 1, payload, segment_bytes=1448, **lost)
        if number < 5:
            b.packet(50 + 100 * number, "server", "ACK", 1, seq + 50000)
    b.packet(250_510, "client", "PSH ACK", 250_001, 1, b"x" * 50000, segment_bytes=1448, is_retransmission=True)
    b.packet(250_550, "server", "ACK", 1, 300_001, window=0)
    b.output(250_600, "server", b"first line\nsecond line\n")
    b.call(250_700, 250_720, "server", "recv", '4, "xxxxxxxxxxxxxxxx"..., 65536, 0', 65536, fd=4)
    b.packet(250_800, "server", "RST ACK", 1, 300_001, window=0)
    return b.timeline("A large transfer")


def several(clients: int) -> Timeline:
    """A server and that many clients; each connects, and the first sends."""
    b = Builder()
    hosts = tuple(f"client-{number + 1}" for number in range(clients))
    for number, host in enumerate(hosts):
        at, first = 1000.0 * number, len(b.events)
        address = f"10.0.0.{number + 10}"
        b.flow = Flow("tcp", address, 40000, SERVER, 5000)
        b.call(at, at + 50, "client", "connect", "3, {AF_INET, 10.0.0.2:5000}, 16", 0, fd=3)
        b.packet(at + 10, "client", "SYN", 0, 0)
        b.packet(at + 20, "server", "SYN ACK", 0, 1)
        b.packet(at + 30, "client", "ACK", 1, 1)
        b.events[first:] = [
            replace(event, host=host if event.host == "client" else event.host,
                    **({"receiver": host} if isinstance(event, Packet) and event.receiver == "client" else {}),
                    **({"program": host} if isinstance(event, Call) else {}))
            for event in b.events[first:]
        ]  # fmt: skip
    nodes = tuple(NodeInfo(host, NodeKind.HOST, (f"10.0.0.{at + 10}",)) for at, host in enumerate(hosts))
    return b.timeline("Several clients", hosts=(*hosts, "server"),
                      nodes=(*nodes, NodeInfo("server", NodeKind.HOST, (SERVER,))))  # fmt: skip


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
