"""How steps follow each other: failures, repeat, parallel, variables, deadlines, cancellation, several scenarios."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from labctl.lab.client import state_dir
from labctl.lab.client.handle import Lab
from labctl.scenario import Cancellation, RunOptions, load, run_many
from labctl.scenario.results import Listener, Outcome, ScenarioInfo, ScenarioResult
from tests.integration.scenarios import Told, fails, passes, run, step

LISTEN = '      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, "server:5000")\n      listen(s, 2)\n'


def test_calls_record_what_came_back_on_one_clock(tmp_path: Path) -> None:
    result = passes(
        tmp_path,
        f"  - server: |\n{LISTEN}"
        "      accept(s) -> pending\n"
        '  - client: |\n      c = socket(AF_INET, SOCK_STREAM)\n      connect(c, "server:81") -> ECONNREFUSED\n'
        '      d = socket(AF_INET, SOCK_STREAM)\n      connect(d, "server:5000")\n'
        "  - server/second: getpid()\n"
        "  - server: conn, peer = await\n",
    )
    calls = [call for each in result.steps for call in each.calls]
    assert [call.host for call in calls] == ["server"] * 4 + ["client"] * 4 + ["server"] * 2
    refused = step(result, "2").calls[1]
    assert (refused.returned, refused.errno, refused.errno_meaning) == (-1, "ECONNREFUSED", "Connection refused")
    assert step(result, "1").calls[3].returned is None
    assert step(result, "4").calls[0].returned == 4
    assert step(result, "3").calls[0].process == "second"
    assert result.hosts == ("client", "server")
    begun = [call.started_s for call in calls[:-1]]
    assert begun == sorted(begun)
    assert begun[0] >= 0


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
        "      - run: {on: server, shell: 'sleep 0.1; exit 9'}\n",
    )
    assert time.monotonic() - before < 40
    assert [each.outcome for each in result.steps[2:]] == [Outcome.SKIPPED] * 3 + [Outcome.FAILED]
    stopped = "stopped: branch 4 of step 2 failed; accept(3, addr, [16]) had not returned after "
    assert step(result, "2.1.1").reason.startswith(stopped)
    assert result.reason.startswith("step 2.4.1")


def test_two_branches_cannot_make_calls_in_one_process(tmp_path: Path) -> None:
    steps = (
        f"  - server: |\n{LISTEN}"
        "  - parallel:\n      - server: accept(s)\n"
        "      - - run: {on: client, run: [sleep, 0.7]}\n        - server: getpid()\n"
    )
    assert (
        "server is making the calls of step 2.1.1; give each branch a process of its own"
        in fails(tmp_path, steps).reason
    )


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


def test_a_calls_own_deadline_may_be_longer_than_the_steps(tmp_path: Path) -> None:
    steps = f"  - server: |\n{LISTEN}      accept(s) -> pending\n  - server: await within 1500ms\n"
    result = fails(tmp_path, steps, header="topology: pair\nwithin: 1s\n")
    assert step(result, "2").duration_s >= 1.4
    assert "accept(3, addr, [16]) has not returned after" in result.reason


def test_what_is_required_and_missing_skips_with_the_reason(tmp_path: Path) -> None:
    header = "topology: pair\nrequires: {programs: [no-such-program]}\n"
    result = run(tmp_path, "  - run: {on: client, run: [no-such-program]}\n", header=header)
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "the program `no-such-program` is not installed")
    assert result.steps == ()


def test_a_listener_is_told_in_order(tmp_path: Path) -> None:
    told = Told()
    passes(tmp_path, "  - client: |\n      getpid()\n      getpid()\n  - set: {a: 1}\n", listener=told)
    expected = ["step 1", "call 1", "call 1", "passed 1", "step 2", "passed 2"]
    assert told.events == ["started it", *expected, "finished passed"]


KILLED = """\
  - client/it: |
      $pid = getpid()
  - run: {on: client, shell: 'kill -KILL ${pid}; while kill -0 ${pid} 2>/dev/null; do :; done'}
