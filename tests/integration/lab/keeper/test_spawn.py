"""Processes that the keeper forks on a host."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from labctl.errors import KernelError
from labctl.lab.client.handle import Lab
from labctl.lab.keeper.spawn import TASK_TIMEOUT_S
from tests.labs import WAIT_S, pair_plan


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


def working_directory(lab: Lab, cwd: str, *, is_optional: bool) -> str:
    reading, writing = os.pipe()
    with open(reading) as output:
        try:
            process = lab.spawn("client", ["pwd"], cwd=cwd, is_cwd_optional=is_optional, stdout=writing)
        finally:
            os.close(writing)
        process.close()
        return output.read().strip()


def test_an_optional_working_directory_that_the_host_lacks_is_the_owners_instead(lab: Lab) -> None:
    assert working_directory(lab, "/nosuch", is_optional=True) == os.getcwd()
    assert working_directory(lab, "/usr", is_optional=True) == "/usr"


def test_a_required_working_directory_that_the_host_lacks_is_an_error(lab: Lab) -> None:
    with pytest.raises(KernelError, match="cannot enter the directory /nosuch: ENOENT"):
        working_directory(lab, "/nosuch", is_optional=False)


def test_a_fifo_without_a_writer_is_late_after_the_timeout(lab: Lab) -> None:
    path = "/tmp/fifo"
    process = lab.spawn("client", ["mkfifo", path])
    assert process.wait(WAIT_S) == 0
    process.close()
    started = time.monotonic()
    with pytest.raises(KernelError, match=r"ETIMEDOUT.*A FIFO without a peer"):
        lab.open_file("client", path)
    assert time.monotonic() - started >= TASK_TIMEOUT_S
