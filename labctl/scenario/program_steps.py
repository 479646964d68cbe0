"""The steps on programs and files: run, start, stop, signal, pause, resume, wait, build, file."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from labctl.documents.schema import Shape
from labctl.documents.yaml_tree import read_bytes
from labctl.errors import InputError, KernelError, describe_errno
from labctl.printable import last_lines
from labctl.programs.output import Stream
from labctl.programs.program import Command, Program, describe_status
from labctl.scenario import observations
from labctl.scenario.file_schema import (
    BuildBody,
    ExpectBody,
    FileBody,
    PauseBody,
    ResumeBody,
    RunBody,
    SignalBody,
    StartBody,
    StopBody,
    WaitBody,
    command_line,
    program_name,
    signal_number,
)
from labctl.scenario.observations import number_mismatch, text_mismatch
from labctl.scenario.requirements import located
from labctl.scenario.state import NOTHING, Done, StepFailed, StepRun, kernel_state
from labctl.topology.endpoints import Protocol, parse_listening

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labctl.programs.output import LineWatch
    from labctl.scenario.file_schema import ProgramExpect, Ready, Save


SHOWN_CHARACTERS = 400  # of the last output of a program, in a reason; the result has the whole output


def run(at: StepRun, body: RunBody) -> Done:
    """Run a program until it exits and check its exit status and output."""
    program, _ = _launch(at, body, program_name(body.run, body.shell), body.run)
    if not program.wait_end(at.scope):
        _give_up(at, program)
        raise StepFailed(f"expected to end within {at.within_text}; it was still running", _done(program))
    _judge(program, body.expect, any_exit=body.any_exit)
    _save(at, program, body.save)
    return _done(program)


def start(at: StepRun, body: StartBody) -> Done:
    """Start a background program and wait until it is ready."""
    name = body.process_name
    before = at.run.programs.find(f"{body.on}/{name}")
    if before is not None and not before.ended:
        raise StepFailed(
            f"`{name}` is already running on {body.on} (started by {before.command.where}); use another `name`"
        )
    program, watch = _launch(at, body, name, body.run, line=(body.ready.line or "") if body.ready else "")
    at.run.programs.add_background(program)
    if body.ready is not None:
        _await_ready(at, program, body.ready, watch)
    return Done()


def stop_program(at: StepRun, body: StopBody) -> Done:
    """Signal a background program, wait until it exits, check its exit status and output."""
    program = at.run.background(body.process)
    if program.ended and not program.asked_to_end and body.expect is None and program.status != 0:
        program.accounted_for = True
        raise StepFailed(f"expected {body.process} to be running; it had ended: it {program.state}", _done(program))
    if not program.ended and not program.stop(signal_number(body.signal), at.run.scope):
        raise StepFailed(f"{body.process} did not end, not even by SIGKILL", _done(program))
    program.accounted_for = True
    _judge(program, body.expect, any_exit=True)
    return _done(program)


def send_signal(at: StepRun, body: SignalBody) -> Done:
    """Send a signal to a background program or to a calling process."""
    number = signal_number(body.signal)
    program = at.run.programs.find(body.process)
    if program is not None:
        program.asked_to_end = True
        if not program.signal(number, group=False):
            raise StepFailed(f"expected {body.process} to be running; it {program.state}", _done(program))
        return NOTHING
    host, _, process = body.process.partition("/")
    at.run.callers.signal(host, process, number)
    return NOTHING


def pause(at: StepRun, body: PauseBody) -> Done:
    """Send SIGSTOP and wait until the kernel reports the program as stopped."""
    program = _running(at, body.process)
    program.signal(signal.SIGSTOP, group=True)
    state = ""
    for _ in at.scope.look_again():
        state = kernel_state(at.lab, program.command.host, program.process.pid)
        if state == "T":
            return NOTHING
    raise StepFailed(f"expected {body.process} to be stopped (T) within {at.within_text}; its state is {state}")


def resume(at: StepRun, body: ResumeBody) -> Done:
    """Send SIGCONT and wait until the kernel no longer reports the program as stopped."""
    program = _running(at, body.process)
    program.signal(signal.SIGCONT, group=True)
    for _ in at.scope.look_again():
        if program.ended or kernel_state(at.lab, program.command.host, program.process.pid) != "T":
            return NOTHING
    raise StepFailed(f"expected {body.process} to continue within {at.within_text}; it is still stopped")


def wait(at: StepRun, body: WaitBody) -> Done:
    """Wait until a background program exits and check its exit status and output."""
    program = at.run.background(body.process)
    if not program.wait_end(at.scope):
        raise StepFailed(f"expected {body.process} to end within {at.within_text}; it is still running", _done(program))
    program.accounted_for = True
    _judge(program, body.expect, any_exit=body.any_exit or program.asked_to_end)
    _save(at, program, body.save)
    return _done(program)


def place_file(at: StepRun, body: FileBody) -> Done:
    """Write a file on a host; create missing directories below /tmp or /run."""
    if body.source is not None:
        try:
            content = read_bytes(at.run.scenario.directory / body.source, None)
        except OSError as error:
            raise StepFailed(f"cannot read {body.source}: {error.strerror}") from error
    else:
        content = (body.content or "").encode()
    try:
        fd = _open_new(at, body.on, body.path)
    except KernelError as error:
        raise StepFailed(f"cannot write {body.path} on {body.on}: {describe_errno(error.errno)}") from error
    with open(fd, "wb") as file:
        file.write(content)
        os.fchmod(fd, int(body.mode, 8))
    return NOTHING


def _open_new(at: StepRun, host: str, path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        return at.lab.open_file(host, path, flags, 0o600)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
    with contextlib.closing(at.lab.spawn(host, ["mkdir", "-p", "--", os.path.dirname(path)])) as making:
        making.wait(at.scope.remaining_s)
    return at.lab.open_file(host, path, flags, 0o600)


# The compiler runs inside the lab, with the host's own /tmp: however the run ends, no temporary file remains.
_COMPILE = (
    'directory=$(mktemp -d) && { cc "$@" -o "$directory/program" >&2; status=$?; '
    '[ "$status" -ne 0 ] || cat "$directory/program"; rm -rf "$directory"; exit "$status"; }'
)


def build(at: StepRun, body: BuildBody) -> Done:
    """Compile C sources into a program in the PATH of every host."""
    directory = at.run.scenario.directory
    sources = [str(directory / source) for source in body.source]
    languages, flags = _languages_apart(body.flags)
    command = Command(
        host=at.run.scenario.hosts[0],
        name="cc",
        argv=["sh", "-c", _COMPILE, "cc", "-Wall", "-Wextra", *languages, *sources, *flags],
        env={"LC_ALL": "C.UTF-8"},
        cwd=str(directory),
        stdin=None,
        where=at.step.where,
    )
    binary = os.memfd_create("labctl-build", os.MFD_CLOEXEC)
    try:
        program, _ = _spawn(at, command, stdout=binary)
        if not program.wait_end(at.scope):
            _give_up(at, program)
            raise StepFailed(f"the compiler did not end within {at.within_text}", _done(program))
        if program.status != 0:
            lines = program.text(Stream.STDERR).splitlines()
            first = next((line for line in lines if "error" in line), lines[0] if lines else "it printed nothing")
            raise StepFailed(f"cc {program.state}: {first}", _done(program))
        os.lseek(binary, 0, os.SEEK_SET)
        with open(binary, "rb", closefd=False) as file:
            at.lab.put_file(f"bin/{body.program}", file.read(), 0o755)
    finally:
        os.close(binary)
    return _done(program)


def _languages_apart(flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the flags into `-x LANGUAGE`, which must precede the sources, and the rest, which follows them.

    The linker searches libraries and object files for symbols that are undefined at their place on the command line;
    the place of other options does not matter.
    """
    languages: list[str] = []
    others: list[str] = []
    left = iter(flags)
    for flag in left:
        if flag == "-x":
            languages += [flag, *(word for word in [next(left, None)] if word is not None)]
        else:
            (languages if flag.startswith("-x") else others).append(flag)
    return languages, ["-x", "none", *others] if languages else others


