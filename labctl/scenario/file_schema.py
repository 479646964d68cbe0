"""The keys of scenario files and of each kind of step, and their JSON Schema (docs/scenario-files.md).

`BODIES` has one shape for each kind of step: its keys, its rules, the short form and the default title.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Self, get_args

from labctl.documents.diagnostics import Mistake, describe, suggestion
from labctl.documents.schema import (
    ARGV,
    REGEX,
    STRICT_TEXT,
    TEXT,
    Anything,
    Duration,
    ExactlyOne,
    Excludes,
    Flag,
    KeyPath,
    ListOf,
    MapOf,
    Needs,
    Of,
    OneOf,
    OnlyWith,
    Parsed,
    Reading,
    Scalar,
    Schema,
    Schemas,
    Shape,
    Whole,
    defaulted,
    optional,
    required,
)
from labctl.plan.drop_rules import Direction, DropProtocol
from labctl.plan.fault_effects import FaultKind
from labctl.scenario.model import StepKind, caller_name
from labctl.scenario.state import has_references
from labctl.topology.endpoints import Protocol, parse_endpoint, parse_listening, parse_state
from labctl.topology.filter_schema import STEP_FLOWS, STEP_FORWARD, FirewallFile, NatFile
from labctl.topology.impairment_schema import ProfiledFile
from labctl.topology.model import RouteKind

_LONGEST_TITLE = 100
_NEED_QUOTES = frozenset(" \t\n'\"\\;|&<>*")


class Family(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


def signal_number(name: str) -> int:
    """Return the number of SIGTERM for `TERM` or `SIGTERM`.

    Raises: Mistake for another word.
    """
    word = name.upper().removeprefix("SIG")
    try:
        return int(signal.Signals[f"SIG{word}"])
    except KeyError:
        known = [number.name.removeprefix("SIG") for number in signal.Signals]
        raise Mistake(f"`{name}` is not a signal", suggestion(word, known)) from None


def _check_prefix(text: str) -> None:
    from ipaddress import ip_network

    if text != "default":
        ip_network(text, strict=False)


def _check_interface(text: str) -> None:
    from ipaddress import ip_interface

    ip_interface(text)


def _check_mode(text: str) -> None:
    if not re.fullmatch(r"[0-7]{3,4}", text):
        raise ValueError(f'{text!r} is not a file mode; write three or four octal digits in quotes, such as "0755"')


NUMBER = Whole()
LOCAL = Parsed(parse_listening)
END = Parsed(parse_endpoint)
SIGNAL = Parsed(signal_number)
DURATION = Duration()
FLAG = Flag()
TEXTS = ListOf(TEXT, or_one=True)
TWO_ENDS = ListOf(TEXT, 2, 2)


class _SeveralNodes:
    """A node, group or label, or a list of them. labctl.scenario.step_checker writes a step on several out first."""

    _NAMES = ListOf(TEXT, at_least=1, or_one=True)

    def read(self, value: object, at: Reading, path: KeyPath) -> str:
        if not isinstance(value, list):
            return TEXT.read(value, at, path)
        names = self._NAMES.read(value, at, path)
        return names[0] if names else ""  # invalid ones are left out

    def schema(self, into: Schemas) -> Schema:
        return self._NAMES.schema(into)


NODES = _SeveralNodes()
STEPS = ListOf(Anything(), at_least=1)  # step_checker reads each of them


# The keys that may stand beside the kind of a step.
STEP_NAME = defaulted(TEXT, "", "A title; by default derived from the step.", name="name")
STEP_WITHIN = optional(DURATION, "The step's deadline: 200ms, 2s, 1m.", name="within")


class NumberMatch(Shape):
    """A condition on a number: `N`, or one or more of these keys."""

    equals = optional(NUMBER, "Exactly this number.")
    not_ = optional(NUMBER, "Any number but this.", name="not")
    at_least = optional(NUMBER, "This number or more.")
    at_most = optional(NUMBER, "This number or less.")


class TextMatch(Shape):
    """A condition on a text: `TEXT` (equal, except for a final newline), or one or more of these keys."""

    equals = optional(TEXT, "Exactly this text; a final newline is ignored.")
    contains = optional(TEXTS, "Texts that must all occur in it.")
    not_contains = optional(TEXTS, "Texts that must not occur in it.")
    matches = optional(REGEX, "A regular expression that matches somewhere in it.")
    json_ = optional(Anything(), "Values that the JSON in it must contain; other keys are ignored.", name="json")


A_NUMBER = Of(NumberMatch, short="equals")
A_TEXT = Of(TextMatch, short="equals")


class Requires(Shape):
    """Requirements on the machine; labctl skips the scenario if one is not met."""

    programs = defaulted(ListOf(TEXT), [], "Programs that must be installed.")
    features = defaulted(ListOf(TEXT), [], "Features: ipv6, nftables, netem, sctp, users, ...")
    root = defaulted(FLAG, False, "Whether the scenario needs root.")


class ScenarioFile(Shape):
    """A labctl scenario: steps that run on a topology."""

    name = defaulted(TEXT, "", "A title; by default the name of the file.")
    about = defaulted(TEXT, "", "What the scenario shows, in a sentence or two.")
    topology = required(Anything(), "A shape (pair, star:3), a path relative to this file, or a topology.")
    requires = defaulted(
        Of(Requires), Requires({}), "Requirements on the machine; labctl skips the scenario if one is not met."
    )
    within = defaulted(DURATION, 10.0, "Default deadline of a step: 200ms, 2s, 1m; 10s by default.")
    timeout = defaulted(DURATION, 60.0, "Deadline of the whole scenario; 60s by default.")
    variables = defaulted(MapOf(Scalar()), {}, "Initial values of variables; steps use them as `${name}`.")
    steps = required(STEPS, "The steps, in order.")


class StepBody(Shape):
    """The part of a step that depends on its kind."""

    KIND: ClassVar[StepKind]
    SHORT: ClassVar[str] = ""  # the key that a bare text stands for: `stop: web` is `stop: {process: web}`

    def title(self, data: Any) -> str:
        """Return a title for the step; `data` is the body as it stands in the file."""
        raise NotImplementedError


class BoundedBody(StepBody):
    """A body with an optional deadline."""

    within = optional(DURATION, "The step's deadline (also allowed beside the kind): 200ms, 2s, 1m.")


class CallsBody(BoundedBody):
    """Make system calls in a process on the host."""

    KIND = StepKind.CALLS
    on = required(NODES, "The host; a group or label for several at the same time.")
    process = defaulted(TEXT, "", "Name of the calling process; by default the first process of the host.")
    do = required(STRICT_TEXT, "The calls, one a line.")

    def title(self, data: Any) -> str:
        return f"calls on {caller_name(self.on, self.process)}"


class ProgramExpect(Shape):
    """Conditions on the exit status and output of a program."""

    exit = optional(A_NUMBER, "Its exit status.")
    stdout = optional(A_TEXT, "Its standard output.")
    stderr = optional(A_TEXT, "Its standard error.")


class Save(Shape):
    """Variables that receive the output and exit status of a program."""

    stdout = optional(TEXT, "Variable for its standard output, without the final newline.")
    stderr = optional(TEXT, "Variable for its standard error, without the final newline.")
    exit = optional(TEXT, "Variable for its exit status.")


class ProgramBody(BoundedBody):
    """The common keys of `run` and `start`."""

    on = required(NODES, "The host that the program runs on; a group or label for several at the same time.")
    run = optional(ARGV, "The program and its arguments, as a list; runs without a shell.")
    shell = optional(TEXT, "Instead of `run`: a command for sh.")
    env = defaulted(MapOf(TEXT), {}, "Environment variables.")
    cwd = optional(TEXT, "Working directory, relative to the directory of the scenario.")
    user = optional(TEXT, "User that the program runs as: a name or number of this machine; default: root of the lab.")
    stdin = optional(TEXT, "Text for its standard input.")
    tty = defaulted(FLAG, False, "Connect its output to a terminal, so that C programs do not buffer it.")
    trace = defaulted(FLAG, False, "Record its system calls on sockets, and those of its threads and children.")

    RULES = (ExactlyOne("run", "shell"),)

    def title(self, data: Any) -> str:
        return f"{self.KIND} {command_line(self.run, self.shell)} on {self.on}"


class RunBody(ProgramBody):
    """Run a program until it exits."""

    KIND = StepKind.RUN
    expect = optional(Of(ProgramExpect), "Conditions on its exit status and output; default: exit status 0.")
    save = optional(Of(Save), "Variables that receive its output and exit status.")
    any_exit = defaulted(FLAG, False, "Accept every exit status.")


class Ready(Shape):
    """Condition for a program to be ready: one of these keys."""

    listening = optional(LOCAL, "A socket that listens: tcp/8000, udp/53, unix//run/x.sock.")
    line = optional(REGEX, "A regular expression that matches a line of its output.")
    file = optional(TEXT, "A file that exists on its host.")
    command = optional(ListOf(TEXT, at_least=1), "A command that succeeds on its host.")

    RULES = (ExactlyOne("listening", "line", "file", "command"),)


class StartBody(ProgramBody):
    """Start a background program."""

    KIND = StepKind.START
    name = defaulted(TEXT, "", "Name for other steps; by default the name of the program.")
    ready = optional(Of(Ready), "Condition for the program to be ready; the step waits for it.")

    @property
    def process_name(self) -> str:
        """The name by which other steps refer to the program."""
        return self.name or program_name(self.run, self.shell)


class ProcessBody(BoundedBody):
    """The common key and title of the steps on a background program."""

    SHORT = "process"
    process = required(TEXT, "Name of the program.")

    def title(self, data: Any) -> str:
        return f"{self.KIND} {self.process}"


class StopBody(ProcessBody):
    """End a background program."""

    KIND = StepKind.STOP
    signal = defaulted(SIGNAL, "TERM", "Signal to send.")
    expect = optional(Of(ProgramExpect), "Conditions on its exit status and output.")


class SignalBody(BoundedBody):
    """Send a signal to a background program or a calling process."""

    KIND = StepKind.SIGNAL
    process = required(TEXT, "Name of the program; HOST or HOST/PROCESS for a calling process.")
    signal = required(SIGNAL, "Signal to send: TERM, KILL, HUP, USR1, ...")

    def title(self, data: Any) -> str:
        return f"send SIG{self.signal.upper().removeprefix('SIG')} to {self.process}"


class PauseBody(ProcessBody):
    """Pause a background program."""

    KIND = StepKind.PAUSE


class ResumeBody(ProcessBody):
    """Resume a paused background program."""

    KIND = StepKind.RESUME


class WaitBody(ProcessBody):
    """Wait until a background program exits."""

    KIND = StepKind.WAIT
    expect = optional(Of(ProgramExpect), "Conditions on its exit status and output; default: exit status 0.")
    save = optional(Of(Save), "Variables that receive its output and exit status.")
    any_exit = defaulted(FLAG, False, "Accept every exit status.")

    def title(self, data: Any) -> str:
        return f"wait for {self.process}"


class Connection(Shape):
    """A condition on the sockets of the host."""

    protocol = defaulted(OneOf(Protocol), Protocol.TCP, "Protocol of the sockets.")
    local = optional(END, "Local address: server:5000, :5000, 10.0.0.1:*.")
    peer = optional(END, "Peer address, in the same form.")
    state = optional(Parsed(parse_state), "State, as ss(8) prints it: ESTAB, TIME-WAIT, ...")
    receive_queue = optional(A_NUMBER, "Bytes received and not yet read.")
    send_queue = optional(A_NUMBER, "Bytes sent and not yet acknowledged.")
    count = optional(A_NUMBER, "Number of such sockets; default: at least one.")


class Reach(Shape):
    """A node or address, and optionally the address family."""

    node = required(TEXT, "Name of a node, or an address.")
    family = optional(OneOf(Family), "Address family; default: every family that both nodes have.")


class RouteCondition(Shape):
    """A route in the routing table of the host."""

    to = required(
        Parsed(_check_prefix),
        "Destination: a prefix such as 10.0.1.0/24, or default; an address: the route that packets take.",
    )
    via = optional(TEXT, "Next hop: an address, or the name of a node.")
    dev = optional(TEXT, "The interface of a next hop.")
    metric = optional(Whole(0), "Its metric.")
    table = defaulted(TEXT, "main", "Its routing table: a name or a number.")
    vrf = optional(TEXT, "The VRF of this node in whose table it is.")
    kind = defaulted(OneOf(RouteKind), RouteKind.UNICAST, "Its kind.")
    exists = defaulted(FLAG, True, "Whether it must exist.")

    RULES = (Excludes("vrf", ("table",), "a route is in one table: remove one of `vrf` and `table`"),)


class FileCondition(TextMatch):
    """A file on the host."""

    path = required(TEXT, "Path of the file.")
    exists = defaulted(FLAG, True, "Whether it must exist.")


class OutputCondition(Shape):
    """A condition on the output of a background program so far."""

    process = required(TEXT, "Name of the program.")
    stdout = optional(A_TEXT, "Its standard output.")
    stderr = optional(A_TEXT, "Its standard error.")

    RULES = (Needs(("stdout", "stderr"), "needs `stdout` or `stderr`"),)


CONDITIONS = (
    "listening", "not_listening", "connection", "counters", "reachable", "unreachable", "route", "address", "file",
    "command", "shell", "running", "not_running", "output", "that",
)  # fmt: skip
_OF_A_COMMAND = ("exit", "stdout", "stderr", "env", "cwd", "user", "save")
_ON_A_HOST = CONDITIONS[:11]  # those that inspect a host


class ExpectBody(BoundedBody):
    """Check conditions: now, within a time, or for a time. All of them must hold together."""

    KIND = StepKind.EXPECT
    on = optional(NODES, "The host to inspect; a group or label for several.")
    listening = optional(LOCAL, "A socket that listens: tcp/5000, udp/53, unix//tmp/x.sock.")
    accept_queue = optional(A_NUMBER, "Connections that wait for accept on the socket of `listening`.")
    accept_queue_limit = optional(A_NUMBER, "Maximum length of that queue: the backlog.")
    syn_queue = optional(A_NUMBER, "Half-open connections of the socket of `listening`.")
    not_listening = optional(LOCAL, "A socket that must not listen.")
    connection = optional(Of(Connection), "Sockets that must exist.")
    counters = optional(MapOf(A_NUMBER), "Kernel counters, such as ListenOverflows: their increase since the start.")
    reachable = optional(Of(Reach, short="node"), "A node or address that answers ICMP echo requests.")
    unreachable = optional(Of(Reach, short="node"), "A node or address that does not answer them.")
    route = optional(Of(RouteCondition), "A route that must exist.")
    address = optional(Parsed(_check_interface), "An address of an interface: 10.0.1.5 or 10.0.1.5/24.")
    file = optional(Of(FileCondition), "A file on the host.")
    command = optional(ARGV, "A command and its arguments; labctl repeats it on the host until it succeeds.")
    shell = optional(TEXT, "Instead of `command`: a command for sh.")
    exit = optional(A_NUMBER, "Exit status of the command; default: 0.")
    stdout = optional(A_TEXT, "Standard output of the command.")
    stderr = optional(A_TEXT, "Standard error of the command.")
    env = defaulted(MapOf(TEXT), {}, "Environment variables of the command.")
    cwd = optional(TEXT, "Working directory of the command, relative to the directory of the scenario.")
    user = optional(TEXT, "User that the command runs as: a name or number of this machine.")
    save = optional(Of(Save), "Variables that receive the output and exit status of the command.")
    running = optional(TEXT, "A background program that runs.")
    not_running = optional(TEXT, "A background program that has exited.")
    output = optional(Of(OutputCondition), "The output of a background program so far.")
    that = optional(TEXT, "A comparison in the call language, such as `$n == 3`.")
    within = optional(DURATION, "Time until all conditions hold; default: 1s, or the step's deadline for a command.")
    now = defaulted(FLAG, False, "Check once, without waiting.")
    for_ = optional(DURATION, "Time for which the conditions must then hold without interruption.", name="for")

    RULES = (
        Needs(CONDITIONS, f"needs a condition; write one of: {', '.join(CONDITIONS)}"),
        Needs(("on",), "needs `on`: the host to inspect", where=_ON_A_HOST),
        Needs(
            ("listening",),
            "queues belong to a listening socket: add `listening: tcp/PORT`",
            where=("accept_queue", "accept_queue_limit", "syn_queue"),
        ),
        Excludes("command", ("shell",), "takes only one of `command` or `shell`"),
        Needs(
            ("command", "shell"),
            f"{', '.join(f'`{name}`' for name in _OF_A_COMMAND)} belong to a command: add `command` or `shell`",
            where=_OF_A_COMMAND,
        ),
        Excludes("now", ("within", "for"), "takes either `now` or `within` and `for`"),
    )

    def title(self, data: Any) -> str:
        conditions = ", ".join(f"{key}: {_flow(value)}" for key, value in data.items() if key != "on")
        return f"expect {conditions}" + (f" on {data['on']}" if "on" in data else "")


class ImpairmentBody(ProfiledFile):
    """Values of a link, as in topology files; omitted ones stay as they are, and 0 removes one."""

    RULES = (Needs(tuple(ProfiledFile.KEYS), "needs one of `preset`, `delay`, `loss`, `rate`, ..."),)


class LinkBody(BoundedBody):
    """Take a link down, bring it up, or set or clear its impairment."""

    KIND = StepKind.LINK
    down = optional(TWO_ENDS, "Take down the link between these two nodes (or a node and a network).")
    up = optional(TWO_ENDS, "Bring up the link between these.")
    between = optional(TWO_ENDS, "Apply `set` to the link between these.")
    set_ = optional(Of(ImpairmentBody), "Impairment of packets on the link.", name="set")
    clear = optional(TWO_ENDS, "Clear the impairment of the link between these.")
    from_ = optional(TEXT, "The end whose packets `set` or `clear` affects; default: both.", name="from")
    which = optional(Whole(at_least=1), "Number of the link if there are several, in file order, from 1.")

    RULES = (
        Excludes("set", ("down", "up", "clear"), "takes only one of `down`, `up`, `clear` or `between` with `set`"),
        Needs(("between",), "`set` needs `between`: the two nodes", where=("set",)),
        Needs(("set",), "`between` needs `set`: the impairment", where=("between",)),
        Excludes("from", ("down", "up"), "a link goes down and up as a whole: `from` is for `set` and `clear`"),
        ExactlyOne("down", "up", "between", "clear"),
    )

    @property
    def ends(self) -> list[str]:
        """The two nodes."""
        return self.down or self.up or self.between or self.clear or []

    @property
    def verb(self) -> str:
        """The key that has the nodes."""
        return next((key for key in ("down", "up", "between", "clear") if key in self.given), "down")

    def title(self, data: Any) -> str:
        verb = f"set {_pairs(data['set'])}" if self.set_ is not None else self.verb
        return f"link {self.ends[0]} - {self.ends[1]} {verb}" + (f" from {self.from_}" if self.from_ else "")


class DropBody(BoundedBody):
    """Drop packets on a host."""

    KIND = StepKind.DROP
    on = required(NODES, "The host that drops the packets, a group or a label.")
    direction = defaulted(OneOf(Direction), Direction.IN, "in: incoming packets; out: outgoing packets.")
    protocol = optional(OneOf(DropProtocol), "Only packets of this protocol.")
    port = optional(Whole(1, 65535), "Only packets with this source or destination port.")
    from_ = optional(TEXT, "Only packets from this node or address.", name="from")
    to = optional(TEXT, "Only packets to this node or address.")
    flags = optional(TEXT, "Only TCP segments with these flags: ack,!syn,!fin.")

    RULES = (
        OnlyWith("port", "protocol", ("tcp", "udp"), "a port needs `protocol: tcp` or `protocol: udp`"),
        OnlyWith("flags", "protocol", ("tcp",), "flags need `protocol: tcp`"),
    )

    def title(self, data: Any) -> str:
        return f"drop {_pairs(data)}"


class UndropBody(BoundedBody):
    """Stop dropping packets on a host."""

    KIND = StepKind.UNDROP
    SHORT = "on"
    on = required(NODES, "The host.")

    def title(self, data: Any) -> str:
        return f"undrop on {self.on}"


class FaultValue:
    """The value of a kind of fault, in any of the forms that labctl.plan.faults reads."""

    def __init__(self, kind: FaultKind) -> None:
        self._kind = kind

    def read(self, value: object, at: Reading, path: KeyPath) -> object:
        from labctl.plan.faults import read

        if not isinstance(value, str | list | dict):
            raise at.wrong(path, f"expected a text, a list or a mapping, got {describe(value)}")
        if at.final or not has_references(value):
            try:
                read(self._kind, value)
            except ValueError as error:
                raise at.wrong(path, str(error), in_schema=False) from error
        return value

    def schema(self, into: Schemas) -> Schema:
        return {"type": ["string", "array", "object"]}


_FAULT_KINDS = tuple(FaultKind)


class FaultKeys(BoundedBody):
    """The keys of one fault: its kind, and what all kinds have."""

    partition = optional(FaultValue(FaultKind.PARTITION), "Groups of nodes that do not hear each other: [[a, b], [c]].")
    isolate = optional(FaultValue(FaultKind.ISOLATE), "Nodes that nothing reaches, and that reach nothing.")
    blackhole = optional(FaultValue(FaultKind.BLACKHOLE), "Destinations whose packets vanish; {to: ..., on: [nodes]}.")
    down = optional(FaultValue(FaultKind.DOWN), "The two nodes of a link that is down.")
    flap = optional(FaultValue(FaultKind.FLAP), "A link that goes down and up: {link: [a, b], period: 1s, times: 3}.")
    mtu = optional(FaultValue(FaultKind.MTU), "Another MTU of a link: {link: [a, b], to: 1280}.")
    remove_address = optional(
        FaultValue(FaultKind.REMOVE_ADDRESS), "An address that a node loses: {on: a, address: ...}."
    )
    remove_route = optional(FaultValue(FaultKind.REMOVE_ROUTE), "Routes that a node loses: {on: a, to: default}.")
    pause = optional(FaultValue(FaultKind.PAUSE), "Background programs or services that are paused.")
    kill = optional(FaultValue(FaultKind.KILL), "Background programs or services that are killed.")
    dns = optional(FaultValue(FaultKind.DNS), "Names that nodes cannot resolve: {name: server, on: [client]}.")
    name = optional(TEXT, "Name of the fault, for `heal`.")

    RULES = (ExactlyOne(*_FAULT_KINDS),)

    @property
    def fault(self) -> tuple[str, object]:
        """The kind of the fault, and its value."""
        return next((kind.value, self.values[kind]) for kind in FaultKind if kind in self.values)

    def _title(self, data: Any) -> str:
        return _pairs({kind: data[kind] for kind in FaultKind if kind in data})


class FaultBody(FaultKeys):
    """Inject a fault. It lasts until `heal`, or `for`, or the end of the scenario."""

    KIND = StepKind.FAULT
    for_ = optional(DURATION, "Heal it after this time: 5s.", name="for")

    def title(self, data: Any) -> str:
        return f"fault {self._title(data)}"


class HealBody(BoundedBody):
    """Heal faults: `all`, or one by its name."""

    KIND = StepKind.HEAL
    SHORT = "fault"
    fault = defaulted(TEXT, "all", "Name of the fault; `all` for all faults.")

    def title(self, data: Any) -> str:
        return f"heal {self.fault}"


class DuringBody(FaultKeys):
    """Run steps while a fault lasts, and heal it however they end."""

    KIND = StepKind.DURING
    steps = required(STEPS, "The steps to run meanwhile.")

    def title(self, data: Any) -> str:
        return f"during {self._title(data)}"


SHORTEST_GAP_S = 0.01  # mean time from one random fault to the next


class RandomKind(StrEnum):
    """The kinds of faults that a schedule may choose."""

    ISOLATE = "isolate"
    DOWN = "down"
    FLAP = "flap"
    PARTITION = "partition"
    BLACKHOLE = "blackhole"
    PAUSE = "pause"
    KILL = "kill"


class ScheduleBody(BoundedBody):
    """Inject random faults, repeatable by a seed, while steps run."""

    KIND = StepKind.SCHEDULE
    faults = defaulted(
        ListOf(OneOf(RandomKind), at_least=1, or_one=True),
        [RandomKind.ISOLATE, RandomKind.DOWN, RandomKind.PARTITION],
        "Kinds of faults: isolate, down, flap, partition, blackhole, pause, kill; default: the first three.",
    )
    targets = defaulted(TEXTS, [], "Nodes, groups and labels that faults may hit; default: all hosts and routers.")
    programs = defaulted(TEXTS, [], "Background programs and services that `pause` and `kill` may hit.")
    every = defaulted(DURATION, 1.0, "Mean time from one fault to the next; default: 1s.")
    lasting = defaulted(DURATION, 0.5, "Mean duration of a fault; default: 500ms.")
    for_ = optional(DURATION, "Time for which faults occur, and the steps are repeated.", name="for")
    seed = optional(Whole(0), "Seed of the random choices; default: that of the run.")
    steps = defaulted(STEPS, [], "Steps that run meanwhile: once, or again and again with `for`.")

    RULES = (Needs(("for", "steps"), "needs `for` or `steps`"),)

    def problem(self) -> str:
        if {RandomKind.PAUSE, RandomKind.KILL} & set(self.faults) and not self.programs:
            return "`pause` and `kill` need `programs`: those that they may hit"
        if not isinstance(self.every, str) and self.every < SHORTEST_GAP_S:
            return "`every` must be at least 10ms"
        return ""

    def title(self, data: Any) -> str:
        return f"schedule {_pairs({key: value for key, value in data.items() if key != 'steps'})}"


class NatBody(BoundedBody):
    """Change how a router translates addresses."""

    KIND = StepKind.NAT
    on = required(NODES, "The router.")
    off = defaulted(Flag(), False, "Translate no more.")
    preset = NatFile.preset
    outside = NatFile.outside
    hairpin = NatFile.hairpin
    ipv6 = NatFile.ipv6
    ports = NatFile.ports
    timeout = NatFile.timeout
    forward = optional(STEP_FORWARD, "Ports that lead to hosts: 8080:web:80; default: as before.")

    def model(self) -> NatFile | None:
        """Return the translation in the words of topology files; None for none."""
        return None if self.off else NatFile({key: self.values[key] for key in self.given & NatFile.KEYS.keys()})

    def title(self, data: Any) -> str:
        return f"nat {_pairs(data)}"


class FirewallBody(BoundedBody):
    """Change which packets a host or router accepts."""

    KIND = StepKind.FIREWALL
    on = required(NODES, "The host or router.")
    off = defaulted(Flag(), False, "Accept all packets.")
    preset = FirewallFile.preset
    policy = FirewallFile.policy
    outside = FirewallFile.outside
    deny = defaulted(STEP_FLOWS, [], "Packets that are dropped, before all else.")
    allow = defaulted(STEP_FLOWS, [], "Packets that pass: tcp/80, icmp, or mappings.")

    def model(self) -> FirewallFile | None:
        """Return the firewall in the words of topology files; None for none."""
        return (
            None if self.off else FirewallFile({key: self.values[key] for key in self.given & FirewallFile.KEYS.keys()})
        )

    def title(self, data: Any) -> str:
        return f"firewall {_pairs(data)}"


class FileBody(BoundedBody):
    """Place a file on a host."""

    KIND = StepKind.FILE
    on = required(NODES, "The host.")
    path = required(TEXT, "Path on the host: below its own /tmp or /run.")
    content = optional(TEXT, "Content of the file.")
    source = optional(TEXT, "Instead of `content`: a file to copy, relative to the directory of the scenario.")
    mode = defaulted(Parsed(_check_mode), "0644", 'Permissions, in octal digits: "0755".')

    RULES = (ExactlyOne("content", "source"),)

    def title(self, data: Any) -> str:
        return f"file {self.path} on {self.on}"


class BuildBody(BoundedBody):
    """Compile a C program; every host finds it in its PATH."""

    KIND = StepKind.BUILD
    source = required(ListOf(TEXT, at_least=1, or_one=True), "Source files, relative to the directory of the scenario.")
    as_ = defaulted(TEXT, "", "Name of the program; by default the first source without its suffix.", name="as")
    flags = defaulted(
        ListOf(TEXT), [], "Options, libraries and object files for the compiler: -pthread, -lm, lib.a, ..."
    )

    @property
    def program(self) -> str:
        """Its name in /run/lab/bin: `as`, else the first source without its suffix."""
        return self.as_ or self.source[0].rpartition("/")[2].rpartition(".")[0] or self.source[0]

    def title(self, data: Any) -> str:
        return f"build {self.program} from {', '.join(self.source)}"


class RepeatBody(BoundedBody):
    """Repeat steps."""

    KIND = StepKind.REPEAT
    times = required(Whole(1, 100_000), "Number of rounds.")
    as_ = defaulted(TEXT, "", "Variable that holds the number of the round, from 1.", name="as")
    steps = required(STEPS, "The steps of a round.")

    def title(self, data: Any) -> str:
        return f"repeat {self.times} times"


class ParallelBody(StepBody):
    """Run branches at the same time: each is a step or a list of steps."""

    KIND = StepKind.PARALLEL

    @property
    def branches(self) -> list[Any]:
        """The branches as they stand in the file."""
        return list(self.values["branches"])

    @classmethod
    def read(cls, value: object, at: Reading, path: KeyPath = ()) -> Self:
        if not isinstance(value, list) or not value:
            raise at.wrong(path, "`parallel` takes a list of branches", "a branch is a list of steps, or one step")
        for index, branch in enumerate(value):
            if branch == []:
                at.wrong((*path, index), "the branch has no steps")
        return cls({"branches": value}, path)

    @classmethod
    def schema(cls, into: Schemas) -> Schema:
        return {"type": "array", "minItems": 1, "items": {"anyOf": [{"$ref": "#/$defs/Step"}, _list_of_steps()]}}

    def title(self, data: Any) -> str:
        return f"{len(self.branches)} branches in parallel"


class SetBody(StepBody):
    """Set variables."""

    KIND = StepKind.SET

    @classmethod
    def read(cls, value: object, at: Reading, path: KeyPath = ()) -> Self:
        if not isinstance(value, dict) or not value:
            raise at.wrong(path, "`set` takes variables and their values", "set: {name: value}")
        for name, part in value.items():
            if isinstance(part, dict | list) or part is None:
                at.wrong((*path, name), f"the value of a variable must be a text or a number, not {describe(part)}")
        return cls(value, path)

    @classmethod
    def schema(cls, into: Schemas) -> Schema:
        values = {"type": ["string", "number", "boolean"]}
        return {"type": "object", "minProperties": 1, "additionalProperties": values}

    def title(self, data: Any) -> str:
        return f"set {_pairs(data)}"


Body = (
    CallsBody | RunBody | StartBody | StopBody | SignalBody | PauseBody | ResumeBody | WaitBody | ExpectBody | LinkBody
    | DropBody | UndropBody | NatBody | FirewallBody | FileBody | BuildBody | RepeatBody | ParallelBody | SetBody
    | FaultBody | HealBody | DuringBody | ScheduleBody
)  # fmt: skip
BODIES: Mapping[StepKind, type[Body]] = MappingProxyType({body.KIND: body for body in get_args(Body)})


# Kinds of faults that may stand in place of `fault: {KIND: ...}`.
SHORT_FAULTS = (FaultKind.PARTITION, FaultKind.ISOLATE, FaultKind.BLACKHOLE, FaultKind.FLAP)


def title_of(body: Body, data: Any) -> str:
    """Return a title for a step without `name`: `run curl -s http://server/ on client`."""
    title = body.title(data)
    return title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 3] + "..."


def program_name(argv: Sequence[str] | None, shell: str | None) -> str:
    """Return the base name of a program, the default name of a background program."""
    words = list(argv) if argv else (shell or "").split()
    return words[0].rpartition("/")[2] if words else ""


def command_line(argv: Sequence[str] | None, shell: str | None) -> str:
    """Return the program as one would type it."""
    if not argv:
        return " ".join((shell or "").split())
    return " ".join(repr(word) if not word or set(word) & _NEED_QUOTES else word for word in argv)


def _pairs(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {_flow(value)}" for key, value in data.items())


def _flow(value: Any) -> str:
    """Return the value in the flow style of YAML."""
    if isinstance(value, dict):
        return "{" + _pairs(value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(part) for part in value) + "]"
    return str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())


def json_schema() -> Schema:
    """Return the JSON Schema. It does not know host names: any other key of a step takes the text of calls."""
    from labctl.topology.schema import add_schema

    for_file = Schemas()
    scenario_name = ScenarioFile.schema(for_file)["$ref"].rpartition("/")[2]
    for_topology = Schemas(templates=True)
    inline = add_schema(for_topology)
    for_steps = Schemas(templates=True)
    properties: Schema = {"name": STEP_NAME.schema(for_file), "within": STEP_WITHIN.schema(for_file)}
    for kind, body in BODIES.items():
        schema = body.schema(for_steps)
        if body.SHORT:
            schema = {"anyOf": [{"type": "string"}, schema]}
        properties[kind.value] = {**schema, "description": body.__doc__}
    parts = (for_file.definitions, for_topology.definitions, for_steps.definitions)
    definitions = {name: one for part in parts for name, one in part.items()}
    assert len(definitions) == sum(map(len, parts)), "shapes of the same name"
    beside = ("name", "within")
    definitions["Step"] = {
        "type": "object",
        "description": "One kind of step, or the name of a host (HOST or HOST/PROCESS) with the text of its calls.",
        "properties": properties,
        "additionalProperties": STRICT_TEXT.schema(for_steps),
        "oneOf": [_kind_and(given, beside) for given in ((), ("name",), ("within",), beside)],
    }
    scenario = definitions.pop(scenario_name)
    keys = scenario["properties"]
    keys["steps"] |= _list_of_steps()
    keys["topology"] |= {"anyOf": [{"type": "string"}, inline]}
    for container in ("RepeatBody", "DuringBody", "ScheduleBody"):
        definitions[container]["properties"]["steps"] |= _list_of_steps()
    for short in SHORT_FAULTS:
        properties[short.value] = {"type": ["string", "array", "object"], "description": f"`fault: {{{short}: ...}}`"}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "labctl scenario", **scenario, "$defs": dict(sorted(definitions.items()))}


def _kind_and(given: tuple[str, ...], beside: tuple[str, ...]) -> Schema:
    """Return the schema of a step with a kind and, of the keys that may stand beside it, those that are given."""
    missing = {name: False for name in beside if name not in given}
    count = 1 + len(given)
    schema: Schema = {"minProperties": count, "maxProperties": count}
    return schema | ({"required": list(given)} if given else {}) | ({"properties": missing} if missing else {})


def _list_of_steps() -> Schema:
    return {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Step"}}
