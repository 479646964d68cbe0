"""Messages for refused namespaces, by the readings of machines; and subordinate ids."""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path

import pytest

from labctl.kernel import privilege
from labctl.kernel.privilege import (
    MAX_SUBORDINATE_IDS,
    Readings,
    Stage,
    diagnose,
    highest,
    read_grant,
)

UID = os.geteuid()


@pytest.mark.parametrize(
    ("readings", "stage", "number", "remedy"),
    [
        (Readings(1000, unprivileged_userns_clone=0), Stage.USER_NAMESPACE, errno.EPERM, "unprivileged_userns_clone=1"),
        (
            Readings(1000, unprivileged_userns_clone=1, apparmor_restrict_userns=1),
            Stage.IDENTITY,
            errno.EACCES,
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (Readings(1000, apparmor_restrict_userns=1), Stage.NAMESPACES, errno.EPERM, "AppArmor"),
        (Readings(1000, max_user_namespaces=0), Stage.USER_NAMESPACE, errno.ENOSPC, "user.max_user_namespaces=10000"),
        (Readings(0, max_net_namespaces=0), Stage.NAMESPACES, errno.ENOSPC, "user.max_net_namespaces=10000"),
        (Readings(0, max_net_namespaces=5000), Stage.NAMESPACES, errno.ENOSPC, "user.max_net_namespaces=20000"),
        (Readings(0, max_uts_namespaces=0), Stage.NAMESPACES, errno.ENOSPC, "user.max_uts_namespaces=10000"),
        (
            Readings(0, max_net_namespaces=9, max_ipc_namespaces=0),
            Stage.NAMESPACES,
            errno.ENOSPC,
            "ipc_namespaces=10000",
        ),
        (
            Readings(0, max_net_namespaces=9, max_uts_namespaces=2),
            Stage.NAMESPACES,
            errno.ENOSPC,
            "uts_namespaces=20000",
        ),
        (Readings(1000, is_in_chroot=True), Stage.USER_NAMESPACE, errno.EPERM, "in a chroot"),
        (Readings(1000), Stage.USER_NAMESPACE, errno.EUSERS, "nested too deeply"),
        (Readings(1000), Stage.USER_NAMESPACE, errno.EINVAL, "CONFIG_USER_NS"),
        (Readings(1000), Stage.USER_NAMESPACE, errno.ENOSYS, "sandbox"),
        (Readings(0, container=True, seccomp=True), Stage.NAMESPACES, errno.EPERM, "docker run --privileged"),
        (Readings(1000, seccomp=True), Stage.USER_NAMESPACE, errno.EPERM, "--cap-add SYS_ADMIN"),
        (Readings(0), Stage.NAMESPACES, errno.EPERM, "no CAP_SYS_ADMIN"),
        (Readings(1000, selinux_userns=True), Stage.USER_NAMESPACE, errno.EACCES, "SELinux"),
        (Readings(1000), Stage.USER_NAMESPACE, errno.EPERM, "security module"),
    ],
)
def test_a_refusal_names_the_remedy(readings: Readings, stage: Stage, number: int, remedy: str) -> None:
    assert remedy in diagnose(readings, stage, number)


def test_a_refusal_names_the_attempt_the_user_and_the_errno() -> None:
    text = diagnose(Readings(1000), Stage.USER_NAMESPACE, errno.EPERM)
    assert text.startswith("lab: cannot make a user namespace as an ordinary user: EPERM, Operation not permitted.")


# -- subordinate ids


@pytest.fixture
def name() -> str:
    try:
        return pwd.getpwuid(UID).pw_name
    except KeyError:
        pytest.skip("this user has no account")


def granted(directory: Path, uids: str, gids: str) -> privilege.Grant:
    (directory / "subuid").write_text(uids)
    (directory / "subgid").write_text(gids)
    return read_grant(UID, directory=str(directory))


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "_tool", lambda name: f"/usr/bin/{name}")


def test_ranges_are_those_of_the_name_and_of_the_number(name: str, tmp_path: Path) -> None:
    lines = f"other:1:5\n{name}:100000:10\n# {name}:7:7\n{UID}:200000:20\n\nbroken\n{name}:x:5\n{name}:0:9\n"
    grant = granted(tmp_path, lines, f"{name}:300000:65536\n")
    assert grant.uids == ((100_000, 10), (200_000, 20))
    assert grant.gids == ((300_000, MAX_SUBORDINATE_IDS),)
    assert grant.problem == ""


@pytest.mark.parametrize(("uids", "gids", "named"), [("", "x", "subuid"), ("x", "", "subgid"), ("", "", "and")])
def test_a_missing_range_is_named_with_the_remedy(uids: str, gids: str, named: str, name: str, tmp_path: Path) -> None:
    line = f"{name}:100000:65536\n"
    grant = granted(tmp_path, line if uids else "", line if gids else "")
    assert (grant.uids, grant.gids) == ((), ())
    assert named in grant.problem
    assert f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}" in grant.remedy


def test_missing_programs_are_named_with_their_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privilege, "_tool", lambda name: "")
    grant = granted(tmp_path, f"{name}:100000:65536\n", f"{name}:100000:65536\n")
    assert grant.problem == "newuidmap and newgidmap are not installed"
    assert "uidmap" in grant.remedy


def test_a_user_without_an_account_has_no_subordinate_ids(tmp_path: Path) -> None:
    assert "has no account" in read_grant(2**31 + 7, directory=str(tmp_path)).problem


def test_this_process_can_be_root_or_itself_only_up_to_what_its_namespace_maps() -> None:
    first = Path("/proc/self/uid_map").read_text().split()[:3]
    assert highest("uid") >= (int(first[2]) - 1 if first[0] == "0" else -1)
