"""The keeper's side of its clients: many at once, none of which can make it wait, run short or end.

Everything is non-blocking and bounded: the descriptors and bytes of a request, the requests of a client that have no
reply yet, what all clients together have half sent or not yet taken, and how long half a request or a reply may stay.
A request that cannot be read is answered with an error; a client that breaks the framing is disconnected.

What the keeper is to do later: its poll loop asks how long it may wait, and runs what is due.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import errno
import heapq
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from labctl.errors import KernelError, LabError, LabGone
from labctl.lab.protocol import (
    HEADER,
    MAX_REQUEST_BYTES,
    Failed,
    Frame,
    Malformed,
    Message,
    Request,
    decode,
    descriptors_in,
    encode,
)
from labctl.structs import Struct, field


@dataclass(order=True, slots=True)
class Timer:
    """Something to do at `due` (CLOCK_MONOTONIC, which no change of the clock moves)."""

    due: float
    order: int
    action: Callable[[], None] | None = dataclasses.field(compare=False)

    def cancel(self) -> None:
        """Not to be done any more."""
        self.action = None


class Timers:
    """Timers of one thread."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._orders = count()

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Do it once, when `seconds` have passed."""
        timer = Timer(time.monotonic() + seconds, next(self._orders), action)
        heapq.heappush(self._heap, timer)
        return timer

    def wait_ms(self) -> int | None:
        """How long to wait for the next one, rounded up; None when there is none."""
        while self._heap and self._heap[0].action is None:
            heapq.heappop(self._heap)
        if not self._heap:
            return None
        return max(0, int((self._heap[0].due - time.monotonic()) * 1000) + 1)

    def run(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        while self._heap and self._heap[0].due <= now:
            timer = heapq.heappop(self._heap)
            if timer.action is not None:
                timer.action()


CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)
MAX_DESCRIPTORS = 3  # of a request: stdin, stdout and stderr of `Spawn`
MAX_BUFFERED_BYTES = 128 << 20  # of all clients: what has come of requests, what has not been taken of replies
MAX_UNANSWERED = 16  # requests of one client that wait for something (`StopProcess`, `BeginChange`)
MAX_CLIENTS = 1000
FIRST_REQUEST = 1  # the number that clients begin with
STALLED_S = 60.0  # after which half a request, or a reply that is not taken, ends the connection
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
        self._unanswered = 0
        self._moved_at = time.monotonic()  # of the last byte of what is under way
        self._is_owner = is_admitted  # which may be stopped as long as it likes
        self.is_gone = False
        self.is_admitted = is_admitted  # other requests than Hello are answered

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def events(self) -> int:
        """What to poll for; POLLHUP comes unasked."""
        if self._outgoing:
            return select.POLLOUT
        return select.POLLIN if self._unanswered < MAX_UNANSWERED else 0

    @property
    def buffered_bytes(self) -> int:
        """What it has half sent and not yet taken."""
        return len(self._body) + sum(len(each.data) for each in self._outgoing)

    @property
    def stalls_at(self) -> float | None:
        """When (CLOCK_MONOTONIC) what is under way has stalled; None when nothing is. `Hello` is under way at first."""
        is_under_way = self._descriptors or self._header or self._body or self._outgoing or not self.is_admitted
        return self._moved_at + STALLED_S if is_under_way and not self._is_owner else None

    def read(self) -> Frame | None:
        """A request that has come whole, else None. LabGone when the client has gone or breaks the framing."""
        if not self.events & select.POLLIN:
            raise LabGone("client: it hung up before it took its replies.")
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
            self._moved_at = time.monotonic()
            self._header += part
            if len(self._descriptors) > MAX_DESCRIPTORS:
                raise LabGone(f"client: {len(self._descriptors)} descriptors with one request.")
            if len(self._header) < HEADER.size:
                return None
        length, number, count = HEADER.unpack(self._header)
        if length > MAX_REQUEST_BYTES or count > MAX_DESCRIPTORS:
            raise LabGone(f"client: a request of {length} bytes and {count} descriptors.")
        if count != len(self._descriptors) and not self._truncated:
            raise LabGone(f"client: {len(self._descriptors)} descriptors where {count} were announced.")
        while len(self._body) < length:
            part = self._socket.recv(min(length - len(self._body), CHUNK))
            if not part:
                raise LabGone("client: it stopped inside a message.")
            self._moved_at = time.monotonic()
            self._body += part
            if len(part) == CHUNK:
                break  # the others' turn
        return self._taken(number) if len(self._body) == length else None

    def _taken(self, number: int) -> Frame | None:
        body, descriptors, truncated = bytes(self._body), tuple(self._descriptors), self._truncated
        self._header.clear()
        self._body.clear()
        self._descriptors, self._truncated = [], False
        self._unanswered += 1
        try:
            if truncated:
                raise KernelError("lab", "take over a descriptor", errno.EMFILE, hint="See `ulimit -n`.")
            return Frame(number, decode(body, Request), descriptors)
        except (KernelError, Malformed) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            self.send(number, Failed.of(error))
            return None

    def send(self, number: int, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Reply, now or as soon as the client takes it, if it is still there; the descriptors are taken over."""
        outgoing = _Outgoing(memoryview(b""), list(descriptors))
        self._unanswered -= 1
        if self.is_gone:
            outgoing.close()
            return
        body = encode(message)
        outgoing.data = memoryview(HEADER.pack(len(body), number, len(descriptors)) + body)
        self._moved_at = time.monotonic()
        self._outgoing.append(outgoing)
        self.flush()

    def flush(self) -> None:
        """Send what the client takes."""
        try:
            while self._outgoing:
                self._outgoing[0].send(self._socket)
                self._moved_at = time.monotonic()
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


