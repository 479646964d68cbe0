"""`labctl doctor --fix`: changes the settings of this machine that keep ordinary users from making labs, by sudo."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli import shipped
from labctl.errors import MachineError, describe_errno
from labctl.report.screen import Ink, standard_output

if TYPE_CHECKING:
    from labctl.observe.machine import Readings

NAMESPACES = 10_000  # for each limit that is 0: labs of 1,000 hosts, several at a time


@dataclass(frozen=True, slots=True)
class Fix:
    """A command for root, and what it changes."""

    change: str
    command: tuple[str, ...]


def fixes(readings: Readings, python: str, script: Path | None) -> tuple[Fix, ...]:
    """What to change on a machine with these readings; `script` is `allow-user-namespaces`, as it ships.

    Only what labs need: nothing where they can be made already. Settings hold until the machine starts again; the
    AppArmor profile stays.
    """
    found = []
    for kind in ("user", "net", "pid", "mnt", "uts", "ipc"):
        setting = f"user.max_{kind}_namespaces"
        if getattr(readings, f"max_{kind}_namespaces", None) == 0:
            found.append(
                Fix(f"allow {NAMESPACES:,} {kind} namespaces a user", ("sysctl", "-w", f"{setting}={NAMESPACES}"))
            )
    if readings.euid != 0 and readings.unprivileged_userns_clone == 0:
        command = ("sysctl", "-w", "kernel.unprivileged_userns_clone=1")
        found.append(Fix("allow user namespaces to ordinary users", command))
    if readings.euid != 0 and readings.apparmor_restrict_userns:
        if script is None:
            command = ("sysctl", "-w", "kernel.apparmor_restrict_unprivileged_userns=0")
            found.append(Fix("allow user namespaces to every program, AppArmor or not", command))
        else:
            change = f"add an AppArmor profile that allows user namespaces to {os.path.realpath(python)}"
            found.append(Fix(change, ("sh", str(script), "profile", python)))
    return tuple(found)


def apply() -> int:
    """Print and run what `fixes` finds, by sudo where this is not root. 0 when labs can run after it, else 3."""
    from labctl.observe import machine

    readings, _ = machine.privilege()
    screen = standard_output()
    found = fixes(readings, sys.executable, shipped.tool("allow-user-namespaces"))
    if not found:
        tried = machine.try_a_lab()
        if not tried.works:
            raise MachineError(
                f"No setting of this machine is to be fixed, and labs cannot run: {tried.problem} {tried.remedy}"
            )
        screen.line("Nothing to fix: labs can run here.")
        return 0
    for fix in found:
        # The script calls sudo by itself, for what needs it.
        as_root = () if readings.euid == 0 or fix.command[0] == "sh" else ("sudo",)
        command = (*as_root, *fix.command)
        screen.line(f"To {fix.change}:")
        screen.line(f"  {shlex.join(command)}", Ink.STRONG)
        try:
            status = subprocess.run(command, check=False).returncode
        except OSError as error:
            raise MachineError(f"{command[0]}: cannot run it: {describe_errno(error.errno or 0)}.") from error
        if status:
            raise MachineError(
                f"{command[0]}: cannot {fix.change}: it exited with {status}. Ask an administrator to run: "
                f"{shlex.join(fix.command)}"
            )
    tried = machine.try_a_lab()
    screen.line(
        "Labs can run here now." if tried.works else f"Labs still cannot run here: {tried.problem} {tried.remedy}"
    )
    return 0 if tried.works else MachineError.exit_status
