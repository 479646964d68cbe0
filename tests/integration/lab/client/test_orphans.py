"""A lab whose directory is deleted while it runs ends, or is found and ended; nothing of it stays on the machine."""

from __future__ import annotations

import os
import select
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.errors import InputError
from labctl.lab.client import orphans, registry, state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.client.lab_directory import LAST_WORDS, NETNS_DIRECTORY
from tests.integration.detached import WAIT_S, becomes, boot_of, keeper_of, name_of_lab, running
from tests.labs import pair_plan
from tests.skips import for_root

root_only = for_root("names on the machine")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def lab() -> Iterator[str]:
    """A running lab; the test ends it."""
    name = name_of_lab()
    with Lab.up(pair_plan(), name, source="pair") as lab:
        lab.stay()
    yield name
    for orphan in orphans.orphans():
        orphans.end(orphan)


def ends(*pids: int) -> bool:
    pidfds = [os.pidfd_open(pid) for pid in pids]
    try:
        return all(select.select([pidfd], [], [], WAIT_S)[0] for pidfd in pidfds)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def names_of(lab: str) -> list[str]:
    if not os.path.isdir(NETNS_DIRECTORY):
        return []
    return [name for name in os.listdir(NETNS_DIRECTORY) if name.startswith(f"{lab}-")]


@pytest.mark.parametrize("deleted", ["state", "state/LAB", "state/LAB/lock", "state/LAB/socket"])
def test_a_lab_ends_when_its_directory_is_deleted(lab: str, deleted: str, tmp_path: Path) -> None:
    keeper = keeper_of(lab)
    boot = boot_of(keeper)
    path = tmp_path / deleted.replace("LAB", lab)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert ends(keeper, boot)
    assert names_of(lab) == []
    assert state_dir.labs() == []
    assert orphans.orphans() == []
    registry.sweep()


def test_a_stopped_lab_without_a_directory_is_found_and_ended(lab: str, state: Path) -> None:
    keeper = keeper_of(lab)
    boot = boot_of(keeper)
    os.kill(keeper, signal.SIGSTOP)
    shutil.rmtree(state)
    assert orphans.orphans() == [orphans.Orphan(lab, boot)]
    registry.take_down(lab)
    assert names_of(lab) == []
    with pytest.raises(InputError, match="No lab named"):
        registry.take_down(lab)


@root_only
def test_names_of_killed_processes_are_removed_when_the_record_of_them_is_gone(lab: str, state: Path) -> None:
    keeper = keeper_of(lab)
    boot = boot_of(keeper)
    shutil.rmtree(state)
    pidfds = [os.pidfd_open(pid) for pid in (boot, keeper)]
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert all(select.select([pidfd], [], [], WAIT_S)[0] for pidfd in pidfds)
    for pidfd in pidfds:
        os.close(pidfd)
    assert sorted(names_of(lab)) == [f"{lab}-client", f"{lab}-server"]
    assert {f"{NETNS_DIRECTORY}/{lab}-{node}" for node in ("client", "server")} <= set(registry.sweep())
    assert names_of(lab) == []


@root_only
def test_names_that_lead_to_a_namespace_or_are_others_stay(state: Path) -> None:
    own = f"{name_of_lab()}-own"
    other = f"{name_of_lab()}-other"
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY)
    os.makedirs(NETNS_DIRECTORY, exist_ok=True)
    try:
        os.symlink(f"/proc/{os.getpid()}/fd/{descriptor}", f"{NETNS_DIRECTORY}/{own}")
        os.symlink("/nonexistent", f"{NETNS_DIRECTORY}/{other}")
        registry.sweep()
        assert {own, other} <= set(os.listdir(NETNS_DIRECTORY))
    finally:
        for name in (own, other):
            os.unlink(f"{NETNS_DIRECTORY}/{name}")
        os.close(descriptor)


def test_a_registered_lab_is_no_orphan() -> None:
    with running():
        assert orphans.orphans() == []


def test_why_a_keeper_failed_is_reported_once(lab: str, state: Path) -> None:
    keeper = keeper_of(lab)
    (state / lab / LAST_WORDS).write_text("Traceback: it was so\n")  # as its interpreter would
    os.kill(keeper, signal.SIGKILL)
    assert becomes(lambda: not state_dir.labs())
    reports: list[str] = []
    registry.sweep(reports.append)
    assert reports == [f"lab {lab}: its keeper has failed, and the lab with it. Its last words:\nTraceback: it was so"]
    registry.sweep(reports.append)
    assert len(reports) == 1
