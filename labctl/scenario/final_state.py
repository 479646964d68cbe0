"""The state of a scenario after its steps: its programs and, after a failure, the listening sockets.

A program that crashes takes a moment to end: its peer sees the connection break, and the step fails, before the crash
is complete. `settle` waits for that moment, so that the report has the crash and not a later signal from labctl.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from labctl.errors import KernelError, LabctlError
from labctl.programs.output import OutputRecord
from labctl.programs.waiting import Scope
from labctl.scenario.model import StepKind
from labctl.scenario.results import ListeningRecord, Outcome, ProgramRecord
from labctl.unpatched import monotonic

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.observe.network import Socket
    from labctl.programs.program import Program
    from labctl.scenario.state import Run

QUIET_S = 0.1  # for programs that sleep: one of their children may crash
SETTLE_S = 1.5  # for programs that are busy
BUSY_S = 0.2  # the same after all steps have passed: a server may crash after its last response
MAX_HOSTS = 8
MAX_SOCKETS = 20  # of each host
TAIL_CHARACTERS = 16384  # of each stream of each program
IDLE = "ST"  # proc_pid_stat(5): sleeping, stopped


def settle(
    lab: Lab,
    condition: threading.Condition,
    programs: Iterable[Program],
    *,
    quiet_s: float = QUIET_S,
    within_s: float = SETTLE_S,
) -> None:
    """Wait until every program has ended or sleeps, so that none is about to end by itself."""
    started = monotonic()
    for _ in Scope(condition, started + within_s).look_again():
        alive = [program for program in programs if program.is_running]
        quiet = monotonic() - started >= quiet_s
        if not alive or (quiet and all(is_idle(lab, each.command.host, each.process.pid) for each in alive)):
            return


def is_idle(lab: Lab, host: str, pid: int) -> bool:
    """Return whether the process sleeps or is stopped."""
    return kernel_state(lab, host, pid) in IDLE


def kernel_state(lab: Lab, host: str, pid: int) -> str:
    """Return field 3 of proc_pid_stat(5); X if the process no longer exists."""
    try:
        fd = lab.open_file(host, f"/proc/{pid}/stat")
    except KernelError:
        return "X"
    with open(fd, "rb") as file:
        try:
            return chr(file.read().rpartition(b")")[2].split()[0][0])
        except (ProcessLookupError, IndexError):
            return "X"


def programs(run: Run) -> tuple[ProgramRecord, ...]:
    """Return background programs, services and programs whose steps were interrupted, with the last of their output."""
    background = run.programs.background()
    others = [each for each in run.programs.everything() if each not in background and not each.is_in_a_result]
    return tuple(_record(each) for each in (*background, *others))


def listeners(run: Run) -> tuple[ListeningRecord, ...]:
    """Return the listening sockets of the hosts that took part; hosts of failed steps first."""
    failed = [result.host for result in run.results if result.outcome in (Outcome.FAILED, Outcome.ERROR)]
    of_programs = [program.command.host for program in run.programs.everything()]
    of_steps = [result.host for result in run.results]
    hosts = dict.fromkeys(host for host in (*failed, *of_programs, *of_steps) if host)
    # A program resolves names itself, and IPv6 addresses may come first.
    has_program_failed = any(
        result.kind != StepKind.CALLS and result.outcome is Outcome.FAILED for result in run.results
    )
    nodes = run.scenario.topology.nodes if has_program_failed else ()
    both = {node.name for node in nodes if len({address.version for address in node.addresses}) > 1}
    return tuple(_listening_on(run.lab, host, host in both) for host in list(hosts)[:MAX_HOSTS])


def _listening_on(lab: Lab, host: str, has_both: bool) -> ListeningRecord:
    from labctl.observe.network import Transport, sockets

    try:
        found = [one for one in sockets(lab, host) if one.listening]
    except (LabctlError, RuntimeError) as error:
        return ListeningRecord(host, (), str(error))
    lines = [
        f"unix/{one.path}" if one.transport is Transport.UNIX else _inet_listener(one, has_both)
        for one in found
        if one.transport is not Transport.UNIX or one.path
    ]
    lines = list(dict.fromkeys(lines))  # with SO_REUSEPORT several sockets listen at one address
    left_out = [f"and {len(lines) - MAX_SOCKETS} more"] if len(lines) > MAX_SOCKETS else []
    return ListeningRecord(host, (*lines[:MAX_SOCKETS], *left_out))


def _inet_listener(one: Socket, has_both: bool) -> str:
    shown = str(one).partition(" -> ")[0]
    is_ipv4_only = has_both and one.local is not None and one.local.version == 4 and one.local.is_unspecified
    return f"{shown} (IPv4 only, and clients may try the host's IPv6 address first)" if is_ipv4_only else shown


def _record(program: Program) -> ProgramRecord:
    return ProgramRecord(
        host=program.command.host,
        name=program.command.name,
        kind=program.kind,
        argv=tuple(program.command.argv),
        state="gone with its lab" if program.gone else program.state,
        exit_status=program.exit_status,
        output=_tail(program),
    )


def _tail(program: Program) -> OutputRecord:
    whole = program.record()
    left_out = sum(len(text[:-TAIL_CHARACTERS].encode()) for text in (whole.stdout, whole.stderr))
    return OutputRecord(
        whole.stdout[-TAIL_CHARACTERS:], whole.stderr[-TAIL_CHARACTERS:], whole.truncated_bytes + left_out
    )
