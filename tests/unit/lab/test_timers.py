"""What is due is done once, in order, and the wait is never too short by a rounding."""

from __future__ import annotations

import time

from labctl.lab.keeper.clients import Timers


def test_without_timers_there_is_nothing_to_wait_for() -> None:
    assert Timers().wait_ms() is None


def test_what_is_due_is_done_once_in_order() -> None:
    timers, done = Timers(), list[int]()
    timers.after(0.0, lambda: done.append(1))
    timers.after(0.0, lambda: done.append(2))
    timers.after(1000.0, lambda: done.append(3))
    timers.run()
    timers.run()
    assert done == [1, 2]
    assert 900_000 < (timers.wait_ms() or 0) <= 1_000_001


def test_a_cancelled_timer_is_neither_done_nor_waited_for() -> None:
    timers, done = Timers(), list[int]()
    timers.after(0.0, lambda: done.append(1)).cancel()
    assert timers.wait_ms() is None
    timers.run()
    assert done == []


def test_after_the_wait_the_timer_is_due() -> None:
    timers, done = Timers(), list[int]()
    timers.after(0.0105, lambda: done.append(1))
    until = time.monotonic() + (timers.wait_ms() or 0) / 1000
    while time.monotonic() < until:
        pass
    timers.run()
    assert done == [1]


def test_a_timer_that_sets_another_does_not_run_it_at_once() -> None:
    timers, done = Timers(), list[int]()

    def set_another() -> None:
        timers.after(0.0, lambda: done.append(1))

    timers.after(0.0, set_another)
    timers.run()
    assert done == []
    timers.run()
    assert done == [1]
