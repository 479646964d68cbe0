"""One handler for each call of the call language: from arguments to buffers, from buffers to values and text."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import Enum, auto
from types import MappingProxyType

from labctl.kernel import socket_calls, syscalls
from labctl.kernel.sockaddr import Address, decode
from labctl.kernel.socket_calls import AddressBuffer, Made, new_buffer, take
from labctl.lab.agent.addresses import (
    PATH_MAX_BYTES,
    CannotForm,
    address_text,
    data_text,
    describe,
    plain_address,
    protocol_text,
)
from labctl.lab.agent.arguments import Arguments, family_of, pack_request, show_request, unpack_request
from labctl.lab.agent.constants import CONSTANTS, flags_of, name_of, socket_type_name
from labctl.lab.agent.messages import CStruct, SystemCall, Value
from labctl.lab.agent.options import NUMBER, ioctl_request, level_name, option_at, option_name
from labctl.lab.agent.values import pack_control, show_control, show_value, unpack, unpack_control
from labctl.structs import Struct


class Gathers(Enum):
    """How the values of repeated calls (`until`) are combined."""

    SUM = auto()
    DATA = auto()
    LIST = auto()
    LAST = auto()


class Prepared(Struct, frozen=True):
    """A call with its buffers. `make` makes it, several times with `until`.

    `text` shows the call before (None) and after it was made. The other functions read the buffers of a call that did
    not fail; of a failed call the targets take the values in `failed`.
    """

    make: Callable[[], Made]
    text: Callable[[Made | None], str]
    values: Callable[[Made], tuple[Value, ...]] = lambda made: (made.returned,)
    number: Callable[[Made], int] = lambda made: made.returned
    data: Callable[[Made], bytes | None] = lambda made: None
    summary: Callable[[Made], str] = lambda made: ""
    failed: tuple[Value, ...] = (-1,)
    gathers: Gathers = Gathers.LAST


EVENTS_MAX = 4096
_EPOLL = tuple(name for name in CONSTANTS if name.startswith("EPOLL") and "_" not in name)
NO_ADDRESS = Address(b"", 0)


def prepare(call: SystemCall) -> Prepared:
    """Prepare a call; CannotForm if its arguments cannot be converted to C's."""
    handler = HANDLERS.get(call.name)
    if handler is None:
        raise CannotForm(f"there is no call {call.name}")
    return handler(Arguments(call))


def _call(
    name: str, function: Callable[..., Made], *shown: Callable[[int], str], gathers: Gathers = Gathers.LAST
) -> Callable[[Arguments], Prepared]:
    """The handler of a call whose arguments are integers; `shown` converts each to text."""

    def handler(arguments: Arguments) -> Prepared:
        values = [arguments.integer(index) for index in range(len(shown))]
        text = f"{name}({', '.join(show(value) for show, value in zip(shown, values, strict=True))})"
        return Prepared(lambda: function(*values), lambda made: text, gathers=gathers)

    return handler


def _socket(arguments: Arguments) -> Prepared:
    domain, kind, protocol = arguments.integer(0), arguments.integer(1), arguments.integer(2, 0)
    return Prepared(
        lambda: socket_calls.socket(domain, kind, protocol),
        lambda made: f"socket({_socket_text(domain, kind, protocol)})",
        gathers=Gathers.LIST,
    )


def _socketpair(arguments: Arguments) -> Prepared:
    domain, kind, protocol = arguments.integer(0), arguments.integer(1), arguments.integer(2, 0)
    pair = socket_calls.int_pair()

    def text(made: Made | None) -> str:
        shown = f"[{pair[0]}, {pair[1]}]" if made is not None and made.returned == 0 else "fds"
        return f"socketpair({_socket_text(domain, kind, protocol)}, {shown})"

    return Prepared(
        lambda: socket_calls.socketpair(domain, kind, protocol, pair),
        text,
        lambda made: (pair[0], pair[1]),
        failed=(-1, -1),
    )


def _socket_text(domain: int, kind: int, protocol: int) -> str:
    if domain == CONSTANTS["AF_PACKET"]:
        named = protocol_text(protocol)
    else:
        prefix = "NETLINK_" if domain == CONSTANTS["AF_NETLINK"] else "IPPROTO_"
        named = name_of(protocol, prefix) if protocol else "0"
    return f"{name_of(domain, 'AF_')}, {socket_type_name(kind)}, {named}"


