"""`labctl ps`: the running labs, or the programs in them. Imports nothing that is slow to import."""

from __future__ import annotations

import time

from labctl.cli.exit import complain, write_bytes
from labctl.errors import LabctlError
from labctl.lab.client import registry, state_dir
from labctl.lab.client.lab_client import LabClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from labctl.lab.description import Description, ProcessInfo
    from labctl.report.terminal import Cell


class ListedLab:
    """A lab in the list. `problem` is the reason why it has no description."""

    def __init__(self, name: str, description: Description | None, problem: str = "") -> None:
        self.name = name
        self.description = description
        self.problem = problem


def ps(labs: Sequence[str], format: str) -> int:
    """Run `labctl ps`: list all labs, or the processes of the named labs. Return 4 if a lab did not answer."""
    registry.sweep(complain)
    listed = (
        [_describe(state_dir.choose(name)) for name in labs] if labs else [_describe(name) for name in state_dir.labs()]
    )
    if not labs:
        listed += [ListedLab(each.name, None, f"{each}. Try: labctl gc") for each in registry.orphans()]
    if format == "json":
        _show_json(listed)
    elif labs:
        _show_processes(listed)
    else:
        _show_labs(listed)
    for each in listed:
        if each.problem:
            complain(each.problem)
    return LabctlError.exit_status if any(each.problem for each in listed) else 0


def _describe(name: str) -> ListedLab:
    try:
        with LabClient.attach(name, deadline_s=5.0) as lab:
            return ListedLab(name, lab.describe())
    except LabctlError as error:
        return ListedLab(name, None, str(error))


def _show_labs(listed: Sequence[ListedLab]) -> None:
    from labctl.report.terminal import Cell, Ink, age, standard_output, table

    if not listed:
        complain("No lab is running. Try: labctl up pair")
        return
    screen = standard_output()
    now = time.time()
    rows: list[list[Cell | str]] = []
    for each in listed:
        description = each.description
        if description is None:
            rows.append([each.name, "", "", "", Cell("does not answer", Ink.BAD)])
            continue
        running = sum(1 for process in description.processes if _runs(process))
        owner = user_name(description.uid)
        rows.append([each.name, age(now - description.started_at), str(len(description.nodes)), str(running), owner])
    screen.write(table(screen.look, ("LAB", "AGE", "NODES", "PROCESSES", "OWNER"), rows))
    for each in listed:
        for fault in each.description.faults if each.description else ():
            screen.write([screen.look.paint(f"lab {each.name} has a fault: {fault.text}", Ink.ODD)])


def _show_processes(listed: Sequence[ListedLab]) -> None:
    from labctl.report.terminal import standard_output, table

    screen = standard_output()
    rows = process_rows([process for each in listed if each.description for process in each.description.processes])
    if not rows and not any(each.problem for each in listed):
        complain("No program runs. To start one: labctl start NODE -- COMMAND")
        return
    screen.write(table(screen.look, ("NODE", "NAME", "PID", "SINCE", "STATE", "COMMAND"), rows))


def process_rows(processes: Sequence[ProcessInfo]) -> list[list[Cell | str]]:
    """Return rows for a table: node, name, PID on the node, age, state, command."""
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
    if process.state.value == "ended" and process.problem:
        return process.problem
    status = process.returncode if process.state.value == "ended" else None
    state = process.state.value if status is None else describe_status(status)
    if not process.restarts:
        return state
    return f"{state} (restarted {'once' if process.restarts == 1 else f'{process.restarts} times'})"


def describe_status(returncode: int) -> str:
    """`exited with status 1`, `ended by SIGTERM`."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    import signal

    try:
        return f"ended by {signal.Signals(-returncode).name}"
    except ValueError:  # a real-time signal between the two that have names
        return f"ended by signal {-returncode}"


def user_name(uid: int) -> str:
    """Return the user's name, or the number if there is no name."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _runs(process: ProcessInfo) -> bool:
    return process.state.value != "ended"


def _show_json(listed: Sequence[ListedLab]) -> None:
    import json

    now = time.time()
    labs = []
    for each in listed:
        description = each.description
        if description is None:
            labs.append({"name": each.name, "answers": False, "problem": each.problem})
            continue
        labs.append(
            {
                "name": description.name,
                "answers": True,
                "topology": description.topology,
                "owner": {"uid": description.uid, "name": user_name(description.uid)},
                "started_at": description.started_at,
                "age_s": round(max(0.0, now - description.started_at), 1),
                "keeper_pid": description.keeper_pid,
                "nodes": [{"name": node.name, "kind": node.kind} for node in description.nodes],
                "processes": [_process_json(process) for process in description.processes],
                "faults": [fault.as_data() for fault in description.faults],
            }
        )
    write_bytes((json.dumps(labs, indent=2) + "\n").encode())


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
