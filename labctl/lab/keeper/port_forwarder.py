"""What `expose` does: a process of the lab that carries bytes between ports of the machine and ports of hosts.

The listening sockets were made by the lab's owner, in the machine's network namespace; the sockets to a host are made
in the host's. So no packet passes from one to the other, nothing is translated, and there is nothing to restore: the
process ends with the lab. A server sees connections that come from its own host.

One process, one thread. What one side has sent and the other has not yet taken is bounded, and so are connections.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Iterable

from labctl.kernel import processes, syscalls
from labctl.kernel.namespaces import socket_in
from labctl.structs import Struct, field
from labctl.unpatched import Socket

BUFFER_BYTES = 64 * 1024  # for each direction of a connection
DATAGRAM_BYTES = 65536
CONNECTIONS_MAX = 512
SESSIONS_MAX = 512
SESSION_IDLE_S = 60.0  # a UDP peer that is silent for so long is forgotten
PAUSE_S = 1.0  # without a descriptor for another connection
DATAGRAMS_A_TURN = 64
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


class Target(Struct, frozen=True):
    """A port of a host: `network` is a descriptor of its namespace, `addresses` are tried in order; both borrowed."""

    network: int
    addresses: tuple[str, ...]
    port: int


class Listening(Struct, frozen=True):
    """A socket of the machine, listening (TCP) or bound (UDP), and where it leads."""

    descriptor: int
    target: Target


def forward(listening: Iterable[Listening], home: int) -> None:
    """Forward until the process is ended. `home` is the thread's own network namespace; descriptors are borrowed."""
    listening = tuple(listening)
    processes.default_signals()
    processes.die_with_parent()
    syscalls.set_process_name("labctl-forward")
    kept = {home, *(one.descriptor for one in listening), *(one.target.network for one in listening)}
    processes.keep_only(0, 1, 2, *kept)
    with selectors.DefaultSelector() as selector:
        loop = _Loop(selector, home)
        for one in listening:
            sock = Socket(fileno=one.descriptor)
            sock.setblocking(False)
            if sock.type == socket.SOCK_STREAM:
                loop.doors.append(_Door(loop, sock, one.target))
            else:
                _Datagrams(loop, sock, one.target)
        loop.run()


class _Loop:
    """Who wants to know what of which socket."""

    def __init__(self, selector: selectors.BaseSelector, home: int) -> None:
        self.selector = selector
        self.home = home
        self.doors: list[_Door] = []
        self.datagrams: list[_Datagrams] = []
        self.connections = 0
        self.closed_until: float | None = None

    def run(self) -> None:
        for door in self.doors:
            door.open()
        while True:
            for key, mask in self.selector.select(self.timeout_s()):
                sock = key.fileobj
                if isinstance(sock, socket.socket) and sock.fileno() != -1:  # else closed by an earlier event
                    key.data.ready(sock, mask)
            if self.closed_until is not None and time.monotonic() >= self.closed_until:
                self.closed_until = None
                self.open_doors()
            for each in self.datagrams:
                each.forget_silent()

    def timeout_s(self) -> float | None:
        if self.closed_until is not None:
            return PAUSE_S
        return SESSION_IDLE_S / 4 if any(each.sessions for each in self.datagrams) else None

    def want(self, sock: socket.socket, mask: int, who: _Door | _Connection | _Datagrams | _Session) -> None:
        """From now on these events of the socket are of interest, and no others."""
        known = self.selector.get_map().get(sock)
        if known is None:
            if mask:
                self.selector.register(sock, mask, who)
        elif not mask:
            self.selector.unregister(sock)
        elif known.events != mask:
            self.selector.modify(sock, mask, who)

    def begun(self) -> None:
        self.connections += 1
        if self.connections >= CONNECTIONS_MAX:
            for door in self.doors:
                door.shut()

    def ended(self) -> None:
        self.connections -= 1
        self.open_doors()

    def open_doors(self) -> None:
        if self.connections < CONNECTIONS_MAX and self.closed_until is None:
            for door in self.doors:
                door.open()

    def short_of_descriptors(self) -> None:
        self.closed_until = time.monotonic() + PAUSE_S
        for door in self.doors:
            door.shut()


