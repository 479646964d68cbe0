"""A Python socket that lives on a host: names, interfaces and paths in the addresses it is given are the host's.

A socket belongs to the network namespace that it was made in, but Python resolves names, and the kernel resolves the
paths of AF_UNIX sockets, for the process that makes the call. A path is bound by a process on the host, so that the
name in the kernel is the host's, too. It is connected to by way of a descriptor of the socket's file (O_PATH), so that
the call blocks, times out and is interrupted as any other.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from labctl.errors import KernelError
from labctl.kernel import sockaddr
from labctl.names import name_key
from labctl.unpatched import Socket

if TYPE_CHECKING:
    from labctl.api.core import Core

    _Base = Socket
else:  # a process that runs on gevent blocks in the sockets of gevent only
    _Base = socket.socket if socket.socket.__module__.startswith("gevent.") else Socket

Address = IPv4Address | IPv6Address
UNIX_PATH_BYTES = 107  # sun_path with its final zero is 108: unix(7)


class Addressing:
    """What the parts of a socket address mean on one host of a lab."""

    def __init__(self, core: Core, node: str) -> None:
        self.node = node
        self._core = core

    def make(self, family: int, type: int, proto: int) -> int:
        """The descriptor of a new socket on the host, which the caller owns. OSError as of socket(2)."""
        self._core.check_open(f"make a socket on {self.node}")
        try:
            return self._core.engine.socket(self.node, family, type, proto).detach()
        except KernelError as error:
            raise os_error(error) from error

    def lookup(self, name: str, family: int = 0) -> Sequence[Address]:
        """At least one address of a name. socket.gaierror, as on a host without name servers."""
        version = {socket.AF_INET: 4, socket.AF_INET6: 6}.get(socket.AddressFamily(family)) if family else None
        known = self._core.names_of(self.node).get(name_key(name.rstrip(".")), ())
        found = [address for address in known if version in (None, address.version)]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"host {self.node} knows no address of {name!r}")
        return found

    def names(self, address: Address) -> list[str]:
        """The names that the host's /etc/hosts has for an address, none for one that is not there."""
        plain = address.ipv4_mapped or IPv6Address(address.packed) if isinstance(address, IPv6Address) else address
        for written, names in self._core.names_as_written(self.node):
            if ip_address(written) == plain:
                return names.split()
        return []

    def interfaces(self) -> list[tuple[int, str]]:
        """Index and name of each interface of the host."""
        from labctl.observe.network import links

        return [(link.index, link.name) for link in links(self._core.engine, self.node)]

    def interface_index(self, name: str) -> int:
        """The index of an interface of the host, by its name or its index as text. OSError: ENODEV."""
        with Socket(fileno=self.make(socket.AF_INET, socket.SOCK_DGRAM, 0)) as sock:
            return sockaddr.scope_id(sock, name)

    def interface_name(self, index: int) -> str:
        """The name of the host's interface of that index. OSError: ENODEV."""
        with Socket(fileno=self.make(socket.AF_INET, socket.SOCK_DGRAM, 0)) as sock:
            return sockaddr.interface_name(sock, index)

    def scope_id(self, scope: str, sock: socket.socket) -> int:
        """The number of an interface that is written behind `%`. OSError, with the names that there are."""
        try:
            return sockaddr.scope_id(sock, scope)
        except OSError as error:
            known = ", ".join(name for _, name in self.interfaces())
            raise OSError(error.errno, f"host {self.node}: has no interface {scope}; it has {known}") from error

    def call(self, name: str, method: Callable[..., Any], sock: socket.socket, *arguments: Any) -> Any:
        """Call the method `name` of a socket, whose last argument is an address."""
        *others, address = arguments
        path = unix_path(sock.family, address)
        if path is None:
            return method(sock, *others, self.inet_address(sock, address))
        try:
            if name == "bind":
                self._bind(sock, path)
                return None
            with self._opened(path) as there:
                return method(sock, *others, there)
        except OSError as error:
            if name == "connect_ex" and error.errno:
                return error.errno
            raise

    def address_of(self, sock: socket.socket, address: Address, port: int) -> tuple[Any, ...]:
        """What bind() and connect() take for an address and a port: with the number of its scope. OSError."""
        found: tuple[Any, ...] = self.inet_address(sock, (str(address), port))
        return found

    def inet_address(self, sock: socket.socket, address: Any) -> Any:
        """The address with the host's address for a name, and the host's number for a scope; others as they are."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple) or len(address) < 2:
            return address
        host, *rest = address
        name = written_name(host)
        if name is not None:
            return (str(self.lookup(name, sock.family)[0]), *rest)
        if isinstance(host, str) and "%" in host:
            plain, _, scope = host.partition("%")
            port, flowinfo = (*rest, 0)[:2]
            return (plain, port, flowinfo, self.scope_id(scope, sock))
        return address

    def _bind(self, sock: socket.socket, path: str) -> None:
        self._core.check_open(f"bind a socket on {self.node}")
        if len(os.fsencode(path)) > UNIX_PATH_BYTES:
            raise OSError("AF_UNIX path too long")
        try:
            self._core.engine.bind_socket(self.node, sock.fileno(), path)
        except KernelError as error:
            raise os_error(error) from error

    @contextmanager
    def _opened(self, path: str) -> Iterator[str]:
        """A path in this process that leads to the socket of that path on the host."""
        self._core.check_open(f"reach {path} on {self.node}")
        try:
            whole = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
            descriptor = self._core.engine.open_file(self.node, whole, os.O_PATH)
        except KernelError as error:
            raise OSError(error.errno, f"host {self.node}: cannot reach {path}: {os.strerror(error.errno)}") from error
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)


class HostSocket(_Base):
    """An ordinary socket of this process that lives on a host."""

    _addressing: Addressing | None = None

    @classmethod
    def on(cls, addressing: Addressing, family: int, type: int, proto: int) -> HostSocket:
        """A new socket of that host; the caller owns it. OSError as of socket(2)."""
        descriptor = addressing.make(family, type, proto)
        try:
            made = cls(family, type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC), proto, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        made._addressing = addressing
        return made

    def bind(self, address: Any, /) -> None:
        """bind(2): a path is the host's, and so are names and scopes (`fe80::1%eth0`). OSError."""
        self._call("bind", _Base.bind, address)

    def connect(self, address: Any, /) -> None:
        """connect(2): a path is the host's, and so are names and scopes. OSError."""
        self._call("connect", _Base.connect, address)

    def connect_ex(self, address: Any, /) -> int:
        """As `connect`; the errno, 0 when it is connected."""
        return int(self._call("connect_ex", _Base.connect_ex, address))

    def sendto(self, *arguments: Any) -> int:
        """sendto(2): sendto(data, address) or sendto(data, flags, address), with addresses as in `connect`."""
        if len(arguments) < 2:
            return int(_Base.sendto(self, *arguments))
        return int(self._call("sendto", _Base.sendto, *arguments))

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        """sendmsg(2), with addresses as in `connect`."""
        if address is None:
            return int(_Base.sendmsg(self, buffers, ancdata, flags))
        return int(self._call("sendmsg", _Base.sendmsg, buffers, ancdata, flags, address))

    def _call(self, name: str, method: Callable[..., Any], *arguments: Any) -> Any:
        if self._addressing is None:
            return method(self, *arguments)
        return self._addressing.call(name, method, self, *arguments)

    def _with_descriptor(self, descriptor: int) -> HostSocket:
        made = super()._with_descriptor(descriptor)
        assert isinstance(made, HostSocket)
        made._addressing = self._addressing
        return made


def unix_path(family: int, address: Any) -> str | None:
    """The path in an AF_UNIX address; None for an abstract name, for none, and for another family's address."""
    if family != socket.AF_UNIX or not isinstance(address, str | bytes | bytearray | memoryview):
        return None
    path = os.fsencode(address) if isinstance(address, str) else bytes(address)
    return os.fsdecode(path) if path and not path.startswith(b"\0") else None


def written_name(host: Any) -> str | None:
    """The name to look up; None for an address, for any address, and for what is nothing of ours."""
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii", "replace")
    if not isinstance(host, str) or host in ("", "<broadcast>"):
        return None
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return None


def os_error(error: KernelError) -> OSError:
    """What the kernel refused on a node, as the OSError of that errno (FileNotFoundError, ...)."""
    return OSError(error.errno, str(error))
