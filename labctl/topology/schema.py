"""The shapes of a topology file: they validate it, and the JSON Schema is made from them.

Addresses and prefixes are texts here: they depend on each other, so `parse.py` and `resolve.py` check them together.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from labctl.documents.diagnostics import Mistake
from labctl.documents.schema import (
    ARGV,
    REGEX,
    STRICT_TEXT,
    TEXT,
    Duration,
    ExactlyOne,
    Flag,
    ListOf,
    MapOf,
    Of,
    OneOf,
    OrFalse,
    Placed,
    Scalar,
    Schemas,
    Shape,
    Text,
    TextOr,
    Whole,
    defaulted,
    optional,
    required,
)
from labctl.topology.model import Restart, Transport

MTU_MIN, MTU_MAX = 68, 65535  # RFC 791; ETH_MAX_MTU (linux/if_ether.h)
COUNT_MAX = 5000
PORT_MAX = 65535
PIDS_MAX = 4_194_304  # PID_MAX_LIMIT (linux/threads.h)


class Routes(StrEnum):
    """Which static routes are given to a node."""

    AUTOMATIC = "automatic"
    NONE = "none"


class Addresses(StrEnum):
    """The families that addresses are given out of."""

    DUAL = "dual"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


_MTU = Whole(MTU_MIN, MTU_MAX)
_NAME = Text(at_least=1, strict=True)
_VALUES = MapOf(TEXT)
_AMOUNT = Scalar(flags=False)
_ARGV_ONLY = ListOf(TEXT, at_least=1, fix_for_text="write a list, [ls, -l]")
_IPV4 = OrFalse("an address such as 10.0.1.5")
_IPV6 = OrFalse("an address such as fd00:1::5")
_IPV4_PREFIX = OrFalse("a prefix such as 10.0.1.0/24")
_IPV6_PREFIX = OrFalse("a prefix such as fd00:1::/64")


class ImpairedFile(Shape):
    """What happens to packets on their way."""

    delay = optional(_AMOUNT, "How much later a packet arrives: 20ms.")
    jitter = optional(_AMOUNT, "How much the delay varies, to either side: 2ms.")
    loss = optional(_AMOUNT, "Share of the packets that is lost: 1%.")
    rate = optional(_AMOUNT, "At most so many bits a second: 10mbit.")


class EndFile(ImpairedFile):
    """A node's end of a link, or its membership in a network; delay and the like are those of what it sends."""

    node = required(_NAME, "The node's name; a group's name (`count`) stands for all of the group.")
    interface = optional(STRICT_TEXT, "Name of the interface; by default eth0, eth1, ...")
    mac = optional(STRICT_TEXT, "Its MAC address: 02:00:00:00:00:01.")
    ipv4 = optional(_IPV4, "10.0.1.5 or 10.0.1.5/24; false for none.")
    ipv6 = optional(_IPV6, "fd00:1::5 or fd00:1::5/64; false for none.")


_END = Of(
    EndFile,
    short={str: "node"},
    otherwise=Mistake("expected a node's name, or a mapping with `node`", "write for example `- client`"),
)


class LinkFile(ImpairedFile):
    """A direct link between two nodes; delay and the like hold for each direction."""

    ends = required(ListOf(_END, 2, 2), "The two nodes.")
    mtu = optional(_MTU, "Largest packet in bytes.")
    ipv4 = optional(_IPV4_PREFIX, "IPv4 prefix of the link; false for none.")
    ipv6 = optional(_IPV6_PREFIX, "IPv6 prefix of the link; false for none.")


class ExposureFile(Shape):
    """A port of the machine that leads to a port of the host."""

    machine = required(TEXT, "Port of the machine; 192.0.2.1:8080 for one of its addresses only.")
    port = required(Whole(1, PORT_MAX), "Port of the host.")
    protocol = defaulted(OneOf(Transport), Transport.TCP, "The transport protocol.")


_EXPOSURE = TextOr(
    Of(ExposureFile), Mistake("expected a port such as `8080:80`, or a mapping with `machine` and `port`")
)


class LimitsFile(Shape):
    """How much all programs of a node together may have."""

    pids = optional(Whole(2, PIDS_MAX), "Processes and threads.")
    memory = optional(_AMOUNT, "256MiB; a plain number is bytes.")
    cpu = optional(_AMOUNT, "50% is half of one processor, 200% two.")


class ReadyFile(Shape):
    """How a service shows that it is ready: one of these."""

    listening = optional(STRICT_TEXT, "A socket that listens: tcp/8000, udp/53, unix//run/x.sock.")
    line = optional(REGEX, "A regular expression that a line of its output matches.")
    file = optional(STRICT_TEXT, "A file that exists on the node.")
    command = optional(_ARGV_ONLY, "A command that succeeds on the node.")

    RULES = (ExactlyOne("listening", "line", "file", "command"),)


class ProgramFile(Shape):
    """A program on a node: what services and commands have in common."""

    run = optional(ARGV, "The program and its arguments.")
    shell = optional(_NAME, "Instead of `run`: text for sh.")
    env = defaulted(_VALUES, {}, "Environment variables.")
    cwd = optional(STRICT_TEXT, "Where it runs, relative to the file's directory.")
    user = optional(TEXT, "The user that it runs as: a name or number of this machine; by default root of the lab.")

    RULES = (ExactlyOne("run", "shell"),)


class CommandFile(ProgramFile):
    """A command that is run once, to its end, before the services are started."""

    within = optional(Duration(), "How long it may take; 30s by default.")


_COMMAND_ALONE = Of(
    CommandFile,
    short={str: "shell", list: "run"},
    otherwise=Mistake("expected a command: text for sh, a list, or a mapping with `run` or `shell`"),
)


