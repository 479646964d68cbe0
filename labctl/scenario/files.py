"""The shape of scenario files: one for the file, one for the body of each kind of step (docs/scenario-files.md)."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from labctl.documents.source import Mistake, suggest
from labctl.plan.droprule import Direction, DropProtocol
from labctl.scenario.endpoints import Protocol, parse_endpoint, parse_listening, parse_state
from labctl.scenario.kinds import StepKind
from labctl.scenario.shapes import (
    TEXT,
    WORD,
    Anything,
    Duration,
    Flag,
    ListOf,
    MapOf,
    Of,
    OneOf,
    Parsed,
    Scalar,
    Shape,
    Whole,
    defaulted,
    needs_one,
    optional,
    required,
)
from labctl.scenario.variables import is_template
from labctl.topology.impairments import check as check_impairment
from labctl.topology.impairments import parse as parse_impairment


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
        raise Mistake(f"`{name}` is not a signal", suggest(word, known)) from None


def _check_regex(text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        at = f" at character {error.pos + 1}" if error.pos is not None else ""
        raise ValueError(f"not a regular expression: {error.msg}{at}") from error


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
REGEX = Parsed(_check_regex)
LOCAL = Parsed(parse_listening)
END = Parsed(parse_endpoint)
SIGNAL = Parsed(signal_number)
DURATION = Duration()
FLAG = Flag()
TEXTS = ListOf(TEXT, or_one=True)
WORDS = ListOf(WORD, at_least=1)
TWO_ENDS = ListOf(TEXT, 2, 2)
STEPS = ListOf(Anything(), at_least=1)


class NumberMatch(Shape):
    """`N`, or several of these together."""

    equals = optional(NUMBER)
    not_ = optional(NUMBER, "not")
    at_least = optional(NUMBER)
    at_most = optional(NUMBER)


class TextMatch(Shape):
    """`TEXT` (equals, a final newline aside), or several of these together."""

    equals = optional(TEXT)
    contains = optional(TEXTS)
    not_contains = optional(TEXTS)
    matches = optional(REGEX)
    json_ = optional(Anything(), "json")


A_NUMBER = Of(NumberMatch, short="equals")
A_TEXT = Of(TextMatch, short="equals")


class Requires(Shape):
    """What must be there; else the scenario is skipped."""

    programs = defaulted(ListOf(TEXT), [])
    features = defaulted(ListOf(TEXT), [])
    root = defaulted(FLAG, False)


class ScenarioFile(Shape):
    """A scenario of labctl."""

    name = defaulted(TEXT, "")
    about = defaulted(TEXT, "")
    topology = required(Anything())
    requires = defaulted(Of(Requires), Requires({}))
    within = defaulted(DURATION, 10.0)
    timeout = defaulted(DURATION, 60.0)
    variables = defaulted(MapOf(Scalar()), {})
    steps = required(STEPS)


class CallsBody(Shape):
    """Calls, made by a process on the host."""

    on = required(TEXT)
    process = defaulted(TEXT, "")
    do = required(TEXT)


class ProgramExpect(Shape):
    """What a program's end is to be like."""

    exit = optional(A_NUMBER)
    stdout = optional(A_TEXT)
    stderr = optional(A_TEXT)


class Save(Shape):
    """Names of the variables that take what a program gave."""

    stdout = optional(TEXT)
    stderr = optional(TEXT)
    exit = optional(TEXT)


class ProgramBody(Shape):
    """What `run` and `start` have in common."""

    on = required(TEXT)
    run = optional(WORDS)
    shell = optional(TEXT)
    env = defaulted(MapOf(WORD), {})
    cwd = optional(TEXT)
    stdin = optional(TEXT)

    def problem(self) -> str:
        return needs_one(self, "run", "shell")


class RunBody(ProgramBody):
    """A program, run to its end."""

    expect = optional(Of(ProgramExpect))
    save = optional(Of(Save))
    any_exit = defaulted(FLAG, False)


