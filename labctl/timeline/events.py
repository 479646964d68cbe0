"""The values of a timeline: events of all hosts on one clock, and what was recorded of them.

All times are nanoseconds of CLOCK_MONOTONIC (`at_ns`), which all hosts share. Events are values; nothing here reads
the kernel or a file. `labctl.timeline.merge` makes a `Timeline` from the events of several sources, and the modules in
`labctl.timeline.sinks` show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from labctl.structs import Struct, replace
from labctl.topology.model import Endpoint, NodeKind

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LOSSES_MAX = 8  # of the same kind that are shown one by one
_ADDRESS = re.compile(r"\{AF_INET6?, (\[[^\]]*\]|[^:{},]*):(\d+)")


class Source(StrEnum):
    """Where an event comes from; at the same moment, events stand in this order."""

    STEPS = "steps"  # of a scenario
    CALLS = "calls"  # socket calls of a scenario's agents: exact
    SYSCALLS = "syscalls"  # system calls of programs: eBPF as root, strace otherwise
    PACKETS = "packets"
    KERNEL = "kernel"  # tracepoints as root, notifications and counters otherwise
    SOCKETS = "sockets"  # samples through sock_diag(7)
    OUTPUT = "output"  # of programs
    MARKS = "marks"


class Flow(Struct, frozen=True, gc=False):
    """The two ends of a packet or a connection, in its direction. Ports are 0 for protocols without them."""

    protocol: str  # tcp, udp, icmp, icmpv6, or another name of protocols(5)
    source: str  # an IPv4 or IPv6 address, without brackets
    source_port: int
    target: str
    target_port: int

    @property
    def reverse(self) -> Flow:
        """The other direction."""
        return Flow(self.protocol, self.target, self.target_port, self.source, self.source_port)

    @property
    def connection(self) -> Flow:
        """The same value for both directions: the one whose source sorts first."""
        return min(self, self.reverse, key=lambda flow: (flow.source, flow.source_port))

    def __str__(self) -> str:
        ends = ((self.source, self.source_port), (self.target, self.target_port))
        source, target = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in ends)
        return f"{self.protocol} {source} -> {target}"


class SocketKey(Struct, frozen=True, gc=False):
    """Names of one socket: what the source of an event knows of it. 0, "" and None are unknown."""

    host: str
    inode: int = 0  # as in /proc/PID/fd and sock_diag(7)
    cookie: int = 0  # SO_COOKIE (socket(7)): unique until the machine restarts
    flow: Flow | None = None  # from the socket's own end to its peer; port and address 0 of the peer of a listener


class Event(Struct, frozen=True, tag=True, tag_field="type", kw_only=True, gc=False):
    """Something that happened on a host at one moment. `(at_ns, source, seq)` is a total order."""

    at_ns: int
    host: str  # "" for the lab as a whole
    source: Source
    seq: int  # the event's number in its source, from 0


class Step(Event, frozen=True, kw_only=True):
    """A step of a scenario, or of what a test did through the API."""

    index: str  # "3", or "3.2.1" inside repeat and parallel
    kind: str  # calls, run, start, stop, wait, expect, link, ...
    title: str  # one line: the step's `name`, or what it does
    until_ns: int | None = None  # None: not finished
    outcome: str = ""  # passed, failed, skipped, error; "" if it is not finished
    reason: str = ""  # of a failure
    line: int = 0  # in the scenario's file

    @property
    def key(self) -> tuple[str, int, str]:
        """The same for the records of one step: a live recording has one of its begin and one of its end."""
        return ("step", self.at_ns, self.index)


class Call(Event, frozen=True, kw_only=True):
    """One system call, from entry to return."""

    until_ns: int | None  # None: it had not returned when the recording ended
    pid: int  # on its host
    tid: int  # on its host
    program: str  # the name of the calling process: `server`, `curl`
    name: str  # connect
    arguments: str  # as strace(1) writes them, without the parentheses: `3, {AF_INET, 10.0.0.2:5000}, 16`
    result: int | None = None  # None: it had not returned
    errno: str = ""  # ECONNREFUSED
    value: str = ""  # results beside the number: `10.0.0.1:43768, addrlen 16 -> 16`
    data: bytes = b""  # the beginning of what was sent or received
    data_bytes: int = 0  # the length of it
    fd: int | None = None  # the descriptor that it acts on
    socket: SocketKey | None = None  # of that descriptor
    repeated: int = 1  # identical calls in a row
    step: str = ""  # index of its step

    @property
    def address(self) -> tuple[str, int] | None:
        """The last Internet address in the arguments, without its scope, and its port; None if there is none."""
        found = _ADDRESS.findall(_STRING.sub("", self.arguments))
        return (found[-1][0].strip("[]").partition("%")[0], int(found[-1][1])) if found else None

    @property
    def key(self) -> tuple[str, int, str, int, str]:
        """The same for the records of one call: a live recording has one of its entry and one of its return."""
        return ("call", self.at_ns, self.host, self.tid, self.name)


def is_interrupted(call: Call) -> bool:
    """Whether a signal interrupted the call in the kernel, which repeats it or ended the process (signal(7))."""
    return call.result is None and call.errno.startswith("ERESTART")


class Wire(Struct, frozen=True, gc=False):
    """What a packet crosses between two nodes: a link, a network with its switch, or a node's loopback."""

    name: str  # `client:eth0 - server:eth0`, the network's name, or `lo of server`
    ends: tuple[Endpoint, ...]  # of hosts and routers; switches have none
    delay_us: int = 0  # the most that its switches, or the links below a tunnel, delay a packet, as planned


