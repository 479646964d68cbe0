"""The settings that `labctl doctor --fix` changes on machines of other kinds, and the text of the checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.cli import doctor, files
from labctl.cli.doctor import Check, Fix, State, all_checks, apply_fixes, fixes, summary
from labctl.errors import MachineError
from labctl.kernel.privilege import Readings
from labctl.observe import machine
from labctl.report.terminal import Look, cells

SCRIPT = Path("/x/allow-user-namespaces")


def commands(readings: Readings, script: Path | None = SCRIPT) -> list[tuple[str, ...]]:
    return [fix.command for fix in fixes(readings, "/usr/bin/python3", script)]


def test_a_machine_that_can_run_labs_needs_no_fix() -> None:
    assert fixes(Readings(1000, 1, 0, 60000, 60000, 60000, 60000), "/usr/bin/python3", SCRIPT) == ()
    assert fixes(Readings(0, 0, 1, 60000), "/usr/bin/python3", SCRIPT) == ()


@pytest.mark.parametrize("kind", ["user", "net", "pid", "mnt"])
def test_a_limit_of_0_namespaces_is_raised(kind: str) -> None:
    readings = Readings(1000, **{f"max_{kind}_namespaces": 0})  # type: ignore[arg-type]  # one of the four limits
    assert commands(readings) == [("sysctl", "-w", f"user.max_{kind}_namespaces=10000")]


def test_the_debian_sysctl_is_set_for_ordinary_users() -> None:
    assert commands(Readings(1000, unprivileged_userns_clone=0)) == [
        ("sysctl", "-w", "kernel.unprivileged_userns_clone=1")
    ]


def test_apparmor_gets_a_profile_for_this_interpreter() -> None:
    readings = Readings(1000, apparmor_restrict_userns=1)
    assert commands(readings) == [("sh", str(SCRIPT), "profile", "/usr/bin/python3")]
    (without,) = fixes(readings, "/usr/bin/python3", None)
    assert without == Fix(
        "allow user namespaces to every program, AppArmor or not",
        ("sysctl", "-w", "kernel.apparmor_restrict_unprivileged_userns=0"),
    )


def test_the_script_ships_with_labctl() -> None:
    script = files.tool("allow-user-namespaces")
    assert script is not None
    assert script.read_text().startswith("#!/bin/sh")


def test_a_failure_without_a_known_fix_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "privilege", lambda: (Readings(1000, 1, 0, 60000, 60000, 60000, 60000), ()))
    monkeypatch.setattr(machine, "try_a_lab", lambda: machine.Finding("lab", False, problem="a filter is in the way."))
    with pytest.raises(MachineError, match=r"labs cannot run: a filter is in the way\."):
        apply_fixes()


CHECKS = [
    Check("machine", "kernel", State.KNOWN, "Linux 6.1"),
    Check("machine", "user namespaces", State.OK, "at most 100"),
    Check("kernel", "netem", State.MISSING, "delay " * 20, "ENOENT", "Try: sudo modprobe sch_netem"),
    Check("programs", "nc", State.MISSING, "connections", "is not installed", "Try: sudo apt-get install nc"),
]


def test_what_recordings_lack_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    bpf = machine.Finding("BPF", False, "TCP states", "libbpf.so.1 is not installed", "Try: apt")
    monkeypatch.setattr(machine, "privilege", lambda: (Readings(0), False))
    monkeypatch.setattr(machine, "kernel_events", lambda: bpf)
    monkeypatch.setattr(machine, "packet_filters", lambda: machine.Finding("libpcap", False, "filters", "no"))
    monkeypatch.setattr(machine, "program", lambda name: name if name == "apt-get" else "")
    checks = list(doctor._recordings())
    assert [(each.name, each.state, each.remedy) for each in checks] == [
        ("BPF", State.MISSING, "Try: apt"),
        ("strace", State.MISSING, "Try: sudo apt-get install strace"),
        ("libpcap", State.MISSING, "Try: sudo apt-get install libpcap0.8"),
    ]
    assert "Not available to recordings of labs: BPF, strace, libpcap." in summary(checks, Look())


def test_ordinary_users_read_that_the_kernel_s_events_are_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "privilege", lambda: (Readings(1000), True))
    bpf = next(iter(doctor._recordings()))
    assert (bpf.name, bpf.state, bpf.remedy) == ("BPF", State.KNOWN, "")


def test_the_summary_names_missing_features_and_programs() -> None:
    lines = summary(CHECKS, Look())
    assert lines[-4:] == [
        "Labs can run here.",
        "Not available on this kernel (labs still work): netem.",
        "Optional programs that are not installed: nc.",
        "All checks and remedies: labctl doctor --all",
    ]
    assert not any("modprobe" in line or "user namespaces" in line for line in lines)


def test_all_checks_fit_80_columns_and_show_each_remedy() -> None:
    lines = all_checks(CHECKS, Look())
    assert max(map(cells, lines)) <= 80
    for check in CHECKS:
        assert any(check.name in line for line in lines)
        assert any(check.remedy in line for line in lines)


def test_a_failed_check_is_shown_with_its_remedy_and_decides_the_verdict() -> None:
    lines = summary([*CHECKS, Check("labs", "a lab", State.FAILED, "", "EPERM", "Run as root.")], Look())
    assert any("EPERM" in line for line in lines)
    assert any("Run as root." in line for line in lines)
    assert "Labs cannot run here: see the failed checks above." in lines
