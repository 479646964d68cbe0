"""Which settings `labctl doctor --fix` changes, by the readings of machines of other kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.cli import files
from labctl.cli.doctor import Fix, apply, fixes
from labctl.errors import MachineError
from labctl.kernel.privilege import Readings
from labctl.observe import machine

SCRIPT = Path("/x/allow-user-namespaces")


def commands(readings: Readings, script: Path | None = SCRIPT) -> list[tuple[str, ...]]:
    return [fix.command for fix in fixes(readings, "/usr/bin/python3", script)]


def test_nothing_is_changed_where_labs_can_be_made() -> None:
    assert fixes(Readings(1000, 1, 0, 60000, 60000, 60000, 60000), "/usr/bin/python3", SCRIPT) == ()
    assert fixes(Readings(0, 0, 1, 60000), "/usr/bin/python3", SCRIPT) == ()


@pytest.mark.parametrize("kind", ["user", "net", "pid", "mnt"])
def test_a_limit_of_0_namespaces_is_raised(kind: str) -> None:
    readings = Readings(1000, **{f"max_{kind}_namespaces": 0})  # type: ignore[arg-type]  # one of the four limits
    assert commands(readings) == [("sysctl", "-w", f"user.max_{kind}_namespaces=10000")]


def test_debian_s_switch_is_turned_on_for_ordinary_users() -> None:
    assert commands(Readings(1000, unprivileged_userns_clone=0)) == [
        ("sysctl", "-w", "kernel.unprivileged_userns_clone=1")
    ]


def test_apparmor_gets_a_profile_for_the_one_interpreter() -> None:
    readings = Readings(1000, apparmor_restrict_userns=1)
    assert commands(readings) == [("sh", str(SCRIPT), "profile", "/usr/bin/python3")]
    (without,) = fixes(readings, "/usr/bin/python3", None)
    assert without == Fix(
        "allow user namespaces to every program, AppArmor or not",
        ("sysctl", "-w", "kernel.apparmor_restrict_unprivileged_userns=0"),
    )


def test_the_script_is_there() -> None:
    script = files.tool("allow-user-namespaces")
    assert script is not None
    assert script.read_text().startswith("#!/bin/sh")


def test_a_machine_that_no_setting_keeps_from_labs_is_not_told_that_all_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "privilege", lambda: (Readings(1000, 1, 0, 60000, 60000, 60000, 60000), ()))
    monkeypatch.setattr(machine, "try_a_lab", lambda: machine.Finding("lab", False, problem="a filter is in the way."))
    with pytest.raises(MachineError, match=r"labs cannot run: a filter is in the way\."):
        apply()