class Header(Struct, frozen=True, gc=False):
    """The decoded headers of a packet (labctl.timeline.packet_headers)."""

    protocol: str  # tcp, udp, icmp, icmpv6, arp, or what the packet is: ipv4, ipv6, ethernet
    flow: Flow | None = None  # None without addresses (ARP has none)
    flags: tuple[str, ...] = ()  # TCP: SYN, FIN, RST, PSH, URG, ECE, CWR, ACK, in this order
    seq: int = 0  # TCP: absolute
    ack: int = 0
    window: int = 0  # TCP: as in the packet, not scaled
    payload_bytes: int = 0  # above TCP, UDP or ICMP: the length on the wire, which may exceed `payload`
    payload: bytes = b""  # the captured part
    options: str = ""  # TCP: `mss 1460, sackOK, wscale 7`
    ttl: int = 0  # of IPv6: the hop limit
    summary: str = ""  # of all but TCP and UDP: `who has 10.0.0.2`, `echo request 1`, `port unreachable`
    quoted: Flow | None = None  # of the packet that an ICMP error quotes


class Hop(Struct, frozen=True, gc=False):
    """A packet at one interface."""

    at_ns: int
    node: str
    interface: str
    is_outgoing: bool


class Packet(Event, frozen=True, kw_only=True):
    """A packet on one wire: it left `host` at `at_ns`. `host` is "" if only its arrival was seen."""

    wire: str
    interface: str  # of `host`
    receiver: str  # the node where it arrived; "" if it was not seen to arrive
    receiver_interface: str
    arrived_ns: int | None  # None if it was not seen to arrive
    header: Header
    length: int  # bytes, with the Ethernet header
    frame: bytes  # the captured part, from the Ethernet header on
    journey: int  # the same number for the same packet on each wire that it crosses, routers between
    segment_bytes: int = 0  # GSO: payload of each segment that the device would send; 0: one segment
    is_checksum_ready: bool = True  # False: left to the device (veth: never computed)
    relative_seq: int | None = None  # TCP: counted from the first of its direction that was seen
    relative_ack: int | None = None
    is_retransmission: bool = False  # its bytes (or SYN, FIN) were seen before, or the kernel reports a Retransmit
    others: tuple[Hop, ...] = ()  # further arrivals: of a broadcast or multicast on a network

    @property
    def segments(self) -> int:
        """The number of segments that a device would send for it."""
        return -(-self.header.payload_bytes // self.segment_bytes) if self.segment_bytes else 1


class State(Event, frozen=True, kw_only=True):
    """A TCP socket changed its state (net/tcp_states.h, without TCP_)."""

    socket: SocketKey
    old: str  # "" if it is unknown
    new: str  # ESTABLISHED


class Retransmit(Event, frozen=True, kw_only=True):
    """The kernel sent a TCP segment again."""

    socket: SocketKey
    state: str = ""


class Reset(Event, frozen=True, kw_only=True):
    """The kernel sent or received a RST."""

    socket: SocketKey | None  # None: no socket, as for a refused port
    flow: Flow | None  # of the RST
    is_sent: bool
    reason: str = ""  # NO_SOCKET, or "" if the kernel gives none


class Drop(Event, frozen=True, kw_only=True):
    """A packet that a host did not pass on."""

    reason: str  # the kernel's: NETFILTER_DROP (enum skb_drop_reason); or words: `accept queue full (2 of 1)`
    header: Header | None = None
    frame: bytes = b""  # the captured part, from the Ethernet header on; b"" if unknown
    interface: str = ""
    hook: str = ""  # nftables: prerouting, input, forward, output, postrouting, if known
    location: str = ""  # the kernel function, if known: tcp_v4_rcv
    packet: int | None = None  # `journey` of the packet that it ended, if that was recorded
    is_inferred: bool = False  # concluded from counters or samples, not reported by the kernel


class SocketSample(Event, frozen=True, kw_only=True):
    """A socket's queues and, for TCP, its state of congestion control (struct tcp_info, tcp(7))."""

    socket: SocketKey
    state: str
    receive_queue: int  # unread bytes; of a listener: connections that wait for accept(2)
    send_queue: int  # unacknowledged bytes; of a listener: the limit of its accept queue
    receive_buffer: int = 0  # SO_RCVBUF in force, bytes; 0: unknown
    send_buffer: int = 0
    half_open: int = 0  # of a listener: connections in SYN_RECV
    congestion_window: int = 0  # segments; 0: unknown
    rtt_us: int = 0  # smoothed; 0: unknown
    retransmits: int = 0  # in total
    timer: str = ""  # `retransmit 180 ms`, `keepalive 7 s`; "" for none
    drops: int = 0  # packets dropped by the socket
    throughput_bit_s: int = 0  # delivery rate


class Counter(Event, frozen=True, kw_only=True):
    """A counter of the kernel that moved (nstat(8)): `TcpExtListenOverflows` by 1."""

    name: str
    delta: int
    since_ns: int  # the earlier reading; `at_ns` is the later one


class Output(Event, frozen=True, kw_only=True):
    """A program wrote to its stdout or stderr."""

    program: str
    stream: str  # stdout, stderr
    data: bytes


class Mark(Event, frozen=True, kw_only=True):
    """A note: `Lab.mark`, a fault that was injected, the end of a program."""

    text: str
    program: str = ""  # that has ended, if the mark is about that; `text` has how: `exited with status 1`
    exit_status: int | None = None  # of that program, as a shell has it: 128 + n if signal n ended it
    fault: int = 0  # number of the fault that began or was healed, if the mark is about one


AnyEvent = Step | Call | Packet | State | Retransmit | Reset | Drop | SocketSample | Counter | Output | Mark


def fault_mark(at_ns: int, number: int, text: str, nodes: Sequence[str], state: str) -> Mark:
    """Return the mark of what happened to a fault; `state` is that of labctl.lab.description.FaultMoment."""
    shown = {"begun": f"fault: {text}", "in force": f"fault in force: {text}", "healed": f"fault healed: {text}"}
    host = nodes[0] if len(nodes) == 1 else ""
    return Mark(
        at_ns=at_ns, host=host, source=Source.MARKS, seq=0, text=shown.get(state, f"{text}: {state}"), fault=number
    )


class Clock(Struct, frozen=True):
    """How times of CLOCK_REALTIME (packets) became times of CLOCK_MONOTONIC.

    `offset_ns` is realtime minus monotonic at the start; `bracket_ns` is the width of the two readings of the monotonic
    clock around that of the realtime clock, and so the bound of the error.
    """

    offset_ns: int = 0
    bracket_ns: int = 0
    end_offset_ns: int = 0  # at the end: a difference from `offset_ns` is a clock that was set or slewed


class Loss(Struct, frozen=True):
    """Events that were not recorded."""

    source: Source
    count: int
    unit: str = "packets"  # or `events`, `calls`
    host: str = ""  # "" for the lab as a whole
    from_ns: int | None = None  # None: unknown
    until_ns: int | None = None
    why: str = ""  # `ring of 1 MiB was full`

    def __str__(self) -> str:
        where = f" of {self.host}" if self.host else ""
        return f"{self.count} {self.unit}{where} lost" + (f": {self.why}" if self.why else "")


def loss_texts(losses: Iterable[Loss]) -> list[str]:
    """Return a line for each loss; one for all nodes that lost the same for the same reason, if they are many."""
    alike: dict[tuple[Source, str, str], list[Loss]] = {}
    for loss in losses:
        alike.setdefault((loss.source, loss.unit, loss.why), []).append(loss)
    lines: list[str] = []
    for each in alike.values():
        if len(each) > _LOSSES_MAX:
            total, nodes = sum(loss.count for loss in each), len({loss.host for loss in each})
            lines.append(str(replace(each[0], count=total, host=f"{nodes} nodes")))
        else:
            lines += map(str, each)
    return lines


class NodeInfo(Struct, frozen=True):
    """A node, for drawings and names of addresses."""

    name: str
    kind: NodeKind
    addresses: tuple[str, ...] = ()  # without prefix lengths


class InterfaceState(Struct, frozen=True):
    """An interface at one moment."""

    name: str
    is_up: bool  # IFF_UP
    has_carrier: bool  # the other end is up, too
    mtu: int  # bytes
    queueing: str = ""  # its netem, as tc(8) writes it: `loss 100%`


class FilterRule(Struct, frozen=True):
    """A rule of nftables that drops or rejects packets, or a chain whose policy is to drop them."""

    table: str  # `inet filter`
    chain: str
    hook: str  # input; "" for a chain that other chains jump to
    verdict: str  # drop, reject, policy drop
    packets: int | None = None  # that it has counted; None: it does not count


class RouteState(Struct, frozen=True):
    """A route of a node."""

    destination: str  # a prefix: 0.0.0.0/0 for the default route
    text: str  # as ip-route(8) prints it


class HostState(Struct, frozen=True):
    """The configuration of a node's network at one moment: read after a failure, to explain it."""

    at_ns: int
    host: str
    interfaces: tuple[InterfaceState, ...] = ()
    routes: tuple[RouteState, ...] = ()  # without those of the table `local`
    filters: tuple[FilterRule, ...] = ()


class Verdict(Struct, frozen=True):
    """How the scenario or test ended."""

    outcome: str  # passed, failed, skipped, error
    reason: str = ""
    explanation: tuple[str, ...] = ()  # labctl.timeline.explain: sentences, the cause first
    rerun: str = ""  # one command that reproduces it


class Timeline(Struct, frozen=True):
    """All that was recorded of one run; `events` are sorted by `(at_ns, source, seq)`."""

    title: str
    started_ns: int  # the zero of what people see
    ended_ns: int
    started_at: str  # wall clock, ISO 8601, UTC
    hosts: tuple[str, ...]  # the columns of a ladder, in topology order
    nodes: tuple[NodeInfo, ...]
    wires: tuple[Wire, ...]
    events: tuple[AnyEvent, ...]
    clock: Clock = Clock()
    losses: tuple[Loss, ...] = ()
    missing: tuple[str, ...] = ()  # what this recording cannot have: `drop reasons: not root`
    links: tuple[tuple[Endpoint, Endpoint], ...] = ()  # of the topology, with switches: for drawings
    verdict: Verdict | None = None
    environment: tuple[tuple[str, str], ...] = ()  # kernel, labctl, seed, ...
    file: str = ""  # the scenario's or test's
    states: tuple[HostState, ...] = ()  # after a failure
    tls_keys: str = ""  # of programs with SSLKEYLOGFILE, in its format: secret

    def __repr__(self) -> str:
        return f"<Timeline {self.title!r}: {len(self.events)} events of {', '.join(self.hosts)}>"
