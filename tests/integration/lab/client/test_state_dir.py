"""The state directory: private, and one command at a time makes or ends a lab."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from labctl.errors import LabError
from labctl.lab.client import registry, state_dir
from labctl.lab.client.handle import Lab
from tests.integration.detached import (
    becomes,
    boot_of,
    keeper_of,
    name_of_lab,
    python,
    running,
)
from tests.labs import output

pytestmark = pytest.mark.usefixtures("state")


def test_a_state_directory_that_others_can_use_is_refused(state: Path) -> None:
    state.mkdir(mode=0o700)
    state.chmod(0o755)
    with pytest.raises(LabError, match=r"mode 755.*yours alone"):
        state_dir.labs()
    state.rmdir()
    state.symlink_to(state.parent)
    with pytest.raises(LabError, match="symbolic link"):
        state_dir.labs()
    state.unlink()
    state.write_text("")
    with pytest.raises(LabError, match="is no directory"):
        state_dir.labs()
    state.unlink()


def test_the_state_directory_is_private(state: Path) -> None:
    with running() as name:
        for path in (state, state / name, state / name / "logs"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_new_lab_takes_the_place_of_one_that_was_killed(state: Path) -> None:
    with running() as name:
        os.kill(boot_of(keeper_of(name)), signal.SIGKILL)
        assert becomes(lambda: not state_dir.labs())
        with running(name=name), Lab.attach(name) as lab:
            assert output(lab, "server", "hostname") == "server\n"


def test_of_two_ups_of_one_name_one_makes_it_and_the_other_says_so(state: Path) -> None:
    script = (
        "import sys; from labctl.lab.client.handle import Lab; from labctl.errors import InputError\n"
        "from tests.labs import pair_plan\n"
        "try:\n"
        "    with Lab.up(pair_plan(), sys.argv[1]) as lab: lab.stay(); print('made')\n"
        "except InputError as error: print(error)\n"
    )
    name = name_of_lab()
    makers = [python(script, name) for _ in range(4)]
    said = []
    for maker in makers:
        with maker:
            said.append(maker.communicate(timeout=60)[0])
    assert sorted(text.split(":")[0] for text in said) == [f"lab {name}"] * 3 + ["made\n"], said
    registry.take_down(name)