def attempt(at: StepRun, body: ExpectBody) -> tuple[str, Done]:
    """Run the command of an expectation once; return what is wrong with its end ("" if nothing), and its output."""
    shown = command_line(body.command, body.shell)
    program, _ = _launch(at, body, program_name(body.command, body.shell), body.command)
    try:
        if not program.wait_end(at.scope):
            _give_up(at, program)
            wrongs = ["it had not ended"]
        else:
            wrongs = _wrongs(program, body, any_exit=False)
        if not wrongs:
            _save(at, program, body.save)
        wrong = f"command `{shown}` on {body.on}: {'; '.join(wrongs)}{_last_output(program)}" if wrongs else ""
        return wrong, _done(program)
    finally:
        at.run.programs.release(program)


def _launch(
    at: StepRun, body: RunBody | StartBody | ExpectBody, name: str, words: list[str] | None, line: str = ""
) -> tuple[Program, LineWatch | None]:
    """Start the program and arguments in `words`, or else the `shell` text of the body."""
    directory = at.run.scenario.directory
    argv = list(words) if words else ["sh", "-c", body.shell or ""]
    argv[0] = located(argv[0], directory) or argv[0]
    command = Command(
        host=body.on or "",
        name=name,
        argv=argv,
        env=body.env if at.run.seed is None else {"LABCTL_SEED": str(at.run.seed), **body.env},
        cwd=os.path.join(directory, body.cwd or ""),
        stdin=getattr(body, "stdin", None),
        where=at.step.where,
        tty=getattr(body, "tty", False),
        user=body.user,
        trace=getattr(body, "trace", False),
    )
    return _spawn(at, command, line=line)


