"""Compare two plans: the fewest operations that change a lab from one to the other, and a list of changes for people.

Objects in both plans are not touched: a node keeps its namespace and its programs, an interface its index. A link is
the same if both its ends have the same names, MACs and bridges; its MTU may change in place. When an interface is
removed or replaced, its addresses, routes and settings disappear with it, and the additions restore those in the new
plan.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from enum import StrEnum

from labctl.names import LOOPBACK
from labctl.plan.hosts_files import HostsFiles
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    AddStaticRoute,
    AnyPart,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    Part,
    Plan,
    RemoveAddress,
    RemoveBridge,
    RemoveLink,
    RemoveNode,
    RemovePart,
    RemoveRoute,
    ReplacePart,
    ResetSysctl,
    SetDown,
    SetImpairment,
    SetMtu,
    SetSysctl,
    SetUp,
    interface_of_sysctl,
    runs_alike,
    services_of,
)
from labctl.structs import Struct, replace
from labctl.topology.model import IPV6_MTU_MIN, Address, Impairment, Node, NodeKind

# Fields of a node, with the effect of a change on programs that run.
_EFFECTS = {
    "environment": "for programs started from now on",
    "groups": "at once",
    "labels": "at once",
    "commands": "and runs the commands again",
    "tree": "and ends the node's programs",
}
_SHOWN_BY_OTHER_CHANGES = frozenset({"services", "automatic_routes", "translation", "firewall"})
_KEYS = {"commands": "exec", "tree": "files", "exposures": "expose"}  # in files

At = tuple[str, str]  # node, interface
LinkIdentity = frozenset[tuple[str, ...]]


class Sign(StrEnum):
    """Kind of a change."""

    ADDED = "+"
    REMOVED = "-"
    CHANGED = "~"


class Change(Struct, frozen=True):
    """A change for people: `+ host h4`, `- link h2:eth0 - s1:h2`, `~ mtu of ...`."""

    sign: Sign
    text: str

    def __str__(self) -> str:
        return f"{self.sign} {self.text}"


class Difference(Struct, frozen=True):
    """The way from one plan to another; false if the plans are equal.

    `removals` come before `additions`. `ended` are nodes whose programs end: removed, or replaced by another kind.
    `restarted` nodes keep their network, and their programs end because their files change. `nodes` are those of the
    new plan that are new, or have another environment and so on than before. `names`: hosts files differ.
    """

    removals: tuple[Operation, ...] = ()
    additions: tuple[Operation, ...] = ()
    ended: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()
    changes: tuple[Change, ...] = ()
    restarted: tuple[str, ...] = ()
    names: bool = False

    def __bool__(self) -> bool:
        return bool(self.removals or self.additions or self.nodes or self.ended or self.names)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations, in order."""
        return self.removals + self.additions


def difference(old: Plan, new: Plan) -> Difference:
    """Return the way from a lab made by `old` to a lab that `new` would make."""
    compared = _Comparison(old, new)
    known = {node.name: node for node in old.nodes}
    nodes = tuple(node for node in new.nodes if known.get(node.name) != node)
    ended = tuple(node for node, kind in compared.before.kinds.items() if compared.after.kinds.get(node) is not kind)
    staying = [node for node in nodes if node.name in known and node.name not in ended]
    return Difference(
        removals=tuple(compared.removals()),
        additions=(*compared.mtus(), *compared.additions()),
        ended=ended,
        nodes=nodes,
        changes=tuple(compared.changes()),
        restarted=tuple(node.name for node in staying if node.tree != known[node.name].tree),
        names=HostsFiles(old) != HostsFiles(new),
    )


