"""A topology as one file with all derived values: names of interfaces, MACs and addresses.

It is made from the data that a topology or a plan keeps of its file, for `labctl inspect`, `plan` and `export`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from labctl.documents import Diagnostic, DocumentError, parse
from labctl.formats.yaml_writer import write
from labctl.structs import json_encode
from labctl.topology.draft import DraftLink, from_shape, is_shape
from labctl.topology.file_data import Data, as_end, as_link, of_shape
from labctl.topology.impairments import WORDS
from labctl.topology.model import Impairment, Interface, NodeKind, Topology
from labctl.topology.parse import draft_of
from labctl.topology.resolve import resolve
from labctl.units import format_us

_BETWEEN = ("between", "delays", "distances")  # of switches and networks
_USUAL = {"distribution": "uniform", "discipline": "fifo"}  # of keys that 0 does not remove
Impairments = Mapping[tuple[str, str], Impairment | None]  # by node and interface


def explicit(file: str, impairments: Impairments | None = None) -> Data:
    """Return the data of a file (JSON, as a topology has it) with interface names, MACs and addresses written out.

    Ends in `impairments` get these instead of the file's. DocumentError if this version of labctl cannot read the file.
    """
    text = json_encode(of_shape(from_shape(file))).decode() if is_shape(file) else file
    document = parse(text, "file")
    draft, diagnostics = draft_of(document, (), Path(), "file")
    topology: Topology | None = None
    more: list[Diagnostic] = []
    if draft is not None:
        topology, more = resolve(draft, routes=False)
    if draft is None or topology is None or diagnostics or more:
        raise DocumentError([*diagnostics, *more])
    return _Explicit(document.data, topology, impairments or {}).written(draft.links)


class _Explicit:
    def __init__(self, data: Data, topology: Topology, impairments: Impairments) -> None:
        self.data = data
        self.nodes = {node.name: node for node in topology.nodes}
        self.links = topology.links
        self.interfaces = {(node.name, each.name): each for node in topology.nodes for each in node.interfaces}
        self.impairments = impairments

    def written(self, draft_links: Iterable[DraftLink]) -> Data:
        """Return the data; every draft link is the link of the topology with the same number."""
        members: dict[str, list[Data]] = {}
        ends_of: dict[str, list[tuple[str, str]]] = {}  # of members, by switch or network
        links: list[Data] = []
        for draft, link in zip(draft_links, self.links, strict=False):
            assert draft.place is not None
            path = draft.place.path
            ends = [(end.node, end.ifname) for end in (link.a, link.b)]
            for end, (other, _) in (ends, ends[::-1]):
                if self.nodes[other].kind is NodeKind.SWITCH:
                    ends_of.setdefault(other, []).append(end)
            if path[0] == "networks":
                written = self.data["networks"][path[1]]["members"][path[3]]
                members.setdefault(str(path[1]), []).append(self.end(as_end(written), *ends[0]))
                continue
            if path[0] != "links":
                continue  # made of another key, which stays as it is written
            whole = as_link(self.data["links"][path[1]])
            near, far = (self.end(as_end(each), *end) for each, end in zip(whole["ends"], ends, strict=True))
            if not self.impairments.keys().isdisjoint(ends):
                whole = _without_impairment(whole)
                near, far = (self.impaired(each, *end) for each, end in zip((near, far), ends, strict=True))
            links.append({**whole, "ends": [near, far]})
        found = dict(self.data)
        for kind in ("networks", "switches"):
            if switches := self.data.get(kind):
                found[kind] = {
                    name: self.switch(switch or {}, members.get(name), self.between(ends_of.get(name, ())))
                    for name, switch in switches.items()
                }
        return {key: value for key, value in found.items() if key != "links"} | ({"links": links} if links else {})

    def switch(self, written: Data, members: list[Data] | None, pairs: list[Data] | None) -> Data:
        """Return a switch or network with its members, and `between` in place of what the file has, unless None."""
        found = {key: value for key, value in written.items() if key not in _BETWEEN or pairs is None}
        found |= {} if members is None else {"members": members}
        return found | ({"between": pairs} if pairs else {})

    def end(self, written: Data, node: str, ifname: str) -> Data:
        """Return an end with its derived values."""
        interface = self.interfaces[node, ifname]
        found = {**written, "node": node, "interface": ifname, "mac": interface.mac}
        if self.nodes[node].kind is not NodeKind.SWITCH:
            found |= addresses_of(interface)
        if (node, ifname) in self.impairments:
            found = self.impaired(found, node, ifname)
        return found

    def impaired(self, written: Data, node: str, ifname: str) -> Data:
        """Return an end with its impairment of this moment and its profile, without the file's."""
        now = self._impairment((node, ifname))
        found = _without_impairment(written)
        if now.profile is None:
            return found | dict(now.texts())
        values: dict[str, str] = dict(now.profile.moments[0].impairment.texts())
        moments: list[Data] = []
        found |= values
        for moment in now.profile.moments:
            new = dict(moment.impairment.texts())
            moments.append({"at": format_us(moment.at_us) if moment.at_us else "0s"} | changes(values, new))
            values = new
        loop = {"loop": format_us(now.profile.loop_us)} if now.profile.loop_us else {}
        return found | {"profile": {"moments": moments, **loop}}

    def between(self, ends: Sequence[tuple[str, str]]) -> list[Data] | None:
        """Return `between` of a switch whose members have other values for each other than the file has, else None."""
        found = {end: self._impairment(end) for end in ends}
        if all(end not in self.impairments for end in ends):
            return None
        values = {
            (node, pair.node): changes(dict(each.texts()), dict(pair.impairment.texts()))
            for (node, _), each in found.items()
            for pair in each.pairs
        }
        return [
            {"nodes": [{"node": one, **values.get((one, other), {})} for one, other in (pair, pair[::-1])]}
            for pair in dict.fromkeys(min(pair, pair[::-1]) for pair in values)
        ]

    def _impairment(self, end: tuple[str, str]) -> Impairment:
        return self.impairments.get(end, self.interfaces[end].impairment) or Impairment()


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that make these values of those `before` (`Impairment.texts`)."""
    none = {key: _USUAL.get(key, "0") for key in before if key not in now}
    return none | {key: value for key, value in now.items() if before.get(key) != value}


def addresses_of(interface: Interface) -> Data:
    """Return the addresses of an interface as keys of an end."""
    found: Data = {}
    for version in (4, 6):
        those = [str(address) for address in interface.addresses if address.version == version]
        found[f"ipv{version}"] = False if not those else those[0] if len(those) == 1 else those
    return found


def _without_impairment(data: Data) -> Data:
    return {key: value for key, value in data.items() if key not in WORDS}


def text_of(file: str, header: Sequence[str] = (), impairments: Impairments | None = None) -> str:
    """Return the file (JSON, as a topology has it) as YAML with all derived values."""
    return write(explicit(file, impairments), header)
