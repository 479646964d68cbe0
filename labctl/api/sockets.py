"""Sockets and files of this process that live on a host. What the kernel refuses is the OSError that Python has."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl.api.journal import ActivityKind
from labctl.errors import KernelError

if TYPE_CHECKING:
    from labctl.api.core import Core


def make(core: Core, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
    """An ordinary socket that lives on the node; the caller owns it. OSError as of socket(2)."""
    core.check_open(f"make a socket on {node}")
    try:
        made = core.engine.socket(node, family, type, proto)
    except KernelError as error:
        raise os_error(error) from error
    timeout = socket.getdefaulttimeout()
    if type & socket.SOCK_NONBLOCK:
        made.setblocking(False)
    elif timeout is not None:
        made.settimeout(timeout)
    return made


def make_descriptor(core: Core, node: str, family: int, type: int, proto: int) -> int:
    """As `make`, for who makes the Python socket of it."""
    core.check_open(f"make a socket on {node}")
    try:
        return core.engine.socket(node, family, type, proto).detach()
    except KernelError as error:
        raise os_error(error) from error


def listen(core: Core, node: str, port: int, address: str | None, family: int, backlog: int) -> socket.socket:
    """See `Host.listen`."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        other = f"socket({family_name(family)})"
        raise ValueError(f"host {node}: listen() is for AF_INET and AF_INET6; of another family, make a {other}")
    shown = address_text((address or "*", port))
    with core.journal.noting(node, ActivityKind.LISTEN, shown) as entry:
        wildcard = "::" if family == socket.AF_INET6 else "0.0.0.0"
        local = wildcard if address is None else str(core.addresses_on(node, address, family)[0])
        sock = make(core, node, family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((local, port))
            sock.listen(backlog)
        except OSError as error:
            sock.close()
            raise told(error, f"host {node}: cannot listen on {shown}") from error
        except BaseException:
            sock.close()
            raise
        entry.end(f"listening on {address_text(sock.getsockname())}")
    return sock


def connect(
    core: Core, node: str, to: str | tuple[str, int], timeout_s: float | None, family: int | None
) -> socket.socket:
    """See `Host.connect`."""
    host, port = target(to)
    shown = address_text((host, port))
    with core.journal.noting(node, ActivityKind.CONNECT, shown) as entry:
        failure: OSError | None = None
        for address in core.addresses_on(node, host, family):
            kind = socket.AF_INET6 if address.version == 6 else socket.AF_INET
            sock = make(core, node, kind, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout_s)
                sock.connect((str(address), port))
            except OSError as error:
                sock.close()
                failure = told(
                    error, f"host {node}: cannot connect to {shown}{'' if host == str(address) else f' ({address})'}"
                )
                failure.__cause__ = error
                continue
            except BaseException:
                sock.close()
                raise
            entry.end(connected(sock))
            return sock
        assert failure is not None  # there was at least one address
        raise failure


def connected(sock: socket.socket) -> str:
    """Between which addresses a connection is."""
    return f"connected from {address_text(sock.getsockname())} to {address_text(sock.getpeername())}"


def open_file(core: Core, node: str, path: str, flags: int) -> int:
    """A descriptor of a file on the node; the caller owns it. OSError as of open(2)."""
    core.check_open(f"open {path} on {node}")
    try:
        return core.engine.open_file(node, path, flags)
    except KernelError as error:
        raise os_error(error) from error


def target(to: str | tuple[str, int]) -> tuple[str, int]:
    """The two halves of `server:5000`. ValueError, TypeError."""
    from labctl.topology.endpoints import parse_endpoint

    if isinstance(to, tuple):
        host, port = to
        return str(host), int(port)
    if not isinstance(to, str):
        raise TypeError(f'{to!r}: connect to "server:5000" or ("server", 5000)')
    parsed = parse_endpoint(to)
    if parsed.host is None or parsed.port is None:
        raise ValueError(f'{to!r} does not say where to: write "server:5000", "10.0.0.2:80" or "[fd00::2]:80"')
    return parsed.host, parsed.port


def told(error: OSError, what: str) -> OSError:
    """The same error, of the same class, saying what was tried."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return TimeoutError(f"{what}: no answer in time")
    return OSError(error.errno, f"{what}: {os.strerror(error.errno or 0)}")


def os_error(error: KernelError) -> OSError:
    """What the kernel refused on a node, as the OSError of that errno (FileNotFoundError, ...)."""
    return OSError(error.errno, str(error))


def address_text(address: Sequence[object]) -> str:
    """`10.0.0.1:80`, `[fd00::1]:80`."""
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def family_name(family: int) -> str:
    """`AF_INET`."""
    try:
        return socket.AddressFamily(family).name
    except ValueError:
        return str(family)


def type_name(type: int) -> str:
    """`SOCK_STREAM`."""
    plain = type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        return socket.SocketKind(plain).name
    except ValueError:
        return str(type)
