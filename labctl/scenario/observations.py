"""What `expect` sees of a host: the kernel's answers (`labctl.observe`) compared with what a condition asks for.

Expectations of numbers and texts, decided: PURE functions that say what is wrong, or nothing.

Each returns `""` when the expectation holds, else one line: what was expected and what came instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface, ip_network
from typing import TYPE_CHECKING

from labctl.errors import KernelError
from labctl.patterns import SEARCH_WALL_S, TooSlow, search
from labctl.scenario.file_schema import (
    EndpointPattern,
    ListeningAt,
    Protocol,
    TcpState,
    fits,
    parse_address,
    parse_endpoint,
    parse_state,
)
from labctl.scenario.state import Run, StepFailed, StepRun

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.network import Counters, Socket
    from labctl.observe.ping import Echo
    from labctl.scenario.file_schema import Connection, NumberMatch, Reach, RouteCondition, TextMatch
    from labctl.scenario.model import Scenario


SHOWN_CHARACTERS = 300


def number_mismatch(expected: NumberMatch, value: int | float) -> str:
    """`expected 1; got 3`."""
    wanted = describe_number(expected)
    holds = (
        (expected.equals is None or value == expected.equals)
        and (expected.not_ is None or value != expected.not_)
        and (expected.at_least is None or value >= expected.at_least)
        and (expected.at_most is None or value <= expected.at_most)
    )
    return "" if holds else f"expected {wanted}; got {value}"


def describe_number(expected: NumberMatch) -> str:
    """`at least 1 and at most 5`."""
    parts = []
    if expected.equals is not None:
        parts.append(str(expected.equals))
    if expected.not_ is not None:
        parts.append(f"not {expected.not_}")
    if expected.at_least is not None:
        parts.append(f"at least {expected.at_least}")
    if expected.at_most is not None:
        parts.append(f"at most {expected.at_most}")
    return " and ".join(parts) or "any number"


def text_mismatch(expected: TextMatch, text: str, wall_s: float = SEARCH_WALL_S) -> str:
    """`expected to contain 'x'; got 'y'`. StepFailed when `matches` is not decided within bounds, `wall_s` or less."""
    if expected.equals is not None and _line(text) != _line(expected.equals):
        return f"expected {shown(expected.equals)}; got {shown(text)}"
    for part in expected.contains or ():
        if part not in text:
            return f"expected to contain {shown(part)}; got {shown(text)}"
    for part in expected.not_contains or ():
        if part in text:
            return f"expected not to contain {shown(part)}; got {shown(text)}"
    if expected.matches is not None:
        try:
            found = search(expected.matches, text, re.MULTILINE, wall_s=wall_s)
        except TooSlow as error:
            raise StepFailed(str(error)) from error
        if not found:
            return f"expected to match /{expected.matches}/; got {shown(text)}"
    if "json" in expected.given:
        return _json_mismatch(expected.json_, text)
    return ""


def subset_mismatch(expected: object, value: object, where: str = "") -> str:
    """What of `expected` is not in `value`: objects may have more keys, lists are as long, all else is equal."""
    place = where or "the document"
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return f"expected {place} to be an object; got {_shown_json(value)}"
        for key, inner in expected.items():
            path = f"{where}.{key}" if where else str(key)
            if key not in value:
                return f"expected {path}; got only the keys {', '.join(map(str, value)) or '(none)'}"
            wrong = subset_mismatch(inner, value[key], path)
            if wrong:
                return wrong
        return ""
    if isinstance(expected, list):
        if not isinstance(value, list) or len(value) != len(expected):
            return f"expected {place} to be a list of {len(expected)}; got {_shown_json(value)}"
        wrongs = (subset_mismatch(inner, value[i], f"{where}[{i}]") for i, inner in enumerate(expected))
        return next((wrong for wrong in wrongs if wrong), "")
    if value != expected or isinstance(value, bool) != isinstance(expected, bool):
        return f"expected {place} to be {_shown_json(expected)}; got {_shown_json(value)}"
    return ""


def shown(text: str) -> str:
    """The text as a literal, shortened in the middle when it is long."""
    if not text:
        return "nothing"
    if len(text) <= SHOWN_CHARACTERS:
        return repr(text)
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]!r} ... {text[-half:]!r} ({len(text)} characters)"


def _shown_json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ... ({len(text)} characters)"


def _line(text: str) -> str:
    return text[:-1] if text.endswith("\n") else text


def _json_mismatch(expected: object, text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"expected JSON; got {shown(text)} ({error})"
    return subset_mismatch(expected, value)


IpAddress = IPv4Address | IPv6Address

ECHO_S = 0.5  # for the answer to an echo request, before it is asked again
NO_ECHO_S = 0.3  # silence that counts as unreachable
SHOWN = 8


# sockets


def sockets(run: Run, host: str, protocol: Protocol) -> tuple[Socket, ...]:
    """The host's sockets of one protocol."""
    from labctl.observe.network import Transport
    from labctl.observe.network import sockets as every_socket

    return every_socket(run.lab, host, (Transport(protocol),))


