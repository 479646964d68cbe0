"""The names that others may rely on. A change here is a change for users: it goes into CHANGELOG.md."""

from __future__ import annotations

import importlib
import inspect

import pytest

import labctl
from labctl import errors

# What a room offers to the rooms that may import it, and to tests that people write with labctl.
ROOMS: dict[str, set[str]] = {
    "documents": {
        "Diagnostic",
        "Document",
        "DocumentError",
        "KeyPath",
        "Mistake",
        "Position",
        "in_file_order",
        "parse",
        "read",
        "suggest",
    },
    "topology": {"is_shape", "load", "resolve_inline"},
    "scenario": {
        "Cancellation",
        "Outcome",
        "RunOptions",
        "RunResult",
        "Scenario",
        "ScenarioResult",
        "StepResult",
        "json_schema",
        "load",
        "run_many",
        "run_scenario",
    },
}

# What `from labctl import ...` gives.
PUBLIC = {
    *(
        "Activity",
        "ActivityKind",
        "AsyncFault",
        "AsyncHost",
        "AsyncLab",
        "AsyncLink",
        "AsyncProgram",
        "AsyncScenarioRun",
    ),
    *(
        "Completed",
        "Fault",
        "Host",
        "Lab",
        "Link",
        "Program",
        "Reachability",
        "ScenarioRun",
        "Socket",
        "State",
        "Topology",
    ),
    *("Transport", "enter_private_network"),
    *(
        "DeadlineExceeded",
        "DocumentError",
        "InputError",
        "KernelError",
        "LabError",
        "LabGone",
        "LabImpossible",
        "LabctlError",
        "MachineError",
    ),
    *("NotFound", "ProgramFailed", "ProgramNotReady", "ProgramTimedOut", "ScenarioFailed"),
}

# Methods and properties; what a handle's __init__ sets is used all over the tests of labs.
HANDLES: dict[str, set[str]] = {
    "Lab": {
        *(
            "apply",
            "begin_fault",
            "fault_moments",
            "bind_socket",
            "start_agent",
            "start_agents",
            "changing",
            "close",
            "drop",
            "fileno",
            "heal",
            "impaired",
            "open",
            "open_file",
            "open_lifetime",
            "publish",
            "put_file",
            "socket",
            "sockets",
            "spawn",
            "undrop",
        ),
        "when_gone",
        *("network", "is_open"),
        *(
            "attach",
            "describe",
            "down",
            "processes",
            "read_log",
            "reconcile",
            "start_process",
            "stay",
            "stop_process",
            "signal_process",
            "watch_process",
            "up",
        ),
    },
    "Process": {"close", "fileno", "has_ended", "returncode", "signal", "wait"},
}

EXIT_STATUSES = {
    "LabctlError": 4,
    "InputError": 2,
    "MachineError": 3,
    "LabImpossible": 3,
    "LabError": 4,
    "KernelError": 4,
    "LabGone": 4,
    "DeadlineExceeded": 4,
    "NotFound": 2,
    "ProgramTimedOut": 1,
    "ProgramFailed": 1,
    "ProgramNotReady": 1,
}

PROGRAM = ("-e", "--env", "-w", "--workdir", "-u", "--user")
COMMANDS = {
    "run": {
        *("--jobs", "-j", "--junit", "--json", "--keep-on-failure", "--step", "--verbose", "-v", "--topo", "--lab"),
        *("--html", "--timeline", "--pcap", "--svg", "--perfetto"),
        *("--artifacts", "--durations", "--shard", "--repeat", "--until-fail", "--seed", "--shuffle"),
        "--trace",
    },
    "play": {"--lab"},
    "validate": set(),
    "plan": {"--format", "-f", "--lab", "--set", "--topo"},
    "up": {"--dry-run", "--name", "--set", "--strict", "--topo"},
    "watch": {"--json", "--apply", "--lab"},
    "export": {"--output", "-o", "--set"},
    "graph": {"--format", "-f", "--labels", "--all", "--output", "--ascii", "--set", "-o"},
    "inspect": {"--format", "-f", "--lab"},
    "examples": {"--copy"},
    "init": set(),
    "import": {"--force", "--hosts", "--output", "-o", "--topo", "--without"},
    "schema": set(),
    "exec": {
        *("--lab", "--name", "--group", "--label", "-t", "--tty", "-i", "--interactive", "-d", "--detach"),
        *PROGRAM,
    },
    "shell": {"--lab", *PROGRAM},
    "console": {"--lab"},
    "ps": {"--format", "-f"},
    "down": {"--all", "--force"},
    "start": {"--lab", "--name", "--restart", *PROGRAM},
    "stop": {"--lab"},
    "logs": {"--lab", "--follow", "-f", "--lines", "-n"},
    "fault": {
        *("--format", "-f", "--for", "--lab", "--name", "--on", "--one-way", "--period", "--port", "--times", "--via"),
    },
    "link": {"--lab", "--from"},
    "ping": {"--lab", "--all", "--every-pair"},
    "capture": {"--count", "--for", "--lab", "--write", "-c", "-w"},
    "sockets": {"-f", "--follow", "--format", "-l", "--lab", "--listening"},
    "top": {"--lab"},
    "trace": {"-f", "--filter", "--follow", "--for", "--html", "--json", "--lab", "--pcap", "--perfetto", "--svg"},
    "cp": {"--lab"},
    "env": {"--lab"},
    "gc": set(),
    "doctor": {"--all", "--fix", "--format", "-f"},
    "completion": set(),
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_offers_these_names(room: str) -> None:
    module = importlib.import_module(f"labctl.{room}")
    assert set(module.__all__) == ROOMS[room]


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, names in ROOMS.items() for name in sorted(names)])
def test_an_offered_name_is_there_and_documented(room: str, name: str) -> None:
    offered = getattr(importlib.import_module(f"labctl.{room}"), name)
    if inspect.isclass(offered) or inspect.isfunction(offered):
        assert inspect.getdoc(offered)


@pytest.mark.parametrize("handle", HANDLES)
def test_a_handle_has_these_methods(handle: str) -> None:
    home = {"Lab": "labctl.lab.client.handle", "AgentClient": "labctl.lab.agent.client"}.get(
        handle, "labctl.lab.client.process"
    )
    offered = getattr(importlib.import_module(home), handle)
    assert {name for name in dir(offered) if not name.startswith("_")} == HANDLES[handle]


def test_an_unknown_name_of_a_lazy_room_is_an_attribute_error() -> None:
    for room in ROOMS:
        assert not hasattr(importlib.import_module(f"labctl.{room}"), "nonesuch")


def test_errors_carry_their_exit_status() -> None:
    tree = {
        name: thing.exit_status
        for name, thing in vars(errors).items()
        if inspect.isclass(thing) and issubclass(thing, errors.LabctlError)
    }
    assert tree == EXIT_STATUSES


def test_the_commands_and_their_options() -> None:
    from labctl.cli.command_table import COMMANDS as TABLE

    assert {each.name: {flag for option in each.options for flag in option.flags} for each in TABLE} == COMMANDS


def test_the_package_offers_these_names() -> None:
    assert set(labctl.__all__) == PUBLIC


def test_the_version_is_the_package_s() -> None:
    from importlib.metadata import version

    assert version("labctl-netns") == labctl.__version__
