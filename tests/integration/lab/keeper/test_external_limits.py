"""`limits`: what the programs of a host may have together, where this machine allows control groups."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.errors import KernelError, MachineError
from labctl.kernel import cgroup
from labctl.kernel.cgroup import Controller
from labctl.lab.client.handle import Lab
from labctl.plan.operations import Plan, SetSysctl
from labctl.structs import replace
from tests.integration.machine import holds, plan_of, processes_of
from tests.labs import output, run
from tests.skips import for_machines_without, needs_feature

pytestmark = pytest.mark.stock_kernel
GROUPS = Path("/sys/fs/cgroup")


def allowed(*controllers: Controller) -> bool:
    try:
        cgroup.find_parents(controllers)
    except MachineError:
        return False
    return True


def needs(controller: Controller) -> pytest.MarkDecorator:
    return needs_feature(f"cgroup-{controller}", allowed(controller), "no control group to be had")


def plan_with(limits: str) -> Plan:
    return plan_of(f"hosts: {{a: {{limits: {{{limits}}}}}, tasks: {{}}}}\nlinks: [[a, tasks]]")


def limited(limits: str) -> Lab:
    return Lab.open(plan_with(limits))


@pytest.fixture(autouse=True)
def no_group_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path))
    before = set(groups())
    yield
    assert holds(lambda: set(groups()) <= before)
    records = tmp_path / "@outside"
    assert not records.exists() or holds(lambda: not list(records.iterdir()))


def groups() -> list[str]:
    return [directory for directory, _, _ in os.walk(GROUPS) if "/labctl-" in directory]


@needs(Controller.PIDS)
def test_the_record_is_in_the_state_directory_that_the_environment_names_now(tmp_path: Path) -> None:
    with limited("pids: 30"):
        assert list((tmp_path / "@outside").iterdir())


@needs(Controller.PIDS)
def test_a_fork_bomb_is_bounded_and_other_hosts_go_on() -> None:
    with limited("pids: 30") as lab:
        bomb = lab.spawn("a", ["sh", "-c", "bomb() { bomb | bomb & }; bomb; exec sleep 100"])
        assert holds(lambda: pids_in("node-a") >= 25)
        assert pids_in("node-a") <= 30
        assert output(lab, "tasks", "echo", "fine") == "fine\n"
        assert output(lab, "a", "true") == ""  # an entrance stays: what is full only refuses to fork
        bomb.close()


def pids_in(name: str) -> int:
    found = [Path(directory, "cgroup.procs").read_text() for directory in groups() if directory.endswith(f"/{name}")]
    return max((len(text.split()) for text in found), default=0)


@needs(Controller.PIDS)
def test_every_program_of_the_host_is_in_its_group_and_none_of_another() -> None:
    with limited("pids: 30") as lab:
        assert "/node-a" in output(lab, "a", "cat", "/proc/self/cgroup")
        assert "/node-" not in output(lab, "tasks", "cat", "/proc/self/cgroup")


@needs(Controller.PIDS)
def test_limits_of_a_running_lab_change() -> None:
    with limited("pids: 30") as lab:
        output(lab, "a", "true")

        def most() -> set[str]:
            found = [Path(directory, "pids.max") for directory in groups() if directory.endswith("/node-a")]
            return {path.read_text().strip() for path in found if path.exists()}

        assert most() == {"30"}
        lab.reconcile(plan_with("pids: 40"))
        assert most() == {"40"}
        refused = plan_with("pids: 50")
        with pytest.raises(KernelError):
            lab.reconcile(replace(refused, operations=(*refused.operations, SetSysctl("a", "net.core.nosuch", "1"))))
        assert most() == {"40"}
        lab.reconcile(plan_with(""))
        assert most() == {"max"}


@needs(Controller.MEMORY)
def test_a_program_that_takes_too_much_memory_is_ended() -> None:
    with limited("memory: 64MiB") as lab:
        assert run(lab, "a", "python3", "-c", "bytearray(200 << 20)").status == -signal.SIGKILL
        assert run(lab, "tasks", "python3", "-c", "bytearray(200 << 20)").status == 0


@needs(Controller.CPU)
def test_a_program_gets_no_more_of_the_processor() -> None:
    busy = (
        "import time\nstart, used = time.monotonic(), time.process_time()\nwhile time.monotonic() < start + 1: pass\n"
        "print((time.process_time() - used) / (time.monotonic() - start))"
    )
    with limited('cpu: "20%"') as lab:
        assert float(output(lab, "a", "python3", "-c", busy)) < 0.5


@needs(Controller.PIDS)
@pytest.mark.parametrize("killed", ["keeper", "boot"])
def test_no_group_is_left_whatever_is_killed(killed: str) -> None:
    lab = limited("pids: 30")
    lab.spawn("a", ["sleep", "1000"]).close()
    assert holds(lambda: killed in processes_of(lab))
    os.kill(processes_of(lab)[killed], signal.SIGKILL)
    lab.close()


@for_machines_without("control groups", is_there=allowed(*Controller))
def test_a_machine_without_control_groups_is_an_error_with_a_remedy() -> None:
    started = time.monotonic()
    with pytest.raises(MachineError, match=r"cannot limit its hosts: .* Try: "):
        limited("pids: 30, memory: 64MiB, cpu: 50%")
    assert time.monotonic() - started < 10
