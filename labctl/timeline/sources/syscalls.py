"""System calls of programs that `labctl.kernel.bpf.CallTracer` recorded, decoded: as strace(1) writes them.

Unlike strace, calls show no paths of descriptors, socket addresses are short (`{AF_INET, 10.0.0.2:5000}`), messages of
netlink are data, and select(2) does not show which time was left.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator, Mapping

from labctl.kernel import sockaddr
from labctl.kernel.bpf_records import CALL_RECORD, PART, RECORD, CallFields, PartOf, split
from labctl.kernel.call_layout import EPOLL_EVENT, LAYOUTS, call_numbers
from labctl.lab.agent.addresses import address_text
from labctl.lab.agent.constants import CONSTANTS, flags_of, name_of
from labctl.structs import Struct
from labctl.timeline.call_table import KEPT_BYTES, RECEIVES, SENDS, SHOWN_BYTES, WITHOUT_DESCRIPTOR, option_text
from labctl.timeline.events import Call, SocketKey, Source

# Results of calls that a signal interrupts before they are repeated (linux/errno.h); programs do not see them.
_RESTARTS = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}
_ERRNOS = {number: name for number, name in errno.errorcode.items() if number != errno.EWOULDBLOCK} | {
    errno.EAGAIN: "EAGAIN",
    errno.EOPNOTSUPP: "EOPNOTSUPP",
    **_RESTARTS,
}
_ERRNO_MAX = 4095
_TYPE_MASK = 0xF  # SOCK_TYPE_MASK (linux/net.h)
_ESCAPES = {9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 0x22: '\\"', 0x5C: "\\\\"}
_DIGITS = range(0x30, 0x38)
_POLLFD = struct.Struct("=iHH")
_MESSAGE = struct.Struct("=QIxxxxQQQQi4x")  # struct msghdr
_VECTOR = struct.Struct("=QQ")
_PAIR = struct.Struct("=qq")  # struct timeval, struct timespec
_INT = struct.Struct("=i")
_POLL_FLAGS = ("POLLIN", "POLLPRI", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL", "POLLRDNORM", "POLLRDBAND",
               "POLLWRNORM", "POLLWRBAND", "POLLMSG", "POLLRDHUP")  # fmt: skip


class _Memory(Struct):
    """A call with the memory that its arguments point to."""

    name: str
    fields: CallFields
    regions: Mapping[int, tuple[bytes, int]]  # by index: the bytes that were read, and how many there were
    data: tuple[tuple[bytes, int], ...] = ()  # of the vectors, in order

    @property
    def arguments(self) -> tuple[int, ...]:
        return self.fields[-6:]

    @property
    def failed(self) -> bool:
        return -_ERRNO_MAX <= self.fields.result < 0

    @property
    def has_returned(self) -> bool:
        return self.fields.until_ns != 0

    def at(self, argument: int) -> tuple[bytes, int] | None:
        """What an argument points to; as it was at the entry, where that is all there is."""
        layout = LAYOUTS[self.name]
        for index, region in enumerate(layout.regions):
            if region.argument == argument and index in self.regions:
                return self.regions[index]
        if layout.entry is not None and layout.entry.argument == argument:
            return self.regions.get(PartOf.ENTRY)
        return None


Shown = Callable[[_Memory, int], str]


def calls(records: bytes, host: str) -> Iterator[Call]:
    """Decode records of the network namespace of `host`; `seq` is 0. A call in progress has `until_ns` None."""
    numbers = call_numbers()
    for _, record in split(records):
        at_ns = RECORD.unpack_from(record)[3]
        fields = CallFields._make(CALL_RECORD.unpack_from(record))
        name = numbers.get(fields.number)
        if name is not None:
            yield _call(_memory(name, fields, record), at_ns, host)


def _memory(name: str, fields: CallFields, record: bytes) -> _Memory:
    regions: dict[int, tuple[bytes, int]] = {}
    data = []
    offset = CALL_RECORD.size
    while offset < len(record):
        length, what, whole = PART.unpack_from(record, offset)
        offset += PART.size
        part = record[offset : offset + length], whole
        if what == PartOf.DATA:
            data.append(part)
        else:
            regions[what] = part
        offset += (length + 7) & ~7
    return _Memory(name, fields, regions, tuple(data))


def _call(memory: _Memory, at_ns: int, host: str) -> Call:
    name, fields = memory.name, memory.fields
    returned = memory.has_returned
    number = -fields.result if memory.failed else 0
    error = (_ERRNOS.get(number) or f"errno {number}") if number else ""
    succeeded = returned and not number
    result = None if not returned or number in _RESTARTS else -1 if number else fields.result
    moves_data = succeeded and name in SENDS | RECEIVES
    moved = _moved(memory) if moves_data else 0
    fd = None if name in WITHOUT_DESCRIPTOR else _signed(fields.a0)
    has_socket = fields.inode and (name == "socket" or fd is not None)
    return Call(
        at_ns=at_ns,
        host=host,
        source=Source.SYSCALLS,
        seq=0,
        until_ns=fields.until_ns or None,
        pid=fields.pid,
        tid=fields.tid,
        program=_program(fields),
        name=name,
        arguments=", ".join(filter(None, (shown(memory, index) for index, shown in enumerate(_ARGUMENTS[name])))),
        result=result,
        errno=error,
        value=_value(memory) if succeeded else "",
        data=_data(memory)[: min(max(moved, 0), KEPT_BYTES)] if moves_data else b"",
        data_bytes=moved,
        fd=fd,
        socket=SocketKey(host, fields.inode, fields.cookie) if has_socket else None,
    )


def _program(fields: CallFields) -> str:
    """The name of the calling process; a child that has executed nothing differs from its parent by its pid only."""
    name = fields.program.split(b"\0", 1)[0].decode(errors="replace")
    return f"{name}[{fields.pid}]" if fields.is_forked else name


def _moved(memory: _Memory) -> int:
    """The number of bytes that were sent or received."""
    if memory.name.endswith("mmsg"):  # of the first message; the call returns the number of messages
        return sum(whole for _, whole in memory.data)
    return memory.fields.result


def _data(memory: _Memory) -> bytes:
    if memory.data:
        return b"".join(data for data, _ in memory.data)
    found = memory.at(1)
    return found[0] if found else b""


def _value(memory: _Memory) -> str:
    """What a call returned beside its result."""
    name, result = memory.name, memory.fields.result
    if name in ("poll", "ppoll"):
        return f"[{_polled(memory, returned=True)}]" if result else "Timeout"
    if name in ("select", "pselect6"):
        names = ("in", "out", "except")
        found = (memory.regions.get(index, (b"", 0))[0] for index in range(3))
        shown = [f"{what} [{_set_text(data)}]" for what, data in zip(names, found, strict=True) if any(data)]
        return ", ".join(shown) if result else "Timeout"
    if name == "fcntl" and _signed(memory.fields.a1) == CONSTANTS["F_GETFL"]:
        return f"flags {_open_flags(result)}"
    if name == "fcntl" and _signed(memory.fields.a1) == CONSTANTS["F_GETFD"] and result:
        return f"flags {flags_of(result, 'FD_')}"
    return ""


# -- arguments


def _signed(value: int) -> int:
    """An argument of 32 bits as an int."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def _int(memory: _Memory, index: int) -> str:
    return str(_signed(memory.arguments[index]))


