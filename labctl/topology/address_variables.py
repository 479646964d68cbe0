"""Address variables such as `${h2.ipv4}` and `${h2.eth0.mac}` in the texts of topology and scenario files.

Their values come from the resolved topology, so they are replaced when a file is read. `$${h2.ipv4}` is the text
`${h2.ipv4}`. Texts that do not name a node and one of `ATTRIBUTES` stay: `${PORT}` and `${file%.txt}` are the shell's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from labctl.documents.diagnostics import REFERENCE_MISTAKES_LIMIT, Mistake, suggest
from labctl.names import LOOPBACK, name_key
from labctl.structs import replace
from labctl.topology.addressing import link_local
from labctl.topology.draft import Mistakes, Place
from labctl.topology.model import SHELL, Interface, Node, NodeKind, Readiness, Topology

# Examples by name: they replace a variable with an unknown value, so that the text around it can be checked.
ATTRIBUTES = MappingProxyType(
    {
        "ipv4": "192.0.2.1",
        "ipv6": "2001:db8::1",
        "ipv4_network": "192.0.2.0/24",
        "ipv6_network": "2001:db8::/64",
        "link_local": "fe80::1",
        "mac": "02:00:00:00:00:01",
    }
)
NAME_LIMIT = 200  # characters: more than the names of a node, an interface and an attribute together
SELF = "self"  # in a topology file: the node that the text belongs to

_REFERENCE = r"(\$?)\$\{([^{}\n]*\.[^{}\n]*)\}"

Report = Callable[[int, Mistake], None]  # called with the offset of a wrong reference in its text, and the mistake


def may_have_references(text: str) -> bool:
    """Return whether the text may contain an address variable; quick, with false positives."""
    return "${" in text and re.search(_REFERENCE, text) is not None


def example_of(text: str) -> str:
    """Return the text with examples in place of address variables, for checks before addresses are known."""
    return AddressVariables(None).substitute(text, lambda offset, mistake: None, unescape=True)


def escaped(text: str) -> str:
    """Escape address variables in a text for a topology file."""
    return re.sub(
        _REFERENCE, lambda match: f"${match.group(0)}" if _ends_as_one(match.group(2)) else match.group(0), text
    )


def _ends_as_one(name: str) -> bool:
    return name.strip().rpartition(".")[2] in ATTRIBUTES


class AddressVariables:
    """The variables of one topology; without a topology (it had mistakes), their values are examples."""

    def __init__(self, topology: Topology | None) -> None:
        self._nodes = {name_key(node.name): node for node in topology.nodes} if topology is not None else {}
        self._known = topology is not None
        self._interfaces: dict[str, Mapping[str, Interface]] = {}

    def owns(self, name: str, own_node: Node | None = None) -> bool:
        """Return whether `name` is an address variable, valid or not."""
        rest, _, attribute = name.rpartition(".")
        if len(name) > NAME_LIMIT:
            return False
        if attribute in ATTRIBUTES:
            return True
        return any(self._node(node, own_node) is not None for node, _ in _splits(f"{rest}.{attribute}"))

    def get(self, name: str, own_node: Node | None = None) -> str:
        """Return the value of the variable. Mistake, with a suggestion, if it does not exist."""
        rest, _, attribute = name.rpartition(".")
        if not self._known:
            return ATTRIBUTES.get(attribute, "")
        for before, after in (*_splits(name), (name, "")):
            node = self._node(before, own_node)
            if node is not None:
                return _value(node, self._interfaces_of(node), name, after)
        near = partial(suggest, rest.partition(".")[0], [node.name for node in self._nodes.values()])
        raise Mistake(f"there is no node `{rest.partition('.')[0][:40]}`", near)

    def substitute(self, text: str, report: Report, own_node: Node | None = None, *, unescape: bool) -> str:
        """Replace the address variables of the text, and call `report` for each wrong one.

        `unescape` turns `$${h2.ipv4}` into `${h2.ipv4}`.
        """

        def replacement(match: re.Match[str]) -> str:
            escape, name = match.group(1), match.group(2).strip()
            if not self.owns(name, own_node):
                return match.group(0)
            if escape:
                return match.group(0)[1:] if unescape else match.group(0)
            try:
                return self.get(name, own_node)
            except Mistake as mistake:
                report(match.start(), mistake)
                return ATTRIBUTES.get(name.rpartition(".")[2], ATTRIBUTES["ipv4"])

        return re.sub(_REFERENCE, replacement, text)

    def substitute_in(
        self,
        data: Any,
        report: Callable[[tuple[str | int, ...], str, int, Mistake], None],
        path: tuple[str | int, ...] = (),
    ) -> Any:
        """Replace the variables in all texts (not keys) of nested `data`; escapes stay for later.

        `report` is called with the path of the text, the text, the offset in it and the mistake.
        """
        if isinstance(data, str):
            if not may_have_references(data):
                return data
            return self.substitute(data, lambda offset, mistake: report(path, data, offset, mistake), unescape=False)
        if isinstance(data, dict):
            return {key: self.substitute_in(value, report, (*path, key)) for key, value in data.items()}
        if isinstance(data, list):
            return [self.substitute_in(value, report, (*path, index)) for index, value in enumerate(data)]
        return data

    def _interfaces_of(self, node: Node) -> Mapping[str, Interface]:
        """Return the node's interfaces by name."""
        known = self._interfaces.get(node.name)
        if known is None:
            known = {interface.name: interface for interface in node.interfaces}
            if node.loopback:
                known[LOOPBACK] = Interface(LOOPBACK, "", 0, node.loopback)
            self._interfaces[node.name] = known
        return known

    def _node(self, name: str, own_node: Node | None) -> Node | None:
        return self._nodes.get(name_key(name)) or (own_node if name == SELF else None)


