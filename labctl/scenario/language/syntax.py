"""The call language: its statements and expressions, and its calls with their parameters and results.

Lines and columns count from 0, within the parsed text.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from labctl.lab.agent.constants import CONSTANTS, ERRNOS
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.documents.diagnostics import Hint


class Kind(StrEnum):
    """The kind of a value, as far as it is known before the run."""

    INTEGER = "a number"
    DESCRIPTOR = "a descriptor"
    TEXT = "a text"
    DATA = "bytes"
    LIST = "a list"
    STRUCT = "a structure"
    ADDRESS = "an address"
    UNKNOWN = "unknown"


class Known(Struct, frozen=True):
    """What is known of a value: its kind; of a descriptor or an address also the family (AF_INET).

    `type` is the type of a descriptor's socket (SOCK_STREAM).
    """

    kind: Kind = Kind.UNKNOWN
    family: str = ""
    type: str = ""


class Takes(Struct, frozen=True):
    """What a parameter takes: kinds of values, and the prefixes of valid constants (none: no constants)."""

    meaning: str
    kinds: tuple[Kind, ...]
    constants: tuple[str, ...] = ()
    any_constant: bool = False


_NUMBERS = (Kind.INTEGER,)


class Wants(Enum):
    """Parameters by what they take."""

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


class Signature(Struct, frozen=True):
    """A call. `forms` has the possible lists of parameters; the last `optional` of each may be omitted.

    `gives` has the kinds of the results; an assignment takes at least the first `fewest` of them.
    """

    forms: tuple[tuple[Wants, ...], ...]
    usage: str
    gives: tuple[Kind, ...] = (Kind.INTEGER,)
    optional: int = 0
    fewest: int = 1
    addrlen: bool = False
    control: bool = False  # accepts `control=`
    repeatable: Wants | None = None  # any number of these

    def form_for(self, count: int) -> tuple[Wants, ...] | None:
        """Return the parameters of a call with so many arguments; None if there is no such form."""
        if self.repeatable is not None:
            return (self.repeatable,) * count
        for form in self.forms:
            if len(form) - self.optional <= count <= len(form):
                return form
        return None


W, S = Wants, Signature
_FD = W.DESCRIPTOR
_DESCRIPTOR, _DATA, _LIST, _UNKNOWN = (Kind.DESCRIPTOR,), (Kind.DATA,), (Kind.LIST,), (Kind.UNKNOWN,)
_ACCEPTED = (Kind.DESCRIPTOR, Kind.ADDRESS)
_RECEIVED = (_FD, W.SIZE, W.MESSAGE_FLAGS)
_SOCKET = (W.DOMAIN, W.TYPE, W.PROTOCOL)

SIGNATURES: Mapping[str, Signature] = MappingProxyType({
    "socket": S((_SOCKET,), "socket(AF_INET, SOCK_STREAM[, 0])", _DESCRIPTOR, 1),
    "socketpair": S((_SOCKET,), "a, b = socketpair(AF_UNIX, SOCK_STREAM[, 0])", _DESCRIPTOR * 2, 1, 2),
    "bind": S(((_FD, W.ADDRESS),), 'bind(s, "server:5000")', addrlen=True),
    "listen": S(((_FD, W.NUMBER),), "listen(s, 5)"),
    "accept": S(((_FD,),), "conn, peer = accept(s)", _ACCEPTED, addrlen=True),
    "accept4": S(((_FD, W.ACCEPT_FLAGS),), "conn, peer = accept4(s, SOCK_NONBLOCK)", _ACCEPTED, addrlen=True),
    "connect": S(((_FD, W.ADDRESS),), 'connect(c, "server:5000")', addrlen=True),
    "send": S(((_FD, W.DATA, W.MESSAGE_FLAGS),), 'send(c, b"hello"[, MSG_...])', optional=1),
    "recv": S((_RECEIVED,), "data = recv(c, 100[, MSG_...])", _DATA, 1),
    "sendto": S(
        ((_FD, W.DATA, W.ADDRESS), (_FD, W.DATA, W.MESSAGE_FLAGS, W.ADDRESS)),
        'sendto(u, b"hello"[, MSG_...], "server:5000")', addrlen=True,
    ),
    "recvfrom": S(
        (_RECEIVED,), "data, addr = recvfrom(u, 100[, MSG_...])", (Kind.DATA, Kind.ADDRESS), 1, addrlen=True
    ),
    "sendmsg": S(
        ((_FD, W.BUFFERS, W.ADDRESS, W.MESSAGE_FLAGS),),
        'sendmsg(s, [b"a", b"b"][, "server:5000"[, MSG_...]][, control=[{SOL_SOCKET, SCM_RIGHTS, [fd]}]])',
        optional=2, control=True,
    ),
    "recvmsg": S(
        (_RECEIVED,), "data, addr, flags, control = recvmsg(s, 100[, MSG_...][, control=1024])",
        (Kind.DATA, Kind.ADDRESS, Kind.INTEGER, Kind.LIST), 1, addrlen=True, control=True,
    ),
    "read": S(((_FD, W.SIZE),), "data = read(c, 100)", _DATA),
    "write": S(((_FD, W.DATA),), 'write(c, b"hello")'),
    "shutdown": S(((_FD, W.HOW),), "shutdown(c, SHUT_WR)"),
    "close": S(((_FD,),), "close(c)"),
    "dup": S(((_FD,),), "d = dup(c)", _DESCRIPTOR),
    "dup2": S(((_FD, _FD),), "d = dup2(c, 9)", _DESCRIPTOR),
    "getsockname": S(((_FD,),), "me = getsockname(s)", (Kind.ADDRESS,), addrlen=True),
    "getpeername": S(((_FD,),), "peer = getpeername(c)", (Kind.ADDRESS,), addrlen=True),
    "setsockopt": S(((_FD, W.LEVEL, W.OPTION, W.OPTION_VALUE),), "setsockopt(s, SOL_SOCKET, SO_REUSEADDR, 1)"),
    "getsockopt": S(
        ((_FD, W.LEVEL, W.OPTION, W.SIZE),), "v = getsockopt(s, SOL_SOCKET, SO_ERROR[, SIZE])", _UNKNOWN, 1
    ),
    "poll": S(((W.POLLED, W.TIMEOUT),), "ready = poll([c, POLLIN][, 1000])", _LIST, 1),
    "select": S((((W.DESCRIPTORS,) * 3 + (W.TIMEOUT,)),), 'r, w, x = select([c], [], [][, "1s"])', _LIST * 3, 1),
    "fcntl": S(((_FD, W.COMMAND, W.COMMAND_ARGUMENT),), "flags = fcntl(c, F_GETFL)", optional=1),
    "epoll_create1": S(((W.EPOLL_FLAGS,),), "e = epoll_create1(0)", _DESCRIPTOR),
    "epoll_ctl": S(
        ((_FD, W.EPOLL_OPERATION, _FD, W.EPOLL_EVENTS),), "epoll_ctl(e, EPOLL_CTL_ADD, c, EPOLLIN)", optional=1
    ),
    "epoll_wait": S(((_FD, W.NUMBER, W.TIMEOUT),), "ready = epoll_wait(e, 10[, 1000])", _LIST, 1),
    "ioctl": S(
        ((_FD, W.REQUEST, W.REQUEST_VALUE),), 'n = ioctl(c, FIONREAD) or mtu = ioctl(s, SIOCGIFMTU, "eth0")',
        _UNKNOWN, 1,
    ),
    "unlink": S(((W.PATH,),), 'unlink("/tmp/x.sock")'),
    "getpid": S(((),), "getpid()"),
    "set_nonblocking": S(((_FD, W.NUMBER),), "set_nonblocking(c[, False])", optional=1),
    "setrlimit": S(((W.RESOURCE, W.NUMBER),), "setrlimit(RLIMIT_NOFILE, 5)"),
    "drop_capabilities": S(
        (), "drop_capabilities() or drop_capabilities(CAP_NET_BIND_SERVICE)", repeatable=W.CAPABILITY
    ),
})  # fmt: skip
# Attributes of an address and their kinds.
ADDRESS_ATTRIBUTES: Mapping[str, Kind] = MappingProxyType(
    dict.fromkeys(("host", "path", "name", "ifname", "hwaddr"), Kind.TEXT)
    | dict.fromkeys(("port", "addrlen", "family", "flowinfo", "scope_id", "protocol", "pkttype"), Kind.INTEGER)
)


class Span(Struct, frozen=True):
    """A place in the text: line, column, and length in characters on that line."""

    line: int
    column: int
    length: int


class Problem(Struct, frozen=True):
    """A mistake in the text, and what to try."""

    span: Span
    message: str
    what_to_try: Hint = ""

    @property
    def hint(self) -> str:
        """What to try, or ""."""
        return self.what_to_try if isinstance(self.what_to_try, str) else self.what_to_try()

    @property
    def line(self) -> int:
        """From 0."""
        return self.span.line

    @property
    def column(self) -> int:
        """From 0."""
        return self.span.column

    @property
    def length(self) -> int:
        """Characters, at least 1."""
        return max(self.span.length, 1)

    def __str__(self) -> str:
        place = f"{self.line + 1}:{self.column + 1}: {self.message}"
        return f"{place} ({self.hint})" if self.hint else place


class Integer(Struct, frozen=True):
    span: Span
    value: int


class Text(Struct, frozen=True):
    """A string; evaluation substitutes `${name}` in it."""

    span: Span
    value: str


class Data(Struct, frozen=True):
    """Bytes; evaluation substitutes `${name}` in them."""

    span: Span
    value: bytes


class ListOf(Struct, frozen=True):
    span: Span
    items: tuple[Expression, ...]


class StructOf(Struct, frozen=True):
    """`{1, 0}` or `{l_onoff=1, l_linger=0}`; members without names have the name ""."""

    span: Span
    members: tuple[tuple[str, Expression], ...]


class Name(Struct, frozen=True):
    """An assigned name, or a constant."""

    span: Span
    name: str


class Variable(Struct, frozen=True):
    """`$name`: the value of a scenario variable; `${name}` (`is_text`): its text, parsed as an expression."""

    span: Span
    name: str
    is_text: bool = False


class Binary(Struct, frozen=True):
    """`|`, `&`, `+`, `-` or `*`."""

    span: Span
    operator: str
    left: Expression
    right: Expression


class Compare(Struct, frozen=True):
    """`==`, `!=`, `<`, `<=`, `>`, `>=` or `in`."""

    span: Span
    operator: str
    left: Expression
    right: Expression


class Negative(Struct, frozen=True):
    span: Span
    operand: Expression


class Attribute(Struct, frozen=True):
    """`peer.port`; `span` is the place of the attribute."""

    span: Span
    value: Expression
    name: str


class Index(Struct, frozen=True):
    """`ready[0]`."""

    span: Span
    value: Expression
    position: Expression


class Length(Struct, frozen=True):
    """`len(x)`."""

    span: Span
    value: Expression


class ByteOrder(Struct, frozen=True):
    """`htons(x)`, `htonl(x)`, `ntohs(x)` or `ntohl(x)`."""

    span: Span
    function: str
    value: Expression


Expression = (
    Integer
    | Text
    | Data
    | ListOf
    | StructOf
    | Name
    | Variable
    | Binary
    | Compare
    | Negative
    | Attribute
    | Index
    | Length
    | ByteOrder
)
BYTE_ORDER = ("htons", "htonl", "ntohs", "ntohl")


class Duration(Struct, frozen=True):
    """`200ms`, or a scenario variable with such a text."""

    span: Span
    seconds: float
    variable: str = ""


class Blocks(Struct, frozen=True):
    """`-> blocks 200ms`: the call must not return within that time; it stays pending."""

    span: Span
    duration: Duration


class StaysPending(Struct, frozen=True):
    """`-> pending`."""

    span: Span


Alternative = Expression | Blocks | StaysPending


class Target(Struct, frozen=True):
    """The left side of `=`: a name, or with `is_variable` a scenario variable `$name`."""

    span: Span
    name: str
    is_variable: bool = False


class Keyword(Struct, frozen=True):
    span: Span
    name: str
    value: Expression


class Modifiers(Struct, frozen=True):
    """What follows a call: its expected outcome and time."""

    expected: tuple[Alternative, ...] = ()  # after `->`
    until: tuple[Expression, ...] = ()
    within: Duration | None = None
    after: Duration | None = None


class Call(Struct, frozen=True):
    """`span` is the place of `name`."""

    span: Span
    text: str  # the statement, for messages
    targets: tuple[Target, ...]
    name: str
    arguments: tuple[Expression, ...]
    keywords: tuple[Keyword, ...]
    modifiers: Modifiers


class Await(Struct, frozen=True):
    span: Span
    text: str
    targets: tuple[Target, ...]
    modifiers: Modifiers


class Assign(Struct, frozen=True):
    span: Span
    text: str
    target: Target
    value: Expression


class Assert(Struct, frozen=True):
    span: Span
    text: str
    condition: Expression


Statement = Call | Await | Assign | Assert


class Program(Struct, frozen=True):
    """The statements that parse, in order, and the mistakes in the others."""

    statements: tuple[Statement, ...]
    problems: tuple[Problem, ...] = ()
    skipped_words: frozenset[str] = frozenset()  # of the statements with mistakes, which may have assigned them


def constant(expression: Expression, names: Mapping[str, Known]) -> str:
    """Return the name of the constant that the expression is; "" if it is none."""
    if isinstance(expression, Name) and expression.name in CONSTANTS and expression.name not in names:
        return expression.name
    return ""


def constants_in(expression: Expression) -> list[Name]:
    """Return the names in an expression of numbers."""
    if isinstance(expression, Name):
        return [expression]
    if isinstance(expression, Binary):
        return [*constants_in(expression.left), *constants_in(expression.right)]
    return []


def may_fail(call: Call) -> bool:
    """Return whether the scenario may expect the call to fail: then the kernel decides, not the checker."""
    return any(
        item.name in ERRNOS if isinstance(item, Name) else isinstance(item, Negative | Variable)
        for item in (*call.modifiers.expected, *call.modifiers.until)
    )