def _to_address(name: str, function: Callable[[int, bytes, int], Made]) -> Callable[[Arguments], Prepared]:
    def handler(arguments: Arguments) -> Prepared:
        fd = arguments.integer(0)
        raw, length = arguments.address(1, family_of(fd))
        shown = address_text(describe(decode(raw)))
        return Prepared(lambda: function(fd, raw, length), lambda made: f"{name}({fd}, {shown}, {length})")

    return handler


def _accept(name: str) -> Callable[[Arguments], Prepared]:
    def handler(arguments: Arguments) -> Prepared:
        fd, flags = arguments.integer(0), arguments.integer(1) if name == "accept4" else None
        buffer = AddressBuffer(arguments.address_length(family_of(fd)))
        more = "" if flags is None else f", {flags_of(flags, 'SOCK_NONBLOCK', 'SOCK_CLOEXEC')}"

        def make() -> Made:
            return socket_calls.accept(fd, buffer) if flags is None else socket_calls.accept4(fd, buffer, flags)

        return Prepared(
            _refilled(buffer, make),
            lambda made: f"{name}({fd}, {_filled(buffer, made)}{more})",
            lambda made: (made.returned, _address(buffer)),
            summary=lambda made: _address_summary(buffer),
            failed=(-1, NO_ADDRESS),
            gathers=Gathers.LIST,
        )

    return handler


def _refilled(buffer: AddressBuffer, make: Callable[[], Made]) -> Callable[[], Made]:
    def again() -> Made:
        buffer.length.value = buffer.given
        return make()

    return again


def _filled(buffer: AddressBuffer, made: Made | None) -> str:
    if made is None or made.returned == -1:
        return f"addr, [{buffer.given}]"
    return f"{address_text(_address(buffer))}, [{buffer.given} -> {buffer.returned}]"


def _address(buffer: AddressBuffer) -> Address:
    return describe(decode(buffer.bytes, buffer.returned))


def _address_summary(buffer: AddressBuffer) -> str:
    address = _address(buffer)
    node = f" ({address.name})" if address.name else ""
    return f"{plain_address(address)}{node}, addrlen {buffer.given} -> {buffer.returned}"


def _send(arguments: Arguments) -> Prepared:
    fd, data, flags = arguments.integer(0), arguments.data(1), arguments.integer(2, 0)
    text = f"send({fd}, {data_text(data)}, {len(data)}, {flags_of(flags, 'MSG_')})"
    return Prepared(lambda: socket_calls.send(fd, data, flags), lambda made: text, gathers=Gathers.SUM)


def _write(arguments: Arguments) -> Prepared:
    fd, data = arguments.integer(0), arguments.data(1)
    text = f"write({fd}, {data_text(data)}, {len(data)})"
    return Prepared(lambda: socket_calls.write(fd, data), lambda made: text, gathers=Gathers.SUM)


def _sendto(arguments: Arguments) -> Prepared:
    fd, data = arguments.integer(0), arguments.data(1)
    flags = arguments.integer(2) if len(arguments) > 3 else 0
    raw, length = arguments.address(len(arguments) - 1 if len(arguments) > 2 else 2, family_of(fd))
    shown = address_text(describe(decode(raw)))
    text = f"sendto({fd}, {data_text(data)}, {len(data)}, {flags_of(flags, 'MSG_')}, {shown}, {length})"
    return Prepared(lambda: socket_calls.sendto(fd, data, flags, raw, length), lambda made: text, gathers=Gathers.SUM)


def _sendmsg(arguments: Arguments) -> Prepared:
    fd, buffers = arguments.integer(0), arguments.buffers(1)
    raw: bytes | None = None
    length, flags, shown = 0, 0, "NULL"
    if len(arguments) == 3 and arguments.is_integer(2):
        flags = arguments.integer(2)
    elif len(arguments) > 2:
        raw, length = arguments.address(2, family_of(fd))
        flags, shown = arguments.integer(3, 0), address_text(describe(decode(raw)))
    control = b"" if arguments.call.control is None else pack_control(arguments.call.control)
    vectors = ", ".join(f"{{{data_text(buffer)}, {len(buffer)}}}" for buffer in buffers)
    ancillary = f", {show_control(arguments.call.control)}" if control else ""
    text = f"sendmsg({fd}, {{{shown}, [{vectors}], {len(buffers)}{ancillary}}}, {flags_of(flags, 'MSG_')})"
    return Prepared(
        lambda: socket_calls.sendmsg(fd, buffers, raw, length, flags, control), lambda made: text, gathers=Gathers.SUM
    )


