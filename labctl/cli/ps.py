"""`labctl ps`: the labs that run, or what runs in one. Imports nothing that is slow."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labctl.cli.arguments import HELP, HelpWanted
from labctl.errors import InputError, LabctlError
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.lab.protocol import Description, ProcessInfo
    from labctl.report.terminal import Cell

FORMATS = ("table", "json")


class Listed(Struct, frozen=True):
    """A lab as `ps` shows it; `problem` says why its keeper tells nothing."""

    name: str
    description: Description | None
    problem: str = ""


def main(arguments: Sequence[str]) -> int:
    """The exit status of `labctl ps` with these words after it."""
    form, names = "table", []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word in HELP:
            raise HelpWanted
        option, joined, value = word.partition("=")
        if option in ("--format", "-f"):
            if not joined:
                if not left:
                    raise InputError(f"labctl ps: {word} needs one of {', '.join(FORMATS)}.")
                value = left.pop(0)
            form = value
        elif word.startswith("-") and word != "--":
            raise InputError(f"labctl ps: there is no option {word}. All options: labctl ps --help")
        elif word != "--":
            names.append(word)
    if form not in FORMATS:
        raise InputError(f"labctl ps: --format {form} is none of {', '.join(FORMATS)}.")
    return show(names, form)


def show(names: Sequence[str], form: str) -> int:
    """Lists every running lab, or the processes of the labs that are named. 4 when a keeper did not answer."""
    from labctl.cli.main import complain
    from labctl.lab.client import orphans, registry

    registry.sweep(complain)
    listed = [_look(registry.choose(name)) for name in names] if names else [_look(name) for name in registry.labs()]
    if not names:
        listed += [Listed(each.name, None, f"{each}. Try: labctl gc") for each in orphans.orphans()]
    if form == "json":
        _show_json(listed)
    elif names:
        _show_processes(listed)
    else:
        _show_labs(listed)
    for each in listed:
        if each.problem:
            complain(each.problem)
    return LabctlError.exit_status if any(each.problem for each in listed) else 0


def _look(name: str) -> Listed:
    from labctl.lab.client.handle import Lab

    try:
        with Lab.attach(name, deadline_s=5.0) as lab:
            return Listed(name, lab.describe())
    except LabctlError as error:
        return Listed(name, None, str(error))


def _show_labs(listed: Sequence[Listed]) -> None:
    from labctl.report.terminal import Cell, Ink, age, standard_output, table

    if not listed:
        sys.stderr.write("No lab is running. To make one: labctl up pair\n")
        return
    screen = standard_output()
    now = time.time()
    rows: list[list[Cell | str]] = []
    for each in listed:
        told = each.description
        if told is None:
            rows.append([each.name, "", "", "", Cell("does not answer", Ink.BAD)])
            continue
        running = sum(1 for process in told.processes if _runs(process))
        owner = user_name(told.uid)
        rows.append([each.name, age(now - told.started_at), str(len(told.nodes)), str(running), owner])
    screen.write(table(screen.look, ("LAB", "AGE", "NODES", "PROCESSES", "OWNER"), rows))


def _show_processes(listed: Sequence[Listed]) -> None:
    from labctl.report.terminal import standard_output, table

    screen = standard_output()
    rows = process_rows([process for each in listed if each.description for process in each.description.processes])
    if not rows and not any(each.problem for each in listed):
        sys.stderr.write("Nothing runs there. To start something: labctl start NODE -- COMMAND\n")
        return
    screen.write(table(screen.look, ("NODE", "NAME", "PID", "SINCE", "STATE", "COMMAND"), rows))


def process_rows(processes: Sequence[ProcessInfo]) -> list[list[Cell | str]]:
    """A table's rows: node, name, process number on the node, since when, state, command."""
    import shlex

    from labctl.report.terminal import Cell, Ink, age

    now = time.time()
    rows: list[list[Cell | str]] = []
    for process in processes:
        ink = Ink.PLAIN if _runs(process) else Ink.FAINT if not process.returncode else Ink.BAD
        state = Cell(state_of(process), ink)
        since = age(now - process.started_at)
        command = shlex.join(process.argv)
        rows.append([process.node, process.name or "-", str(process.pid or "-"), since, state, command])
    return rows


def state_of(process: ProcessInfo) -> str:
    """`running`, `running (restarted 2 times)`, `exited with status 1`, `ended by SIGTERM`, ..."""
    times = "once" if process.restarts == 1 else f"{process.restarts} times"
    restarted = f" (restarted {times})" if process.restarts else ""
    if process.state.value != "ended":
        return process.state.value + restarted
    if process.problem:
        return process.problem
    code = process.returncode
    if code is None:
        return "ended" + restarted
    if code < 0:
        import signal

        try:
            return f"ended by {signal.Signals(-code).name}{restarted}"
        except ValueError:  # a real-time signal between the two that have names
            return f"ended by signal {-code}{restarted}"
    return f"exited with status {code}{restarted}"


def user_name(uid: int) -> str:
    """The user's name, or the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _runs(process: ProcessInfo) -> bool:
    return process.state.value != "ended"


def _show_json(listed: Sequence[Listed]) -> None:
    import json

    now = time.time()
    labs = []
    for each in listed:
        told = each.description
        if told is None:
            labs.append({"name": each.name, "answers": False, "problem": each.problem})
            continue
        labs.append(
            {
                "name": told.name,
                "answers": True,
                "topology": told.topology,
                "owner": {"uid": told.uid, "name": user_name(told.uid)},
                "started_at": told.started_at,
                "age_s": round(max(0.0, now - told.started_at), 1),
                "keeper_pid": told.keeper_pid,
                "nodes": [{"name": node.name, "kind": node.kind} for node in told.nodes],
                "processes": [_process_json(process) for process in told.processes],
            }
        )
    os.write(1, (json.dumps(labs, indent=2) + "\n").encode())


def _process_json(process: ProcessInfo) -> dict[str, object]:
    return {
        "node": process.node,
        "name": process.name or None,
        "pid": process.pid,
        "command": list(process.argv),
        "started_at": process.started_at,
        "state": process.state.value,
        "restarts": process.restarts,
        "returncode": process.returncode,
    }
