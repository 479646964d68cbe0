"""System calls that Python lacks: their effects, and OSError with errno and path."""

from __future__ import annotations

import errno
import os
import select
import socket
from pathlib import Path
from time import monotonic

import pytest

from labctl.kernel import syscalls
from tests.integration.inside import inside


def test_a_refused_mount_is_an_oserror_with_the_path() -> None:
    with pytest.raises(OSError, match="/no/such/directory") as caught:
        syscalls.mount("none", "/no/such/directory", "tmpfs")
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)


def test_a_namespace_cannot_be_entered_by_a_descriptor_of_something_else() -> None:
    with open("/dev/null") as file, pytest.raises(OSError, match="Invalid argument"):
        syscalls.setns(file.fileno(), syscalls.CLONE_NEWNET)


@inside
def test_the_hostname_is_that_of_the_uts_namespace() -> None:
    syscalls.unshare(syscalls.CLONE_NEWUTS)
    syscalls.sethostname("h1")
    assert socket.gethostname() == "h1"


@inside
def test_a_process_has_the_first_15_bytes_of_its_name() -> None:
    syscalls.set_process_name("a-rather-long-name")
    assert Path("/proc/self/comm").read_text() == "a-rather-long-n\n"


def test_a_timer_is_readable_from_its_time_on() -> None:
    until = monotonic() + 0.02
    descriptor = syscalls.timer(until)
    try:
        assert select.select([descriptor], [], [], 10)[0] == [descriptor]
        assert monotonic() >= until
    finally:
        os.close(descriptor)


@inside
def test_dropped_capabilities_are_in_no_set() -> None:
    made = syscalls.drop_capabilities(None)
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if "Cap" in line)
    assert (made.returned, made.errno) == (0, 0)
    assert {int(value, 16) for name, value in status.items() if name != "CapBnd"} == {0}


def test_a_setting_is_written_to_an_existing_file_only(tmp_path: Path) -> None:
    path = tmp_path / "setting"
    with pytest.raises(FileNotFoundError):
        syscalls.write_once(str(path), "1")
    path.write_text("0\n")
    syscalls.write_once(str(path), "1\n")
    assert path.read_text() == "1\n"