def _recv(name: str) -> Callable[[Arguments], Prepared]:
    def handler(arguments: Arguments) -> Prepared:
        fd, length = arguments.integer(0), arguments.size(1)
        flags = arguments.integer(2, 0) if name == "recv" else None
        buffer = new_buffer(length)
        more = "" if flags is None else f", {flags_of(flags, 'MSG_')}"

        def make() -> Made:
            return (
                socket_calls.read(fd, buffer, length) if flags is None else socket_calls.recv(fd, buffer, length, flags)
            )

        def data(made: Made) -> bytes:
            # With MSG_TRUNC the kernel returns the datagram's whole length, of which the buffer holds the beginning.
            return take(buffer, min(made.returned, length))

        return Prepared(
            make,
            lambda made: f"{name}({fd}, {_received(data, made)}, {length}{more})",
            lambda made: (data(made),),
            data=data,
            summary=lambda made: data_text(data(made)),
            failed=(b"",),
            gathers=Gathers.DATA,
        )

    return handler


def _received(data: Callable[[Made], bytes], made: Made | None) -> str:
    return "buf" if made is None or made.returned == -1 else data_text(data(made))


def _recvfrom(arguments: Arguments) -> Prepared:
    fd, length, flags = arguments.integer(0), arguments.size(1), arguments.integer(2, 0)
    buffer = new_buffer(length)
    sender = AddressBuffer(arguments.address_length(family_of(fd)))

    def data(made: Made) -> bytes:
        return take(buffer, min(made.returned, length))

    named = flags_of(flags, "MSG_")
    return Prepared(
        _refilled(sender, lambda: socket_calls.recvfrom(fd, buffer, length, flags, sender)),
        lambda made: f"recvfrom({fd}, {_received(data, made)}, {length}, {named}, {_filled(sender, made)})",
        lambda made: (data(made), _address(sender)),
        data=data,
        summary=lambda made: f"{data_text(data(made))} from {_address_summary(sender)}",
        failed=(b"", NO_ADDRESS),
        gathers=Gathers.DATA,
    )


def _recvmsg(arguments: Arguments) -> Prepared:
    fd, length, flags = arguments.integer(0), arguments.size(1), arguments.integer(2, 0)
    given, room = arguments.address_length(family_of(fd)), arguments.control_room()
    message = socket_calls.Message(length, given, room)
    received: list[Value] = []  # decoded once a call: names of interfaces may change

    def make() -> Made:
        message.header.namelen, message.header.controllen = given, room
        made = socket_calls.recvmsg(fd, message, flags)
        control = b"" if made.returned == -1 else take(message.control, message.header.controllen) if room else b""
        received[:] = unpack_control(control)
        return made

    def data(made: Made) -> bytes:
        return take(message.data, min(made.returned, length))

    def ancillary() -> str:
        return f", {show_control(received)}" if room else ""

    def text(made: Made | None) -> str:
        if made is None or made.returned == -1:
            asked = f", control[{room}]" if room else ""
            return f"recvmsg({fd}, {{addr, [{{buf, {length}}}]{asked}}}, {flags_of(flags, 'MSG_')})"
        sender = address_text(_address(message.address))
        vector = f"[{{{data_text(data(made))}, {length}}}]"
        got = f"{{{sender}, {vector}{ancillary()}, {flags_of(message.flags, 'MSG_')}}}"
        return f"recvmsg({fd}, {got}, {flags_of(flags, 'MSG_')})"

    return Prepared(
        make,
        text,
        lambda made: (data(made), _address(message.address), message.flags, list(received)),
        data=data,
        summary=lambda made: (
            f"{data_text(data(made))} from {plain_address(_address(message.address))}, "
            f"flags {flags_of(message.flags, 'MSG_')}{ancillary() if received else ''}"
        ),
        failed=(b"", NO_ADDRESS, 0, []),
        gathers=Gathers.DATA,
    )


