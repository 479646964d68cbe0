from __future__ import annotations

import time
from pathlib import Path

from labctl.scenario.results import Outcome, StepResult
from labctl.scenario.steps import step_order
from tests.integration.scenarios import fails, passes, step

LISTEN = '      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, "server:5000")\n      listen(s, 2)\n'


def test_after_a_failed_step_no_further_one_is_run(tmp_path: Path) -> None:
    result = fails(
        tmp_path,
        '  - client: |\n      c = socket(AF_INET, SOCK_STREAM)\n      connect(c, "server:81")\n      getpid()\n'
        "  - client: getpid()\n",
    )
    (only,) = result.steps
    assert "returned -1 ECONNREFUSED (Connection refused)" in only.reason
    assert f'{tmp_path}/it.yaml:5: connect(c, "server:81")' in only.reason
    assert len(only.calls) == 2


def test_repeat_runs_its_steps_again_with_a_counter(tmp_path: Path) -> None:
    result = passes(
        tmp_path,
        "  - repeat:\n      times: '${n}'\n      as: i\n      steps:\n"
        "        - name: round ${i}\n          run: {on: client, run: [echo, '${i}'], expect: {stdout: '${i}'}}\n",
        header="topology: pair\nvariables: {n: 3}\n",
    )
    assert [each.index for each in result.steps] == ["1", "1.1.1", "1.2.1", "1.3.1"]
    assert step(result, "1.3.1").title == "round 3"


def test_a_failing_round_ends_the_repeat(tmp_path: Path) -> None:
    steps = "  - repeat: {times: 3, as: i, steps: [{expect: {that: '${i} < 2', now: true}}]}\n  - client: getpid()\n"
    result = fails(tmp_path, steps)
    assert [each.index for each in result.steps] == ["1", "1.1.1", "1.2.1"]
    assert step(result, "1").reason.startswith("round 2 of 3 failed: expected ${i} < 2; got 2 < 2")
    assert result.reason.startswith(f"step 1.2.1 ({tmp_path}/it.yaml:3)")


def test_branches_run_at_the_same_time(tmp_path: Path) -> None:
    echo = "{run: {on: client, run: [echo, '${i}'], expect: {stdout: '${i}'}}}"
    branch = f"      - repeat: {{times: 2, as: i, steps: [{echo}]}}\n"
    result = passes(
        tmp_path,
        f"  - server: |\n{LISTEN}"
        "  - parallel:\n"
        "      - server: accept(s)\n"
        "      - - run: {on: client, run: [sleep, 0.1]}\n"
        "        - client: |\n            c = socket(AF_INET, SOCK_STREAM)\n"
        '            connect(c, "server:5000")\n' + branch * 2,
    )
    assert [each.index for each in result.steps][:5] == ["1", "2", "2.1.1", "2.2.1", "2.2.2"]


def test_the_first_branch_that_fails_stops_the_others_even_in_a_blocked_call(tmp_path: Path) -> None:
    before = time.monotonic()
    result = fails(
        tmp_path,
        f"  - server: |\n{LISTEN}"
        "  - parallel:\n      - server: accept(s)\n      - run: {on: client, run: [sleep, 60]}\n"
        "      - expect: {on: client, listening: tcp/9, within: 60s}\n"
        "      - run: {on: server, shell: 'sleep 2; exit 9'}\n",
    )
    assert time.monotonic() - before < 40
    assert [each.outcome for each in result.steps[2:]] == [Outcome.SKIPPED] * 3 + [Outcome.FAILED]
    stopped = "stopped: branch 4 of step 2 failed; accept(3, addr, [16]) had not returned after "
    assert step(result, "2.1.1").reason.startswith(stopped)
    assert result.reason.startswith("step 2.4.1")


def test_variables_go_from_calls_to_programs_and_back(tmp_path: Path) -> None:
    passes(
        tmp_path,
        '  - server: |\n      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, ":0")\n      listen(s, 1)\n'
        "      me = getsockname(s)\n      $port = me.port\n"
        "  - expect: {on: server, listening: 'tcp/${port}'}\n"
        "  - run: {on: client, run: [echo, 'x${port}'], save: {stdout: said}}\n"
        '  - client: |\n      assert $said == "x${port}"\n'
        "  - set: {copy: '${said}!'}\n"
        "  - expect: {that: '$copy == \"x${port}!\"'}\n",
    )


def test_a_variable_that_does_not_fit_fails_the_step(tmp_path: Path) -> None:
    header = "topology: pair\nvariables: {port: many}\n"
    reason = fails(tmp_path, "  - expect: {on: server, listening: 'tcp/${port}'}\n", header=header).reason
    assert "the step is wrong after substitution of its variables: listening" in reason


def test_the_scenarios_timeout_ends_the_step_that_it_falls_in(tmp_path: Path) -> None:
    result = fails(tmp_path, "  - run: {on: client, run: [sleep, 60]}\n", header="topology: pair\ntimeout: 300ms\n")
    assert "the scenario's timeout of 300ms has passed" in result.reason
    assert result.duration_s < 40


def test_a_container_sorts_before_its_content_and_10_after_9() -> None:
    def result(index: str) -> StepResult:
        return StepResult(index, None, "set", "", Outcome.PASSED, "", 0.0, 0.0, 1)

    ordered = sorted(map(result, ("10", "9.2.1", "9", "9.10", "9.2")), key=step_order)
    assert [each.index for each in ordered] == ["9", "9.2", "9.2.1", "9.10", "10"]


def test_a_step_on_a_group_runs_on_its_nodes_at_the_same_time(tmp_path: Path) -> None:
    fleet = (
        "topology: {hosts: {web: {count: 2, labels: [edge]}, db: }, groups: {every: [web, db]},\n"
        "  networks: {lan: {members: [web, db]}}}\n"
    )
    steps = (
        "  - file: {on: every, path: /tmp/x, content: here}\n"
        "  - start: {on: web, name: wait, shell: 'while test -e /tmp/x; do sleep 0.02; done'}\n"
        "  - expect: {on: web, reachable: db}\n"
        "  - run: {on: edge, run: [rm, /tmp/x]}\n"
        "  - wait: web-1/wait\n"
        "  - wait: web-2/wait\n"
        "  - run: {on: every, shell: 'test -e /tmp/x'}\n"
    )
    result = fails(tmp_path, steps, header=fleet)
    assert {each.host for each in result.steps if each.index.startswith("1.")} == {"web-1", "web-2", "db"}
    assert "run test -e /tmp/x on web-" in result.reason
