"""Log writers of detached programs."""

from __future__ import annotations

import os
from pathlib import Path

from labctl.lab.client.state_dir import DIRECTORY_FLAGS
from labctl.lab.keeper.process_table import LogWriter
from labctl.lab.protocol import HALF_BYTES, SWITCH


def written(directory: Path, *pieces: tuple[int, bytes]) -> None:
    """Write each piece on its stream (0 stdout, 1 stderr) of the log `x`, and wait for its writer's end."""
    log = LogWriter(os.open(directory, DIRECTORY_FLAGS), "x")
    log.start()
    for stream, data in pieces:
        with open(log.writing[stream], "wb", closefd=False) as pipe:
            pipe.write(data)
    log.close()
    os.waitpid(log.pid, 0)


def test_a_log_has_both_streams_and_where_each_begins(tmp_path: Path) -> None:
    written(tmp_path, (0, b"out\n"), (1, b"err\n"))
    assert (tmp_path / "x.log").read_bytes() == b"out\nerr\n"
    switches = list(SWITCH.iter_unpack((tmp_path / "x.streams").read_bytes()))
    assert switches[:2] == [(0, 0), (4, 1)]
    assert {offset for offset, _ in switches[2:]} <= {8}


def test_a_full_half_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    written(tmp_path, (0, bytes(HALF_BYTES) + b"end"))
    assert (tmp_path / "x.log.1").stat().st_size == HALF_BYTES
    assert (tmp_path / "x.log").read_bytes() == b"end"
