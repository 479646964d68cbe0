"""Python sockets of one thread that are made elsewhere, and names that are looked up there: for ordinary users.

While at least one such visit goes on, a few functions of the module `socket` ask whether the thread that calls them is
on one; for all other threads they do what they always do. What a library has imported of them before is hooked all the
same: the class's own methods are, and what `socket.getaddrinfo` calls. Threads that are started on a visit are on it,
as long as it goes on; programs are not.
"""

from __future__ import annotations

import _socket
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Address = IPv4Address | IPv6Address


@dataclass(eq=False, slots=True)
class Frame:
    """A visit: how sockets are made and names are looked up on that host."""

    host: str
    make: Callable[[int, int, int], int]  # family, type, proto -> a descriptor, which the caller owns
    lookup: Callable[[str], Sequence[Address]]  # () for what the host does not know
    goes_on: bool = True


class _Here(threading.local):
    """The visits of one thread, the innermost last."""

    frames: tuple[Frame, ...] = ()

    @property
    def frame(self) -> Frame | None:
        return next((frame for frame in reversed(self.frames) if frame.goes_on), None)


class Hooks:
    """The hooks of this process. There is one object of it: what it hooks is the process's, too."""

    def __init__(self) -> None:
        self._here = _Here()
        self._lock = threading.Lock()
        self._visits = 0
        self._undo: list[Callable[[], None]] = []

    def enter(self, frame: Frame) -> None:
        """The calling thread's visit begins."""
        with self._lock:
            if not self._visits:
                self._install()
            self._visits += 1
        self._here.frames = (*self._here.frames, frame)

    def leave(self, frame: Frame) -> None:
        """It ends, also for the threads that were started on it."""
        frame.goes_on = False
        self._here.frames = tuple(each for each in self._here.frames if each is not frame)
        with self._lock:
            self._visits -= 1
            if not self._visits:
                while self._undo:
                    self._undo.pop()()

    def _install(self) -> None:
        here = self._here
        self._replace(socket.socket, "__init__", _initializer(here, socket.socket.__init__))
        for name in ("connect", "connect_ex", "bind", "sendto"):
            self._replace(socket.socket, name, _addressed(here, getattr(socket.socket, name)))
        original = _socket.getaddrinfo
        self._replace(_socket, "getaddrinfo", _getaddrinfo(here, original))
        self._replace(socket, "gethostbyname", _gethostbyname(here, socket.gethostbyname))
        self._replace(socket, "gethostbyname_ex", _gethostbyname_ex(here, socket.gethostbyname_ex))
        self._replace(threading.Thread, "start", _starter(here, threading.Thread.start))

    def _replace(self, owner: Any, name: str, by: Any) -> None:
        own = vars(owner).get(name)  # None: inherited
        setattr(owner, name, by)

        def undo() -> None:
            if vars(owner).get(name) is not by:
                return  # somebody else has put theirs over it; ours goes on to do nothing by itself
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

        self._undo.append(undo)


HOOKS = Hooks()


def as_hooked(function: F) -> F:
    """What `socket` now has by the name of a function that was taken from there before the visit: socket.gethostbyname
    as an argument is the one that is not hooked."""
    if getattr(function, "__module__", "") != _socket.__name__:
        return function
    hooked: F = getattr(socket, function.__name__, function)
    return hooked


def _initializer(here: _Here, original: Any) -> Any:
    def __init__(
        self: socket.socket, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        frame = here.frame
        if frame is None or fileno is not None:
            original(self, family, type, proto, fileno)
            return
        family = socket.AF_INET if family == -1 else family
        type = socket.SOCK_STREAM if type == -1 else type
        proto = 0 if proto == -1 else proto
        descriptor = frame.make(family, type, proto)
        try:
            original(self, family, type, proto, descriptor)
        except BaseException:
            import os

            os.close(descriptor)
            raise

    return __init__


def _addressed(here: _Here, original: Any) -> Any:
    """A method whose last argument is an address: names in it are looked up on the host."""

    def method(self: socket.socket, *arguments: Any) -> Any:
        frame = here.frame
        if frame is not None and arguments and self.family in (socket.AF_INET, socket.AF_INET6):
            *others, address = arguments
            if isinstance(address, tuple) and len(address) >= 2:
                name = _name(address[0])
                if name is not None:
                    found = _found(frame, name, self.family)
                    arguments = (*others, (str(found[0]), *address[1:]))
        return original(self, *arguments)

    return method


def _getaddrinfo(here: _Here, original: Any) -> Any:
    def getaddrinfo(
        host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[Any, ...]]:
        frame = here.frame
        name = None if frame is None else _name(host)
        if frame is None or name is None or flags & socket.AI_NUMERICHOST:
            return list(original(host, port, family, type, proto, flags))
        found: list[tuple[Any, ...]] = []
        # RFC 6724 prefers IPv6 where both ends have it; so does getaddrinfo(3) there.
        for address in sorted(_found(frame, name, family), key=lambda each: -each.version):
            found += original(str(address), port, 0, type, proto, flags & ~socket.AI_ADDRCONFIG)
        if flags & socket.AI_CANONNAME and found:
            found[0] = (*found[0][:3], name, *found[0][4:])
        return found

    return getaddrinfo


def _gethostbyname(here: _Here, original: Any) -> Any:
    def gethostbyname(hostname: Any) -> str:
        frame = here.frame
        name = None if frame is None else _name(hostname)
        if frame is None or name is None:
            return str(original(hostname))
        return str(_found(frame, name, socket.AF_INET)[0])

    return gethostbyname


def _gethostbyname_ex(here: _Here, original: Any) -> Any:
    def gethostbyname_ex(hostname: Any) -> tuple[str, list[str], list[str]]:
        frame = here.frame
        name = None if frame is None else _name(hostname)
        if frame is None or name is None:
            found: tuple[str, list[str], list[str]] = original(hostname)
            return found
        return name, [], [str(address) for address in _found(frame, name, socket.AF_INET)]

    return gethostbyname_ex


def _starter(here: _Here, original: Any) -> Any:
    def start(self: threading.Thread) -> None:
        frame = here.frame
        if frame is not None and "run" not in vars(self):
            run = self.run

            def there() -> None:
                vars(self).pop("run", None)
                here.frames = (frame,)
                run()

            vars(self)["run"] = there
        original(self)

    return start


def _name(host: Any) -> str | None:
    """The name to look up; None for an address, for any address, and for what is nothing of ours."""
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii", "replace")
    if not isinstance(host, str) or host in ("", "<broadcast>"):
        return None
    from ipaddress import ip_address

    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return None


def _found(frame: Frame, name: str, family: int) -> Sequence[Address]:
    """At least one address. socket.gaierror as on a host without name servers."""
    version = {socket.AF_INET: 4, socket.AF_INET6: 6}.get(family)  # type: ignore[call-overload]
    found = [address for address in frame.lookup(name.rstrip(".")) if version in (None, address.version)]
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, f"host {frame.host} knows no address of {name!r}")
    return found
