"""Choosing, ending and sweeping labs, whatever was killed before."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labctl.errors import DeadlineExceeded, InputError, LabGone
from labctl.lab.client import registry, state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.client.lab_directory import NETNS_DIRECTORY, making
from tests.integration.detached import (
    becomes,
    boot_of,
    keeper_of,
    name_of_lab,
    python,
    running,
    state_of,
)
from tests.labs import output

pytestmark = pytest.mark.usefixtures("state")


def test_choosing_names_the_choices() -> None:
    with pytest.raises(InputError, match="No lab is running"):
        registry.choose(None)
    one, other = name_of_lab(), f"{name_of_lab()}b"
    with running(name=one):
        assert registry.choose(None) == one
        with running(name=other):
            with pytest.raises(InputError, match=f"{one}, {other}"):
                registry.choose(None)
            assert registry.choose(other) == other
            with pytest.raises(InputError, match=f"No lab named nosuch is running. Running: {one}, {other}"):
                registry.choose("nosuch")


def test_a_lab_that_is_not_there_cannot_be_reached_or_ended() -> None:
    for attempt in (Lab.attach, registry.take_down):
        with pytest.raises(InputError, match="No lab named"):
            attempt("nosuch")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("stopped", ["keeper", "boot", "both"])
def test_a_stopped_lab_is_told_and_can_be_ended(stopped: str, force: bool) -> None:
    with running() as name:
        keeper = keeper_of(name)
        boot = boot_of(keeper)
        for pid in {"keeper": [keeper], "boot": [boot], "both": [keeper, boot]}[stopped]:
            os.kill(pid, signal.SIGSTOP)
        if stopped != "boot":
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded, match=f"labctl down --force {name}"):
                Lab.attach(name, deadline_s=0.2)
            assert time.monotonic() - began < 10
        registry.take_down(name, force=force, deadline_s=4.0)
        assert state_dir.labs() == []
        assert {state_of(keeper), state_of(boot)} <= {"", "Z"}


def test_when_the_keeper_is_killed_nothing_is_left(state: Path) -> None:
    with running() as name, Lab.attach(name) as lab:
        os.kill(keeper_of(name), signal.SIGKILL)
        with pytest.raises(LabGone):
            output(lab, "server", "true")
        assert becomes(lambda: os.listdir(state) == [])
        with pytest.raises(InputError, match="No lab named"):
            Lab.attach(name)


@pytest.mark.stock_kernel
def test_when_boot_is_killed_the_next_command_sweeps(state: Path) -> None:
    with running() as name:
        keeper = keeper_of(name)
        os.kill(boot_of(keeper), signal.SIGKILL)
        assert becomes(lambda: not state_dir.labs())
        swept = registry.sweep()
        assert str(state / name) in swept
        if os.geteuid() == 0:
            assert f"{NETNS_DIRECTORY}/{name}-server" in swept
        assert os.listdir(state) == []
        assert registry.sweep() == []


def test_a_sweep_leaves_running_labs_and_what_is_not_of_labs_alone(state: Path) -> None:
    with running():
        (state / "notes").mkdir()
        (state / "notes" / "file").touch()
        assert registry.sweep() == []
        assert len(state_dir.labs()) == 1
        assert (state / "notes" / "file").exists()
        shutil.rmtree(state / "notes")


def test_a_keepers_last_words_are_told_to_the_next_who_asks(state: Path) -> None:
    with running() as name:
        keeper = keeper_of(name)
        with open(f"/proc/{keeper}/fd/2", "w") as file:
            file.write("Traceback: it was the weather\n")
        os.kill(keeper, signal.SIGKILL)
        assert becomes(lambda: not state_dir.labs())
        with pytest.raises(LabGone, match="it was the weather"):
            Lab.attach(name)
        assert os.listdir(state) == []


def test_an_up_that_is_killed_leaves_nothing(state: Path) -> None:
    script = (
        "import sys, time; from labctl.lab.client.handle import Lab; from tests.labs import pair_plan\n"
        "lab = Lab.up(pair_plan(), sys.argv[1]); print('up', flush=True); time.sleep(1000)"
    )
    with python(script, name_of_lab()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert os.listdir(state / making(name_of_lab()))
        process.kill()
    assert becomes(lambda: set(os.listdir(state)) <= {f".{name_of_lab()}.lock"})
    registry.sweep()


def test_of_several_downs_at_once_none_fails_and_all_return_when_it_is_gone(state: Path) -> None:
    script = (
        "import sys; from labctl.lab.client import registry, state_dir; assert state_dir.labs() == [sys.argv[1]]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "registry.take_down(sys.argv[1]); assert state_dir.labs() == []\n"
    )
    with running() as name:
        enders = [
            subprocess.Popen(
                [sys.executable, "-c", script, name],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(4)
        ]
        for ender in enders:
            assert ender.stdout is not None
            assert ender.stdout.readline() == "ready\n"
        for ender in enders:
            assert ender.stdin is not None
            ender.stdin.write("\n")
            ender.stdin.flush()
        for ender in enders:
            with ender:
                said = ender.communicate(timeout=60)[0]
                assert ender.returncode == 0 or "No lab named" in said, said


def test_ups_and_downs_of_one_name_take_turns(state: Path) -> None:
    script = (
        "import sys; from labctl.lab.client.handle import Lab; from labctl.lab.client import registry\n"
        "from labctl.errors import InputError; from tests.labs import pair_plan\n"
        "for _ in range(5):\n"
        "    try:\n"
        "        with Lab.up(pair_plan(), sys.argv[1]) as lab: lab.stay()\n"
        "    except InputError: pass\n"
        "    try: registry.take_down(sys.argv[1])\n"
        "    except InputError: pass\n"
    )
    both = [python(script, name_of_lab()) for _ in range(2)]
    for each in both:
        with each:
            said = each.communicate(timeout=120)[0]
            assert each.returncode == 0, said
    with contextlib.suppress(InputError):
        registry.take_down(name_of_lab())
    registry.sweep()
