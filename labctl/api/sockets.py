"""Sockets and files of this process that live on a host. Errors of the kernel are Python's OSError.

A socket belongs to the network namespace in which it was made. But Python resolves names, and the kernel resolves paths
of AF_UNIX sockets, for the process that makes the call. So a process on the host binds a path, and the name in the
kernel is the host's; to connect to a path, this process uses a descriptor of the socket's file (O_PATH), so that the
call blocks, times out and is interrupted as usual.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from labctl.api.journal import ActivityKind
from labctl.errors import KernelError, LabctlError
from labctl.kernel import sockaddr
from labctl.topology.endpoints import IpAddress, parse_address, parse_endpoint, parse_port
from labctl.unpatched import Socket

if TYPE_CHECKING:
    from labctl.api.core import Core

    _Base = Socket
else:  # a process that runs on gevent blocks in the sockets of gevent only
    _Base = socket.socket if socket.socket.__module__.startswith("gevent.") else Socket

Address = IPv4Address | IPv6Address
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
UNIX_PATH_BYTES = 107  # sun_path with its final zero is 108: unix(7)


class Addressing:
    """The meaning of the parts of a socket address on one host of a lab."""

    def __init__(self, core: Core, node: str) -> None:
        self.node = node
        self._core = core

    def make(self, family: int, type: int, proto: int) -> int:
        """Return the descriptor of a new socket on the host. The caller owns it. OSError as of socket(2)."""
        self._core.check_open(f"make a socket on {self.node}")
        try:
            return self._core.engine.socket(self.node, family, type, proto).detach()
        except KernelError as error:
            raise OSError(error.errno, str(error)) from error

    def lookup(self, name: str, family: int = 0) -> Sequence[Address]:
        """Return at least one address of a name. socket.gaierror, as on a host without name servers."""
        version = ip_version(family)
        known = self._core.addresses_of(name.rstrip("."), self.node)
        found = [address for address in known if version in (None, address.version)]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"host {self.node} has no address for {name!r}")
        return found

    def names(self, address: Address) -> list[str]:
        """Return the names of an address in the host's /etc/hosts; none for an unknown address."""
        plain = address.ipv4_mapped or IPv6Address(address.packed) if isinstance(address, IPv6Address) else address
        for known, names in self._core.hosts_files.lines(self.node):
            if known == str(plain):
                return names.split()
        return []

    def interfaces(self) -> list[tuple[int, str]]:
        """Return index and name of each interface of the host."""
        from labctl.observe.network import links

        return [(link.index, link.name) for link in links(self._core.engine, self.node)]

    def interface_index(self, name: str) -> int:
        """Return the index of an interface of the host, given by name or by index as text. OSError: ENODEV."""
        with Socket(fileno=self.make(socket.AF_INET, socket.SOCK_DGRAM, 0)) as sock:
            return sockaddr.scope_id(sock, name)

    def interface_name(self, index: int) -> str:
        """Return the name of the host's interface with that index. OSError: ENODEV."""
        with Socket(fileno=self.make(socket.AF_INET, socket.SOCK_DGRAM, 0)) as sock:
            return sockaddr.interface_name(sock, index)

    def scope_id(self, scope: str, sock: socket.socket) -> int:
        """Return the number of the interface after `%`. OSError lists the interfaces."""
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
            with self._opened(path) as reachable_path:
                return method(sock, *others, reachable_path)
        except OSError as error:
            if name == "connect_ex" and error.errno:
                return error.errno
            raise

    def inet_address(self, sock: socket.socket, address: Any) -> Any:
        """Replace a name by the host's address and a scope by the host's number; other addresses stay."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple) or len(address) < 2:
            return address
        host, *rest = address
        name = name_to_look_up(host)
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
            raise OSError(error.errno, str(error)) from error

    @contextmanager
    def _opened(self, path: str) -> Iterator[str]:
        """Return a path in this process that leads to the socket of that path on the host."""
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


# Methods of sockets whose last argument is an address, and the position of that argument at the earliest.
ADDRESS_POSITION = {"connect": 0, "connect_ex": 0, "bind": 0, "sendto": 1, "sendmsg": 3}


def has_address(method: str, arguments: Sequence[Any]) -> bool:
    """Return whether the arguments of a method of ADDRESS_POSITION contain an address."""
    return len(arguments) > ADDRESS_POSITION[method] and arguments[-1] is not None


def _on_host(name: str) -> Any:
    """Return a method of `HostSocket` whose last argument is an address on the host."""

    def method(self: HostSocket, *arguments: Any) -> Any:
        original = getattr(_Base, name)
        if self._addressing is None or not has_address(name, arguments):
            return original(self, *arguments)
        return self._addressing.call(name, original, self, *arguments)

    method.__name__ = name
    return method


class HostSocket(_Base):
    """An ordinary socket of this process that lives on a host.

    Paths, names and scopes (`fe80::1%eth0`) of the addresses that it connects, binds and sends to are the host's.
    """

    _addressing: Addressing | None = None

    @classmethod
    def on(cls, addressing: Addressing, family: int, type: int, proto: int) -> HostSocket:
        """Return a new socket on that host. The caller owns it. OSError as of socket(2)."""
        descriptor = addressing.make(family, type, proto)
        try:
            made = cls(family, type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC), proto, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        made._addressing = addressing
        return made

    connect, connect_ex, bind, sendto, sendmsg = map(_on_host, ADDRESS_POSITION)

    def _with_descriptor(self, descriptor: int) -> HostSocket:
        made = super()._with_descriptor(descriptor)
        assert isinstance(made, HostSocket)
        made._addressing = self._addressing
        return made


def ip_version(family: int | None) -> int | None:
    """Return 4 for AF_INET, 6 for AF_INET6 and None for other families. ValueError if there is no such family."""
    chosen = socket.AddressFamily(family) if family else None
    return next((version for version, known in FAMILIES.items() if known is chosen), None)


def unix_path(family: int, address: Any) -> str | None:
    """Return the path of an AF_UNIX address; None for an abstract or missing name and for other families."""
    if family != socket.AF_UNIX or not isinstance(address, str | bytes | bytearray | memoryview):
        return None
    path = os.fsencode(address) if isinstance(address, str) else bytes(address)
    return os.fsdecode(path) if path and not path.startswith(b"\0") else None


def name_to_look_up(host: Any) -> str | None:
    """Return the name to look up; None for addresses, wildcards and unknown forms."""
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii", "replace")
    if not isinstance(host, str) or host in ("", "<broadcast>"):
        return None
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return None


def make(core: Core, node: str, family: int, type: int, proto: int = 0) -> HostSocket:
    """Return an ordinary socket that lives on the node. The caller owns it. OSError as of socket(2)."""
    made = HostSocket.on(Addressing(core, node), family, type, proto)
    timeout = socket.getdefaulttimeout()
    if type & socket.SOCK_NONBLOCK:
        made.setblocking(False)
    elif timeout is not None:
        made.settimeout(timeout)
    return made


def listen(
    core: Core, node: str, at: int | str, address: str | None, family: int | None, backlog: int
) -> socket.socket:
    """See `Host.listen`."""
    if family not in (socket.AF_INET, socket.AF_INET6, None):
        other = f"socket({family_name(family)})"
        raise ValueError(f'host {node}: listen() is for TCP and "unix:/run/x"; of another family, make a {other}')
    path = unix_name(at)
    if path is not None:
        return _listening(core, node, unix_text(path), socket.AF_UNIX, lambda sock: path, backlog)
    host, port = (address, at) if isinstance(at, int) else local_end(at)
    if isinstance(at, str) and address is not None:
        raise ValueError(f"host {node}: listen({at!r}, address={address!r}): give the address once")
    if family is None:
        literal = None if host is None else parse_address(host)
        family = socket.AF_INET if literal is None else FAMILIES[literal.version]

    def local(sock: HostSocket) -> object:
        if host is None:
            return ("::" if family == socket.AF_INET6 else "0.0.0.0", port)
        address = core.addresses_on(node, host, family)[0]
        return Addressing(core, node).inet_address(sock, (str(address), port))

    return _listening(core, node, address_text((host or "*", port)), family, local, backlog)


def _listening(
    core: Core, node: str, shown: str, family: int, local: Callable[[HostSocket], object], backlog: int
) -> HostSocket:
    with core.journal.noting(node, ActivityKind.LISTEN, shown) as entry:
        sock = make(core, node, family, socket.SOCK_STREAM)
        with closed_on_error(sock, f"host {node}: cannot listen on {shown}"):
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(local(sock))
            sock.listen(backlog)
        entry.end(f"listening on {address_text(sock.getsockname())}")
    return sock


def connect(
    core: Core, node: str, to: str | tuple[Any, ...], timeout_s: float | None, family: int | None
) -> socket.socket:
    """See `Host.connect`."""
    path = unix_name(to)
    if path is not None:
        return _connect_unix(core, node, path, timeout_s)
    host, port = target(to)
    shown = address_text((host, port))
    with core.journal.noting(node, ActivityKind.CONNECT, shown) as entry:
        failures: list[OSError] = []
        for address in core.addresses_on(node, host, family):
            sock = make(core, node, FAMILIES[address.version], socket.SOCK_STREAM)
            try:
                with closed_on_error(sock):
                    sock.settimeout(timeout_s)
                    sock.connect(Addressing(core, node).inet_address(sock, (str(address), port)))
            except OSError as error:
                failures.append(not_connected(core, error, node, port, host, address))
                continue
            entry.end(connected(sock))
            return sock
        raise all_failed(failures, node, shown)


def _connect_unix(core: Core, node: str, path: str, timeout_s: float | None) -> HostSocket:
    """Connect an AF_UNIX socket. A non-blocking one would fail at once if the listener's queue is full (unix(7))."""
    shown = unix_text(path)
    with core.journal.noting(node, ActivityKind.CONNECT, shown) as entry:
        sock = make(core, node, socket.AF_UNIX, socket.SOCK_STREAM)
        with closed_on_error(sock, f"host {node}: cannot connect to {shown}"):
            sock.setblocking(timeout_s != 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
            try:
                sock.connect(path)
            except BlockingIOError:
                if timeout_s:
                    raise TimeoutError from None
                raise
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(None))
            sock.settimeout(timeout_s)
        entry.end(f"connected to {shown}")
    return sock


