"""The session of the tutorial: its lines give what the page shows, and the saved file passes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.matching import says_the_same
from tests.e2e.command import labctl
from tests.e2e.running import give

PAGE = ROOT / "docs" / "tutorial" / "play.md"
_LINE = re.compile(r"(?:client|server)(?: \(in \w+\))?> ")


def test_the_session_is_as_the_page_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    shown = "".join(blocks).splitlines()
    typed = [line for line in shown if _LINE.match(line)]
    assert len(typed) > 15
    ran = give("play", text="\n".join([*typed, ""]))
    assert says_the_same(shown, ran.stdout), ran.stdout
    assert labctl("run", tmp_path / "queue.yaml").returncode == 0
