"""Labs that stay: made, described, changed, and left by the process that made them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from labctl import topology
from labctl.errors import InputError, KernelError, LabError
from labctl.lab.client import registry, state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.client.lab_directory import NETNS_DIRECTORY
from labctl.plan.build import build
from labctl.plan.operations import Plan, SetSysctl
from labctl.structs import replace
from tests.integration.detached import (
    WAIT_S,
    becomes,
    boot_of,
    name_of_lab,
    python,
    running,
)
from tests.labs import output, pair_plan, shell

pytestmark = pytest.mark.usefixtures("state")


def test_a_lab_stays_when_the_handle_that_made_it_is_closed(state: Path) -> None:
    with running() as name:
        assert state_dir.labs() == [name]
        with Lab.attach(name) as lab:
            assert lab.nodes == ("client", "server")
            assert output(lab, "server", "hostname") == "server\n"
        with Lab.attach() as lab:
            assert shell(lab, "client", "ping -c1 -w5 10.0.0.2 >/dev/null && echo there") == "there\n"
    assert state_dir.labs() == []


def test_a_lab_outlives_the_process_that_made_it(state: Path) -> None:
    name = name_of_lab()
    script = (
        "import sys; from labctl.lab.client.handle import Lab; from tests.labs import pair_plan\n"
        "lab = Lab.up(pair_plan(), sys.argv[1]); lab.stay()"
    )
    with python(script, name) as process:
        assert process.wait(WAIT_S) == 0
    with Lab.attach(name) as lab:
        keeper = lab.describe().keeper_pid
        assert os.getsid(keeper) == os.getsid(boot_of(keeper)) != os.getsid(0)
        assert os.readlink(f"/proc/{keeper}/fd/1") == "/dev/null"
        lab.down()
    assert not Path(f"/proc/{keeper}").exists()


def test_a_lab_that_is_never_told_to_stay_ends_with_its_handle(state: Path) -> None:
    with Lab.up(pair_plan(), name_of_lab()) as lab:
        assert output(lab, "server", "hostname") == "server\n"
        assert state_dir.labs() == []
    assert os.listdir(state) == []


def test_a_description_tells_what_the_lab_is() -> None:
    with running() as name, Lab.attach(name) as lab:
        output(lab, "server", "true")
        told = lab.describe()
        assert (told.name, told.topology, told.uid, told.source) == (name, "pair", os.geteuid(), "pair")
        assert told.plan == pair_plan()
        assert told.rootless == (os.geteuid() != 0)
        assert [(node.name, node.kind, bool(node.init_pid)) for node in told.nodes] == [
            ("client", "host", False),
            ("server", "host", True),
        ]
        assert Path(f"/proc/{told.nodes[1].init_pid}/comm").read_text() == "labctl-init\n"
        assert abs(told.started_at - time.time()) < 60


def test_a_name_in_use_is_told_with_what_to_do() -> None:
    with running() as name:
        with pytest.raises(InputError, match=rf"lab {name}: is running already.*reconciles.*--name.*labctl down"):
            Lab.up(pair_plan(), name)
        assert state_dir.labs() == [name]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-o", "x" * 33, "a b", "1"])
def test_a_bad_name_is_refused_before_anything_is_made(name: str, state: Path) -> None:
    with pytest.raises(InputError):
        Lab.up(pair_plan(), name)
    with pytest.raises(InputError):
        Lab.attach(name)
    with pytest.raises(InputError):
        registry.take_down(name)
    assert not state.exists() or os.listdir(state) == []


def test_a_lab_that_cannot_be_built_leaves_nothing_and_the_name_is_free(state: Path) -> None:
    from labctl.plan.operations import SetUp

    name = name_of_lab()
    with pytest.raises(KernelError, match="server:eth0"):
        Lab.up(pair_plan(more=[*pair_plan().operations[2:3]]), name)
    assert os.listdir(state) == []
    with running(pair_plan(more=[SetUp("server", "eth0")]), name):
        assert state_dir.labs() == [name]


def plan_of(tmp_path: Path, *hosts: str) -> Plan:
    """Hosts around a switch, as a file describes them."""
    lines = "\n".join(f"  {host}: {{}}" for host in hosts)
    links = "\n".join(f"  - [{host}, sw]" for host in hosts)
    path = tmp_path / "topology.yaml"
    path.write_text(f"hosts:\n{lines}\nswitches: {{sw: {{}}}}\nlinks:\n{links}\n")
    return build(topology.load(path))


@pytest.mark.stock_kernel
def test_a_running_lab_is_changed_to_another_plan(tmp_path: Path) -> None:
    with running(plan_of(tmp_path, "a", "b")) as name, Lab.attach(name) as lab, Lab.attach(name) as other:
        staying = lab.spawn("a", ["sleep", "1000"])
        leaving = lab.spawn("b", ["sleep", "1000"])
        lab.start_process("b", ["sleep", "1000"], name="service")
        new = plan_of(tmp_path, "a", "c")
        lab.reconcile(new, source="edited")
        assert leaving.wait(WAIT_S) == -9
        assert staying.wait(0) is None
        assert lab.nodes == tuple(node.name for node in new.nodes)
        assert output(other, "c", "hostname") == "c\n"
        assert shell(other, "a", "ping -c1 -w5 c >/dev/null && echo there") == "there\n"
        with pytest.raises(LabError, match="no node b"):
            output(other, "b", "true")
        told = other.describe()
        assert (told.plan, told.source) == (new, "edited")
        assert becomes(lambda: [each.node for each in lab.processes()] == ["a"])
        if os.geteuid() == 0:
            names = {each for each in os.listdir(NETNS_DIRECTORY) if each.startswith(f"{name}-")}
            assert names == {f"{name}-a", f"{name}-c", f"{name}-sw"}
            assert subprocess.run(["ip", "netns", "exec", f"{name}-c", "true"], check=False).returncode == 0
        for process in (staying, leaving):
            process.close()


def test_a_change_that_is_refused_leaves_the_lab_and_its_plan_as_they_were(tmp_path: Path) -> None:
    before = plan_of(tmp_path, "a", "b")
    with running(before) as name, Lab.attach(name) as lab:
        new = plan_of(tmp_path, "a", "b", "c")
        with pytest.raises(KernelError):
            lab.reconcile(replace(new, operations=(*new.operations, SetSysctl("c", "net.ipv4.nosuch", "1"))))
        assert lab.describe().plan == before
        assert shell(lab, "a", "ping -c1 -w5 b >/dev/null && echo there") == "there\n"
        with pytest.raises(LabError, match="no node c"):
            output(lab, "c", "true")
        lab.reconcile(new)
        assert output(lab, "c", "hostname") == "c\n"