def _size(memory: _Memory, index: int) -> str:
    return str(memory.arguments[index])


def _pointer(memory: _Memory, index: int) -> str:
    value = memory.arguments[index]
    return hex(value) if value else "NULL"


def _named(*prefixes: str) -> Shown:
    return lambda memory, index: name_of(_signed(memory.arguments[index]), *prefixes)


def _flags(*prefixes: str) -> Shown:
    return lambda memory, index: flags_of(memory.arguments[index] & 0xFFFF_FFFF, *prefixes)


def _kind(memory: _Memory, index: int) -> str:
    value = memory.arguments[index] & 0xFFFF_FFFF
    kind = name_of(value & _TYPE_MASK, "SOCK_")
    flags = [name for name in ("SOCK_CLOEXEC", "SOCK_NONBLOCK") if value & CONSTANTS[name]]
    return "|".join([kind, *flags])


def _protocol(memory: _Memory, index: int) -> str:
    value = _signed(memory.arguments[index])
    is_inet = memory.fields.a0 in (CONSTANTS["AF_INET"], CONSTANTS["AF_INET6"])
    return name_of(value, "IPPROTO_") if is_inet else str(value)


def _accept_flags(memory: _Memory, index: int) -> str:
    return flags_of(memory.arguments[index] & 0xFFFF_FFFF, "SOCK_NONBLOCK", "SOCK_CLOEXEC")


def _address(memory: _Memory, index: int) -> str:
    """An address that the call takes."""
    found = memory.at(index)
    return _pointer(memory, index) if found is None else _address_text(found[0], found[1])


