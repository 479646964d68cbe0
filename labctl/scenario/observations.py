"""What the kernel reports about a host, compared with conditions of `expect`.

Compare numbers, texts and JSON with the conditions of a scenario.

Each function returns "" if the condition holds, else one line: what was expected and what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import TYPE_CHECKING

from labctl.errors import KernelError
from labctl.patterns import SEARCH_WALL_S, TooSlow, search
from labctl.scenario.state import Run, StepFailed, StepRun
from labctl.topology.endpoints import (
    EndpointPattern,
    IpAddress,
    ListeningAt,
    Protocol,
    TcpState,
    fits,
    parse_address,
    parse_endpoint,
    parse_state,
)

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.network import Counters, Socket
    from labctl.observe.ping import EchoResult
    from labctl.scenario.file_schema import Connection, NumberMatch, Reach, RouteCondition, TextMatch
    from labctl.scenario.model import Scenario


SHOWN_CHARACTERS = 300


def number_mismatch(expected: NumberMatch, value: int | float) -> str:
    """Return `expected 1; got 3`, or ""."""
    holds = (
        (expected.equals is None or value == expected.equals)
        and (expected.not_ is None or value != expected.not_)
        and (expected.at_least is None or value >= expected.at_least)
        and (expected.at_most is None or value <= expected.at_most)
    )
    return "" if holds else f"expected {describe_number(expected)}; got {value}"


def describe_number(expected: NumberMatch) -> str:
    """Return `at least 1 and at most 5`."""
    words = {"equals": "", "not": "not ", "at_least": "at least ", "at_most": "at most "}
    parts = [f"{words[key]}{expected.values[key]}" for key in words if key in expected.values]
    return " and ".join(parts) or "any number"


def text_mismatch(expected: TextMatch, text: str, wall_s: float = SEARCH_WALL_S) -> str:
    """Return `expected to contain 'x'; got 'y'`, or "".

    Raises: StepFailed if the search for `matches` exceeds its limits, at most `wall_s`.
    """
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
    """Return the first difference, or "". Objects may have more keys than expected; everything else must be equal."""
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
    """Return the text as a literal, a long one without its middle."""
    if not text:
        return "nothing"
    if len(text) <= SHOWN_CHARACTERS:
        return repr(text)
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]!r} ... {text[-half:]!r} ({len(text)} characters)"


def _shown_json(value: object) -> str:
    import json

    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ... ({len(text)} characters)"


def _line(text: str) -> str:
    return text[:-1] if text.endswith("\n") else text


def _json_mismatch(expected: object, text: str) -> str:
    import json

    try:
        value = json.loads(text)
    except ValueError as error:
        return f"expected JSON; got {shown(text)} ({error})"
    return subset_mismatch(expected, value)


_SILENCE_S = 1.0  # no reply to two requests in this time and a round trip counts as unreachable
_LONGEST_ROUND_TRIP_S = 2.0
SHOWN = 8


# sockets


def sockets(run: Run, host: str, protocol: Protocol) -> tuple[Socket, ...]:
    """Return the sockets of one protocol on the host."""
    from labctl.observe.network import Transport
    from labctl.observe.network import sockets as every_socket

    return every_socket(run.lab, host, (Transport(protocol),))


def listening(run: Run, host: str, where: ListeningAt) -> list[Socket]:
    """Return the sockets that listen (UDP: are bound) exactly there."""
    return [one for one in sockets(run, host, where.protocol) if one.listening and _is_at(run, one, where)]


def half_open(run: Run, host: str, where: ListeningAt) -> int:
    """Count the connection requests to that address that have not finished their handshake."""
    return sum(socket.half_open and _is_at(run, socket, where) for socket in sockets(run, host, where.protocol))


def listed_listening(run: Run, host: str, protocol: Protocol) -> str:
    """Return the listeners of that protocol for a message; "" if there are none."""
    found = [
        f"unix/{one.path}" if one.path else str(ListeningAt(protocol, one.local_port, str(one.local)))
        for one in sockets(run, host, protocol)
        if one.listening
    ]
    return ", ".join(found[:SHOWN])


def _is_at(run: Run, socket: Socket, where: ListeningAt) -> bool:
    from labctl.observe.services import is_at

    return is_at(socket, where, lambda name: addresses_of(run, name))


def connections(run: Run, host: str, wanted: Connection) -> list[Socket]:
    """Return the sockets with the wanted ends and state; without a wanted state, all that do not listen.

    A bound datagram socket does not count as a listener here.
    """
    state = parse_state(wanted.state).value if wanted.state is not None else None
    return [
        socket
        for socket in with_ends(run, host, wanted)
        if (socket.state.name == state if state else socket.state.name != TcpState.LISTEN)
    ]


def with_ends(run: Run, host: str, wanted: Connection) -> list[Socket]:
    """Return the sockets with the wanted ends, in any state."""
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


def _fits(run: Run, wanted: EndpointPattern, address: IpAddress | None, port: int, interface: tuple[str, ...]) -> bool:
    if wanted.port is not None and wanted.port != port:
        return False
    return wanted.host is None or any(fits(each, address, interface) for each in addresses_of(run, wanted.host))


def _bound_to_any(run: Run, wanted: EndpointPattern, socket: Socket) -> bool:
    """Return whether a socket bound to the wildcard address receives what is sent to one of the wanted addresses."""
    if wanted.host is None or wanted.port not in (None, socket.local_port):
        return False
    return any(socket.takes(each) for each in addresses_of(run, wanted.host))


def described(socket: Socket) -> str:
    """Return a socket with its queues, for a message."""
    if socket.accept_queue is not None:
        return str(socket)
    return f"{socket} (receive queue {socket.receive_queue}, send queue {socket.send_queue})"


def wanted_text(wanted: Connection) -> str:
    """Return `tcp server:5000 -> client:* ESTABLISHED`."""
    state = f" {parse_state(wanted.state)}" if wanted.state else ""
    if wanted.protocol is not Protocol.TCP:
        state = state.replace("CLOSE", "UNCONN")
    queues = "".join(
        f", {name} {describe_number(match)}"
        for name, match in (("receive queue", wanted.receive_queue), ("send queue", wanted.send_queue))
        if match is not None
    )
    return f"{wanted.protocol} {wanted.local or '*:*'} -> {wanted.peer or '*:*'}{state}{queues}"


def addresses_of(run: Run, name: str) -> tuple[IpAddress, ...]:
    """Return the addresses of a node, or a literal address.

    Raises: StepFailed for anything else.
    """
    address = parse_address(name)
    if address is not None:
        return (address,)
    topology = run.scenario.topology
    if name not in topology:
        raise StepFailed(f"`{name}` is neither an address nor a node of {topology.name}")
    return tuple(topology.node(name).addresses)


# counters


def counters_at_start(lab: Lab, scenario: Scenario) -> dict[str, Counters]:
    """Return the counters, by host, of the hosts whose counters some step checks."""
    from labctl.scenario.file_schema import ExpectBody

    expected = [step.body for step in scenario.walk() if isinstance(step.body, ExpectBody)]
    hosts = {body.on for body in expected if body.counters is not None}
    if not hosts:
        return {}
    from labctl.observe.network import counters

    known = [node.name for node in scenario.topology.nodes]
    # A name may come from a variable: then any node may be meant.
    return {name: counters(lab, name) for name in known if name in hosts or not hosts <= set(known)}


def counters_since_start(run: Run, host: str) -> Counters:
    """Return the increase of the host's counters since the start of the scenario."""
    from labctl.observe.network import counters

    return counters(run.lab, host) - run.counters[host]