class ServiceFile(ProgramFile):
    """A program that runs as long as the lab does."""

    ready = optional(Of(ReadyFile), "How it shows that it is ready; what comes `after` it waits for that.")
    within = optional(Duration(), "How long it may take to be ready; 10s by default.")
    restart = defaulted(OneOf(Restart), Restart.NO, "When it is started again after it has ended.")
    tty = defaulted(Flag(), False, "Whether it writes to a terminal, so that C programs do not hold back their output.")
    after = defaulted(ListOf(STRICT_TEXT), [], "Services that are ready before it starts: db, or another-node/db.")


class PlacedFileFile(Shape):
    """A file or a directory that is placed on the node."""

    content = optional(STRICT_TEXT, "The file's text; ${h2.ipv4} and the like are replaced.")
    source = optional(_NAME, "A file, or a directory with all that is in it, relative to the topology file.")
    mode = optional(TEXT, 'Permissions, such as "0755"; by default those of the source, or 0644.')
    owner = optional(STRICT_TEXT, "user or user:group; by default root.")

    RULES = (ExactlyOne("content", "source"),)


_PLACED = Of(
    PlacedFileFile,
    otherwise=Mistake("expected a mapping with `content` or `source`", "write for example `{source: nginx.conf}`"),
)


class BindFile(Shape):
    """A file or a directory of the machine that is mounted on the node."""

    source = required(_NAME, "On the machine, relative to the topology file.")
    target = required(_NAME, "On the node.")
    rw = defaulted(Flag(), False, "Whether programs may write there, to the machine.")


_BIND = TextOr(
    Of(BindFile), Mistake("expected a bind such as `data:/srv/data`, or a mapping with `source` and `target`")
)


class SwitchFile(Shape):
    """A switch, to be linked to other switches."""

    sysctls = defaulted(_VALUES, {}, "Kernel settings below net., for example net.core.somaxconn.")


class NodeFile(SwitchFile):
    """A host or a router: a node that programs run on."""

    count = optional(Whole(1, COUNT_MAX), "Makes NAME-1, NAME-2, ...")
    environment = defaulted(_VALUES, {}, "Environment variables of programs that run there.")
    limits = optional(Of(LimitsFile), "Bounds for its programs (a control group).")
    exec = defaulted(
        ListOf(_COMMAND_ALONE, or_one=True),
        [],
        "Commands that run in this order before the services start.",
    )
    files = defaulted(MapOf(_PLACED), {}, "Files and directories that are placed there, by their paths.")
    binds = defaulted(ListOf(_BIND), [], "Files and directories of the machine that are mounted there: data:/srv[:rw].")
    private = defaulted(ListOf(Placed(_NAME)), [], "Directories of its own, empty at first: /var/lib/mysql.")
    services = defaulted(MapOf(Of(ServiceFile)), {}, "Programs that run as long as the lab does.")
    routes = optional(OneOf(Routes), "none: it gets no static routes; automatic: those that it needs.")


class HostFile(NodeFile):
    """A host."""

    expose = defaulted(ListOf(_EXPOSURE), [], "Ports of the machine that lead here: 8080:80, 192.0.2.1:5353:53/udp.")


class RouterFile(NodeFile):
    """A router."""

    nat = defaulted(Flag(), False, "The machine's network is reached through it.")


class NetworkFile(Shape):
    """A switch with the members' interfaces on it."""

    members = defaulted(ListOf(_END), [], "The nodes that have an interface on it.")
    mtu = optional(_MTU, "Largest packet in bytes.")
    ipv4 = optional(_IPV4_PREFIX, "IPv4 prefix of the network; false for none.")
    ipv6 = optional(_IPV6_PREFIX, "IPv6 prefix of the network; false for none.")


_LINK = Of(
    LinkFile,
    short={list: "ends"},
    otherwise=Mistake("expected two nodes, or a mapping with `ends`", "write for example `- [client, server]`"),
)


class TopologyFile(Shape):
    """A topology of labctl: hosts, routers and switches, and how they are linked."""

    name = optional(_NAME, "By default the file's name.")
    about = defaulted(STRICT_TEXT, "", "One sentence on what the topology is for.")
    include = defaulted(ListOf(Placed(_NAME)), [], "Files whose parts come first.")
    mtu = defaulted(_MTU, 1500, "Largest packet in bytes, where a link or network has none of its own.")
    addresses = defaulted(OneOf(Addresses), Addresses.DUAL, "Which addresses are given out.")
    ipv4_pool = optional(STRICT_TEXT, "Where automatic prefixes come from; 10.0.0.0/8.")
    ipv6_pool = optional(STRICT_TEXT, "Where automatic prefixes come from; fd00::/16.")
    routes = defaulted(OneOf(Routes), Routes.AUTOMATIC, "The static routes of nodes without `routes` of their own.")
    hosts = defaulted(MapOf(Of(HostFile, or_nothing=True)), {}, "The hosts, by name.")
    routers = defaulted(MapOf(Of(RouterFile, or_nothing=True)), {}, "The routers, by name.")
    switches = defaulted(MapOf(Of(SwitchFile, or_nothing=True)), {}, "Switches without members of their own, by name.")
    networks = defaulted(MapOf(Of(NetworkFile, or_nothing=True)), {}, "Switches with their members, by name.")
    links = defaulted(ListOf(_LINK), [], "Direct links between two nodes.")


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a topology file."""
    into = Schemas()
    name = TopologyFile.schema(into)["$ref"].rpartition("/")[2]
    whole = into.definitions.pop(name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "labctl topology",
        **whole,
        "$defs": dict(sorted(into.definitions.items())),
    }
