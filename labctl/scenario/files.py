"""The shape of scenario files, as pydantic models: one for the file, one for the body of each kind of step.

A string with `${name}` in it may stand where a number, duration or the like is wanted: it passes here untouched when
the file is loaded, and the body is validated again, with `SUBSTITUTED` as context, when the step is run.
Only the kinds that a file uses cost time: the models are built at their first use (`defer_build`).
"""

from __future__ import annotations

import re
import signal
from enum import StrEnum
from ipaddress import ip_interface, ip_network
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from labctl.documents.source import Mistake, suggest
from labctl.plan.droprule import Direction, DropProtocol
from labctl.scenario import endpoints
from labctl.scenario.kinds import StepKind
from labctl.scenario.variables import is_template
from labctl.units import duration_s

SUBSTITUTED = {"substituted": True}


class Family(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


def _or_template(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    return value if info.context is None and is_template(value) else handler(value)


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        at = f" at character {error.pos + 1}" if error.pos is not None else ""
        raise ValueError(f"not a regular expression: {error.msg}{at}") from error
    return text


def _checked_by(parse: Any) -> AfterValidator:
    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


def signal_number(name: str) -> int:
    """SIGTERM's number for `TERM` or `SIGTERM`; ValueError otherwise."""
    word = name.upper().removeprefix("SIG")
    try:
        return int(signal.Signals[f"SIG{word}"])
    except KeyError:
        known = [number.name.removeprefix("SIG") for number in signal.Signals]
        raise Mistake(f"`{name}` is not a signal", suggest(word, known)) from None


def _prefix(text: str) -> str:
    if text != "default":
        ip_network(text, strict=False)
    return text


def _interface(text: str) -> str:
    ip_interface(text)
    return text


def _mode(text: str) -> str:
    if not re.fullmatch(r"[0-7]{3,4}", text):
        raise ValueError(f'{text!r} is not a file mode: three or four octal digits in quotes, like "0755"')
    return text


_NumberOrTemplate = WrapValidator(_or_template, json_schema_input_type=int | str)
_TextOrTemplate = WrapValidator(_or_template, json_schema_input_type=str)
Duration = Annotated[float, BeforeValidator(duration_s), _TextOrTemplate]  # seconds
Count = Annotated[int, Field(ge=0), _NumberOrTemplate]
Number = Annotated[int, _NumberOrTemplate]
Port = Annotated[int, Field(ge=1, le=65535), _NumberOrTemplate]
Regex = Annotated[str, AfterValidator(_regex), _TextOrTemplate]
Local = Annotated[str, _checked_by(endpoints.parse_listening), _TextOrTemplate]
End = Annotated[str, _checked_by(endpoints.parse_endpoint), _TextOrTemplate]
State = Annotated[str, _checked_by(endpoints.parse_state), _TextOrTemplate]
SignalName = Annotated[str, _checked_by(signal_number), _TextOrTemplate]
Prefix = Annotated[str, AfterValidator(_prefix), _TextOrTemplate]
InterfaceAddress = Annotated[str, AfterValidator(_interface), _TextOrTemplate]
Mode = Annotated[str, AfterValidator(_mode), _TextOrTemplate]
Word = Annotated[str, WithJsonSchema({"type": ["string", "number"]})]  # a number is taken as it would be printed
Arguments = Annotated[list[Word], Field(min_length=1)]


class FileModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, coerce_numbers_to_str=True)


class NumberMatch(FileModel):
    """`N`, or several of these together."""

    equals: Number | None = None
    not_: Number | None = Field(None, alias="not")
    at_least: Number | None = None
    at_most: Number | None = None


class TextMatch(FileModel):
    """`TEXT` (equals, a final newline aside), or several of these together."""

    equals: str | None = None
    contains: str | list[str] | None = None
    not_contains: str | list[str] | None = None
    matches: Regex | None = None
    json_: Any = Field(None, alias="json")


def _number_shorthand(value: Any) -> Any:
    return value if isinstance(value, dict | BaseModel) else {"equals": value}


def _text_shorthand(value: Any) -> Any:
    return {"equals": value} if isinstance(value, str | int | float) and not isinstance(value, bool) else value


ANumber = Annotated[NumberMatch, BeforeValidator(_number_shorthand, json_schema_input_type=int | str | NumberMatch)]
AText = Annotated[TextMatch, BeforeValidator(_text_shorthand, json_schema_input_type=str | TextMatch)]


def _need_one(model: BaseModel, *names: str) -> None:
    given = [name for name in names if name in model.model_fields_set]
    if len(given) != 1:
        one_of = " or ".join(f"`{name}`" for name in names)
        raise ValueError(f"needs {one_of}" if not given else f"takes only one of {one_of}")


class Requires(FileModel):
    programs: list[str] = []
    features: list[str] = []
    root: bool = False


class ScenarioFile(FileModel):
    name: str = ""
    about: str = ""
    topology: Any
    requires: Requires = Requires.model_construct()
    within: Duration = Field(10.0, json_schema_extra={"default": "10s"})
    timeout: Duration = Field(60.0, json_schema_extra={"default": "60s"})
    variables: dict[str, str | int | float | bool] = {}
    steps: Annotated[list[Any], Field(min_length=1)]


class CallsBody(FileModel):
    on: str
    process: str = ""
    do: str


class ProgramExpect(FileModel):
    exit: ANumber | None = None
    stdout: AText | None = None
    stderr: AText | None = None


class Save(FileModel):
    stdout: str | None = None
    stderr: str | None = None
    exit: str | None = None


class _Program(FileModel):
    on: str
    run: Arguments | None = None
    shell: str | None = None
    env: dict[str, Word] = {}
    cwd: str | None = None
    stdin: str | None = None

    @model_validator(mode="after")
    def _one_program(self) -> _Program:
        _need_one(self, "run", "shell")
        return self


class RunBody(_Program):
    expect: ProgramExpect | None = None
    save: Save | None = None
    any_exit: bool = False


class Ready(FileModel):
    listening: Local | None = None
    line: Regex | None = None
    file: str | None = None
    command: Arguments | None = None

    @model_validator(mode="after")
    def _one(self) -> Ready:
        _need_one(self, "listening", "line", "file", "command")
        return self


class StartBody(_Program):
    name: str = ""
    ready: Ready | None = None


class StopBody(FileModel):
    process: str
    signal: SignalName = "TERM"
    expect: ProgramExpect | None = None


class SignalBody(FileModel):
    process: str
    signal: SignalName


class NameBody(FileModel):
    """Of `pause` and `resume`."""

    process: str


class WaitBody(FileModel):
    process: str
    expect: ProgramExpect | None = None
    save: Save | None = None
    any_exit: bool = False


class Connection(FileModel):
    protocol: endpoints.Protocol = endpoints.Protocol.TCP
    local: End | None = None
    peer: End | None = None
    state: State | None = None
    receive_queue: ANumber | None = None
    send_queue: ANumber | None = None
    count: ANumber | None = None


class Reach(FileModel):
    node: str
    family: Family | None = None


class RouteCondition(FileModel):
    to: Prefix
    via: str | None = None


class FileCondition(TextMatch):
    path: str
    exists: bool = True


class OutputCondition(FileModel):
    process: str
    stdout: AText | None = None
    stderr: AText | None = None

    @model_validator(mode="after")
    def _some(self) -> OutputCondition:
        if self.stdout is None and self.stderr is None:
            raise ValueError("needs `stdout` or `stderr`")
        return self


def _node_shorthand(value: Any) -> Any:
    return {"node": value} if isinstance(value, str) else value


AReach = Annotated[Reach, BeforeValidator(_node_shorthand, json_schema_input_type=str | Reach)]

CONDITIONS = (
    "listening", "not_listening", "connection", "counters", "reachable", "unreachable", "route", "address", "file",
    "running", "not_running", "output", "that",
)  # fmt: skip
ON_A_HOST = CONDITIONS[:9]  # those that look at a host
QUEUES = ("accept_queue", "accept_queue_limit", "syn_queue")


class ExpectBody(FileModel):
    on: str | None = None
    listening: Local | None = None
    accept_queue: ANumber | None = None
    accept_queue_limit: ANumber | None = None
    syn_queue: ANumber | None = None
    not_listening: Local | None = None
    connection: Connection | None = None
    counters: dict[str, ANumber] | None = None
    reachable: AReach | None = None
    unreachable: AReach | None = None
    route: RouteCondition | None = None
    address: InterfaceAddress | None = None
    file: FileCondition | None = None
    running: str | None = None
    not_running: str | None = None
    output: OutputCondition | None = None
    that: str | None = None
    within: Duration | None = None
    now: bool = False
    for_: Duration | None = Field(None, alias="for")

    @model_validator(mode="after")
    def _makes_sense(self) -> ExpectBody:
        given = self.model_fields_set
        if not given.intersection(CONDITIONS):
            raise ValueError(f"needs a condition: {', '.join(CONDITIONS)}")
        if self.on is None and given.intersection(ON_A_HOST):
            raise ValueError("needs `on`: the host to look at")
        if self.listening is None and given.intersection(QUEUES):
            raise ValueError("the queues are those of a listening socket: add `listening: tcp/PORT`")
        if self.now and given.intersection({"within", "for_", "for"}):
            raise ValueError("takes either `now` or `within` and `for`")
        return self


Ends = Annotated[list[str], Field(min_length=2, max_length=2)]


class LinkBody(FileModel):
    down: Ends | None = None
    up: Ends | None = None
    which: Annotated[int, Field(ge=1), _NumberOrTemplate] | None = None  # counts from 1, in file order

    @model_validator(mode="after")
    def _one(self) -> LinkBody:
        _need_one(self, "down", "up")
        return self


class DropBody(FileModel):
    on: str
    direction: Direction = Direction.IN
    protocol: DropProtocol | None = None
    port: Port | None = None
    from_: str | None = Field(None, alias="from")
    to: str | None = None
    flags: str | None = None


class HostBody(FileModel):
    """Of `undrop`."""

    on: str


class FileBody(FileModel):
    on: str
    path: str
    content: str | None = None
    source: str | None = None
    mode: Mode = "0644"

    @model_validator(mode="after")
    def _one(self) -> FileBody:
        _need_one(self, "content", "source")
        return self


class BuildBody(FileModel):
    source: str | list[str]
    as_: str = Field("", alias="as")
    flags: list[str] = []

    @property
    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else self.source

    @property
    def program(self) -> str:
        """Its name in /run/lab/bin: `as`, else the first source without its suffix."""
        return self.as_ or self.sources[0].rpartition("/")[2].rpartition(".")[0] or self.sources[0]


class RepeatBody(FileModel):
    times: Annotated[int, Field(ge=1, le=100_000), _NumberOrTemplate]
    as_: str = Field("", alias="as")
    steps: Annotated[list[Any], Field(min_length=1)]


BODIES: dict[StepKind, type[FileModel]] = {
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
}  # `parallel` is a list and `set` a mapping of names: neither has a model

SHORTHAND: dict[StepKind, str] = {
    StepKind.STOP: "process",
    StepKind.PAUSE: "process",
    StepKind.RESUME: "process",
    StepKind.WAIT: "process",
    StepKind.UNDROP: "on",
}  # `stop: web` stands for `stop: {process: web}`
