"""The shapes of a topology file: they validate it, and the JSON Schema is made from them.

Addresses and prefixes are texts here: they depend on each other, so `parse.py` and `resolve.py` check them together.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from labctl.documents.diagnostics import Mistake
from labctl.documents.schema import (
    ARGV,
    REGEX,
    STRICT_TEXT,
    TEXT,
    Anything,
    Duration,
    ExactlyOne,
    Flag,
    KeyPath,
    ListOf,
    MapOf,
    Of,
    OneOf,
    OnlyWith,
    OrFalse,
    OrList,
    Placed,
    Reading,
    Rule,
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
from labctl.topology.devices import (
    BondMode,
    HashPolicy,
    IpvlanMode,
    LacpRate,
    MacvlanMode,
    TunnelKind,
    VlanProtocol,
)
from labctl.topology.filter_schema import FIREWALL, FORWARD, NatValue
from labctl.topology.impairment_schema import BetweenFile, ImpairmentValue, ProfiledFile
from labctl.topology.model import Restart, Transport
from labctl.topology.routing_schema import GATEWAYS, LOOPBACKS, NO_ROUTES, ROUTE, RULE
from labctl.topology.switching import VLAN_MAX

MTU_MIN, MTU_MAX = 68, 65535  # RFC 791; ETH_MAX_MTU (linux/if_ether.h)
COUNT_MAX = 5000
PORT_MAX = 65535
PIDS_MAX = 4_194_304  # PID_MAX_LIMIT (linux/threads.h)


REPEATED = (
    "hosts",
    "routers",
    "switches",
    "networks",
    "links",
    "tunnels",
    "vlans",
    "groups",
)  # keys that `for` may repeat


class Routes(StrEnum):
    """The static routes of a node."""

    AUTOMATIC = "automatic"
    NONE = "none"


class Addresses(StrEnum):
    """The families of automatic addresses."""

    DUAL = "dual"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


_MTU = Whole(MTU_MIN, MTU_MAX)
_NAME = Text(at_least=1, strict=True)
_VALUES = MapOf(TEXT)
_AMOUNT = Scalar(flags=False)
_ARGV_ONLY = ListOf(TEXT, at_least=1, fix_for_text="write a list, [ls, -l]", fix_for_mapping="write a list, [ls, -l]")
_IPV4 = OrList(OrFalse("an address such as 10.0.1.5"), ListOf(STRICT_TEXT, at_least=1))
_IPV6 = OrList(OrFalse("an address such as fd00:1::5"), ListOf(STRICT_TEXT, at_least=1))
_IPV4_PREFIX = OrFalse("a prefix such as 10.0.1.0/24")
_IPV6_PREFIX = OrFalse("a prefix such as fd00:1::/64")


_VLAN = Scalar(flags=False)


class PortFile(ProfiledFile):
    """Settings of a switch's port, beside the impairment of packets."""

    vlan = optional(_VLAN, "VLAN of the port, without tags (an access port): a number, or a name of `vlans`.")
    trunk = optional(ListOf(_VLAN, or_one=True), "VLANs that pass the port with tags; `all`: those of `vlans`.")
    native = optional(_VLAN, "VLAN of frames without a tag on a trunk; default: none.")
    isolated = optional(Flag(), "Whether the port exchanges nothing with other isolated ports of its switch.")
    learning = optional(Flag(), "Whether the switch learns from frames that arrive there.")
    flood = optional(Flag(), "Whether frames for unknown addresses leave there.")
    cost = optional(Whole(1, 65535), "Cost of the port for the spanning tree protocol; default: 2.")


class EndFile(PortFile):
    """A node's end of a link, or its membership in a network; an impairment applies to packets that it sends."""

    PLURAL = "ends of links, members of networks"

    node = required(_NAME, "The node's name; the name of a group (`count`) stands for all its nodes.")
    interface = optional(STRICT_TEXT, "Name of the interface; default: eth0, eth1, ...")
    mac = optional(STRICT_TEXT, "MAC address: 02:00:00:00:00:01.")
    ipv4 = optional(_IPV4, "IPv4 address, 10.0.1.5 or 10.0.1.5/24; a list for several; false for none.")
    ipv6 = optional(_IPV6, "IPv6 address, fd00:1::5 or fd00:1::5/64; a list for several; false for none.")


