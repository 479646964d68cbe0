"""What turns the lab of one plan into that of another: the least that has to be done, in order, and in words.

What both plans have is not touched: a node keeps its namespace and its programs, an interface its index. A link is the
same when both its ends have the same names, MACs and bridges; its MTU may change in place. Whatever stood on an
interface that goes, or is made anew, goes with it and is made again where the new plan has it.

What a node has to do with the machine: `nat`, `expose`, `limits`; in words, in JSON, and what of it can change.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

from labctl.errors import InputError
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    Plan,
    RemoveAddress,
    RemoveLink,
    RemoveNode,
    RemoveRoute,
    ResetSysctl,
    SetDown,
    SetImpairment,
    SetMtu,
    SetSysctl,
    SetUp,
    runs_alike,
    services_of,
)
from labctl.structs import Struct, replace
from labctl.topology.model import IPV6_MTU_MIN, Impairment, Node, NodeKind
from labctl.units import format_size


def described(node: Node) -> list[str]:
    """A line for each; none for most nodes."""
    found = [f"lead {node.name} to the machine's network"] if node.nat else []
    found += [
        f"expose port {exposure.port}/{exposure.transport} of {node.name} as the machine's {exposure.machine}"
        for exposure in node.exposures
    ]
    limits = node.limits
    if limits is not None:
        parts = [f"{limits.pids} processes"] if limits.pids is not None else []
        parts += [f"{format_size(limits.memory_bytes)} of memory"] if limits.memory_bytes is not None else []
        parts += [f"{limits.cpu * 100:g}% of a processor"] if limits.cpu is not None else []
        found.append(f"limit the programs of {node.name} to {', '.join(parts)}")
    for file in node.tree.files:
        found.append(f"place {file.path} on {node.name}" + (f", from {file.source}" if file.source else ""))
    for bind in node.tree.binds:
        found.append(f"bind {bind.source} at {bind.path} on {node.name}{'' if bind.writable else ', read-only'}")
    found += [f"keep {path} of {node.name} to itself" for path in node.tree.private]
    found += [f"run on {node.name}: {' '.join(str(command).split())}" for command in node.commands]
    return found


def in_json(node: Node) -> dict[str, Any]:
    """The keys that the node has in JSON for it; none for most nodes."""
    found: dict[str, Any] = {"nat": True} if node.nat else {}
    if node.exposures:
        found["expose"] = [
            {"machine": exposure.machine, "port": exposure.port, "protocol": exposure.transport.value}
            for exposure in node.exposures
        ]
    limits = node.limits
    if limits is not None:
        found["limits"] = {"pids": limits.pids, "memory_bytes": limits.memory_bytes, "cpu": limits.cpu}
    tree = node.tree
    if tree.files:
        found["files"] = [
            {"path": one.path, "source": one.source or None, "content": one.content, "owner": one.owner or None,
             "mode": None if one.mode is None else f"{one.mode:04o}"}
            for one in tree.files
        ]  # fmt: skip
    if tree.binds:
        found["binds"] = [{"path": one.path, "source": one.source, "rw": one.writable} for one in tree.binds]
    if tree.private:
        found["private"] = list(tree.private)
    if node.commands:
        found["exec"] = [command.argv for command in node.commands]
    return found


def refuse_changes(lab: str, before: Iterable[Node], after: Iterable[Node]) -> None:
    """InputError when a running lab's plan is to change in what was prepared before the lab was made.

    Limits that a node has may get other values; it cannot have others than before.
    """
    was, is_to_be = (
        {node.name: prepared for node in nodes if any(prepared := _prepared(node))} for nodes in (before, after)
    )
    changed = sorted(name for name in was.keys() | is_to_be.keys() if was.get(name) != is_to_be.get(name))
    if changed:
        raise InputError(
            f"lab {lab}: `nat`, `expose` and what is limited cannot be changed ({', '.join(changed)}) while it runs. "
            f"Try: labctl down {lab}, then labctl up."
        )


def _prepared(node: Node) -> tuple[object, ...]:
    limits = node.limits
    kinds = (
        ()
        if limits is None
        else tuple(kind for kind in ("pids", "memory_bytes", "cpu") if getattr(limits, kind) is not None)
    )
    return node.nat, node.exposures, kinds


_PER_INTERFACE = ("conf", "neigh")

_ONLY_ANEW = "which takes labctl down, then labctl up"  # what is prepared before a lab is made (lab/keeper/external.py)
_HOW = {
    "environment": "for programs started from now on",
    "limits": "at once",
    "commands": "whose commands are run again",
    "tree": "which ends its programs",
}

_TOLD_ELSEWHERE = frozenset({"names", "services", "automatic_routes"})
_KEYS = {"commands": "exec", "tree": "files"}  # what a field is called in files, where that differs

At = tuple[str, str]  # node, interface


class Sign(StrEnum):
    """What happens to the object of a change."""

    ADDED = "+"
    REMOVED = "-"
    CHANGED = "~"


class Change(Struct, frozen=True):
    """A change as a person sees it: `+ host h4`, `- link h2:eth0 - s1:h2`, `~ mtu of ...`."""

    sign: Sign
    text: str

    def __str__(self) -> str:
        return f"{self.sign} {self.text}"


class Difference(Struct, frozen=True):
    """The way from one plan to another; false when there is nothing to do.

    First `removals` are carried out, then `additions`. `gone` are the nodes whose programs end: removed, or made anew
    as another kind; those of `restarted` keep their network, and their programs end for other files. `nodes` are those
    of the new plan that are new, or known by other names or environment than before.
    """

    removals: tuple[Operation, ...] = ()
    additions: tuple[Operation, ...] = ()
    gone: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()
    changes: tuple[Change, ...] = ()
    restarted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.removals or self.additions or self.nodes or self.gone)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All of them, in order."""
        return self.removals + self.additions