def _spawn(
    at: StepRun, command: Command, *, stdout: int | None = None, line: str = ""
) -> tuple[Program, LineWatch | None]:
    try:
        return at.run.programs.launch(command, stdout=stdout, line=line)
    except (InputError, KernelError) as error:  # InputError: this machine has no such user
        raise StepFailed(str(error)) from error


def _await_ready(at: StepRun, program: Program, ready: Ready, watch: LineWatch | None) -> None:
    if watch is not None:
        is_ready = bool(at.scope.wait_for(lambda: watch.decided or program.ended) and watch.found)
        if watch.problem:
            raise StepFailed(watch.problem, _done(program))
    else:
        is_ready = _look_until_ready(at, program, ready)
    if is_ready:
        return
    host = program.command.host
    if ready.listening is not None:
        is_udp = parse_listening(ready.listening).protocol is Protocol.UDP
        unmet = f"{'no socket was bound to' if is_udp else 'nothing listened on'} {ready.listening} on {host}"
    elif ready.file is not None:
        unmet = f"the file {ready.file} did not exist on {host}"
    elif ready.line is not None:
        unmet = f"no line of output matched /{ready.line}/"
    else:
        unmet = f"the command `{' '.join(ready.command or ())}` did not succeed on {host}"
    done = _done(program)
    if program.ended:
        program.accounted_for = True
        raise StepFailed(f"{unmet} before the program ended: it {program.state}{_last_output(program)}", done)
    hint = program.hint and f"\n{program.hint}"
    # It continues to run until the scenario has failed: the report shows where it listens instead.
    raise StepFailed(
        f"{unmet} within {at.within_text}{_last_output(program, '; the program printed nothing')}{hint}", done
    )


def _look_until_ready(at: StepRun, program: Program, ready: Ready) -> bool:
    host = program.command.host
    for _ in at.scope.look_again():
        ended = program.ended  # before the condition: a program may become ready and exit
        if ready.listening is not None:
            is_ready = bool(observations.listening(at.run, host, parse_listening(ready.listening)))
        elif ready.file is not None:
            is_ready = _exists(at, host, ready.file)
        else:
            is_ready = _succeeds(at, program, list(ready.command or []))
        if is_ready or ended:
            return is_ready
    return False


def _give_up(at: StepRun, program: Program) -> None:
    """End a program that has missed its deadline."""
    program.ended_by_labctl = not program.ended
    program.stop(signal.SIGTERM, at.run.scope)