_END = Of(
    EndFile,
    short={str: "node"},
    otherwise=Mistake("expected a node's name, or a mapping with `node`", "write for example `- client`"),
)


class LinkFile(PortFile):
    """A direct link between two nodes; an impairment applies to each direction."""

    PLURAL = "links"

    ends = required(ListOf(_END, 2, 2), "The two nodes.")
    mtu = optional(_MTU, "Largest packet in bytes.")
    offload = defaulted(Flag(), True, "Packets larger than the MTU, with checksums left to the device.")
    ipv4 = optional(_IPV4_PREFIX, "IPv4 prefix of the link; false for none.")
    ipv6 = optional(_IPV6_PREFIX, "IPv6 prefix of the link; false for none.")


class ExposureFile(Shape):
    """A port of the machine that leads to a port of the host."""

    PLURAL = "`expose`"

    machine = required(TEXT, "Port of the machine, or 192.0.2.1:8080 for one of its addresses only.")
    port = required(Whole(1, PORT_MAX), "Port of the host.")
    protocol = defaulted(OneOf(Transport), Transport.TCP, "The transport protocol.")


_EXPOSURE = TextOr(
    Of(ExposureFile), Mistake("expected a port such as `8080:80`, or a mapping with `machine` and `port`")
)


class LimitsFile(Shape):
    """Limits for all programs of a node together."""

    PLURAL = "`limits`"

    pids = optional(Whole(2, PIDS_MAX), "Number of processes and threads.")
    memory = optional(_AMOUNT, "Memory: 256MiB; a plain number is bytes.")
    cpu = optional(_AMOUNT, "Processor time: 50% is half of one processor, 200% two.")


class ReadyFile(Shape):
    """Condition for a service to be ready: one of these keys."""

    listening = optional(STRICT_TEXT, "A socket that listens: tcp/8000, udp/53, unix//run/x.sock.")
    line = optional(REGEX, "A regular expression that matches a line of its output.")
    file = optional(STRICT_TEXT, "A file that exists on the node.")
    command = optional(_ARGV_ONLY, "A command that succeeds on the node.")

    RULES = (ExactlyOne("listening", "line", "file", "command"),)


_READY = Of(
    ReadyFile,
    otherwise=Mistake("expected a mapping with a condition", "write for example `ready: {listening: tcp/8000}`"),
)


class ProgramFile(Shape):
    """The common keys of services and commands."""

    run = optional(ARGV, "The program and its arguments.")
    shell = optional(_NAME, "Instead of `run`: a command for sh.")
    env = defaulted(_VALUES, {}, "Environment variables.")
    cwd = optional(STRICT_TEXT, "Working directory, relative to the directory of the file.")
    user = optional(TEXT, "User that the program runs as: a name or number of this machine; default: root of the lab.")
    may_fail = defaulted(Flag(), False, "Report a failure as a warning and go on, without an error.")
    origin = optional(STRICT_TEXT, "Where it comes from, for that warning: a file and line such as r1.startup:7.")

    RULES: ClassVar[tuple[Rule, ...]] = (ExactlyOne("run", "shell"),)


class CommandFile(ProgramFile):
    """A command that runs once, to its end, before the services start."""

    within = optional(Duration(), "Time limit; default: 30s.")


_COMMAND_ALONE = Of(
    CommandFile,
    short={str: "shell", list: "run"},
    otherwise=Mistake("expected a command: text for sh, a list, or a mapping with `run` or `shell`"),
)


class PlacedFileFile(Shape):
    """A file or directory that labctl places on the node."""

    content = optional(STRICT_TEXT, "The file's text; address variables such as ${h2.ipv4} are replaced.")
    source = optional(_NAME, "A file, or a directory with its contents, relative to the topology file.")
    mode = optional(TEXT, 'Permissions, such as "0755"; default: those of the source, or 0644.')
    owner = optional(STRICT_TEXT, "Owner: user or user:group; default: root.")

    RULES = (ExactlyOne("content", "source"),)


class Daemon(StrEnum):
    """Daemons of networks that labctl knows how to start."""

    DNSMASQ = "dnsmasq"
    RADVD = "radvd"
    FRR = "frr"
    BIRD = "bird"


_DAEMONS = tuple(one.value for one in Daemon)

