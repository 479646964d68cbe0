"""A script of the console on a running lab."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator

import pytest

from labctl.cli.console import EXIT_INTERRUPTED, Console
from labctl.cli.lifecycle import bring_up
from labctl.lab.client import registry
from labctl.lab.client.handle import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    name = f"console-{os.getpid()}"
    bring_up("pair", name)
    try:
        with Lab.attach(name) as attached:
            yield attached
    finally:
        registry.take_down(name)


def run(lab: Lab, script: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(script))
    return Console(lab, interactive=False).run()


def test_a_script_runs_on_nodes_and_continues_after_an_error(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = lab.nodes
    script = f"{first} exit 3\nnonsense\n{first},{second} hostname\n!echo here\n"
    assert run(lab, script, monkeypatch) == 3
    shown = capfd.readouterr()
    assert f"{first} | {first}" in shown.out.replace("  ", " ")
    assert "here" in shown.out
    assert "nonsense: neither a node nor a command" in shown.err


def test_the_commands_of_the_console_show_the_lab(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = lab.nodes
    assert run(lab, f"nodes\nlinks\nnet\nlink {first} {second} down\nexit\nnonsense\n", monkeypatch) == 0
    shown = capsys.readouterr().out
    assert f"down ({second}:" in shown
    assert "INTERFACE - PEER" in shown


class Interrupted:
    """Ctrl-C while a class is created: Python 3.11 makes a RuntimeError of the KeyboardInterrupt."""

    def __set_name__(self, owner: type, name: str) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_import_ends_the_command_and_not_the_console(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def dispatch(console: Console, command: object) -> int:
        commands.append(command)
        if len(commands) == 1:
            type("Imported", (), {"attribute": Interrupted()})
        return 0

    monkeypatch.setattr(Console, "_dispatch", dispatch)
    assert run(lab, "nodes\nlinks\n", monkeypatch) == EXIT_INTERRUPTED
    assert len(commands) == 2
