"""`labctl start` and `labctl stop`: programs on hosts that go on when the command that started them is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labctl.cli import words
from labctl.cli.exec_command import (
    ExecRequest,
    check_command,
    current_directory,
    environment_of,
    status_of_refusal,
)
from labctl.cli.labs import having
from labctl.errors import InputError, KernelError

if TYPE_CHECKING:
    from labctl.lab.description import ProcessInfo
    from labctl.lab.handle import Lab
    from labctl.report.screen import Screen

OPTIONS = {
    "lab": words.Option(("--lab",), "LAB"),
    "name": words.Option(("--name",), "NAME"),
    "restart": words.Option(("--restart",), "no|on-failure|always"),
    "environment": words.Option(("-e", "--env"), "K=V"),
    "directory": words.Option(("-w", "--workdir"), "DIR"),
    "user": words.Option(("-u", "--user"), "USER"),
}


def main(arguments: Sequence[str]) -> int:
    """The exit status of `labctl start` with these words after it."""
    given = words.read("start", arguments, OPTIONS)
    request = ExecRequest(
        node=given.node,
        command=given.command,
        lab=given.last("lab"),
        detach=True,
        environment=given.all("environment"),
        directory=given.last("directory"),
        user=given.last("user"),
        name=given.last("name"),
    )
    return start(request, given.last("restart") or "no")


def start(request: ExecRequest, restart: str = "no") -> int:
    """Starts it and says what it is called: 0, or 126 and 127 when it cannot be run."""
    check_command("start", request.command)
    with having(request.node, request.lab) as lab:
        return start_detached(lab, request, environment_of(request.environment), restart)


def start_detached(lab: Lab, request: ExecRequest, environment: Mapping[str, str], restart: str = "no") -> int:
    """As `start`, in a lab that is attached already."""
    try:
        process = _started(lab, request, environment, restart)
    except KernelError as error:
        return status_of_refusal(error, request.command[0])
    from labctl.report.screen import standard_output

    standard_output().line(f"{process.node}/{process.name}")
    return 0


def _started(lab: Lab, request: ExecRequest, environment: Mapping[str, str], restart: str) -> ProcessInfo:
    from labctl.lab.description import Restart

    if restart not in {each.value for each in Restart}:
        allowed = ", ".join(each.value for each in Restart)
        raise InputError(f"labctl start: --restart {restart} is none of {allowed}.")
    directory = request.directory if request.directory is not None else current_directory()
    while True:
        try:
            return lab.start_process(
                request.node,
                request.command,
                name=request.name or "",
                env=environment,
                cwd=directory,
                user=request.user,
                restart=Restart(restart),
            )
        except KernelError as error:
            if request.directory is not None or directory is None or not error.attempted.startswith("enter the dir"):
                raise
            directory = None


def stop(targets: Sequence[str], lab_name: str | None) -> int:
    """Ends the processes that are named: NODE/NAME, NAME, or NODE for all that was started there."""
    from labctl.cli.labs import attach
    from labctl.report.screen import standard_output

    with attach(lab_name) as lab:
        stop_in(lab, targets, standard_output())
    return 0


def stop_in(lab: Lab, targets: Sequence[str], screen: Screen) -> None:
    """As `stop`, in a lab that is attached already."""
    from labctl.cli.ps import state_of
    from labctl.report.waiting import waiting

    for process in chosen(lab, targets, only_running=True):
        with waiting(f"stopping {process.node}/{process.name}"):
            ended = lab.stop_process(process.node, process.name)
        screen.line(f"{process.node}/{process.name} {state_of(ended)}")


def chosen(lab: Lab, targets: Sequence[str], *, only_running: bool) -> tuple[ProcessInfo, ...]:
    """The detached processes that the words mean, each once, in the lab's order. InputError for a word without any."""
    from labctl.cli.labs import suggestion

    there = [
        process
        for process in lab.processes()
        if process.is_detached and (not only_running or process.state.value != "ended")
    ]
    if not targets:
        return tuple(there)
    found: set[tuple[str, str]] = set()
    for target in targets:
        node, slash, name = target.partition("/")
        if slash:
            matching = [process for process in there if (process.node, process.name) == (node, name)]
        else:
            matching = [process for process in there if process.node == target]
            named = [process for process in there if process.name == target]
            if len({process.node for process in named}) > 1 and not matching:
                places = " and ".join(f"{process.node}/{process.name}" for process in named)
                raise InputError(f"several nodes of lab {lab.name} run a {target}: say {places}.")
            matching = matching or named
        if not matching:
            if target in lab.nodes:
                raise InputError(f"lab {lab.name}: nothing was started on {target}{' that still runs' * only_running}.")
            words_known = [f"{process.node}/{process.name}" for process in there] + [process.name for process in there]
            raise InputError(f"lab {lab.name} has no process {target}; {suggestion(target, words_known)}")
        found |= {(process.node, process.name) for process in matching}
    return tuple(process for process in there if (process.node, process.name) in found)
