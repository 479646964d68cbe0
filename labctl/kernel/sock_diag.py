"""The sockets of the network namespace that a netlink socket lives in, as sock_diag(7) tells them.

The structures are those of linux/inet_diag.h and linux/unix_diag.h, packed here because pyroute2's module of them takes
100 ms to import; a test compares both codecs. Any user may ask; the kernel answers for the whole namespace.

Connections in TIME_WAIT, which no process owns: which there are, and ended before their minute is over.

They keep an address from being bound again, long after the programs that spoke over it. The kernel ends a socket on
request since Linux 4.5, one in TIME_WAIT since 4.6, when it was built with CONFIG_INET_DIAG_DESTROY.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv6Address

from labctl.kernel.netlink import NLM_F_ACK, NLM_F_REQUEST, Batch, attributes, dump, message
from labctl.structs import Struct, replace

NETLINK_SOCK_DIAG = 4  # linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
INET_REQUEST = struct.Struct("=BBBxI2H16s16sI8s")  # struct inet_diag_req_v2
INET_MESSAGE = struct.Struct("=4B4s16s16sI8s5I")  # struct inet_diag_msg
UNIX_REQUEST = struct.Struct("=BBxxIII8s")  # struct unix_diag_req
UNIX_MESSAGE = struct.Struct("=BBBxI8s")  # struct unix_diag_msg
_PORTS = struct.Struct("!HH")
_PAIR = struct.Struct("=II")
_U32 = struct.Struct("=I")
UDIAG_SHOW_NAME = 0x01  # linux/unix_diag.h
UDIAG_SHOW_PEER = 0x04
UDIAG_SHOW_RQLEN = 0x10
UDIAG_SHOW_UID = 0x40
INET_DIAG_SKV6ONLY = 11  # linux/inet_diag.h
UNIX_DIAG_NAME = 0
UNIX_DIAG_PEER = 2
UNIX_DIAG_RQLEN = 4
UNIX_DIAG_UID = 7
_ALL_STATES = 0x1FFF  # every state below TCP_MAX_STATES, with 12, TCP_NEW_SYN_RECV: requests that are not sockets yet
NO_COOKIE = b"\xff" * 8  # INET_DIAG_NOCOOKIE


class Transport(StrEnum):
    """What a socket speaks."""

    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"


class State(IntEnum):
    """The kernel's states of a socket (net/tcp_states.h); UDP and AF_UNIX borrow ESTABLISHED, CLOSE and LISTEN."""

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


