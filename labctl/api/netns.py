"""`Host.netns()`: a thread of this process on a host, in the kernel if possible, else for Python's sockets only.

During such a visit, some functions of the module `socket` check whether the calling thread is on a host; for other
threads they behave as before. The hooks also reach what a library has imported already: the class's own methods, what
`socket.getaddrinfo` calls, and each module-level name of a hooked function. Threads started during a visit are on the
host too, until it ends; programs are not.
"""

from __future__ import annotations

import _socket
import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import wraps
from ipaddress import ip_address
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from labctl.api import sockets
from labctl.api.journal import ActivityKind
from labctl.api.sockets import ADDRESS_POSITION, Addressing, has_address, name_to_look_up, unix_path
from labctl.errors import MachineError
from labctl.kernel import host_visit
from labctl.structs import Struct
from labctl.topology.model import NO_NAME_SERVER

if TYPE_CHECKING:
    from labctl.api.core import Core
    from labctl.kernel.host_visit import HostNamespaces, ThreadOrigin


F = TypeVar("F", bound=Callable[..., Any])


class Frame(Struct, eq=False):
    """A visit to a host."""

    addressing: Addressing
    in_kernel: bool  # the thread is in the host's network, and only paths of AF_UNIX sockets are looked up here
    goes_on: bool = True


class _Here(threading.local):
    """The visits of one thread, innermost last."""

    frames: tuple[Frame, ...] = ()

    @property
    def frame(self) -> Frame | None:
        return next((frame for frame in reversed(self.frames) if frame.goes_on), None)

    @property
    def addressing(self) -> Addressing | None:
        """The host's addressing, where the kernel does not answer for the host."""
        frame = self.frame
        return None if frame is None or frame.in_kernel else frame.addressing


class Hooks:
    """The hooks of this process, of which there is one object."""

    def __init__(self) -> None:
        self._here = _Here()
        self._lock = threading.Lock()
        self._visits = 0
        self._undo: list[Callable[[], None]] = []

    def enter(self, frame: Frame) -> None:
        """Begin the calling thread's visit."""
        with self._lock:
            if not self._visits:
                self._install(everywhere=not frame.in_kernel)
            self._visits += 1
        self._here.frames = (*self._here.frames, frame)

    def leave(self, frame: Frame) -> None:
        """End it, for threads started during it as well."""
        frame.goes_on = False
        self._here.frames = tuple(each for each in self._here.frames if each is not frame)
        with self._lock:
            self._visits -= 1
            if not self._visits:
                while self._undo:
                    self._undo.pop()()

    def _install(self, *, everywhere: bool) -> None:
        here = self._here
        self._replace(socket.socket, "__init__", _initializer(here, socket.socket.__init__))
        for name in ADDRESS_POSITION:
            self._replace(socket.socket, name, _addressed(here, name, getattr(socket.socket, name)))
        self._replace(_socket, "getaddrinfo", _answered(here, _getaddrinfo, _socket.getaddrinfo))
        modules = [each for each in sys.modules.copy().values() if each is not _socket] if everywhere else [socket]
        functions = {name: _answered(here, answer, getattr(socket, name)) for name, answer in _ANSWERS.items()}
        functions["gethostname"] = _gethostname(here, socket.gethostname)
        for name, hooked in functions.items():
            original = getattr(socket, name)
            for module in modules:
                if getattr(module, "__dict__", {}).get(name) is original:
                    self._replace(module, name, hooked)
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
    """Return the present function of `socket` for one that was taken before the visit: an argument like
    socket.gethostbyname is the unhooked one.
    """
    if getattr(function, "__module__", "") != _socket.__name__:
        return function
    hooked: F = getattr(socket, function.__name__, function)
    return hooked