def _name_call(name: str, function: Callable[[int, AddressBuffer], Made]) -> Callable[[Arguments], Prepared]:
    def handler(arguments: Arguments) -> Prepared:
        fd = arguments.integer(0)
        buffer = AddressBuffer(arguments.address_length(family_of(fd)))
        return Prepared(
            _refilled(buffer, lambda: function(fd, buffer)),
            lambda made: f"{name}({fd}, {_filled(buffer, made)})",
            lambda made: (_address(buffer),),
            summary=lambda made: _address_summary(buffer),
            failed=(NO_ADDRESS,),
        )

    return handler


def _setsockopt(arguments: Arguments) -> Prepared:
    fd, level, option = arguments.integer(0), arguments.integer(1), arguments.integer(2)
    value = arguments.option_value(3, level, option)
    known, shown = option_at(level, option), arguments.values[3]
    inner = show_value(known.type if known is not None else None, shown)
    if not isinstance(shown, CStruct | list):
        inner = f"[{inner}]"
    raw = value.raw if isinstance(value, socket_calls.FilterProgram) else value
    text = f"setsockopt({fd}, {_option_text(level, option)}, {inner}, {len(raw)})"

    def make() -> Made:
        # The reference to `value` keeps the instructions that a filter points to alive until the call.
        return socket_calls.setsockopt(
            fd, level, option, value.raw if isinstance(value, socket_calls.FilterProgram) else value
        )

    return Prepared(make, lambda made: text)


def _option_text(level: int, option: int) -> str:
    return f"{level_name(level)}, {option_name(level, option)}"


def _getsockopt(arguments: Arguments) -> Prepared:
    fd, level, option = arguments.integer(0), arguments.integer(1), arguments.integer(2)
    known = option_at(level, option)
    raw = len(arguments) > 3
    given = arguments.size(3) if raw else known.type.size if known is not None else 4
    buffer, length = new_buffer(given), socket_calls.UnsignedInt(given)

    def make() -> Made:
        length.value = given
        return socket_calls.getsockopt(fd, level, option, buffer, length)

    def value() -> Value:
        data = buffer.raw[: min(given, length.value)]
        if raw:
            return data
        return unpack(known.type if known is not None else NUMBER, data)

    def number(made: Made) -> int:
        read = value()
        return read if isinstance(read, int) else made.returned

    def shown() -> str:
        return show_value(known.type if known is not None and not raw else None, value())

    def text(made: Made | None) -> str:
        if made is None or made.returned != 0:
            return f"getsockopt({fd}, {_option_text(level, option)}, value, [{given}])"
        filled = shown() if isinstance(value(), list | CStruct) else f"[{shown()}]"
        return f"getsockopt({fd}, {_option_text(level, option)}, {filled}, [{given} -> {length.value}])"

    return Prepared(
        make,
        text,
        lambda made: (value(),),
        number,
        lambda made: read if isinstance(read := value(), bytes) else None,
        lambda made: f"{option_name(level, option)} = {shown()}",
    )


def _poll(arguments: Arguments) -> Prepared:
    entries, timeout_ms = arguments.poll_entries(0), arguments.timeout_ms(1)
    polled = socket_calls.pollfds(entries)

    def revents() -> list[Value]:
        return [int(slot.revents) for slot in polled[: len(entries)]]

    def text(made: Made | None) -> str:
        arrows = [f" -> {flags_of(slot.revents, 'POLL')}" if made is not None else "" for slot in polled]
        shown = ", ".join(
            f"{{{fd}, {flags_of(events, 'POLL')}{arrow}}}" for (fd, events), arrow in zip(entries, arrows, strict=False)
        )
        return f"poll([{shown}], {len(entries)}, {timeout_ms})"

    return Prepared(
        lambda: socket_calls.poll(polled, len(entries), timeout_ms),
        text,
        lambda made: (revents(),),
        summary=lambda made: ", ".join(
            f"{fd}: {flags_of(slot.revents, 'POLL')}" for (fd, _), slot in zip(entries, polled, strict=False)
        ),
        failed=([],),
    )


