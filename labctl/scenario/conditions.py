"""The expect step: each condition is looked at until it holds, or until its deadline has passed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from labctl.errors import KernelError, describe_errno, errno_name
from labctl.programs.output import Stream
from labctl.scenario import observations
from labctl.scenario.file_schema import ListeningAt, parse_listening
from labctl.scenario.model import StepKind
from labctl.scenario.observations import number_mismatch, text_mismatch
from labctl.scenario.state import NOTHING, Done, Run, StepFailed, StepRun
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.programs.program import Program
    from labctl.programs.waiting import Scope
    from labctl.scenario.file_schema import (
        Connection,
        ExpectBody,
        FileCondition,
        OutputCondition,
        Reach,
        RouteCondition,
    )

FASTEST_SEARCH_S = 0.5  # given to a search by a process of its own, however short the deadline
BECOMES_TRUE_WITHIN_S = 1.0
LARGEST_FILE = 1 << 22  # bytes of a host's file that are looked at

Look = Callable[[], str]  # "" when the condition holds, else what was expected and what was seen


class ForGood(str):
    """What is wrong and cannot become right any more: the step need not wait for it."""


def seconds_for(at: StepRun, body: ExpectBody) -> float:
    """How long the step may take altogether."""
    return _within_s(at, body) + (body.for_ or 0.0) + 1.0  # a look that has begun is let finish


def expect(at: StepRun, body: ExpectBody) -> Done:
    """Wait until all conditions hold at the same time; with `for`, see that they go on holding."""
    command = _Command(at, body, at.scope)
    looks = list(_looks(at, body, command))
    if body.now:
        _fail_if(_all_wrong(looks), "", command.done)
        return command.done
    within_s = _within_s(at, body)
    wrongs: list[str] = []
    command.scope = at.scope.within(within_s)
    for _ in command.scope.look_again():
        wrongs = _all_wrong(looks)
        if not wrongs or any(isinstance(wrong, ForGood) for wrong in wrongs):
            break
    how_long = "" if any(isinstance(wrong, ForGood) for wrong in wrongs) else f" (within {_duration(within_s)})"
    _fail_if(wrongs, how_long, command.done)
    if body.for_ is not None:
        command.scope = at.scope.within(body.for_)
        for _ in command.scope.look_again():
            how_long = f" (it became true, but did not stay so for {_duration(body.for_)})"
            _fail_if(_all_wrong(looks), how_long, command.done)
    return command.done


def is_listening(run: Run, host: str, where: ListeningAt) -> bool:
    """Whether a socket listens (UDP: is bound) there."""
    return bool(observations.listening(run, host, where))


def _within_s(at: StepRun, body: ExpectBody) -> float:
    if body.command is not None or body.shell is not None:
        return at.within_s  # a program takes its time: as for `run`
    return at.own_within_s if at.own_within_s is not None else BECOMES_TRUE_WITHIN_S


def _all_wrong(looks: list[Look]) -> list[str]:
    return [wrong for look in looks if (wrong := look())]


def _fail_if(wrongs: list[str], how_long: str, done: Done) -> None:
    if wrongs:
        first, newline, output = "; ".join(wrongs).partition("\n")
        raise StepFailed(f"{first}{how_long}{newline}{output}", done)


def _duration(seconds: float) -> str:
    from labctl.units import format_duration

    return format_duration(seconds)


def _looks(at: StepRun, body: ExpectBody, command: _Command) -> Iterator[Look]:
    run, host = at.run, body.on or ""
    within_s = max(_within_s(at, body), FASTEST_SEARCH_S)
    if body.listening is not None:
        where = parse_listening(body.listening)
        yield lambda: _listening(run, host, where, body)
    if body.not_listening is not None:
        nowhere = parse_listening(body.not_listening)
        yield lambda: _not_listening(run, host, nowhere)
    if body.connection is not None:
        connection = body.connection
        yield lambda: _connection(run, host, connection)
    if body.counters is not None:
        counters = body.counters
        yield lambda: _counters(run, host, counters)
    if body.reachable is not None:
        reach = body.reachable
        yield lambda: _reachable(at, host, reach, wanted=True)
    if body.unreachable is not None:
        no_reach = body.unreachable
        yield lambda: _reachable(at, host, no_reach, wanted=False)
    if body.route is not None:
        route = body.route
        yield lambda: _route(run, host, route)
    if body.address is not None:
        address = body.address
        yield lambda: _address(run, host, address)
    if body.file is not None:
        file = body.file
        yield lambda: _file(run, host, file, within_s)
    if body.command is not None or body.shell is not None:
        yield command.look
    if body.running is not None:
        running = body.running
        yield lambda: _running(run, running, wanted=True)
    if body.not_running is not None:
        not_running = body.not_running
        yield lambda: _running(run, not_running, wanted=False)
    if body.output is not None:
        output = body.output
        yield lambda: _output(run, output, within_s)
    if body.that is not None:
        that = at.step.body.that  # as in the file: it puts in the variables by itself, as values
        yield lambda: _that(at, that)


def _listening(run: Run, host: str, where: ListeningAt, body: ExpectBody) -> str:
    sockets = observations.listening(run, host, where)
    verb = "is bound" if where.protocol == "udp" else "listens"
    if not sockets:
        others = observations.listed_listening(run, host, where.protocol)
        return f"expected a socket that {verb} at {where} on {host}; there is {others or 'none of that protocol'}"
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


def _not_listening(run: Run, host: str, where: ListeningAt) -> str:
    if not observations.listening(run, host, where):
        return ""
    return (
        f"expected no socket at {where} on {host}; there are {observations.listed_listening(run, host, where.protocol)}"
    )


def _connection(run: Run, host: str, wanted: Connection) -> str:
    candidates = observations.connections(run, host, wanted)
    fitting = []
    wrongs: list[str] = []
    for socket in candidates:
        wrong = _queues(wanted, socket)
        if wrong:
            wrongs.append(f"{observations.described(socket)}: {wrong}")
        else:
            fitting.append(socket)
    what = f"{observations.wanted_text(wanted)} on {host}"
    if wanted.count is not None:
        wrong = number_mismatch(wanted.count, len(fitting))
        if not wrong:
            return ""
        return f"number of sockets {what}: {wrong}{_listed(wrongs or [observations.described(s) for s in fitting])}"
    if fitting:
        return ""
    seen = wrongs or [observations.described(socket) for socket in observations.nearly(run, host, wanted)]
    return f"expected a socket {what}; there is none{_listed(seen)}"


def _queues(wanted: Connection, socket: Any) -> str:
    pairs = (
        ("receive_queue", wanted.receive_queue, socket.receive_queue),
        ("send_queue", wanted.send_queue, socket.send_queue),
    )
    for name, match, value in pairs:
        if match is not None and (wrong := number_mismatch(match, value)):
            return f"{name}: {wrong}"
    return ""


def _listed(seen: list[str]) -> str:
    return f". Seen: {', '.join(seen[:8])}" if seen else ""


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


def _reachable(at: StepRun, host: str, reach: Reach, *, wanted: bool) -> str:
    return observations.reach_mismatch(at, host, reach, wanted=wanted)


def _route(run: Run, host: str, wanted: RouteCondition) -> str:
    return observations.route_mismatch(run, host, wanted)


def _address(run: Run, host: str, wanted: str) -> str:
    return observations.address_mismatch(run, host, wanted)


def _file(run: Run, host: str, wanted: FileCondition, within_s: float) -> str:
    try:
        fd = run.lab.open_file(host, wanted.path)
    except KernelError as error:
        if errno_name(error.errno) in ("ENOENT", "ENOTDIR"):
            return f"expected the file {wanted.path} on {host}; it is not there" if wanted.exists else ""
        if not _looks_inside(wanted):  # a socket or a directory exists although it cannot be read like a file
            return "" if wanted.exists else f"expected no file {wanted.path} on {host}; it is there"
        return f"expected to read {wanted.path} on {host}; {describe_errno(error.errno)}"
    with open(fd, "rb", buffering=0) as file:
        if not wanted.exists:
            return f"expected no file {wanted.path} on {host}; it is there"
        if not _looks_inside(wanted):
            return ""
        os.set_blocking(fd, False)
        data = file.read(LARGEST_FILE) or b""
    wrong = text_mismatch(wanted, data.decode("utf-8", "replace"), within_s)
    return f"{wanted.path} on {host}: {wrong}" if wrong else ""


def _looks_inside(wanted: FileCondition) -> bool:
    return bool(wanted.given - {"path", "exists"})


class _Command(Struct):
    """The expectation's command: run once for each look, but not again when the scope's deadline has passed."""

    at: StepRun
    body: ExpectBody
    scope: Scope
    wrong: str | None = None  # with the last run; None before the first
    done: Done = NOTHING

    def look(self) -> str:
        from labctl.scenario.program_steps import attempt

        if self.wrong is None or self.scope.remaining_s:
            self.wrong, self.done = attempt(self.at, self.body)
        return self.wrong


def _running(run: Run, name: str, *, wanted: bool) -> str:
    program = _background(run, name)
    is_running = program.is_running
    if not is_running and not wanted:
        program.accounted_for = True
    if is_running is wanted:
        if wanted:
            program.reset_failures()
        return ""
    wrong = f"expected {name} {'to run' if wanted else 'not to run'}; it {_is(program.state)}"
    return ForGood(wrong) if program.ended and not _has_branches(run) else wrong


def _has_branches(run: Run) -> bool:
    """Whether another branch may change what one branch waits for, by starting a program of the same name again."""
    return any(step.kind is StepKind.PARALLEL for step in run.scenario.walk())


def _is(state: str) -> str:
    return "is running" if state == "running" else state


def _background(run: Run, name: str) -> Program:
    program = run.programs.find(name)
    if program is None:
        raise StepFailed(f"no background program or service called `{name}` has been started")
    return program


def _output(run: Run, wanted: OutputCondition, within_s: float) -> str:
    program = _background(run, wanted.process)
    for stream, match in ((Stream.STDOUT, wanted.stdout), (Stream.STDERR, wanted.stderr)):
        if match is not None and (wrong := text_mismatch(match, program.text(stream), within_s)):
            told = f"{stream} of {wanted.process}: {wrong}{_why_silent(program, stream)}"
            if program.is_silent_for_good and not _has_branches(run):
                return ForGood(f"{told}. The program {program.state}")
            return told
    return ""


def _why_silent(program: Program, stream: Stream) -> str:
    if stream is Stream.STDERR and program.command.tty:
        return " (with `tty: true` both streams are in stdout)"
    return f". {program.hint.removesuffix('.')}" if stream is Stream.STDOUT and program.hint else ""


def _that(at: StepRun, text: str) -> str:
    from labctl.scenario.call_steps import comparison_mismatch

    wrong = comparison_mismatch(at, text)
    return ForGood(wrong) if wrong and not _has_branches(at.run) else wrong
