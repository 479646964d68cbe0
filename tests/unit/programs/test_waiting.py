from __future__ import annotations

import os
import threading
import time

import pytest

from labctl.programs.waiting import Interrupted, Scope, Watcher


def scope(seconds: float) -> Scope:
    return Scope(threading.Condition(), time.monotonic() + seconds)


def test_a_wait_ends_when_the_condition_is_told_so() -> None:
    seen: list[int] = []
    whole = scope(20)

    def tell() -> None:
        with whole.condition:
            seen.append(1)
            whole.condition.notify_all()

    timer = threading.Timer(0.01, tell)
    timer.start()
    assert whole.wait_for(lambda: seen) == [1]
    assert whole.remaining_s > 10
    timer.join()


def test_a_wait_ends_at_its_deadline_with_the_last_value() -> None:
    before = time.monotonic()
    assert scope(0.02).wait_for(lambda: 0) == 0
    assert 0.02 <= time.monotonic() - before < 5


def test_an_inner_deadline_is_never_later_than_the_outer() -> None:
    outer = scope(0.02)
    assert outer.within(10).deadline == outer.deadline
    assert outer.within(0.001).deadline < outer.deadline


def test_cancelling_a_scope_ends_the_waits_inside_it() -> None:
    outer = scope(20)
    inner = outer.within(20)
    timer = threading.Timer(0.01, outer.cancel, ["enough"])
    timer.start()
    with pytest.raises(Interrupted, match="enough"):
        inner.wait_for(lambda: False)
    timer.join()


def test_cancelling_a_scope_leaves_the_one_around_it() -> None:
    outer = scope(20)
    inner = outer.inner()
    inner.cancel("this branch")
    assert inner.cancelled == "this branch"
    assert outer.cancelled == ""


def test_looking_again_goes_on_until_just_after_the_deadline() -> None:
    whole = scope(0.5)  # a busy machine may take 50 ms from one look to the next
    looks = [time.monotonic() for _ in whole.look_again()]
    assert len(looks) >= 3
    assert looks[-1] >= whole.deadline


def test_looking_again_looks_at_least_once_when_it_is_too_late() -> None:
    assert len(list(scope(-1).look_again())) == 1


def test_looking_again_ends_when_cancelled() -> None:
    whole = scope(20)
    timer = threading.Timer(0.02, whole.cancel, ["enough"])
    timer.start()
    with pytest.raises(Interrupted):
        list(whole.look_again())
    timer.join()


def test_a_watcher_calls_back_until_it_is_told_not_to() -> None:
    reading, writing = os.pipe()
    got: list[bytes] = []
    ended = threading.Event()

    def readable() -> bool:
        data = os.read(reading, 1)
        got.append(data)
        if not data:
            ended.set()
        return bool(data)

    watcher = Watcher()
    watcher.add(reading, readable)
    os.write(writing, b"ab")
    os.close(writing)
    assert ended.wait(20)
    watcher.close()
    os.close(reading)
    assert got == [b"a", b"b", b""]


def test_a_watcher_that_watched_nothing_closes() -> None:
    Watcher().close()


def test_a_watcher_whose_thread_cannot_be_started_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    watcher = Watcher()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        watcher.add(0, lambda: False)
    watcher.close()


def test_a_watcher_starts_one_thread_when_several_add_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    watcher, reading, writing = Watcher(), *os.pipe()
    other = threading.Thread(target=watcher.add, args=(reading, lambda: False))
    start, starts = threading.Thread.start, 0

    def start_while_another_adds(thread: threading.Thread) -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            start(other)
            other.join(0.1)  # it waits for the first
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_while_another_adds)
        watcher.add(writing, lambda: False)
        other.join()
    watcher.close()
    for fd in (reading, writing):
        os.close(fd)
    assert starts == 1