def _select(arguments: Arguments) -> Prepared:
    wanted = [arguments.integers(index) for index in range(3)]
    timeout_ms = arguments.timeout_ms(3)
    try:
        empty = [socket_calls.fd_set(descriptors) for descriptors in wanted]
    except ValueError as error:
        raise CannotForm(f"select: {error}") from error
    sets = [socket_calls.fd_set(descriptors) for descriptors in wanted]
    highest = max((fd for descriptors in wanted for fd in descriptors), default=-1)

    def make() -> Made:
        for bits, template in zip(sets, empty, strict=True):
            bits.raw = template.raw
        timeout_s = None if timeout_ms < 0 else timeout_ms / 1000
        return socket_calls.select(sets[0], sets[1], sets[2], highest, timeout_s)

    def ready() -> tuple[Value, ...]:
        lists: list[Value] = []
        for bits, descriptors in zip(sets, wanted, strict=True):
            lists.append([fd for fd in descriptors if socket_calls.in_fd_set(bits, fd)])
        return tuple(lists)

    def text(made: Made | None) -> str:
        known = made is not None and made.returned != -1
        arrows = [f" -> {now!r}" if known else "" for now in ready()]
        lists = ", ".join(f"{given!r}{arrow}" for given, arrow in zip(wanted, arrows, strict=True))
        return f"select({highest + 1}, {lists}, {'NULL' if timeout_ms < 0 else f'{timeout_ms} ms'})"

    return Prepared(
        make,
        text,
        lambda made: ready(),
        summary=lambda made: "ready: " + ", ".join(str(now) for now in ready()),
        failed=([], [], []),
    )


def _fcntl(arguments: Arguments) -> Prepared:
    fd, command, argument = arguments.integer(0), arguments.integer(1), arguments.integer(2, 0)
    named = name_of(command, "F_GETFL", "F_SETFL", "F_GETFD", "F_SETFD", "F_DUPFD", "F_")
    is_status = named in ("F_GETFL", "F_SETFL")
    shown = f", {_status_flags(argument)}" if named == "F_SETFL" else f", {argument}" if len(arguments) > 2 else ""
    return Prepared(
        lambda: socket_calls.fcntl(fd, command, argument),
        lambda made: f"fcntl({fd}, {named}{shown})",
        summary=lambda made: _status_flags(made.returned) if is_status and named == "F_GETFL" else "",
    )


def _status_flags(flags: int) -> str:
    access = ("O_RDONLY", "O_WRONLY", "O_RDWR")[min(flags & os.O_ACCMODE, 2)]
    rest = flags & ~os.O_ACCMODE
    return f"{access}|{flags_of(rest, 'O_NONBLOCK', 'O_APPEND', 'O_ASYNC')}" if rest else access


def _epoll_ctl(arguments: Arguments) -> Prepared:
    epoll, operation, fd, events = (arguments.integer(index, 0) for index in range(4))
    text = f"epoll_ctl({epoll}, {name_of(operation, 'EPOLL_CTL_')}, {fd}, {{{flags_of(events, *_EPOLL)}, data={fd}}})"
    return Prepared(lambda: socket_calls.epoll_ctl(epoll, operation, fd, events), lambda made: text)


def _epoll_wait(arguments: Arguments) -> Prepared:
    epoll, count, timeout_ms = arguments.integer(0), arguments.integer(1), arguments.timeout_ms(2)
    if not 0 < count <= EVENTS_MAX:
        raise CannotForm(f"epoll_wait: room for 1 to {EVENTS_MAX} events, not {count}")
    events = socket_calls.epoll_events(count)

    def ready(made: Made) -> list[Value]:
        return [[int(event.fd), int(event.events)] for event in events[: max(made.returned, 0)]]

    def shown(made: Made) -> str:
        return ", ".join(f"{{{flags_of(event.events, *_EPOLL)}, data={event.fd}}}" for event in events[: made.returned])

    def listed(made: Made | None) -> str:
        return "events" if made is None or made.returned == -1 else f"[{shown(made)}]"

    return Prepared(
        lambda: socket_calls.epoll_wait(epoll, events, count, timeout_ms),
        lambda made: f"epoll_wait({epoll}, {listed(made)}, {count}, {timeout_ms})",
        lambda made: (ready(made),),
        summary=shown,
        failed=([],),
    )


