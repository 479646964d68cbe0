"""Machines that refuse: the message says what, and what to change. The limits of a user namespace make each machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]

CONFINED = """
import sys
from labctl.errors import LabctlError
from labctl.kernel import privilege, syscalls
from labctl.lab.client.handle import Lab
from tests.labs import output, pair_plan
import os
privilege._enter_user_namespace(os.geteuid(), os.getegid())
{preparation}
try:
    with Lab.open(pair_plan()) as lab:
        output(lab, "server", "true")
except LabctlError as error:
    print(f"{{type(error).__name__}} {{error.exit_status}}: {{error}}")
else:
    print("opened")
"""

LIMIT = "open('/proc/sys/user/max_{kind}_namespaces', 'w').write('{limit}')"
MASK = "syscalls.unshare(syscalls.CLONE_NEWNS); syscalls.mount('tmpfs', '{path}', 'tmpfs')\n"  # as containers do
ORDINARY = "import ctypes; ctypes.CDLL(None).prctl(24, 21)\n"  # PR_CAPBSET_DROP of CAP_SYS_ADMIN, lost at the exec


def opening(preparation: str) -> str:
    """What comes of opening a lab as the root of a user namespace in which `preparation` was run."""
    finished = subprocess.run(
        [sys.executable, "-c", CONFINED.format(preparation=preparation)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return finished.stdout.strip()


def test_root_of_a_user_namespace_has_labs() -> None:
    assert opening("") == "opened"


@pytest.mark.parametrize("kind", ["net", "pid", "mnt"])
def test_a_kind_of_namespace_that_is_switched_off_is_named(kind: str) -> None:
    said = opening(LIMIT.format(kind=kind, limit=0))
    assert said.startswith("MachineError 3: lab: cannot make the lab's namespaces as root: ENOSPC")
    assert f"sudo sysctl user.max_{kind}_namespaces=10000" in said


def test_without_capabilities_a_user_namespace_is_used() -> None:
    assert opening(ORDINARY) == "opened"


def test_without_capabilities_and_user_namespaces_the_setting_is_named() -> None:
    said = opening(LIMIT.format(kind="user", limit=0) + "\n" + ORDINARY)
    assert said.startswith("MachineError 3: lab: cannot make a user namespace as root: ENOSPC")
    assert "sudo sysctl user.max_user_namespaces=10000" in said


@pytest.mark.parametrize("kind", ["net", "mnt", "uts"])
def test_without_capabilities_the_limit_outside_the_new_user_namespace_is_named(kind: str) -> None:
    said = opening(LIMIT.format(kind=kind, limit=0) + "\n" + ORDINARY)
    assert said.startswith("MachineError 3: lab: cannot make the lab's namespaces as root: ENOSPC")
    assert f"sudo sysctl user.max_{kind}_namespaces=10000" in said


def test_a_masked_proc_is_an_error_with_a_remedy() -> None:
    said = opening(MASK.format(path="/proc/fs") + ORDINARY)
    assert said.startswith("MachineError 3: lab pair: cannot mount /proc in a user namespace: EPERM")
    assert "systempaths=unconfined" in said


def test_a_masked_sys_is_no_obstacle() -> None:
    assert opening(MASK.format(path="/sys/fs") + ORDINARY) == "opened"


def test_a_limit_on_network_namespaces_that_is_reached_while_building_fails_the_operation() -> None:
    said = opening(LIMIT.format(kind="net", limit=2))
    assert said.startswith("MachineError 3: node server: cannot make the host's network namespace: ENOSPC")
    assert "max_net_namespaces" in said


@pytest.mark.parametrize("limit", [5, 9, 11])
def test_too_few_descriptors_are_an_error_with_a_remedy(limit: int) -> None:
    said = opening(f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))")
    assert "EMFILE" in said
    assert "ulimit -n" in said


if os.geteuid() != 0:  # the limit does not hold for root

    def test_too_few_processes_are_an_error_with_a_remedy() -> None:
        said = opening("import resource; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))")
        assert "EAGAIN" in said
        assert "ulimit -u" in said