@contextmanager
def closed_on_error(sock: socket.socket, what: str = "") -> Iterator[None]:
    """Close the socket if the block fails. An OSError is raised with `what` was tried."""
    try:
        yield
    except BaseException as error:
        sock.close()
        if what and isinstance(error, OSError):
            raise error_about(error, what) from error
        raise


def _timeval(timeout_s: float | None) -> bytes:
    """Return a struct timeval; None (no timeout) is 0."""
    microseconds = 0 if timeout_s is None else max(1, int(timeout_s * 1e6))
    return struct.pack("@ll", *divmod(microseconds, 1_000_000))


def not_connected(core: Core, error: OSError, node: str, port: int, host: str, address: IpAddress) -> OSError:
    """Return the error of one address that was tried, and its possible reason."""
    shown = address_text((host, port))
    where = shown if host == str(address) else f"{shown} ({address})"
    failure = error_about(error, f"host {node}: cannot connect to {where}")
    hint = ""
    if error.errno == errno.EINVAL and address.is_link_local and "%" not in str(address):
        hint = f". A link-local address needs its interface: {address}%eth0"
    elif error.errno == errno.ECONNREFUSED and (why := _why_refused(core, node, address, port)):
        hint = f" ({why})"
    if hint:
        failure = OSError(error.errno, f"{failure.strerror}{hint}")
    failure.__cause__ = error
    return failure