# reachability


def reach_mismatch(at: StepRun, host: str, reach: Reach, *, wanted: bool) -> str:
    """Return what is wrong with the reachability of a node from `host`, or "".

    A node is reachable if one of its addresses answers in each family that both nodes have, because a name stands for
    all of them; it is unreachable if none answers.
    """
    found = addresses_of(at.run, reach.node)
    addresses = [one for one in found if reach.family is None or f"ipv{one.version}" == reach.family]
    if not addresses:
        raise StepFailed(f"{reach.node} has no {reach.family or ''} address to reach".replace("  ", " "))
    if not wanted:
        echoes = [_echo(at, host, reach.node, address) for address in addresses]
        wrong = [echo for echo in echoes if echo.reached]
    else:
        own = {address.version for address in at.run.scenario.topology.node(host).addresses}
        versions = sorted({one.version for one in addresses})
        wrong = []
        for version in [version for version in versions if version in own] or versions:
            tried: list[EchoResult] = []
            for address in (one for one in addresses if one.version == version):
                tried.append(_echo(at, host, reach.node, address))
                if tried[-1].reached:
                    break
            else:
                wrong += tried
    if not wrong:
        return ""
    shown = ", ".join(echo.describe(_node_names(at)) for echo in wrong)
    return f"expected {reach.node} to be {'' if wanted else 'un'}reachable from {host}; {shown}"