_CONFIG = Of(
    PlacedFileFile,
    short={str: "source"},
    otherwise=Mistake("expected a file, or a mapping with `content` or `source`", "write for example `r1/frr.conf`"),
)


class ServiceFile(ProgramFile):
    """A program that runs as long as the lab does."""

    PLURAL = "services"

    use = optional(OneOf(Daemon), "Instead of `run`: a daemon that labctl starts, with its configuration file.")
    config = optional(
        _CONFIG, "The daemon's configuration: a file, or {content: TEXT}; address variables are replaced."
    )
    options = defaulted(ListOf(TEXT), [], "Further arguments of the daemon.")
    daemons = defaulted(ListOf(TEXT), [], "For frr: the daemons beside zebra; default: those that `config` mentions.")
    ready = optional(_READY, "Condition for it to be ready; services `after` it wait for that.")
    within = optional(Duration(), "Time limit for it to be ready; default: 10s.")
    restart = defaulted(OneOf(Restart), Restart.NO, "When to restart it after its end.")
    tty = defaulted(Flag(), False, "Connect its output to a terminal, so that C programs do not buffer it.")
    trace = defaulted(Flag(), False, "Record its system calls on sockets, in labs that are recorded.")
    after = defaulted(ListOf(STRICT_TEXT), [], "Services that must be ready before it starts: db, or another-node/db.")

    RULES = (
        ExactlyOne("run", "shell", "use"),
        OnlyWith("config", "use", _DAEMONS, "`config` belongs to a service with `use`"),
        OnlyWith("options", "use", _DAEMONS, "`options` belongs to a service with `use`"),
        OnlyWith("daemons", "use", ("frr",), "`daemons` belongs to a service with `use: frr`"),
    )


_SERVICE = Of(
    ServiceFile,
    otherwise=Mistake(
        "expected a mapping with `run`, `shell` or `use`", "write for example `{run: [python3, -m, http.server]}`"
    ),
)
_PLACED = Of(
    PlacedFileFile,
    otherwise=Mistake("expected a mapping with `content` or `source`", "write for example `{source: nginx.conf}`"),
)


class BindFile(Shape):
    """A file or directory of the machine that is mounted on the node."""

    source = required(_NAME, "Path on the machine, relative to the topology file.")
    target = required(_NAME, "Path on the node.")
    rw = defaulted(Flag(), False, "Allow programs to write there, on the machine.")


_BIND = TextOr(
    Of(BindFile), Mistake("expected a bind such as `data:/srv/data`, or a mapping with `source` and `target`")
)


class StpProtocol(StrEnum):
    """Spanning tree protocols."""

    STP = "stp"
    RSTP = "rstp"


class StpFile(Shape):
    """The spanning tree protocol of a switch."""

    PLURAL = "`stp`"

    enable = defaulted(Flag(), True, "Whether it runs.")
    protocol = defaulted(OneOf(StpProtocol), StpProtocol.STP, "The protocol: stp (IEEE 802.1D).")
    priority = optional(Whole(0, 65535), "The switch with the lowest priority becomes the root; default: 32768.")
    hello_time = optional(Duration(), "Time between two messages of the root: 1s to 10s; default: 1s.")
    forward_delay = optional(Duration(), "Time that a port listens, and learns, before it forwards; default: 2s.")
    max_age = optional(Duration(), "Time after which information from a neighbour expires; default: 6s.")


_STP = Of(
    StpFile,
    short={bool: "enable", str: "protocol"},
    otherwise=Mistake("expected true, false or a mapping", "write for example `stp: {priority: 4096}`"),
)


class BridgeFile(Shape):
    """The settings of a switch. Its members are the nodes with a link to it, in a network also those of `members`."""

    stp = optional(_STP, "Spanning tree protocol, with which switches may form rings.")
    snooping = optional(Flag(), "Whether multicast leaves only where a host has joined the group (IGMP).")
    ageing = optional(Duration(), "Time after which a learned address is forgotten; default: 300s.")
    fdb = defaulted(MapOf(Placed(_NAME)), {}, "Static forwarding entries: the port's node, by MAC or by node.")
    between = defaulted(ListOf(Of(BetweenFile)), [], "Impairments between two nodes on it, in each direction.")
    delays = defaulted(MapOf(MapOf(ImpairmentValue("delay"))), {}, "Delay by node and node: {a: {b: 40ms}}.")
    distances = defaulted(MapOf(MapOf(ImpairmentValue("distance"))), {}, "Instead of delays: {a: {b: 5570km}}.")


