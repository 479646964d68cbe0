"""The sockets of a network namespace, and the removal of connections in TIME_WAIT, through sock_diag(7).

The structures are those of linux/inet_diag.h and linux/unix_diag.h, packed here because pyroute2's module for them
takes 100 ms to import; a test compares both encodings. Any user may send requests; the kernel answers for the whole
namespace of the netlink socket.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterator
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv6Address

from labctl.kernel.netlink import NLM_F_REQUEST, Batch, attribute_values, dump, message, messages_in, u32
from labctl.structs import Struct, replace

NETLINK_SOCK_DIAG = 4  # linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
INET_REQUEST = struct.Struct("=BBBxI2H16s16sI8s")  # struct inet_diag_req_v2
INET_MESSAGE = struct.Struct("=4B4s16s16sI8s5I")  # struct inet_diag_msg
UNIX_REQUEST = struct.Struct("=BBxxIII8s")  # struct unix_diag_req
UNIX_MESSAGE = struct.Struct("=BBBxI8s")  # struct unix_diag_msg
_PORTS = struct.Struct("!HH")
_QUEUES = struct.Struct("=II")  # struct unix_diag_rqlen
UDIAG_SHOW_NAME = 0x01  # linux/unix_diag.h
UDIAG_SHOW_PEER = 0x04
UDIAG_SHOW_RQLEN = 0x10
UDIAG_SHOW_UID = 0x40
INET_DIAG_INFO = 2  # linux/inet_diag.h
INET_DIAG_SKMEMINFO = 7
INET_DIAG_SKV6ONLY = 11
DETAILS = 1 << (INET_DIAG_INFO - 1) | 1 << (INET_DIAG_SKMEMINFO - 1)  # extensions of a request
UNIX_DIAG_NAME = 0
UNIX_DIAG_PEER = 2
UNIX_DIAG_RQLEN = 4
UNIX_DIAG_UID = 7
_NEW_SYN_RECV = 12  # TCP_NEW_SYN_RECV: a connection request that is not a socket yet
ALL_STATES = 0x1FFF  # every state below TCP_MAX_STATES
NO_COOKIE = b"\xff" * 8  # INET_DIAG_NOCOOKIE


class Transport(StrEnum):
    """The transport of a socket."""

    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"


class State(IntEnum):
    """The states of a socket (net/tcp_states.h); UDP and AF_UNIX use ESTABLISHED, CLOSE and LISTEN only."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


class Timer(IntEnum):
    """The timer of a TCP socket that expires next (idiag_timer, tcp_diag in ss(8))."""

    NONE = 0
    RETRANSMIT = 1
    KEEPALIVE = 2  # or that of FIN_WAIT2
    TIME_WAIT = 3
    ZERO_WINDOW_PROBE = 4


class Memory(Struct, frozen=True, gc=False):
    """The memory of a socket's queues, bytes as the kernel accounts them: with its structures (SK_MEMINFO_VARS)."""

    receive: int
    receive_limit: int  # SO_RCVBUF in force
    send: int
    send_limit: int  # SO_SNDBUF in force
    backlog: int  # received while a program held the socket's lock
    drops: int  # packets


class TcpInfo(Struct, frozen=True, gc=False):
    """Congestion control and counts of a TCP connection: parts of struct tcp_info (linux/tcp.h). 0: not known yet."""

    rto_us: int
    rtt_us: int  # smoothed
    rtt_variance_us: int
    segment_bytes: int  # the send MSS
    unacknowledged: int  # segments in flight
    lost: int  # segments
    congestion_window: int  # segments
    slow_start_threshold: int  # segments
    retransmits: int  # segments, in total
    acknowledged_bytes: int
    received_bytes: int
    unsent_bytes: int
    delivery_rate_bytes_s: int


