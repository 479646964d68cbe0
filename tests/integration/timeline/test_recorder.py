"""The recorder process: its clock, its threads, and what it keeps of recordings that have ended."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from labctl.lab.client.handle import Lab
from labctl.lab.frames import FrameStream
from labctl.timeline.recorder import Recorder, clock_reading
from labctl.timeline.recorder_process import recorders
from labctl.timeline.recording import Recording
from tests.labs import WAIT_S, pair_plan


def test_a_reading_of_the_clock_is_within_its_bracket() -> None:
    before = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    offset_ns, bracket_ns = clock_reading()
    assert 0 <= bracket_ns < 1_000_000
    assert abs(offset_ns - before) < 5_000_000_000


def test_recordings_that_have_ended_leave_no_descriptor_in_the_recorder() -> None:
    plan = pair_plan()
    with Lab.open(plan) as lab:
        with Recording.start(lab, plan=plan) as first:
            first.wait_ready()
            for _ in range(10):
                with Recording.start(lab, plan=plan) as recording:
                    recording.wait_ready()
            (recorder,) = recorders.all
            spools = [each for each in descriptors(recorder.pid) if "labctl-spool" in each]
        assert len(spools) <= 4  # of the first, and of the last if the recorder has not noticed its end yet


def descriptors(pid: int) -> list[str]:
    folder, found = f"/proc/{pid}/fd", []
    for number in os.listdir(folder):
        with suppress(FileNotFoundError):  # it has just been closed
            found.append(os.readlink(f"{folder}/{number}"))
    return found


@pytest.fixture
def owned() -> Iterator[tuple[Recorder, socket.socket]]:
    """A recorder in this process, and its owner's end of the channel."""
    others = set(threading.enumerate())
    owner, ours = socket.socketpair()
    channel = FrameStream(ours)
    recorder = Recorder(channel, ())
    with owner:
        yield recorder, owner
    for thread in set(threading.enumerate()) - others:
        thread.join(WAIT_S)
    channel.close()
    os.close(recorder._wake)


def test_an_exception_in_a_thread_ends_the_recorder(owned: tuple[Recorder, socket.socket]) -> None:
    def work() -> None:
        raise MemoryError

    recorder, _ = owned
    recorder.in_thread(work)
    with pytest.raises(MemoryError):
        recorder.serve()


def test_without_threads_the_loop_does_their_work(
    owned: tuple[Recorder, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    recorder, owner = owned
    done: list[str] = []
    recorder.in_thread(lambda: done.append("work"), lambda: done.append("then"))
    owner.close()
    recorder.serve()
    assert done == ["work", "then"]