class _Door:
    """A listening socket."""

    def __init__(self, loop: _Loop, sock: socket.socket, target: Target) -> None:
        self.loop, self.sock, self.target = loop, sock, target

    def open(self) -> None:
        self.loop.want(self.sock, selectors.EVENT_READ, self)

    def shut(self) -> None:
        self.loop.want(self.sock, 0, self)

    def ready(self, sock: socket.socket, mask: int) -> None:
        try:
            outer, _ = self.sock.accept()
        except OSError as error:
            if error.errno in _SHORT:
                self.loop.short_of_descriptors()
            return  # the client is gone already, or another refusal that concerns this client only
        outer.setblocking(False)
        _Connection(self.loop, outer, self.target).begin()


_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NOT_YET = (errno.EAGAIN, errno.EINPROGRESS)


class _Way(Struct):
    """One direction: what `source` has sent and `sink` has not taken."""

    source: socket.socket
    sink: socket.socket
    waiting: bytearray = field(default_factory=bytearray)
    ended: bool = False  # the source sends nothing more
    told: bool = False  # and the sink knows

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = self.source.recv(BUFFER_BYTES - len(self.waiting))
            self.waiting += data
            self.ended = not data

    def write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                del self.waiting[: self.sink.send(self.waiting, socket.MSG_NOSIGNAL)]
        if self.ended and not self.waiting and not self.told:
            self.told = True
            self.sink.shutdown(socket.SHUT_WR)


class _Connection:
    """A client's connection, and the one that was made to the host for it."""

    def __init__(self, loop: _Loop, outer: socket.socket, target: Target) -> None:
        self.loop, self.outer, self.target = loop, outer, target
        self.inner: socket.socket | None = None
        self.left = list(target.addresses)
        self.ways: tuple[_Way, ...] = ()

    def begin(self) -> None:
        self.loop.begun()
        self.connect_next()

    def connect_next(self) -> None:
        """Try the next address; reset the client's connection when there is none."""
        while self.left:
            address = self.left.pop(0)
            try:
                inner = _socket_to(self.target, address, socket.SOCK_STREAM, self.loop.home)
            except OSError:
                continue  # no such family on that host, or no descriptor left: then the client is told
            number = inner.connect_ex((address, self.target.port))
            if number and number not in _NOT_YET:
                inner.close()
                continue
            self.inner = inner
            self.loop.want(inner, selectors.EVENT_WRITE, self)
            return
        self.end(reset=True)

    def ready(self, sock: socket.socket, mask: int) -> None:
        try:
            if self.ways:
                self.carry(mask, sock)
            else:
                self.connected()
        except OSError:  # one side has reset its connection: so does the other
            self.end(reset=True)

    def connected(self) -> None:
        assert self.inner is not None
        if self.inner.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.loop.want(self.inner, 0, self)
            self.inner.close()
            self.inner = None
            self.connect_next()
            return
        for sock in (self.outer, self.inner):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ways = (_Way(self.outer, self.inner), _Way(self.inner, self.outer))
        self.look()

    def carry(self, mask: int, sock: socket.socket) -> None:
        for way in self.ways:
            if mask & selectors.EVENT_READ and way.source is sock:
                way.read()
            way.write()
        self.look()

    def look(self) -> None:
        """Want what is wanted next; the end, when both directions have ended."""
        if all(way.told for way in self.ways):
            self.end()
            return
        out, back = self.ways
        for reading, writing in ((out, back), (back, out)):
            mask = 0
            if not reading.ended and len(reading.waiting) < BUFFER_BYTES:
                mask |= selectors.EVENT_READ
            if writing.waiting:
                mask |= selectors.EVENT_WRITE
            self.loop.want(reading.source, mask, self)

    def end(self, *, reset: bool = False) -> None:
        for sock in (self.outer, self.inner):
            if sock is None:
                continue
            self.loop.want(sock, 0, self)
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
        self.loop.ended()


