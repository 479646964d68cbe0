"""The network of a running lab: `labctl link`, `ping` and `inspect`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl.cli.lab_selection import attach, attach_lab_with, check_node, lab_name, suggestion
from labctl.errors import InputError
from labctl.plan.operations import AddVlan, LinkEnd, MakeDevice, MakeLink, Operation, SetDown, SetUp
from labctl.report.terminal import Cell, Ink, Look, render, standard_output, table, waiting
from labctl.structs import Struct
from labctl.topology.model import Endpoint, device_advice, end_to_take_down, is_end, links_between, neighbours

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.impairments import FoundImpairment
    from labctl.observe.inspect import Inspection, NodeState
    from labctl.plan.impairment_changes import ReportsImpairments, Sending
    from labctl.plan.operations import Plan

EXIT_UNREACHABLE = 1


def ping(nodes: Sequence[str], every: bool, every_pair: bool, lab: str | None) -> int:
    """Run `labctl ping`. Return 1 if an address is unreachable."""
    import resource

    from labctl.observe.ping import choose_pairs, is_sample, ping_pairs, pingable_nodes

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for sockets on each node
    with attach(lab) as attached:
        for node in nodes:
            check_node(attached, node)
        plan = attached.describe().plan
        chosen = list(dict.fromkeys(nodes)) or pingable_nodes(plan, routers=every)
        tested = choose_pairs(plan, chosen, every_pair=every_pair)
        doing = f"{len(tested)} pings in lab {attached.name}"
        with waiting(f"sending {doing}") as shown:
            results = ping_pairs(
                attached, plan, tested, progress=lambda count: shown.does(f"{count} results of {doing}")
            )
    screen = standard_output()
    screen.write(render(chosen, results, screen.look, sampled=is_sample(chosen, every_pair=every_pair)))
    return EXIT_UNREACHABLE if any(each.problem for each in results) else 0


class Cable(Struct, frozen=True):
    """A link of a plan, or two ends on one network, in the order of the command line."""

    near: LinkEnd
    far: LinkEnd
    is_pair: bool = False  # of ends on one network, which have no link of their own

    def __str__(self) -> str:
        return f"{self.near} - {self.far}"


def link(first: str, second: str, action: str, values: Sequence[str], sender: str | None, lab: str | None) -> int:
    """Run `labctl link`: change the links between two nodes, and show their state."""
    check_link_change(action, values, sender)
    screen = standard_output()
    with attach_lab_with(first.partition(":")[0], lab) as attached:
        check_node(attached, second.partition(":")[0])
        plan = attached.describe().plan
        cables = cables_between(plan, first, second)
        if action != "show":
            is_set = action == "set"
            attached.apply(
                changed_values(attached, plan, cables, values, sender)
                if is_set
                else link_operations(attached, plan, cables, action, sender)
            )
        screen.write(cable_table(attached, cables, screen.look))
    return 0


def check_link_change(action: str, values: Sequence[str], sender: str | None) -> None:
    """InputError if the action does not go with the values or the sender."""
    if action == "set" and not values:
        raise InputError("link set: values are missing. Try: link A B set delay=20ms loss=1%")
    if values and action != "set":
        hint = f"link A B set {' '.join(values)}" if all("=" in each for each in values) else f"link A B {action}"
        raise InputError(f"link {action}: takes no values. Try: {hint}")
    if sender is not None and action not in ("set", "clear"):
        raise InputError(f"link {action}: has no direction; --from is for set and clear.")


def link_operations(
    lab: ReportsImpairments, plan: Plan, cables: Sequence[Cable], action: str, sender: str | None = None
) -> list[Operation]:
    """Return the operations of `down`, `up` (which restores what an end lost by `down`) or `clear`. InputError."""
    if action == "clear":
        from labctl.plan.impairment_changes import clear_impairments

        return [*clear_impairments(lab, plan, _sendings(cables, sender))]
    for cable in cables:
        if cable.is_pair:
            links = _links_of(plan, cable.near.node)
            raise InputError(
                f"link {action}: {cable.near} and {cable.far} are on one network, not on a link of their own. {links}"
            )
    if action == "down":
        cut = [end_to_take_down(each.near, each.far, lambda end: bool(end.bridge)) for each in cables]
        return [SetDown(end.node, end.ifname) for end in cut]
    # either end may be down, depending on the order of the names
    return [SetUp(end.node, end.ifname) for each in cables for end in (each.near, each.far)]


def changed_values(
    lab: ReportsImpairments, plan: Plan, cables: Sequence[Cable], values: Sequence[str], sender: str | None
) -> list[Operation]:
    """Return the operations of `set`, which leaves the values that are not given. InputError."""
    from labctl.plan.impairment_changes import change_impairments
    from labctl.topology.impairments import read_words

    try:
        return [*change_impairments(lab, plan, _sendings(cables, sender), read_words(values))]
    except ValueError as error:
        raise InputError(f"link set: {error}") from error


def _sendings(cables: Sequence[Cable], sender: str | None) -> list[Sending]:
    """Return what the impairment affects: packets from all ends, or those of the sender. InputError."""
    from labctl.plan.impairment_changes import sendings

    found = []
    for cable in cables:
        those = sendings(cable.near, cable.far, sender, is_pair=cable.is_pair)
        if sender is not None and not those:
            near = suggestion(sender, [cable.near.node, cable.far.node])
            raise InputError(f"--from {sender}: not an end of the link {cable}; {near}")
        found += those
    return found


def all_cables(plan: Plan) -> list[Cable]:
    """Return all links of the plan, in its order."""
    return [Cable(each.a, each.b) for each in plan.operations if isinstance(each, MakeLink)]


def cables_between(plan: Plan, first: str, second: str) -> list[Cable]:
    """Return the links between two ends (NODE or NODE:INTERFACE), else the two on one network. InputError."""
    links = [each for each in plan.operations if isinstance(each, MakeLink)]
    found = links_between(links, first, second)
    if not found:
        vlans: dict[tuple[str, str], frozenset[int]] = {}
        for one in plan.operations:
            if isinstance(one, AddVlan):
                at = (one.node, one.ifname)
                vlans[at] = vlans.get(at, frozenset()) | {one.vlan}
        ends = neighbours(
            [(link.a, link.b) for link in links],
            *(first, second),
            lambda end: bool(end.bridge),
            lambda end: vlans.get((end.node, end.ifname), frozenset()),
        )
        if ends:
            return [Cable(near, far, is_pair=True) for near, far in ends]
        devices = (Endpoint(one.node, one.name) for one in plan.operations if isinstance(one, MakeDevice))
        if advice := device_advice(devices, first, second):
            raise InputError(f"there is no link between {first} and {second}: {advice}.")
        known = dict.fromkeys(_links_of(plan, end.partition(":")[0]) for end in (first, second))
        raise InputError(f"there is no link between {first} and {second}. {' '.join(known)}")
    return [Cable(each.a, each.b) if is_end(each.a, first) else Cable(each.b, each.a) for each in found]


def _links_of(plan: Plan, node: str) -> str:
    links = [str(cable) for cable in all_cables(plan) if node in (cable.near.node, cable.far.node)]
    more = f" and {len(links) - 4} more" if len(links) > 4 else ""
    return f"Links of {node}: {', '.join(links[:4])}{more}." if links else f"{node} has no link."


def cable_table(lab: Lab, cables: Sequence[Cable], look: Look) -> list[str]:
    """Return a table of the links' state in the kernel."""
    from labctl.observe import network
    from labctl.observe.impairments import FoundImpairment, impairments

    in_force = lab.impaired()
    nodes = {end.node for cable in cables for end in (cable.near, cable.far)}
    interfaces = {(node, each.name): each for node in nodes for each in network.links(lab, node)}
    impaired = {(node, ifname): each for node in nodes for ifname, each in impairments(lab, node, in_force).items()}
    rows: list[list[Cell | str]] = []
    for cable in cables:
        ends = (cable.near, cable.far)
        found = [interfaces[end.node, end.ifname] for end in ends if (end.node, end.ifname) in interfaces]
        down = [str(end) for end, state in zip(ends, found, strict=False) if not state.up]
        if len(found) < len(ends):
            state, mtu = Cell("gone", Ink.BAD), ""
        else:
            state = Cell(f"down ({', '.join(down)})", Ink.BAD) if down else Cell("up", Ink.GOOD)
            mtu = "/".join(dict.fromkeys(str(each.mtu) for each in found))
        near, far = (impaired.get((end.node, end.ifname), FoundImpairment()) for end in ends)
        if cable.is_pair:
            near, far = near.towards(cable.far.mac), far.towards(cable.near.mac)
        rows.append([str(cable.near), str(cable.far), state, mtu, _both_directions(cable.near, near, cable.far, far)])
    headers = ("END", "END", "STATE", "MTU", "IMPAIRMENT")
    return table(look, headers, rows) if impaired else table(look, headers[:4], [row[:4] for row in rows])