def _echo(at: StepRun, host: str, name: str, address: IpAddress) -> EchoResult:
    from labctl.observe.ping import reach as echo

    at.scope.check()
    topology = at.run.scenario.topology
    deadline_s = _SILENCE_S + min(topology.longest_round_trip_s, _LONGEST_ROUND_TRIP_S)
    return echo(at.lab, host, address, target=name if name in topology else "", deadline_s=deadline_s, requests=2)


def icmp_error(at: StepRun, host: str, endpoint: str) -> str:
    """Return the ICMP error that an echo request to there meets, to follow the reason of a failed call; "" if none.

    The call itself has only an errno: "No route to host" stands for several errors.
    """
    try:
        name = parse_endpoint(endpoint).host or ""
        wanted = [address for address in addresses_of(at.run, name) if not address.is_link_local]
        echoes = [_echo(at, host, name, address) for address in wanted]
    except (ValueError, StepFailed, KernelError):
        return ""
    shown = [f"an echo request to {echo.describe(_node_names(at))}" for echo in echoes if echo.error is not None]
    return f" ({'; '.join(shown)})" if shown else ""


def _node_names(at: StepRun) -> dict[str, str]:
    """Return the names of nodes by address."""
    return {str(address): each.name for each in at.run.scenario.topology.nodes for address in each.addresses}


# routes and addresses


def route_mismatch(run: Run, host: str, wanted: RouteCondition) -> str:
    """Return what is wrong with the host's route to that prefix, or ""; to an address, with the one that it uses."""
    from labctl.observe.network import routes, routes_to

    gateways = None if wanted.via is None else addresses_of(run, wanted.via)
    vrfs = run.scenario.topology.node(host).vrfs
    table = wanted.table
    if wanted.vrf is not None:
        if wanted.vrf not in vrfs:
            raise StepFailed(f"{host} has no VRF {wanted.vrf}")
        table = str(vrfs[wanted.vrf])
    matching = [
        route
        for route in routes_to(run.lab, host, wanted.to, table=table, kind=wanted.kind.value)
        if wanted.metric in (None, route.metric)
        and (wanted.dev is None or any(hop.ifname == wanted.dev for hop in route.hops))
        and (gateways is None or any(fits(each, hop.gateway, (hop.ifname,)) for each in gateways for hop in route.hops))
    ]
    if bool(matching) is wanted.exists:
        return ""
    parts = (("via", wanted.via), ("dev", wanted.dev), ("metric", wanted.metric))
    words = [wanted.to] if wanted.kind == "unicast" else [wanted.kind.value, wanted.to]
    words += [f"{word} {value}" for word, value in parts if value is not None]
    words += [f"vrf {wanted.vrf}"] if wanted.vrf is not None else []
    words += [f"table {wanted.table}"] if wanted.table != "main" else []
    names = {number: name for name, number in vrfs.items()}
    if matching:
        return f"expected no route to {' '.join(words)} on {host}, which has {matching[0].text(names)}"
    there = _listed(route.text(names) for route in routes(run.lab, host))
    return f"expected a route to {' '.join(words)} on {host}; its routes: {there or 'none'}"


def address_mismatch(run: Run, host: str, wanted: str) -> str:
    """Return whether the host lacks that address, with a prefix length exactly so, as a message; or ""."""
    from labctl.observe.network import addresses

    found = addresses(run.lab, host)
    interface = ip_interface(wanted)
    has: Iterable[IPv4Interface | IPv6Interface | IpAddress] = (
        [one.address for one in found] if "/" in wanted else [one.address.ip for one in found]
    )
    if (interface if "/" in wanted else interface.ip) in has:
        return ""
    return f"expected the address {wanted} on {host}; its addresses: {_listed(found)}"


def _listed(found: Iterable[object]) -> str:
    shown = [str(one) for one in found]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
