"""The recorder of a process: one for all recordings, another one when that has ended or is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from labctl.kernel.processes import ends_within
from labctl.lab.client.handle import Lab
from labctl.timeline.recorder_process import recorders
from labctl.timeline.recording import Recording
from tests.labs import WAIT_S, pair_plan


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan()) as lab:
        yield lab


def recorder_of(lab: Lab) -> int:
    with Recording.start(lab) as recording:
        recording.wait_ready()
        assert recording.stop().losses == ()
        return recording._process.pid


def test_recordings_share_a_recorder(lab: Lab) -> None:
    assert recorder_of(lab) == recorder_of(lab)


def test_after_a_kill_there_is_another_recorder(lab: Lab) -> None:
    first = recorder_of(lab)
    process = recorders.all[0]
    os.kill(first, signal.SIGKILL)
    assert ends_within(process._process.pidfd, WAIT_S)
    assert recorder_of(lab) != first


def test_a_stopped_recorder_is_not_used(lab: Lab) -> None:
    first = recorder_of(lab)
    os.kill(first, signal.SIGSTOP)
    assert recorder_of(lab) != first
    os.kill(first, signal.SIGCONT)  # it has been hung up, and ends


def test_a_recorder_that_is_started_ahead_is_the_one_of_the_next_recording(lab: Lab) -> None:
    recorders.start_ahead(kernel=True)
    assert recorder_of(lab) == recorders.all[0].pid