def with_addresses(topology: Topology, places: Mapping[str, Place | None], mistakes: Mistakes) -> Topology:
    """Replace the variables in the texts of all nodes; `places` are the positions of the nodes in their files."""
    variables = AddressVariables(topology)
    reported: set[tuple[Place, int]] = set()  # the nodes of a group share their texts

    def texts_of(node: Node, place: Place) -> Callable[..., str]:
        def substitute(text: str, *path: str | int) -> str:
            def report(offset: int, mistake: Mistake) -> None:
                at = place.at(*path)
                if (at, offset) in reported or len(reported) > REFERENCE_MISTAKES_LIMIT:
                    return
                reported.add((at, offset))
                line = text.count("\n", 0, offset)
                column = offset - (text.rfind("\n", 0, offset) + 1)
                position = place.document.position_in_text(at.path, line, column)
                mistakes.diagnostics.append(place.document.diagnostic_at(position, str(mistake), mistake.what_to_try))

            return variables.substitute(text, report, node, unescape=True) if may_have_references(text) else text

        return substitute

    nodes = []
    for node in topology.nodes:
        place = places.get(node.name)
        if place is not None and (node.services or node.commands or node.environment or node.tree):
            node = _with_texts(node, texts_of(node, place))
        nodes.append(node)
    return replace(topology, nodes=tuple(nodes))


def _with_texts(node: Node, substitute: Callable[..., str]) -> Node:
    """Pass each text that may contain variables, and its path, to `substitute`; return the node with the results."""

    def program(argv: tuple[str, ...], *path: str | int) -> tuple[str, ...]:
        if argv[:2] == SHELL:
            return (*SHELL, *(substitute(word, *path, "shell") for word in argv[2:]))
        return tuple(substitute(word, *path, "run", index) for index, word in enumerate(argv))

    def pairs(values: tuple[tuple[str, str], ...], *path: str | int) -> tuple[tuple[str, str], ...]:
        if not any(may_have_references(value) for _, value in values):
            return values  # shared by all nodes of a group
        return tuple((key, substitute(value, *path, key)) for key, value in values)

    def ready(wanted: Readiness, *path: str | int) -> Readiness:
        listening, line, file = (substitute(getattr(wanted, key), *path, key) for key in ("listening", "line", "file"))
        command = tuple(substitute(word, *path, "command", index) for index, word in enumerate(wanted.command))
        return Readiness(listening, line, file, command)

    services = [
        replace(
            one,
            argv=program(one.argv, "services", one.name),
            environment=pairs(one.environment, "services", one.name, "env"),
            ready=one.ready and ready(one.ready, "services", one.name, "ready"),
        )
        for one in node.services
    ]
    commands = [
        replace(one, argv=program(one.argv, "exec", index), environment=pairs(one.environment, "exec", index, "env"))
        for index, one in enumerate(node.commands)
    ]
    files = tuple(
        one if one.content is None else replace(one, content=substitute(one.content, "files", one.path, "content"))
        for one in node.tree.files
    )
    return replace(
        node,
        environment=pairs(node.environment, "environment"),
        services=tuple(services),
        commands=tuple(commands),
        tree=replace(node.tree, files=files),
    )


def _splits(name: str) -> list[tuple[str, str]]:
    """Split the name at each dot, the longest first part first: names of nodes and interfaces may contain dots."""
    cuts = [index for index, letter in enumerate(name) if letter == "."]
    return [(name[:cut], name[cut + 1 :]) for cut in reversed(cuts)]


def _value(node: Node, ifnames: Mapping[str, Interface], name: str, after: str) -> str:
    """Return the value of the variable `name`, of which `after` (INTERFACE.ATTRIBUTE or ATTRIBUTE) follows the node."""
    ifname, dot, attribute = after.rpartition(".")
    is_complete = attribute in ATTRIBUTES and (not dot or ifname in ifnames)  # an interface may be called `mac`
    if not after or (after in ifnames and not is_complete):
        raise Mistake(f"`${{{name}}}` lacks an attribute", f"write for example `${{{name}.ipv4}}`")
    if dot and ifname not in ifnames:
        raise Mistake(f"{node.name} has no interface `{ifname[:40]}`", suggest(ifname, ifnames))
    what = f"{node.name}:{ifname}" if ifname else node.name
    if attribute not in ATTRIBUTES:
        raise Mistake(f"{what} has no address variable `{attribute}`", suggest(attribute, ATTRIBUTES))
    for interface in (ifnames[ifname],) if ifname else node.interfaces:
        if found := _attribute(node, interface, attribute):
            return found
    if node.kind is NodeKind.SWITCH:
        raise Mistake(f"{node.name} is a switch: its ports have no addresses")
    if not node.interfaces:
        raise Mistake(f"{node.name} has no interfaces")
    family = {"ipv4": "IPv4", "ipv6": "IPv6"}.get(attribute.partition("_")[0], attribute)
    raise Mistake(f"{what} has no {family} address")


def _attribute(node: Node, interface: Interface, attribute: str) -> str:
    """Return the attribute, or "" if the interface has none."""
    if attribute == "mac":
        return interface.mac
    if node.kind is NodeKind.SWITCH:
        return ""
    if attribute == "link_local":
        return str(link_local(interface.mac).ip) if interface.mac else ""
    version = 6 if attribute.startswith("ipv6") else 4
    for address in interface.addresses:
        if address.version == version:
            return str(address.network if attribute.endswith("_network") else address.ip)
    return ""
