"""The shape of scenario files: one for the file, one for the body of each kind of step (docs/scenario-files.md).

How scenario files write sockets: as topology files do.

The JSON Schema of scenario files, made from their shapes: for editors, and published in labctl/schemas.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from labctl.documents.diagnostics import Mistake, suggestion
from labctl.documents.schema import (
    REGEX,
    STRICT_TEXT,
    TEXT,
    Anything,
    Duration,
    ExactlyOne,
    Excludes,
    Flag,
    ListOf,
    MapOf,
    Needs,
    Of,
    OneOf,
    OnlyWith,
    Parsed,
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
from labctl.scenario.model import StepKind
from labctl.scenario.variables import is_template
from labctl.topology.endpoints import (
    EndpointPattern,
    ListeningAt,
    Protocol,
    TcpState,
    fits,
    parse_address,
    parse_endpoint,
    parse_listening,
    parse_port,
    parse_state,
)
from labctl.topology.impairments import check as check_impairment
from labctl.topology.impairments import parse as parse_impairment

__all__ = [
    "EndpointPattern",
    "ListeningAt",
    "Protocol",
    "TcpState",
    "fits",
    "parse_address",
    "parse_endpoint",
    "parse_listening",
    "parse_port",
    "parse_state",
]


class Family(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


def signal_number(name: str) -> int:
    """SIGTERM's number for `TERM` or `SIGTERM`; Mistake otherwise."""
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
        raise ValueError(f'{text!r} is not a file mode: three or four octal digits in quotes, like "0755"')


NUMBER = Whole()
LOCAL = Parsed(parse_listening)
END = Parsed(parse_endpoint)
SIGNAL = Parsed(signal_number)
DURATION = Duration()
FLAG = Flag()
TEXTS = ListOf(TEXT, or_one=True)
WORDS = ListOf(TEXT, at_least=1)
TWO_ENDS = ListOf(TEXT, 2, 2)
STEPS = ListOf(Anything(), at_least=1)  # each is read by itself (checks.StepReader)


# What a step of any kind may have beside its kind.
STEP_NAME = defaulted(TEXT, "", "A title; by default it is made from the step.", name="name")
STEP_WITHIN = optional(DURATION, "The step's deadline: 200ms, 2s, 1m.", name="within")


class NumberMatch(Shape):
    """A number to compare with: `N`, or several of these together."""

    equals = optional(NUMBER, "Exactly this number.")
    not_ = optional(NUMBER, "Any number but this.", name="not")
    at_least = optional(NUMBER, "This number or more.")
    at_most = optional(NUMBER, "This number or less.")


class TextMatch(Shape):
    """A text to compare with: `TEXT` (equals, a final newline aside), or several of these together."""

    equals = optional(TEXT, "Exactly this text; a final newline does not count.")
    contains = optional(TEXTS, "Texts that all occur in it.")
    not_contains = optional(TEXTS, "Texts of which none occurs in it.")
    matches = optional(REGEX, "A regular expression that matches somewhere in it.")
    json_ = optional(Anything(), "Values that the JSON in it has, perhaps among others.", name="json")


A_NUMBER = Of(NumberMatch, short="equals")
A_TEXT = Of(TextMatch, short="equals")


class Requires(Shape):
    """What the machine must have; otherwise the scenario is skipped."""

    programs = defaulted(ListOf(TEXT), [], "Programs that must be installed.")
    features = defaulted(ListOf(TEXT), [], "Features of the kernel: ipv6, nftables, netem, sctp, ...")
    root = defaulted(FLAG, False, "Whether it runs as root only.")


class ScenarioFile(Shape):
    """A scenario of labctl: steps that run on a topology."""

    name = defaulted(TEXT, "", "A title; by default the file's name.")
    about = defaulted(TEXT, "", "What the scenario shows, in a sentence or two.")
    topology = required(Anything(), "A shape (pair, star:3), a path relative to this file, or a topology.")
    requires = defaulted(Of(Requires), Requires({}), "What the machine must have; otherwise the scenario is skipped.")
    within = defaulted(DURATION, 10.0, "Deadline of a step that has none of its own: 200ms, 2s, 1m; 10s by default.")
    timeout = defaulted(DURATION, 60.0, "Deadline of the whole scenario; 60s by default.")
    variables = defaulted(MapOf(Scalar()), {}, "Values that `${name}` stands for in steps.")
    steps = required(STEPS, "What is done, in order.")


