"""Every command and file that the documentation shows is run, page by page, as a reader would."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from tests import leaks
from tests.docs.blocks import ROOT, Block, Kind, blocks_of, commands_of, lone_excuses, needs_of, pages
from tests.docs.matching import says_the_same
from tests.docs.terminal import Answer, Terminal

# Drawings, grammars, what needs the network or a person: each with its reason in the page. It is to stay rare.
MOST_NOT_RUN = 36


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


_BLOCKS = {page: blocks_of(page.read_text()) for page in pages()}


@pytest.fixture
def terminal(tmp_path: Path, run_time_directories: Path) -> Iterator[Terminal]:
    """A shell as a reader has it: labctl and pytest of this environment, a home and labs of its own."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    state = tmp_path / "labs"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LABCTL_", "PYTEST_", "GITHUB_"))}
    environment = {
        **{name: value for name, value in kept.items() if name not in ("CI", "GITLAB_CI", "FORCE_COLOR")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(scratch),
        "LABCTL_STATE_DIR": str(state),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "COLUMNS": "100",
        # A reader's pytest has no plugin that warns of what this project's own settings say, nor one that takes two
        # thirds of pytest's start.
        "PYTEST_ADDOPTS": "-o asyncio_default_fixture_loop_scope=function -p no:hypothesispytest",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PAGER": "cat",
    }
    folder = tmp_path / "page"
    folder.mkdir()
    with leaks.nothing_left_behind(), Terminal(folder, environment, tmp_path / "output") as shell:
        yield shell
        ended = shell.enter("cd /; labctl down --all")
        assert ended.status == 0, ended.output


def _parameter(page: Path) -> ParameterSet:
    """A page that needs what this machine's kernel may lack is also run on a distribution's kernel."""
    return pytest.param(page, id=_name(page), marks=[pytest.mark.stock_kernel] if needs_of(page.read_text()) else [])


@pytest.mark.parametrize("page", [_parameter(page) for page, blocks in _BLOCKS.items() if blocks])
def test_what_a_page_shows_works(page: Path, terminal: Terminal, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    blocks = _BLOCKS[page]
    for feature in needs_of(page.read_text()):
        told = terminal.enter("labctl doctor --all").output
        if re.search(rf"^ *✓ {feature}\b", told, re.MULTILINE) is None:
            pytest.skip(f"feature {feature}: not available on this kernel")
    printed = ""
    for number, block in enumerate(blocks):
        place = f"{_name(page)}:{block.line}"
        match block.kind:
            case Kind.COMMANDS:
                _type_commands(terminal, block, _name(page))
            case Kind.FILE:
                path = folder / block.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
                _is_used(block, blocks[number + 1 :], place, terminal)
            case Kind.SCENARIO:
                (folder / "block.yaml").write_text(block.text)
                _succeeds(terminal, "labctl run block.yaml", place)
            case Kind.TOPOLOGY:
                (folder / "block.yaml").write_text(block.text)
                _succeeds(terminal, "labctl plan block.yaml", place)
            case Kind.PROGRAM:
                (folder / "block.py").write_text(block.text)
                printed = _succeeds(terminal, "python3 block.py", place).output
            case Kind.OUTPUT:
                assert says_the_same(block.text.splitlines(), printed), f"{place}: what comes is\n{printed}"
            case Kind.SCRIPT:
                (folder / "block.sh").write_text(block.text)
                _succeeds(terminal, "sh -e block.sh", place)
            case Kind.JSON:
                json.loads(block.text)
            case Kind.TOML:
                tomllib.loads(block.text)
            case Kind.SESSION:
                pass  # tests/docs/test_play_page.py types all sessions of the page
            case Kind.NOT_RUN:
                pass
            case Kind.UNKNOWN:
                pytest.fail(
                    f"{place}: a block in {block.language or 'no language'!r} cannot be run. Make it `console` "
                    "or a file, or say why not on the line before: <!-- not run: reason -->"
                )


def _type_commands(terminal: Terminal, block: Block, page: str) -> None:
    commands = commands_of(block)
    for number, command in enumerate(commands):
        answer = terminal.enter(command.text)
        place = f"{page}:{command.line}: `{command.text}`"
        assert says_the_same(command.output, answer.output), f"{place} prints\n{answer.output}"
        status_is_shown = [each.text for each in commands[number + 1 : number + 2]] == ["echo $?"]
        assert answer.status == 0 or status_is_shown, f"{place} ends with status {answer.status}:\n{answer.output}"


def _succeeds(terminal: Terminal, command: str, place: str) -> Answer:
    answer = terminal.enter(command)
    assert answer.status == 0, f"{place}: `{command}` ends with status {answer.status}:\n{answer.output}"
    return answer


def _is_used(block: Block, later: list[Block], place: str, terminal: Terminal) -> None:
    """A file that is shown is used by what follows; a topology or scenario that is not is at least checked."""
    text = "\n".join(each.text for each in later if each.kind is not Kind.NOT_RUN)
    path = Path(block.name)
    for_pytest = path.name.startswith(("test_", "conftest", "pytest.", "pyproject.")) or ".scenario." in path.name
    if path.name in text or path.stem in text or (for_pytest and "pytest" in text):
        return
    if path.suffix in (".yaml", ".yml"):
        _succeeds(terminal, f"labctl validate {block.name}", place)
    else:
        pytest.fail(f"{place}: {block.name} is shown, and nothing is done with it")


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    reasons = [
        (f"{_name(page)}:{block.line}", block.reason)
        for page, blocks in _BLOCKS.items()
        for block in blocks
        if block.kind is Kind.NOT_RUN
    ]
    assert [place for place, reason in reasons if len(reason) < 8] == []
    assert len(reasons) <= MOST_NOT_RUN, "\n".join(f"{place}: {reason}" for place, reason in reasons)


def test_no_comment_excuses_a_block_that_is_not_there() -> None:
    assert {_name(page): lines for page in pages() if (lines := lone_excuses(page.read_text()))} == {}
