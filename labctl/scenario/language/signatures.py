"""The calls of the language: their parameters by kind, what they give, and what each kind of parameter takes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import NamedTuple


class Kind(StrEnum):
    """What is known of a value before anything runs."""

    INTEGER = "a number"
    DESCRIPTOR = "a descriptor"
    TEXT = "a text"
    DATA = "bytes"
    LIST = "a list"
    STRUCT = "a structure"
    ADDRESS = "an address"
    UNKNOWN = "unknown"


class Known(NamedTuple):
    """What is known of a name: the kind of its value; of a descriptor or an address, its family, AF_INET, if told.

    `type` is that of a descriptor's socket: SOCK_STREAM.
    """

    kind: Kind = Kind.UNKNOWN
    family: str = ""
    type: str = ""


class Takes(NamedTuple):
    """What a parameter takes: kinds, and the beginnings of the constants that make sense there (none: no constants)."""

    meaning: str
    kinds: tuple[Kind, ...]
    constants: tuple[str, ...] = ()
    any_constant: bool = False


_NUMBERS = (Kind.INTEGER,)


class Wants(Enum):
    """The kinds of parameters."""

    DESCRIPTOR = Takes("a descriptor", (Kind.DESCRIPTOR, Kind.INTEGER))
    DOMAIN = Takes("a domain, AF_...", _NUMBERS, ("AF_",))
    TYPE = Takes("a type, SOCK_...", _NUMBERS, ("SOCK_",))
    PROTOCOL = Takes("a protocol, 0 or IPPROTO_...", _NUMBERS, ("IPPROTO_", "NETLINK_"))
    ADDRESS = Takes(
        'an address such as "server:5000"',
        (Kind.TEXT, Kind.ADDRESS, Kind.DATA, Kind.LIST, Kind.STRUCT),
        ("AF_UNSPEC",),
    )
    NUMBER = Takes("a number", _NUMBERS, any_constant=True)
    DATA = Takes('bytes, b"..."', (Kind.DATA,))
    BUFFERS = Takes('a list of bytes, [b"a", b"b"]', (Kind.DATA, Kind.LIST))
    SIZE = Takes("a number of bytes", _NUMBERS)
    MESSAGE_FLAGS = Takes("flags, MSG_...", _NUMBERS, ("MSG_",))
    ACCEPT_FLAGS = Takes("flags, SOCK_NONBLOCK or SOCK_CLOEXEC", _NUMBERS, ("SOCK_NONBLOCK", "SOCK_CLOEXEC"))
    HOW = Takes("SHUT_RD, SHUT_WR or SHUT_RDWR", _NUMBERS, ("SHUT_",))
    LEVEL = Takes("a level, SOL_SOCKET or IPPROTO_...", _NUMBERS, ("SOL_", "IPPROTO_"))
    OPTION = Takes(
        "an option, SO_..., TCP_..., IP_...",
        _NUMBERS,
        (
            "SO_",
            "TCP_",
            "IP_",
            "IPV6_",
            "UDP_",
            "MCAST_",
            "PACKET_",
            "NETLINK_",
            "ICMP_FILTER",
            "ICMP6_FILTER",
            "MPTCP_",
        ),
    )
    OPTION_VALUE = Takes(
        "a number, bytes, a text, or a structure such as {1, 0}",
        (Kind.INTEGER, Kind.DESCRIPTOR, Kind.DATA, Kind.LIST, Kind.STRUCT, Kind.TEXT),
        any_constant=True,
    )
    POLLED = Takes("a list such as [c, POLLIN]", (Kind.LIST,))
    TIMEOUT = Takes('a timeout: milliseconds, or a duration such as "1s"', (Kind.INTEGER, Kind.TEXT))
    DESCRIPTORS = Takes("a list of descriptors", (Kind.LIST,))
    COMMAND = Takes("a command, F_...", _NUMBERS, ("F_",))
    COMMAND_ARGUMENT = Takes("a number", (Kind.INTEGER, Kind.DESCRIPTOR), ("O_", "F_"))
    REQUEST = Takes("a request, FIONREAD, SIOCOUTQ or SIOCGIF...", _NUMBERS, ("FIO", "SIOC"))
    REQUEST_VALUE = Takes(
        'an interface, "eth0", a number, or {"eth0", 1400}',
        (Kind.TEXT, Kind.INTEGER, Kind.STRUCT, Kind.LIST),
        any_constant=True,
    )
    EPOLL_FLAGS = Takes("0 or EPOLL_CLOEXEC", _NUMBERS, ("EPOLL_CLOEXEC",))
    EPOLL_OPERATION = Takes("an operation, EPOLL_CTL_...", _NUMBERS, ("EPOLL_CTL_",))
    EPOLL_EVENTS = Takes("events, EPOLL...", _NUMBERS, ("EPOLL",))
    PATH = Takes("a path", (Kind.TEXT,))
    RESOURCE = Takes("a resource, RLIMIT_...", _NUMBERS, ("RLIMIT_",))
    CAPABILITY = Takes("a capability, CAP_...", _NUMBERS, ("CAP_",))


class Signature(NamedTuple):
    """A call. `forms`: the lists of parameters that it may have; in each, the last `optional` may be left out.

    `gives`: the kinds of values for the targets on the left, of which the first `fewest` must be taken if any.
    """

    forms: tuple[tuple[Wants, ...], ...]
    usage: str
    gives: tuple[Kind, ...] = (Kind.INTEGER,)
    optional: int = 0
    fewest: int = 1
    addrlen: bool = False
    control: bool = False  # takes `control=`
    repeatable: Wants | None = None  # any number of these

    def form_for(self, count: int) -> tuple[Wants, ...] | None:
        """The parameters of a call with so many arguments; None when there is no such form."""
        if self.repeatable is not None:
            return (self.repeatable,) * count
        for form in self.forms:
            if len(form) - self.optional <= count <= len(form):
                return form
        return None


W = Wants
_SOCKET = (W.DOMAIN, W.TYPE, W.PROTOCOL)

SIGNATURES: Mapping[str, Signature] = MappingProxyType(
    {
        "socket": Signature((_SOCKET,), "socket(AF_INET, SOCK_STREAM[, 0])", (Kind.DESCRIPTOR,), 1),
        "socketpair": Signature(
            (_SOCKET,), "a, b = socketpair(AF_UNIX, SOCK_STREAM[, 0])", (Kind.DESCRIPTOR, Kind.DESCRIPTOR), 1, 2
        ),
        "bind": Signature(((W.DESCRIPTOR, W.ADDRESS),), 'bind(s, "server:5000")', addrlen=True),
        "listen": Signature(((W.DESCRIPTOR, W.NUMBER),), "listen(s, 5)"),
        "accept": Signature(
            ((W.DESCRIPTOR,),), "conn, peer = accept(s)", (Kind.DESCRIPTOR, Kind.ADDRESS), addrlen=True
        ),
        "accept4": Signature(
            ((W.DESCRIPTOR, W.ACCEPT_FLAGS),),
            "conn, peer = accept4(s, SOCK_NONBLOCK)",
            (Kind.DESCRIPTOR, Kind.ADDRESS),
            addrlen=True,
        ),
        "connect": Signature(((W.DESCRIPTOR, W.ADDRESS),), 'connect(c, "server:5000")', addrlen=True),
        "send": Signature(((W.DESCRIPTOR, W.DATA, W.MESSAGE_FLAGS),), 'send(c, b"hello"[, MSG_...])', optional=1),
        "recv": Signature(
            ((W.DESCRIPTOR, W.SIZE, W.MESSAGE_FLAGS),), "data = recv(c, 100[, MSG_...])", (Kind.DATA,), 1
        ),
        "sendto": Signature(
            ((W.DESCRIPTOR, W.DATA, W.ADDRESS), (W.DESCRIPTOR, W.DATA, W.MESSAGE_FLAGS, W.ADDRESS)),
            'sendto(u, b"hello"[, MSG_...], "server:5000")',
            addrlen=True,
        ),
        "recvfrom": Signature(
            ((W.DESCRIPTOR, W.SIZE, W.MESSAGE_FLAGS),),
            "data, addr = recvfrom(u, 100[, MSG_...])",
            (Kind.DATA, Kind.ADDRESS),
            1,
            addrlen=True,
        ),
        "sendmsg": Signature(
            ((W.DESCRIPTOR, W.BUFFERS, W.ADDRESS, W.MESSAGE_FLAGS),),
            'sendmsg(s, [b"a", b"b"][, "server:5000"[, MSG_...]][, control=[{SOL_SOCKET, SCM_RIGHTS, [fd]}]])',
            optional=2,
            control=True,
        ),
        "recvmsg": Signature(
            ((W.DESCRIPTOR, W.SIZE, W.MESSAGE_FLAGS),),
            "data, addr, flags, control = recvmsg(s, 100[, MSG_...][, control=1024])",
            (Kind.DATA, Kind.ADDRESS, Kind.INTEGER, Kind.LIST),
            1,
            addrlen=True,
            control=True,
        ),
        "read": Signature(((W.DESCRIPTOR, W.SIZE),), "data = read(c, 100)", (Kind.DATA,)),
        "write": Signature(((W.DESCRIPTOR, W.DATA),), 'write(c, b"hello")'),
        "shutdown": Signature(((W.DESCRIPTOR, W.HOW),), "shutdown(c, SHUT_WR)"),
        "close": Signature(((W.DESCRIPTOR,),), "close(c)"),
        "dup": Signature(((W.DESCRIPTOR,),), "d = dup(c)", (Kind.DESCRIPTOR,)),
        "dup2": Signature(((W.DESCRIPTOR, W.DESCRIPTOR),), "d = dup2(c, 9)", (Kind.DESCRIPTOR,)),
        "getsockname": Signature(((W.DESCRIPTOR,),), "me = getsockname(s)", (Kind.ADDRESS,), addrlen=True),
        "getpeername": Signature(((W.DESCRIPTOR,),), "peer = getpeername(c)", (Kind.ADDRESS,), addrlen=True),
        "setsockopt": Signature(
            ((W.DESCRIPTOR, W.LEVEL, W.OPTION, W.OPTION_VALUE),), "setsockopt(s, SOL_SOCKET, SO_REUSEADDR, 1)"
        ),
        "getsockopt": Signature(
            ((W.DESCRIPTOR, W.LEVEL, W.OPTION, W.SIZE),),
            "v = getsockopt(s, SOL_SOCKET, SO_ERROR[, SIZE])",
            (Kind.UNKNOWN,),
            1,
        ),
        "poll": Signature(((W.POLLED, W.TIMEOUT),), "ready = poll([c, POLLIN][, 1000])", (Kind.LIST,), 1),
        "select": Signature(
            ((W.DESCRIPTORS, W.DESCRIPTORS, W.DESCRIPTORS, W.TIMEOUT),),
            'r, w, x = select([c], [], [][, "1s"])',
            (Kind.LIST, Kind.LIST, Kind.LIST),
            1,
        ),
        "fcntl": Signature(((W.DESCRIPTOR, W.COMMAND, W.COMMAND_ARGUMENT),), "flags = fcntl(c, F_GETFL)", optional=1),
        "epoll_create1": Signature(((W.EPOLL_FLAGS,),), "e = epoll_create1(0)", (Kind.DESCRIPTOR,)),
        "epoll_ctl": Signature(
            ((W.DESCRIPTOR, W.EPOLL_OPERATION, W.DESCRIPTOR, W.EPOLL_EVENTS),),
            "epoll_ctl(e, EPOLL_CTL_ADD, c, EPOLLIN)",
            optional=1,
        ),
        "epoll_wait": Signature(
            ((W.DESCRIPTOR, W.NUMBER, W.TIMEOUT),), "ready = epoll_wait(e, 10[, 1000])", (Kind.LIST,), 1
        ),
        "ioctl": Signature(
            ((W.DESCRIPTOR, W.REQUEST, W.REQUEST_VALUE),),
            'n = ioctl(c, FIONREAD) or mtu = ioctl(s, SIOCGIFMTU, "eth0")',
            (Kind.UNKNOWN,),
            1,
        ),
        "unlink": Signature(((W.PATH,),), 'unlink("/tmp/x.sock")'),
        "getpid": Signature(((),), "getpid()"),
        "set_nonblocking": Signature(((W.DESCRIPTOR, W.NUMBER),), "set_nonblocking(c[, False])", optional=1),
        "setrlimit": Signature(((W.RESOURCE, W.NUMBER),), "setrlimit(RLIMIT_NOFILE, 5)"),
        "drop_capabilities": Signature(
            (), "drop_capabilities() or drop_capabilities(CAP_NET_BIND_SERVICE)", repeatable=W.CAPABILITY
        ),
    }
)
# Attributes of a value that is an address, and what they are.
ADDRESS_ATTRIBUTES: Mapping[str, Kind] = MappingProxyType(
    {
        "host": Kind.TEXT,
        "port": Kind.INTEGER,
        "addrlen": Kind.INTEGER,
        "family": Kind.INTEGER,
        "path": Kind.TEXT,
        "name": Kind.TEXT,
        "flowinfo": Kind.INTEGER,
        "scope_id": Kind.INTEGER,
        "ifname": Kind.TEXT,
        "protocol": Kind.INTEGER,
        "pkttype": Kind.INTEGER,
        "hwaddr": Kind.TEXT,
    }
)