class Bounded(Shape):
    """A body whose deadline may stand in it as well as beside it."""

    within = optional(DURATION, "The step's deadline, as beside the step's kind: 200ms, 2s, 1m.")


class CallsBody(Bounded):
    """Calls, made by a process on the host."""

    on = required(TEXT, "The host that the calls are made on.")
    process = defaulted(TEXT, "", "Name of the calling process; by default the host's first.")
    do = required(STRICT_TEXT, "The calls, one a line.")


class ProgramExpect(Shape):
    """What a program's end must be like."""

    exit = optional(A_NUMBER, "Its exit status.")
    stdout = optional(A_TEXT, "What it wrote on standard output.")
    stderr = optional(A_TEXT, "What it wrote on standard error.")


class Save(Shape):
    """Names of the variables that take what a program gave."""

    stdout = optional(TEXT, "Variable for its standard output, without the final newline.")
    stderr = optional(TEXT, "Variable for its standard error, without the final newline.")
    exit = optional(TEXT, "Variable for its exit status.")


class ProgramBody(Bounded):
    """What `run` and `start` have in common."""

    on = required(TEXT, "The host that the program runs on.")
    run = optional(WORDS, "The program and its arguments, as a list; no shell is involved.")
    shell = optional(TEXT, "Instead of `run`: text for sh.")
    env = defaulted(MapOf(TEXT), {}, "Environment variables.")
    cwd = optional(TEXT, "Working directory, relative to the scenario's.")
    user = optional(TEXT, "The user that it runs as: a name or number of this machine; by default root of the lab.")
    stdin = optional(TEXT, "What it reads on standard input.")
    tty = defaulted(FLAG, False, "Whether it writes to a terminal, so that C programs do not hold back their output.")

    RULES = (ExactlyOne("run", "shell"),)


class RunBody(ProgramBody):
    """A program, run to its end."""

    expect = optional(Of(ProgramExpect), "What its end must be like; by default exit status 0.")
    save = optional(Of(Save), "Variables that take what it gave.")
    any_exit = defaulted(FLAG, False, "Whether every exit status is fine.")


class Ready(Shape):
    """How it is known that a program is ready: one of these."""

    listening = optional(LOCAL, "A socket that listens: tcp/8000, udp/53, unix//run/x.sock.")
    line = optional(REGEX, "A regular expression that a line of its output matches.")
    file = optional(TEXT, "A file that exists on its host.")
    command = optional(WORDS, "A command that succeeds on its host.")

    RULES = (ExactlyOne("listening", "line", "file", "command"),)


class StartBody(ProgramBody):
    """A program in the background."""

    name = defaulted(TEXT, "", "What other steps call it; by default the program's name.")
    ready = optional(Of(Ready), "How it is known that it is ready; the step waits for that.")


class StopBody(Bounded):
    """Ends a background program."""

    process = required(TEXT, "The program's name.")
    signal = defaulted(SIGNAL, "TERM", "The signal that it is sent.")
    expect = optional(Of(ProgramExpect), "What its end must be like.")


class SignalBody(Bounded):
    """A signal for a background program or a calling process."""

    process = required(TEXT, "The program's name, or HOST or HOST/PROCESS for a calling process.")
    signal = required(SIGNAL, "The signal: TERM, KILL, HUP, USR1, ...")


class NameBody(Bounded):
    """A background program, to be paused or resumed."""

    process = required(TEXT, "The program's name.")


class WaitBody(Bounded):
    """Waits for the end of a background program."""

    process = required(TEXT, "The program's name.")
    expect = optional(Of(ProgramExpect), "What its end must be like; by default exit status 0.")
    save = optional(Of(Save), "Variables that take what it gave.")
    any_exit = defaulted(FLAG, False, "Whether every exit status is fine.")


class Connection(Shape):
    """Sockets to look for."""

    protocol = defaulted(OneOf(Protocol), Protocol.TCP, "Their protocol.")
    local = optional(END, "Their own end: server:5000, :5000, 10.0.0.1:*.")
    peer = optional(END, "The other end, in the same form.")
    state = optional(Parsed(parse_state), "Their state, as ss(8) names it: ESTAB, TIME-WAIT, ...")
    receive_queue = optional(A_NUMBER, "Bytes that were received and not read yet.")
    send_queue = optional(A_NUMBER, "Bytes that were sent and not acknowledged yet.")
    count = optional(A_NUMBER, "How many there must be; by default at least one.")