def _address_text(raw: bytes, length: int) -> str:
    return address_text(sockaddr.decode(raw, length))


def _filled_address(memory: _Memory, index: int) -> str:
    """An address that the call returns."""
    found = memory.at(index)
    if found is None or memory.failed or not memory.has_returned:
        return _pointer(memory, index)
    return _address_text(found[0][: memory.fields.length_before], found[1])


def _filled_length(of: int) -> Shown:
    """The length of what argument `of` points to: before the call, and after it if that differs."""

    def shown(memory: _Memory, index: int) -> str:
        if not memory.arguments[index]:
            return "NULL"
        before = memory.fields.length_before
        found = memory.at(of)
        if memory.failed or not memory.has_returned or found is None or found[1] == before:
            return f"[{before}]"
        return f"[{before} => {found[1]}]"

    return shown


def _string(data: bytes, whole: int) -> str:
    """Data as a string of C, with octal escapes, as strace writes them."""
    text = []
    shown = data[:SHOWN_BYTES]
    for index, byte in enumerate(shown):
        if byte in _ESCAPES:
            text.append(_ESCAPES[byte])
        elif 32 <= byte < 127:
            text.append(chr(byte))
        else:
            is_followed_by_digit = index + 1 < len(shown) and shown[index + 1] in _DIGITS
            text.append(f"\\{byte:03o}" if is_followed_by_digit else f"\\{byte:o}")
    return '"' + "".join(text) + '"' + ("..." if whole > len(shown) else "")


def _sent(memory: _Memory, index: int) -> str:
    found = memory.at(index)
    if found is None:
        return '""' if memory.has_returned and not memory.arguments[2] else _pointer(memory, index)
    return _string(*found)


def _received(memory: _Memory, index: int) -> str:
    found = memory.at(index)
    if found is not None and not memory.failed:
        return _string(*found)
    return '""' if memory.has_returned and memory.fields.result == 0 else _pointer(memory, index)


def _option(memory: _Memory, index: int) -> str:
    level = _signed(memory.fields.a1)
    prefixes = _OPTIONS.get(level)
    value = _signed(memory.arguments[index])
    return name_of(value, *prefixes) if prefixes else str(value)


_OPTIONS: Mapping[int, tuple[str, ...]] = {
    CONSTANTS["SOL_SOCKET"]: ("SO_",),
    CONSTANTS["IPPROTO_TCP"]: ("TCP_",),
    CONSTANTS["IPPROTO_IP"]: ("IP_", "MCAST_"),
    CONSTANTS["IPPROTO_IPV6"]: ("IPV6_", "MCAST_"),
    CONSTANTS["IPPROTO_UDP"]: ("UDP_",),
}


def _level(memory: _Memory, index: int) -> str:
    value = _signed(memory.arguments[index])
    return "SOL_IP" if value == 0 else name_of(value, "SOL_")


def _option_value(memory: _Memory, index: int) -> str:
    found = memory.at(index)
    if found is None or (memory.failed and memory.name == "getsockopt"):
        return _pointer(memory, index)
    data, whole = found
    name = _option(memory, 2)
    if structure := option_text(name, data):
        return structure
    if len(data) == _INT.size:
        number = _INT.unpack(data)[0]
        return f"[{_ERRNOS.get(number, number) if name == 'SO_ERROR' else number}]"
    return _string(data, whole)


def _pair(memory: _Memory, index: int) -> str:
    found = memory.at(index)
    if found is None or memory.failed or not memory.has_returned:
        return _pointer(memory, index)
    first, second = struct.unpack("=ii", found[0])
    return f"[{first}, {second}]"


