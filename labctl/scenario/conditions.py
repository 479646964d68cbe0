"""The expect step: check each condition until it holds or its deadline has passed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from labctl.errors import KernelError, describe_errno, errno_name
from labctl.programs.output import Stream
from labctl.scenario import observations
from labctl.scenario.file_schema import ExpectBody
from labctl.scenario.model import StepKind
from labctl.scenario.observations import number_mismatch, text_mismatch
from labctl.scenario.state import NOTHING, Done, Run, StepFailed, StepRun
from labctl.structs import Struct
from labctl.topology.endpoints import ListeningAt, Protocol, parse_listening
from labctl.units import format_duration

if TYPE_CHECKING:
    from labctl.observe.network import Socket
    from labctl.programs.program import Program
    from labctl.programs.waiting import Scope
    from labctl.scenario.file_schema import Connection, FileCondition, OutputCondition

T = TypeVar("T")

MIN_SEARCH_S = 3.0  # for a search in a process of its own, even if the deadline is shorter
BECOMES_TRUE_WITHIN_S = 3.0  # ARP, neighbour discovery and TCP repeat a lost packet after 1 s
LARGEST_FILE = 1 << 22  # bytes of a file that are read

Check = Callable[[], str]  # returns "" if the condition holds, else what was expected and what was found


class Final(str):
    """A mismatch that cannot go away: the step need not wait."""


def seconds_for(at: StepRun, body: ExpectBody) -> float:
    """Return how long the step may take altogether."""
    return _within_s(at, body) + (body.for_ or 0.0) + 1.0  # a check that has begun may finish


def expect(at: StepRun, body: ExpectBody) -> Done:
    """Wait until all conditions hold together; with `for`, check that they continue to hold."""
    command = _Command(at, body, at.scope)
    checks = _checks(at, body, command)
    if body.now:
        _fail_if(_mismatches(checks), "", command.done)
        return command.done
    within_s = _within_s(at, body)
    wrongs: list[str] = []
    command.scope = at.scope.within(within_s)
    for _ in command.scope.look_again():
        wrongs = _mismatches(checks)
        if not wrongs or any(isinstance(wrong, Final) for wrong in wrongs):
            break
    is_final = any(isinstance(wrong, Final) for wrong in wrongs)
    _fail_if(wrongs, "" if is_final else f" (within {format_duration(within_s)})", command.done)
    if body.for_ is not None:
        command.scope = at.scope.within(body.for_)
        for _ in command.scope.look_again():
            how_long = f" (it became true, but did not stay so for {format_duration(body.for_)})"
            _fail_if(_mismatches(checks), how_long, command.done)
    return command.done


def _within_s(at: StepRun, body: ExpectBody) -> float:
    if body.command is not None or body.shell is not None:
        return at.within_s  # a program takes its time: as for `run`
    return at.own_within_s if at.own_within_s is not None else BECOMES_TRUE_WITHIN_S


def _mismatches(checks: list[Check]) -> list[str]:
    return [wrong for check in checks if (wrong := check())]


def _fail_if(wrongs: list[str], how_long: str, done: Done) -> None:
    if wrongs:
        first, newline, output = "; ".join(wrongs).partition("\n")
        raise StepFailed(f"{first}{how_long}{newline}{output}", done)


def _checks(at: StepRun, body: ExpectBody, command: _Command) -> list[Check]:
    run, host = at.run, body.on or ""
    within_s = max(_within_s(at, body), MIN_SEARCH_S)
    in_file = at.step.body  # with `${name}`: a comparison takes variables as values, not as text
    that = in_file.that if isinstance(in_file, ExpectBody) else None
    return [
        *_given(body.listening, lambda text: _listening(run, host, parse_listening(text), body)),
        *_given(body.not_listening, lambda text: _not_listening(run, host, parse_listening(text))),
        *_given(body.connection, partial(_connection, run, host)),
        *_given(body.counters, partial(_counters, run, host)),
        *_given(body.reachable, partial(observations.reach_mismatch, at, host, wanted=True)),
        *_given(body.unreachable, partial(observations.reach_mismatch, at, host, wanted=False)),
        *_given(body.route, partial(observations.route_mismatch, run, host)),
        *_given(body.address, partial(observations.address_mismatch, run, host)),
        *_given(body.file, lambda file: _file(run, host, file, within_s)),
        *_given(body.command or body.shell, lambda _: command.check()),
        *_given(body.running, lambda name: _running(run, name, wanted=True)),
        *_given(body.not_running, lambda name: _running(run, name, wanted=False)),
        *_given(body.output, lambda output: _output(run, output, within_s)),
        *_given(that, partial(_that, at)),
    ]


def _given(value: T | None, check: Callable[[T], str]) -> list[Check]:
    return [] if value is None else [partial(check, value)]


def _listening(run: Run, host: str, where: ListeningAt, body: ExpectBody) -> str:
    sockets = observations.listening(run, host, where)
    if not sockets:
        nothing = "no socket is bound to" if where.protocol is Protocol.UDP else "nothing listens on"
        others = observations.listed_listening(run, host, where.protocol)
        return f"{nothing} {where} on {host}; {f'there is {others}' if others else _no_listeners(host, where.protocol)}"
    wrongs: list[str] = []
    for socket in sockets:
        wrongs = [
            f"{name}: {wrong}"
            for name, match, value in (
                ("accept_queue", body.accept_queue, socket.accept_queue),
                ("accept_queue_limit", body.accept_queue_limit, socket.accept_queue_limit),
                ("syn_queue", body.syn_queue, observations.half_open(run, host, where)),
            )
            if match is not None and (wrong := number_mismatch(match, value or 0))
        ]
        if not wrongs:
            return ""
    return f"{where} on {host}: {'; '.join(wrongs)}"


def _no_listeners(host: str, protocol: Protocol) -> str:
    """Return `server has no TCP listeners`."""
    return f"{host} has no {'bound UDP sockets' if protocol is Protocol.UDP else f'{protocol.upper()} listeners'}"


def _not_listening(run: Run, host: str, where: ListeningAt) -> str:
    if not observations.listening(run, host, where):
        return ""
    found = observations.listed_listening(run, host, where.protocol)
    return f"expected no socket at {where} on {host}; there are {found}"


def _connection(run: Run, host: str, wanted: Connection) -> str:
    matching: list[str] = []
    wrongs: list[str] = []
    for socket in observations.connections(run, host, wanted):
        shown = observations.described(socket)
        wrong = _queues(wanted, socket)
        (wrongs if wrong else matching).append(f"{shown}: {wrong}" if wrong else shown)
    what = f"{observations.wanted_text(wanted)} on {host}"
    if wanted.count is not None:
        wrong = number_mismatch(wanted.count, len(matching))
        return f"number of sockets {what}: {wrong}{_listed(wrongs or matching)}" if wrong else ""
    if matching:
        return ""
    if not wrongs:  # show the sockets with the wanted ends, else all of the protocol
        others = observations.with_ends(run, host, wanted) or observations.sockets(run, host, wanted.protocol)
        wrongs = [observations.described(socket) for socket in others]
    return f"expected a socket {what}; found none{_listed(wrongs)}"


def _queues(wanted: Connection, socket: Socket) -> str:
    for name, match, value in (
        ("receive_queue", wanted.receive_queue, socket.receive_queue),
        ("send_queue", wanted.send_queue, socket.send_queue),
    ):
        if match is not None and (wrong := number_mismatch(match, value)):
            return f"{name}: {wrong}"
    return ""


def _listed(found: list[str]) -> str:
    return f". Sockets: {', '.join(found[:8])}" if found else ""


def _counters(run: Run, host: str, wanted: dict[str, Any]) -> str:
    from labctl.observe.network import UnknownCounter

    grown = observations.counters_since_start(run, host)
    wrongs = []
    for name, match in wanted.items():
        try:
            value = grown[name]
        except UnknownCounter as error:
            raise StepFailed(f"{host}: {error}") from error
        if wrong := number_mismatch(match, value):
            wrongs.append(f"counter {name} on {host}: {wrong} (since the start)")
    return "; ".join(wrongs)


def _file(run: Run, host: str, wanted: FileCondition, within_s: float) -> str:
    try:
        fd = run.lab.open_file(host, wanted.path)
    except KernelError as error:
        if errno_name(error.errno) in ("ENOENT", "ENOTDIR"):
            return f"expected the file {wanted.path} on {host}; it does not exist" if wanted.exists else ""
        if not _looks_inside(wanted):  # a socket or a directory exists although it cannot be read like a file
            return "" if wanted.exists else f"expected no file {wanted.path} on {host}; it exists"
        return f"expected to read {wanted.path} on {host}; {describe_errno(error.errno)}"
    with open(fd, "rb", buffering=0) as file:
        if not wanted.exists:
            return f"expected no file {wanted.path} on {host}; it exists"
        if not _looks_inside(wanted):
            return ""
        os.set_blocking(fd, False)
        data = file.read(LARGEST_FILE) or b""
    wrong = text_mismatch(wanted, data.decode("utf-8", "replace"), within_s)
    return f"{wanted.path} on {host}: {wrong}" if wrong else ""


def _looks_inside(wanted: FileCondition) -> bool:
    return bool(wanted.given - {"path", "exists"})


class _Command(Struct):
    """The command of an expectation: each check runs it once, but not again after the deadline of the scope."""

    at: StepRun
    body: ExpectBody
    scope: Scope
    wrong: str | None = None  # result of the last run; None before the first
    done: Done = NOTHING

    def check(self) -> str:
        from labctl.scenario.program_steps import attempt

        if self.wrong is None or self.scope.remaining_s:
            self.wrong, self.done = attempt(self.at, self.body)
        return self.wrong


def _running(run: Run, name: str, *, wanted: bool) -> str:
    program = run.background(name)
    is_running = program.is_running
    if not is_running and not wanted:
        program.accounted_for = True
    if is_running is wanted:
        if wanted:
            program.reset_failures()
        return ""
    state = "is running" if program.state == "running" else program.state
    wrong = f"expected {name} {'to run' if wanted else 'not to run'}; it {state}"
    return Final(wrong) if program.ended and not _has_branches(run) else wrong


def _has_branches(run: Run) -> bool:
    """Return whether another branch could change the condition, for example by a new program of the same name."""
    return any(step.kind is StepKind.PARALLEL for step in run.scenario.walk())


def _output(run: Run, wanted: OutputCondition, within_s: float) -> str:
    program = run.background(wanted.process)
    for stream, match in ((Stream.STDOUT, wanted.stdout), (Stream.STDERR, wanted.stderr)):
        if match is not None and (wrong := text_mismatch(match, program.text(stream), within_s)):
            message = f"{stream} of {wanted.process}: {wrong}{_why_silent(program, stream)}"
            if program.is_silent_for_good and not _has_branches(run):
                return Final(f"{message}. The program {program.state}")
            return message
    return ""


def _why_silent(program: Program, stream: Stream) -> str:
    if stream is Stream.STDERR and program.command.tty:
        return " (with `tty: true` both streams are in stdout)"
    return f". {program.hint.removesuffix('.')}" if stream is Stream.STDOUT and program.hint else ""


def _that(at: StepRun, text: str) -> str:
    from labctl.scenario.call_steps import comparison_mismatch

    wrong = comparison_mismatch(at, text)
    return Final(wrong) if wrong and not _has_branches(at.run) else wrong