def all_failed(failures: Sequence[OSError], node: str, shown: str) -> OSError:
    """Return the error to raise when no address of a name answered: the last error, which lists all."""
    last = failures[-1]
    if len(failures) == 1:
        return last
    what = f"host {node}: cannot connect to {shown}"
    texts = [each.strerror or str(each) for each in failures]
    reasons = "; ".join(text.removeprefix(f"{what} (").replace("): ", ": ", 1) for text in texts)
    text = f"{what}: {reasons}"
    failure = TimeoutError(text) if last.errno is None else OSError(last.errno, text)
    failure.__cause__ = last.__cause__ or last
    return failure


def _why_refused(core: Core, node: str, address: IpAddress, port: int) -> str:
    from labctl.observe.services import why_refused

    owners = [node] if address.is_loopback else [each.name for each in core.model.nodes if address in each.addresses]
    for owner in owners:
        with suppress(LabctlError, RuntimeError):  # a look at what it listens on is no reason to fail
            return why_refused(core.engine, owner, address, port)
    return ""


def connected(sock: socket.socket) -> str:
    """Return the two addresses of a connection, as text."""
    return f"connected from {address_text(sock.getsockname())} to {address_text(sock.getpeername())}"


def open_file(core: Core, node: str, path: str, flags: int) -> int:
    """Return a descriptor of a file on the node. The caller owns it. OSError as of open(2)."""
    core.check_open(f"open {path} on {node}")
    try:
        return core.engine.open_file(node, path, flags)
    except KernelError as error:
        raise OSError(error.errno, str(error)) from error


