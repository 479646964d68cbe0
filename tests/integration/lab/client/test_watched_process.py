"""A detached process is followed by any client."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from labctl.lab.client.handle import Lab
from labctl.lab.client.watched_process import WatchedProcess
from labctl.lab.description import ProcessState
from tests.integration.detached import becomes
from tests.labs import pair_plan


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan(environment=(("FLAVOUR", "plain"),))) as lab:
        yield lab


def test_a_watched_process_reports_its_states_and_its_output_by_stream(lab: Lab) -> None:
    lab.start_process("server", ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"], name="watched")
    with contextlib.closing(lab.watch_process("server", "watched")) as watched:
        assert isinstance(watched, WatchedProcess)
        written: list[tuple[int, bytes]] = []

        def has_written_both() -> bool:
            written.extend(watched.read())
            return len(written) == 2

        assert becomes(has_written_both)
        assert sorted(written) == [(0, b"out\n"), (1, b"err\n")]
        watched.stop(signal.SIGTERM)
        states: list[ProcessState] = []
        assert becomes(lambda: not watched.take_updates(lambda update: states.append(update.state)))
        assert states[-1] is ProcessState.ENDED