class Socket(Struct, frozen=True):
    """One socket as the kernel reports it.

    An IPv4 address of an AF_INET6 socket is an IPv4Address. The queues of a listener are not bytes: see `accept_queue`
    and `accept_queue_limit`. A half-open connection (SYN_RECV) is not a socket yet: its inode is 0.
    """

    transport: Transport
    family: int  # AF_INET, AF_INET6, AF_UNIX
    type: int  # SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET
    state: State
    local: IPv4Address | IPv6Address | None = None
    local_port: int = 0
    peer: IPv4Address | IPv6Address | None = None
    peer_port: int = 0
    path: str = ""  # AF_UNIX: the bound name, `@name` if abstract
    receive_queue: int = 0  # unread bytes; of a listener: connections not accepted yet
    send_queue: int = 0  # bytes the peer has not acknowledged (UDP: unsent bytes); of a listener: the backlog
    uid: int = 0  # in the reader's user namespace
    inode: int = 0
    peer_inode: int = 0  # AF_UNIX
    ifindex: int = 0  # of the interface it is bound to, or of its link-local scope
    v6only: bool = False  # IPV6_V6ONLY; reported of sockets without a peer only
    cookie: int = 0  # SO_COOKIE (socket(7))
    timer: Timer = Timer.NONE
    expires_ms: int = 0  # until the timer expires
    retries: int = 0  # retransmissions or probes of the timer's segment
    memory: Memory | None = None  # if DETAILS were requested
    tcp: TcpInfo | None = None  # if DETAILS were requested, of TCP

    @property
    def interface(self) -> tuple[str, ...]:
        """The name (if an address is link-local) and the index of the interface that it is bound to; () for none."""
        if not self.ifindex:
            return ()
        names = {each.scope_id for each in (self.local, self.peer) if isinstance(each, IPv6Address)} - {None}
        return (*map(str, names), str(self.ifindex))

    @property
    def listening(self) -> bool:
        """Whether it listens, or is a datagram socket that is bound and not connected."""
        if self.transport is Transport.UDP:
            return self.state is State.CLOSE and self.local_port != 0
        if self.transport is Transport.UNIX and self.type == socket.SOCK_DGRAM:
            return self.path != ""
        return self.state is State.LISTEN

    def takes(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether it is bound to the unspecified address and receives packets to `address` (dual-stack: ipv6(7))."""
        if self.local is None or not self.local.is_unspecified:
            return False
        return self.local.version == address.version or (self.local.version == 6 and not self.v6only)

    @property
    def state_name(self) -> str:
        """The state as ss(8) writes it: a UDP or AF_UNIX socket without a peer is UNCONN."""
        unconnected = self.state is State.CLOSE and self.transport is not Transport.TCP
        return "UNCONN" if unconnected else self.state.name

    @property
    def half_open(self) -> bool:
        """Whether it is a connection whose handshake has not finished."""
        return self.state is State.SYN_RECV

    @property
    def accept_queue(self) -> int | None:
        """The number of connections that wait for accept(2); None unless it listens."""
        return self.receive_queue if self.state is State.LISTEN else None

    @property
    def accept_queue_limit(self) -> int | None:
        """The backlog that the kernel set (it queues one connection more); None unless it listens."""
        return self.send_queue if self.state is State.LISTEN else None

    def __str__(self) -> str:
        if self.transport is Transport.UNIX:
            return f"unix {self.path or '*'} {self.state_name}"
        ends = f"{_end(self.local, self.local_port)} -> {_end(self.peer, self.peer_port)}"
        return f"{self.transport} {ends} {self.state_name}"


def inet_sockets(sock: socket.socket, transport: Transport, *, extensions: int = 0) -> tuple[Socket, ...]:
    """Return the TCP or UDP sockets of both families, half-open TCP connections included.

    `sock` (NETLINK_SOCK_DIAG) is borrowed. With `extensions` DETAILS, they have `memory` and `tcp`. OSError: ENOENT if
    the kernel lacks the module.
    """
    protocol = socket.IPPROTO_TCP if transport is Transport.TCP else socket.IPPROTO_UDP
    found: list[Socket] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        request = inet_request(family, protocol, ALL_STATES, extensions)
        found += (decode_inet(payload, transport) for _, payload in dump(sock, SOCK_DIAG_BY_FAMILY, request))
    return tuple(found)


def inet_request(family: int, protocol: int, states: int, extensions: int = 0) -> bytes:
    """Pack a request for the sockets in `states`, a bit mask of State; `extensions` are 0 or DETAILS."""
    return INET_REQUEST.pack(family, protocol, extensions, states, 0, 0, bytes(16), bytes(16), 0, NO_COOKIE)


def unix_sockets(sock: socket.socket) -> tuple[Socket, ...]:
    """Return the AF_UNIX sockets that were created in the namespace; `sock` and OSError as above."""
    show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID
    request = UNIX_REQUEST.pack(socket.AF_UNIX, 0, ALL_STATES, 0, show, NO_COOKIE)
    return tuple(decode_unix(payload) for _, payload in dump(sock, SOCK_DIAG_BY_FAMILY, request))


def decode_inet(payload: bytes | memoryview, transport: Transport) -> Socket:
    """Decode one `struct inet_diag_msg` and its attributes."""
    fixed = INET_MESSAGE.unpack_from(payload)
    family, state, timer, retries, ports, local, peer, ifindex, cookie, expires, *rest = fixed
    receive_queue, send_queue, uid, inode = rest
    local_port, peer_port = _PORTS.unpack(ports)
    values = attribute_values(payload, INET_MESSAGE.size)
    return Socket(
        transport=transport,
        family=family,
        type=socket.SOCK_STREAM if transport is Transport.TCP else socket.SOCK_DGRAM,
        state=_state(state),
        local=_address(family, local),
        local_port=local_port,
        peer=_address(family, peer),
        peer_port=peer_port,
        receive_queue=receive_queue,
        send_queue=send_queue,
        uid=uid,
        inode=inode,
        ifindex=ifindex,
        v6only=any(values.get(INET_DIAG_SKV6ONLY, b"")),
        cookie=int.from_bytes(cookie, sys.byteorder),  # two words of 32 bits, the lower one first
        timer=_TIMERS.get(timer, Timer.NONE),
        expires_ms=expires,
        retries=retries,
        memory=_memory(values.get(INET_DIAG_SKMEMINFO, b"")),
        tcp=_tcp_info(values.get(INET_DIAG_INFO, b"")) if transport is Transport.TCP else None,
    )


_TIMERS = {each.value: each for each in Timer}
_MEMORY = struct.Struct("=9I")  # SK_MEMINFO_VARS, linux/sock_diag.h
_TCP_INFO = struct.Struct("=8x24I4Q2I4IQ")  # struct tcp_info to tcpi_delivery_rate, since Linux 4.9


def _memory(data: bytes) -> Memory | None:
    if len(data) < _MEMORY.size:
        return None
    receive, receive_limit, _, send_limit, _, send, _, backlog, drops = _MEMORY.unpack_from(data)
    return Memory(receive, receive_limit, send, send_limit, backlog, drops)


def _tcp_info(data: bytes) -> TcpInfo | None:
    if len(data) < _TCP_INFO.size:
        return None
    fields = _TCP_INFO.unpack_from(data)
    return TcpInfo(
        rto_us=fields[0],
        segment_bytes=fields[2],
        unacknowledged=fields[4],
        lost=fields[6],
        rtt_us=fields[15],
        rtt_variance_us=fields[16],
        slow_start_threshold=fields[17],
        congestion_window=fields[18],
        retransmits=fields[23],
        acknowledged_bytes=fields[26],
        received_bytes=fields[27],
        unsent_bytes=fields[30],
        delivery_rate_bytes_s=fields[34],
    )


def decode_unix(payload: bytes | memoryview) -> Socket:
    """Decode one `struct unix_diag_msg` and its attributes."""
    family, type, state, inode, _ = UNIX_MESSAGE.unpack_from(payload)
    values = attribute_values(payload, UNIX_MESSAGE.size)
    receive_queue, send_queue = _QUEUES.unpack(values.get(UNIX_DIAG_RQLEN, bytes(_QUEUES.size)))
    return Socket(
        transport=Transport.UNIX,
        family=family,
        type=type,
        state=_state(state),
        path=_unix_name(values.get(UNIX_DIAG_NAME, b"")),
        receive_queue=receive_queue,
        send_queue=send_queue,
        uid=u32(values, UNIX_DIAG_UID),
        inode=inode,
        peer_inode=u32(values, UNIX_DIAG_PEER),
    )


def with_scopes(socket: Socket, name_of: Callable[[int], str]) -> Socket:
    """Return the socket with scopes in its link-local addresses: `fe80::1%eth0`; `name_of` maps index to name."""

    def scoped(address: IPv4Address | IPv6Address | None) -> IPv4Address | IPv6Address | None:
        if not socket.ifindex or not isinstance(address, IPv6Address) or not address.is_link_local:
            return address
        return IPv6Address(f"{address}%{name_of(socket.ifindex)}")

    return replace(socket, local=scoped(socket.local), peer=scoped(socket.peer))


def _state(number: int) -> State:
    return State.SYN_RECV if number == _NEW_SYN_RECV else State(number)


def _address(family: int, packed: bytes) -> IPv4Address | IPv6Address:
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _unix_name(name: bytes) -> str:
    if name.startswith(b"\0"):
        return "@" + name[1:].decode(errors="backslashreplace")
    return name.rstrip(b"\0").decode(errors="surrogateescape")


def _end(address: IPv4Address | IPv6Address | None, port: int) -> str:
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return f"{host}:{port or '*'}"


# -- connections in TIME_WAIT, which no process owns

SOCK_DESTROY = 21  # linux/sock_diag.h
_ID = slice(4, 52)  # struct inet_diag_sockid in struct inet_diag_msg
_ID_OFFSET = 8  # and in struct inet_diag_req_v2
_IGNORED = frozenset({errno.ENOENT, errno.EOPNOTSUPP})  # it has ended by itself; the kernel cannot end it

TimeWaitId = tuple[int, bytes]  # address family, struct inet_diag_sockid


def time_wait_connections(sock: socket.socket) -> frozenset[TimeWaitId]:
    """Return the connections in TIME_WAIT, of both families; `sock` (NETLINK_SOCK_DIAG) is borrowed. OSError."""
    found: set[TimeWaitId] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for _, payload in dump(sock, SOCK_DIAG_BY_FAMILY, _time_wait_request(family)):
            found.add((payload[0], bytes(payload[_ID])))
    return frozenset(found)


def end_time_wait(sock: socket.socket, connections: Collection[TimeWaitId]) -> None:
    """End connections in TIME_WAIT before their minute is over, so that their addresses can be bound again. OSError.

    The kernel can do this since Linux 4.6, if it was built with CONFIG_INET_DIAG_DESTROY; otherwise nothing happens.
    """
    batch: Batch[TimeWaitId] = Batch(sock)
    for family, identity in connections:
        request = bytearray(_time_wait_request(family))
        request[_ID_OFFSET : _ID_OFFSET + len(identity)] = identity
        batch.add(message(SOCK_DESTROY, NLM_F_REQUEST, bytes(request)), (family, identity))
    for refused in batch.commit():
        if refused.errno not in _IGNORED:
            raise OSError(refused.errno, "cannot end a connection in TIME_WAIT")


def _time_wait_request(family: int) -> bytes:
    return inet_request(family, socket.IPPROTO_TCP, 1 << State.TIME_WAIT)


# -- samples, as bytes that another process decodes

_SAMPLED_STATES = ALL_STATES & ~(1 << State.TIME_WAIT)


def sample(sock: socket.socket) -> bytes:
    """Return the kernel's answers about the TCP and UDP sockets of the namespace, with DETAILS, for `sampled`.

    `sock` (NETLINK_SOCK_DIAG) is borrowed. Sockets in TIME_WAIT are omitted. OSError.
    """
    answers = []
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        for family in (socket.AF_INET, socket.AF_INET6):
            request = inet_request(family, protocol, _SAMPLED_STATES, DETAILS)
            for kind, payload in dump(sock, SOCK_DIAG_BY_FAMILY, request):
                answers.append(message(kind, 0, bytes(payload), protocol))
    return b"".join(answers)


def sampled(answers: bytes) -> Iterator[Socket]:
    """Decode the result of `sample`."""
    for _, _, protocol, payload in messages_in(answers):
        yield decode_inet(payload, Transport.TCP if protocol == socket.IPPROTO_TCP else Transport.UDP)
