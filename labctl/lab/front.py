"""The keeper's side of its clients: many at once, none of which can make it wait for them.

Everything is non-blocking. A client that has not taken its reply is not read from until it has, so that at most one
reply a client is held; one that is half-way through a request is read further when more has come.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from labctl.errors import KernelError, LabGone
from labctl.lab.protocol import (
    HEADER,
    MAX_BODY,
    MAX_DESCRIPTORS,
    Failed,
    Frame,
    Message,
    decode,
    descriptors_in,
    encode,
)

CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)
ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
CHUNK = 1 << 20


class Client:
    """One connection, from the keeper's side. It owns the socket, and descriptors on their way in or out."""

    def __init__(self, sock: socket.socket, *, is_admitted: bool = False) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._header = bytearray()
        self._body = bytearray()
        self._descriptors: list[int] = []
        self._truncated = False
        self._outgoing: list[_Outgoing] = []
        self.is_gone = False
        self.is_admitted = is_admitted  # other requests than Hello are answered

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def events(self) -> int:
        """What to poll for."""
        return select.POLLOUT if self._outgoing else select.POLLIN

    def read(self) -> Frame | None:
        """A request that has come whole, else None. LabGone when the client has gone or sends garbage."""
        try:
            return self._read()
        except BlockingIOError:
            return None
        except OSError as error:
            raise LabGone("client: the connection broke.") from error

    def _read(self) -> Frame | None:
        if len(self._header) < HEADER.size:
            part, control, flags, _ = self._socket.recvmsg(
                HEADER.size - len(self._header), ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
            self._descriptors += descriptors_in(control)
            self._truncated |= bool(flags & socket.MSG_CTRUNC)
            if not part:
                raise LabGone("client: it closed the connection.")
            self._header += part
            if len(self._header) < HEADER.size:
                return None
        length, number, count = HEADER.unpack(self._header)
        if length > MAX_BODY or (count != len(self._descriptors) and not self._truncated):
            raise LabGone(f"client: a garbled message ({length} bytes, {len(self._descriptors)} descriptors).")
        while len(self._body) < length:
            part = self._socket.recv(min(length - len(self._body), CHUNK))
            if not part:
                raise LabGone("client: it stopped inside a message.")
            self._body += part
        return self._taken(number)

    def _taken(self, number: int) -> Frame | None:
        body, descriptors, truncated = bytes(self._body), tuple(self._descriptors), self._truncated
        self._header.clear()
        self._body.clear()
        self._descriptors, self._truncated = [], False
        if truncated:
            for descriptor in descriptors:
                os.close(descriptor)
            refusal = KernelError("lab", "take over a descriptor", errno.EMFILE, hint="See `ulimit -n`.")
            self.send(number, Failed.of(refusal))
            return None
        try:
            return Frame(number, decode(body), descriptors)
        except (KeyError, TypeError, ValueError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            raise LabGone("client: what it sent is no message.") from error

    def send(self, number: int, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Reply, now or as soon as the client takes it, if it is still there; the descriptors are taken over."""
        body = encode(message)
        data = HEADER.pack(len(body), number, len(descriptors)) + body
        outgoing = _Outgoing(memoryview(data), list(descriptors))
        if self.is_gone:
            outgoing.close()
            return
        self._outgoing.append(outgoing)
        self.flush()

    def flush(self) -> None:
        """Send what the client takes."""
        try:
            while self._outgoing:
                self._outgoing[0].send(self._socket)
                if not self._outgoing[0].data:
                    self._outgoing.pop(0).close()
        except BlockingIOError:
            return
        except OSError:  # EPIPE, ECONNRESET: that it has gone is seen when it is read from
            self._drop_outgoing()

    def close(self) -> None:
        """Let go of the client. Idempotent."""
        self.is_gone = True
        self._drop_outgoing()
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)
        self._socket.close()

    def _drop_outgoing(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        for each in outgoing:
            each.close()


@dataclass(slots=True)
class _Outgoing:
    """A reply that has not been sent to its end; owns the descriptors that go with it."""

    data: memoryview
    descriptors: list[int]

    def send(self, sock: socket.socket) -> None:
        control = []
        if self.descriptors:
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self.descriptors))]
        sent = sock.sendmsg([self.data], control, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        self.data = self.data[sent:]
        self.close()  # they travel with the first byte

    def close(self) -> None:
        descriptors, self.descriptors = self.descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Events:
    """What `Front.wait` saw."""

    others: frozenset[int]  # watched descriptors that are ready
    requests: tuple[tuple[Client, Frame], ...]
    gone: tuple[Client, ...]  # closed


@dataclass(slots=True)
class Front:
    """The clients of a keeper: its first one, and whoever connects to the listening socket, if there is one."""

    listener: socket.socket | None = None
    clients: dict[int, Client] = field(default_factory=dict)
    _poller: select.poll = field(default_factory=select.poll)
    _listens: bool = False

    def watch(self, descriptor: int) -> None:
        """`Events.others` tells when this descriptor is ready for reading, or hung up."""
        self._poller.register(descriptor, select.POLLIN)

    def add(self, sock: socket.socket, *, is_admitted: bool = False) -> Client:
        """A client on this socket, which is taken over."""
        client = Client(sock, is_admitted=is_admitted)
        self.clients[client.fileno()] = client
        self._poller.register(client.fileno(), client.events)
        return client

    def listen(self) -> None:
        """Take clients from the listening socket, from here on."""
        if self.listener is not None and not self._listens:
            self._poller.register(self.listener.fileno(), select.POLLIN)
            self._listens = True

    def wait(self, timeout_ms: int | None) -> Events:
        """Wait until something is to be done; at most one request a client."""
        for descriptor, client in self.clients.items():
            self._poller.modify(descriptor, client.events)
        others: set[int] = set()
        requests: list[tuple[Client, Frame]] = []
        gone: list[Client] = []
        for descriptor, event in self._poller.poll(timeout_ms):
            if descriptor not in self.clients:
                if self.listener is not None and descriptor == self.listener.fileno():
                    self._accept()
                else:
                    others.add(descriptor)
                continue
            client = self.clients[descriptor]
            if event & select.POLLOUT:
                client.flush()
            try:
                if event & ~select.POLLOUT and (frame := client.read()):
                    requests.append((client, frame))
            except LabGone:
                self.drop(client)
                gone.append(client)
        return Events(frozenset(others), tuple(requests), tuple(gone))

    def drop(self, client: Client) -> None:
        """Let go of a client."""
        descriptor = client.fileno()
        self._poller.unregister(descriptor)
        del self.clients[descriptor]
        client.close()
        self.listen()  # should it have been short of descriptors

    def _accept(self) -> None:
        assert self.listener is not None
        try:
            sock, _ = self.listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._poller.unregister(self.listener.fileno())  # until a client goes: else this would be asked at once
                self._listens = False
            return
        if may_use(sock):
            self.add(sock)
        else:
            sock.close()


def may_use(sock: socket.socket) -> bool:
    """Whether the peer is the lab's owner, outside the lab.

    SO_PEERCRED tells what the peer was as it connected, seen through this process's user and PID namespaces: the owner
    is who this process is, another user 65534; a process of the lab has a number, whoever is outside has 0.
    """
    with contextlib.suppress(OSError):
        pid, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        return bool(uid == os.geteuid() and pid == 0)
    return False