class _Objects:
    """The objects that a plan makes, by their identity."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.kinds: dict[str, NodeKind] = {}
        self.bridges: dict[At, int] = {}
        self.links: dict[LinkIdentity, MakeLink] = {}
        self.link_at: dict[At, LinkIdentity] = {}
        self.ifnames: dict[str, set[str]] = {}
        self.sysctls: dict[tuple[str, str], str] = {}
        self.others: set[AddAddress | SetUp | AddRoute] = set()
        self.addresses: dict[At, list[AddAddress]] = {}
        self.own: set[tuple[str, Address]] = set()  # the addresses of each node
        self.routes: dict[tuple[str, str], AddRoute] = {}
        self.impaired: dict[At, SetImpairment] = {}
        self.parts: dict[tuple[object, ...], AnyPart] = {}  # by identity
        self.makers: dict[At, AnyPart] = {}  # by the interface that they make
        for operation in plan.operations:
            match operation:
                case MakeNode(node, kind):
                    self.kinds[node] = kind
                case MakeBridge(node, ifname, mtu):
                    self.bridges[node, ifname] = mtu
                    self.ifnames.setdefault(node, set()).add(ifname)
                case MakeLink(a, b):
                    identity = frozenset((_identity(a), _identity(b)))
                    self.links[identity] = operation
                    for end in (a, b):
                        self.link_at[end.node, end.ifname] = identity
                        self.ifnames.setdefault(end.node, set()).add(end.ifname)
                case SetSysctl(node, key, value):
                    self.sysctls[node, key] = value
                case AddAddress(node, ifname):
                    self.others.add(operation)
                    self.own.add((node, operation.address.ip))
                    if not operation.address.ip.is_link_local:
                        self.addresses.setdefault((node, ifname), []).append(operation)
                case AddRoute(node, destination):
                    self.others.add(operation)
                    self.routes[node, str(destination)] = operation
                case SetUp():
                    self.others.add(operation)
                case SetImpairment(node, ifname):
                    self.impaired[node, ifname] = operation
                case Part():
                    self.parts[operation.identity] = operation
                    if operation.makes:
                        self.makers[operation.node, operation.makes] = operation
                        self.ifnames.setdefault(operation.node, set()).add(operation.makes)

    def impairment(self, end: LinkEnd) -> Impairment | None:
        """Return the impairment of packets that the interface sends."""
        return self.impairment_at((end.node, end.ifname))

    def impairment_at(self, at: At) -> Impairment | None:
        return self.impaired[at].impairment if at in self.impaired else None

    def interface_of(self, node: str, key: str) -> str:
        """Return the interface that the setting belongs to; "" for the whole node."""
        return interface_of_sysctl(key, self.ifnames.get(node, ()))


def _identity(end: LinkEnd) -> tuple[str, ...]:
    # Linux removes IPv6 from an interface when its MTU falls below the minimum, and sets it up again above it.
    without_ipv6 = "small" if not end.bridge and end.mtu < IPV6_MTU_MIN else ""
    return (end.node, end.ifname, end.mac, end.bridge, without_ipv6)


class _Comparison:
    """The objects of both plans, side by side."""

    def __init__(self, old: Plan, new: Plan) -> None:
        self.before, self.after = _Objects(old), _Objects(new)
        self._stays: dict[At, bool] = {}

    def keeps_kind(self, node: str) -> bool:
        """Return whether the node is in both plans, as the same kind."""
        return node in self.before.kinds and self.before.kinds[node] is self.after.kinds.get(node)

    def stays(self, node: str, ifname: str = "") -> bool:
        """Return whether the interface ("" or `lo`: the node) is the same object in both plans."""
        stays = self._stays.get((node, ifname))
        if stays is None:
            stays = self._stays[node, ifname] = self._find_whether_stays(node, ifname)
        return stays

    def _find_whether_stays(self, node: str, ifname: str) -> bool:
        before, after, at = self.before, self.after, (node, ifname)
        if not self.keeps_kind(node):
            return False
        if at in before.bridges or at in after.bridges:
            return at in before.bridges and at in after.bridges
        if at in before.link_at or at in after.link_at:
            return before.link_at.get(at) == after.link_at.get(at) and self.link_stays(before.link_at[at])
        if at in before.makers or at in after.makers:
            return at in before.makers and at in after.makers and self.part_stays(after.makers[at])
        return True

    def part_stays(self, part: AnyPart) -> bool:
        """Return whether a part of the new plan is in the old one, perhaps otherwise, and stays what it is."""
        old = self.before.parts.get(part.identity)
        if old is None or not (old == part or (old.becomes(part) and self.keeps_addresses(old))):
            return False
        return all(self.stays(part.node, ifname) for ifname in (part.ifname, *old.needs, *part.needs))

    def keeps_gateway(self, route: AddRoute) -> bool:
        """Return whether the gateway of a route of the old plan is on the same network of the interface in both."""
        at = (route.node, route.ifname)
        is_own = (route.node, route.gateway) in self.after.own
        return self.stays(*at) and self.before.addresses.get(at) == self.after.addresses.get(at) and not is_own

    def keeps_addresses(self, part: AnyPart) -> bool:
        """Return whether a route of the old plan has the same networks for its next hops in both, and its source.

        One that is changed in place is changed back at a rollback, before addresses are.
        """
        if not isinstance(part, AddStaticRoute):
            return True
        ends = [(part.node, hop.ifname) for hop in part.route.hops]
        if any(self.before.addresses.get(at) != self.after.addresses.get(at) for at in ends):
            return False
        return part.route.source is None or (part.node, part.route.source) in self.before.own & self.after.own

    def link_stays(self, identity: LinkIdentity) -> bool:
        """Return whether the link is in both plans, between nodes that stay."""
        in_both = identity in self.before.links and identity in self.after.links
        return in_both and all(self.keeps_kind(end[0]) for end in identity)

    # -- operations ------------------------------------------------------------------------------------------------

    def removals(self) -> Iterator[Operation]:
        """Undo the operations of the old plan in reverse order, except for objects that stay."""
        before, after = self.before, self.after
        for operation in reversed(before.plan.operations):
            match operation:
                case MakeNode(node, kind) if not self.stays(node):
                    yield RemoveNode(node, kind)
                case MakeLink(a, b) if not self.stays(a.node, a.ifname):
                    yield RemoveLink(a, b)
                case MakeBridge(node, ifname, mtu) if self.keeps_kind(node) and not self.stays(node, ifname):
                    yield RemoveBridge(node, ifname, mtu)
                case SetSysctl(node, key):
                    ifname = before.interface_of(node, key)
                    if self.stays(node, ifname):
                        if (node, key) not in after.sysctls:
                            yield ResetSysctl(node, key)
                    elif ifname and (node, ifname) not in before.bridges:
                        yield ResetSysctl(node, key)
                case AddAddress(node, ifname, address):
                    if operation not in after.others or not self.stays(node, ifname):
                        yield RemoveAddress(node, ifname, address)
                case SetImpairment(node, ifname, impairment, _, mtu):
                    if self.stays(node, ifname) and (node, ifname) not in after.impaired:
                        yield SetImpairment(node, ifname, None, impairment, mtu)
                case Part(node, ifname):
                    new = after.parts.get(operation.identity)
                    goes = not self.stays(node, ifname) and not operation.makes  # with its interface, or with its node
                    if self.keeps_kind(node) and not goes and (new is None or not self.part_stays(new)):
                        yield RemovePart(operation)
                case SetUp(node, ifname) if operation not in after.others and self.stays(node, ifname):
                    yield SetDown(node, ifname)  # removing an interface as a whole is much faster, so only if it stays
                case AddRoute(node, _, _, ifname):
                    is_kept = operation in after.others and self.stays(node, ifname)
                    if not is_kept and not self.keeps_gateway(operation):
                        yield _removal(operation)

    def additions(self) -> Iterator[Operation]:
        """Yield the operations of the new plan, except for objects that stay, then remove routes of the old one.

        A route is removed when those that take its place exist, or just before the one to the same destination; but
        with `removals` if it could not be added again, as a rollback does.
        """
        before, after = self.before, self.after
        for operation in after.plan.operations:
            match operation:
                case MakeNode(node) if not self.stays(node):
                    yield operation
                case MakeBridge(node, ifname) if not self.stays(node, ifname):
                    yield operation
                case MakeNode() | MakeBridge():
                    pass
                case MakeLink(a):
                    if not self.stays(a.node, a.ifname):
                        yield operation
                case SetSysctl(node, key, value):
                    stays = self.stays(node, after.interface_of(node, key))
                    if not stays or before.sysctls.get((node, key)) != value:
                        yield operation
                case SetImpairment(node, ifname):
                    was = before.impaired.get((node, ifname)) if self.stays(node, ifname) else None
                    if was is None or not _impairs_alike(was, operation):
                        yield replace(operation, before=was.impairment if was else None)
                case Part():
                    if not self.part_stays(operation):
                        taken = operation.replaces if isinstance(operation, AddStaticRoute) else None
                        if taken is not None and (route := before.routes.get(taken)) and self.keeps_gateway(route):
                            yield _removal(route)
                        yield operation
                    elif (old := before.parts[operation.identity]) != operation:
                        yield ReplacePart(operation, old)
                case AddAddress(node, ifname) | SetUp(node, ifname):
                    if operation not in before.others or not self.stays(node, ifname):
                        yield operation
                case AddRoute(node, destination, _, ifname):
                    if operation not in before.others or not self.stays(node, ifname):
                        replaced = before.routes.get((node, str(destination)))
                        if replaced is not None and self.keeps_gateway(replaced):
                            yield _removal(replaced)
                        yield operation
                case _:
                    yield operation
        taken_by_parts = {part.replaces for part in after.parts.values() if isinstance(part, AddStaticRoute)}
        for at, route in before.routes.items():
            if at not in after.routes and at not in taken_by_parts and self.keeps_gateway(route):
                yield _removal(route)

    def mtus(self) -> Iterator[SetMtu]:
        """Change MTUs of links that stay, then of their bridges, whose MTU follows."""
        for _, old, new in self.kept_links():
            was = {(end.node, end.ifname): end.mtu for end in (old.a, old.b)}
            for end in (new.a, new.b):
                if was[end.node, end.ifname] != end.mtu:
                    yield SetMtu(end.node, end.ifname, end.mtu, was[end.node, end.ifname])
        for (node, ifname), mtu in self.after.bridges.items():
            if self.stays(node, ifname) and self.before.bridges[node, ifname] != mtu:
                yield SetMtu(node, ifname, mtu, self.before.bridges[node, ifname])

    def kept_links(self) -> Iterator[tuple[LinkIdentity, MakeLink, MakeLink]]:
        """Yield links that stay, in the old and in the new plan."""
        for identity, link in self.after.links.items():
            if self.link_stays(identity):
                yield identity, self.before.links[identity], link

    # -- changes for people ----------------------------------------------------------------------------------------

    def changes(self) -> Iterator[Change]:
        before, after = self.before, self.after
        for node, kind in before.kinds.items():
            if node not in after.kinds:
                yield Change(Sign.REMOVED, f"{kind} {node}")
        yield from self.link_changes(Sign.REMOVED)
        for node, kind in after.kinds.items():
            if node not in before.kinds:
                yield Change(Sign.ADDED, f"{kind} {node}")
            elif before.kinds[node] is not kind:
                yield Change(Sign.CHANGED, f"{before.kinds[node]} {node} becomes a {kind}: replaced, its programs end")
        yield from self.link_changes(Sign.ADDED)
        yield from self.mtu_changes()
        yield from self.part_changes()
        yield from self.impairment_changes()
        yield from self.address_changes()
        yield from self.route_changes()
        yield from self.sysctl_changes()
        yield from self.node_changes()
        yield from self.service_changes()

    def node_changes(self) -> Iterator[Change]:
        known = {node.name: node for node in self.before.plan.nodes}
        for node in self.after.plan.nodes:
            old = known.get(node.name)
            for name in node.__struct_fields__ if old is not None and old.kind is node.kind else ():
                if name not in _SHOWN_BY_OTHER_CHANGES and getattr(old, name) != getattr(node, name):
                    effect = _EFFECTS.get(name, "at once")
                    yield Change(Sign.CHANGED, f"{_KEYS.get(name, name)} of {node.name}, {effect}")

    def service_changes(self) -> Iterator[Change]:
        """Services that are added, removed or restarted; those of removed nodes are not mentioned."""
        old = services_of(node for node in self.before.plan.nodes if node.name in self.after.kinds)
        new = services_of(self.after.plan.nodes)
        for key in old:
            if key not in new:
                yield Change(Sign.REMOVED, f"service {key}: stopped")
        for key, (_, service) in new.items():
            if key not in old:
                yield Change(Sign.ADDED, f"service {key}: {shlex.join(service.argv)}")
            elif not runs_alike(old[key][1], service):
                yield Change(Sign.CHANGED, f"service {key}: restarted as {shlex.join(service.argv)}")
            elif old[key][1] != service:
                yield Change(Sign.CHANGED, f"service {key}: new settings, for its next start")

    def link_changes(self, sign: Sign) -> Iterator[Change]:
        """Links that are removed (REMOVED) or added, with addresses; a replaced link appears once, as CHANGED."""
        this, other = (self.before, self.after) if sign is Sign.REMOVED else (self.after, self.before)
        for identity, link in this.links.items():
            if self.link_stays(identity):
                continue
            replaced = other.link_at.get((link.a.node, link.a.ifname))
            if replaced is None or replaced != other.link_at.get((link.b.node, link.b.ifname)):
                ends = " - ".join(_with_addresses(end, this) for end in (link.a, link.b))
                yield Change(sign, f"link {ends}{_impairments(link, this) if sign is Sign.ADDED else ''}")
            elif sign is Sign.ADDED:
                text = f"link {link.a} - {link.b}: replaced, because {_reason(other.links[replaced], link)}"
                yield Change(Sign.CHANGED, text)

    def mtu_changes(self) -> Iterator[Change]:
        for _, old, new in self.kept_links():
            was = {(end.node, end.ifname): end.mtu for end in (old.a, old.b)}
            changed = [end for end in (new.a, new.b) if was[end.node, end.ifname] != end.mtu]
            if changed:
                end = changed[0]
                mtus = f"{was[end.node, end.ifname]} to {end.mtu} bytes"
                yield Change(Sign.CHANGED, f"mtu of {new.a} - {new.b}: {mtus}")

    def part_changes(self) -> Iterator[Change]:
        """Parts of nodes in both plans."""
        before, after = self.before, self.after
        for identity, part in before.parts.items():
            if identity not in after.parts and self.keeps_kind(part.node):
                yield Change(Sign.REMOVED, part.text())
        for identity, part in after.parts.items():
            old = before.parts.get(identity)
            if old is None and self.keeps_kind(part.node):
                yield Change(Sign.ADDED, f"{part.text()}{_of_device(part, after)}")
            elif old is not None and old != part:
                yield Change(Sign.CHANGED, old.change(part))

    def impairment_changes(self) -> Iterator[Change]:
        """Changes on links and devices in both plans: one if both directions change alike, else one per direction."""
        for link in self.after.links.values():
            ends = (link.a, link.b)
            if not all(self.joins_same_interfaces((end.node, end.ifname)) for end in ends):
                continue
            old, new = ([objects.impairment(end) for end in ends] for objects in (self.before, self.after))
            if old[0] == old[1] and new[0] == new[1]:
                if old[0] != new[0]:
                    yield _impairment_change(f"{link.a} - {link.b}", old[0], new[0])
                continue
            for end, was, now in zip(ends, old, new, strict=True):
                if was != now:
                    yield _impairment_change(f"packets from {end}", was, now)
        for at in self.after.makers:
            if self.joins_same_interfaces(at):
                was, now = (objects.impairment_at(at) for objects in (self.before, self.after))
                if was != now:
                    yield _impairment_change(f"packets from {':'.join(at)}", was, now)

    def address_changes(self) -> Iterator[Change]:
        """Addresses of interfaces in both plans; those of other interfaces appear with their links or devices."""
        for sign, this, other in (
            (Sign.REMOVED, self.before, self.after),
            (Sign.ADDED, self.after, self.before),
        ):
            for at, added in this.addresses.items():
                if self.joins_same_interfaces(at):
                    for one in added:
                        if one not in other.others:
                            yield Change(sign, f"address {one.address} on {one.node}:{one.ifname}")

    def joins_same_interfaces(self, at: At) -> bool:
        """Return whether a link from here to the same interface is in both plans, or a device, be it replaced."""
        old, new = ({end[:2] for end in objects.link_at.get(at, ())} for objects in (self.before, self.after))
        if old or new:
            return old == new
        is_device = at in self.before.makers and at in self.after.makers
        return (is_device or at[1] == LOOPBACK) and self.keeps_kind(at[0])

    def route_changes(self) -> Iterator[Change]:
        """Routes of nodes in both plans."""
        old, new = self.before.routes, self.after.routes
        for (node, to), route in sorted(old.items(), key=lambda one: one[0]):
            if (node, to) not in new and node in self.after.kinds:
                yield Change(Sign.REMOVED, f"route {to} via {route.gateway} on {node}:{route.ifname}")
        for (node, to), route in sorted(new.items(), key=lambda one: one[0]):
            was = old.get((node, to))
            if was is None:
                if node in self.before.kinds:
                    yield Change(Sign.ADDED, f"route {to} via {route.gateway} on {node}:{route.ifname}")
            elif was != route:
                vias = f"via {was.gateway} on {was.ifname} to via {route.gateway} on {route.ifname}"
                yield Change(Sign.CHANGED, f"route {to} on {node}: {vias}")

    def sysctl_changes(self) -> Iterator[Change]:
        old, new = self.before.sysctls, self.after.sysctls
        for (node, key), value in old.items():
            if (node, key) not in new and node in self.after.kinds:
                yield Change(Sign.REMOVED, f"{key}={value} on {node}")
        for (node, key), value in new.items():
            was = old.get((node, key))
            if node not in self.before.kinds or was == value:
                continue
            if was is None:
                yield Change(Sign.ADDED, f"{key}={value} on {node}")
            else:
                yield Change(Sign.CHANGED, f"{key} on {node}: {was} to {value}")


def _removal(route: AddRoute) -> RemoveRoute:
    return RemoveRoute(route.node, route.destination, route.gateway, route.ifname)


def _impairs_alike(one: SetImpairment, other: SetImpairment) -> bool:
    """Return whether one can stay in place of the other.

    The MTU matters only for a rate, and a seed only when an interface is first impaired.
    """
    has_rate = one.impairment is not None and one.impairment.rate_bit_s
    return one.impairment == other.impairment and (one.mtu == other.mtu or not has_rate)


def _reason(old: MakeLink, new: MakeLink) -> str:
    was = {(end.node, end.ifname): end for end in (old.a, old.b)}
    for end in (new.a, new.b):
        before = was[end.node, end.ifname]
        if before.mac != end.mac:
            return f"the MAC address of {end} becomes {end.mac}"
        if before.mtu != end.mtu:
            return f"its MTU changes from {before.mtu} to {end.mtu}, across the {IPV6_MTU_MIN} that IPv6 needs"
    return "a node at its end is replaced"


def _with_addresses(end: LinkEnd, objects: _Objects) -> str:
    addresses = ", ".join(str(one.address) for one in objects.addresses.get((end.node, end.ifname), ()))
    return f"{end} ({addresses})" if addresses else str(end)


def _of_device(part: AnyPart, objects: _Objects) -> str:
    """Return addresses and impairment of the interface that the part makes, to follow its text."""
    at = (part.node, part.makes)
    addresses = [str(one.address) for one in objects.addresses.get(at, ())]
    impairment = objects.impairment_at(at)
    return "".join(f", {each}" for each in addresses) + (f": {impairment}" if impairment else "")


def _impairments(link: MakeLink, objects: _Objects) -> str:
    """Return the impairments of the link, to follow its name."""
    a, b = (objects.impairment(end) for end in (link.a, link.b))
    if a == b:
        return f": {a}" if a else ""
    each = (f"{one} from {end.node}" for end, one in ((link.a, a), (link.b, b)) if one)
    return f": {', '.join(each)}"


def _impairment_change(of: str, old: Impairment | None, new: Impairment | None) -> Change:
    if old is None:
        return Change(Sign.ADDED, f"{new} on {of}")
    if new is None:
        return Change(Sign.REMOVED, f"{old} on {of}")
    if old.pairs or new.pairs:  # whose text has a `to` of its own
        return Change(Sign.CHANGED, f"impairment of {of}: {new} (was {old})")
    return Change(Sign.CHANGED, f"impairment of {of}: {old} to {new}")