def listening(run: Run, host: str, where: ListeningAt) -> list[Socket]:
    """The sockets that listen (UDP: are bound) exactly there."""
    return [one for one in sockets(run, host, where.protocol) if one.listening and _is_at(run, one, where)]


def half_open(run: Run, host: str, where: ListeningAt) -> int:
    """How many connection requests towards that end have not finished their handshake."""
    return sum(socket.half_open and _is_at(run, socket, where) for socket in sockets(run, host, where.protocol))


def listed_listening(run: Run, host: str, protocol: Protocol) -> str:
    """What listens with that protocol, for people; "" when nothing does."""
    found = [_where(socket) for socket in sockets(run, host, protocol) if socket.listening]
    return ", ".join(found[:SHOWN])


def connections(run: Run, host: str, wanted: Connection) -> list[Socket]:
    """The sockets with the wanted ends and state; without a wanted state, all but those that wait for connections.

    A bound datagram socket has no state of its own for that: it is one of the sockets.
    """
    return [socket for socket in _with_ends(run, host, wanted) if _in_state(socket, wanted.state)]


def nearly(run: Run, host: str, wanted: Connection) -> list[Socket]:
    """What to show when no socket is as wanted: those with the wanted ends, else all of the protocol."""
    return _with_ends(run, host, wanted) or list(sockets(run, host, wanted.protocol))


def described(socket: Socket) -> str:
    """A socket for people, with its queues."""
    if socket.accept_queue is not None:
        return str(socket)
    return f"{socket} (receive queue {socket.receive_queue}, send queue {socket.send_queue})"


def wanted_text(wanted: Connection) -> str:
    """`tcp server:5000 -> client:* ESTABLISHED`."""
    state = f" {parse_state(wanted.state)}" if wanted.state else ""
    if wanted.protocol is not Protocol.TCP:
        state = state.replace("CLOSE", "UNCONN")
    queues = "".join(
        f", {name.replace('_', ' ')} {_number(match)}"
        for name, match in (("receive_queue", wanted.receive_queue), ("send_queue", wanted.send_queue))
        if match is not None
    )
    return f"{wanted.protocol} {wanted.local or '*:*'} -> {wanted.peer or '*:*'}{state}{queues}"


def _number(match: NumberMatch) -> str:

    return describe_number(match)


def _where(socket: Socket) -> str:
    if socket.path:
        return f"unix/{socket.path}"
    return str(ListeningAt(Protocol(socket.transport), socket.local_port, str(socket.local)))


def _is_at(run: Run, socket: Socket, where: ListeningAt) -> bool:
    from labctl.observe.services import is_at

    return is_at(socket, where, lambda name: addresses_of(run, name))


