"""What a host looks like from inside: its own names, files, processes and devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.errors import KernelError, LabError
from labctl.lab.client.handle import Lab
from tests.labs import keeper_of, output, pair_plan, run, shell
from tests.skips import for_root


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


def test_a_host_has_its_own_name(lab: Lab) -> None:
    assert (output(lab, "client", "hostname"), output(lab, "server", "hostname")) == ("client\n", "server\n")


def test_every_node_is_known_by_name_over_both_families(lab: Lab) -> None:
    assert "10.0.0.2" in output(lab, "client", "getent", "ahostsv4", "server")
    assert "fd00::2" in output(lab, "client", "getent", "ahostsv6", "server")


def test_etc_hosts_has_localhost_and_the_plans_names(lab: Lab) -> None:
    lines = [line.split() for line in output(lab, "client", "cat", "/etc/hosts").splitlines()]
    assert ["127.0.0.1", "localhost"] in lines
    assert ["fd00::2", "server"] in lines


def test_a_host_may_edit_its_own_etc_hosts(lab: Lab) -> None:
    before = Path("/etc/hosts").read_bytes()
    shell(lab, "client", "echo 192.0.2.1 elsewhere >> /etc/hosts")
    assert "192.0.2.1" in output(lab, "client", "getent", "hosts", "elsewhere")
    assert run(lab, "server", "getent", "hosts", "elsewhere").status != 0
    assert Path("/etc/hosts").read_bytes() == before


def test_no_name_server_is_asked(lab: Lab) -> None:
    assert "nameserver" not in output(lab, "client", "cat", "/etc/resolv.conf")


def test_files_in_tmp_run_and_dev_shm_are_the_hosts_own(lab: Lab) -> None:
    for place in ("/tmp", "/run", "/dev/shm"):
        shell(lab, "server", f"echo mine > {place}/labctl-test-file")
        assert run(lab, "client", "cat", f"{place}/labctl-test-file").status != 0
        assert not Path(place, "labctl-test-file").exists()


def test_tmp_may_be_written_by_everybody_and_is_sticky(lab: Lab) -> None:
    assert output(lab, "server", "stat", "-c", "%a", "/tmp", "/dev/shm", "/run").split() == ["1777", "1777", "755"]


@pytest.mark.stock_kernel
def test_a_host_sees_only_its_own_processes(lab: Lab) -> None:
    process = lab.spawn("server", ["sleep", "1000"])
    assert "sleep" not in shell(lab, "client", "cat /proc/[0-9]*/comm")
    assert shell(lab, "server", "cat /proc/[0-9]*/comm").splitlines()[:2] == ["labctl-init", "sleep"]
    process.signal(9)
    process.wait()
    process.close()


def test_a_host_sees_only_its_own_interfaces(lab: Lab) -> None:
    assert sorted(output(lab, "server", "ls", "/sys/class/net").split()) == ["eth0", "lo"]


@for_root("runs programs as other users")
def test_other_users_of_a_lab_get_along_with_any_umask_of_its_owner() -> None:
    before = os.umask(0o077)
    try:
        with Lab.open(pair_plan()) as lab:
            lab.put_file("bin/shared", b"#!/bin/sh\numask\n", 0o755)
            read = "ls /var/lib /dev/null /usr/bin; cat /etc/hosts /etc/resolv.conf"
            script = f"{read}; echo x > /tmp/x; echo x > /dev/shm/x; shared"
            finished = run(lab, "client", "sh", "-ec", script, user="nobody")
            assert finished.status == 0, finished.output
            assert finished.output.endswith("\n0077\n")  # a program has the owner's
    finally:
        os.umask(before)


@pytest.mark.stock_kernel
def test_a_host_has_mounts_without_devices_and_setuid(lab: Lab) -> None:
    mounts = [line.split() for line in output(lab, "server", "cat", "/proc/self/mounts").splitlines()]
    on_top = {where: options.split(",") for _, where, _, options, *_ in mounts}
    for where in ("/", "/dev/shm", "/run/lab", "/proc", "/sys", "/etc/hosts", "/etc/resolv.conf"):
        assert {"nosuid", "nodev"} <= set(on_top[where]), where


def test_the_machines_files_are_there(lab: Lab) -> None:
    assert output(lab, "server", "cat", "/etc/passwd") == Path("/etc/passwd").read_text()


def test_a_file_of_the_shared_directory_is_on_every_host_and_its_programs_come_first(lab: Lab) -> None:
    assert lab.put_file("bin/hostname", b"#!/bin/sh\necho instead on $LABCTL_NODE\n", 0o755) == "/run/lab/bin/hostname"
    assert output(lab, "server", "hostname") == "instead on server\n"
    assert output(lab, "client", "hostname") == "instead on client\n"
    lab.put_file("bin/hostname", b'#!/bin/sh\nexec /bin/hostname "$@"\n', 0o755)
    assert output(lab, "client", "hostname") == "client\n"


def test_the_shared_directory_cannot_be_written_by_hosts(lab: Lab) -> None:
    assert "Read-only file system" in run(lab, "server", "touch", "/run/lab/x").output


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "bin/"])
def test_a_shared_file_stays_in_the_shared_directory(lab: Lab, name: str) -> None:
    with pytest.raises(LabError, match="outside /run/lab"):
        lab.put_file(name, b"")


def test_a_large_shared_file_arrives_whole(lab: Lab) -> None:
    data = os.urandom(5_000_000)
    path = lab.put_file("large", data)
    assert output(lab, "server", "wc", "-c", path).split()[0] == "5000000"


def test_a_file_is_opened_as_the_host_sees_it(lab: Lab) -> None:
    shell(lab, "server", "echo only here > /tmp/note")
    descriptor = lab.open_file("server", "/tmp/note")
    assert (os.read(descriptor, 100), os.get_inheritable(descriptor)) == (b"only here\n", False)
    os.close(descriptor)
    with pytest.raises(KernelError, match="host client: cannot open /tmp/note: ENOENT"):
        lab.open_file("client", "/tmp/note")


def test_a_file_can_be_made_on_a_host(lab: Lab) -> None:
    descriptor = lab.open_file("server", "/tmp/made", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, b"made")
    os.close(descriptor)
    assert output(lab, "server", "cat", "/tmp/made") == "made"


@pytest.mark.stock_kernel
def test_counters_are_those_of_the_hosts_network_stack(lab: Lab) -> None:
    descriptor = lab.open_file("server", "/proc/net/dev")
    devices = os.read(descriptor, 4096).decode()
    os.close(descriptor)
    assert "eth0:" in devices
    assert Path("/proc/net/dev").read_text() != devices


def test_counters_of_an_idle_host_need_no_process_there() -> None:
    with Lab.open(pair_plan()) as lab:
        os.close(lab.open_file("server", "/proc/net/netstat"))
        os.close(lab.open_file("server", "/proc/sys/net/core/somaxconn"))
        keeper = keeper_of(lab)
        assert Path(f"/proc/{keeper}/task/{keeper}/children").read_text() == ""


def test_a_fifo_nobody_writes_does_not_hold_up_the_lab(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    shell(lab, "server", "mkfifo /tmp/fifo")
    with pytest.raises(KernelError, match="cannot open /tmp/fifo: ETIMEDOUT"):
        lab.open_file("server", "/tmp/fifo")
    assert output(lab, "server", "echo", "goes on") == "goes on\n"


def test_a_path_below_tmp_stays_visible_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "file").write_text("seen")
    (tmp_path / "hidden").mkdir()
    with Lab.open(pair_plan(), visible_paths=[tmp_path / "shown", tmp_path / "nosuch"]) as lab:
        assert output(lab, "server", "cat", f"{tmp_path}/shown/file") == "seen"
        assert output(lab, "server", "ls", str(tmp_path)) == "shown\n"
        shell(lab, "server", f"echo back > {tmp_path}/shown/answer")
    assert (tmp_path / "shown" / "answer").read_text() == "back\n"


def test_a_path_below_tmp_stays_visible_under_the_name_it_was_given_by(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("seen")
    (tmp_path / "link").symlink_to("real")
    with Lab.open(pair_plan(), visible_paths=[tmp_path / "link"]) as lab:
        assert output(lab, "server", "cat", f"{tmp_path}/link/file", f"{tmp_path}/real/file") == "seenseen"


def test_the_owners_working_directory_is_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Lab.open(pair_plan()) as lab:
        assert output(lab, "server", "pwd") == f"{tmp_path}\n"


def test_a_working_directory_that_was_deleted_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    with Lab.open(pair_plan()) as lab:
        assert output(lab, "server", "pwd") == "/\n"


def test_a_tmpdir_that_hosts_cannot_see_is_not_in_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Lab.open(pair_plan()) as lab:
        assert shell(lab, "server", "echo ${TMPDIR-none}") == "none\n"