def _both_directions(
    near: LinkEnd, near_impairment: FoundImpairment, far: LinkEnd, far_impairment: FoundImpairment
) -> str:
    if near_impairment == far_impairment:
        return str(near_impairment)
    return f"{near_impairment} from {near.node}, {far_impairment} from {far.node}"


def inspect(lab: str | None, lab_option: str | None, format: str) -> int:
    """Run `labctl inspect`."""
    from labctl.observe.inspect import as_data
    from labctl.observe.inspect import inspect as inspect_lab

    with attach(lab_name(lab, lab_option)) as attached:
        description = attached.describe()
        with waiting(f"reading {len(description.nodes)} nodes of lab {attached.name}"):
            found = inspect_lab(
                *(attached, description.name, description.plan, description.processes, description.faults),
                in_force=attached.impaired(),
            )
    screen = standard_output()
    if format == "table":
        screen.write(as_table(found, screen.look))
    elif format == "json":
        import json

        screen.write_bytes(json.dumps(as_data(found), indent=2, ensure_ascii=False).encode() + b"\n")
    else:
        screen.write_bytes(as_topology_file(found).encode())
    return 0


def as_topology_file(found: Inspection) -> str:
    """Return a topology file that `labctl up` accepts, with all derived values, and the impairments of this moment.

    Other differences between the lab and its file are comments at its beginning.
    """
    from labctl.observe.impairments import FoundImpairment
    from labctl.topology.resolved_file import text_of

    if not found.plan.file:
        raise InputError(f"lab {found.name}: its topology has names of files that are not UTF-8, as YAML must be.")
    links = {(end.node, end.ifname) for cable in all_cables(found.plan) for end in (cable.near, cable.far)}
    impaired = [each for each in found.differs if each.what == "impairment" and (each.node, each.interface) in links]
    changed = {
        (each.node, each.interface): found.found[each.node]
        .impairments.get(each.interface, FoundImpairment())
        .impairment
        for each in impaired
    }
    header = [f"The running lab {found.name}."]
    if others := [each for each in found.differs if each not in impaired]:
        header += ["The lab differs from this file, changed by hand:", *(f"  {each}" for each in others)]
    return text_of(found.plan.file, header, changed)


