"""The directories that packages want in /run: as tmpfiles.d(5) and systemd.exec(5) write them."""

from __future__ import annotations

from pathlib import Path

from labctl.lab.keeper.file_tree import LOCK, RunDirectory, run_directories


def test_lines_of_tmpfiles_that_make_directories_in_run_count(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/server.conf").write_text(
        "# a comment\n"
        "d /run/server 0750 daemon adm -\n"
        "D! /var/run/other/deep - - - -\n"
        "d /run/plain\n"
        "d /var/lib/server 0755 root root -\n"
        "f /run/file 0644 root root - text\n"
        "d /run/%u 0755\n"
        "d /run/systemd/x 0755\n"
        "d /run/../etc 0755\n"
        "d /run/odd :0711 daemon\n"
    )
    (tmp_path / "lib/replaced.conf").write_text("d /run/replaced\n")
    (tmp_path / "etc/replaced.conf").write_text("d /run/instead 1777 root root\n")
    found = run_directories((str(tmp_path / "etc"), str(tmp_path / "lib"), str(tmp_path / "none")), (), "")
    assert found == (
        RunDirectory("/run/instead", 0o1777),
        LOCK,
        RunDirectory("/run/odd", 0o711, "daemon"),
        RunDirectory("/run/other/deep"),
        RunDirectory("/run/plain"),
        RunDirectory("/run/server", 0o750, "daemon:adm"),
    )


def test_runtime_directories_of_services_count(tmp_path: Path) -> None:
    (tmp_path / "ssh.service").write_text("[Service]\nRuntimeDirectory=sshd\nRuntimeDirectoryMode=0755\n")
    (tmp_path / "redis@.service").write_text(
        "[Service]\nUser=redis\nGroup=redis\nRuntimeDirectory=redis-%i redis:link\n"
    )
    (tmp_path / "systemd-x.service").write_text("[Service]\nRuntimeDirectory=systemd/x\n")
    (tmp_path / "plain.service").write_text("[Service]\nExecStart=/bin/true\n")
    (tmp_path / "strange.service").write_bytes(b"\xff\nRuntimeDirectory=a/b ../x\nRuntimeDirectoryMode=9\n")
    found = run_directories((), (str(tmp_path),), "")
    assert found == (
        RunDirectory("/run/a/b"),
        LOCK,
        RunDirectory("/run/redis", 0o755, "redis:redis"),
        RunDirectory("/run/sshd"),
    )


def test_directories_that_services_make_before_they_start_count(tmp_path: Path) -> None:
    (tmp_path / "mosquitto.service").write_text(
        "[Service]\n"
        "ExecStartPre=/bin/mkdir -m 740 -p /var/log/mosquitto\n"
        "ExecStartPre=-/bin/mkdir -m 740 -p /run/mosquitto\n"
        "ExecStartPre=/bin/chown mosquitto:mosquitto /run/mosquitto\n"
        "ExecStartPre=mkdir -p /var/run/plain -m\n"
        "ExecStartPre=\n"
    )
    found = run_directories((), (str(tmp_path),), "")
    assert found == (
        LOCK,
        RunDirectory("/run/mosquitto", 0o740, "mosquitto:mosquitto"),
        RunDirectory("/run/plain"),
    )


def test_homes_of_accounts_count(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text(
        "bird:x:108:116::/run/bird:/usr/sbin/nologin\nroot:x:0:0:root:/root:/bin/sh\n\nodd:x\n"
        "rpc:x:107:65534::/var/run/rpcbind:/bin/false\nd:x:1:1::/run/systemd:/bin/false\n"
    )
    found = run_directories((), (), str(tmp_path / "passwd"))
    assert found == (
        RunDirectory("/run/bird", 0o755, "108:116"),
        LOCK,
        RunDirectory("/run/rpcbind", 0o755, "107:65534"),
    )
    assert run_directories((), (), str(tmp_path / "none")) == (LOCK,)
