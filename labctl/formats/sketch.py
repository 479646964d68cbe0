"""What the readers of other tools' files make: devices, the cables between them, and a report.

A reader adds what its format contains to a `Sketch`; `labctl.formats.assembly` makes a topology file of it. So names,
addresses and interfaces are treated alike, whatever format they come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum, auto
from typing import Any

from labctl.names import interface_name_problem, name_key, node_name_problem
from labctl.structs import Struct, field

Value = Any  # dict[str, Value] | list[Value] | str | int | float | bool | None: a part of a file


class Part(StrEnum):
    """A part of a foreign file that `labctl import --without` leaves out."""

    DELAY = "delay"
    RATE = "rate"
    LOSS = "loss"
    COMMANDS = "commands"


class Options(Struct, frozen=True):
    """What the user chose for an import."""

    without: frozenset[Part] = frozenset()
    hosts: bool = False  # attach a host to each router of a graph
    choice: str = ""  # of several topologies in a file, with arguments: `mytopo,3`
    programs: bool = True  # whether a program, which must be run to be read, may be run
    base: str = ""  # directory that relative paths of the topology file start at; default: that of the foreign file


class Role(StrEnum):
    """The kind of a node."""

    HOST = "host"
    ROUTER = "router"
    SWITCH = "switch"


class Addressing(Enum):
    """Where addresses come from that the foreign file does not have."""

    AUTOMATIC = auto()  # labctl derives addresses and routes
    GIVEN = auto()  # there are no others, and routes come from commands


class Remark(Struct, frozen=True):
    """A sentence of the report: to which parts of the file it applies, and their lines (0: unknown)."""

    text: str
    subjects: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        shown = [f"{name} (line {line})" if line else name for name, line in self.subjects[:4]]
        if len(self.subjects) > 4:
            shown.append(f"{len(self.subjects) - 4} more")
        return f"{', '.join(shown)}: {self.text}" if shown else self.text


class Report:
    """What differs from the foreign file: parts that were left out, and parts that have another form."""

    def __init__(self) -> None:
        self._left_out: dict[str, list[tuple[str, int]]] = {}
        self._notes: dict[str, list[tuple[str, int]]] = {}

    def left_out(self, subject: str, reason: str, line: int = 0) -> None:
        """Add a part that the topology lacks. Equal reasons are reported together."""
        self._left_out.setdefault(reason, []).append((subject, line))

    def note(self, text: str, subject: str = "", line: int = 0) -> None:
        """Add a fact that a user should know."""
        found = self._notes.setdefault(text, [])
        if subject:
            found.append((subject, line))

    @property
    def missing(self) -> tuple[Remark, ...]:
        """What was left out, and why."""
        return _remarks(self._left_out)

    @property
    def notes(self) -> tuple[Remark, ...]:
        """Everything else."""
        return _remarks(self._notes)


def _remarks(found: Mapping[str, list[tuple[str, int]]]) -> tuple[Remark, ...]:
    return tuple(Remark(text, tuple(dict.fromkeys(subjects))) for text, subjects in found.items())


class Port(Struct):
    """An interface of a device at a cable. Addresses have a prefix length, or none if the cable has the prefix."""

    device: str
    name: str = ""
    ipv4: list[str] = field(default_factory=list)
    ipv6: list[str] = field(default_factory=list)
    mac: str = ""
    impairment: dict[str, str] = field(default_factory=dict)  # of packets that it sends, with keys of topology files
    mtu: int = 0  # that its own device sets
    settings: dict[str, Value] = field(default_factory=dict)  # further keys of topology files
    line: int = 0

    def addresses(self, family: int) -> list[str]:
        """Return the addresses of IPv4 (4) or IPv6 (6)."""
        return self.ipv4 if family == 4 else self.ipv6


class Cable(Struct):
    """A link between two ports, or with a `name` a network: a switch with all its ports."""

    ports: list[Port]
    name: str = ""
    mtu: int = 0
    ipv4: str = ""  # prefix
    ipv6: str = ""
    impairment: dict[str, str] = field(default_factory=dict)  # of each direction; only links
    settings: dict[str, Value] = field(default_factory=dict)  # further keys of topology files
    comment: str = ""
    line: int = 0

    def prefix(self, family: int) -> str:
        """Return the prefix of IPv4 (4) or IPv6 (6); "" for none."""
        return self.ipv4 if family == 4 else self.ipv6


class Line(Struct, frozen=True):
    """A command; its line (0: unknown) and the name of its file, "" for the foreign file itself."""

    text: str
    number: int = 0
    file: str = ""


class Device(Struct):
    """A node. Without a role it is a router if it has several ports, else a host."""

    name: str
    role: Role | None = None
    settings: dict[str, Value] = field(default_factory=dict)  # keys of hosts and routers in topology files
    commands: list[Value] = field(default_factory=list)  # for `exec`
    origins: dict[str, Line] = field(default_factory=dict)  # where commands and services (by their names) come from
    own: list[str] = field(default_factory=list)  # directories of the node itself, because files are placed there
    routing: Value = None  # the configuration of FRR, if the device has one
    daemons: list[str] = field(default_factory=list)  # of FRR, beside those that the configuration mentions
    comment: str = ""
    line: int = 0

    def add(self, key: str, name: str, value: Value) -> None:
        """Add an element to the mapping `key` of the settings; the first of equal names stays."""
        self.settings.setdefault(key, {}).setdefault(name, value)

    def append(self, key: str, value: Value) -> None:
        """Append to the list `key` of the settings."""
        found = self.settings.setdefault(key, [])
        if value not in found:
            found.append(value)


class Sketch:
    """The network of a foreign file."""

    def __init__(self, name: str, tool: str, addressing: Addressing = Addressing.AUTOMATIC) -> None:
        """Make an empty network; `tool` is the format's name in messages."""
        self.name = name
        self.tool = tool
        self.about = ""
        self.addressing = addressing
        self.file = ""  # the name of the foreign file
        self.prefix = ""  # the path from the topology file to the directory of the foreign file
        self.devices: dict[str, Device] = {}  # by their name in the foreign file
        self.cables: list[Cable] = []
        self.vlans: dict[str, Value] = {}  # by name: their keys in topology files
        self.report = Report()
        self.derived_delays = False  # by the distance between nodes
        self._taken: dict[str, str] = {}

    def device(self, foreign: str, role: Role | None = None, *, line: int = 0) -> Device:
        """Add a device and return it; its name becomes valid and unique."""
        made = Device(self.unique(foreign, line), role, line=line)
        self.devices[foreign] = made
        return made

    def unique(self, foreign: str, line: int = 0) -> str:
        """Return a name for a node that no other has; report a change."""
        wanted = valid_name(foreign)
        name, number = wanted, 2
        while name_key(name) in self._taken:
            suffix = f"-{number}"
            name = wanted.encode()[: 63 - len(suffix)].decode(errors="ignore") + suffix
            number += 1
        self._taken[name_key(name)] = foreign
        return name

    def ports_of(self, device: Device) -> list[Port]:
        """Return the device's ports in file order."""
        return [port for cable in self.cables for port in cable.ports if port.device == device.name]

    def connect(self, *ports: Port, line: int = 0) -> Cable:
        """Add a link between two ports."""
        cable = Cable(list(ports), line=line)
        self.cables.append(cable)
        return cable

    def network(self, foreign: str, ports: Iterable[Port] = (), *, line: int = 0) -> Cable:
        """Add a network; its name becomes valid and unique."""
        cable = Cable(list(ports), self.unique(foreign, line), line=line)
        self.cables.append(cable)
        return cable


def valid_name(foreign: str) -> str:
    """Return a valid name of a node, as near to the foreign one as possible."""
    if not node_name_problem(foreign):
        return foreign
    import unicodedata

    text = unicodedata.normalize("NFC", foreign)
    text = re.sub(r"[^\w.-]+", "-", text)
    text = re.sub(r"-*\.[.-]*", ".", text)
    text = re.sub(r"--+", "-", text).strip("-.")
    text = text.encode(errors="ignore")[:63].decode(errors="ignore").strip("-.")
    for name in (text, f"n{text}" if text else "", "node"):
        if not node_name_problem(name):
            return name
    return "node"


def valid_interface(foreign: str) -> str:
    """Return the name if an interface can have it, else ""."""
    return "" if interface_name_problem(foreign) else foreign
