"""`labctl run` is read without Typer only where Typer would read the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.main import get_command

from labctl.cli.app import app
from labctl.cli.arguments import plain_request

MODEST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

WORDS = st.sampled_from(
    [
        *("tcp-echo", "a.yaml", "dir/", "-", "--", "", "2", "-1", "0", "pair", "x=y"),
        *("-j", "-j2", "-j=2", "--jobs", "--jobs=3", "--jobs=x", "-v", "-vv", "--verbose", "--verbos"),
        *("--junit", "--junit=o.xml", "--json", "--json=-", "--topo", "--topo=star:3", "--lab", "--lab=it"),
        *("--keep-on-failure", "-h", "--help", "--nonsense"),
        *(
            "--artifacts",
            "--artifacts=out",
            "--durations=d.json",
            "--shard",
            "--shard=1/2",
            "--until-fail",
            "--shuffle",
        ),
        *("--repeat", "--repeat=3", "--repeat=0", "--repeat=x", "--seed", "--seed=0", f"--seed={2**63}", "--seed=+1"),
    ]
)


def by_typer(words: list[str]) -> dict[str, Any]:
    command: Any = get_command(app)
    with command.commands["run"].make_context("run", list(words)) as context:
        return dict(context.params)


@MODEST
@given(st.lists(WORDS, max_size=6))
def test_what_is_read_without_typer_is_what_typer_reads(words: list[str]) -> None:
    request = plain_request(words)
    if request is None:
        return
    expected = by_typer(words)
    assert list(request.words) == list(expected["paths"])
    assert (request.jobs, request.junit, request.json) == (expected["jobs"], expected["junit"], expected["json"])
    assert (request.keep_on_failure, request.verbose) == (expected["keep_on_failure"], expected["verbose"])
    assert (request.topology, request.lab) == (expected["topo"], expected["lab"])
    same = ("artifacts", "durations", "shard", "repeat", "until_fail", "seed", "shuffle")
    assert {name: getattr(request, name) for name in same} == {name: expected[name] for name in same}


@pytest.mark.parametrize(
    "words",
    [
        ["tcp-echo"],
        ["a", "b", "-j", "2"],
        ["a", "--json=-", "-v"],
        ["--topo", "pair", "a"],
        ["a", "--repeat", "3", "--seed=7"],
    ],
)
def test_the_usual_lines_need_no_typer(words: list[str]) -> None:
    assert plain_request(words) is not None


@pytest.mark.parametrize("words", [[], ["-h"], ["a", "-j", "0"], ["a", "--junit"], ["a", "--nonsense"], ["--", "-a"]])
def test_mistakes_and_help_are_typers(words: list[str]) -> None:
    assert plain_request(words) is None
