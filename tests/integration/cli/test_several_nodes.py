"""Commands on the nodes of groups and labels of a running lab."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.cli.exec import exec_command
from labctl.cli.lifecycle import bring_up
from labctl.cli.several_nodes import run_several
from labctl.errors import InputError
from labctl.lab.client import registry

FILE = """
hosts: {web: {count: 2, labels: {tier: front}}, db: {labels: {tier: back}}}
networks: {lan: {members: [web, db]}}
groups: {every: [web, db, lan]}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    name = f"several-{os.getpid()}"
    file = tmp_path / "fleet.yaml"
    file.write_text(FILE)
    bring_up(str(file), name)
    try:
        yield name
    finally:
        registry.take_down(name)


def run(lab: str, *words: str, groups: tuple[str, ...] = (), labels: tuple[str, ...] = (), detach: bool = False) -> int:
    return exec_command(None, words, lab, False, False, detach, (), None, None, None, groups, labels)


def test_a_command_runs_on_the_nodes_of_groups_and_labels(lab: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(lab, "hostname", groups=("web",), labels=("tier=back", "tier=front")) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["db    | db", "web-1 | web-1", "web-2 | web-2"]
    assert run(lab, "hostname", groups=("every",)) == 0
    assert len(capfd.readouterr().out.splitlines()) == 3  # none on the switch


def test_the_exit_status_is_the_highest_one(lab: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(lab, "sh", "-c", "exit $(hostname | wc -c)", groups=("every",)) == 6
    assert "db    | exited with status 3" in capfd.readouterr().out
    assert run(lab, "no-such-program", labels=("tier",)) == 127
    assert "host web-2: cannot run no-such-program" in capfd.readouterr().err


def test_a_command_in_the_background_has_a_process_on_each_node(lab: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(lab, "sleep", "60", groups=("web",), detach=True) == 0
    assert capfd.readouterr().out.splitlines() == ["web-1/sleep", "web-2/sleep"]


@pytest.mark.parametrize(
    ("groups", "labels", "message"),
    [
        (("wbe",), (), "there is no node or group `wbe`; did you mean `web`?"),
        ((), ("tier=bakc",), "no node has the label tier=bakc; did you mean tier=back?"),
    ],
)
def test_an_unknown_group_or_label_is_an_error(
    lab: str, groups: tuple[str, ...], labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        run(lab, "true", groups=groups, labels=labels)


def test_nodes_on_which_nothing_could_start_have_the_statuses_given(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_several(["a", "b"], lambda node, output: 126 if node == "a" else 127) == 127
    assert capfd.readouterr().out == ""