def _initializer(here: _Here, original: Any) -> Any:
    def __init__(
        self: socket.socket, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        addressing = here.addressing
        if addressing is None or fileno is not None:
            original(self, family, type, proto, fileno)
            return
        family = socket.AF_INET if family == -1 else family
        type = socket.SOCK_STREAM if type == -1 else type
        proto = 0 if proto == -1 else proto
        descriptor = addressing.make(family, type, proto)
        try:
            original(self, family, type, proto, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    return __init__


def _addressed(here: _Here, name: str, original: Any) -> Any:
    """Wrap a method whose last argument is an address, which then means an address on the host."""

    def method(self: socket.socket, *arguments: Any) -> Any:
        frame = here.frame
        if frame is None or not has_address(name, arguments):
            return original(self, *arguments)
        if frame.in_kernel and unix_path(self.family, arguments[-1]) is None:
            return original(self, *arguments)
        return frame.addressing.call(name, original, self, *arguments)

    return method


def _answered(here: _Here, answer: Callable[..., Any], original: Any) -> Any:
    """Wrap a function of `socket`: during a visit, `answer` gets the host's addressing and the original."""

    @wraps(original)
    def function(*arguments: Any, **options: Any) -> Any:
        addressing = here.addressing
        if addressing is None:
            return original(*arguments, **options)
        return answer(addressing, original, *arguments, **options)

    return function


def _getaddrinfo(
    addressing: Addressing,
    original: Any,
    host: Any,
    port: Any,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[tuple[Any, ...]]:
    flags &= ~socket.AI_ADDRCONFIG  # which addresses the machine has is nothing to the host
    name = name_to_look_up(host)
    if name is not None and not flags & socket.AI_NUMERICHOST:
        found: list[tuple[Any, ...]] = []
        # RFC 6724 prefers IPv6 where both ends have it; so does getaddrinfo(3) there.
        for address in sorted(addressing.lookup(name, family), key=lambda each: -each.version):
            found += original(str(address), port, 0, type, proto, flags)
        if flags & socket.AI_CANONNAME and found:
            found[0] = (*found[0][:3], name, *found[0][4:])
        return found
    text = bytes(host).decode("ascii", "replace") if isinstance(host, bytes | bytearray) else host
    if name is not None or not isinstance(text, str) or "%" not in text:
        return list(original(host, port, family, type, proto, flags))
    plain, _, scope = text.partition("%")
    try:
        index = addressing.interface_index(scope)
    except OSError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"host {addressing.node} has no interface {scope}") from error
    return [(*each[:4], (*each[4][:3], index)) for each in original(plain, port, family, type, proto, flags)]


def _gethostbyname(addressing: Addressing, original: Any, hostname: Any) -> str:
    name = name_to_look_up(hostname)
    return str(original(hostname) if name is None else addressing.lookup(name, socket.AF_INET)[0])


def _gethostbyname_ex(addressing: Addressing, original: Any, hostname: Any) -> tuple[str, list[str], list[str]]:
    name = name_to_look_up(hostname)
    if name is not None:
        return name, [], [str(address) for address in addressing.lookup(name, socket.AF_INET)]
    found: tuple[str, list[str], list[str]] = original(hostname)
    return found


def _gethostbyaddr(addressing: Addressing, original: Any, host: Any) -> tuple[str, list[str], list[str]]:
    if not isinstance(host, str | bytes | bytearray):
        found: tuple[str, list[str], list[str]] = original(host)
        return found
    text = host if isinstance(host, str) else bytes(host).decode("ascii", "replace")
    name = name_to_look_up(text)
    address = ip_address(text.partition("%")[0]) if name is None else addressing.lookup(name)[0]
    names = addressing.names(address)
    if not names:
        raise socket.herror(1, f"host {addressing.node} has no name for {text}")  # HOST_NOT_FOUND, netdb.h
    return names[0], names[1:], [str(address)]


def _getnameinfo(addressing: Addressing, original: Any, sockaddr: Any, flags: int) -> tuple[str, str]:
    if not isinstance(sockaddr, tuple) or name_to_look_up(sockaddr[0]) is not None:
        found: tuple[str, str] = original(sockaddr, flags)
        return found
    plain, _, scope = str(sockaddr[0]).partition("%")
    host, service = original((plain, *sockaddr[1:3]), flags & ~socket.NI_NAMEREQD | socket.NI_NUMERICHOST)
    address = ip_address(host)
    names = [] if flags & socket.NI_NUMERICHOST else addressing.names(address)
    if names:
        return names[0], service
    if flags & socket.NI_NAMEREQD:
        raise socket.gaierror(socket.EAI_NONAME, f"host {addressing.node} has no name for {host}")
    if address.is_link_local and len(sockaddr) > 3 and sockaddr[3] and not scope:
        try:
            scope = addressing.interface_name(sockaddr[3])
        except OSError:
            scope = str(sockaddr[3])
    return f"{host}%{scope}" if scope else host, service


def _if_nametoindex(addressing: Addressing, original: Any, name: Any) -> int:
    if not isinstance(name, str | bytes):
        return int(original(name))
    text = name if isinstance(name, str) else name.decode("ascii", "replace")
    for index, known in addressing.interfaces():
        if known == text:
            return index
    raise OSError("no interface with this name")


def _gethostname(here: _Here, original: Any) -> Any:
    """Wrap it: it returns the host's name in the kernel's network namespace, too."""

    def gethostname() -> str:
        frame = here.frame
        return str(original()) if frame is None else frame.addressing.node

    return gethostname


# Functions of the module `socket` that return facts of the host.
_ANSWERS: dict[str, Callable[..., Any]] = {
    "gethostbyname": _gethostbyname,
    "gethostbyname_ex": _gethostbyname_ex,
    "gethostbyaddr": _gethostbyaddr,
    "getnameinfo": _getnameinfo,
    "if_nameindex": lambda addressing, original: addressing.interfaces(),
    "if_nametoindex": _if_nametoindex,
    "if_indextoname": lambda addressing, original, index: addressing.interface_name(index),
}


def _starter(here: _Here, original: Any) -> Any:
    def start(self: threading.Thread) -> None:
        frame = here.frame
        if frame is not None and "run" not in vars(self):
            run = self.run

            def run_on_host() -> None:
                vars(self).pop("run", None)
                here.frames = (frame,)
                run()

            vars(self)["run"] = run_on_host
        original(self)

    return start


class Visits:
    """Where threads of this process enter a lab's hosts. Owns the descriptors. Thread-safe."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._places: dict[str, HostNamespaces | None] = {}
        self._lock = threading.Lock()

    def place(self, node: str) -> HostNamespaces | None:
        """Return where to enter; None if threads of this process could not return."""
        with self._lock:
            if node not in self._places:
                network = self._core.engine.network(node)
                self._places[node] = host_visit.open_host(network, node, self._files(node), f"host {node}")
            return self._places[node]

    def close(self) -> None:
        """Close all descriptors. A thread that is on a host still finds its way back."""
        places, self._places = self._places, {}
        for place in places.values():
            if place is not None:
                place.close()

    def _files(self, node: str) -> dict[str, str]:
        lines = "".join(f"{address}\t{names}\n" for address, names in self._core.hosts_files.lines(node))
        files = {"/etc/hosts": lines, "/etc/resolv.conf": NO_NAME_SERVER}
        planned = self._core.plan.nodes
        nat = any(one.nat for one in planned)  # the machine's name servers, as the keeper has made them out
        for path in files:
            if (nat and path != "/etc/hosts") or any(one.name == node and one.tree.places(path) for one in planned):
                with open(sockets.open_file(self._core, node, path, os.O_RDONLY), encoding="utf-8") as file:
                    files[path] = file.read()
        return files


class Visit:
    """The result of `Host.netns()`: for one `with`, in one thread."""

    def __init__(self, core: Core, node: str, strict: bool) -> None:
        self._core = core
        self._node = node
        self._strict = strict
        self._thread: int | None = None
        self._home: ThreadOrigin | None = None
        self._frame: Frame | None = None

    def __repr__(self) -> str:
        where = "not begun" if self._thread is None else f"thread {self._thread}"
        return f"<visit to {self._node} of lab {self._core.model.name}, {where}>"

    @property
    def in_kernel(self) -> bool:
        """Whether the thread itself is on the host; if not, only the Python sockets that it makes are."""
        return self._home is not None

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError(f"{self!r} has already begun; call netns() again")
        with self._core.journal.noting(self._node, ActivityKind.NETNS, "enter") as entry:
            self._core.check_open(f"enter {self._node}")
            place = self._core.visits.place(self._node)
            if place is not None:
                self._home = host_visit.enter(place)
            elif self._strict:
                raise MachineError(_refusal(self._node))
            self._frame = Frame(Addressing(self._core, self._node), in_kernel=place is not None)
            HOOKS.enter(self._frame)
            entry.end("" if place is not None else "Python's sockets only")
        self._thread = threading.get_ident()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread != threading.get_ident():
            raise RuntimeError(f"{self!r} must be ended by the thread that began it")
        self._thread = None
        home, self._home = self._home, None
        frame, self._frame = self._frame, None
        if home is not None:
            host_visit.leave(home)
        if frame is not None:
            HOOKS.leave(frame)


def _refusal(node: str) -> str:
    return (
        f"host {node}: this thread could not return from there: setns(2) requires CAP_SYS_ADMIN in the user "
        f"namespace that owns the network namespace it is in now. Run as root, or let the process be in a network of "
        f"its own from the start: labctl.enter_private_network(), for pytest the setting `labctl_private_network = "
        f"true`. Without strict=True, Python's sockets and names are still the host's."
    )
