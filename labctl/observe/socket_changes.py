"""The sockets of a lab's hosts at one moment, and what has changed between two: queues, states, new and closed ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from labctl.observe.network import Socket, State, Transport, sockets
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.observe.network import Observable

NameOf = Mapping[IPv4Address | IPv6Address, str]  # of the nodes' addresses
_FIN_RECEIVED = (State.CLOSE_WAIT, State.LAST_ACK, State.CLOSING)
_FIN_SENT = (State.FIN_WAIT1, State.LAST_ACK, State.CLOSING)
_Key = tuple[str, Transport, int, object, int, object, int, str]


class SocketRow(Struct, frozen=True):
    """A socket of a host. `half_open` is the number of handshakes that a listener has not finished."""

    host: str
    socket: Socket
    half_open: int = 0

    def key(self) -> _Key:
        """Return what identifies it in the lab: of TCP its addresses, of UDP and AF_UNIX its inode, too."""
        one = self.socket
        inode = 0 if one.transport is Transport.TCP else one.inode
        return self.host, one.transport, inode, one.local, one.local_port, one.peer, one.peer_port, one.path

    @property
    def is_unacknowledged(self) -> bool:
        """Whether it is a TCP connection whose peer has not acknowledged everything."""
        one = self.socket
        is_connection = one.transport is Transport.TCP and one.state not in (State.LISTEN, State.SYN_SENT)
        return is_connection and one.send_queue > 0

    def ends(self, names: NameOf) -> str:
        """Return `server:5000`, or `client:40576 - server:5000`, with names of nodes for their addresses."""
        one = self.socket
        if one.transport is Transport.UNIX:
            return one.path or "*"
        local = _end(one.local, one.local_port, names)
        return f"{local} - {_end(one.peer, one.peer_port, names)}" if one.peer_port else local

    def queues(self) -> str:
        """Return `accept queue 2 of 1 (full), 1 half-open`, or `5 bytes unread`; "" if a connection's are empty.

        Of UDP the kernel reports the memory of unread datagrams, not their length.
        """
        one = self.socket
        if one.state is State.LISTEN:
            waiting, limit = one.receive_queue, one.send_queue
            full = " (full)" if waiting > limit else ""
            return f"accept queue {waiting} of {limit}{full}" + (f", {self.half_open} half-open" * bool(self.half_open))
        if one.transport is Transport.UDP:
            unread = f"unread datagrams in {_bytes(one.receive_queue, 'of buffer')}" if one.receive_queue else ""
            return ", ".join(filter(None, (unread, _bytes(one.send_queue, "unsent"))))
        if one.transport is Transport.UNIX:
            return ", ".join(filter(None, (_bytes(one.receive_queue, "unread"), _bytes(one.send_queue, "unsent"))))
        # The kernel counts a SYN and a FIN as a byte each.
        unread_fin = int(one.state in _FIN_RECEIVED and one.receive_queue > 0)
        unacknowledged = {State.SYN_SENT: "SYN", **dict.fromkeys(_FIN_SENT, "FIN")}.get(one.state, "")
        sign = int(bool(unacknowledged) and one.send_queue > 0)
        parts = [
            _bytes(one.receive_queue - unread_fin, "unread"),
            "end of file unread" if unread_fin else "",
            _bytes(one.send_queue - sign, "unacknowledged"),
            f"{unacknowledged} unacknowledged" if sign else "",
        ]
        return ", ".join(filter(None, parts))


class Change(Struct, frozen=True):
    """A socket whose state or queues have changed. `now` is None if it is closed, `before` is None if it is new."""

    before: SocketRow | None
    now: SocketRow | None

    @property
    def row(self) -> SocketRow:
        """The socket as it is, or was."""
        row = self.now or self.before
        assert row is not None
        return row


def socket_rows(lab: Observable, hosts: Iterable[str]) -> tuple[SocketRow, ...]:
    """Return the sockets of the hosts, without AF_UNIX sockets that have no name. KernelError."""
    return tuple(row for host in hosts for row in _rows(host, sockets(lab, host)))


def _rows(host: str, found: tuple[Socket, ...]) -> Iterator[SocketRow]:
    half_open: dict[int, int] = {}
    for one in found:
        if one.half_open:
            half_open[one.local_port] = half_open.get(one.local_port, 0) + 1
    for one in found:
        if one.half_open or (one.transport is Transport.UNIX and not one.path):
            continue
        yield SocketRow(host, one, half_open.get(one.local_port, 0) if one.state is State.LISTEN else 0)


def changes(before: Iterable[SocketRow], now: Iterable[SocketRow]) -> list[Change]:
    """Return what differs: sockets of the present table first, in its order, then those that were closed."""
    old, found = {row.key(): row for row in before}, list[Change]()
    for row in now:
        earlier = old.pop(row.key(), None)
        if earlier is None or _visible(earlier) != _visible(row):
            found.append(Change(earlier, row))
    return found + [Change(row, None) for row in old.values()]


def _visible(row: SocketRow) -> tuple[State, int, int, int]:
    return row.socket.state, row.socket.receive_queue, row.socket.send_queue, row.half_open


def _bytes(count: int, what: str) -> str:
    return f"{count} byte{'s' * (count != 1)} {what}" if count else ""


def _end(address: IPv4Address | IPv6Address | None, port: int, names: NameOf) -> str:
    if address is None or address.is_unspecified:
        return f"*:{port}"
    name = names.get(address)
    return f"{name or (f'[{address}]' if address.version == 6 else address)}:{port}"
