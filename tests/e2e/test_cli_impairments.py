"""Rates of links as users say and see them: in a file, `labctl link`, `inspect`, `plan`, the console, scenarios."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from labctl.observe.machine import without_qdisc
from tests import skips
from tests.e2e.command import LABCTL, TIMEOUT_S, environment, labctl
from tests.integration.detached import becomes

NO_TBF = without_qdisc("tbf")
SCHEMA = json.loads((Path(__file__).parents[2] / "labctl" / "schemas" / "inspect.schema.json").read_text())
FILE = "hosts: {a: , b: , c: }\nlinks:\n  - {ends: [a, b], rate: 50mbit}\n  - [b, c]\n"
RATE = {"delay_us": 0, "jitter_us": 0, "loss_ppm": 0, "rate_bit_s": 50_000_000, "other": None}

pytestmark = [skips.needs_feature("tbf", not NO_TBF, NO_TBF), skips.needs_programs("tc")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "slow.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path) -> Iterator[str]:
    """A running lab of that file, in a state directory of the test's own; down afterwards."""
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    name = f"i{os.getpid()}"
    up = labctl("up", str(file), "--name", name)
    assert up.returncode == 0, up.stderr
    yield name
    labctl("down", "--all")


def said(*words: str, status: int = 0) -> str:
    done = labctl(*words)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def inspected() -> tuple[dict[str, object], list[str]]:
    """By node:interface what happens to what it sends, and what differs from the file."""
    told = json.loads(said("inspect", "--format", "json"))
    jsonschema.validate(told, SCHEMA)
    impaired = {
        f"{node['name']}:{interface['name']}": interface["impairment"]
        for node in told["nodes"]
        for interface in node["interfaces"]
        if interface["impairment"]
    }
    return impaired, [one["text"] for one in told["differs"]]


def test_a_link_is_shown_changed_and_cleared_and_inspect_tells_what_is_not_the_file_s(name: str, file: Path) -> None:
    assert inspected() == ({"a:eth0": RATE, "b:eth0": RATE}, [])
    shown = said("link", "a", "b", "set", "rate=3mbit", "--from", "b")
    assert "rate 50mbit from a, rate 3mbit from b" in shown
    impaired, differs = inspected()
    assert impaired == {"a:eth0": RATE, "b:eth0": RATE | {"rate_bit_s": 3_000_000}}
    assert differs == ["b:eth0: impairment is rate 3mbit, not rate 50mbit"]
    assert "b:eth0: impairment is rate 3mbit, not rate 50mbit" in said("inspect")
    assert "b:eth0: impairment as in the file again" in said("up", str(file), "--name", name)
    assert inspected() == ({"a:eth0": RATE, "b:eth0": RATE}, [])
    said("link", "a", "b", "clear")
    assert inspected()[0] == {}
    file.write_text(FILE.replace("50mbit", "20mbit"))
    planned = said("up", str(file), "--name", name, "--dry-run")
    assert "~ impairment of a:eth0 - b:eth0: rate 50mbit to rate 20mbit\n" in planned
    said("up", str(file), "--name", name)
    assert inspected() == (dict.fromkeys(("a:eth0", "b:eth0"), RATE | {"rate_bit_s": 20_000_000}), [])


WRONG = {
    "a b set": "values are missing",
    "a b set rete=1mbit": "did you mean `rate`?",
    "a b set jitter=1ms rate=1": "`1` has no unit; did you mean `1mbit`?",
    "a b set rate=1mbit --from c": "not an end of the link a:eth0 - b:eth0",
    "a b clear rate=1mbit": "takes no values",
    "a b down --from a": "has no direction",
    "a c set rate=1mbit": "no link between a and c",
}


def test_a_wrong_word_is_told_and_changes_nothing(name: str) -> None:
    for words, message in WRONG.items():
        assert message in said("link", *words.split(), status=2)
    assert f"lab {name} has no node d; there are a, b, c." in said("link", "a", "d", status=2)
    assert inspected() == ({"a:eth0": RATE, "b:eth0": RATE}, [])


def test_the_console_says_it_in_the_same_words(name: str) -> None:
    script = "link b c set rate=2mbit --from c\nlink b c\nlink b c clear\nlink a b sat\n"
    done = subprocess.run(
        [LABCTL, "console"], input=script, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert "none from b, rate 2mbit from c" in done.stdout
    assert "sat is not one of show, down, up, set, clear" in done.stdout + done.stderr
    assert inspected() == ({"a:eth0": RATE, "b:eth0": RATE}, [])


def test_a_scenario_in_a_running_lab_gives_its_links_back_as_they_were(name: str, tmp_path: Path) -> None:
    said("link", "a", "b", "set", "rate=7mbit", "--from", "a")
    file = tmp_path / "scenario.yaml"
    file.write_text(
        "topology: {hosts: {a: , b: , c: }, links: [[a, b], [b, c]]}\n"
        "steps:\n"
        "  - link: {between: [a, b], set: {rate: 3mbit}}\n"
        "  - link: {between: [b, c], set: {rate: 4mbit}, from: c}\n"
        "  - link: {clear: [a, b], from: b}\n"
        "  - run: {on: a, run: [sh, -c, 'tc qdisc show dev eth0 | grep -c \"rate 3Mbit\"'], expect: {stdout: '1'}}\n"
        "  - run: {on: b, run: [sh, -c, 'tc qdisc show dev eth0 | grep -c tbf'], expect: {exit: 1, stdout: '0'}}\n"
        "  - run: {on: c, run: [sh, -c, 'tc qdisc show dev eth0 | grep -c \"rate 4Mbit\"'], expect: {stdout: '1'}}\n"
    )
    assert "passed" in said("run", str(file), "--lab", name)
    assert inspected()[0] == {"a:eth0": RATE | {"rate_bit_s": 7_000_000}, "b:eth0": RATE}


def test_a_profile_that_plays_is_no_difference_from_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    file, name = tmp_path / "cell.yaml", f"p{os.getpid()}"
    moments = "[{at: 0s, rate: 8mbit}, {at: 1ms, rate: 9mbit}]"
    file.write_text(f"hosts: {{a: , b: }}\nlinks: [{{ends: [a, b], profile: {{moments: {moments}}}}}]\n")
    try:
        said("up", str(file), "--name", name)
        assert becomes(lambda: "rate 9mbit" in said("link", "a", "b"))
        assert "nothing to change" in said("up", str(file), "--name", name)
        assert "rate 9mbit queue 10packets from a, rate 9mbit, profile of 2 moments from b" in " ".join(
            said("link", "a", "b", "set", "queue=10packets", "--from", "a").split()
        )
        assert "~ a:eth0: impairment as in the file again" in said("up", str(file), "--name", name)
    finally:
        labctl("down", "--all")
