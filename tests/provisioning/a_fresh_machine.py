"""A freshly installed Debian, provisioned as the Vagrantfile does it. Collected only by tests/provisioning/run."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.provisioning.machine import ROOT, Machine, booted, require

SUITE = os.environ.get("LABCTL_TEST_SUITE", "trixie")
CHECKOUT = "/home/vagrant/labctl"
# What depends on the kernel and on how the machine was started, which are this machine's own here.
NOT_THE_MACHINE_S = ("kernel", "limits")
USERS = ("root", "vagrant")
SHELLS = ("bash", "zsh", "fish")
# Times of access and the link counts of directories change without a change.
TREE = r"find / -xdev -not -path /tmp -not -path '/tmp/*' -printf '%p %y %m %U:%G %s %T@ %l\n' | sort"


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What the two provisionings told, how long they took, and the files before and after the second."""

    machine: Machine
    first: str
    second: str
    first_s: float
    second_s: float
    before: str
    after: str


@pytest.fixture(scope="module")
def provisioned() -> Iterator[Provisioned]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a root file system")
    require("debootstrap", "debootstrap")
    require("nsenter", "util-linux")
    before_all = marks()
    with booted(SUITE) as machine:
        # A box has lists of packages, and a person may have other shells.
        machine.run("apt-get -qq update && apt-get -qq -y --no-install-recommends install zsh fish >/dev/null")
        first, first_s = provision(machine)
        before = machine.run(TREE).stdout
        second, second_s = provision(machine)
        after = machine.run(TREE).stdout
        yield Provisioned(machine, first, second, first_s, second_s, before, after)
    assert marks() == before_all


def marks() -> tuple[bool, str, str, tuple[str, ...]]:
    """What a machine that is not wholly by itself would leave out here: mounts, a host name, users, files."""
    return (
        "labctl-machine" in Path("/proc/self/mountinfo").read_text(),
        os.uname().nodename,
        Path("/etc/passwd").read_text(),
        tuple(path for path in ("/opt/labctl", "/usr/local/bin/labctl", "/.outer") if os.path.lexists(path)),
    )


def provision(machine: Machine) -> tuple[str, float]:
    began = time.monotonic()
    ended = machine.provision("--machine", "vagrant")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr, time.monotonic() - began


def test_the_first_provisioning_says_what_it_changed(provisioned: Provisioned) -> None:
    last = provisioned.first.splitlines()[-1]
    assert last.startswith("tools/provision: changed: packages "), provisioned.first
    assert "labctl in /opt/labctl" in last
    assert "/usr/local/share/zsh/site-functions/_labctl" in last


def test_the_second_provisioning_changes_nothing_and_is_quick(provisioned: Provisioned) -> None:
    assert provisioned.second.splitlines() == ["tools/provision: changed: nothing"]
    assert set(provisioned.after.splitlines()) ^ set(provisioned.before.splitlines()) == set()
    print(f"first {provisioned.first_s:.1f} s, second {provisioned.second_s:.1f} s")  # noqa: T201
    assert provisioned.second_s < 0.2 * provisioned.first_s


def test_no_service_was_started_and_none_is_kept_from_starting(provisioned: Provisioned) -> None:
    running = provisioned.machine.run("cat /proc/[0-9]*/comm 2>/dev/null").stdout.split()
    assert {"nginx", "redis-server", "dbus-daemon"} & set(running) == set()
    assert provisioned.machine.run("test -e /usr/sbin/policy-rc.d", check=False).returncode == 1


@pytest.mark.parametrize("user", USERS)
def test_the_doctor_is_green_in_everything_that_is_the_machine_s(provisioned: Provisioned, user: str) -> None:
    told = json.loads(provisioned.machine.run("labctl doctor --format json", user=user).stdout)
    assert told["can_run_labs"] is True
    wrong = [each for each in told["checks"] if each["state"] not in ("ok", "known")]
    assert [each for each in wrong if each["group"] not in NOT_THE_MACHINE_S] == []
    assert len([each for each in told["checks"] if each["group"] == "programs" and each["state"] == "ok"]) >= 11


@pytest.mark.parametrize("user", USERS)
def test_the_shipped_scenarios_pass(provisioned: Provisioned, user: str) -> None:
    machine = provisioned.machine
    result = f"/tmp/result-{user}.json"
    machine.run(f"cd {CHECKOUT} && labctl run --jobs 2 --json {result} scenarios", user=user)
    told = json.loads(machine.run(f"cat {result}").stdout)
    outcomes = {each["name"]: each for each in told["scenarios"]}
    assert len(outcomes) == len(list((ROOT / "scenarios").glob("**/*.yaml")))
    skipped = {name: each["reason"] for name, each in outcomes.items() if each["outcome"] == "skipped"}
    print(f"{user}: {len(outcomes) - len(skipped)} passed, skipped: {skipped}")  # noqa: T201
    # A program that is missing is the provisioning's fault; a feature of the kernel is not.
    assert [name for name, reason in skipped.items() if "program" in str(reason)] == []


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_knows_the_nodes_of_a_running_lab(provisioned: Provisioned, shell: str) -> None:
    machine = provisioned.machine
    machine.run("touch ~/.hushlogin; echo 'autoload -Uz compinit && compinit -u' >~/.zshrc", user="vagrant")
    machine.run(f"labctl up --topo pair --name {shell}-lab", user="vagrant")
    try:
        for line, expected in (("labctl exec cl", "client"), (f"labctl down {shell}", f"{shell}-lab")):
            argv = ["python3", "-I", f"{CHECKOUT}/tests/provisioning/press_tab.py", shell, line, expected]
            machine.run(shlex.join(argv), user="vagrant")
    finally:
        machine.run(f"labctl down {shell}-lab", user="vagrant")


def test_an_edited_checkout_is_what_runs(provisioned: Provisioned) -> None:
    machine = provisioned.machine
    version = f"{CHECKOUT}/labctl/__init__.py"
    machine.run(
        f"cp -p {version} /tmp/kept && sed -i 's/^__version__ = .*/__version__ = \"9.9.9\"/' {version}", user="vagrant"
    )
    try:
        assert "9.9.9" in machine.run("labctl --version", user="vagrant").stdout
    finally:
        machine.run(f"cp -p /tmp/kept {version}", user="vagrant")


def test_a_machine_for_nobody_is_refused(provisioned: Provisioned) -> None:
    ended = provisioned.machine.provision("--machine", "nobody-has-this-name")
    assert ended.returncode == 1
    assert "no user named nobody-has-this-name on this machine" in ended.stderr


def test_an_ordinary_user_cannot_provision_a_machine(provisioned: Provisioned) -> None:
    ended = provisioned.machine.run(f"{CHECKOUT}/tools/provision --machine vagrant", user="vagrant", check=False)
    assert ended.returncode == 1
    assert "sudo tools/provision --machine vagrant" in ended.stderr