def _with_ends(run: Run, host: str, wanted: Connection) -> list[Socket]:
    local = parse_endpoint(wanted.local) if wanted.local else EndpointPattern()
    peer = parse_endpoint(wanted.peer) if wanted.peer else EndpointPattern()
    found = sockets(run, host, wanted.protocol)
    if wanted.protocol is Protocol.UNIX:
        paths = {socket.inode: socket.path for socket in found}
        return [
            socket
            for socket in found
            if local.host in (None, socket.path)
            and (peer.host is None or (socket.peer_inode and paths.get(socket.peer_inode) == peer.host))
        ]
    return [
        socket
        for socket in found
        if (_fits(run, local, socket.local, socket.local_port, socket.interface) or _bound_to_any(run, local, socket))
        and _fits(run, peer, socket.peer, socket.peer_port, socket.interface)
    ]


def _in_state(socket: Socket, state: str | None) -> bool:
    if state is None:
        return socket.state.name != TcpState.LISTEN
    return socket.state.name == parse_state(state).value


def _fits(run: Run, wanted: EndpointPattern, address: IpAddress | None, port: int, interface: tuple[str, ...]) -> bool:
    if wanted.port is not None and wanted.port != port:
        return False
    return wanted.host is None or any(fits(each, address, interface) for each in addresses_of(run, wanted.host))


def _bound_to_any(run: Run, wanted: EndpointPattern, socket: Socket) -> bool:
    """Whether a socket that is bound to any address takes what is sent to one of the wanted ones."""
    if wanted.host is None or wanted.port not in (None, socket.local_port):
        return False
    return any(socket.takes(each) for each in addresses_of(run, wanted.host))


def addresses_of(run: Run, name: str) -> tuple[IpAddress, ...]:
    """The addresses that a node's name or a written address stands for. StepFailed for neither."""
    address = parse_address(name)
    if address is not None:
        return (address,)
    topology = run.scenario.topology
    if name not in topology:
        raise StepFailed(f"`{name}` is neither an address nor a node of {topology.name}")
    return tuple(topology.node(name).addresses)


# counters


def counters_at_start(lab: Lab, scenario: Scenario) -> dict[str, Counters]:
    """The counters, by host, of those hosts whose counters some step looks at."""
    from labctl.scenario.model import StepKind

    expected = [step.body for step in scenario.walk() if step.kind is StepKind.EXPECT]
    hosts = {body.on for body in expected if body.counters is not None}
    if not hosts:
        return {}
    from labctl.observe.network import counters

    known = [node.name for node in scenario.topology.nodes]
    wanted = [name for name in known if name in hosts] if hosts <= set(known) else known
    return {name: counters(lab, name) for name in wanted}


def counters_since_start(run: Run, host: str) -> Counters:
    """How much each of the host's counters has grown since the scenario's start."""
    from labctl.observe.network import counters

    return counters(run.lab, host) - run.counters[host]


# reachability


def reach_mismatch(at: StepRun, host: str, reach: Reach, *, wanted: bool) -> str:
    """What is wrong with whether `host` gets an answer to an echo request, or "".

    A node is reached when one of its addresses answers, as a name stands for all of them, in each family that both
    nodes have; it is not reached when none answers.
    """
    found = addresses_of(at.run, reach.node)
    addresses = [one for one in found if reach.family is None or f"ipv{one.version}" == reach.family]
    if not addresses:
        raise StepFailed(f"{reach.node} has no {reach.family or ''} address to reach".replace("  ", " "))
    if not wanted:
        answers = [_echo(at, host, reach.node, address, NO_ECHO_S) for address in addresses]
        return _reach_text(at, reach.node, host, [answer for answer in answers if answer.reached], wanted="unreachable")
    own = {address.version for address in at.run.scenario.topology.node(host).addresses}
    versions = sorted({one.version for one in addresses})
    silent: list[Echo] = []
    for version in [version for version in versions if version in own] or versions:
        tried: list[Echo] = []
        for address in (one for one in addresses if one.version == version):
            tried.append(_echo(at, host, reach.node, address, ECHO_S))
            if tried[-1].reached:
                break
        else:
            silent += tried
    return _reach_text(at, reach.node, host, silent, wanted="reachable")


