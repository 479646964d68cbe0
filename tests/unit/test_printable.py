"""What comes from files, command lines and programs controls neither a terminal, nor a CI server, nor an XML parser."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from labctl.documents import DocumentError, parse
from labctl.errors import InputError, KernelError, LabctlError, LabError, NotFound
from labctl.printable import harmless_on_github, in_log, in_xml, last_lines, one_line, painted, printable, visible
from labctl.report.terminal import Look, Screen
from labctl.scenario.loader import checked
from labctl.topology import resolve_inline
from tests.unit.documents.test_schema import SCENARIO, TOPOLOGY, places

BAD = "a\x1b]0;t\x07\x9b31m\u202eb\n::stop-commands::tok"
_ALLOWED = {"\n", "\t"}


def is_clean(text: str) -> bool:
    return all(character.isprintable() or character in _ALLOWED for character in text)


def begins_a_command(text: str) -> bool:
    return any(line.lstrip().startswith("::") or "##[" in line for line in text.split("\n"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 漢", "plain, é, 漢"),
        ("a\x1b]0;t\x07", r"a\x1b]0;t\x07"),
        ("\x7f\x85\x9b0m", r"\x7f\x85\x9b0m"),
        ("\u202eevil\u2066\u2028", r"\u202eevil\u2066\u2028"),
        ("\udcff", r"\udcff"),
        ("a\tb\r\nc\rd", "a       b\nc\\x0dd"),
    ],
)
def test_controls_become_visible(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert one_line(text) == shown.replace("\n", r"\n")
    assert is_clean(visible(text))


def test_only_colours_of_labctl_s_own_are_left_in_a_line() -> None:
    assert (
        painted("\x1b[1;31mred\x1b[0m \x1b[5mblink \x1b]0;t\x07") == "\x1b[1;31mred\x1b[0m \\x1b[5mblink \\x1b]0;t\\x07"
    )


@pytest.mark.parametrize("line", ["::stop-commands::t", "  ::error::x", "\t::set-env name=A::b", "a ##[error]x"])
def test_lines_are_no_commands_on_github(line: str) -> None:
    assert not begins_a_command(harmless_on_github(line))
    assert not begins_a_command(in_log(f"first\n{line}", {"GITHUB_ACTIONS": "true"}))
    assert in_log(line, {}) == line


def test_xml_carries_every_text() -> None:
    every = "".join(map(chr, [*range(0x300), *range(0xD7F0, 0xE010), 0xFFFE, 0xFFFF, 0x10FFFF]))
    ElementTree.fromstring(f"<a>{in_xml(every).replace('&', '').replace('<', '')}</a>")
    assert is_clean(in_xml(BAD))


@pytest.mark.parametrize("error", [InputError(BAD), NotFound(BAD), LabError(BAD), KernelError(BAD, BAD, 2, hint=BAD)])
def test_errors_of_the_api_have_no_control_characters(error: LabctlError) -> None:
    assert is_clean(str(error))


def test_a_screen_lets_nothing_else_through() -> None:
    stream = io.StringIO()
    screen = Screen(stream, Look(), lambda line: in_log(line, {"GITHUB_ACTIONS": "true"}))
    screen.write([f"name: {BAD}", BAD])
    screen.line(BAD)
    assert is_clean(stream.getvalue())
    assert not begins_a_command(stream.getvalue())


@pytest.mark.parametrize("kind", ["topology", "scenario"])
def test_no_text_of_a_file_gets_out_of_its_diagnostic(kind: str) -> None:
    text = TOPOLOGY if kind == "topology" else SCENARIO
    original = parse(text, kind).data
    count = sum(1 for _ in places(original))
    for number in range(count):
        for as_key in (False, True):
            data = copy.deepcopy(original)
            inside, at = list(places(data))[number]
            if as_key and isinstance(inside, dict):
                inside[BAD] = inside.pop(at)
            else:
                inside[at] = BAD
            document = parse(yaml.dump(data, Dumper=yaml.CSafeDumper, allow_unicode=False), f"{BAD}.yaml")
            found = checked(document)[1] if kind == "scenario" else resolve_inline(document, (), Path())[1]
            told = str(DocumentError(found))
            assert is_clean(told)
            assert not begins_a_command(told)


def labctl(*words: str, **environment: str) -> str:
    """What labctl prints on both streams."""
    ended = subprocess.run(
        [sys.executable, "-m", "labctl", *words],
        env={**os.environ, "COLUMNS": "100", "GITHUB_ACTIONS": "true", **environment},
        capture_output=True,
        check=False,
    )
    return (ended.stdout + ended.stderr).decode()


@pytest.mark.parametrize(
    "words",
    [
        ["validate", BAD],
        ["run", BAD],
        ["run", f"--{BAD}"],
        ["run", "tcp-echo", "--shard", BAD],
        [BAD],
        [f"--{BAD}"],
        ["plan", BAD],
        ["plan", "pair", "--format", BAD],
        ["up", BAD],
        ["exec", "--lab", BAD, "a", "true"],
        ["exec", BAD],
        ["ps", BAD],
        ["down", BAD],
        ["link", "--lab", BAD, "a", "b", "show"],
        ["logs", "--lab", BAD, BAD],
        ["init", f"/dev/null/{BAD}"],
        ["schema", BAD],
    ],
    ids=lambda words: words[0][:8] if words[0] != BAD else "command",
)
def test_words_of_the_command_line_are_told_harmlessly(words: list[str], tmp_path: Path) -> None:
    told = labctl(*words, LABCTL_STATE_DIR=str(tmp_path / "state"))
    assert told
    assert "Traceback" not in told
    assert is_clean(told)
    assert not begins_a_command(told)


def test_names_of_files_and_nodes_are_told_harmlessly(tmp_path: Path) -> None:
    file = tmp_path / "a\x1b]0;t\x07\n::stop-commands::tok.yaml"
    file.write_text(yaml.safe_dump({"hosts": {BAD: {}, "b": {}}, "links": [["b", BAD]]}))
    told = labctl("validate", str(tmp_path))
    assert r"::stop-commands::tok` contains" in told
    assert is_clean(told)
    assert not begins_a_command(told)
    file.write_text("hosts: {a: , b: }\nlinks: [[a, b]]\n")
    told = labctl("validate", str(tmp_path))
    assert "topology, 2 nodes" in told
    assert is_clean(told)
    assert not begins_a_command(told)


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [("ab\ncd", 5, "ab\ncd"), ("ab\ncd", 4, "cd"), ("ab\ncd", 2, "cd"), ("abcdef", 3, "def"), ("ab\ncdef", 3, "def")],
)
def test_last_lines_are_whole_unless_one_is_too_long(text: str, limit: int, shown: str) -> None:
    assert last_lines(text, limit) == shown
