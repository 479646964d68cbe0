"""The lab that a command line names, and suggestions for a misspelled node."""

from __future__ import annotations

import pytest

from labctl.cli.lab_selection import lab_name, listed, suggestion
from labctl.errors import InputError


def test_the_command_line_names_the_lab_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_LAB", "other")
    assert lab_name("office") == "office"
    assert lab_name(None) == "other"
    monkeypatch.delenv("LABCTL_LAB")
    assert lab_name(None, None) is None


def test_argument_and_option_may_name_the_same_lab_only() -> None:
    assert lab_name("office", "office") == "office"
    with pytest.raises(InputError, match="names two labs, a and b"):
        lab_name("a", "b")


def test_a_suggestion_is_the_nearest_name_or_the_list() -> None:
    assert suggestion("clent", ["client", "server"]) == "did you mean client?"
    assert suggestion("zzz", ["client", "server"]) == "there are client, server."
    assert suggestion("zzz", []) == "there are none."
    assert listed([f"h{number}" for number in range(14)]).endswith("h11 and 2 more.")