def as_table(found: Inspection, look: Look) -> list[str]:
    """Return painted lines: nodes, links, routes, rules, files, processes, and the differences from the file."""
    from labctl.observe.impairments import FoundImpairment
    from labctl.observe.inspect import device_settings, extra_rules, key_owners, port_settings, routes_of
    from labctl.printable import printable

    interfaces: list[list[Cell | str]] = []
    routes: list[list[Cell | str]] = []
    rules: list[list[Cell | str]] = []
    ports: list[list[Cell | str]] = []
    devices: list[list[Cell | str]] = []
    owners = key_owners(found.found)
    for node in found.plan.nodes:
        state = found.found[node.name]
        interfaces += _interface_rows(f"{node.kind.value} {node.name}", state)
        if node.kind.value == "switch":
            ports += [[node.name, *row] for row in port_settings(state)]
        else:
            routes += [[node.name, *row] for row in routes_of(state)]
            devices += [[node.name, *row] for row in device_settings(state, owners)]
        rules += [[node.name, rule] for rule in extra_rules(state)]
    links: list[list[Cell | str]] = []
    for each in found.links:
        near, far = (found.found[end.node].impairments.get(end.ifname, FoundImpairment()) for end in (each.a, each.b))
        impairment = "" if near == far == FoundImpairment() else _both_directions(each.a, near, each.b, far)
        links.append([f"{each.a} - {each.b}", Cell("up", Ink.GOOD) if each.up else Cell("down", Ink.BAD), impairment])
    is_impaired = any(row[2] for row in links)
    files: list[list[Cell | str]] = [
        [node.name, *map(str, row)] for node in found.plan.nodes for row in node.tree.listed()
    ]
    programs: list[list[Cell | str]] = [
        [one.node, one.name or "-", str(one.pid), one.state.value, shlex.join(one.argv)] for one in found.programs
    ]
    lines = [look.paint(f"lab {found.name}", Ink.STRONG)]
    for headers, rows in (
        (("NODE", "INTERFACE", "STATE", "MTU", "ADDRESSES"), interfaces),
        (("DEVICES OF", "INTERFACE", "KIND", "SETTINGS"), devices),
        (("LINK", "STATE", "IMPAIRMENT")[: 2 + is_impaired], [row[: 2 + is_impaired] for row in links]),
        (("ROUTES OF", "TO", "VIA", "INTERFACE"), routes),
        (("RULES OF", "RULE"), rules),
        (("PORTS OF", "PORT", "STATE", "SETTINGS"), ports),
        (("FILES OF", "PATH", "KIND", "SOURCE"), files),
        (("NODE", "PROCESS", "PID", "STATE", "COMMAND"), programs),
    ):
        if rows:
            lines += ["", *table(look, headers, rows)]
    if found.faults:
        from labctl.cli.fault import fault_table

        lines += ["", *fault_table(found.faults, look)]
    if not found.differs:
        return [*lines, "", "No drift: the lab matches its file."]
    lines += [
        "",
        look.paint(
            "Drift: the lab differs from its file (changed by hand or by a program, labctl link or a fault):",
            Ink.STRONG,
        ),
    ]
    return [*lines, *(look.paint(f"  {printable(str(each))}", Ink.ODD) for each in found.differs)]


def _interface_rows(node: str, state: NodeState) -> list[list[Cell | str]]:
    """The node's name stands in its first row only."""
    from labctl.topology.devices import FALLBACK_DEVICES

    rows: list[list[Cell | str]] = []
    for each in state.links:
        if each.name != "lo" and each.name not in FALLBACK_DEVICES:
            up = (
                Cell("up", Ink.GOOD) if each.up and each.carrier else Cell("no carrier" if each.up else "down", Ink.BAD)
            )
            addresses = [one.address for one in state.addresses if one.ifname == each.name]
            addresses.sort(key=lambda one: one.ip.is_link_local)  # global addresses first
            rows.append(["" if rows else node, each.name, up, str(each.mtu), " ".join(map(str, addresses))])
    return rows or [[node, "-", "", "", ""]]