class Socket(Struct, frozen=True):
    """One socket as the kernel reports it.

    IPv4 addresses on an AF_INET6 socket are given as IPv4 ones. For a listener the queues are not bytes: see
    `accept_queue` and `accept_queue_limit`. A half-open connection (SYN_RECV) is not a socket yet: its inode is 0.
    """

    transport: Transport
    family: int  # AF_INET, AF_INET6, AF_UNIX
    type: int  # SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET
    state: State
    local: IPv4Address | IPv6Address | None = None
    local_port: int = 0
    peer: IPv4Address | IPv6Address | None = None
    peer_port: int = 0
    path: str = ""  # AF_UNIX: the name that it is bound to, `@name` for an abstract one
    receive_queue: int = 0  # bytes that wait to be read; a listener: connections that wait for accept
    send_queue: int = 0  # bytes not acknowledged by the peer (UDP: not sent); a listener: the most that may wait
    uid: int = 0  # as seen from the reader's user namespace
    inode: int = 0
    peer_inode: int = 0  # AF_UNIX
    ifindex: int = 0  # of the interface that it is bound to, or its link-local scope
    v6only: bool = False  # IPV6_V6ONLY; told of those that listen, or have no peer

    @property
    def interface(self) -> tuple[str, ...]:
        """Name (where an address is link-local) and index of the interface that it is bound to; () for none."""
        if not self.ifindex:
            return ()
        names = {each.scope_id for each in (self.local, self.peer) if isinstance(each, IPv6Address)} - {None}
        return (*map(str, names), str(self.ifindex))

    @property
    def listening(self) -> bool:
        """It listens; a datagram socket: it is bound and takes datagrams from anyone."""
        if self.transport is Transport.UDP:
            return self.state is State.CLOSE and self.local_port != 0
        if self.transport is Transport.UNIX and self.type == socket.SOCK_DGRAM:
            return self.path != ""
        return self.state is State.LISTEN

    def takes(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether it is bound to any address, and takes packets to `address`; IPv6 may be dual-stack, ipv6(7)."""
        if self.local is None or not self.local.is_unspecified:
            return False
        return self.local.version == address.version or (self.local.version == 6 and not self.v6only)

    @property
    def state_name(self) -> str:
        """The state as ss(8) writes it: only TCP has more than three, and a socket without a peer is UNCONN."""
        unconnected = self.state is State.CLOSE and self.transport is not Transport.TCP
        return "UNCONN" if unconnected else self.state.name

    @property
    def half_open(self) -> bool:
        """A connection request whose handshake is not finished."""
        return self.state is State.SYN_RECV

    @property
    def accept_queue(self) -> int | None:
        """Connections that wait for accept(2); None when it does not listen."""
        return self.receive_queue if self.state is State.LISTEN else None

    @property
    def accept_queue_limit(self) -> int | None:
        """The backlog as the kernel took it (it lets one more wait); None when it does not listen."""
        return self.send_queue if self.state is State.LISTEN else None

    def __str__(self) -> str:
        if self.transport is Transport.UNIX:
            return f"unix {self.path or '*'} {self.state_name}"
        ends = f"{_end(self.local, self.local_port)} -> {_end(self.peer, self.peer_port)}"
        return f"{self.transport} {ends} {self.state_name}"


def inet_sockets(sock: socket.socket, transport: Transport) -> tuple[Socket, ...]:
    """The TCP or UDP sockets of both families, half-open TCP connections included; `sock` is borrowed.

    `sock` is a NETLINK_SOCK_DIAG socket. OSError when the kernel refuses (ENOENT: its module is not there).
    """
    protocol = socket.IPPROTO_TCP if transport is Transport.TCP else socket.IPPROTO_UDP
    found: list[Socket] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        request = INET_REQUEST.pack(family, protocol, 0, _ALL_STATES, 0, 0, bytes(16), bytes(16), 0, NO_COOKIE)
        found += (decode_inet(payload, transport) for _, payload in dump(sock, SOCK_DIAG_BY_FAMILY, request))
    return tuple(found)


def unix_sockets(sock: socket.socket) -> tuple[Socket, ...]:
    """The AF_UNIX sockets made in the namespace; `sock` (NETLINK_SOCK_DIAG) is borrowed. OSError as above."""
    show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID
    request = UNIX_REQUEST.pack(socket.AF_UNIX, 0, _ALL_STATES, 0, show, NO_COOKIE)
    return tuple(decode_unix(payload) for _, payload in dump(sock, SOCK_DIAG_BY_FAMILY, request))


def decode_inet(payload: bytes | memoryview, transport: Transport) -> Socket:
    """The socket of one `struct inet_diag_msg`."""
    family, state, _, _, ports, local, peer, ifindex, _, _, received, sent, uid, inode = INET_MESSAGE.unpack_from(
        payload
    )
    local_port, peer_port = _PORTS.unpack(ports)
    v6only = any(
        payload[start] for kind, start, _ in attributes(payload, INET_MESSAGE.size) if kind == INET_DIAG_SKV6ONLY
    )
    return Socket(
        transport=transport,
        family=family,
        type=socket.SOCK_STREAM if transport is Transport.TCP else socket.SOCK_DGRAM,
        state=_state(state),
        local=_address(family, local),
        local_port=local_port,
        peer=_address(family, peer),
        peer_port=peer_port,
        receive_queue=received,
        send_queue=sent,
        uid=uid,
        inode=inode,
        ifindex=ifindex,
        v6only=v6only,
    )


def decode_unix(payload: bytes | memoryview) -> Socket:
    """The socket of one `struct unix_diag_msg` and its attributes."""
    family, type, state, inode, _ = UNIX_MESSAGE.unpack_from(payload)
    name, peer, received, sent, uid = b"", 0, 0, 0, 0
    for kind, start, length in attributes(payload, UNIX_MESSAGE.size):
        if kind == UNIX_DIAG_NAME:
            name = bytes(payload[start : start + length])
        elif kind == UNIX_DIAG_PEER:
            (peer,) = _U32.unpack_from(payload, start)
        elif kind == UNIX_DIAG_RQLEN:
            received, sent = _PAIR.unpack_from(payload, start)
        elif kind == UNIX_DIAG_UID:
            (uid,) = _U32.unpack_from(payload, start)
    return Socket(
        transport=Transport.UNIX,
        family=family,
        type=type,
        state=_state(state),
        path=_unix_name(name),
        receive_queue=received,
        send_queue=sent,
        uid=uid,
        inode=inode,
        peer_inode=peer,
    )


def with_scopes(socket: Socket, name_of: Callable[[int], str]) -> Socket:
    """The socket with the interface's name in its link-local addresses: `fe80::1%eth0`; `name_of` gives it by index."""

    def scoped(address: IPv4Address | IPv6Address | None) -> IPv4Address | IPv6Address | None:
        if not socket.ifindex or not isinstance(address, IPv6Address) or not address.is_link_local:
            return address
        return IPv6Address(f"{address}%{name_of(socket.ifindex)}")

    return replace(socket, local=scoped(socket.local), peer=scoped(socket.peer))


def _state(number: int) -> State:
    return State.SYN_RECV if number == 12 else State(number)  # TCP_NEW_SYN_RECV is a SYN_RECV before it has a socket


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


SOCK_DESTROY = 21  # linux/sock_diag.h
_ID = slice(4, 52)  # struct inet_diag_sockid in struct inet_diag_msg, and 8 bytes on in a request
_HEAD = 8
_GONE = frozenset({errno.ENOENT, errno.EOPNOTSUPP})  # it has ended by itself; the kernel cannot end it

Waiting = tuple[int, bytes]  # address family, the kernel's identity of the socket


def waiting(sock: socket.socket) -> frozenset[Waiting]:
    """The TIME_WAIT connections of both families in the namespace of `sock` (NETLINK_SOCK_DIAG; borrowed). OSError."""
    found: set[Waiting] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for _, payload in dump(sock, SOCK_DIAG_BY_FAMILY, _request(family)):
            found.add((payload[0], bytes(payload[_ID])))
    return frozenset(found)


def end(sock: socket.socket, connections: Collection[Waiting]) -> None:
    """End these; one that has ended already, or that this kernel cannot end, is left alone. OSError for the rest."""
    batch: Batch[Waiting] = Batch(sock)
    for family, identity in connections:
        request = bytearray(_request(family))
        request[_HEAD : _HEAD + len(identity)] = identity
        batch.add(message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, bytes(request)), (family, identity))
    for refused in batch.commit():
        if refused.errno not in _GONE:
            raise OSError(refused.errno, "cannot end a connection in TIME_WAIT")


def _request(family: int) -> bytes:
    states = 1 << State.TIME_WAIT
    return INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, 0, 0, bytes(16), bytes(16), 0, NO_COOKIE)
