"""`Lab.scenario`: a scenario's steps on a lab, held for a while; and links with faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl import ActivityKind, Lab, ScenarioFailed, scenario
from labctl.documents import DocumentError
from labctl.scenario.results import Outcome

LISTEN = """
name: a listener and a program
topology: star:2
steps:
  - server: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, "server:5000")
      listen(s, 1)
  - start: {on: server, run: [sleep, "4321"], name: sleeper}
  - run: {on: client, run: [echo, hello]}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab("pair", visible_paths=[tmp_path_factory.getbasetemp()]) as lab:
        lab["server"].run(["true"])
        yield lab


@pytest.fixture
def listen(tmp_path: Path) -> Path:
    path = tmp_path / "listen.scenario.yaml"
    path.write_text(LISTEN)
    return path


def processes(lab: Lab) -> str:
    return lab["server"].run(["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null"]).stdout.replace("\x00", " ")


def test_what_it_started_and_opened_is_held_until_the_block_ends(lab: Lab, listen: Path) -> None:
    with lab.scenario(listen) as run:
        assert run.result.outcome is Outcome.PASSED
        assert [call.call for call in run.calls][-1] == "listen(3, 1)"
        lab["client"].connect("server:5000").close()
        assert "sleep 4321" in processes(lab)
    assert "sleep 4321" not in processes(lab)
    with pytest.raises(ConnectionRefusedError):
        lab["client"].connect("server:5000")


def test_a_scenario_that_was_loaded_is_taken(lab: Lab, listen: Path) -> None:
    loaded = scenario.load(listen, topology="pair")
    with lab.scenario(loaded) as run:
        assert "a listener" in repr(run)


def test_a_scenario_that_fails_raises_with_its_result_and_is_undone(lab: Lab, listen: Path) -> None:
    listen.write_text(LISTEN + "  - expect: {on: server, listening: tcp/81, within: 50ms}\n")
    with pytest.raises(ScenarioFailed, match="tcp/81") as caught, lab.scenario(listen):
        pytest.fail("it did not fail")
    assert caught.value.result.outcome is Outcome.FAILED
    assert len(caught.value.result.steps) == 4
    assert "sleep 4321" not in processes(lab)
    report = lab.report()
    assert "bind(3, {AF_INET, 10.0.0.2:5000}, 16)" in report
    assert "sockets when scenario a listener and a program had failed" in report
    assert "LISTEN" in report


def test_a_scenario_that_does_not_fit_the_lab_is_refused_before_it_runs(lab: Lab, listen: Path) -> None:
    listen.write_text(LISTEN.replace("on: client", "on: h1"))
    with pytest.raises(DocumentError, match="h1"), lab.scenario(listen):
        pytest.fail("it ran")


def test_what_a_scenario_requires_and_is_not_there_skips_it(lab: Lab, listen: Path) -> None:
    listen.write_text(LISTEN.replace("steps:", "requires: {programs: [nonesuch]}\nsteps:"))
    with pytest.raises(ScenarioFailed, match="nonesuch") as caught, lab.scenario(listen):
        pytest.fail("it ran")
    assert caught.value.result.outcome is Outcome.SKIPPED


def test_links_are_as_they_were_after_the_block(lab: Lab, listen: Path) -> None:
    listen.write_text(LISTEN + "  - link: {down: [client, server]}\n")
    with lab.scenario(listen):
        assert not lab.link("client", "server").is_up
    assert lab.link("client", "server").is_up


def test_it_is_run_once(lab: Lab, listen: Path) -> None:
    run = lab.scenario(listen)
    with pytest.raises(RuntimeError, match="with"):
        _ = run.result
    with run:
        pass
    with pytest.raises(RuntimeError, match="already"), run:
        pass


def test_its_calls_are_in_the_activity_in_order(listen: Path) -> None:
    with Lab("pair", visible_paths=[listen.parent]) as lab:
        before = lab["client"].run(["true"])
        with lab.scenario(listen):
            lab["client"].connect("server:5000").close()
        done = lab.activity()
    assert before
    calls = [each.what for each in done if each.kind is ActivityKind.CALL]
    assert [call.partition("(")[0] for call in calls] == ["socket", "bind", "listen"]
    assert done[0].what == "true"
    assert done[-1].kind is ActivityKind.CONNECT
    assert all(each.started_s >= 0 for each in done)


def test_invalid_values_of_a_link_are_refused(lab: Lab) -> None:
    link = lab.link("client", "server")
    with pytest.raises(ValueError, match="`soon` is not a delay"):
        link.set(delay="soon")
    with pytest.raises(KeyError, match="is not an end of it"):
        link.set(delay="1ms", sender="other")
