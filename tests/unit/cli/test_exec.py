"""Variables, status and access commands of programs on a node."""

from __future__ import annotations

import pytest

from labctl.cli.exec import access_commands, exit_status, variables_of
from labctl.errors import InputError
from labctl.lab.description import Description, NodeInfo


def description(*, rootless: bool) -> Description:
    node = NodeInfo("h1", "host", "/proc/7/fd/9", 11)
    return Description("lab", "pair", 0, 0.0, 7, rootless, (node,), ())


def commands(*, rootless: bool) -> list[str]:
    lab = description(rootless=rootless)
    return [command for _, command in access_commands(lab, lab.nodes[0])]


def test_other_tools_reach_a_node_of_root_by_name() -> None:
    assert "ip -n lab-h1 address" in commands(rootless=False)
    assert "nsenter --target 11 --net --mount --uts --ipc --pid" in commands(rootless=False)


def test_other_tools_enter_the_user_namespace_of_an_ordinary_user_first() -> None:
    assert "nsenter --target 7 --user --preserve-credentials --net=/proc/7/fd/9 ip address" in commands(rootless=True)
    assert not any("netns" in command for command in commands(rootless=True))


def test_a_variable_without_a_value_has_its_value_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOUR", "red")
    monkeypatch.delenv("ABSENT", raising=False)
    found = variables_of(["COLOUR", "ABSENT", "EMPTY=", "A=b=c"])
    assert {name: found.get(name) for name in ("COLOUR", "ABSENT", "EMPTY", "A")} == {
        "COLOUR": "red",
        "ABSENT": None,
        "EMPTY": "",
        "A": "b=c",
    }


def test_a_variable_needs_a_name() -> None:
    with pytest.raises(InputError, match="NAME=VALUE"):
        variables_of(["=x"])


def test_an_exit_status_is_that_of_a_shell() -> None:
    assert (exit_status(3), exit_status(-9)) == (3, 137)