def difference(old: Plan, new: Plan) -> Difference:
    """What has to be done to a lab made by `old` to be what `new` would make."""
    before, after = _Facts(old), _Facts(new)
    known = {node.name: node for node in old.nodes}
    nodes = tuple(node for node in new.nodes if not _same_node(known.get(node.name), node))
    gone = tuple(node for node, kind in before.kinds.items() if after.kinds.get(node) is not kind)
    staying = [node for node in nodes if node.name in known and node.name not in gone]
    restarted = tuple(node.name for node in staying if node.tree != known[node.name].tree)
    return Difference(
        restarted=restarted,
        removals=tuple(_removals(old, before, after)),
        additions=(*_mtus(before, after), *_additions(new, before, after)),
        gone=gone,
        nodes=nodes,
        changes=tuple(_changes(before, after, known, new.nodes)),
    )


class _Facts:
    """What a plan makes, by what identifies it."""

    def __init__(self, plan: Plan) -> None:
        self.kinds: dict[str, NodeKind] = {}
        self.bridges: dict[At, int] = {}
        self.links: dict[frozenset[tuple[str, ...]], MakeLink] = {}
        self.link_at: dict[At, frozenset[tuple[str, ...]]] = {}
        self.ifnames: dict[str, list[str]] = {}
        self.sysctls: dict[tuple[str, str], str] = {}
        self.others: set[AddAddress | SetUp | AddRoute] = set()
        self.addresses: dict[At, list[AddAddress]] = {}
        self.impaired: dict[At, SetImpairment] = {}
        for operation in plan.operations:
            match operation:
                case MakeNode(node, kind):
                    self.kinds[node] = kind
                case MakeBridge(node, ifname, mtu):
                    self.bridges[node, ifname] = mtu
                    self.ifnames.setdefault(node, []).append(ifname)
                case MakeLink(a, b):
                    identity = frozenset((_identity(a), _identity(b)))
                    self.links[identity] = operation
                    for end in (a, b):
                        self.link_at[end.node, end.ifname] = identity
                        self.ifnames.setdefault(end.node, []).append(end.ifname)
                case SetSysctl(node, key, value):
                    self.sysctls[node, key] = value
                case AddAddress(node, ifname):
                    self.others.add(operation)
                    if not operation.address.ip.is_link_local:
                        self.addresses.setdefault((node, ifname), []).append(operation)
                case SetUp() | AddRoute():
                    self.others.add(operation)
                case SetImpairment(node, ifname):
                    self.impaired[node, ifname] = operation

    def routes(self) -> dict[tuple[str, str], AddRoute]:
        """By node and destination."""
        return {(one.node, str(one.destination)): one for one in self.others if isinstance(one, AddRoute)}

    def impairment(self, at: At) -> Impairment | None:
        """What happens to what the interface sends."""
        return self.impaired[at].impairment if at in self.impaired else None

    def setting_of(self, node: str, key: str) -> str:
        """The interface that the setting is one of; "" for one of the whole node (or of all, default, lo)."""
        parts = key.replace("/", ".").split(".", 3)
        if len(parts) < 4 or parts[2] not in _PER_INTERFACE:
            return ""
        return next((name for name in self.ifnames.get(node, ()) if parts[3].startswith(f"{name}.")), "")