class Reach(Shape):
    """A node or address to be reached."""

    node = required(TEXT, "A node's name, or an address.")
    family = optional(OneOf(Family), "Only by this family; by default by every one that both nodes have.")


class RouteCondition(Shape):
    """A route to look for."""

    to = required(Parsed(_check_prefix), "Its destination: a prefix such as 10.0.1.0/24, or default.")
    via = optional(TEXT, "Its next hop: an address, or a node's name.")


class FileCondition(TextMatch):
    """A file on the host."""

    path = required(TEXT, "The file's path.")
    exists = defaulted(FLAG, True, "Whether it must exist.")


class OutputCondition(Shape):
    """What a background program has written so far."""

    process = required(TEXT, "The program's name.")
    stdout = optional(A_TEXT, "What it wrote on standard output.")
    stderr = optional(A_TEXT, "What it wrote on standard error.")

    RULES = (Needs(("stdout", "stderr"), "needs `stdout` or `stderr`"),)


CONDITIONS = (
    "listening", "not_listening", "connection", "counters", "reachable", "unreachable", "route", "address", "file",
    "command", "shell", "running", "not_running", "output", "that",
)  # fmt: skip
_OF_A_COMMAND = ("exit", "stdout", "stderr", "env", "cwd", "user", "save")
_ON_A_HOST = CONDITIONS[:11]  # those that look at a host


