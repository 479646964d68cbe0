"""`firewall` in topology files: presets, and lists of packets that are denied or allowed."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.documents.diagnostics import suggest
from labctl.documents.schema import PlacedText
from labctl.topology.draft import Mistakes, Place
from labctl.topology.filter_schema import FirewallFile, FlowFile
from labctl.topology.packet_rules import Firewall, FlowProtocol, FlowRule
from labctl.topology.translation import parse_ports

_EXAMPLE = "write for example tcp/80, udp/5000-5010, icmp, or {from: lan, port: 80}"


def firewall_of(
    model: FirewallFile | None, place: Place, mistakes: Mistakes, named_at: dict[str, Place] | None = None
) -> Firewall | None:
    """Return the firewall that the file asks for; names in it are those of the file.

    `named_at` receives the place of each name.
    """
    if model is None:
        return None
    named_at = {} if named_at is None else named_at
    return Firewall(
        model.preset,
        model.policy,
        model.outside or "",
        _flows(model.deny, place, mistakes, named_at),
        _flows(model.allow, place, mistakes, named_at),
    )


def _flows(
    models: Sequence[PlacedText | FlowFile], place: Place, mistakes: Mistakes, named_at: dict[str, Place]
) -> tuple[FlowRule, ...]:
    found: list[FlowRule] = []
    for model in models:
        at = Place(place.document, model.at_path)
        if (rule := _flow(model, at, mistakes)) is not None:
            found.append(rule)
            if isinstance(model, PlacedText):
                named_at.update({name: at for name in (*rule.sources, *rule.destinations) if name not in named_at})
            else:
                for end in (*model.from_, *model.to):
                    named_at.setdefault(end.text, Place(place.document, end.at_path))
    return tuple(found)


def _flow(model: PlacedText | FlowFile, place: Place, mistakes: Mistakes) -> FlowRule | None:
    if isinstance(model, PlacedText):
        try:
            return parse_flow(model.text)
        except ValueError as error:
            mistakes.add(place, str(error), _EXAMPLE)
            return None
    ports = (0, 0) if model.port is None else parse_ports(model.port)
    sources, destinations = (tuple(one.text for one in ends) for ends in (model.from_, model.to))
    if ports is None:
        message = f"`{model.port}` is neither a port nor a range"
        mistakes.add(place.at("port"), message, "write for example 80 or 80-90")
    elif ports[0] and model.protocol is FlowProtocol.ICMP:
        mistakes.add(place.at("port"), "icmp has no ports")
    else:
        return FlowRule(model.protocol, ports[0], ports[1], sources, destinations, model.direction)
    return None


def parse_flow(text: str) -> FlowRule:
    """Parse `tcp/80`, `udp`, `443`, each also with `from NAME ...` and `to NAME ...` behind it. ValueError."""
    words = text.split()
    ends: dict[str, list[str]] = {"from": [], "to": []}
    first, current = "", None
    for word in words:
        if word in ends:
            current = word
        elif current is not None:
            ends[current] += [name for name in word.split(",") if name]
        elif first:
            raise ValueError(f"`{text[:60]}` is not a protocol and a port")
        else:
            first = word
    name, slash, port = first.partition("/")
    if name.isdecimal() or parse_ports(name):
        name, port, slash = "", name, "/"
    if name not in ("", "any", "all", *FlowProtocol):
        raise ValueError(f"`{name[:40]}` is not a protocol; {suggest(name, list(FlowProtocol))}")
    ports = parse_ports(port) if slash else (0, 0)
    if ports is None or (slash and name == FlowProtocol.ICMP):
        raise ValueError(f"`{first[:40]}` is not a protocol and a port")
    if not first and not (ends["from"] or ends["to"]):
        raise ValueError("the rule is empty")
    protocol = FlowProtocol(name) if name in set(FlowProtocol) else None
    return FlowRule(protocol, ports[0], ports[1], tuple(ends["from"]), tuple(ends["to"]))