def _identity(end: LinkEnd) -> tuple[str, ...]:
    without_ipv6 = "small" if not end.bridge and end.mtu < IPV6_MTU_MIN else ""
    return (end.node, end.ifname, end.mac, end.bridge, without_ipv6)


def _stays(node: str, ifname: str, before: _Facts, after: _Facts) -> bool:
    """Whether the interface ("" or `lo`: the node) is one and the same in both plans."""
    if before.kinds.get(node) is None or before.kinds.get(node) is not after.kinds.get(node):
        return False
    at = (node, ifname)
    if at in before.bridges or at in after.bridges:
        return at in before.bridges and at in after.bridges
    if at in before.link_at or at in after.link_at:
        return before.link_at.get(at) == after.link_at.get(at) and _link_stays(before.link_at[at], before, after)
    return True


def _link_stays(identity: frozenset[tuple[str, ...]], before: _Facts, after: _Facts) -> bool:
    """Whether the link is in both plans, between nodes that stay what they are."""
    nodes = {end[0] for end in identity}
    in_both = identity in before.links and identity in after.links
    return in_both and all(before.kinds.get(node) is after.kinds.get(node) for node in nodes)


def _removals(old: Plan, before: _Facts, after: _Facts) -> Iterator[Operation]:
    """The plan backwards, without what stays. Every operation can be undone by one that `old` has."""
    for operation in reversed(old.operations):
        match operation:
            case MakeNode(node, kind) if not _stays(node, "", before, after):
                yield RemoveNode(node, kind)
            case MakeLink(a, b) if not _stays(a.node, a.ifname, before, after):
                yield RemoveLink(a, b)
            case SetSysctl(node, key):
                of = before.setting_of(node, key)
                if _stays(node, "", before, after) if not of else _stays(node, of, before, after):
                    if (node, key) not in after.sysctls:
                        yield ResetSysctl(node, key)
                elif of and (node, of) not in before.bridges:
                    yield ResetSysctl(node, key)
            case AddAddress(node, ifname, address):
                if operation not in after.others or not _stays(node, ifname, before, after):
                    yield RemoveAddress(node, ifname, address)
            case SetImpairment(node, ifname, impairment, _, mtu):
                if _stays(node, ifname, before, after) and (node, ifname) not in after.impaired:
                    yield SetImpairment(node, ifname, None, impairment, mtu)
            case SetUp(node, ifname) if operation not in after.others and _stays(node, ifname, before, after):
                yield SetDown(node, ifname)  # of others there is no need: they go as a whole, which is much faster
            case AddRoute(node, destination, gateway, ifname):
                if operation not in after.others or not _stays(node, ifname, before, after):
                    yield RemoveRoute(node, destination, gateway, ifname)


def _additions(new: Plan, before: _Facts, after: _Facts) -> Iterator[Operation]:
    """The new plan without what is there already."""
    for operation in new.operations:
        match operation:
            case MakeNode(node) | MakeBridge(node):
                if not _stays(node, "", before, after):
                    yield operation
            case MakeLink(a):
                if not _stays(a.node, a.ifname, before, after):
                    yield operation
            case SetSysctl(node, key, value):
                there = _stays(node, after.setting_of(node, key), before, after)
                if not there or before.sysctls.get((node, key)) != value:
                    yield operation
            case SetImpairment(node, ifname):
                was = before.impaired.get((node, ifname)) if _stays(node, ifname, before, after) else None
                if was is None or not _impairs_alike(was, operation):
                    yield replace(operation, before=was.impairment if was else None)
            case AddAddress(node, ifname) | SetUp(node, ifname) | AddRoute(node, _, _, ifname):
                if operation not in before.others or not _stays(node, ifname, before, after):
                    yield operation
            case _:
                yield operation


def _impairs_alike(one: SetImpairment, other: SetImpairment) -> bool:
    """Whether one need not be replaced by the other: the size of packets matters for a rate only, and a seed is drawn
    when an interface is first impaired."""
    sized = one.impairment is not None and one.impairment.rate_bit_s
    return one.impairment == other.impairment and (one.mtu == other.mtu or not sized)


def _mtus(before: _Facts, after: _Facts) -> Iterator[SetMtu]:
    """Of links that stay, then of their bridges, whose MTU follows."""
    for identity, link in after.links.items():
        if not _link_stays(identity, before, after):
            continue
        was = {(end.node, end.ifname): end.mtu for end in (before.links[identity].a, before.links[identity].b)}
        for end in (link.a, link.b):
            if was[end.node, end.ifname] != end.mtu:
                yield SetMtu(end.node, end.ifname, end.mtu, was[end.node, end.ifname])
    for (node, ifname), mtu in after.bridges.items():
        if _stays(node, ifname, before, after) and before.bridges[node, ifname] != mtu:
            yield SetMtu(node, ifname, mtu, before.bridges[node, ifname])


