from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from tests.e2e.command import ECHO, LABCTL, REFUSED, SKIPPED, TIMEOUT_S, WAITS, WRONG, environment, labctl
from tests.patience import patient

SCHEMA = json.loads((files("labctl") / "schemas/result.schema.json").read_text())


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A directory with a scenario that passes, one that fails, one that is skipped, and a file that is none."""
    folder = tmp_path / "suite"
    (folder / "more").mkdir(parents=True)
    (folder / "echo.yaml").write_text(ECHO)
    (folder / "more" / "refused.yaml").write_text(REFUSED)
    (folder / "skipped.yaml").write_text(SKIPPED)
    (folder / "topology.yaml").write_text("hosts: {a: {}, b: {}}\nlinks: [[a, b]]\n")
    return folder


def test_a_scenario_that_passes_ends_with_0_and_shows_the_conversation(suite: Path) -> None:
    ran = labctl("run", "echo.yaml", cwd=suite)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "socket(AF_INET, SOCK_STREAM)" in ran.stdout
    assert "✓ passed in" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80


def test_an_expectation_that_fails_ends_with_1_and_tells_file_line_and_errno(suite: Path) -> None:
    ran = labctl("run", suite / "more" / "refused.yaml")
    assert ran.returncode == 1
    assert f"  {suite}/more/refused.yaml:4:" in ran.stdout
    assert "ECONNREFUSED" in ran.stdout


def test_a_run_that_skips_everything_says_that_nothing_was_tested(suite: Path) -> None:
    ran = labctl("run", suite / "skipped.yaml")
    assert ran.returncode == 0
    assert "no-such-program" in ran.stdout
    assert "Nothing was tested" in ran.stdout


@pytest.mark.parametrize("jobs", [(), ("-j", "3")], ids=["one at a time", "three at a time"])
def test_a_directory_runs_its_scenarios_and_counts_them(suite: Path, jobs: tuple[str, ...]) -> None:
    ran = labctl("run", suite, *jobs)
    assert ran.returncode == 1
    assert ran.stdout.rstrip().split("\n")[-1].startswith("1 passed, 1 failed, 1 skipped in ")
    assert "✓ A server echoes" in ran.stdout


def test_json_follows_the_schema_and_is_all_of_standard_output(suite: Path) -> None:
    ran = labctl("run", suite, "--json", "-")
    data = json.loads(ran.stdout)
    jsonschema.validate(data, SCHEMA)
    assert {each["name"]: each["outcome"] for each in data["scenarios"]} == {
        "A server echoes": "passed",
        "Nobody listens": "failed",
        "Needs what is not there": "skipped",
    }


def test_json_has_every_call_of_both_hosts_on_one_clock(suite: Path) -> None:
    data = json.loads(labctl("run", suite / "echo.yaml", "--json", "-").stdout)
    calls = [call for step in data["scenarios"][0]["steps"] for call in step["calls"]]
    calls.sort(key=lambda call: call["started_s"])
    assert [call["call"].split("(")[0] for call in calls] == [
        *("socket", "bind", "listen"),
        *("socket", "connect", "send"),
        *("accept", "recv"),
    ]
    assert [call["returned"] for call in calls] == [3, 0, 0, 3, 0, 5, 4, 5]


def test_junit_is_written_when_scenarios_fail(suite: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert labctl("run", suite, "--junit", report).returncode == 1
    root = ElementTree.parse(report).getroot()
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("3", "1", "1")
    failure = root.find(".//failure")
    assert failure is not None
    assert "ECONNREFUSED" in (failure.get("message") or "")


def test_a_report_that_cannot_be_written_is_told_before_anything_runs(suite: Path, tmp_path: Path) -> None:
    ran = labctl("run", suite, "--junit", tmp_path / "none" / "report.xml")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ": no directory " in ran.stderr


def test_wrong_files_give_all_their_mistakes_and_nothing_is_run(suite: Path) -> None:
    (suite / "wrong.yaml").write_text(WRONG)
    (suite / "broken.yaml").write_text("steps: [\n")
    ran = labctl("run", suite)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"{suite}/wrong.yaml:3:1" in ran.stderr
    assert "sokcet" in ran.stderr
    assert "did you mean `socket`?" in ran.stderr
    assert f"{suite}/broken.yaml:" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_topology_given_to_run_is_told_apart(suite: Path) -> None:
    ran = labctl("run", suite / "topology.yaml")
    assert ran.returncode == 2
    assert "is a topology, not a scenario" in ran.stderr


def test_an_unknown_name_gives_a_suggestion() -> None:
    ran = labctl("run", "tcp-ecko")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Did you mean tcp-echo" in " ".join(ran.stderr.split())


def test_a_directory_without_scenarios_is_an_error(tmp_path: Path) -> None:
    ran = labctl("run", tmp_path)
    assert ran.returncode == 2
    assert "no scenario" in ran.stderr


def test_a_shipped_scenario_runs_by_name_from_anywhere(tmp_path: Path) -> None:
    ran = labctl("run", "tcp-echo", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "✓ passed" in ran.stdout


def test_the_topology_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "h1.yaml"
    path.write_text(
        "name: One host\ntopology: pair\nsteps:\n  - run: {on: h2, run: [hostname], expect: {stdout: h2}}\n"
    )
    ran = labctl("run", path, "--topo", "star:2")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_verbose_streams_program_output(tmp_path: Path) -> None:
    path = tmp_path / "talks.yaml"
    path.write_text("topology: pair\nsteps:\n  - run: {on: client, run: [echo, to be seen]}\n")
    assert "│ to be seen" in labctl("run", path, "-v").stdout
    assert "│ to be seen" not in labctl("run", path).stdout


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda v: str(v)
)
def test_a_signal_ends_the_run_without_a_traceback(tmp_path: Path, number: signal.Signals, status: int) -> None:
    path, report = tmp_path / "waits.yaml", tmp_path / "report.xml"
    path.write_text(WAITS)
    process = subprocess.Popen(
        [LABCTL, "run", path, "-v", "--junit", report],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        while process.stdout.readline() != "client sh │ ready\n":
            pass
        process.send_signal(number)
        _, complaint = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == status
    assert complaint == f"labctl: interrupted by {number.name}; every lab of this run was removed.\n"
    (error,) = ElementTree.parse(report).getroot().iter("error")
    assert number.name in (error.get("message") or "")


ACCEPTS = """topology: pair
steps:
  - parallel:
      - server: |
          s = socket(AF_INET, SOCK_STREAM)
          listen(s, 1)
          conn, peer = accept(s)
      # the calling process sleeps in accept(2), proc_pid_wchan(5)
      - run: {on: server, shell: "until grep -qs accept /proc/*/wchan; do :; done; echo accepting; sleep 60"}
