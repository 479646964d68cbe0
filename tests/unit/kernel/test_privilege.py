"""What a person is told when the machine refuses to make a lab."""

from __future__ import annotations

import errno

import pytest

from labctl.kernel.privilege import NEEDED, Readings, Stage, diagnose, needs_user_namespace

ALL = sum(1 << capability for capability in NEEDED)


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


def test_a_refusal_says_what_was_attempted_by_whom_and_what_came_back() -> None:
    text = diagnose(Readings(1000), Stage.USER_NAMESPACE, errno.EPERM)
    assert text.startswith("lab: cannot make a user namespace as an ordinary user: EPERM, Operation not permitted.")


def test_root_with_its_capabilities_needs_no_user_namespace() -> None:
    assert not needs_user_namespace(0, ALL)


@pytest.mark.parametrize("missing", NEEDED)
def test_root_without_any_one_of_them_needs_a_user_namespace(missing: int) -> None:
    assert needs_user_namespace(0, ALL & ~(1 << missing))


def test_an_ordinary_user_needs_a_user_namespace() -> None:
    assert needs_user_namespace(1000, 0)
