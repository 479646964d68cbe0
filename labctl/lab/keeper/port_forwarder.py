"""The forwarder of `expose`: a process of the lab that copies bytes between ports of the machine and ports of hosts.

The lab's owner made the listening sockets in the machine's network namespace; the forwarder makes the sockets to a host
in the host's. So no packet passes from one namespace to the other, no address is translated, and there is nothing to
restore: the process ends with the lab. A server sees connections from its own host.

One thread runs an asyncio loop. Buffers, connections and UDP sessions are bounded. A call of the loop returns at once
while the socket has data, so each task gives way to the others after each buffer or datagram.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import struct
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from labctl.kernel import processes, syscalls
from labctl.kernel.namespaces import socket_in
from labctl.unpatched import Socket

if TYPE_CHECKING:
    from labctl.lab.keeper.machine_access import ForwardedPort

BUFFER_BYTES = 64 * 1024  # for each direction of a connection
DATAGRAM_BYTES = 65536
CONNECTIONS_MAX = 512
SESSIONS_MAX = 512
SESSION_IDLE_S = 60.0  # after which the session of a silent UDP peer ends
PAUSE_S = 1.0  # without a descriptor for another connection
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


def forward(ports: tuple[ForwardedPort, ...], home: int) -> None:
    """Forward until the process ends. `home` is the thread's own network namespace."""
    processes.default_signals()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    processes.die_with_parent()
    syscalls.set_process_name("labctl-forward")
    kept = {descriptor for port in ports for descriptor in (port.descriptor, port.network)}
    processes.keep_only(0, 1, 2, home, *kept)
    gc.freeze()  # objects of the keeper are never finalised here
    gc.enable()
    asyncio.run(_forward(ports, home))


async def _forward(ports: tuple[ForwardedPort, ...], home: int) -> None:
    slots = asyncio.Semaphore(CONNECTIONS_MAX)
    async with asyncio.TaskGroup() as group:
        for port in ports:
            sock = Socket(fileno=port.descriptor)
            sock.setblocking(False)
            if sock.type == socket.SOCK_STREAM:
                group.create_task(_accept(sock, port, home, slots, group))
            else:
                sessions = _Sessions(sock, port, home)
                group.create_task(sessions.receive())
                group.create_task(sessions.end_silent())


def _socket_to(port: ForwardedPort, address: str, kind: int, home: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket_in(port.network, family, kind, home=home)
    sock.setblocking(False)
    return sock


async def _accept(
    listener: socket.socket, port: ForwardedPort, home: int, slots: asyncio.Semaphore, group: asyncio.TaskGroup
) -> None:
    while True:
        try:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
        except OSError as error:
            if error.errno in _SHORT:
                await asyncio.sleep(PAUSE_S)
            continue  # any other error concerns that client only
        await slots.acquire()
        group.create_task(_connection(client, port, home)).add_done_callback(lambda _: slots.release())


async def _connection(client: socket.socket, port: ForwardedPort, home: int) -> None:
    """Connect to the host and copy both ways; a reset of one connection, or a refusal by the host, resets the other."""
    ends = [client]
    try:
        server = await _connect(port, home)
        ends.append(server)
        for sock in ends:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(client, server))
            group.create_task(_copy(server, client))
    except* OSError:
        for sock in ends:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    finally:
        for sock in ends:
            sock.close()


async def _connect(port: ForwardedPort, home: int) -> socket.socket:
    """Connect to the first address that accepts. OSError when none does."""
    failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for address in port.addresses:
        try:
            sock = _socket_to(port, address, socket.SOCK_STREAM, home)
        except OSError as error:  # no such family on that host, or no descriptor left
            failure = error
            continue
        try:
            await asyncio.get_running_loop().sock_connect(sock, (address, port.inner))
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


async def _copy(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, BUFFER_BYTES):
        await loop.sock_sendall(sink, data)
        await asyncio.sleep(0)
    sink.shutdown(socket.SHUT_WR)


class _Sessions:
    """A bound UDP socket, and a session for each peer that has sent to it lately."""

    def __init__(self, sock: socket.socket, port: ForwardedPort, home: int) -> None:
        self.sock, self.port, self.home = sock, port, home
        self.by_peer: OrderedDict[object, _Session] = OrderedDict()  # the longest silent first

    async def receive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)
            try:
                data, peer = await loop.sock_recvfrom(self.sock, DATAGRAM_BYTES)
            except OSError:
                continue  # an ICMP error for an earlier datagram
            session = self.by_peer.get(peer)
            if session is None:
                while len(self.by_peer) >= SESSIONS_MAX:
                    self.by_peer.popitem(last=False)[1].task.cancel()
                try:
                    session = self.by_peer[peer] = _Session(self, peer)
                except OSError:
                    continue  # the datagram is lost, as datagrams may be
            self.by_peer.move_to_end(peer)
            session.send(data)

    async def end_silent(self) -> None:
        while True:
            await asyncio.sleep(SESSION_IDLE_S / 4)
            before = time.monotonic() - SESSION_IDLE_S
            for peer, session in list(self.by_peer.items()):
                if session.used_at > before:
                    break
                del self.by_peer[peer]
                session.task.cancel()


class _Session:
    """The exchange of one UDP peer with the host. Its task owns the socket."""

    def __init__(self, sessions: _Sessions, peer: tuple[str | int, ...]) -> None:
        self.sessions, self.peer = sessions, peer
        self.addresses = list(sessions.port.addresses)  # the one in use first
        self.untried = 0  # addresses on which a server may still listen
        self.last = b""
        self.used_at = time.monotonic()
        self.sock = self._connected()
        self.task = asyncio.get_running_loop().create_task(self._receive())

    def _connected(self) -> socket.socket:
        """Return a socket to the first address whose family the host has. OSError when it has none."""
        port = self.sessions.port
        failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        for _ in self.addresses:
            try:
                sock = _socket_to(port, self.addresses[0], socket.SOCK_DGRAM, self.sessions.home)
                try:
                    sock.connect((self.addresses[0], port.inner))
                    return sock
                except OSError:
                    sock.close()
                    raise
            except OSError as error:
                failure = error
                self.addresses.append(self.addresses.pop(0))
        raise failure

    def send(self, data: bytes) -> None:
        self.used_at = time.monotonic()
        self.last = data
        self.untried = len(self.addresses) - 1
        with contextlib.suppress(OSError):  # a full buffer, a port without a server: lost
            self.sock.send(data)

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(0)
                try:
                    data = await loop.sock_recv(self.sock, DATAGRAM_BYTES)
                except OSError as error:
                    if error.errno == errno.ECONNREFUSED and self.untried:
                        self._try_next_address()
                    continue
                self.used_at = time.monotonic()
                self.untried = 0
                self.sessions.by_peer.move_to_end(self.peer)
                with contextlib.suppress(OSError):
                    self.sessions.sock.sendto(data, self.peer)
        except OSError:  # no address is left
            self.sessions.by_peer.pop(self.peer, None)
        finally:
            self.sock.close()

    def _try_next_address(self) -> None:
        """Send the last datagram to the next address: no server listens on this one. OSError."""
        self.untried -= 1
        self.sock.close()
        self.addresses.append(self.addresses.pop(0))
        self.sock = self._connected()
        with contextlib.suppress(OSError):
            self.sock.send(self.last)
