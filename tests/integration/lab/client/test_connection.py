"""Connecting to the keeper of a running lab."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.errors import InputError, LabGone
from labctl.lab.client import state_dir
from labctl.lab.client.connection import connect, connect_in, credentials
from tests.integration.detached import running


def test_a_connection_has_the_keepers_pid_and_its_state(state: Path) -> None:
    with running() as name:
        connection = connect(name, deadline_s=10)
        assert Path(f"/proc/{connection.keeper_pid}/comm").read_text() == "labctl-keeper\n"
        assert connection.stopped() == 0
        assert connection.last_words() == ""
        connection.hang_up()
        connection.close()
        connection.close()


def test_a_name_without_a_lab_lists_those_that_run(state: Path) -> None:
    with running() as name, pytest.raises(InputError, match=f"No lab named nosuch is running. Running: {name}."):
        connect("nosuch", deadline_s=10)


def test_a_directory_without_a_keeper_is_a_lab_that_has_ended(tmp_path: Path) -> None:
    directory = os.open(tmp_path, state_dir.DIRECTORY_FLAGS)
    with pytest.raises(LabGone, match="has just ended"):
        connect_in(directory, "x", 1.0)
    os.close(directory)


def test_a_client_shows_its_pid_namespace() -> None:
    with credentials() as (shown,):
        assert os.readlink(f"/proc/self/fd/{shown}") == os.readlink("/proc/self/ns/pid")
