"""What a node has to do with the machine, as texts of a file: ports that lead to it, and limits for its programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from labctl.documents import Document
from labctl.documents.shapes import PlacedText
from labctl.documents.source import suggest
from labctl.topology.draft import DraftNode, Mistakes, Place
from labctl.topology.files import PORT_MAX, ExposureFile, LimitsFile
from labctl.topology.model import Address, Exposure, Limits, Transport
from labctl.units import size_bytes

MEMORY_MIN_BYTES = 1 << 20  # below it not even the node's first program starts
CPU_MIN, CPU_MAX = 0.01, 1024.0
_EXAMPLE = "write for example 8080:80, 192.0.2.1:8080:80 or 5353:53/udp"
_MACHINE_EXAMPLE = "write for example 8080, 192.0.2.1:8080 or [::1]:8080"
_PERCENTAGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


def exposures_of(
    models: Sequence[PlacedText | ExposureFile], document: Document, mistakes: Mistakes
) -> tuple[Exposure, ...]:
    """The ports of an `expose` in that document."""
    found = (_exposure(model, Place(document, model.at_path), mistakes) for model in models)
    return tuple(exposure for exposure in found if exposure is not None)


def limits_of(model: LimitsFile | None, place: Place, mistakes: Mistakes) -> Limits | None:
    """The values of `limits`, which is at that place; None where nothing is limited."""
    if model is None:
        return None
    memory_bytes: int | None = None
    cpu: float | None = None
    if model.memory is not None:
        try:
            memory_bytes = size_bytes(model.memory)
        except ValueError as error:
            mistakes.add(place.at("memory"), str(error))
        else:
            if memory_bytes < MEMORY_MIN_BYTES:
                mistakes.add(
                    place.at("memory"), f"`{model.memory}` is too little memory for a program", "at least 1MiB"
                )
    if model.cpu is not None:
        cpu = _cpu(model.cpu, place.at("cpu"), mistakes)
    if model.pids is None and memory_bytes is None and cpu is None:
        return None
    return Limits(model.pids, memory_bytes, cpu)


def check_exposures(nodes: Iterable[DraftNode], mistakes: Mistakes) -> None:
    """Ports of the machine that would lead to two hosts."""
    taken: dict[tuple[Transport, int], dict[Address | None, tuple[Exposure, DraftNode]]] = {}
    for node in nodes:
        for exposure in node.exposures:
            others = taken.setdefault((exposure.transport, exposure.machine_port), {})
            found = others.get(exposure.address) or _overlapping(exposure.address, others)
            if found is None:
                others[exposure.address] = (exposure, node)
                continue
            owner = found[1]
            group = owner.place == node.place and owner is not node
            where = f" (see {owner.place.describe(key=True)})" if owner.place and owner.place != node.place else ""
            message = f"the machine's port {exposure.machine}/{exposure.transport} is exposed twice{where}"
            hint = "nodes of a group cannot share a port; name them one by one" if group else ""
            mistakes.add(node.place.at("expose") if node.place else None, message, hint)


def _overlapping(
    address: Address | None, others: Mapping[Address | None, tuple[Exposure, DraftNode]]
) -> tuple[Exposure, DraftNode] | None:
    """Another address that stands for this one, too: no address, or that of all interfaces."""
    if address is None or address.is_unspecified:
        return next((found for other, found in others.items() if _overlap(address, other)), None)
    every = ip_address(bytes(address.max_prefixlen // 8))
    return others.get(every) or (others.get(None) if address.is_loopback else None)


def _overlap(one: Address | None, other: Address | None) -> bool:
    if one is None or other is None:
        known = one or other
        return known is None or known.is_loopback or known.is_unspecified
    if one.version != other.version:
        return False
    return one == other or one.is_unspecified or other.is_unspecified


def _exposure(model: PlacedText | ExposureFile, place: Place, mistakes: Mistakes) -> Exposure | None:
    if isinstance(model, PlacedText):
        return _short_form(model.text, place, mistakes)
    machine = _machine(model.machine)
    if machine is None:
        mistakes.add(place.at("machine"), f"`{model.machine}` is no port of the machine", _MACHINE_EXAMPLE)
        return None
    return Exposure(model.protocol, *machine, model.port)


def _short_form(written: str, place: Place, mistakes: Mistakes) -> Exposure | None:
    """`[ADDRESS:]MACHINE_PORT:PORT[/udp]`."""
    text, slash, protocol = written.strip().partition("/")
    if slash and protocol not in set(Transport):
        hint = suggest(protocol, list(Transport))
        mistakes.add(place, f"`{protocol}` is no protocol that can be exposed", hint)
        return None
    machine_text, colon, port_text = text.rpartition(":")
    machine, port = _machine(machine_text), _port(port_text)
    if not colon or machine is None or port is None:
        mistakes.add(place, f"`{written}` does not say which port of the machine leads to which of the host", _EXAMPLE)
        return None
    return Exposure(Transport(protocol) if slash else Transport.TCP, *machine, port)


def _machine(text: str) -> tuple[Address | None, int] | None:
    address_text, colon, port_text = text.strip().rpartition(":")
    port = _port(port_text)
    if port is None:
        return None
    if not colon:
        return None, port
    bracketed = address_text.startswith("[") and address_text.endswith("]")
    try:
        address = ip_address(address_text[1:-1] if bracketed else address_text)
    except ValueError:
        return None
    if bracketed is not (address.version == 6) or address.is_multicast or "%" in address_text:
        return None
    return address, port


def _port(text: str) -> int | None:
    plain = text.strip()
    if not (plain.isascii() and plain.isdigit() and len(plain) <= 5):
        return None
    return int(plain) if 1 <= int(plain) <= PORT_MAX else None


def _cpu(written: str | int | float, place: Place, mistakes: Mistakes) -> float | None:
    match = _PERCENTAGE.fullmatch(str(written).strip())
    share = float(match[1]) / 100 if match else 0.0
    if not CPU_MIN <= share <= CPU_MAX:
        mistakes.add(
            place, f"`{written}` is not a share of a processor", "write for example 50% (half of one), or 200%"
        )
        return None
    return share
