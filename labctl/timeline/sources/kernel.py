"""Events of the kernel's tracepoints: what `labctl.kernel.bpf.Tracer` recorded, decoded."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping

from labctl.kernel.bpf_records import DROP_RECORD, RECORD, SOCKET_RECORD, DropFields, Kind, SocketFields, split
from labctl.kernel.sock_diag import State as TcpState
from labctl.timeline.events import Drop, Flow, Reset, Retransmit, SocketKey, SocketSample, Source, State
from labctl.timeline.packet_headers import ETHERNET_BYTES, decode
from labctl.timeline.sources.sockets import unread_bytes

KernelEvent = State | Retransmit | Reset | Drop | SocketSample
_NEW_SYN_RECV = 12  # TCP_NEW_SYN_RECV (net/tcp_states.h): a connection request
_STATES = {state.value: state.name for state in TcpState} | {_NEW_SYN_RECV: TcpState.SYN_RECV.name}
_WITHOUT_QUEUES = frozenset({TcpState.SYN_SENT, TcpState.CLOSE, TcpState.LISTEN})
# Of each echo reply, when a raw socket has had a copy of it, as that of ping(8) run by root has.
_NO_LOSSES = frozenset({("NO_SOCKET", "ping_rcv"), ("NO_SOCKET", "icmp_rcv")})
_MAPPED = bytes(10) + b"\xff\xff"  # an IPv4-mapped IPv6 address (ipv6(7)): the packets are IPv4


def events(records: bytes, host: str) -> Iterator[KernelEvent]:
    """Decode records of the network namespace of `host`; `seq` is 0.

    Each TCP event of a socket with queues comes with a SocketSample of the same moment, and a connection that is
    established with one of its listener's accept queue (if that began to listen meanwhile). A socket that becomes CLOSE
    because a smaller structure takes its place is in TIME_WAIT, as ss(8) shows. The kernel reports a reset that it
    makes itself, as for unread data, a moment after it has sent it.
    """
    for kind, record in split(records):
        at_ns = RECORD.unpack_from(record)[3]
        if kind == Kind.DROP:
            drop = _drop(DropFields._make(DROP_RECORD.unpack_from(record)), at_ns, host)
            if (drop.reason, drop.location) not in _NO_LOSSES:
                yield drop
        elif kind == Kind.ACCEPT_QUEUE:
            yield _sample(SocketFields._make(SOCKET_RECORD.unpack_from(record)), at_ns, host)
        elif kind in _OF_SOCKETS:
            fields = SocketFields._make(SOCKET_RECORD.unpack_from(record))
            yield _OF_SOCKETS[Kind(kind)](fields, at_ns, host)
            if fields.congestion_window and fields.new_state not in _WITHOUT_QUEUES:
                yield _sample(fields, at_ns, host)


def _state(fields: SocketFields, at_ns: int, host: str) -> State:
    old, new = fields.state, fields.new_state
    waits = old in (TcpState.FIN_WAIT2, TcpState.CLOSING) and new == TcpState.CLOSE and not fields.reason
    return State(
        at_ns=at_ns,
        host=host,
        source=Source.KERNEL,
        seq=0,
        socket=_key(fields, host),
        old=_STATES.get(old, str(old)),
        new=TcpState.TIME_WAIT.name if waits else _STATES.get(new, str(new)),
    )


def _retransmit(fields: SocketFields, at_ns: int, host: str) -> Retransmit:
    state = _STATES.get(fields.state, str(fields.state))
    return Retransmit(at_ns=at_ns, host=host, source=Source.KERNEL, seq=0, socket=_key(fields, host), state=state)


def _reset_sent(fields: SocketFields, at_ns: int, host: str) -> Reset:
    key = _key(fields, host)
    reason = _enum("sk_rst_reason", "SK_RST_REASON_").get(fields.reason, "")
    return Reset(
        at_ns=at_ns,
        host=host,
        source=Source.KERNEL,
        seq=0,
        socket=key if key.cookie or fields.state else None,
        flow=key.flow,
        is_sent=True,
        reason="" if reason == "NOT_SPECIFIED" else reason,
    )


def _reset_received(fields: SocketFields, at_ns: int, host: str) -> Reset:
    key = _key(fields, host)
    flow = key.flow.reverse if key.flow else None
    return Reset(at_ns=at_ns, host=host, source=Source.KERNEL, seq=0, socket=key, flow=flow, is_sent=False)


_OF_SOCKETS: Mapping[Kind, Callable[[SocketFields, int, str], State | Retransmit | Reset]] = {
    Kind.STATE: _state,
    Kind.RETRANSMIT: _retransmit,
    Kind.RESET_SENT: _reset_sent,
    Kind.RESET_RECEIVED: _reset_received,
}


def _sample(fields: SocketFields, at_ns: int, host: str) -> SocketSample:
    state = fields.new_state
    return SocketSample(
        at_ns=at_ns,
        host=host,
        source=Source.KERNEL,
        seq=0,
        socket=_key(fields, host),
        state=_STATES.get(state, str(state)),
        receive_queue=unread_bytes(state, fields.receive_queue),
        send_queue=fields.send_queue,
        receive_buffer=fields.receive_buffer,
        send_buffer=fields.send_buffer,
        congestion_window=fields.congestion_window,
        rtt_us=fields.srtt_us8 >> 3,
        retransmits=fields.retransmits,
    )


def _drop(fields: DropFields, at_ns: int, host: str) -> Drop:
    captured = fields.frame[: fields.captured]
    if not fields.has_ethernet:  # it is added later, or was removed
        captured = bytes(ETHERNET_BYTES - 2) + fields.protocol.to_bytes(2, "big") + captured
    length = fields.length + (0 if fields.has_ethernet else ETHERNET_BYTES)
    reason = _enum("skb_drop_reason", "SKB_DROP_REASON_").get(fields.reason, f"reason {fields.reason}")
    return Drop(
        at_ns=at_ns,
        host=host,
        source=Source.KERNEL,
        seq=0,
        reason=reason,
        header=decode(captured, length),
        frame=captured,
        interface=_text(fields.interface_name),
        hook=_hook(fields) if reason == "NETFILTER_DROP" else "",
        location=_text(fields.location),
    )


def _enum(name: str, prefix: str) -> Mapping[int, str]:
    from labctl.kernel.libbpf import kernel_enum  # and so ctypes, which most runs do not need

    return kernel_enum(name, prefix)


def _hook(fields: DropFields) -> str:
    """The hook of nftables, by how far the packet had come: the tracepoint does not report it."""
    if not fields.interface:
        return "output"  # the route's device follows after the hook
    if fields.interface == fields.arrived_on:
        if not fields.has_route:
            return "prerouting"
        return "input" if fields.is_route_local else "forward"
    return "postrouting"


def _key(fields: SocketFields, host: str) -> SocketKey:
    family = socket.AF_INET6
    local, peer = fields.local, fields.peer
    if fields.family == socket.AF_INET:
        family, local, peer = socket.AF_INET, local[:4], peer[:4]
    elif local.startswith(_MAPPED):
        family, local, peer = socket.AF_INET, local[12:], peer[12:]
    ends = (socket.inet_ntop(family, local), fields.local_port, socket.inet_ntop(family, peer), fields.peer_port)
    return SocketKey(host, fields.inode, fields.cookie, Flow("tcp", *ends))


def _text(padded: bytes) -> str:
    return padded.split(b"\0", 1)[0].decode(errors="replace")
