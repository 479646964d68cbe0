"""Every scenario that ships runs here, passes, and shows what it says that it shows."""

from __future__ import annotations

import errno
import re
from functools import cache
from pathlib import Path

import pytest

from labctl import scenario
from labctl.scenario.results import CallRecord, Outcome, ScenarioResult

INDEX = Path(__file__).parents[3] / "docs" / "sockets.md"
SHIPPED = Path(__file__).parents[3] / "scenarios"
FILES = sorted(SHIPPED.glob("*.yaml"))
ERRNOS = frozenset(errno.errorcode.values()) | {"EOPNOTSUPP"}  # on Linux the same number as ENOTSUP
STATES = ("SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT2", "CLOSE_WAIT", "TIME_WAIT")
OPTIONS = ("SO_REUSEADDR", "SO_REUSEPORT", "SO_SNDTIMEO", "SO_ERROR", "IPV6_V6ONLY", "MSG_TRUNC", "SHUT_WR")

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@cache
def run(file: Path) -> ScenarioResult:
    return scenario.run_scenario(scenario.load(file))


def ran(file: Path) -> ScenarioResult:
    """Its result; the test is skipped when the machine lacks what the scenario requires."""
    result = run(file)
    if result.outcome is Outcome.SKIPPED:
        pytest.skip(result.reason)
    return result


def calls(result: ScenarioResult) -> list[CallRecord]:
    return [call for step in result.steps for call in step.calls]


def promises(file: Path) -> str:
    """What is said of the scenario where people choose: its name, its `about` and its row in the table."""
    loaded = scenario.load(file)
    return f"{loaded.name} {loaded.about} {row(file)}"


def index() -> list[tuple[str, str]]:
    """What docs/sockets.md says: (errno, name of a scenario where it is to be seen)."""
    rows = re.findall(r"^\| (E[A-Z0-9]+) \|.*\| ([^|]+) \|$", INDEX.read_text(), re.MULTILINE)
    return [(name, stem) for name, stems in rows for stem in re.findall(r"\[([a-z0-9-]+)\]", stems)]


def errnos(result: ScenarioResult) -> set[str]:
    """Every errno that a call of the run came back with, as a failure or as the value of SO_ERROR."""
    answers = " ".join(f"{call.errno} {call.value}" for call in calls(result))
    return {_one_name(word) for word in re.findall(r"\bE[A-Z0-9]{3,}\b", answers)}


def row(file: Path) -> str:
    rows = [line for line in (SHIPPED / "README.md").read_text().splitlines() if line.startswith(f"| [{file.stem}](")]
    assert len(rows) == 1, f"scenarios/README.md has {len(rows)} rows for {file.name}"
    return rows[0]


@each_file
def test_it_passes(file: Path) -> None:
    result = ran(file)
    assert result.outcome is Outcome.PASSED, result.reason


@each_file
def test_every_errno_that_it_promises_came_from_the_kernel(file: Path) -> None:
    promised = {word for word in re.findall(r"\bE[A-Z0-9]{3,}\b", promises(file)) if word in ERRNOS}
    assert {_one_name(word) for word in promised} <= errnos(ran(file))


@each_file
def test_the_states_and_options_that_it_promises_are_in_its_steps(file: Path) -> None:
    steps = re.sub(r"#.*", "", file.read_text()).partition("\nsteps:")[2]
    text = promises(file)
    missing = [word for word in STATES + OPTIONS if re.search(rf"\b{word}\b", text) and word not in steps]
    assert not missing


@each_file
def test_it_begins_with_a_comment_and_has_a_description(file: Path) -> None:
    lines = file.read_text().splitlines()
    loaded = scenario.load(file)
    assert lines[0].startswith("# ")
    assert loaded.name
    assert loaded.about.endswith(".")
    assert max(map(len, lines)) <= 140


@each_file
def test_it_has_a_row_in_the_table(file: Path) -> None:
    assert row(file).count("|") == 4


def test_the_index_by_errno_could_be_read() -> None:
    assert len(index()) >= 30


@pytest.mark.parametrize(("name", "stem"), index(), ids=lambda text: text)
def test_the_index_by_errno_leads_to_a_scenario_that_shows_it(name: str, stem: str) -> None:
    assert _one_name(name) in errnos(ran(SHIPPED / f"{stem}.yaml"))


def _one_name(name: str) -> str:
    """EOPNOTSUPP and ENOTSUP, EAGAIN and EWOULDBLOCK are one number each, and either name may be shown."""
    return {"ENOTSUP": "EOPNOTSUPP", "EWOULDBLOCK": "EAGAIN"}.get(name, name)