def _exists(at: StepRun, host: str, path: str) -> bool:
    from labctl.observe.services import file_exists

    try:
        return file_exists(at.lab, host, path)
    except KernelError as error:
        raise StepFailed(f"cannot look at {path} on {host}: {describe_errno(error.errno)}") from error


def _succeeds(at: StepRun, program: Program, argv: list[str]) -> bool:
    """Run a readiness command once; end it at the deadline of the step."""
    argv[0] = located(argv[0], at.run.scenario.directory) or argv[0]
    command = Command(
        program.command.host, f"{program.command.name}-ready", argv, program.command.env, program.command.cwd, None,
        at.step.where, program.command.user,
    )  # fmt: skip
    probe, _ = _spawn(at, command)
    probe.is_in_a_result = True  # reports leave it out
    at.scope.wait_for(lambda: probe.ended or program.ended)
    if not probe.ended:
        _give_up(at, probe)
    return probe.status == 0


def _running(at: StepRun, name: str) -> Program:
    program = at.run.background(name)
    if not program.is_running:
        raise StepFailed(f"expected {name} to be running; it {program.state}", _done(program))
    return program


def _judge(program: Program, expected: ProgramExpect | None, *, any_exit: bool) -> None:
    """Raise StepFailed unless the ended program met the expectations."""
    if wrongs := _wrongs(program, expected, any_exit=any_exit):
        unexpected = not any_exit and program.exit_status and (expected is None or expected.exit is None)
        raise StepFailed("; ".join(wrongs) + (_last_output(program) if unexpected else ""), _done(program))


def _wrongs(program: Program, expected: ProgramExpect | ExpectBody | None, *, any_exit: bool) -> list[str]:
    """Return the expectations that the ended program did not meet."""
    exit_status = program.exit_status or 0
    wrongs = []
    if expected is not None and expected.exit is not None:
        wrong = number_mismatch(expected.exit, exit_status)
        if wrong:
            wrongs.append(f"exit status: {wrong}{_by_signal(program)}")
    elif exit_status and not any_exit:
        wrongs.append(f"exit status: expected 0; got {exit_status}{_by_signal(program)}")
    if expected is not None:
        for stream, match in ((Stream.STDOUT, expected.stdout), (Stream.STDERR, expected.stderr)):
            if match is not None and (wrong := text_mismatch(match, program.text(stream))):
                tty = program.command.tty and stream is Stream.STDERR
                wrongs.append(f"{stream}: {wrong}{' (with `tty: true` both streams are in stdout)' if tty else ''}")
    return wrongs


def _by_signal(program: Program) -> str:
    return f" ({describe_status(program.status)})" if program.status is not None and program.status < 0 else ""


def _last_output(program: Program, nothing: str = "; it printed nothing") -> str:
    """Return the last output of the program, to follow a reason, or `nothing` if it has printed nothing."""
    whole = program.text(Stream.STDERR).strip() or program.text(Stream.STDOUT).strip()
    if not whole:
        return nothing
    from labctl.observe.machine import hint_without_users

    hint = hint_without_users(whole)
    return f"\n{last_lines(whole, SHOWN_CHARACTERS)}" + (f"\n{hint}" if hint else "")


def _save(at: StepRun, program: Program, save: Save | None) -> None:
    if save is None:
        return
    for name, stream in ((save.stdout, Stream.STDOUT), (save.stderr, Stream.STDERR)):
        if name is not None:
            at.variables[name] = program.text(stream).removesuffix("\n")
    if save.exit is not None:
        at.variables[save.exit] = program.exit_status


def _done(program: Program) -> Done:
    program.is_in_a_result = True
    return Done(program.record(), program.exit_status)


STEPS: Mapping[type[Shape], Callable[[StepRun, Any], Done]] = MappingProxyType(
    {
        RunBody: run,
        StartBody: start,
        StopBody: stop_program,
        SignalBody: send_signal,
        PauseBody: pause,
        ResumeBody: resume,
        WaitBody: wait,
        FileBody: place_file,
        BuildBody: build,
    }
)