"""


def test_an_interrupted_run_shows_the_call_that_was_in_progress(tmp_path: Path) -> None:
    path, report = tmp_path / "accepts.yaml", tmp_path / "report.json"
    path.write_text(ACCEPTS)
    with subprocess.Popen(
        [LABCTL, "run", path, "-v", "--json", report],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        before = list(iter(process.stdout.readline, "server until │ accepting\n"))
        process.send_signal(signal.SIGINT)
        after, _ = process.communicate(timeout=TIMEOUT_S)
    said = "".join(before) + after
    assert "accept(3, …) … has not returned" in said or re.search(r"accept\(3, …\) blocks[^✓]*… accept has not", said)
    assert "accept(3, addr, [16]) had not returned after" in " ".join(said.split())
    steps = json.loads(report.read_text())["scenarios"][0]["steps"]
    (call,) = (each for step in steps for each in step["calls"] if each["returned"] is None)
    assert (call["call"], call["duration_s"]) == ("accept(3, addr, [16])", None)


def test_an_interrupted_run_of_many_shows_the_call_that_was_in_progress(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(ACCEPTS)
    (tmp_path / "b.yaml").write_text("topology: pair\nsteps:\n  - run: {on: client, run: ['true']}\n")
    with subprocess.Popen(
        [LABCTL, "run", "-v", tmp_path],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        while "│ accepting" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=TIMEOUT_S)
    after_the_line_of_the_scenario = said.partition("─" * 20)[2]
    assert "accept(3, …) … has not returned" in after_the_line_of_the_scenario, said
    assert "1 interrupted, 1 not run in " in said


def test_an_interrupted_run_of_many_counts_what_was_not_run(tmp_path: Path) -> None:
    quick = "name: Quick\ntopology: pair\nsteps:\n  - run: {on: client, run: ['true']}\n"
    (tmp_path / "a-quick.yaml").write_text(quick)
    (tmp_path / "b-waits.yaml").write_text(WAITS)
    for letter in "cde":
        (tmp_path / f"{letter}.yaml").write_text(quick.replace("Quick", letter))
    process = subprocess.Popen(
        [LABCTL, "run", "-v", tmp_path],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        while "│ ready" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        rest, complaint = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert re.search(r"^1 passed, 1 interrupted, 3 not run in ", rest, flags=re.MULTILINE), rest
    assert "error" not in rest
    assert complaint == "labctl: interrupted by SIGINT; every lab of this run was removed.\n"


def test_a_reader_that_goes_away_gives_no_traceback(suite: Path) -> None:
    for arguments in (f"run {suite}", "examples", "plan star:30", "schema scenario", "--help"):
        command = ["sh", "-c", f'"{LABCTL}" {arguments} | head -1']
        ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
        assert ran.stderr == "", arguments
        assert len(ran.stdout.splitlines()) == 1, arguments


def test_a_locale_without_unicode_gets_ascii(suite: Path) -> None:
    ran = labctl("run", suite / "echo.yaml", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert ran.returncode == 0
    assert ran.stdout.isascii()
    assert "socket(AF_INET, SOCK_STREAM)" in ran.stdout


@pytest.mark.parametrize("leave", ["enter", "ctrl-c", "down"])
def test_keep_on_failure_keeps_the_lab_for_shells_and_ends_with_the_failure(leave: str, suite: Path) -> None:
    process = subprocess.Popen(
        [LABCTL, "run", suite / "more" / "refused.yaml", "--keep-on-failure"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        seen = ""
        while "Enter or Ctrl-C" not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        (shell,) = [
            line.split() for line in seen.splitlines() if line.startswith("  labctl shell") and "client" in line
        ]
        inside = labctl("exec", *shell[2:], "--", "hostname")
        console = subprocess.run(
            [LABCTL, "console", shell[3]],
            input="client hostname\n",
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        if leave == "ctrl-c":
            process.send_signal(signal.SIGINT)
        if leave == "down":
            assert labctl("down", shell[3]).returncode == 0
            assert process.stdout.readline() == "Another command stopped the lab.\n"
        _, complaint = process.communicate("\n" if leave == "enter" else None, timeout=TIMEOUT_S)
    assert process.returncode == 1, complaint
    assert inside.stdout.strip() == "client", inside.stderr
    assert console.stdout.strip() == "client", console.stderr
    assert complaint == ""
    assert labctl("ps").stdout.strip() == "No lab is running." or shell[3] not in labctl("ps").stdout


def test_without_standard_input_keep_on_failure_does_not_wait_for_anybody(suite: Path) -> None:
    ran = labctl("run", suite / "more" / "refused.yaml", "--keep-on-failure")
    assert ran.returncode == 1
    assert "Standard input is closed" in ran.stdout


def test_a_killed_run_takes_the_lab_that_it_kept_along(suite: Path) -> None:
    process = subprocess.Popen(
        [LABCTL, "run", suite / "more" / "refused.yaml", "--keep-on-failure"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        while "Enter or Ctrl-C" not in process.stdout.readline():
            pass
        process.kill()
    # The fixture looks for what is left; soon a command finds no lab.
    deadline = time.monotonic() + patient(10)
    while "refused" in labctl("ps").stdout:
        assert time.monotonic() < deadline