class _Datagrams:
    """A bound UDP socket, and a socket on the host for each peer that has sent to it lately."""

    def __init__(self, loop: _Loop, sock: socket.socket, target: Target) -> None:
        self.loop, self.sock, self.target = loop, sock, target
        self.sessions: OrderedDict[object, _Session] = OrderedDict()  # by the peer's address, the longest silent first
        loop.datagrams.append(self)
        loop.want(sock, selectors.EVENT_READ, self)

    def ready(self, sock: socket.socket, mask: int) -> None:
        for _ in range(DATAGRAMS_A_TURN):
            try:
                data, peer = self.sock.recvfrom(DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for something that was sent before
            session = self.sessions.get(peer)
            if session is None:
                while len(self.sessions) >= SESSIONS_MAX:
                    self.forget(next(iter(self.sessions)))
                try:
                    session = _Session(self, peer)
                except OSError:
                    continue  # the datagram is lost, as datagrams may be
                self.sessions[peer] = session
            self.sessions.move_to_end(peer)
            session.send(data)

    def forget_silent(self) -> None:
        before = time.monotonic() - SESSION_IDLE_S
        for peer, session in list(self.sessions.items()):
            if session.used > before:
                return
            self.forget(peer)

    def forget(self, peer: object) -> None:
        session = self.sessions.pop(peer)
        self.loop.want(session.sock, 0, session)
        session.sock.close()


class _Session:
    """What one UDP peer exchanges with the host."""

    def __init__(self, datagrams: _Datagrams, peer: tuple[str | int, ...]) -> None:
        self.datagrams, self.peer = datagrams, peer
        self.addresses = list(datagrams.target.addresses)  # the one in use first
        self.untried = 0  # addresses that may have the port for all that is known
        self.last = b""
        self.used = time.monotonic()
        self.sock = self.connected()

    def connected(self) -> socket.socket:
        """A socket to the first address that has a family of its own on the host. OSError when none has."""
        target, loop = self.datagrams.target, self.datagrams.loop
        failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        for _ in self.addresses:
            try:
                sock = _socket_to(target, self.addresses[0], socket.SOCK_DGRAM, loop.home)
            except OSError as error:
                failure = error
            else:
                number = sock.connect_ex((self.addresses[0], target.port))
                if not number:
                    loop.want(sock, selectors.EVENT_READ, self)
                    return sock
                sock.close()
            self.addresses.append(self.addresses.pop(0))
        raise failure

    def send(self, data: bytes) -> None:
        self.used = time.monotonic()
        self.last = data
        self.untried = len(self.addresses) - 1
        with contextlib.suppress(OSError):  # a full buffer, a port that nobody has: lost
            self.sock.send(data)

    def ready(self, sock: socket.socket, mask: int) -> None:
        for _ in range(DATAGRAMS_A_TURN):
            try:
                data = self.sock.recv(DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ECONNREFUSED and self.untried:
                    self.elsewhere()
                return
            self.used = time.monotonic()
            self.untried = 0
            self.datagrams.sessions.move_to_end(self.peer)
            with contextlib.suppress(OSError):
                self.datagrams.sock.sendto(data, self.peer)

    def elsewhere(self) -> None:
        """Nobody has the port under this address: try the next one with what was sent last."""
        self.untried -= 1
        self.datagrams.loop.want(self.sock, 0, self)
        self.sock.close()
        self.addresses.append(self.addresses.pop(0))
        try:
            self.sock = self.connected()
        except OSError:
            self.datagrams.sessions.pop(self.peer, None)
            return
        with contextlib.suppress(OSError):
            self.sock.send(self.last)


def _socket_to(target: Target, address: str, kind: int, home: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket_in(target.network, family, kind, home=home)
    sock.setblocking(False)
    return sock
