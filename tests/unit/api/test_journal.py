"""The journal of what a program did with a lab."""

from __future__ import annotations

import threading
import time

import pytest

from labctl import ActivityKind
from labctl.api.journal import KEPT, OUTPUT_CHARACTERS, ActivityState, Journal


def test_a_journal_keeps_the_last_in_the_order_in_which_they_began() -> None:
    journal = Journal()
    first = journal.begin("a", ActivityKind.RUN, "first")
    second = journal.begin("b", ActivityKind.RUN, "second")
    second.end("done")
    first.end("late", stdout="x" * (OUTPUT_CHARACTERS + 100))
    found = journal.activities()
    assert [each.what for each in found] == ["first", "second"]
    assert len(found[0].stdout) < OUTPUT_CHARACTERS + 20
    for number in range(KEPT):
        journal.begin("a", ActivityKind.SOCKET, str(number)).end("")
    assert len(journal.activities()) == KEPT
    assert journal.activities()[0].what == "0"
    assert journal.forgotten == 2


def test_an_error_is_noted_with_its_errno_and_raised() -> None:
    journal = Journal()
    with pytest.raises(ConnectionRefusedError), journal.noting("a", ActivityKind.CONNECT, "b:1"):
        raise ConnectionRefusedError(111, "no")
    with pytest.raises(ValueError, match="wrong"), journal.noting("a", ActivityKind.CONNECT, "b:1"):
        raise ValueError("wrong\nmore")
    assert [each.outcome for each in journal.activities()] == ["ECONNREFUSED", "ValueError: wrong"]


def test_the_state_of_a_running_activity_is_read_on_request() -> None:
    journal = Journal()
    entry = journal.begin("a", ActivityKind.START, "web")
    states = iter([ActivityState("running", False), ActivityState("exited", True, "out")])
    entry.read_state = lambda: next(states)
    assert journal.activities()[0].outcome == "running"
    assert journal.activities()[0].outcome == "exited"


def test_a_journal_is_written_by_many_threads() -> None:
    journal = Journal()

    def write() -> None:
        for _ in range(50):
            journal.begin("a", ActivityKind.RUN, "x").end("")
            journal.activities()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started = [each.started_s for each in journal.activities()]
    assert len(started) == 200
    assert started == sorted(started)
    assert started[-1] < time.monotonic() - journal.origin