class Labels:
    """Labels of a node: a mapping, or a list of KEY and KEY=VALUE. A label without a value has the value ""."""

    def read(self, value: object, at: Reading, path: KeyPath) -> dict[str, str]:
        if isinstance(value, dict):
            return _VALUES.read({key: "" if one is None else one for key, one in value.items()}, at, path)
        words = ListOf(TEXT, or_one=True).read(value, at, path)
        return {key: text for key, _, text in (word.partition("=") for word in words)}

    def schema(self, into: Schemas) -> dict[str, Any]:
        text = TEXT.schema(into)
        values = {"type": "object", "additionalProperties": {"anyOf": [text, {"type": "null"}]}}
        return {"anyOf": [{"type": "array", "items": text}, text, values]}


class LinkOverKind(StrEnum):
    """The kinds of `tunnels`: those of TunnelKind, WireGuard and VXLAN."""

    GRE = "gre"
    GRETAP = "gretap"
    IP6GRE = "ip6gre"
    IP6GRETAP = "ip6gretap"
    IPIP = "ipip"
    SIT = "sit"
    IP6TNL = "ip6tnl"
    WIREGUARD = "wireguard"
    VXLAN = "vxlan"


class TunnelEndFile(Shape):
    """The end of a tunnel on its node."""

    remote = optional(STRICT_TEXT, "Address of the other end, or the name of a node.")
    local = optional(STRICT_TEXT, "Address of this end; default: one that reaches the other.")
    key = optional(Whole(0, 2**32 - 1), "Key of a GRE tunnel.")
    ttl = optional(Whole(0, 255), "TTL of the tunnel's packets; 0 for that of the packet inside. Default: 64.")


class PeerFile(Shape):
    """A WireGuard peer: a node, or a public key."""

    node = optional(_NAME, "The node, or NODE:INTERFACE.")
    public_key = optional(STRICT_TEXT, "Public key of a peer that is no node.")
    preshared_key = optional(STRICT_TEXT, "Preshared key.")
    endpoint = optional(
        OrFalse("an address such as 10.0.1.5 or 10.0.1.5:51820"),
        "Address of the peer, 10.0.1.5 or 10.0.1.5:51820; false to wait for the peer's packets.",
    )
    allowed_ips = optional(
        ListOf(STRICT_TEXT, or_one=True), "Prefixes; default: its addresses, all with only one peer."
    )
    keepalive = optional(Duration(), "Interval of keepalive packets.")

    RULES = (ExactlyOne("node", "public_key"),)


class WireguardFile(Shape):
    """Keys and peers of a WireGuard interface."""

    PLURAL = "`wireguard`"

    peers = defaulted(ListOf(Of(PeerFile, short={str: "node"})), [], "The peers.")
    port = optional(Whole(1, PORT_MAX), "UDP port; default: 51820.")
    private_key = optional(STRICT_TEXT, "Private key; default: the lab generates one, and keeps it.")


_TUNNEL = Of(TunnelEndFile, short={str: "remote"})


_TABLE = Whole(1, 2**32 - 1, fix="write the number of its routing table, for example 100")


