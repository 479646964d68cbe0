"""Check the typed values of calls before the run: options, control messages, and the structures in them.

The checker supplies what is known of an expression. A value that is known only at run time is not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from labctl.lab.agent.constants import CONSTANTS, ERRNOS, TCP_STATES
from labctl.lab.agent.options import (
    CMSG,
    CONTROL,
    MREQN,
    OPTIONS,
    SOCK_FILTER,
    TIMEVAL,
    Field,
    Option,
    Request,
    StructType,
    ValueKind,
    ValueType,
    ioctl_request,
    level_name,
    option_at,
    wants,
)
from labctl.scenario.language import syntax
from labctl.scenario.language.syntax import Kind, Known, Problem, constant, constants_in, may_fail

_MAC = r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){0,7}\Z"
_NUMBERS = (Kind.INTEGER, Kind.DESCRIPTOR)
_AGGREGATES = (Kind.STRUCT, Kind.LIST)
_TAKES: Mapping[ValueKind, tuple[Kind, ...]] = {
    ValueKind.NUMBER: _NUMBERS,
    ValueKind.WIDE: _NUMBERS,
    ValueKind.INTERFACE: (Kind.TEXT, *_NUMBERS),
    ValueKind.INTERFACE_BE: (Kind.TEXT, *_NUMBERS),
    ValueKind.TEXT: (Kind.TEXT,),
    ValueKind.BYTES: (),
    ValueKind.DURATION: (Kind.TEXT, *_NUMBERS, *_AGGREGATES),
    ValueKind.NUMBERS: (Kind.LIST,),
    ValueKind.STRUCT: _AGGREGATES,
    ValueKind.MEMBERSHIP: _AGGREGATES,
    ValueKind.MULTICAST_IF: (Kind.TEXT, *_AGGREGATES),
    ValueKind.FILTER: (Kind.LIST,),
}
_ADDRESS_CODES = ("ipv4", "ipv6", "group4", "group6")
# Members of structures, by their code; every other code takes a number.
_MEMBER_TAKES: Mapping[str, tuple[Kind, ...]] = {
    **dict.fromkeys(_ADDRESS_CODES, (Kind.TEXT, *_NUMBERS)),
    "interface": (Kind.TEXT, *_NUMBERS),
    "sockaddr": (Kind.TEXT, Kind.ADDRESS, *_AGGREGATES),
    "sockaddr_rest": (Kind.TEXT, Kind.ADDRESS, *_AGGREGATES),
    "mac": (Kind.TEXT,),
    "timespec": _AGGREGATES,
}
# The results of getsockopt; types that are not here are not checked.
_READS: Mapping[ValueKind, tuple[Kind, ...]] = {
    ValueKind.NUMBER: _NUMBERS,
    ValueKind.WIDE: _NUMBERS,
    ValueKind.TEXT: (Kind.TEXT,),
    ValueKind.DURATION: _NUMBERS,
    ValueKind.STRUCT: _AGGREGATES,
}
# The socket families and types that the options of a level need.
_LEVEL_NEEDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "IPPROTO_IP": (("AF_INET", "AF_INET6"), ()),
    "IPPROTO_IPV6": (("AF_INET6",), ()),
    "IPPROTO_TCP": (("AF_INET", "AF_INET6"), ("SOCK_STREAM",)),
    "IPPROTO_UDP": (("AF_INET", "AF_INET6"), ("SOCK_DGRAM",)),
    "SOL_PACKET": (("AF_PACKET",), ()),
    "SOL_NETLINK": (("AF_NETLINK",), ()),
}


KnownOf = Callable[[syntax.Expression], Known]


def _what_is_read(kind: ValueType) -> str:
    return "a number of milliseconds" if kind.kind is ValueKind.DURATION else kind.meaning


class ValueChecker:
    """Checks values by their types. `known_of` returns what is known of an expression; `hosts` are valid names."""

    def __init__(self, known_of: KnownOf, names: Mapping[str, Known], hosts: frozenset[str] | None) -> None:
        self.known_of = known_of
        self.names = names
        self.hosts = hosts

    def option(self, call: syntax.Call, socket: Known) -> Iterator[Problem]:
        """Yield every problem with the level, the option and the value of setsockopt or getsockopt."""
        _, level_given, option_given, *rest = call.arguments
        level, name = constant(level_given, self.names), constant(option_given, self.names)
        number = level_given.value if isinstance(level_given, syntax.Integer) else CONSTANTS.get(level)
        option = OPTIONS.get(name)
        if name and option is None:
            if number is None or option_at(number, CONSTANTS[name]) is not None:
                yield Problem(option_given.span, f"{call.name}: `{name}` is not an option")
            return
        if option is None:
            if number is not None and isinstance(option_given, syntax.Integer):
                option = option_at(number, option_given.value)
            if option is None:
                return
        elif number is not None and number not in option.levels and not may_fail(call):
            levels = " and ".join(level_name(each) for each in option.levels)
            problem = f"{call.name}: {name} is an option of {levels}, not of {level or number}"
            yield Problem(level_given.span, problem, f"write {levels.partition(' ')[0]}")
            return
        if not may_fail(call):
            yield from self._socket_for(call, option, socket)
        if call.name == "setsockopt" and rest:
            yield from self.value(option.name, option.type, rest[0])
        elif call.name == "getsockopt" and not rest:
            for item in call.modifiers.expected:
                if not isinstance(item, syntax.Blocks | syntax.StaysPending):
                    yield from self._read(option.name, option.type, item)

    def _read(self, name: str, kind: ValueType, expected: syntax.Expression) -> Iterator[Problem]:
        """Yield a problem if the option cannot have the expected value because its kind differs."""
        reads = _READS.get(kind.kind)
        found = self.known_of(expected).kind
        if reads is None or found is Kind.UNKNOWN or constant(expected, self.names):
            return
        if isinstance(expected, syntax.Name) and expected.name in ERRNOS:
            return
        if found not in reads:
            usage = f"write `-> {kind.usage}`" if kind.usage and kind.kind is not ValueKind.DURATION else ""
            yield Problem(expected.span, f"getsockopt: {name} is {_what_is_read(kind)}, never {found}", usage)
        elif kind.struct is not None:
            yield from self.members(name, kind.struct, expected, kind.usage)

    def _socket_for(self, call: syntax.Call, option: Option, socket: Known) -> Iterator[Problem]:
        needs = [_LEVEL_NEEDS[name] for level in option.levels if (name := level_name(level)) in _LEVEL_NEEDS]
        for given, choices in ((socket.family, 0), (socket.type, 1)):
            allowed = {choice for need in needs for choice in need[choices]}
            if given and allowed and given not in allowed:
                wanted = " or ".join(sorted(allowed))
                problem = f"{call.name}: {option.name} is for sockets of {wanted}; this is a socket of {given}"
                yield Problem(call.arguments[2].span, problem, "or expect the errno")
                return

    def request(self, call: syntax.Call) -> Iterator[Problem]:
        """Yield every problem with the argument of an ioctl request."""
        name = constant(call.arguments[1], self.names)
        if not name:
            return
        request = ioctl_request(CONSTANTS[name])
        if request.name.startswith("0x"):
            yield Problem(call.arguments[1].span, f"ioctl: labctl cannot make the request {name}", "see the reference")
        elif len(call.arguments) < 3:
            if request.usage:
                yield Problem(call.span, f"ioctl: {name} takes {request.usage}", f"ioctl(s, {name}, {request.usage})")
        else:
            kind = self.known_of(call.arguments[2]).kind
            if kind not in (Kind.UNKNOWN, *_request_kinds(request)):
                hint = f"write {request.usage}" if request.usage else "it takes nothing"
                yield Problem(call.arguments[2].span, f"ioctl: {name} does not take {kind}", hint)

    def control(self, messages: syntax.Expression) -> Iterator[Problem]:
        """Yield every problem with the control messages of sendmsg."""
        kind = self.known_of(messages).kind
        if kind not in (Kind.UNKNOWN, Kind.LIST, Kind.DATA):
            yield Problem(messages.span, f"control= takes a list of control messages, not {kind}", f"[{CMSG.usage}]")
        if not isinstance(messages, syntax.ListOf):
            return
        for message in messages.items:
            if not isinstance(message, syntax.StructOf | syntax.ListOf):
                kind = self.known_of(message).kind
                if kind not in (Kind.UNKNOWN, *_AGGREGATES):
                    yield Problem(message.span, f"a control message is {{level, type, data}}, not {kind}", CMSG.usage)
                continue
            members = _members(message, CMSG)
            if set(members) != {"cmsg_level", "cmsg_type", "cmsg_data"}:
                yield Problem(message.span, "a control message has three members: level, type and data", CMSG.usage)
                continue
            yield from self._control_message(members)

    def _control_message(self, members: Mapping[str, syntax.Expression]) -> Iterator[Problem]:
        level, name = constant(members["cmsg_level"], self.names), constant(members["cmsg_type"], self.names)
        option = CONTROL.get(name)
        if name and option is None:
            if name.startswith("SCM_") or name in OPTIONS or not name.startswith(("SO_", "IP")):
                yield Problem(
                    members["cmsg_type"].span, f"`{name}` is not a type of control message", "such as SCM_RIGHTS"
                )
        elif option is not None:
            if level and CONSTANTS[level] not in option.levels:
                right = level_name(option.levels[0])
                yield Problem(members["cmsg_level"].span, f"{name} belongs to the level {right}, not {level}")
            yield from self.value(name, option.type, members["cmsg_data"])

    def value(self, name: str, kind: ValueType, argument: syntax.Expression) -> Iterator[Problem]:
        """Yield every problem with a value of that type; bytes are passed unchecked."""
        found = self.known_of(argument).kind
        if found in (Kind.UNKNOWN, Kind.DATA):
            return
        if found not in _TAKES[kind.kind]:
            yield Problem(argument.span, f"{name} takes {kind.meaning}, not {found}", f"write {kind.usage}")
            return
        match kind.kind:
            case ValueKind.NUMBER if kind.names:
                yield from self._constants(name, kind.names, argument)
            case ValueKind.DURATION:
                yield from _duration(name, argument)
                yield from self.members(name, TIMEVAL, argument, kind.usage)
            case ValueKind.STRUCT if kind.struct is not None:
                yield from self.members(name, kind.struct, argument, kind.usage)
            case ValueKind.MEMBERSHIP:
                yield from self.members(name, MREQN, argument, kind.usage)
            case ValueKind.MULTICAST_IF if isinstance(argument, syntax.StructOf):
                yield from self.members(name, MREQN, argument, kind.usage)
            case ValueKind.NUMBERS if isinstance(argument, syntax.ListOf):
                for item in argument.items:
                    if (inner := self.known_of(item).kind) not in (Kind.UNKNOWN, *_NUMBERS):
                        what = "descriptors" if name == "SCM_RIGHTS" else "numbers"
                        yield Problem(item.span, f"{name} takes a list of {what}; this is {inner}")
            case ValueKind.FILTER if isinstance(argument, syntax.ListOf):
                for item in argument.items:
                    yield from self.members(name, SOCK_FILTER, item, kind.usage)

    def members(self, name: str, kind: StructType, argument: syntax.Expression, usage: str) -> Iterator[Problem]:
        """Yield every problem with the members of a literal structure."""
        if not isinstance(argument, syntax.StructOf | syntax.ListOf):
            return
        given = _members(argument, kind)
        known = {field.name for field in kind.fields} | ({"imr_interface"} if kind is MREQN else set())
        unknown = [member for member in given if member not in known]
        if unknown:
            has = ", ".join(field.name for field in kind.fields)
            yield Problem(argument.span, f"{name}: {kind.name} has no member {unknown[0]}", f"it has {has}")
            return
        positional = isinstance(argument, syntax.ListOf) or not argument.members or not argument.members[0][0]
        if len(given) < (kind.required if positional else min(kind.required, 1)):
            yield Problem(argument.span, f"{name}: {kind.name} lacks members", f"write {usage}")
        for field in kind.fields:
            if (item := given.get(field.name)) is not None:
                yield from self._member(name, field, item)

    def _member(self, name: str, field: Field, item: syntax.Expression) -> Iterator[Problem]:
        kind, code = self.known_of(item).kind, field.code
        if kind in (Kind.UNKNOWN, Kind.DATA):
            return
        text = item.value if isinstance(item, syntax.Text) and "${" not in item.value else None
        takes = () if code.startswith("bytes:") else _MEMBER_TAKES.get(code, _NUMBERS)
        wrong = kind not in takes
        if code in _ADDRESS_CODES:
            wrong = wrong or (isinstance(item, syntax.Integer) and item.value != 0)
            if text is not None:
                yield from self._address(name, field, item, text)
        elif code == "mac":
            wrong = wrong or (text is not None and not re.match(_MAC, text))
        elif not wrong and field.names and code not in _MEMBER_TAKES:
            yield from self._constants(f"{name}: {field.name}", field.names, item)
        if wrong:
            yield Problem(item.span, f"{name}: {field.name} cannot be {kind}", wants(field))

    def _address(self, name: str, field: Field, item: syntax.Expression, text: str) -> Iterator[Problem]:
        address: IPv4Address | IPv6Address | None
        try:
            address = ip_address(text)
        except ValueError:
            address = None
        version = 6 if field.code.endswith("6") else 4
        if address is None:
            group = field.code.startswith("group")
            # An interface's name may stand where struct ip_mreqn has an address.
            if group or (field.name != "imr_address" and self.hosts is not None and text not in self.hosts):
                what = "a multicast address" if group else "an address or a host"
                yield Problem(item.span, f'{name}: {field.name}: "{text}" is not {what}')
        elif address.version != version:
            yield Problem(item.span, f"{name}: {field.name}: {text} is not an IPv{version} address")
        elif field.code.startswith("group") and not address.is_multicast:
            example = "239.1.1.1" if version == 4 else "ff05::1"
            yield Problem(item.span, f"{name}: {text} is not a multicast address", f"such as {example}")

    def _constants(self, what: str, prefix: str, argument: syntax.Expression) -> Iterator[Problem]:
        allowed = TCP_STATES if prefix == "TCP_" else (prefix,)
        for name in constants_in(argument):
            is_other = constant(name, self.names) and not name.name.startswith(allowed)
            if is_other and not (prefix == "E" and name.name in ERRNOS):
                yield Problem(name.span, f"{what}: `{name.name}` is not a valid value", f"it takes {prefix}...")


def _request_kinds(request: Request) -> tuple[Kind, ...]:
    if not request.member:
        return () if request.gives else _NUMBERS
    return (Kind.TEXT,) if request.gives and request.code != "name" else _AGGREGATES


def _duration(name: str, argument: syntax.Expression) -> Iterator[Problem]:
    from labctl.units import duration_s

    if isinstance(argument, syntax.Integer) and argument.value:
        yield Problem(argument.span, f"{name}: a timeout needs a unit", f'write "{argument.value}ms"')
    if isinstance(argument, syntax.Text) and "${" not in argument.value:
        try:
            duration_s(argument.value)
        except ValueError as error:
            yield Problem(argument.span, f"{name}: {error}")


def _members(argument: syntax.StructOf | syntax.ListOf, kind: StructType) -> dict[str, syntax.Expression]:
    """Return the members by name; those beyond the structure have a number as name."""
    items = argument.members if isinstance(argument, syntax.StructOf) else tuple(("", item) for item in argument.items)
    names = [field.name for field in kind.fields]
    return {
        name or (names[index] if index < len(names) else f"number {index + 1}"): item
        for index, (name, item) in enumerate(items)
    }
