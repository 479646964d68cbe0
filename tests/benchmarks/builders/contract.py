"""What the benchmarks ask of a program that builds networks: requests and answers, one a line.

`build SHAPE SIZE` builds a network, `exchange` sends a datagram from its first host to its last and back, `close` ends
it, and `reclaim` waits until the kernel has freed its namespaces. Each is answered with a JSON object: how many
`seconds` it took, or an `error`. The first answer follows the start, with the time of the imports.

Builders run with other interpreters and packages than labctl, so this module has only the standard library. They run
in user and PID namespaces of their own (container.py).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

PORT = 7000
RESEND_S = 0.05
TIMEOUT_S = 60.0
CLONE_NEWNET = 0x40000000
_LIMIT = "/proc/sys/user/max_net_namespaces"
_libc = ctypes.CDLL(None, use_errno=True)

OpenSocket = Callable[[int, int], socket.socket]  # (family, type) of socket(2), on some host


class Builder(Protocol):
    """One way to build networks. An error is an exception; the program ends with it."""

    def build(self, shape: str, size: int) -> None:
        """Build a network: `pair` (2 hosts, one link) or `star` (`size` hosts on a bridge)."""

    def ends(self) -> tuple[OpenSocket, OpenSocket, str]:
        """Return how to open a socket on the first and on the last host, and the last one's IPv4 address."""

    def close(self) -> None:
        """Remove the network."""


def address(number: int) -> str:
    """The IPv4 address of host `number`, from 1."""
    return f"10.0.{number >> 8}.{number & 255}"


def serve(builder: Builder) -> None:
    """Answer requests until standard input ends. What packages print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps({"seconds": 0}), file=answers)
    for line in sys.stdin:
        word, *arguments = line.split()
        began = time.perf_counter()
        try:
            if word == "build":
                builder.build(arguments[0], int(arguments[1]))
            elif word == "exchange":
                exchange(*builder.ends())
            elif word == "close":
                builder.close()
            elif word == "reclaim":
                reclaim()
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)
            raise
        print(json.dumps({"seconds": time.perf_counter() - began}), file=answers)


def exchange(first: OpenSocket, last: OpenSocket, to: str) -> None:
    """Send a datagram from the first host to the last and back; TimeoutError after a minute of attempts."""
    with (
        last(socket.AF_INET, socket.SOCK_DGRAM) as server,
        first(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("0.0.0.0", PORT))
        for sock in (server, client):
            sock.settimeout(RESEND_S)
        until = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until:
            client.sendto(b"x", (to, PORT))
            try:
                _, sender = server.recvfrom(1)
                server.sendto(b"y", sender)
                client.recv(1)
            except TimeoutError:
                continue
            return
    raise TimeoutError("no datagram crossed the network from the first host to the last and back")


def in_namespace(path: str) -> OpenSocket:
    """Return a function that opens sockets in the network namespace at `path`."""

    def open_socket(family: int, type: int) -> socket.socket:
        with entered(path):
            return socket.socket(family, type)

    return open_socket


@contextmanager
def entered(path: str) -> Iterator[None]:
    """Be in the network namespace at `path` with the calling thread."""
    with _home():
        namespace = os.open(path, os.O_RDONLY)
        try:
            _checked(_libc.setns(namespace, CLONE_NEWNET))
        finally:
            os.close(namespace)
        yield


@contextmanager
def _home() -> Iterator[None]:
    """Return to the present network namespace at the end."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        _checked(_libc.setns(home, CLONE_NEWNET))
        os.close(home)


def reclaim() -> None:
    """Return when this user namespace has no network namespace but the present one; TimeoutError after a minute.

    One more is made to find out. The kernel counts a namespace until it has freed it.
    """
    until = time.monotonic() + TIMEOUT_S
    with _home():
        _write(_LIMIT, "2")
        try:
            while _libc.unshare(CLONE_NEWNET):
                if ctypes.get_errno() != errno.ENOSPC:
                    _checked(-1)
                if time.monotonic() > until:
                    raise TimeoutError("the kernel still has network namespaces that were closed")
                time.sleep(0.0001)  # noqa: TID251 - the kernel sends no notification
        finally:
            _write(_LIMIT, str((1 << 31) - 1))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
