"""The keeper's clients and timers: its poll loop.

No client can make the keeper wait, run short or end. Everything is non-blocking and bounded: the descriptors and bytes
of a request, the unanswered requests of a client, the buffered bytes of all clients together, and how long half a
request or a reply may stay. A request that cannot be read is answered with an error; a client that breaks the framing
is disconnected.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import json.decoder  # noqa: F401  # its error, which the scanner of labctl.lab.frames would import in the lab
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING

from labctl.errors import KernelError, LabError, LabGone
from labctl.lab.frames import CREDENTIALS, HEADER, ancillary_data, received_descriptors
from labctl.lab.protocol import MAX_REQUEST_BYTES, Failed, Frame, Malformed, Message, Request, decode, encode
from labctl.structs import Struct

if TYPE_CHECKING:
    import _socket

MAX_DESCRIPTORS = 250  # of a request (SCM_MAX_FD is 253): sockets of `expose` and access to the machine of `Reconcile`
MAX_BUFFERED_BYTES = 128 << 20  # of all clients: incomplete requests and replies that were not yet read
MAX_UNANSWERED = 16  # requests of one client that wait for something (`StopProcess`, `BeginTransaction`)
MAX_CLIENTS = 1000
FIRST_REQUEST = 1  # the number of a client's first request
STALLED_S = 60.0  # after which half a request, or a reply that is not read, ends the connection
ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
CHUNK_BYTES = 1 << 20


class Timer(Struct):
    """An action that is due at some time; None when it was cancelled."""

    action: Callable[[], None] | None

    def cancel(self) -> None:
        """Do not run the action. Idempotent."""
        self.action = None

    def run_now(self) -> None:
        """Run the action unless it ran or was cancelled, and never again."""
        action, self.action = self.action, None
        if action is not None:
            action()


class Timers:
    """The timers of one thread, by CLOCK_MONOTONIC, which no change of the clock moves."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()

    def after(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Run the action once, after a delay."""
        timer = Timer(action)
        heapq.heappush(self._heap, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def wait_ms(self) -> int | None:
        """Return the time until the next timer is due, rounded up; None when there is none."""
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
        return _ms_until(self._heap[0][0]) if self._heap else None

    def run(self) -> None:
        """Run the actions that are due."""
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2].run_now()


def _ms_until(moment: float) -> int:
    return max(0, int((moment - time.monotonic()) * 1000) + 1)


class Client:
    """The keeper's end of one connection. It owns the socket, and the descriptors of incomplete frames."""

    def __init__(self, sock: _socket.socket, *, is_admitted: bool = False) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._header = bytearray()
        self._body = bytearray()
        self._descriptors: list[int] = []
        self._truncated = False
        self._replies: list[_PendingReply] = []
        self._unanswered = 0
        self._progress_at = time.monotonic()  # of the last byte of an incomplete frame
        self._is_owner = is_admitted  # the owner may be stopped for any time
        self.is_closed = False
        self.is_admitted = is_admitted  # the keeper answers other requests than Hello

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def events(self) -> int:
        """The events to poll for; poll(2) always reports POLLHUP."""
        if self._replies:
            return select.POLLOUT
        return select.POLLIN if self._unanswered < MAX_UNANSWERED else 0

    @property
    def buffered_bytes(self) -> int:
        """The size of its incomplete request and of its unread replies."""
        return len(self._body) + sum(len(reply.data) for reply in self._replies)

    @property
    def stalls_at(self) -> float | None:
        """The time (CLOCK_MONOTONIC) when its incomplete frame or handshake has stalled; None without one."""
        is_incomplete = self._descriptors or self._header or self._body or self._replies or not self.is_admitted
        return self._progress_at + STALLED_S if is_incomplete and not self._is_owner else None

    def read(self) -> Frame | None:
        """Return a complete request, else None. LabGone when the client disconnected or breaks the framing."""
        if not self.events & select.POLLIN:
            raise LabGone("client: it disconnected before it read its replies.")
        try:
            return self._read()
        except BlockingIOError:
            return None
        except OSError as error:
            raise LabGone("client: the connection failed.") from error

    def _read(self) -> Frame | None:
        if len(self._header) < HEADER.size:
            part, control, flags, _ = self._socket.recvmsg(
                HEADER.size - len(self._header), ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
            self._descriptors += received_descriptors(control)
            self._truncated |= bool(flags & socket.MSG_CTRUNC)
            if not part:
                raise LabGone("client: it closed the connection.")
            self._progress_at = time.monotonic()
            self._header += part
            if len(self._descriptors) > MAX_DESCRIPTORS:
                raise LabGone(f"client: {len(self._descriptors)} descriptors with one request.")
            if len(self._header) < HEADER.size:
                return None
        length, number, count = HEADER.unpack(self._header)
        if length > MAX_REQUEST_BYTES or count > MAX_DESCRIPTORS:
            raise LabGone(f"client: a request of {length} bytes and {count} descriptors.")
        if count != len(self._descriptors) and not self._truncated:
            raise LabGone(f"client: {len(self._descriptors)} descriptors where the header announced {count}.")
        while len(self._body) < length:
            part = self._socket.recv(min(length - len(self._body), CHUNK_BYTES))
            if not part:
                raise LabGone("client: it closed the connection inside a message.")
            self._progress_at = time.monotonic()
            self._body += part
            if len(part) == CHUNK_BYTES:
                break  # let the keeper serve other clients
        return self._complete_request(number) if len(self._body) == length else None

    def _complete_request(self, number: int) -> Frame | None:
        body, descriptors, truncated = bytes(self._body), tuple(self._descriptors), self._truncated
        self._header.clear()
        self._body.clear()
        self._descriptors, self._truncated = [], False
        self._unanswered += 1
        try:
            if truncated:
                raise KernelError("lab", "receive a descriptor", errno.EMFILE, hint="See `ulimit -n`.")
            return Frame(number, decode(body, Request), descriptors)
        except (KernelError, Malformed) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            self.send(number, Failed.of(error))
            return None

    def send(self, number: int, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a reply, now or when the client reads it; takes over the descriptors, also after `close`."""
        reply = _PendingReply(memoryview(b""), list(descriptors))
        self._unanswered -= 1
        if self.is_closed:
            reply.close()
            return
        body = encode(message)
        reply.data = memoryview(HEADER.pack(len(body), number, len(descriptors)) + body)
        self._progress_at = time.monotonic()
        self._replies.append(reply)
        self.flush()

    def flush(self) -> None:
        """Send as much of the replies as the socket takes."""
        try:
            while self._replies:
                self._replies[0].send(self._socket)
                self._progress_at = time.monotonic()
                if not self._replies[0].data:
                    self._replies.pop(0).close()
        except BlockingIOError:
            return
        except OSError:  # EPIPE, ECONNRESET: the next read reports the disconnect
            self._drop_replies()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self.is_closed = True
        self._drop_replies()
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)
        self._socket.close()

    def _drop_replies(self) -> None:
        replies, self._replies = self._replies, []
        for reply in replies:
            reply.close()


class _PendingReply(Struct):
    """A reply that was not sent completely; owns its descriptors."""

    data: memoryview
    descriptors: list[int]

    def send(self, sock: _socket.socket) -> None:
        flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
        sent = sock.sendmsg([self.data], ancillary_data(self.descriptors), flags)
        self.data = self.data[sent:]
        self.close()  # the descriptors travel with the first byte

    def close(self) -> None:
        descriptors, self.descriptors = self.descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)


class Events(Struct, frozen=True):
    """The result of `Connections.wait`."""

    ready: frozenset[int]  # watched descriptors
    requests: tuple[tuple[Client, Frame], ...]
    disconnected: tuple[Client, ...]  # closed


class Connections:
    """The clients of a keeper: its first one, and those that connect to the listening socket, if there is one."""

    def __init__(self, listener: socket.socket | None = None) -> None:
        self.listener = listener
        self.clients: dict[int, Client] = {}  # by descriptor
        self._poller = select.poll()
        self._is_listening = False

    def watch(self, descriptor: int) -> None:
        """Report in `Events.ready` when this descriptor is readable, or hung up."""
        self._poller.register(descriptor, select.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Undo `watch`."""
        self._poller.unregister(descriptor)

    def add(self, sock: _socket.socket, *, is_admitted: bool = False) -> Client:
        """Add a client on this socket, which the client owns."""
        client = Client(sock, is_admitted=is_admitted)
        self.clients[client.fileno()] = client
        self._poller.register(client.fileno(), client.events)
        return client

    def listen(self) -> None:
        """Accept clients from the listening socket from here on."""
        if self.listener is not None and not self._is_listening:
            self._poller.register(self.listener.fileno(), select.POLLIN)
            self._is_listening = True

    def wait(self, timeout_ms: int | None) -> Events:
        """Wait for events, `timeout_ms` at most; returns at most one request of each client."""
        disconnected = self._drop_stalled()
        stall_times: list[float] = []
        for descriptor, client in self.clients.items():
            self._poller.modify(descriptor, client.events)
            if (stalls_at := client.stalls_at) is not None:
                stall_times.append(stalls_at)
        if disconnected:
            timeout_ms = 0
        elif stall_times:
            left_ms = _ms_until(min(stall_times))
            timeout_ms = left_ms if timeout_ms is None else min(timeout_ms, left_ms)
        ready: set[int] = set()
        requests: list[tuple[Client, Frame]] = []
        for descriptor, event in self._poller.poll(timeout_ms):
            if descriptor not in self.clients:
                if self.listener is not None and descriptor == self.listener.fileno():
                    self._accept(self.listener)
                else:
                    ready.add(descriptor)
                continue
            client = self.clients[descriptor]
            if event & select.POLLOUT:
                client.flush()
            try:
                if event & ~select.POLLOUT and (frame := client.read()):
                    requests.append((client, frame))
            except LabGone:
                self.drop(client)
                disconnected.append(client)
        while sum(client.buffered_bytes for client in self.clients.values()) > MAX_BUFFERED_BYTES:
            disconnected.append(max(self.clients.values(), key=lambda client: client.buffered_bytes))
            self.drop(disconnected[-1])
        return Events(frozenset(ready), tuple(requests), tuple(disconnected))

    def _drop_stalled(self) -> list[Client]:
        now = time.monotonic()
        stalled = [client for client in self.clients.values() if (at := client.stalls_at) is not None and at <= now]
        for client in stalled:
            self.drop(client)
        return stalled

    def drop(self, client: Client) -> None:
        """Disconnect a client."""
        descriptor = client.fileno()
        self._poller.unregister(descriptor)
        del self.clients[descriptor]
        client.close()
        self.listen()  # in case `_accept` ran out of descriptors

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._poller.unregister(listener.fileno())  # until a client disconnects, else poll returns at once
                self._is_listening = False
            return
        if not may_connect(sock):
            sock.close()
            return
        strangers = [client for client in self.clients.values() if not client.is_admitted]
        client = self.add(sock)
        if len(self.clients) <= MAX_CLIENTS:
            return
        if strangers:
            self.drop(strangers[0])  # the oldest without a handshake, for which nothing has been done
            return
        refusal = f"lab: cannot serve this client: {MAX_CLIENTS} others are connected. Try again when some have ended."
        client.send(FIRST_REQUEST, Failed.of(LabError(refusal)))
        self.drop(client)


def may_connect(sock: socket.socket) -> bool:
    """Whether the peer is the lab's owner, outside the lab.

    SO_PEERCRED holds the peer's credentials at connect(2), seen through this process's user and PID namespaces: the
    owner has this process's uid, another user 65534; a process of the lab has a pid, a process outside has 0.
    """
    with contextlib.suppress(OSError):
        pid, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        return bool(uid == os.geteuid() and pid == 0)
    return False