def target(to: str | tuple[Any, ...]) -> tuple[str, int]:
    """Split `server:5000`. ValueError, TypeError."""
    if isinstance(to, tuple):
        if len(to) == 4 and to[3] and "%" not in str(to[0]):  # as getaddrinfo() has it, with a scope's number
            return f"{to[0]}%{to[3]}", int(to[1])
        host, port, *_ = to
        return str(host), int(port)
    if not isinstance(to, str):
        raise TypeError(f'{to!r}: connect to "server:5000", ("server", 5000) or "unix:/run/x"')
    parsed = parse_endpoint(to)
    if parsed.host is None or parsed.port is None:
        raise ValueError(f'{to!r} has no port or host: write "server:5000", "10.0.0.2:80" or "[fd00::2]:80"')
    return parsed.host, parsed.port


def local_end(at: str) -> tuple[str | None, int]:
    """Return address (None: any) and port of "80", ":80", "10.0.0.2:80". ValueError."""
    if at.isdecimal():
        return None, parse_port(at)
    parsed = parse_endpoint(at)
    return parsed.host, parsed.port or 0


def unix_name(to: object) -> str | None:
    """Return the name of the AF_UNIX socket in "unix:/run/x", "unix:@abstract", "/run/x" or "@abstract"; else None.

    ValueError for `unix:` without a name.
    """
    if not isinstance(to, str) or not to.startswith(("unix:", "unix/", "/", "@")):
        return None
    name = to[5:] if to.startswith("unix") else to
    if not name.startswith(("/", "@")):
        raise ValueError(f'{to!r}: write "unix:/run/x" for a path, or "unix:@name" for an abstract name')
    return f"\0{name[1:]}" if name.startswith("@") else name


def unix_text(name: str) -> str:
    """`unix:/run/x`, `unix:@name`."""
    return f"unix:@{name[1:]}" if name.startswith("\0") else f"unix:{name}"


def error_about(error: OSError, what: str) -> OSError:
    """Return the same error, of the same class, with what was tried."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return TimeoutError(f"{what}: no answer in time")
    if error.strerror and error.strerror.startswith("host "):
        return error  # it is ours
    return OSError(error.errno, f"{what}: {os.strerror(error.errno or 0)}")


def address_text(address: Sequence[object]) -> str:
    """`10.0.0.1:80`, `[fd00::1]:80`, `unix:/run/x`."""
    if isinstance(address, str | bytes):
        return unix_text(address if isinstance(address, str) else os.fsdecode(address))
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def family_name(family: int) -> str:
    """`AF_INET`."""
    return next((known.name for known in socket.AddressFamily if known == family), str(family))


def type_name(type: int) -> str:
    """`SOCK_STREAM`."""
    plain = type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    return next((known.name for known in socket.SocketKind if known == plain), str(type))