def _same_node(old: Node | None, new: Node) -> bool:
    # The lines of hosts files are thousands of lines in large labs, and shared: `is` decides nearly always.
    return old is not None and (old is new or old == new)


# -- in words ------------------------------------------------------------------------------------------------------


def _changes(before: _Facts, after: _Facts, known: dict[str, Node], nodes: tuple[Node, ...]) -> Iterator[Change]:
    for node, kind in before.kinds.items():
        if node not in after.kinds:
            yield Change(Sign.REMOVED, f"{kind} {node}")
    yield from _link_changes(before, after, Sign.REMOVED)
    for node, kind in after.kinds.items():
        if node not in before.kinds:
            yield Change(Sign.ADDED, f"{kind} {node}")
        elif before.kinds[node] is not kind:
            text = f"{before.kinds[node]} {node} becomes a {kind}: made anew, its programs end"
            yield Change(Sign.CHANGED, text)
    yield from _link_changes(before, after, Sign.ADDED)
    yield from _mtu_changes(before, after)
    yield from _impairment_changes(before, after)
    yield from _address_changes(before, after)
    yield from _route_changes(before, after)
    yield from _sysctl_changes(before, after)
    for planned in nodes:
        old = known.get(planned.name)
        if old is not None and old.kind is planned.kind:
            for name in planned.__struct_fields__:
                if name not in _TOLD_ELSEWHERE and getattr(old, name) != getattr(planned, name):
                    how = _HOW.get(name, _ONLY_ANEW)
                    yield Change(Sign.CHANGED, f"{_KEYS.get(name, name)} of {planned.name}, {how}")
    yield from _service_changes(known, nodes, {node for node in before.kinds if after.kinds.get(node)})


def _service_changes(known: dict[str, Node], nodes: tuple[Node, ...], staying: set[str]) -> Iterator[Change]:
    """Services that come, go or are started again; those of nodes that go, go with them."""
    old = services_of(node for node in known.values() if node.name in staying)
    new = services_of(nodes)
    for key in old:
        if key not in new:
            yield Change(Sign.REMOVED, f"service {key}: stopped")
    for key, (_, service) in new.items():
        if key not in old:
            yield Change(Sign.ADDED, f"service {key}: {shlex.join(service.argv)}")
        elif not runs_alike(old[key][1], service):
            yield Change(Sign.CHANGED, f"service {key}: started again, as {shlex.join(service.argv)}")
        elif old[key][1] != service:
            yield Change(Sign.CHANGED, f"service {key}: how it is started from now on")


def _link_changes(before: _Facts, after: _Facts, sign: Sign) -> Iterator[Change]:
    """Links that go (REMOVED) or come, with their addresses; one that is made anew is told once, where it comes."""
    here, there = (before, after) if sign is Sign.REMOVED else (after, before)
    for identity, link in here.links.items():
        if _link_stays(identity, before, after):
            continue
        ends = (link.a.node, link.a.ifname), (link.b.node, link.b.ifname)
        other = there.link_at.get(ends[0])
        if other is not None and other == there.link_at.get(ends[1]):
            if sign is Sign.ADDED:
                old = there.links[other]
                yield Change(Sign.CHANGED, f"link {link.a} - {link.b}: made anew, {_why(old, link)}")
            continue
        shown = (_with_addresses(end, here) for end in (link.a, link.b))
        yield Change(sign, f"link {' - '.join(shown)}{_impaired(link, here) if sign is Sign.ADDED else ''}")


def _why(old: MakeLink, new: MakeLink) -> str:
    was = {(end.node, end.ifname): end for end in (old.a, old.b)}
    for end in (new.a, new.b):
        before = was[end.node, end.ifname]
        if before.mac != end.mac:
            return f"for the MAC address of {end} becomes {end.mac}"
        if before.mtu != end.mtu:
            return f"for its MTU goes from {before.mtu} to {end.mtu}, across the {IPV6_MTU_MIN} that IPv6 needs"
    return "for a node at its end is"


def _with_addresses(end: LinkEnd, facts: _Facts) -> str:
    addresses = ", ".join(str(one.address) for one in facts.addresses.get((end.node, end.ifname), ()))
    return f"{end} ({addresses})" if addresses else str(end)


