"""labctl: small networks of Linux network namespaces, and scenarios that run across them.

::

    from labctl import Lab

    with Lab("pair") as lab:
        print(lab["client"].run(["ping", "-c1", "server"]).stdout)

This module imports each name when you first use it. See docs/python-api.md.
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of `typing`, whose import takes 6 ms, which every command would pay for
if TYPE_CHECKING:
    from typing import Any

    from labctl.api.async_lab import AsyncHost, AsyncLab, AsyncLink, AsyncScenarioRun
    from labctl.api.async_program import AsyncProgram
    from labctl.api.fault import AsyncFault, Fault
    from labctl.api.host import Host, Link
    from labctl.api.journal import Activity, ActivityKind
    from labctl.api.lab import Lab, Reachability, ScenarioFailed, ScenarioRun, enter_private_network
    from labctl.api.program import Completed, Program
    from labctl.api.topology import Topology
    from labctl.documents.diagnostics import DocumentError
    from labctl.errors import (
        DeadlineExceeded,
        InputError,
        KernelError,
        LabctlError,
        LabError,
        LabGone,
        LabImpossible,
        MachineError,
        NotFound,
        ProgramFailed,
        ProgramNotReady,
        ProgramTimedOut,
    )
    from labctl.observe.network import Socket, State, Transport

__version__ = "0.1.0"

__all__ = [
    "Activity",
    "ActivityKind",
    "AsyncFault",
    "AsyncHost",
    "AsyncLab",
    "AsyncLink",
    "AsyncProgram",
    "AsyncScenarioRun",
    "Completed",
    "DeadlineExceeded",
    "DocumentError",
    "Fault",
    "Host",
    "InputError",
    "KernelError",
    "Lab",
    "LabError",
    "LabGone",
    "LabImpossible",
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


# The module below labctl that a name comes from; every other name is an error of labctl.errors.
_HOMES = {
    "api.async_lab": ("AsyncHost", "AsyncLab", "AsyncLink", "AsyncScenarioRun"),
    "api.async_program": ("AsyncProgram",),
    "api.fault": ("AsyncFault", "Fault"),
    "api.host": ("Host", "Link"),
    "api.journal": ("Activity", "ActivityKind"),
    "api.lab": ("Lab", "Reachability", "ScenarioFailed", "ScenarioRun", "enter_private_network"),
    "api.program": ("Completed", "Program"),
    "api.topology": ("Topology",),
    "observe.network": ("Socket", "State", "Transport"),
    "documents.diagnostics": ("DocumentError",),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    found = getattr(import_module(f"labctl.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
