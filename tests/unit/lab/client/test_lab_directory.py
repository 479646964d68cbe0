"""A lab's directory: taken away by whoever is left, perhaps by two at once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from labctl.lab.client.lab_directory import LabDirectory
from labctl.lab.client.state_dir import DIRECTORY_FLAGS, LOCK

ROUNDS = 200  # some of which meet


def test_boot_and_a_sweep_may_remove_the_same_directory_at_once(tmp_path: Path) -> None:
    parent = os.open(tmp_path, DIRECTORY_FLAGS)
    problems: list[OSError] = []

    def remove(meeting: threading.Barrier) -> None:
        directory = os.open("lab", DIRECTORY_FLAGS, dir_fd=parent)
        meeting.wait()
        try:
            LabDirectory("lab", directory, parent, -1, -1).clear()
        except OSError as error:
            problems.append(error)
        finally:
            os.close(directory)

    for _ in range(ROUNDS):
        (tmp_path / "lab" / "logs" / "node").mkdir(parents=True)
        for file in (LOCK, "logs/node/web.log"):
            (tmp_path / "lab" / file).touch()
        meeting = threading.Barrier(2)
        both = [threading.Thread(target=remove, args=(meeting,)) for _ in range(2)]
        for each in both:
            each.start()
        for each in both:
            each.join()
        assert problems == []
        assert not (tmp_path / "lab").exists()
    os.close(parent)