"""


def test_a_calling_process_that_is_killed_after_its_last_call_fails_the_scenario(tmp_path: Path) -> None:
    result = fails(tmp_path, KILLED)
    expected = (
        "expected the calling process client/it to run until the end; it had ended by itself: it was ended by SIGKILL"
    )
    assert expected in result.reason
    assert [(each.kind, each.host, each.line) for each in result.steps[2:]] == [("end", "client", 3)]


def test_a_calling_process_whose_end_a_call_has_told_is_told_once(tmp_path: Path) -> None:
    result = fails(tmp_path, KILLED + "  - client/it: getpid()\n")
    assert "killed by SIGKILL during getpid" in result.reason
    assert [each.kind for each in result.steps] == ["calls", "run", "calls"]


def test_a_calling_process_that_a_step_has_killed_may_be_gone_at_the_end(tmp_path: Path) -> None:
    own = "  - signal: {process: client/it, signal: KILL}\n"
    passes(tmp_path, KILLED.replace("  - run:", f"{own}  - run:").replace("kill -KILL ${pid}; ", ""))


def test_a_step_that_kills_its_calling_process_says_so(tmp_path: Path) -> None:
    result = fails(
        tmp_path, "  - client: getpid()\n  - signal: {process: client, signal: KILL}\n  - client: getpid()\n"
    )
    assert "killed by SIGKILL" in result.reason


@pytest.mark.parametrize(
    "steps",
    [
        "  - run: {on: client, run: [sleep, 60]}\n",
        f"  - server: |\n{LISTEN}      accept(s)\n",
        "  - expect: {on: client, listening: tcp/9, within: 60s}\n",
        "  - start: {on: client, run: [sleep, 60], ready: {line: x}}\n",
        "  - parallel:\n      - run: {on: client, run: [sleep, 60]}\n      - run: {on: server, run: [sleep, 60]}\n",
    ],
    ids=["run", "calls", "expect", "start", "parallel"],
)
def test_cancelling_ends_every_wait_promptly(steps: str, tmp_path: Path) -> None:
    cancellation, told = Cancellation(), Told()
    file = tmp_path / "it.yaml"
    file.write_text(f"topology: pair\nwithin: 60s\nsteps:\n{steps}")
    done: list[ScenarioResult] = []
    scenario = load(file)
    thread = threading.Thread(
        target=lambda: done.extend(run_many([scenario], RunOptions(), told, cancellation).scenarios)
    )
    thread.start()
    assert told.began.wait(20)
    before = time.monotonic()
    cancellation.cancel("interrupted")
    thread.join(20)
    assert time.monotonic() - before < 20
    assert (done[0].outcome, done[0].reason) == (Outcome.ERROR, "interrupted")


def test_scenarios_run_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text(f"topology: pair\nsteps:\n  - server: |\n{LISTEN}  - run: {{on: client, run: [sleep, 0.3]}}\n")
    before = time.monotonic()
    result = run_many([load(file)] * 4, RunOptions(jobs=4))
    assert [each.outcome for each in result.scenarios] == [Outcome.PASSED] * 4
    assert time.monotonic() - before < 40


def test_results_come_in_the_order_of_the_scenarios(tmp_path: Path) -> None:
    scenarios = []
    for name, seconds in (("slow", 0.3), ("quick", 0)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"topology: pair\nsteps:\n  - run: {{on: client, run: [sleep, {seconds}]}}\n")
        scenarios.append(load(file))
    result = run_many(scenarios, RunOptions(jobs=2))
    assert [each.name for each in result.scenarios] == ["slow", "quick"]


def test_the_lab_of_a_failed_scenario_is_kept_until_the_listener_returns(tmp_path: Path) -> None:
    class Keeper(Listener):
        hints: tuple[str, ...] = ()
        entered = ""

        def scenario_kept(self, scenario: ScenarioInfo, result: ScenarioResult, hints: tuple[str, ...]) -> None:
            self.hints = hints
            name = hints[0].split("--lab ")[1].split()[0]
            with Lab.attach(name) as lab, open(lab.open_file("client", "/proc/net/dev")) as file:
                self.entered = file.read()

    keeper = Keeper()
    options = RunOptions(keep_on_failure=True)
    passes(tmp_path, "  - client: getpid()\n", options=options, listener=keeper)
    assert not any(keeper.hints)
    fails(tmp_path, "  - run: {on: client, run: ['false']}\n", options=options, listener=keeper)
    assert [each.split()[-1] for each in keeper.hints[:2]] == ["client", "server"]
    assert keeper.hints[2].startswith("labctl console it-")
    assert "eth0" in keeper.entered
    assert state_dir.labs() == []


def test_data_that_differs_is_told_in_the_reason(tmp_path: Path) -> None:
    result = fails(
        tmp_path,
        "  - client: |\n      a, b = socketpair(AF_UNIX, SOCK_STREAM)\n"
        '      send(a, b"hello")\n      recv(b, 10) -> b"world"\n',
    )
    assert "returned 5, b'hello'; expected b'world'" in result.reason


def test_scenarios_that_a_cancelled_run_never_began_are_errors_and_no_skips(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text("topology: pair\nsteps:\n  - client: getpid()\n")
    cancellation = Cancellation()
    cancellation.cancel("interrupted")
    (result,) = run_many([load(file)], RunOptions(), Listener(), cancellation).scenarios
    assert (result.outcome, result.reason) == (Outcome.ERROR, "not run: interrupted")
