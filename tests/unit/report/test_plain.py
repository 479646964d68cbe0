""""""

from __future__ import annotations

from labctl.programs.output import OutputRecord
from labctl.report import plain
from labctl.report.terminal import ASCII, Look, cells
from labctl.scenario.results import FaultRecord, ListeningRecord, Outcome, ProgramRecord
from labctl.structs import replace
from tests import timelines
from tests.unit.report.samples import BROKEN, ECHO, FAILED, SKIPPED, run, scenario, step

LOOK = Look(80)


def test_a_failure_tells_place_expectation_and_output_in_full() -> None:
    assert plain.verdict(FAILED, LOOK) == [
        "✗ failed in 0.21 s",
        "",
        "  scenarios/echo.yaml:21: step 4, run on client: curl -s http://server:8000/",
        "    exit status 0 expected, came back 7",
        "    stdout: nothing",
        "    stderr:",
        "    │ curl: (7) Failed to connect to server port 8000",
    ]


EXPLAINED = replace(
    FAILED,
    explanation=("SYN reached server; server answered RST: nothing listens on 8000; server listens on 8080", "second"),
    last_packets=("1.0 ms client:40000 > server:8000 SYN seq 0 win 64240",),
    rerun="labctl run scenarios/echo.yaml --seed 7",
)


def test_a_failure_leads_with_its_cause_then_packets_and_the_command_that_repeats_it() -> None:
    assert plain.failure(EXPLAINED, LOOK) == [
        "",
        "  scenarios/echo.yaml:21: step 4, run on client: curl -s http://server:8000/",
        "    exit status 0 expected, came back 7",
        "    cause: SYN reached server; server answered RST: nothing listens on 8000;",
        "           server listens on 8080",
        "           second",
        "    stdout: nothing",
        "    stderr:",
        "    │ curl: (7) Failed to connect to server port 8000",
        "",
        "  last packets:",
        "    1.0 ms client:40000 > server:8000 SYN seq 0 win 64240",
        "",
        "  to run it again: labctl run scenarios/echo.yaml --seed 7",
    ]


def test_packets_that_a_ladder_has_are_not_repeated() -> None:
    assert "  last packets:" not in plain.failure(EXPLAINED, LOOK, packets=False)


def test_a_lab_that_is_impossible_here_is_not_run_again() -> None:
    assert not any("run it again" in line for line in plain.failure(replace(EXPLAINED, impossible=True), LOOK))


def test_a_reason_that_quotes_output_is_not_shown_twice() -> None:
    (about,) = (each for each in FAILED.steps if each.outcome is Outcome.FAILED)
    assert about.output is not None
    quoted = replace(about, reason=f"exit status 7\n{about.output.stderr}")
    lines = plain.failure(replace(FAILED, steps=(quoted,), reason=quoted.reason), LOOK)
    assert sum("Failed to connect" in line for line in lines) == 1


def test_a_skip_says_why_and_is_no_pass() -> None:
    assert plain.verdict(SKIPPED, LOOK) == ["○ skipped: program nginx is not installed"]
    assert plain.one_line(SKIPPED, LOOK) == ["○ Nginx serves: skipped, program nginx is not installed"]


def test_a_lab_that_failed_gives_its_reason() -> None:
    assert plain.verdict(BROKEN, LOOK) == ["‼ error in 0.21 s", "  client: cannot make call: the keeper has ended"]


def test_verdicts_without_unicode_are_words() -> None:
    ascii_look = Look(80, glyphs=ASCII)
    assert plain.verdict(ECHO, ascii_look) == ["passed in 0.21 s"]
    assert plain.verdict(FAILED, ascii_look)[0] == "FAILED in 0.21 s"


def test_summary_counts_each_outcome() -> None:
    assert plain.summary(run(ECHO, ECHO, FAILED, SKIPPED, BROKEN), LOOK) == [
        "2 passed, 1 failed, 1 skipped, 1 error in 1.23 s"
    ]


def test_summary_of_a_run_that_skipped_everything_says_that_nothing_was_tested() -> None:
    assert plain.summary(run(SKIPPED, SKIPPED), LOOK)[1] == "Nothing was tested: all 2 scenarios were skipped."


