from __future__ import annotations

from pathlib import Path

from labctl.scenario import load
from labctl.scenario.call_steps import hosts_that_call_first, seconds_for
from tests.integration.scenarios import fails, passes, step

LISTEN = '      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, "server:5000")\n      listen(s, 2)\n'


KILLED = """\
  - client/it: |
      $pid = getpid()
  - run: {on: client, shell: 'kill -KILL ${pid}; while kill -0 ${pid} 2>/dev/null; do :; done'}
"""


def test_calls_record_their_results_on_one_clock(tmp_path: Path) -> None:
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


def test_calling_processes_start_ahead_where_nothing_else_runs_before(tmp_path: Path) -> None:
    def first(steps: str) -> list[str]:
        path = tmp_path / "scenario.yaml"
        path.write_text(f"topology: star:4\nsteps:\n{steps}")
        return hosts_that_call_first(load(path).steps)

    program = "  - run: {on: h1, run: ['true']}\n"
    calls = "".join(f"  - h{number}: getpid()\n" for number in (1, 2))
    assert first(calls) == ["h1", "h2"]
    assert first(program + calls) == ["h2"]
    assert first("  - h3/other: getpid()\n  - h3: getpid()\n" + calls) == ["h1", "h2"]
    assert first(f"  - h4: getpid()\n  - parallel:\n      - h3: getpid()\n{calls}") == ["h4"]


def test_a_calling_process_that_no_step_needed_is_no_failure(tmp_path: Path) -> None:
    steps = '  - server: getpid()\n  - server: bind(9, "server:1") -> 0\n  - client: getpid()\n'
    result = fails(tmp_path, steps)
    assert [each.index for each in result.steps] == ["1", "2"]


def test_the_first_calling_process_of_a_host_is_its_first_process(tmp_path: Path) -> None:
    passes(tmp_path, "  - run: {on: client, run: ['true']}\n  - server: getpid() -> 2\n  - client: getpid() -> 3\n")


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


def test_a_calls_own_deadline_may_be_longer_than_the_steps(tmp_path: Path) -> None:
    steps = f"  - server: |\n{LISTEN}      accept(s) -> pending\n  - server: await within 1500ms\n"
    result = fails(tmp_path, steps, header="topology: pair\nwithin: 1s\n")
    assert step(result, "2").duration_s >= 1.4
    assert "accept(3, addr, [16]) has not returned after" in result.reason


def test_a_calling_process_that_is_killed_after_its_last_call_fails_the_scenario(tmp_path: Path) -> None:
    result = fails(tmp_path, KILLED)
    expected = (
        "expected the calling process client/it to run until the end; it had ended by itself: it was ended by SIGKILL"
    )
    assert expected in result.reason
    assert [(each.kind, each.host, each.line) for each in result.steps[2:]] == [("end", "client", 3)]


def test_a_calling_process_whose_end_a_call_has_reported_is_reported_once(tmp_path: Path) -> None:
    result = fails(tmp_path, KILLED + "  - client/it: getpid()\n")
    assert "killed by SIGKILL during getpid" in result.reason
    assert [each.kind for each in result.steps] == ["calls", "run", "calls"]


def test_a_calling_process_that_a_step_has_killed_need_not_run_at_the_end(tmp_path: Path) -> None:
    own = "  - signal: {process: client/it, signal: KILL}\n"
    passes(tmp_path, KILLED.replace("  - run:", f"{own}  - run:").replace("kill -KILL ${pid}; ", ""))


def test_a_step_that_kills_its_calling_process_reports_it(tmp_path: Path) -> None:
    result = fails(
        tmp_path, "  - client: getpid()\n  - signal: {process: client, signal: KILL}\n  - client: getpid()\n"
    )
    assert "killed by SIGKILL" in result.reason


def test_data_that_differs_is_in_the_reason(tmp_path: Path) -> None:
    result = fails(
        tmp_path,
        "  - client: |\n      a, b = socketpair(AF_UNIX, SOCK_STREAM)\n"
        '      send(a, b"hello")\n      recv(b, 10) -> b"world"\n',
    )
    assert "returned 5, b'hello'; expected b'world'" in result.reason


def test_the_deadlines_of_calls_add_to_the_default_and_that_of_the_step_replaces_it(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    calls = "|\n      s = socket(AF_INET, SOCK_STREAM)\n      listen(s, 1) within 3s\n      accept(s) within 2s\n"
    file.write_text(f"topology: pair\nsteps:\n  - client: {calls}  - within: 1s\n    server: {calls}")
    first, second = load(file).steps
    assert (seconds_for(first, 10.0), seconds_for(second, 10.0)) == (15.0, 1.0)
