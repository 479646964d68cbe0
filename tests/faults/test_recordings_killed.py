"""Whatever process of a recorded lab is killed or stopped, at whatever moment: nothing of it outlives its owner."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.disturbed import pass_time
from tests.faults.rounds import KILLS
from tests.faults.test_killed import all_ended, descendants, named, pidfds, reached, send
from tests.leaks import nothing_left_behind

ROOT = Path(__file__).parents[2]
OWNER = "owner"
VICTIMS = (OWNER, "labctl-recorder", "labctl-boot", "labctl-keeper", "labctl-nursery")
LATEST_S = 0.2
WAIT_S = 10.0


def disturb(dice: random.Random) -> str:
    """Kill or stop a process of an owner that records, at a random moment, then the owner; return what was done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.recording_owner"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        reached(process, "ready")
        pass_time(process.pid, dice.uniform(0, LATEST_S))
        victim, number = dice.choice(VICTIMS), dice.choice([signal.SIGKILL] * 3 + [signal.SIGSTOP])
        watched = pidfds(descendants(process.pid))
        for pid in [process.pid] if victim == OWNER else named(process.pid, victim):
            send(pid, number)
        if dice.random() < 0.5:
            pass_time(process.pid, dice.uniform(0, LATEST_S))
        watched |= pidfds([pid for pid in descendants(process.pid) if pid not in watched])
        process.kill()
        process.wait(WAIT_S)
        assert all_ended(watched) == [], f"{number.name} to {victim}"
    finally:
        process.kill()
        process.wait(WAIT_S)
        if process.stdout:
            process.stdout.close()
    return f"{number.name} to {victim}"


@pytest.mark.timeout(60 + 10 * KILLS)
def test_nothing_is_left_of_recordings_that_are_killed_at_random_moments() -> None:
    seed = int(os.environ.get("LABCTL_SEED", str(random.randrange(2**32))))
    dice = random.Random(seed)
    for number in range(KILLS):
        done = ""
        try:
            with nothing_left_behind():
                done = disturb(dice)
        except AssertionError as error:
            raise AssertionError(f"LABCTL_SEED={seed}: round {number}: {done}: {error}") from error


@pytest.mark.parametrize("victim", ["labctl-recorder", "labctl-nursery"])
def test_a_stopped_recorder_goes_with_its_owner(victim: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.recording_owner"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    reached(process, "ready")
    watched = pidfds(descendants(process.pid))
    for name in {victim, "labctl-recorder"}:
        for pid in named(process.pid, name):
            send(pid, signal.SIGSTOP)
    process.kill()
    process.wait(WAIT_S)
    assert process.stdout is not None
    process.stdout.close()
    assert all_ended(watched) == []