def _mtu_changes(before: _Facts, after: _Facts) -> Iterator[Change]:
    for identity, link in after.links.items():
        if _link_stays(identity, before, after):
            old = before.links[identity]
            was = {(end.node, end.ifname): end.mtu for end in (old.a, old.b)}
            changed = [end for end in (link.a, link.b) if was[end.node, end.ifname] != end.mtu]
            if changed:
                end = changed[0]
                yield Change(
                    Sign.CHANGED, f"mtu of {link.a} - {link.b}: {was[end.node, end.ifname]} to {end.mtu} bytes"
                )


def _impaired(link: MakeLink, facts: _Facts) -> str:
    """What the link does to packets, to be put behind its name."""
    a, b = (facts.impairment((end.node, end.ifname)) for end in (link.a, link.b))
    if a == b:
        return f": {a}" if a else ""
    each = (f"{one} from {end.node}" for end, one in ((link.a, a), (link.b, b)) if one)
    return f": {', '.join(each)}"


def _impairment_changes(before: _Facts, after: _Facts) -> Iterator[Change]:
    """Of links that stay, be they made anew: once where both directions change alike, else for the one that does."""
    for link in after.links.values():
        ends = (link.a, link.b)
        if not all(_is_end_of_same(end, before, after) for end in ends):
            continue
        was, now = ([facts.impairment((end.node, end.ifname)) for end in ends] for facts in (before, after))
        if was[0] == was[1] and now[0] == now[1]:
            if was[0] != now[0]:
                yield _impairment_change(f"{link.a} - {link.b}", was[0], now[0])
            continue
        for end, old, new in zip(ends, was, now, strict=True):
            if old != new:
                yield _impairment_change(f"what {end} sends", old, new)


def _impairment_change(of: str, old: Impairment | None, new: Impairment | None) -> Change:
    if old is None:
        return Change(Sign.ADDED, f"{new} on {of}")
    if new is None:
        return Change(Sign.REMOVED, f"{old} on {of}")
    return Change(Sign.CHANGED, f"impairment of {of}: {old} to {new}")


def _address_changes(before: _Facts, after: _Facts) -> Iterator[Change]:
    """Addresses of links that are in both plans, be they made anew; the others stand with their links."""
    pairs = ((Sign.REMOVED, before, after), (Sign.ADDED, after, before))
    for sign, here, there in pairs:
        for at, given in here.addresses.items():
            if at in there.link_at and _same_ends(at, here, there):
                for one in given:
                    if one not in there.others:
                        yield Change(sign, f"address {one.address} on {one.node}:{one.ifname}")


def _is_end_of_same(end: LinkEnd, before: _Facts, after: _Facts) -> bool:
    """Whether a link between the same two interfaces is in both plans."""
    at = (end.node, end.ifname)
    return at in before.link_at and _same_ends(at, before, after)


def _same_ends(at: At, here: _Facts, there: _Facts) -> bool:
    def ends(facts: _Facts) -> set[tuple[str, ...]]:
        return {end[:2] for end in facts.link_at.get(at, ())}

    return ends(here) == ends(there)


def _route_changes(before: _Facts, after: _Facts) -> Iterator[Change]:
    """Routes of nodes that are in both plans."""
    old, new = before.routes(), after.routes()
    for (node, to), route in sorted(old.items()):
        if (node, to) not in new and node in after.kinds:
            yield Change(Sign.REMOVED, f"route {to} via {route.gateway} on {node}:{route.ifname}")
    for (node, to), route in sorted(new.items()):
        was = old.get((node, to))
        if was is None:
            if node in before.kinds:
                yield Change(Sign.ADDED, f"route {to} via {route.gateway} on {node}:{route.ifname}")
        elif was != route:
            text = f"route {to} on {node}: via {was.gateway} on {was.ifname} to via {route.gateway} on {route.ifname}"
            yield Change(Sign.CHANGED, text)


def _sysctl_changes(before: _Facts, after: _Facts) -> Iterator[Change]:
    for (node, key), value in before.sysctls.items():
        if (node, key) not in after.sysctls and node in after.kinds:
            yield Change(Sign.REMOVED, f"{key}={value} on {node}")
    for (node, key), value in after.sysctls.items():
        was = before.sysctls.get((node, key))
        if node not in before.kinds or was == value:
            continue
        if was is None:
            yield Change(Sign.ADDED, f"{key}={value} on {node}")
        else:
            yield Change(Sign.CHANGED, f"{key} on {node}: {was} to {value}")
