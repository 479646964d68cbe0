"""labctl: small networks of Linux network namespaces, and scenarios that run across them.

::

    from labctl import Lab

    with Lab("pair") as lab:
        print(lab["client"].run(["ping", "-c1", "server"]).stdout)

Importing this imports nothing else: each name is imported when it is first asked for. See docs/python-api.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labctl.api.async_lab import AsyncHost, AsyncLab, AsyncLink, AsyncScenarioRun
    from labctl.api.async_program import AsyncProgram
    from labctl.api.host import Host, Link
    from labctl.api.journal import Activity, ActivityKind
    from labctl.api.lab import Lab, Reachability, Socket, State, Transport, enter_private_network
    from labctl.api.program import Completed, Program
    from labctl.api.scenarios import ScenarioFailed, ScenarioRun
    from labctl.api.topology import Topology
    from labctl.errors import (
        DeadlineExceeded,
        InputError,
        KernelError,
        LabctlError,
        LabError,
        LabGone,
        MachineError,
        NotFound,
        ProgramFailed,
        ProgramNotReady,
        ProgramTimedOut,
    )

__version__ = "0.1.0"

__all__ = [
    "Activity",
    "ActivityKind",
    "AsyncHost",
    "AsyncLab",
    "AsyncLink",
    "AsyncProgram",
    "AsyncScenarioRun",
    "Completed",
    "DeadlineExceeded",
    "Host",
    "InputError",
    "KernelError",
    "Lab",
    "LabError",
    "LabGone",
    "LabctlError",
    "Link",
    "MachineError",
    "NotFound",
    "Program",
    "ProgramFailed",
    "ProgramNotReady",
    "ProgramTimedOut",
    "Reachability",
    "ScenarioFailed",
    "ScenarioRun",
    "Socket",
    "State",
    "Topology",
    "Transport",
    "enter_private_network",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = _home(name)
    found = getattr(import_module(f"labctl.api.{home}" if home else "labctl.errors"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _home(name: str) -> str:
    """The module of labctl.api that a public name comes from; "" for labctl.errors."""
    homes = {
        "async_program": ("AsyncProgram",),
        "async_lab": ("AsyncHost", "AsyncLab", "AsyncLink", "AsyncScenarioRun"),
        "host": ("Host", "Link"),
        "journal": ("Activity", "ActivityKind"),
        "lab": ("Lab", "Reachability", "Socket", "State", "Transport", "enter_private_network"),
        "program": ("Completed", "Program"),
        "scenarios": ("ScenarioFailed", "ScenarioRun"),
        "topology": ("Topology",),
    }
    for module, names in homes.items():
        if name in names:
            return module
    return ""
