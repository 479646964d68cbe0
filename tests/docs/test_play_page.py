"""The session of a page: its lines give what the page shows, and the saved file passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import SESSION_LINE, Kind, blocks_of, pages
from tests.docs.matching import says_the_same
from tests.e2e.command import labctl
from tests.e2e.running import give

SESSIONS = {
    page: text
    for page in pages()
    if (text := "".join(block.text for block in blocks_of(page.read_text()) if block.kind is Kind.SESSION))
}


def test_the_tutorial_has_a_session() -> None:
    assert [page.name for page in SESSIONS] == ["play.md"]


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.name)
def test_the_sessions_of_a_page_are_as_it_shows_them(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = SESSIONS[page].splitlines()
    typed = [line for line in shown if SESSION_LINE.match(line)]
    ran = give("play", text="\n".join([*typed, ""]))
    assert says_the_same(shown, ran.stdout), ran.stdout
    saved = [line.split()[-1] for line in typed if "> save " in line]
    assert [labctl("run", f"{name}.yaml").returncode for name in saved] == [0]