def test_only_the_innermost_failed_step_is_reported() -> None:
    result = scenario(
        step("2", kind="repeat", outcome=Outcome.FAILED, reason="step 2.1.3 failed", line=4),
        step("2.1.3", kind="run", outcome=Outcome.FAILED, reason="exit status 1", line=7),
        outcome=Outcome.FAILED,
        reason="exit status 1",
    )
    told = "\n".join(plain.failure(result, LOOK))
    assert "echo.yaml:7: step 2.1.3" in told
    assert "echo.yaml:4" not in told


def test_program_output_is_not_wrapped_and_its_escapes_are_visible() -> None:
    lines = list(plain.output(OutputRecord("x" * 200 + "\n\x1b]0;gone\x07\n", "", 5), LOOK))
    assert lines == [
        "    stdout:",
        "    │ " + "x" * 200,
        "    │ \\x1b]0;gone\\x07",
        "    stderr: nothing",
        "    (5 bytes omitted in the middle)",
    ]


def test_a_long_name_is_cut_to_the_line() -> None:
    (line,) = plain.one_line(scenario(name="long " * 40), LOOK)
    assert cells(line) == 80


def test_a_failure_shows_programs_that_no_failed_step_is_about_and_who_listens() -> None:
    crashed = ProgramRecord(
        *("server", "web", "background program", ("web",), "exited with status 1", 1),
        output=OutputRecord("", "".join(f"line {number}\n" for number in range(30))),
    )
    silent = ProgramRecord("server", "db", "service", ("db",), "running", None, OutputRecord("", ""))
    listening = (ListeningRecord("server", ("tcp 0.0.0.0:80", "udp 0.0.0.0:53")), ListeningRecord("client", ()))
    shown = plain.failure(replace(FAILED, programs=(crashed, silent), listening=listening), LOOK)
    at = shown.index("  programs:")
    assert shown[at + 1 : at + 3] == ["    server: web exited with status 1", "      stderr, the last 20 of 30 lines:"]
    assert shown[at + 3] == "      │ line 10"
    assert shown[-7:] == [
        *("      │ line 29", "    server: service db is running", "      printed nothing", "", "  listening:"),
        *("    server: tcp 0.0.0.0:80, udp 0.0.0.0:53", "    client: nothing"),
    ]


def test_a_program_that_a_failed_step_shows_is_not_shown_twice() -> None:
    wrote = OutputRecord("", "curl: (7) Failed to connect to server port 8000\n")
    same = ProgramRecord("client", "curl", "background program", ("curl",), "exited with status 7", 7, wrote)
    assert "  programs:" not in plain.failure(replace(FAILED, programs=(same,)), LOOK)


def test_a_report_has_name_and_file_on_one_line_then_the_ladder_then_the_verdict() -> None:
    first, *talk, last = plain.scenario_report(ECHO, LOOK)
    assert first == "A server echoes" + " " * 46 + "scenarios/echo.yaml"
    assert talk == plain.conversation(ECHO, LOOK)
    assert last == "✓ passed in 0.21 s"


def test_a_description_needs_a_wide_terminal() -> None:
    about = "The smallest conversation that there is: one line there and back."
    assert about not in plain.heading(ECHO, LOOK)
    assert plain.heading(ECHO, Look(120))[1] == about


def test_a_long_file_name_loses_its_beginning() -> None:
    (line,) = plain.heading(scenario(file="/a/" + "very/" * 20 + "echo.yaml"), LOOK)
    assert cells(line) == 80
    assert line.startswith("A server echoes  …")
    assert line.endswith("/very/echo.yaml")


def test_what_a_recording_does_not_have_stands_beside_a_pass_and_in_full_below_a_failure() -> None:
    timeline = replace(timelines.refused(), missing=("drops of the kernel: CAP_BPF is required",))
    assert plain.conclusion(ECHO, LOOK, timeline) == ["✓ passed in 0.21 s  not recorded: drops of the kernel"]
    assert plain.conclusion(FAILED, LOOK, timeline)[-1] == "not recorded: drops of the kernel: CAP_BPF is required"


def test_a_ladder_has_faults_at_their_moments_and_no_other_marks() -> None:
    fault = FaultRecord("1", "isolate", "isolate client", ("client",), 0.25, 0.5)
    result = replace(FAILED, hosts=("client",), faults=(fault,))
    lines = plain.conversation(result, LOOK)
    assert [line for line in lines if "fault" in line] == [
        "250.0 │ fault: isolate client",
        "500.0 │ fault healed: isolate client",
    ]