class Ready(Shape):
    """How it is known that a program is ready."""

    listening = optional(LOCAL)
    line = optional(REGEX)
    file = optional(TEXT)
    command = optional(WORDS)

    def problem(self) -> str:
        return needs_one(self, "listening", "line", "file", "command")


class StartBody(ProgramBody):
    """A program in the background."""

    name = defaulted(TEXT, "")
    ready = optional(Of(Ready))


class StopBody(Shape):
    """Ends a background program."""

    process = required(TEXT)
    signal = defaulted(SIGNAL, "TERM")
    expect = optional(Of(ProgramExpect))


class SignalBody(Shape):
    """A signal for a background program or a calling process."""

    process = required(TEXT)
    signal = required(SIGNAL)


class NameBody(Shape):
    """A background program, to be paused or resumed."""

    process = required(TEXT)


class WaitBody(Shape):
    """Waits for the end of a background program."""

    process = required(TEXT)
    expect = optional(Of(ProgramExpect))
    save = optional(Of(Save))
    any_exit = defaulted(FLAG, False)


class Connection(Shape):
    """Sockets to look for."""

    protocol = defaulted(OneOf(Protocol), Protocol.TCP)
    local = optional(END)
    peer = optional(END)
    state = optional(Parsed(parse_state))
    receive_queue = optional(A_NUMBER)
    send_queue = optional(A_NUMBER)
    count = optional(A_NUMBER)


class Reach(Shape):
    """A node or address to be reached."""

    node = required(TEXT)
    family = optional(OneOf(Family))


class RouteCondition(Shape):
    """A route to look for."""

    to = required(Parsed(_check_prefix))
    via = optional(TEXT)


class FileCondition(TextMatch):
    """A file on the host."""

    path = required(TEXT)
    exists = defaulted(FLAG, True)


class OutputCondition(Shape):
    """What a background program has written so far."""

    process = required(TEXT)
    stdout = optional(A_TEXT)
    stderr = optional(A_TEXT)

    def problem(self) -> str:
        return "" if {"stdout", "stderr"} & self.given else "needs `stdout` or `stderr`"


CONDITIONS = (
    "listening", "not_listening", "connection", "counters", "reachable", "unreachable", "route", "address", "file",
    "command", "shell", "running", "not_running", "output", "that",
)  # fmt: skip
ON_A_HOST = frozenset(CONDITIONS[:11])  # those that look at a host
QUEUES = frozenset({"accept_queue", "accept_queue_limit", "syn_queue"})
OF_A_COMMAND = frozenset({"exit", "stdout", "stderr", "env", "cwd", "save"})


class ExpectBody(Shape):
    """Conditions that must all hold: at once, within a time, or for a time."""

    on = optional(TEXT)
    listening = optional(LOCAL)
    accept_queue = optional(A_NUMBER)
    accept_queue_limit = optional(A_NUMBER)
    syn_queue = optional(A_NUMBER)
    not_listening = optional(LOCAL)
    connection = optional(Of(Connection))
    counters = optional(MapOf(A_NUMBER))
    reachable = optional(Of(Reach, short="node"))
    unreachable = optional(Of(Reach, short="node"))
    route = optional(Of(RouteCondition))
    address = optional(Parsed(_check_interface))
    file = optional(Of(FileCondition))
    command = optional(WORDS)
    shell = optional(TEXT)
    exit = optional(A_NUMBER)
    stdout = optional(A_TEXT)
    stderr = optional(A_TEXT)
    env = defaulted(MapOf(WORD), {})
    cwd = optional(TEXT)
    save = optional(Of(Save))
    running = optional(TEXT)
    not_running = optional(TEXT)
    output = optional(Of(OutputCondition))
    that = optional(TEXT)
    within = optional(DURATION)
    now = defaulted(FLAG, False)
    for_ = optional(DURATION, "for")

    def problem(self) -> str:
        if not self.given.intersection(CONDITIONS):
            return f"needs a condition: {', '.join(CONDITIONS)}"
        if self.on is None and self.given & ON_A_HOST:
            return "needs `on`: the host to look at"
        if self.listening is None and self.given & QUEUES:
            return "the queues are those of a listening socket: add `listening: tcp/PORT`"
        if {"command", "shell"} <= self.given:
            return "takes only one of `command` or `shell`"
        if not self.given & {"command", "shell"} and self.given & OF_A_COMMAND:
            named = ", ".join(f"`{name}`" for name in sorted(self.given & OF_A_COMMAND))
            return f"{named}: without a command. Try `command: [program, argument]` or `shell: text` beside it"
        if self.now and self.given & {"within", "for"}:
            return "takes either `now` or `within` and `for`"
        return ""