class DeviceFile(ProfiledFile):
    """A virtual interface of a node: one of the keys from `vlan` to `dummy` is its kind."""

    PLURAL = "`interfaces`"

    vlan = optional(Whole(1, 4094), "VLAN with this id, on the interface `on`.")
    bond = optional(OneOf(BondMode), "Bond of `members`, in this mode.")
    macvlan = optional(OneOf(MacvlanMode), "MACVLAN in this mode, on the interface `on`.")
    ipvlan = optional(OneOf(IpvlanMode), "IPVLAN in this mode, on the interface `on`.")
    vrf = optional(_TABLE, "VRF of `members`, with this routing table.")
    vxlan = optional(Whole(0, 2**24 - 1), "VXLAN with this identifier (VNI).")
    gre = optional(_TUNNEL, "GRE tunnel for packets, to the node or address `remote`.")
    gretap = optional(_TUNNEL, "GRE tunnel for Ethernet frames.")
    ip6gre = optional(_TUNNEL, "GRE tunnel over IPv6.")
    ip6gretap = optional(_TUNNEL, "GRE tunnel over IPv6 for Ethernet frames.")
    ipip = optional(_TUNNEL, "IPv4 in IPv4.")
    sit = optional(_TUNNEL, "IPv6 in IPv4.")
    ip6tnl = optional(_TUNNEL, "IPv6 or IPv4 in IPv6.")
    wireguard = optional(
        Of(WireguardFile, short={list: "peers"}, or_nothing=True), "WireGuard, with a list of peers, or more keys."
    )
    bridge = optional(Flag(), "Bridge of `members`.")
    dummy = optional(Flag(), "Interface that drops what it sends, for addresses.")
    on = optional(STRICT_TEXT, "The interface that it is on; default for eth0.10: eth0.")
    members = defaulted(ListOf(STRICT_TEXT, or_one=True), [], "Interfaces of a bond, VRF or bridge.")
    mtu = optional(_MTU, "Largest packet in bytes; default: what its interface or tunnel leaves room for.")
    mac = optional(STRICT_TEXT, "MAC address: 02:00:00:00:00:01.")
    ipv4 = optional(_IPV4, "IPv4 address, 10.0.1.5 or 10.0.1.5/24; false for none.")
    ipv6 = optional(_IPV6, "IPv6 address, fd00:1::5 or fd00:1::5/64; false for none.")
    protocol = optional(OneOf(VlanProtocol), "Tag of a VLAN; default: 802.1q.")
    lacp_rate = optional(OneOf(LacpRate), "Of a bond with 802.3ad; default: fast.")
    hash = optional(OneOf(HashPolicy), "What a bond spreads packets by; default: layer2.")
    miimon = optional(Duration(), "How often a bond looks at its members' links; default: 100ms.")
    remotes = defaulted(
        ListOf(STRICT_TEXT, or_one=True), [], "Nodes or addresses that a VXLAN floods unknown frames to."
    )
    group = optional(STRICT_TEXT, "Multicast group that a VXLAN floods to, through the interface `on`.")
    local = optional(STRICT_TEXT, "Address of a VXLAN's own packets.")
    port = optional(Whole(1, PORT_MAX), "UDP port of a VXLAN; default: 4789.")
    learning = optional(Flag(), "Whether a VXLAN learns addresses from packets; default: true.")
    stp = optional(Flag(), "Whether a bridge runs the spanning tree protocol.")

    RULES = (
        ExactlyOne(
            *("vlan", "bond", "macvlan", "ipvlan", "vrf", "vxlan", *(kind.value for kind in TunnelKind)),
            *("wireguard", "bridge", "dummy"),
        ),
    )


class TunnelFile(Shape):
    """A tunnel between two nodes, with an interface on each."""

    PLURAL = "tunnels"

    ends = required(ListOf(_END, 2, 2), "The two nodes.")
    kind = required(OneOf(LinkOverKind), "Kind of tunnel, as of ip-link(8).")
    ipv4 = optional(_IPV4_PREFIX, "IPv4 prefix of the tunnel; false for none.")
    ipv6 = optional(_IPV6_PREFIX, "IPv6 prefix of the tunnel; false for none.")
    mtu = optional(_MTU, "Largest packet in bytes; default: what the networks below leave room for.")
    key = optional(Whole(0, 2**32 - 1), "Key of a GRE tunnel.")
    id = optional(Whole(0, 2**24 - 1), "Identifier of a VXLAN; default: the number of the tunnel.")
    ttl = optional(Whole(0, 255), "TTL of the tunnel's packets; 0 for that of the packet inside. Default: 64.")
    port = optional(Whole(1, PORT_MAX), "UDP port of WireGuard and VXLAN.")


class SwitchFile(BridgeFile):
    """A switch without members of its own."""

    PLURAL = "switches"

    sysctls = defaulted(_VALUES, {}, "Kernel settings below net., for example net.core.somaxconn.")
    labels = defaulted(Labels(), {}, "Labels, by which commands and steps select nodes: {role: db}, or [edge].")


