from __future__ import annotations

import time
from pathlib import Path

import pytest

from labctl.scenario.conditions import BECOMES_TRUE_WITHIN_S
from tests.integration.scenarios import fails, passes, step


def test_a_condition_that_does_not_stay_true_is_reported(tmp_path: Path) -> None:
    start = "  - start: {on: server, shell: sleep 2, name: it}\n"
    reason = fails(tmp_path, start + "  - expect: {running: it, for: 20s}\n").reason
    assert "expected it to run; it exited with status 0 (it became true, but did not stay so for 20s)" in reason
    passes(tmp_path, "  - expect: {on: server, not_listening: tcp/1, for: 100ms}\n")


def test_becomes_true_within(tmp_path: Path) -> None:
    start = "  - start: {on: server, shell: sleep 0.2; echo x > /tmp/x; sleep 60, name: it}\n"
    passes(tmp_path, start + "  - expect: {on: server, file: {path: /tmp/x, equals: x}, within: 15s}\n")
    reason = fails(tmp_path, start + "  - expect: {on: server, file: {path: /tmp/y}, now: true}\n").reason
    assert "expected the file /tmp/y on server; it does not exist" in reason


def test_all_conditions_of_a_step_must_hold(tmp_path: Path) -> None:
    reason = fails(tmp_path, "  - expect: {on: server, listening: tcp/1, reachable: client, within: 10ms}\n").reason
    assert "nothing listens on tcp/1 on server; server has no TCP listeners (within 10ms)" in reason


def test_comparisons_of_variables(tmp_path: Path) -> None:
    header = "topology: pair\nvariables: {a: 5, b: five}\n"
    passes(tmp_path, "  - expect: {that: '${a} == 5'}\n  - expect: {that: '$b == \"five\"'}\n", header=header)
    result = fails(tmp_path, "  - expect: {that: '${a} > 7', now: true}\n", header=header)
    assert step(result, "1").reason == "expected ${a} > 7; got 5 > 7"


_MANY = "printf 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\\n'"


def test_an_expected_command_is_run_again_until_it_succeeds(tmp_path: Path) -> None:
    result = passes(
        tmp_path,
        "  - start: {on: server, shell: 'sleep 0.3; echo ready > /tmp/x; sleep 60', name: slow}\n"
        "  - expect: {on: server, command: [cat, /tmp/x], within: 20s, stdout: ready, save: {stdout: SAID}}\n"
        "  - expect: {on: server, shell: 'echo $WORD; exit 3', env: {WORD: no}, exit: 3, stdout: {contains: n}}\n"
        "  - expect: {that: '${SAID} == \"ready\"'}\n",
    )
    assert step(result, "2").exit_status == 0
    assert step(result, "2").output is not None
    assert step(result, "2").output.stdout == "ready\n"  # type: ignore[union-attr]  # asserted above


def test_an_expected_command_that_never_succeeds_shows_its_last_output_and_status(tmp_path: Path) -> None:
    result = fails(tmp_path, "  - expect: {on: server, shell: 'echo up $$; echo no route >&2; exit 3', within: 5s}\n")
    (only,) = result.steps
    assert only.reason.startswith("command `echo up $$; echo no route >&2; exit 3` on server: exit status: expected 0")
    assert "got 3 (within 5s)\nno route" in only.reason
    assert only.exit_status == 3
    assert only.output is not None
    assert only.output.stdout.startswith("up ")


def test_an_expected_command_that_hangs_is_ended_with_the_step(tmp_path: Path) -> None:
    before = time.monotonic()
    result = fails(tmp_path, "  - expect: {on: server, shell: 'echo begun; sleep 100', within: 5s}\n")
    assert time.monotonic() - before < 40
    assert "it had not ended (within 5s)\nbegun" in result.steps[0].reason


@pytest.mark.parametrize(
    "steps",
    [
        f'  - run: {{on: server, shell: "{_MANY}", expect: {{stdout: {{matches: "(a+)+$x"}}}}}}\n',
        f'  - start: {{on: server, name: a, shell: "{_MANY}; sleep 60", ready: {{line: "(a+)+$x"}}}}\n',
        f'  - start: {{on: server, name: a, shell: "{_MANY}; sleep 60"}}\n'
        '  - expect: {output: {process: a, stdout: {matches: "(a+)+$x"}}, within: 10s}\n',
    ],
)
def test_a_search_without_end_fails_its_step_in_time(tmp_path: Path, steps: str) -> None:
    started = time.monotonic()
    assert "cannot search for /(a+)+$x/" in fails(tmp_path, steps).reason
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "condition",
    [
        "output: {process: a, stdout: {contains: down}}",
        "running: a",
        "that: '1 == 2'",
    ],
)
def test_a_condition_that_cannot_become_true_is_not_waited_for(tmp_path: Path, condition: str) -> None:
    result = fails(
        tmp_path,
        "  - start: {on: client, shell: echo up, name: a, ready: {line: up}}\n"
        "  - wait: a\n"
        f"  - expect: {{{condition}, within: 30s}}\n",
    )
    assert step(result, "3").duration_s < 10
    assert "within" not in step(result, "3").reason


def test_children_of_an_ended_program_may_still_write(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - start: {on: client, shell: '(sleep 0.5; echo late) & exit 0', name: a}\n"
        "  - expect: {output: {process: a, stdout: late}, within: 20s}\n",
    )


def test_another_branch_may_start_a_program_of_that_name_again(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - start: {on: client, shell: exit 0, name: a}\n"
        "  - wait: a\n"
        "  - parallel:\n"
        "    - expect: {running: a, within: 20s}\n"
        "    - - run: {on: client, run: [sleep, '0.3']}\n"
        "      - start: {on: client, run: [sleep, '60'], name: a}\n",
    )


def test_a_condition_without_a_deadline_is_checked_for_the_default_time(tmp_path: Path) -> None:
    result = fails(tmp_path, "  - expect: {on: server, listening: tcp/1}\n")
    assert step(result, "1").duration_s >= BECOMES_TRUE_WITHIN_S
    assert "(within 3s)" in result.reason