class ImpairmentBody(Shape):
    """What happens to packets; what is not named, does not happen."""

    delay = optional(Parsed(partial(check_impairment, "delay")))
    jitter = optional(Parsed(partial(check_impairment, "jitter")))
    loss = optional(Parsed(partial(check_impairment, "loss")))
    rate = optional(Parsed(partial(check_impairment, "rate")))

    def problem(self) -> str:
        if not self.given:
            return "needs one of `delay`, `jitter`, `loss`, `rate`"
        if any(is_template(value) for value in self.values.values()):
            return ""
        try:
            parse_impairment(self.values)
        except ValueError as error:
            return str(error)
        return ""


class LinkBody(Shape):
    """A link to be taken down, brought up, or made a bad or a good one."""

    down = optional(TWO_ENDS)
    up = optional(TWO_ENDS)
    between = optional(TWO_ENDS)
    set_ = optional(Of(ImpairmentBody), "set")
    clear = optional(TWO_ENDS)
    from_ = optional(TEXT, "from")  # the end whose packets are meant; both when it is not given
    which = optional(Whole(at_least=1))  # counts from 1, in file order

    @property
    def ends(self) -> list[str]:
        """The two nodes."""
        return self.down or self.up or self.between or self.clear or []

    @property
    def verb(self) -> str:
        """The key that the nodes are given by."""
        return next((key for key in ("down", "up", "between", "clear") if key in self.given), "down")

    def problem(self) -> str:
        if self.set_ is not None and self.between is None and not self.given & {"down", "up", "clear"}:
            return "`set` needs `between`: the two nodes"
        if self.between is not None and self.set_ is None:
            return "`between` needs `set`: what happens to packets there"
        if self.set_ is not None and self.between is None:
            return f"takes only one of `{self.verb}` or `set`"
        if self.from_ is not None and self.given & {"down", "up"}:
            return "a link goes down and up as a whole: `from` is for `set` and `clear`"
        return needs_one(self, "down", "up", "between", "clear")


class DropBody(Shape):
    """Packets to be dropped."""

    on = required(TEXT)
    direction = defaulted(OneOf(Direction), Direction.IN)
    protocol = optional(OneOf(DropProtocol))
    port = optional(Whole(1, 65535))
    from_ = optional(TEXT, "from")
    to = optional(TEXT)
    flags = optional(TEXT)


class HostBody(Shape):
    """A host on which nothing more is to be dropped."""

    on = required(TEXT)


class FileBody(Shape):
    """A file to be placed on a host."""

    on = required(TEXT)
    path = required(TEXT)
    content = optional(TEXT)
    source = optional(TEXT)
    mode = defaulted(Parsed(_check_mode), "0644")

    def problem(self) -> str:
        return needs_one(self, "content", "source")


class BuildBody(Shape):
    """A C program to be compiled."""

    source = required(ListOf(TEXT, at_least=1, or_one=True))
    as_ = defaulted(TEXT, "", "as")
    flags = defaulted(ListOf(WORD), [])

    @property
    def program(self) -> str:
        """Its name in /run/lab/bin: `as`, else the first source without its suffix."""
        return self.as_ or self.source[0].rpartition("/")[2].rpartition(".")[0] or self.source[0]


class RepeatBody(Shape):
    """Steps to be run again and again."""

    times = required(Whole(1, 100_000))
    as_ = defaulted(TEXT, "", "as")
    steps = required(STEPS)


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