def _echo(at: StepRun, host: str, name: str, address: IpAddress, deadline_s: float) -> Echo:
    from labctl.observe.ping import reach as echo

    at.scope.check()
    target = name if name in at.run.scenario.topology else ""
    return echo(at.lab, host, address, target=target, deadline_s=deadline_s, requests=1)


def icmp_error(at: StepRun, host: str, endpoint: str) -> str:
    """The ICMP error that an echo request to there meets, to be added to a failed call's reason; "" when none.

    The call itself has only an errno: "No route to host" is that of several errors.
    """
    try:
        name = parse_endpoint(endpoint).host or ""
        addresses = addresses_of(at.run, name)
        echoes = [_echo(at, host, name, address, NO_ECHO_S) for address in addresses if not address.is_link_local]
    except (ValueError, StepFailed, KernelError):
        return ""
    told = [f"an echo request to {echo.describe(_nodes(at))}" for echo in echoes if echo.error is not None]
    return f" ({'; '.join(told)})" if told else ""


def refusal(run: Run, host: str, endpoint: str) -> str:
    """Where the refusing node listens on that port instead, to be added to a failed call's reason; "" when nowhere."""
    from labctl.observe.services import why_refused

    try:
        pattern = parse_endpoint(endpoint)
        wanted = addresses_of(run, pattern.host or "")
        owners = [(host, address) for address in wanted if address.is_loopback]
        for node in run.scenario.topology.nodes:
            owners += [(node.name, each) for each in node.addresses if any(fits(one, each) for one in wanted)]
        for owner, address in owners:
            if why := why_refused(run.lab, owner, address, pattern.port or 0):
                return f" ({why})"
    except (ValueError, StepFailed, KernelError):
        pass
    return ""


def _nodes(at: StepRun) -> dict[str, str]:
    """The names of nodes by address."""
    return {str(address): each.name for each in at.run.scenario.topology.nodes for address in each.addresses}


def _reach_text(at: StepRun, node: str, host: str, wrongs: list[Echo], *, wanted: str) -> str:
    if not wrongs:
        return ""
    return f"expected {node} to be {wanted} from {host}; {', '.join(echo.describe(_nodes(at)) for echo in wrongs)}"


# routes and addresses


def route_mismatch(run: Run, host: str, wanted: RouteCondition) -> str:
    """What is wrong with the host's route to that prefix, or ""."""
    from labctl.observe.network import routes

    found = routes(run.lab, host)
    prefixes = ("0.0.0.0/0", "::/0") if wanted.to == "default" else (wanted.to,)
    networks = [ip_network(prefix, strict=False) for prefix in prefixes]
    fitting = [route for route in found if route.is_plain and route.destination in networks]
    if wanted.via is not None:
        gateways = addresses_of(run, wanted.via)
        hops = {route: route.hops for route in fitting}
        fitting = [
            route
            for route, there in hops.items()
            if any(fits(each, hop.gateway, (hop.ifname,)) for each in gateways for hop in there)
        ]
    if fitting:
        return ""
    via = f" via {wanted.via}" if wanted.via else ""
    return f"expected a route to {wanted.to}{via} on {host}; there is {_listed(found) or 'none at all'}"


def address_mismatch(run: Run, host: str, wanted: str) -> str:
    """What is wrong with whether the host has that address (with a prefix length: exactly so), or ""."""
    from labctl.observe.network import addresses

    found = addresses(run.lab, host)
    interface = ip_interface(wanted)
    has: Iterable[IPv4Interface | IPv6Interface | IpAddress] = (
        [one.address for one in found] if "/" in wanted else [one.address.ip for one in found]
    )
    looked_for: IPv4Interface | IPv6Interface | IpAddress = interface if "/" in wanted else interface.ip
    if looked_for in has:
        return ""
    return f"expected the address {wanted} on {host}; there is {_listed(found)}"


def _listed(found: Iterable[object]) -> str:
    shown = [str(one) for one in found]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