class NodeFile(Shape):
    """The common keys of hosts and routers."""

    sysctls = defaulted(_VALUES, {}, "Kernel settings below net., for example net.core.somaxconn.")
    labels = defaulted(Labels(), {}, "Labels, by which commands and steps select nodes: {role: db}, or [edge].")
    count = optional(Whole(1, COUNT_MAX), "Number of nodes, which are called NAME-1, NAME-2, ...")
    environment = defaulted(_VALUES, {}, "Environment variables of its programs.")
    offload = defaulted(Flag(), True, "The same for all its links, as `offload` of a link.")
    limits = optional(Of(LimitsFile), "Limits for its programs (a control group).")
    exec = defaulted(
        ListOf(_COMMAND_ALONE, or_one=True),
        [],
        "Commands that run in this order before the services start.",
    )
    files = defaulted(MapOf(_PLACED), {}, "Files and directories that labctl places there, by path.")
    binds = defaulted(ListOf(_BIND), [], "Files and directories of the machine to mount there: data:/srv[:rw].")
    private = defaulted(ListOf(Placed(_NAME)), [], "Private directories, empty at first: /var/lib/mysql.")
    dns = defaulted(ListOf(TEXT, or_one=True), [], "Its name servers: nodes or addresses.")
    interfaces = defaulted(MapOf(Of(DeviceFile)), {}, "Virtual interfaces, by name.")
    services = defaulted(MapOf(_SERVICE), {}, "Programs that run as long as the lab does.")
    firewall = optional(FIREWALL, "Packets that it accepts: a preset such as stateful, or a mapping.")
    loopback = defaulted(LOOPBACKS, [], "Further addresses of `lo`: [10.255.0.1, fd00:ff::1].")
    gateway = optional(GATEWAYS, "Its default gateway: a node, an address, a list of these, or none (or false).")
    routes = optional(
        OrList(OneOf(Routes), ListOf(ROUTE), NO_ROUTES),
        "Static routes: none, automatic for those that it needs, or a list of routes besides these.",
    )
    routing = optional(OneOf(Routes), "The automatic routes beside a list of `routes`: none or automatic.")
    rules = defaulted(ListOf(RULE), [], "Policy rules: which routing table packets use.")


class HostFile(NodeFile):
    """A host."""

    PLURAL = "hosts"

    expose = defaulted(ListOf(_EXPOSURE), [], "Ports of the machine that lead to it: 8080:80, 192.0.2.1:5353:53/udp.")


class RouterFile(NodeFile):
    """A router."""

    PLURAL = "routers"

    nat = defaulted(NatValue(), False, "true: connect the lab to the machine's network; else translate addresses.")
    forward = defaulted(FORWARD, [], "Ports of its outside addresses that lead to hosts: 8080:web:80, 5353:dns:53/udp.")


class VlanFile(Shape):
    """A VLAN."""

    PLURAL = "`vlans`"

    id = required(Whole(1, VLAN_MAX), "Its number.")
    ipv4 = optional(_IPV4_PREFIX, "IPv4 prefix; false for none.")
    ipv6 = optional(_IPV6_PREFIX, "IPv6 prefix; false for none.")


class NetworkFile(BridgeFile):
    """A switch with members."""

    PLURAL = "networks"

    members = defaulted(ListOf(_END), [], "Nodes with an interface on it.")
    mtu = optional(_MTU, "Largest packet in bytes.")
    ipv4 = optional(_IPV4_PREFIX, "IPv4 prefix of the network; false for none.")
    ipv6 = optional(_IPV6_PREFIX, "IPv6 prefix of the network; false for none.")


_LINK = Of(
    LinkFile,
    short={list: "ends"},
    otherwise=Mistake("expected two nodes, or a mapping with `ends`", "write for example `- [client, server]`"),
)


class IncludeFile(Shape):
    """A file to include, with values of its parameters."""

    file = required(_NAME, "The file, relative to this one.")
    with_ = defaulted(MapOf(Anything()), {}, "Values of its parameters, by name.", name="with")


_INCLUDE = Of(
    IncludeFile,
    short={str: "file"},
    otherwise=Mistake("expected a file, or a mapping with `file` and `with`", "write for example `- lan.yaml`"),
)


_NO_NODE = Mistake(
    "expected the settings of a node, or nothing",
    "write `a: `; its addresses stand where it joins a network: `members: [{node: a, ipv4: 10.0.1.5}]`",
)
_NO_NETWORK = Mistake("expected a mapping with `members`", "write for example `lan: {ipv4: 10.0.1.0/24, members: [a]}`")
_NO_VLAN = Mistake("expected a number, or a mapping with `id`", "write for example `{id: 10, ipv4: 10.0.1.0/24}`")
_NO_TUNNEL = Mistake("expected a mapping with `ends` and `kind`", "write for example `{ends: [r1, r2], kind: gre}`")


