"""Faults that people inject into a lab: what files, commands and tests write, and its effects on a topology.

`read` takes a kind and a value as files have it: `partition: [[a, b], [c]]`, `isolate: server`, `flap: {link: [a, b],
times: 3}`. `Fault.plan` resolves names of nodes, groups and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from socket import IPPROTO_TCP, IPPROTO_UDP
from typing import Any, NoReturn

from labctl.plan.fault_effects import (
    AddressRemoved,
    AnyEffect,
    FaultKind,
    FaultPlan,
    FramesDropped,
    InterfaceDown,
    MtuChanged,
    NamesHidden,
    ProgramSignalled,
    RouteRemoved,
)
from labctl.structs import Struct, replace
from labctl.topology.model import (
    Address,
    Endpoint,
    Link,
    Node,
    NodeKind,
    Prefix,
    Topology,
    end_to_take_down,
    links_between,
)
from labctl.topology.selection import select
from labctl.units import duration_s, format_duration

MTU_MIN, MTU_MAX = 68, 65535  # RFC 791; ETH_MAX_MTU (linux/if_ether.h)
FLAP_PERIOD_S = 1.0
SHORTEST_PERIOD_S = 0.02


class Fault(Struct, frozen=True):
    """Base of all faults: values as people write them, whose names are resolved by `plan`."""

    @property
    def kind(self) -> FaultKind:
        return KIND_OF[type(self)]

    def plan(self, topology: Topology) -> FaultPlan:
        """Return its effects. ValueError (or Mistake, with a hint) if it does not fit the topology."""
        nodes, effects = self.effects(topology)
        return FaultPlan(self.kind.value, self.shown(topology), tuple(dict.fromkeys(nodes)), tuple(effects))

    def shown(self, topology: Topology) -> str:
        """Return it for people."""
        return str(self)

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        """Return the nodes that it is about, and its effects."""
        raise NotImplementedError


class Partition(Fault, frozen=True):
    """Nodes of different groups do not receive each other's frames; one group is cut off from all other nodes.

    Two or more groups of the topology, or labels, are the sides: `[left, right]` is `[[left], [right]]`.
    With `one_way`, only what the first group sends to the others is lost; address resolution works then, because the
    other direction depends on it.
    """

    groups: tuple[tuple[str, ...], ...]
    one_way: bool = False

    def __str__(self) -> str:
        sides = [" ".join(group) for group in self.groups]
        if self.one_way:
            return f"partition {sides[0]} -> {' '.join(sides[1:]) or 'all others'}"
        return f"partition {' | '.join(sides)}" + (" | all others" if len(sides) == 1 else "")

    def shown(self, topology: Topology) -> str:
        return str(replace(self, groups=self._sides(topology)))

    def _sides(self, topology: Topology) -> tuple[tuple[str, ...], ...]:
        words = self.groups[0]
        is_of_groups = len(self.groups) == 1 < len(words) and not any(word in topology for word in words)
        return tuple((word,) for word in words) if is_of_groups and not self.one_way else self.groups

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        groups = [stations(topology, group) for group in self._sides(topology)]
        if len(groups) == 1:
            groups.append([node for node in topology.nodes if is_station(node) and node not in groups[0]])
        seen: set[str] = set()
        for node in (node for group in groups for node in group):
            if node.name in seen:
                raise ValueError(f"`{node.name}` is in two groups of the partition")
            seen.add(node.name)
        if not all(groups):
            raise ValueError("the partition needs nodes on both sides; write a list for each side: [[a], [b, c]]")
        found: list[AnyEffect] = []
        for index, receivers in enumerate(groups):
            senders = [group for other, group in enumerate(groups) if other != index]
            if self.one_way:
                senders = [] if index == 0 else groups[:1]
            if senders:
                found.append(frames_from([node for group in senders for node in group], receivers, self.one_way))
        return [node.name for group in groups for node in group], found


class Isolate(Fault, frozen=True):
    """No frame reaches the nodes, and none that they send arrives; their interfaces stay up."""

    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"isolate {' '.join(self.nodes)}"

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        nodes = select(topology.nodes, self.nodes)
        ends = [(end.node, end.ifname) for link in topology.links for end in (link.a, link.b)
                if {link.a.node, link.b.node} & set(nodes)]  # fmt: skip
        if not ends:
            raise ValueError(f"{' '.join(self.nodes)} has no links")
        return nodes, [FramesDropped(tuple(dict.fromkeys(ends)))]


class Blackhole(Fault, frozen=True):
    """Packets to the destinations vanish: those that `on` (default: all nodes) sends or forwards.

    With `port` (`udp/53`, or `53` for TCP and UDP), only those to this port.
    """

    to: tuple[str, ...]
    on: tuple[str, ...] = ()
    port: str = ""

    def __str__(self) -> str:
        port = f" port {self.port}" if self.port else ""
        return f"blackhole {' '.join(self.to)}{port}" + (f" on {' '.join(self.on)}" if self.on else "")

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        prefixes = tuple(prefix for word in self.to for prefix in destinations_of(topology, word))
        if not self.on:
            ends = [(node.name, each.name) for node in topology.nodes if is_station(node) for each in node.interfaces]
            return [], [FramesDropped(tuple(ends), destinations=prefixes, ports=_ports(self.port))]
        nodes = select(topology.nodes, self.on)
        # On the node itself what it forwards, at the other ends of its links what it sends.
        ends = [(end.node, end.ifname) for link in topology.links for end in (link.a, link.b)
                if {link.a.node, link.b.node} & set(nodes)]  # fmt: skip
        own = {address for node in topology.nodes if node.name in nodes for address in node.addresses}
        if any(address in prefix for address in own for prefix in prefixes if address.version == prefix.version):
            raise ValueError(f"{' '.join(self.on)} has an address in {' '.join(self.to)}: `on` names another node")
        at = tuple(dict.fromkeys(ends))
        return nodes, [FramesDropped(at, destinations=prefixes, ports=_ports(self.port))]


class Down(Fault, frozen=True):
    """A link is down."""

    link: tuple[str, str]

    def __str__(self) -> str:
        return f"down {' - '.join(self.link)}"

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        end = cut_end(topology, self.link)
        return nodes_of(self.link), [InterfaceDown(end.node, end.ifname)]


class Flap(Fault, frozen=True):
    """A link goes down and up: down for half of each period, `times` times (0: until it is healed)."""

    link: tuple[str, str]
    period_s: float = FLAP_PERIOD_S
    times: int = 0

    def __str__(self) -> str:
        often = f", {self.times} times" if self.times else ""
        return f"flap {' - '.join(self.link)} every {format_duration(self.period_s)}{often}"

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        end = cut_end(topology, self.link)
        return nodes_of(self.link), [InterfaceDown(end.node, end.ifname, self.period_s, self.times)]


class Mtu(Fault, frozen=True):
    """Both ends of a link have another MTU (bytes)."""

    link: tuple[str, str]
    to: int

    def __str__(self) -> str:
        return f"mtu {' - '.join(self.link)} {self.to}"

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        link = link_of(topology, self.link)
        return nodes_of(self.link), [MtuChanged(end.node, end.ifname, self.to) for end in (link.a, link.b)]


class RemoveAddress(Fault, frozen=True):
    """A node loses an address; the routes that the kernel removes with it come back with it."""

    on: str
    address: str

    def __str__(self) -> str:
        return f"remove_address {self.address} on {self.on}"

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        nodes = select(topology.nodes, [self.on])
        return nodes, [AddressRemoved(node, ip_interface(self.address).ip) for node in nodes]


class RemoveRoute(Fault, frozen=True):
    """A node loses its routes to a destination: a prefix, `default`, or a node (the networks of its addresses)."""

    on: str
    to: str
    via: str = ""

    def __str__(self) -> str:
        return f"remove_route {self.to}" + (f" via {self.via}" if self.via else "") + f" on {self.on}"

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        nodes = select(topology.nodes, [self.on])
        if self.to == "default":
            prefixes: list[Prefix] = [ip_network("0.0.0.0/0"), ip_network("::/0")]
        elif self.to in topology:
            interfaces = topology.node(self.to).interfaces
            prefixes = [address.network for each in interfaces for address in each.addresses]
        else:
            prefixes = [_prefix(self.to)]
        via = ip_address(self.via) if self.via else None
        chosen = [prefix for prefix in dict.fromkeys(prefixes) if via is None or via.version == prefix.version]
        return nodes, [RouteRemoved(node, prefix, via) for node in nodes for prefix in chosen]


class Pause(Fault, frozen=True):
    """Programs are paused (SIGSTOP): NODE/NAME or NODE/PID, or NAME if only one node has a service of that name."""

    programs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(self.programs)}"

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        kills = isinstance(self, Kill)
        found = [_program(topology, word) for word in self.programs]
        return [node for node, _ in found], [ProgramSignalled(node, name, kills) for node, name in found]


class Kill(Pause, frozen=True):
    """Programs are killed (SIGKILL); healing starts background programs and services again."""


class Dns(Fault, frozen=True):
    """The names are missing in /etc/hosts of the nodes `on` (default: all), so that programs cannot resolve them."""

    names: tuple[str, ...]
    on: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"dns {' '.join(self.names)}" + (f" on {' '.join(self.on)}" if self.on else "")

    def effects(self, topology: Topology) -> tuple[Iterable[str], list[AnyEffect]]:
        names = select(topology.nodes, self.names)
        nodes = select(topology.nodes, self.on or [node.name for node in topology.nodes if is_station(node)])
        return nodes if self.on else names, [NamesHidden(nodes, names)]


# -- parts of a topology


def is_station(node: Node) -> bool:
    """Return whether the node is a host or router."""
    return node.kind is not NodeKind.SWITCH


def stations(topology: Topology, words: Iterable[str]) -> list[Node]:
    """Return the hosts and routers that the words stand for. ValueError for a switch."""
    found = [topology.node(name) for name in select(topology.nodes, words)]
    for node in found:
        if not is_station(node):
            raise ValueError(f"`{node.name}` is a switch: name the hosts and routers on either side")
    return found


def frames_from(senders: Sequence[Node], receivers: Sequence[Node], resolves: bool) -> FramesDropped:
    """Return what keeps these receivers from frames of the senders: on one network by MAC, behind routers by source."""
    return FramesDropped(
        at=tuple((node.name, each.name) for node in receivers for each in node.interfaces),
        macs=tuple(each.mac for node in senders for each in node.interfaces),
        sources=tuple(address for node in senders for address in node.addresses),
        resolves=resolves,
    )


def link_of(topology: Topology, ends: Sequence[str]) -> Link:
    """Return the link between two ends, `NODE` or `NODE:INTERFACE`. ValueError if there is none, or several."""
    select(topology.nodes, nodes_of(ends))
    found = links_between(topology.links, *ends)
    if not found:
        raise ValueError(f"there is no link between {ends[0]} and {ends[1]}")
    if len(found) > 1:
        several = ", ".join(str(link) for link in found[:4])
        raise ValueError(f"there are {len(found)} links between {ends[0]} and {ends[1]}: {several}; name an interface")
    return found[0]


def cut_end(topology: Topology, ends: Sequence[str]) -> Endpoint:
    """Return the end by which the link goes down, as `labctl link` does. ValueError as `link_of`."""
    link = link_of(topology, ends)
    near, far = (link.b, link.a) if link.a.node == ends[1].partition(":")[0] else (link.a, link.b)
    return end_to_take_down(near, far, lambda end: topology.node(end.node).kind is NodeKind.SWITCH)


def nodes_of(ends: Iterable[str]) -> tuple[str, ...]:
    """Return the nodes of ends `NODE` or `NODE:INTERFACE`."""
    return tuple(end.partition(":")[0] for end in ends)


def destinations_of(topology: Topology, word: str) -> list[Prefix]:
    """Return the prefixes that a prefix, an address, `default`, a node or a group stands for. ValueError."""
    if word == "default":
        return [ip_network("0.0.0.0/0"), ip_network("::/0")]
    if "/" in word or ":" in word or word.replace(".", "").isdigit():
        return [_prefix(word)]
    nodes = [topology.node(name) for name in select(topology.nodes, [word])]
    addresses: list[Address] = [address for node in nodes for address in node.addresses]
    if not addresses:
        raise ValueError(f"`{word}` has no addresses")
    return [ip_network(address) for address in addresses]


def _ports(text: str) -> tuple[tuple[int, int], ...]:
    """Return the protocols and port of `udp/53` or `53`; () for "". ValueError."""
    if not text:
        return ()
    name, slash, port = text.rpartition("/")
    protocols = {"tcp": (IPPROTO_TCP,), "udp": (IPPROTO_UDP,)}.get(name) if slash else (IPPROTO_TCP, IPPROTO_UDP)
    if protocols is None or not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 1 << 16):
        raise ValueError(f"`{text}` is not a port; write `udp/53`, or `53` for TCP and UDP")
    return tuple((protocol, int(port)) for protocol in protocols)


def _prefix(word: str) -> Prefix:
    try:
        return ip_network(word)
    except ValueError as error:
        raise ValueError(f"`{word}` is not a prefix: {error}") from None


def _program(topology: Topology, word: str) -> tuple[str, str]:
    node, slash, name = word.partition("/")
    if slash:
        select(topology.nodes, [node])
        return node, name
    found = [one.name for one in topology.nodes if any(service.name == word for service in one.services)]
    if len(found) != 1:
        several = f"{len(found)} nodes have a service `{word}`" if found else f"no node has a service `{word}`"
        raise ValueError(f"{several}; write NODE/NAME")
    return found[0], word


# -- reading


def read(kind: str, value: object) -> Fault:
    """Return the fault of a kind with its value as in a file: `read("isolate", "server")`.

    Raises: ValueError, which shows the right form.
    """
    found = kind_of(kind)
    if found is None:
        raise ValueError(f"there is no fault `{kind}`; kinds are {', '.join(FaultKind)}")
    try:
        return _READERS[found](value)
    except (KeyError, TypeError):
        raise ValueError(f"`{found}` takes {_FORMS[found]}") from None


def kind_of(word: str) -> FaultKind | None:
    """Return the kind of that name, with `_` or `-`; None if there is none."""
    word = word.replace("-", "_")
    return FaultKind(word) if word in list(FaultKind) else None


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        words = tuple(value.replace(",", " ").split())
        return words or _refuse()
    if isinstance(value, list | tuple) and value and all(isinstance(word, str) for word in value):
        return tuple(value)
    return _refuse()


def _two(value: object) -> tuple[str, str]:
    first, second = _words(value) if not isinstance(value, list | tuple) or len(value) == 2 else _refuse()
    return first, second


def _refuse() -> NoReturn:
    raise TypeError


def _mapping(value: object, short: str, *others: str) -> Mapping[str, Any]:
    """Return the keys and values; `short` is the key that a bare value stands for."""
    if not isinstance(value, Mapping):
        return {short: value}
    unknown = [str(key) for key in value if key not in (short, *others)]
    if unknown:
        raise ValueError(f"unknown key `{unknown[0]}`; allowed: {', '.join((short, *others))}")
    return value


def _partition(value: object) -> Fault:
    if isinstance(value, Mapping) and "from" in value:
        given = _mapping(value, "from", "to")
        groups = (_words(given["from"]), *([_words(given["to"])] if "to" in given else []))
        return Partition(groups, one_way=True)
    given = _mapping(value, "groups", "one_way")
    written, one_way = given["groups"], given.get("one_way", False)
    if not isinstance(one_way, bool):
        raise ValueError("`one_way` is true or false")
    if isinstance(written, list | tuple) and any(isinstance(part, list | tuple) for part in written):
        return Partition(tuple(_words(part) for part in written), one_way)
    return Partition((_words(written),), one_way)


def _blackhole(value: object) -> Fault:
    given = _mapping(value, "to", "on", "port")
    port = str(given.get("port", ""))
    _ports(port)  # ValueError
    return Blackhole(_words(given["to"]), _words(given["on"]) if "on" in given else (), port)


def _flap(value: object) -> Fault:
    given = _mapping(value, "link", "period", "times")
    period_s = duration_s(given["period"], noun="period") if "period" in given else FLAP_PERIOD_S
    if period_s < SHORTEST_PERIOD_S:
        raise ValueError(f"a period of a flap is at least {format_duration(SHORTEST_PERIOD_S)}")
    return Flap(_two(given["link"]), period_s, _number(given.get("times", 0), "times", 0, 1_000_000))


def _mtu(value: object) -> Fault:
    given = _mapping(value, "link", "to")
    return Mtu(_two(given["link"]), _number(given["to"], "to", MTU_MIN, MTU_MAX))


def _number(value: object, key: str, least: int, most: int) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise ValueError(f"`{key}` must be a whole number from {least} to {most}, not `{value}`")
    return number


def _remove_address(value: object) -> Fault:
    given = _mapping(value, "on", "address")
    address = str(given["address"])
    ip_interface(address)  # ValueError
    (on,) = _words(given["on"])
    return RemoveAddress(on, address)


def _remove_route(value: object) -> Fault:
    given = _mapping(value, "on", "to", "via")
    (on,) = _words(given["on"])
    via = str(given.get("via", ""))
    if via:
        ip_address(via)  # ValueError
    return RemoveRoute(on, str(given["to"]), via)


def _dns(value: object) -> Fault:
    given = _mapping(value, "names", "name", "on")
    names = given["names"] if "names" in given else given["name"]
    return Dns(_words(names), _words(given["on"]) if "on" in given else ())


def _of_one_key(made: Callable[[Any], Fault], read: Callable[[object], object], key: str, value: object) -> Fault:
    return made(read(_mapping(value, key)[key]))


_READERS: Mapping[FaultKind, Callable[[object], Fault]] = {
    FaultKind.PARTITION: _partition,
    FaultKind.ISOLATE: partial(_of_one_key, Isolate, _words, "nodes"),
    FaultKind.BLACKHOLE: _blackhole,
    FaultKind.DOWN: partial(_of_one_key, Down, _two, "link"),
    FaultKind.FLAP: _flap,
    FaultKind.MTU: _mtu,
    FaultKind.REMOVE_ADDRESS: _remove_address,
    FaultKind.REMOVE_ROUTE: _remove_route,
    FaultKind.PAUSE: partial(_of_one_key, Pause, _words, "programs"),
    FaultKind.KILL: partial(_of_one_key, Kill, _words, "programs"),
    FaultKind.DNS: _dns,
}
_FORMS: Mapping[FaultKind, str] = {
    FaultKind.PARTITION: "groups of nodes, `[[a, b], [c]]`, or `{from: [a], to: [b]}` for one direction",
    FaultKind.ISOLATE: "a node or a list of nodes",
    FaultKind.BLACKHOLE: "a destination, or `{to: 10.0.2.0/24, on: [gw], port: udp/53}`",
    FaultKind.DOWN: "the two nodes of a link, `[a, b]`",
    FaultKind.FLAP: "the two nodes of a link, or `{link: [a, b], period: 1s, times: 3}`",
    FaultKind.MTU: "`{link: [a, b], to: 1280}`",
    FaultKind.REMOVE_ADDRESS: "`{on: a, address: 10.0.0.1}`",
    FaultKind.REMOVE_ROUTE: "`{on: a, to: default}`, with `via: 10.0.0.254` if there are several",
    FaultKind.PAUSE: "a program, NODE/NAME, or a list of them",
    FaultKind.KILL: "a program, NODE/NAME, or a list of them",
    FaultKind.DNS: "a name, or `{name: server, on: [client]}`",
}
KIND_OF: Mapping[type, FaultKind] = {
    Partition: FaultKind.PARTITION,
    Isolate: FaultKind.ISOLATE,
    Blackhole: FaultKind.BLACKHOLE,
    Down: FaultKind.DOWN,
    Flap: FaultKind.FLAP,
    Mtu: FaultKind.MTU,
    RemoveAddress: FaultKind.REMOVE_ADDRESS,
    RemoveRoute: FaultKind.REMOVE_ROUTE,
    Pause: FaultKind.PAUSE,
    Kill: FaultKind.KILL,
    Dns: FaultKind.DNS,
}
