"""Every file in tests/bad-input/scenarios gives the text beside it: all of its mistakes, each at its place."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from labctl.documents import DocumentError
from labctl.scenario import load

FILES = Path(__file__).resolve().parents[2] / "bad-input" / "scenarios"
NAMES = sorted(path.name for path in FILES.glob("*.yaml"))


def complaint(source: str | Path) -> str:
    with pytest.raises(DocumentError) as caught:
        load(source)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_file_gives_exactly_the_text_beside_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FILES)
    expected = FILES / f"{name}.txt"
    said = complaint(name) + "\n"
    if os.environ.get("LABCTL_WRITE_EXPECTED"):
        expected.write_text(said)
    assert said == expected.read_text()


def test_ten_megabytes_of_nesting_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("topology: pair\nsteps: " + "[" * 10_000_000)
    before = time.process_time()
    assert "the file is larger than 4 MiB" in complaint(file)
    assert time.process_time() - before < 2


def test_steps_nested_as_deep_as_is_read_are_an_ordinary_mistake(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("topology: pair\nsteps:\n- " + "parallel: [{" * 40 + "x: 1" + "}]" * 40 + "\n")
    assert "deep.yaml:3:" in complaint(file)


def test_the_same_mistake_in_many_steps_does_not_flood_the_screen(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text("topology: pair\nsteps:\n" + "  - sever: getpid()\n" * 1000)
    said = complaint(file)
    assert said.count("did you mean `server`?") == 100
    assert "and 900 more mistakes" in said


@pytest.mark.parametrize(
    ("steps", "part"),
    [
        ("- client: |\n" + "".join(f"    sokcet(AF_INTE, {n})\n" for n in range(5000)), "did you mean `socket`?"),
        ("".join(f"- client: sokcet(AF_INTE, {n})\n" for n in range(3000)), "did you mean `socket`?"),
        ("- client: getpid()\n" + "".join(f"  key{n}: 1\n" for n in range(60_000)), "and 59900 more mistakes"),
        ("- run: {on: client, shell: '" + "".join(f"${{v{n}}}" for n in range(50_000)) + "'}\n", "no variable `v0`"),
        ("- run: {on: client, shell: '" + "${clinet.ipv4}" * 50_000 + "'}\n", "there is no node `clinet`"),
        ("- run: {on: client, shell: '${" + "a." * 50_000 + "ipv4}'}\n", "there is no variable"),
        ("".join(f"- stop: p{n}\n" for n in range(3000)), "no step starts a background program"),
        ("- expect: {on: client, counters: {" + ", ".join(f"ListenOv{n}: 1" for n in range(3000)) + "}}\n", "counter"),
        ('- expect: {on: client, file: {path: /x, matches: "a{99999999999}"}}\n', "repetition number is too large"),
        (f'- expect: {{on: client, file: {{path: /x, matches: "{"(" * 500}{")" * 500}"}}}}\n', "more than 50 deep"),
    ],
)  # fmt: skip
def test_many_mistakes_are_found_quickly_and_reported_briefly(steps: str, part: str, tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text(f"topology: pair\nsteps:\n{steps}")
    before = time.process_time()
    said = complaint(file)
    assert time.process_time() - before < 4
    assert part in said
    assert len(said) < 100_000


def test_a_misspelt_feature_and_a_misspelt_counter_are_both_reported(tmp_path: Path) -> None:
    file = tmp_path / "nope.yaml"
    file.write_text(
        "topology: pair\nrequires: {features: [nope]}\nsteps:\n- expect: {on: client, counters: {ListenOverflow: 1}}\n"
    )
    said = complaint(file)
    assert "unknown feature `nope`" in said
    assert "there is no counter 'ListenOverflow'" in said


def test_a_topology_that_is_another_program_s_file_is_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere" / "shadow"
    secret.parent.mkdir()
    secret.write_text("root:*:19000:0:99999:7:::\n")
    file = tmp_path / "labs" / "steps.yaml"
    file.parent.mkdir()
    file.write_text(f"topology: {secret}\nsteps:\n  - client: getpid()\n")
    said = complaint(file)
    assert "this is not a labctl file" in said
    assert ":*:" not in said
