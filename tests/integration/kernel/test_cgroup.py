"""Control groups where this process may create them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.errors import KernelError, LabImpossible
from labctl.kernel import cgroup, processes
from labctl.kernel.cgroup import Controller


def parent_for(controller: Controller) -> cgroup.Parent:
    try:
        (parent,) = cgroup.find_parents([controller])
    except LabImpossible as error:
        pytest.skip(str(error))
    return parent


@pytest.mark.parametrize("controller", Controller)
def test_a_process_that_enters_a_group_is_in_it_and_the_group_goes_after_it(controller: Controller) -> None:
    parent = parent_for(controller)
    base = cgroup.make_base(parent, f"labctl-test-{os.getpid()}")
    try:
        descriptor = cgroup.make_group(base, parent, "node", pids=50, memory_bytes=2**26, cpu=0.5)
        assert descriptor is not None
        pid = processes.fork(lambda: cgroup.enter([descriptor]))
        assert os.waitpid(pid, 0)[1] == 0
        os.close(descriptor)
        files = {path.name for path in Path(base, "node").iterdir()}
        assert any(name.startswith(f"{controller}.") for name in files)
    finally:
        cgroup.remove_base(base)
    assert not os.path.exists(base)


def test_a_group_without_limits_for_its_controllers_is_not_created(tmp_path: Path) -> None:
    parent = cgroup.Parent(str(tmp_path), 2, (Controller.PIDS,))
    assert cgroup.make_group(str(tmp_path), parent, "node", pids=None, memory_bytes=1, cpu=1.0) is None
    assert list(tmp_path.iterdir()) == []


def test_an_error_names_the_limit_that_cannot_be_set(tmp_path: Path) -> None:
    parent = cgroup.Parent(str(tmp_path), 2, (Controller.PIDS,))  # no cgroup file system: without pids.max
    with pytest.raises(KernelError, match=rf"control group {tmp_path}/node: cannot set pids.max=5: ENOENT"):
        cgroup.make_group(str(tmp_path), parent, "node", pids=5, memory_bytes=None, cpu=None)


def test_removing_a_group_that_does_not_exist_does_nothing(tmp_path: Path) -> None:
    cgroup.remove_base(str(tmp_path / "none"))