def _ioctl(arguments: Arguments) -> Prepared:
    fd, request = arguments.integer(0), arguments.integer(1)
    asked = ioctl_request(request & 0xFFFF_FFFF)
    given = arguments.values[2] if len(arguments) > 2 else None
    packed = pack_request(asked, given)
    buffer = socket_calls.new_buffer(len(packed))

    def make() -> Made:
        buffer.raw = packed
        return socket_calls.ioctl(fd, request & 0xFFFF_FFFF, buffer)

    def value() -> Value:
        return unpack_request(asked, buffer.raw)

    def text(made: Made | None) -> str:
        known = made is not None and made.returned != -1
        return f"ioctl({fd}, {asked.name}, {show_request(asked, given, value() if known else None)})"

    def number(made: Made) -> int:
        return read if isinstance(read := value(), int) else made.returned

    return Prepared(
        make,
        text,
        lambda made: (value(),),
        number,
        summary=lambda made: show_request(asked, None, value()) if asked.gives else "",
    )


def _unlink(arguments: Arguments) -> Prepared:
    path = arguments.text(0)
    if "\0" in path:
        raise CannotForm("unlink: a path holds no NUL")
    return Prepared(
        lambda: socket_calls.unlink(os.fsencode(path)),
        lambda made: f"unlink({data_text(os.fsencode(path), PATH_MAX_BYTES)})",
    )


def _setrlimit(arguments: Arguments) -> Prepared:
    limited, soft = arguments.integer(0), arguments.integer(1)
    if soft < 0:
        raise CannotForm("setrlimit: a limit is not negative")
    text = f"setrlimit({name_of(limited, 'RLIMIT_')}, {{rlim_cur={soft}}})"
    return Prepared(lambda: socket_calls.setrlimit(limited, soft), lambda made: text)


def _drop_capabilities(arguments: Arguments) -> Prepared:
    dropped = [arguments.integer(index) for index in range(len(arguments))]
    names = "|".join(name_of(capability, "CAP_") for capability in dropped)
    text = f"capset(all but {names})" if dropped else "capset({effective = permitted = inheritable = {}})"
    return Prepared(lambda: syscalls.drop_capabilities(dropped or None), lambda made: text)


HANDLERS: Mapping[str, Callable[[Arguments], Prepared]] = MappingProxyType(
    {
        "socket": _socket,
        "socketpair": _socketpair,
        "bind": _to_address("bind", socket_calls.bind),
        "connect": _to_address("connect", socket_calls.connect),
        "listen": _call("listen", socket_calls.listen, str, str),
        "accept": _accept("accept"),
        "accept4": _accept("accept4"),
        "send": _send,
        "sendto": _sendto,
        "sendmsg": _sendmsg,
        "write": _write,
        "recv": _recv("recv"),
        "recvfrom": _recvfrom,
        "recvmsg": _recvmsg,
        "read": _recv("read"),
        "shutdown": _call("shutdown", socket_calls.shutdown, str, lambda how: name_of(how, "SHUT_")),
        "close": _call("close", socket_calls.close, str),
        "dup": _call("dup", socket_calls.dup, str, gathers=Gathers.LIST),
        "dup2": _call("dup2", socket_calls.dup2, str, str),
        "getsockname": _name_call("getsockname", socket_calls.getsockname),
        "getpeername": _name_call("getpeername", socket_calls.getpeername),
        "setsockopt": _setsockopt,
        "getsockopt": _getsockopt,
        "poll": _poll,
        "select": _select,
        "epoll_create1": _call(
            "epoll_create1", socket_calls.epoll_create1, lambda flags: flags_of(flags, "EPOLL_CLOEXEC")
        ),
        "epoll_ctl": _epoll_ctl,
        "epoll_wait": _epoll_wait,
        "fcntl": _fcntl,
        "ioctl": _ioctl,
        "unlink": _unlink,
        "getpid": _call("getpid", socket_calls.getpid),
        "setrlimit": _setrlimit,
        "drop_capabilities": _drop_capabilities,
    }
)