class ExpectBody(Shape):
    """Conditions that must all hold: at once, within a time, or for a time."""

    on = optional(TEXT, "The host to look at.")
    listening = optional(LOCAL, "A socket that listens: tcp/5000, udp/53, unix//tmp/x.sock.")
    accept_queue = optional(A_NUMBER, "Connections of `listening` that wait for accept.")
    accept_queue_limit = optional(A_NUMBER, "How many may wait there: the backlog.")
    syn_queue = optional(A_NUMBER, "Half-open connections of `listening`.")
    not_listening = optional(LOCAL, "A socket that does not listen.")
    connection = optional(Of(Connection), "Sockets that are there.")
    counters = optional(MapOf(A_NUMBER), "Counters of the kernel, such as ListenOverflows: how much they grew.")
    reachable = optional(Of(Reach, short="node"), "A node or address that answers ICMP echo requests.")
    unreachable = optional(Of(Reach, short="node"), "A node or address that does not answer.")
    route = optional(Of(RouteCondition), "A route that is there.")
    address = optional(Parsed(_check_interface), "An address that an interface has: 10.0.1.5 or 10.0.1.5/24.")
    file = optional(Of(FileCondition), "A file on the host.")
    command = optional(WORDS, "A command and its arguments; run on the host again and again until it succeeds.")
    shell = optional(TEXT, "Instead of `command`: text for sh.")
    exit = optional(A_NUMBER, "The command's exit status; 0 by default.")
    stdout = optional(A_TEXT, "What the command wrote on standard output.")
    stderr = optional(A_TEXT, "What the command wrote on standard error.")
    env = defaulted(MapOf(TEXT), {}, "The command's environment variables.")
    cwd = optional(TEXT, "The command's working directory, relative to the scenario's.")
    user = optional(TEXT, "The user that the command runs as: a name or number of this machine.")
    save = optional(Of(Save), "Variables that take what the command gave.")
    running = optional(TEXT, "A background program that runs.")
    not_running = optional(TEXT, "A background program that has ended.")
    output = optional(Of(OutputCondition), "What a background program has written so far.")
    that = optional(TEXT, "A comparison in the call language, such as `$n == 3`.")
    within = optional(DURATION, "How long it may take until all of it holds; by default the step's deadline.")
    now = defaulted(FLAG, False, "Whether it must hold at once.")
    for_ = optional(DURATION, "How long it must hold without a break.", name="for")

    RULES = (
        Needs(CONDITIONS, f"needs a condition: {', '.join(CONDITIONS)}"),
        Needs(("on",), "needs `on`: the host to look at", where=_ON_A_HOST),
        Needs(
            ("listening",),
            "the queues are those of a listening socket: add `listening: tcp/PORT`",
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


class ImpairmentBody(Shape):
    """What happens to packets; what is not named does not happen."""

    delay = optional(Parsed(partial(check_impairment, "delay")), "How much later a packet arrives: 20ms.")
    jitter = optional(Parsed(partial(check_impairment, "jitter")), "How much the delay varies, to either side: 2ms.")
    loss = optional(Parsed(partial(check_impairment, "loss")), "Share of the packets that is lost: 1%.")
    rate = optional(Parsed(partial(check_impairment, "rate")), "At most so many bits a second: 10mbit.")

    RULES = (Needs(("delay", "jitter", "loss", "rate"), "needs one of `delay`, `jitter`, `loss`, `rate`"),)

    def problem(self) -> str:
        if any(is_template(value) for value in self.values.values()):
            return ""
        try:
            parse_impairment(self.values)
        except ValueError as error:
            return str(error)
        return ""


class LinkBody(Bounded):
    """A link to be taken down, brought up, impaired or restored."""

    down = optional(TWO_ENDS, "The two nodes (or a node and a network) of a link that goes down.")
    up = optional(TWO_ENDS, "Those of a link that comes up again.")
    between = optional(TWO_ENDS, "Those of a link that `set` is about.")
    set_ = optional(Of(ImpairmentBody), "What happens to packets there.", name="set")
    clear = optional(TWO_ENDS, "Those of a link where nothing happens to packets any more.")
    from_ = optional(TEXT, "The end whose packets are meant; both by default.", name="from")
    which = optional(Whole(at_least=1), "Which of several links, in file order, counted from 1.")

    RULES = (
        Excludes("set", ("down", "up", "clear"), "takes only one of `down`, `up`, `clear` or `between` with `set`"),
        Needs(("between",), "`set` needs `between`: the two nodes", where=("set",)),
        Needs(("set",), "`between` needs `set`: what happens to packets there", where=("between",)),
        Excludes("from", ("down", "up"), "a link goes down and up as a whole: `from` is for `set` and `clear`"),
        ExactlyOne("down", "up", "between", "clear"),
    )

    @property
    def ends(self) -> list[str]:
        """The two nodes."""
        return self.down or self.up or self.between or self.clear or []

    @property
    def verb(self) -> str:
        """The key that the nodes are given by."""
        return next((key for key in ("down", "up", "between", "clear") if key in self.given), "down")


class DropBody(Bounded):
    """Packets to be dropped."""

    on = required(TEXT, "The host on which they are dropped.")
    direction = defaulted(OneOf(Direction), Direction.IN, "in: packets that arrive; out: packets that leave.")
    protocol = optional(OneOf(DropProtocol), "Only those of this protocol.")
    port = optional(Whole(1, 65535), "Only those with this source or destination port.")
    from_ = optional(TEXT, "Only those from this node or address.", name="from")
    to = optional(TEXT, "Only those to this node or address.")
    flags = optional(TEXT, "Only TCP segments with these flags: ack,!syn,!fin.")

    RULES = (
        OnlyWith("port", "protocol", ("tcp", "udp"), "a port needs `protocol: tcp` or `protocol: udp`"),
        OnlyWith("flags", "protocol", ("tcp",), "flags need `protocol: tcp`"),
    )


class HostBody(Bounded):
    """A host on which nothing more is to be dropped."""

    on = required(TEXT, "The host.")


class FileBody(Bounded):
    """A file to be placed on a host."""

    on = required(TEXT, "The host.")
    path = required(TEXT, "Where it is placed: below the host's own /tmp or /run.")
    content = optional(TEXT, "What is in it.")
    source = optional(TEXT, "Instead of `content`: a file to copy, relative to the scenario's directory.")
    mode = defaulted(Parsed(_check_mode), "0644", 'Its permissions, in octal digits: "0755".')

    RULES = (ExactlyOne("content", "source"),)


class BuildBody(Bounded):
    """A C program to be compiled."""

    source = required(ListOf(TEXT, at_least=1, or_one=True), "Source files, relative to the scenario's directory.")
    as_ = defaulted(TEXT, "", "The program's name; by default the first source without its suffix.", name="as")
    flags = defaulted(
        ListOf(TEXT), [], "Options, libraries and object files for the compiler: -pthread, -lm, lib.a, ..."
    )

    @property
    def program(self) -> str:
        """Its name in /run/lab/bin: `as`, else the first source without its suffix."""
        return self.as_ or self.source[0].rpartition("/")[2].rpartition(".")[0] or self.source[0]


class RepeatBody(Bounded):
    """Steps to be run again and again."""

    times = required(Whole(1, 100_000), "How often.")
    as_ = defaulted(TEXT, "", "Variable that has the number of the round, from 1.", name="as")
    steps = required(STEPS, "What is repeated.")


BODIES: Mapping[StepKind, type[Shape]] = MappingProxyType(
    {
        StepKind.CALLS: CallsBody,
        StepKind.RUN: RunBody,
        StepKind.START: StartBody,
        StepKind.STOP: StopBody,
        StepKind.SIGNAL: SignalBody,
        StepKind.PAUSE: NameBody,
        StepKind.RESUME: NameBody,
        StepKind.WAIT: WaitBody,
        StepKind.EXPECT: ExpectBody,
        StepKind.LINK: LinkBody,
        StepKind.DROP: DropBody,
        StepKind.UNDROP: HostBody,
        StepKind.FILE: FileBody,
        StepKind.BUILD: BuildBody,
        StepKind.REPEAT: RepeatBody,
    }
)  # `parallel` is a list and `set` a mapping of names: neither has a shape

SHORTHAND: Mapping[StepKind, str] = MappingProxyType(
    {
        StepKind.STOP: "process",
        StepKind.PAUSE: "process",
        StepKind.RESUME: "process",
        StepKind.WAIT: "process",
        StepKind.UNDROP: "on",
    }
)  # `stop: web` stands for `stop: {process: web}`


_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ABOUT_KINDS = {
    StepKind.PARALLEL: "Branches that run at the same time: each is a step or a list of steps.",
    StepKind.SET: "Variables and their values.",
}


def json_schema() -> Schema:
    """The schema as plain data. Host names are unknown to it: any other key of a step takes the text of calls."""
    from labctl.topology.schema import TopologyFile

    for_file = Schemas()
    scenario_name = ScenarioFile.schema(for_file)["$ref"].rpartition("/")[2]
    inline = TopologyFile.schema(for_file)
    for_steps = Schemas(templates=True)
    properties: Schema = {"name": STEP_NAME.schema(for_file), "within": STEP_WITHIN.schema(for_file)}
    for kind in StepKind:
        properties[kind.value] = _step_of(kind, for_steps)
    clash = for_file.definitions.keys() & for_steps.definitions.keys()
    assert not clash, f"shapes of the same name: {clash}"
    definitions = for_file.definitions | for_steps.definitions
    definitions["Step"] = {
        "type": "object",
        "description": "One kind of step, or a host's name (HOST or HOST/PROCESS) with the text of its calls.",
        "properties": properties,
        "additionalProperties": STRICT_TEXT.schema(for_steps),
        "oneOf": [_one_kind_beside(), _one_kind_beside("name"), _one_kind_beside("within"), _one_kind_beside(*_BESIDE)],
    }
    scenario = definitions.pop(scenario_name)
    keys = scenario["properties"]
    keys["steps"] |= _list_of_steps()
    keys["topology"] |= {"anyOf": [{"type": "string"}, inline]}
    definitions["RepeatBody"]["properties"]["steps"] |= _list_of_steps()
    return {"$schema": _DIALECT, "title": "labctl scenario", **scenario, "$defs": dict(sorted(definitions.items()))}


def _step_of(kind: StepKind, into: Schemas) -> Schema:
    match kind:
        case StepKind.SET:
            values = {"type": ["string", "number", "boolean"]}
            body: Schema = {"type": "object", "minProperties": 1, "additionalProperties": values}
        case StepKind.PARALLEL:
            branch = {"anyOf": [{"$ref": "#/$defs/Step"}, _list_of_steps()]}
            body = {"type": "array", "minItems": 1, "items": branch}
        case _:
            shape = BODIES[kind]
            body = shape.schema(into)
            if kind in SHORTHAND:
                body = {"anyOf": [{"type": "string"}, body]}
            return {**body, "description": shape.__doc__}
    return {**body, "description": _ABOUT_KINDS[kind]}


_BESIDE = ("name", "within")


def _one_kind_beside(*given: str) -> Schema:
    """One key, and beside it those that are given of the ones that every step may have."""
    missing = {name: False for name in _BESIDE if name not in given}
    count = 1 + len(given)
    schema: Schema = {"minProperties": count, "maxProperties": count}
    return schema | ({"required": list(given)} if given else {}) | ({"properties": missing} if missing else {})


def _list_of_steps() -> Schema:
    return {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Step"}}