class _Outgoing(Struct):
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


class Events(Struct, frozen=True):
    """What `Front.wait` saw."""

    others: frozenset[int]  # watched descriptors that are ready
    requests: tuple[tuple[Client, Frame], ...]
    gone: tuple[Client, ...]  # closed


class Front(Struct):
    """The clients of a keeper: its first one, and whoever connects to the listening socket, if there is one."""

    listener: socket.socket | None = None
    clients: dict[int, Client] = field(default_factory=dict)
    _poller: select.poll = field(default_factory=select.poll)
    _listens: bool = False

    def watch(self, descriptor: int) -> None:
        """`Events.others` tells when this descriptor is ready for reading, or hung up."""
        self._poller.register(descriptor, select.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Undo `watch`."""
        self._poller.unregister(descriptor)

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
        """Wait until something is to be done, `timeout_ms` at most; at most one request a client."""
        gone = self._stalled()
        for descriptor, client in self.clients.items():
            self._poller.modify(descriptor, client.events)
        others: set[int] = set()
        requests: list[tuple[Client, Frame]] = []
        for descriptor, event in self._poller.poll(0 if gone else self._until_stalled_ms(timeout_ms)):
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
        gone += self._too_much()
        return Events(frozenset(others), tuple(requests), tuple(gone))

    def _until_stalled_ms(self, timeout_ms: int | None) -> int | None:
        """`timeout_ms`, or the time until the first client has stalled."""
        stalls = [at for client in self.clients.values() if (at := client.stalls_at) is not None]
        if not stalls:
            return timeout_ms
        left_ms = max(0, int((min(stalls) - time.monotonic()) * 1000) + 1)
        return left_ms if timeout_ms is None else min(timeout_ms, left_ms)

    def _too_much(self) -> list[Client]:
        """The clients whose requests and replies are too much for all together, which are dropped: the largest ones."""
        gone: list[Client] = []
        while sum(client.buffered_bytes for client in self.clients.values()) > MAX_BUFFERED_BYTES:
            gone.append(max(self.clients.values(), key=lambda client: client.buffered_bytes))
            self.drop(gone[-1])
        return gone

    def _stalled(self) -> list[Client]:
        """The clients that have stalled, which are dropped."""
        now = time.monotonic()
        gone = [client for client in self.clients.values() if (at := client.stalls_at) is not None and at <= now]
        for client in gone:
            self.drop(client)
        return gone

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
        if not may_use(sock):
            sock.close()
            return
        strangers = [client for client in self.clients.values() if not client.is_admitted]
        client = self.add(sock)
        if len(self.clients) <= MAX_CLIENTS:
            return
        if strangers:
            self.drop(strangers[0])  # the oldest of those that have not said Hello, for which nothing has been done
            return
        refusal = f"lab: {MAX_CLIENTS} clients are connected to it. Try again when some of them have ended."
        client.send(FIRST_REQUEST, Failed.of(LabError(refusal)))
        self.drop(client)


def may_use(sock: socket.socket) -> bool:
    """Whether the peer is the lab's owner, outside the lab.

    SO_PEERCRED tells what the peer was as it connected, seen through this process's user and PID namespaces: the owner
    is who this process is, another user 65534; a process of the lab has a number, whoever is outside has 0.
    """
    with contextlib.suppress(OSError):
        pid, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        return bool(uid == os.geteuid() and pid == 0)
    return False
