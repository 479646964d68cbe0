"""tools/allow-user-namespaces on machines that it meets: files and programs of a folder stand for the machine's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "allow-user-namespaces"
SWITCH = Path("proc/sys/kernel/apparmor_restrict_unprivileged_userns")


class Machine:
    """A root directory, and programs that write down how they were called."""

    def __init__(self, folder: Path, *, restricts: str | None) -> None:
        self.root = folder / "root"
        self.programs = folder / "bin"
        self.calls = folder / "calls"
        (self.root / "etc/apparmor.d").mkdir(parents=True)
        self.programs.mkdir()
        if restricts is not None:
            (self.root / SWITCH).parent.mkdir(parents=True)
            (self.root / SWITCH).write_text(restricts + "\n")
        self.program("sysctl", 0)
        self.program("apparmor_parser", 0)
        (self.programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
        (self.programs / "sudo").chmod(0o755)

    def program(self, name: str, status: int) -> None:
        path = self.programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls}"\nexit {status}\n')
        path.chmod(0o755)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "LABCTL_TEST_ROOT": str(self.root),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }
        command = [str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)

    @property
    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    @property
    def profiles(self) -> list[Path]:
        return list((self.root / "etc/apparmor.d").iterdir())


@pytest.mark.parametrize("restricts", [None, "0"], ids=["no such setting", "switched off"])
@pytest.mark.parametrize("arguments", [("sysctl",), ("profile", sys.executable)], ids=lambda words: words[0])
def test_without_a_restriction_nothing_is_changed(
    tmp_path: Path, restricts: str | None, arguments: tuple[str, ...]
) -> None:
    machine = Machine(tmp_path, restricts=restricts)
    ran = machine.run(*arguments)
    assert ran.returncode == 0, ran.stderr
    assert "nothing was changed" in ran.stdout
    assert (machine.called, machine.profiles) == ([], [])


def test_a_profile_is_for_the_interpreter_itself_and_not_for_the_link_to_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, restricts="1")
    python = tmp_path / "python 3.13"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    link = tmp_path / "venv-python"
    link.symlink_to(python)
    ran = machine.run("profile", link)
    assert ran.returncode == 0, ran.stderr
    (profile,) = machine.profiles
    assert machine.called == [f"apparmor_parser --replace {profile}"]
    text = profile.read_text()
    assert f'profile {profile.name} "{python}" flags=(unconfined) {{\n  userns,\n}}\n' in text
    assert text.index("abi <abi/4.0>,") < text.index("include <tunables/global>") < text.index("profile ")


def test_two_interpreters_have_two_profiles_and_the_same_one_keeps_its_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path, restricts="1")
    for python in ("/bin/sh", "/bin/cat", "/bin/sh"):
        assert machine.run("profile", python).returncode == 0
    assert len(machine.profiles) == 2


def test_the_sysctl_is_for_everyone(tmp_path: Path) -> None:
    machine = Machine(tmp_path, restricts="1")
    assert machine.run("sysctl").returncode == 0
    assert machine.called == ["sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"]


def test_a_profile_that_is_not_taken_is_an_error(tmp_path: Path) -> None:
    machine = Machine(tmp_path, restricts="1")
    machine.program("apparmor_parser", 1)
    ran = machine.run("profile", sys.executable)
    assert ran.returncode == 1
    assert "does not take the profile" in ran.stderr


@pytest.mark.parametrize("name", ['a"b', "a*b", "a{b}", "a[b]", "a?b", "a\\b", "a\nb"], ids=repr)
def test_a_path_that_a_profile_would_read_as_a_pattern_is_refused(tmp_path: Path, name: str) -> None:
    machine = Machine(tmp_path, restricts="1")
    python = tmp_path / name
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    ran = machine.run("profile", python)
    assert ran.returncode == 1
    assert "sysctl" in ran.stderr
    assert machine.profiles == []


@pytest.mark.parametrize(
    "arguments", [(), ("profile",), ("profile", "/none/python"), ("sysctl", "x"), ("--help",)], ids=repr
)
def test_a_wrong_line_changes_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    machine = Machine(tmp_path, restricts="1")
    ran = machine.run(*arguments)
    assert ran.returncode == 1
    assert ran.stderr.startswith("tools/allow-user-namespaces: ")
    assert (machine.called, machine.profiles) == ([], [])