class TopologyFile(Shape):
    """A topology of labctl: hosts, routers, switches and links."""

    PLURAL = "a topology file"

    name = optional(_NAME, "Name; default: the file's name.")
    about = defaulted(STRICT_TEXT, "", "One sentence about its purpose.")
    include = defaulted(ListOf(_INCLUDE), [], "Files to include before this one.")
    parameters = defaulted(MapOf(Anything()), {}, "Values that texts use as `${name}`; --set and `with` replace them.")
    for_ = defaulted(ListOf(Anything(), or_one=True), [], "Parts of the file to repeat.", name="for")
    mtu = defaulted(_MTU, 1500, "Largest packet in bytes, for links and networks without `mtu`.")
    addresses = defaulted(OneOf(Addresses), Addresses.DUAL, "Families of automatic addresses.")
    ipv4_pool = optional(STRICT_TEXT, "Pool of automatic prefixes; default: 10.0.0.0/8.")
    ipv6_pool = optional(STRICT_TEXT, "Pool of automatic prefixes; default: fd00::/16.")
    routes = defaulted(OneOf(Routes), Routes.AUTOMATIC, "Static routes of nodes without `routes`.")
    routing = optional(OneOf(Routes), "The same as `routes`.")
    anycast = defaulted(Flag(), False, "Several nodes may have the same loopback address.")
    dns = defaulted(ListOf(TEXT, or_one=True), [], "Name servers of nodes without `dns`: nodes or addresses.")
    hosts = defaulted(MapOf(Of(HostFile, otherwise=_NO_NODE, or_nothing=True)), {}, "The hosts, by name.")
    routers = defaulted(MapOf(Of(RouterFile, otherwise=_NO_NODE, or_nothing=True)), {}, "The routers, by name.")
    switches = defaulted(MapOf(Of(SwitchFile, or_nothing=True)), {}, "Switches without members of their own, by name.")
    networks = defaulted(
        MapOf(Of(NetworkFile, otherwise=_NO_NETWORK, or_nothing=True)), {}, "Switches with their members, by name."
    )
    vlans = defaulted(MapOf(Of(VlanFile, short={int: "id"}, otherwise=_NO_VLAN)), {}, "VLANs of the switches, by name.")
    links = defaulted(ListOf(_LINK), [], "Direct links between two nodes.")
    groups = defaulted(MapOf(ListOf(_NAME, or_one=True)), {}, "Names for several nodes, in steps and commands.")
    tunnels = defaulted(ListOf(Of(TunnelFile, otherwise=_NO_TUNNEL)), [], "Tunnels between two nodes.")


def add_schema(into: Schemas) -> dict[str, Any]:
    """Add the JSON Schema of a topology to the definitions; return a reference to it."""
    reference = TopologyFile.schema(into)
    keys = into.definitions[reference["$ref"].rpartition("/")[2]]["properties"]
    repeated = {name: keys[name] for name in REPEATED}
    into.definitions["Repetition"] = {
        "type": "object",
        "description": "Parts of the file that are repeated; their texts and keys may use the variables as `${i}`.",
        "properties": {
            "each": {
                "type": "object",
                "description": "Variables with a range, 1..4, or a list; of several, all combinations are made.",
            },
            "where": {"type": ["string", "boolean", "null"], "description": "A condition on the variables: i < j."},
            "for": {
                "$ref": "#/$defs/Repetitions",
                "description": "Further parts to repeat, which may use the variables.",
            },
            **repeated,
        },
        "required": ["each"],
        "additionalProperties": False,
    }
    one = {"$ref": "#/$defs/Repetition"}
    into.definitions["Repetitions"] = {
        "description": "Parts of the file to repeat.",
        "anyOf": [{"type": "array", "items": one}, one, {"type": "null"}],
    }
    keys["for"] = {"$ref": "#/$defs/Repetitions", "description": keys["for"]["description"]}
    return reference


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a topology file."""
    into = Schemas(templates=True)
    name = add_schema(into)["$ref"].rpartition("/")[2]
    whole = into.definitions.pop(name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "labctl topology",
        **whole,
        "$defs": dict(sorted(into.definitions.items())),
    }