def _polled(memory: _Memory, *, returned: bool) -> str:
    found = memory.regions.get(0) or memory.regions.get(PartOf.ENTRY)
    if found is None:
        return ""
    shown = []
    for fd, events, revents in _POLLFD.iter_unpack(found[0][: len(found[0]) // 8 * 8]):
        if returned and revents:
            shown.append(f"{{fd={fd}, revents={_poll_flags(revents)}}}")
        elif not returned:
            shown.append(f"{{fd={fd}, events={_poll_flags(events)}}}" if fd >= 0 else f"{{fd={fd}}}")
    return ", ".join(shown)


def _poll_flags(value: int) -> str:
    names = [name for name in _POLL_FLAGS if value & CONSTANTS[name]]
    return "|".join(names) or "0"


def _pollfds(memory: _Memory, index: int) -> str:
    return f"[{_polled(memory, returned=False)}]" if memory.arguments[index] else "NULL"


def _set(memory: _Memory, index: int) -> str:
    entry = memory.regions.get(PartOf.ENTRY)
    if not memory.arguments[index] or entry is None:
        return _pointer(memory, index)
    return f"[{_set_text(entry[0][(index - 1) * 16 : index * 16])}]"


def _set_text(data: bytes) -> str:
    bits = int.from_bytes(data, "little")
    return " ".join(str(fd) for fd in range(len(data) * 8) if bits >> fd & 1)


def _timeout(part: str) -> Shown:
    """The timeout of select(2), as it was at the entry: struct timeval (`usec`) or struct timespec (`nsec`)."""

    def shown(memory: _Memory, index: int) -> str:
        entry = memory.regions.get(PartOf.ENTRY)
        if not memory.arguments[index] or entry is None:
            return _pointer(memory, index)
        seconds, fraction = _PAIR.unpack_from(entry[0], (index - 1) * 16)
        return f"{{tv_sec={seconds}, tv_{part}={fraction}}}"

    return shown


def _operation(memory: _Memory, index: int) -> str:
    return name_of(_signed(memory.arguments[index]), "EPOLL_CTL_")


def _event(memory: _Memory, index: int) -> str:
    found = None if _operation(memory, 1) == "EPOLL_CTL_DEL" else memory.at(index)
    return _pointer(memory, index) if found is None else _event_text(found[0])


def _event_text(data: bytes) -> str:
    if len(data) < EPOLL_EVENT.size:
        return "{...}"
    events, user = EPOLL_EVENT.unpack(data)
    return f"{{events={flags_of(events, 'EPOLL')}, data={{u32={user & 0xFFFF_FFFF}, u64={user}}}}}"


def _events(memory: _Memory, index: int) -> str:
    if memory.failed or not memory.has_returned:
        return _pointer(memory, index)
    data, _ = memory.at(index) or (b"", 0)
    count = len(data) // EPOLL_EVENT.size
    shown = [_event_text(data[start * EPOLL_EVENT.size : (start + 1) * EPOLL_EVENT.size]) for start in range(count)]
    return "[" + ", ".join([*shown, *(["..."] if memory.fields.result > count else [])]) + "]"


def _vectors(memory: _Memory, index: int) -> str:
    data, whole = memory.regions.get(PartOf.VECTORS, (b"", 0))
    if not data:
        return _pointer(memory, index) if memory.arguments[index] and not memory.has_returned else "[]"
    shown = []
    contents = list(memory.data)
    for address, length in _VECTOR.iter_unpack(data[: len(data) // _VECTOR.size * _VECTOR.size]):
        base = _string(*contents.pop(0)) if contents and length else '""' if address else "NULL"
        shown.append(f"{{iov_base={base}, iov_len={length}}}")
    return "[" + ", ".join([*shown, *(["..."] if whole > len(data) else [])]) + "]"


def _message(memory: _Memory, index: int) -> str:
    found = memory.regions.get(0) or memory.regions.get(PartOf.ENTRY)
    if found is None or len(found[0]) < _MESSAGE.size or (memory.failed and memory.name in RECEIVES):
        return _pointer(memory, index)
    name, length, _, count, _, control_length, flags = _MESSAGE.unpack(found[0])
    address = memory.regions.get(PartOf.NAME)
    entry = memory.regions.get(PartOf.ENTRY)
    before = _MESSAGE.unpack(entry[0])[1] if entry and len(entry[0]) == _MESSAGE.size else length
    shown = {
        "msg_name": _address_text(address[0], address[1]) if address and name else "NULL" if not name else hex(name),
        "msg_namelen": f"{before} => {length}" if before != length else str(length),
        "msg_iov": _vectors(memory, index),
        "msg_iovlen": str(count),
        "msg_controllen": str(control_length),
        "msg_flags": flags_of(flags & 0xFFFF_FFFF, "MSG_"),
    }
    return "{" + ", ".join(f"{key}={value}" for key, value in shown.items()) + "}"


def _messages(memory: _Memory, index: int) -> str:
    count = _signed(memory.fields.a2)
    more = ", ..." if count > 1 else ""
    length = f", msg_len={_moved(memory)}" if memory.has_returned and not memory.failed else ""
    return f"[{{msg_hdr={_message(memory, index)}{length}}}{more}]"


def _time(part: str) -> Shown:
    """struct timeval (`usec`) or struct timespec (`nsec`)."""

    def shown(memory: _Memory, index: int) -> str:
        found = memory.at(index)
        if found is None or len(found[0]) < _PAIR.size:
            return _pointer(memory, index)
        seconds, fraction = _PAIR.unpack(found[0])
        return f"{{tv_sec={seconds}, tv_{part}={fraction}}}"

    return shown


def _open_flags(value: int) -> str:
    mode = ("O_RDONLY", "O_WRONLY", "O_RDWR")[min(value & 3, 2)]
    rest = value & ~3 & ~0o100000  # O_LARGEFILE, which the kernel sets
    return f"{mode}|{flags_of(rest, 'O_')}" if rest else mode


def _command_argument(memory: _Memory, index: int) -> str:
    command, value = _signed(memory.fields.a1), memory.arguments[index]
    if command in (CONSTANTS["F_GETFL"], CONSTANTS["F_GETFD"]):
        return ""
    if command == CONSTANTS["F_SETFL"]:
        return _open_flags(value & 0xFFFF_FFFF)
    if command == CONSTANTS["F_SETFD"]:
        return flags_of(value & 0xFFFF_FFFF, "FD_")
    return _int(memory, index) if value < 1 << 32 else hex(value)


def _request(memory: _Memory, index: int) -> str:
    value = memory.arguments[index] & 0xFFFF_FFFF
    name = name_of(value, "FIO", "SIO")
    return hex(value) if name.isdecimal() else name


def _request_argument(memory: _Memory, index: int) -> str:
    found = memory.at(index)
    if found is None or memory.failed or _request(memory, 1) not in ("FIONBIO", "FIONREAD", "SIOCATMARK", "SIOCOUTQ"):
        return _pointer(memory, index)
    return f"[{_INT.unpack(found[0])[0]}]"


_ADDRESS_OUT = (_int, _filled_address, _filled_length(1))
_WRITTEN = (_int, _sent, _size)
_READ = (_int, _received, _size)
_EPOLL_WAIT = (_int, _events, _int, _int)
_ARGUMENTS: Mapping[str, tuple[Shown, ...]] = {
    "socket": (_named("AF_"), _kind, _protocol),
    "socketpair": (_named("AF_"), _kind, _protocol, _pair),
    "bind": (_int, _address, _int),
    "connect": (_int, _address, _int),
    "listen": (_int, _int),
    "shutdown": (_int, _named("SHUT_")),
    "accept": _ADDRESS_OUT,
    "accept4": (*_ADDRESS_OUT, _accept_flags),
    "getsockname": _ADDRESS_OUT,
    "getpeername": _ADDRESS_OUT,
    "setsockopt": (_int, _level, _option, _option_value, _int),
    "getsockopt": (_int, _level, _option, _option_value, _filled_length(3)),
    "sendto": (*_WRITTEN, _flags("MSG_"), _address, _int),
    "recvfrom": (*_READ, _flags("MSG_"), _filled_address, _filled_length(4)),
    "sendmsg": (_int, _message, _flags("MSG_")),
    "recvmsg": (_int, _message, _flags("MSG_")),
    "sendmmsg": (_int, _messages, _int, _flags("MSG_")),
    "recvmmsg": (_int, _messages, _int, _flags("MSG_"), _pointer),
    "read": _READ,
    "pread64": (*_READ, _size),
    "write": _WRITTEN,
    "pwrite64": (*_WRITTEN, _size),
    "readv": (_int, _vectors, _int),
    "writev": (_int, _vectors, _int),
    "sendfile": (_int, _int, _pointer, _size),
    "splice": (_int, _pointer, _int, _pointer, _size, _int),
    "close": (_int,),
    "dup": (_int,),
    "dup2": (_int, _int),
    "dup3": (_int, _int, _flags("O_")),
    "fcntl": (_int, _named("F_"), _command_argument),
    "ioctl": (_int, _request, _request_argument),
    "poll": (_pollfds, _size, _int),
    "ppoll": (_pollfds, _size, _time("nsec"), _pointer, _size),
    "select": (_int, _set, _set, _set, _timeout("usec")),
    "pselect6": (_int, _set, _set, _set, _timeout("nsec"), _pointer),
    "epoll_ctl": (_int, _operation, _int, _event),
    "epoll_wait": _EPOLL_WAIT,
    "epoll_pwait": (*_EPOLL_WAIT, _pointer, _size),
    "epoll_pwait2": (_int, _events, _int, _pointer, _pointer, _size),
}
