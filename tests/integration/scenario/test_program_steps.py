"""run, start, stop, signal, pause, resume, wait, file and build, on the real kernel."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from labctl.documents import DocumentError
from labctl.programs.output import OutputRecord
from labctl.scenario.program_steps import SHOWN_CHARACTERS
from tests.integration.scenarios import EventLog, fails, needs, passes, step


def test_a_program_runs_on_its_host_with_its_arguments_environment_directory_and_input(tmp_path: Path) -> None:
    shell = "echo $(hostname) $A $(pwd); cat; echo oops >&2; exit 3"
    (tmp_path / "sub").mkdir()
    result = passes(
        tmp_path,
        f"  - run: {{on: client, shell: '{shell}', env: {{A: 5}}, stdin: 'typed', cwd: sub, "
        "expect: {exit: 3, stdout: {contains: typed}, stderr: oops}}\n",
    )
    output = step(result, "1").output
    assert output == OutputRecord(f"client 5 {tmp_path}/sub\ntyped", "oops\n")
    assert step(result, "1").exit_status == 3


def test_exit_status_0_is_expected_unless_any_will_do(tmp_path: Path) -> None:
    passes(tmp_path, "  - run: {on: client, shell: exit 3, any_exit: true}\n")
    result = fails(tmp_path, "  - run: {on: client, shell: echo why >&2; exit 3}\n")
    assert step(result, "1").reason == "exit status: expected 0; got 3\nwhy"
    assert result.reason.startswith(f"step 1 ({tmp_path}/it.yaml:3), run echo why >&2; exit 3 on client: exit status")


def test_a_program_ended_by_a_signal_has_the_shells_exit_status(tmp_path: Path) -> None:
    passes(tmp_path, "  - run: {on: client, shell: kill -KILL $$, expect: {exit: 137}}\n")
    result = fails(tmp_path, "  - run: {on: client, shell: kill -KILL $$}\n")
    assert "got 137 (was ended by SIGKILL); it printed nothing" in result.reason


def test_the_output_of_a_program_is_kept_for_later_steps(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - run: {on: client, shell: 'echo one; echo two >&2; exit 4', any_exit: true, "
        "save: {stdout: out, stderr: err, exit: status}}\n"
        "  - run: {on: server, run: [echo, '${out} ${err} ${status}'], expect: {stdout: one two 4}}\n",
    )


def test_of_a_flood_of_output_the_first_and_last_mebibyte_are_kept(tmp_path: Path) -> None:
    flood = "print('first'); print('x' * 3_000_000); print('last')"
    result = passes(tmp_path, f'  - run: {{on: client, run: [python3, -c, "{flood}"]}}\n')
    output = step(result, "1").output
    assert output is not None
    assert output.stdout.startswith("first\n")
    assert output.stdout.endswith("last\n")
    assert output.truncated_bytes == len("first\n") + 3_000_001 + len("last\n") - (2 << 20)


def test_output_that_a_program_leaves_to_a_child_does_not_hold_up_the_step(tmp_path: Path) -> None:
    before = time.monotonic()
    passes(tmp_path, "  - run: {on: client, shell: 'echo mine; sleep 60 &', expect: {stdout: mine}}\n")
    assert time.monotonic() - before < 20


def test_a_program_beyond_its_deadline_is_ended_and_shown(tmp_path: Path) -> None:
    result = fails(tmp_path, "  - run: {on: client, shell: echo started; sleep 60}\n    within: 1s\n")
    assert step(result, "1").reason == "expected to end within 1s; it was still running"
    assert step(result, "1").output == OutputRecord("started\n", "")


def test_a_program_that_is_not_there_fails_the_step_with_the_reason(tmp_path: Path) -> None:
    result = fails(tmp_path, "  - run: {on: client, run: [/tmp/nothing]}\n")
    assert "cannot run /tmp/nothing: ENOENT" in result.reason


def test_a_program_beside_the_scenario_is_found(tmp_path: Path) -> None:
    program = tmp_path / "beside"
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(0o755)
    passes(tmp_path, "  - run: {on: client, run: [beside], expect: {stdout: here}}\n")


def test_a_server_is_ready_when_the_kernel_reports_its_socket(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - start: {on: server, run: [python3, -m, http.server, '8000'], name: web, ready: {listening: tcp/8000}}\n"
        "  - expect: {on: server, listening: tcp/8000, now: true}\n"
        "  - expect: {running: web, now: true}\n"
        "  - stop: web\n"
        "  - expect: {on: server, not_listening: tcp/8000, not_running: web}\n",
    )


def test_other_signs_of_being_ready(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - start: {on: server, shell: echo up; sleep 60, name: a, ready: {line: '^up$'}}\n"
        "  - start: {on: server, shell: 'echo up >&2; sleep 60', name: b, ready: {line: u.}}\n"
        "  - start: {on: server, shell: sleep 0.05; echo > /tmp/pid; sleep 60, name: c, ready: {file: /tmp/pid}}\n"
        "  - start: {on: server, shell: sleep 0.05; echo > /tmp/d; sleep 60, name: d, "
        "ready: {command: [test, -e, /tmp/d]}}\n",
    )


def test_a_program_that_ends_before_it_is_ready_fails_at_once(tmp_path: Path) -> None:
    before = time.monotonic()
    result = fails(tmp_path, "  - start: {on: server, shell: echo no; exit 7, name: a, ready: {line: up}}\n")
    assert "it exited with status 7\nno" in result.reason
    result = fails(tmp_path, "  - start: {on: server, shell: echo no; exit 7, name: a, ready: {listening: tcp/1}}\n")
    assert "nothing listened on tcp/1 on server before the program ended: it exited with status 7" in result.reason
    assert time.monotonic() - before < 20


def test_a_program_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    steps = "  - start: {on: server, shell: echo soon; sleep 60, name: a, ready: {file: /tmp/x}}\n    within: 3s\n"
    assert "the file /tmp/x did not exist on server within 3s\nsoon" in fails(tmp_path, steps).reason


def test_stop_sends_sigterm_first_and_the_result_has_the_output(tmp_path: Path) -> None:
    trap = 'trap "echo bye; exit 0" TERM; echo up; while :; do sleep 0.01; done'
    result = passes(
        tmp_path,
        f"  - start: {{on: server, shell: '{trap}', name: polite, ready: {{line: up}}}}\n"
        "  - stop: {process: polite, expect: {exit: 0, stdout: {contains: bye}}}\n",
    )
    output = step(result, "2").output
    assert output is not None
    assert output.stdout == "up\nbye\n"


def test_stopping_a_program_that_does_not_listen_ends_it_all_the_same(tmp_path: Path) -> None:
    trap = 'trap "" TERM; echo up; while :; do sleep 0.1; done'
    result = passes(
        tmp_path,
        f"  - start: {{on: server, shell: '{trap}', name: deaf, ready: {{line: up}}}}\n"
        "  - stop: {process: deaf, expect: {exit: 137}}\n",
    )
    assert step(result, "2").duration_s >= 1.9


def test_a_signal_reaches_the_program(tmp_path: Path) -> None:
    trap = 'trap "echo again" HUP; echo up; while :; do sleep 0.01; done'
    passes(
        tmp_path,
        f"  - start: {{on: server, shell: '{trap}', name: it, ready: {{line: up}}}}\n"
        "  - signal: {process: it, signal: HUP}\n"
        "  - expect: {output: {process: it, stdout: {contains: again}}}\n",
    )


def test_a_paused_program_does_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - start: {on: server, run: [python3, -m, http.server, '8000'], name: web, ready: {listening: tcp/8000}}\n"
        "  - pause: web\n"
        "  - run: {on: server, shell: 'cat /proc/[0-9]*/stat || true', expect: {stdout: {matches: 'python3\\S* T '}}}\n"
        "  - client: |\n"
        "      c = socket(AF_INET, SOCK_STREAM)\n"
        '      connect(c, "server:8000")\n'
        '      send(c, b"GET / HTTP/1.0\\r\\n\\r\\n")\n'
        "      recv(c, 1) -> blocks 100ms\n"
        "  - resume: web\n"
        '  - client: await -> b"H"\n',
    )


def test_a_paused_program_can_be_stopped(tmp_path: Path) -> None:
    start = "  - start: {on: server, run: [sleep, 60], name: it}\n"
    passes(tmp_path, start + "  - pause: it\n  - stop: {process: it, expect: {exit: 143}}\n")  # not SIGKILL's 137


def test_waiting_for_a_program_looks_at_its_end(tmp_path: Path) -> None:
    start = "  - start: {on: server, shell: sleep 0.05; echo done; exit 5, name: it}\n"
    passes(tmp_path, start + "  - wait: {process: it, expect: {exit: 5, stdout: done}, save: {stdout: said}}\n")
    assert "exit status: expected 0; got 5\ndone" in fails(tmp_path, start + "  - wait: it\n").reason
    late = fails(tmp_path, "  - start: {on: server, run: [sleep, 60], name: it}\n  - wait: it\n    within: 100ms\n")
    assert "expected it to end within 100ms; it is still running" in late.reason


def test_a_background_program_that_ended_badly_by_itself_fails_the_scenario(tmp_path: Path) -> None:
    start = "  - start: {on: server, shell: echo $$ >/tmp/it; echo dying >&2; exit 5, name: it}\n"
    ended = "  - run: {on: server, shell: 'until kill -0 $(cat /tmp/it) 2>&1 | grep -q No; do sleep 0.01; done'}\n"
    result = fails(tmp_path, start + ended)
    assert "expected it to run until the end; it had ended by itself: it exited with status 5" in result.reason
    assert result.steps[-1].output == OutputRecord("", "dying\n")
    assert result.steps[-1].line == 3
    stopped = fails(tmp_path, start + ended + "  - stop: it\n")
    assert "expected it to be running; it had ended: it exited with status 5" in stopped.reason


def test_a_background_program_that_exited_with_0_or_was_checked_does_not_fail_the_scenario(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - start: {on: server, run: ['true'], name: fine}\n"
        "  - start: {on: server, run: ['false'], name: expected}\n"
        "  - wait: {process: expected, expect: {exit: 1}}\n"
        "  - start: {on: server, run: ['false'], name: seen}\n"
        "  - expect: {not_running: seen}\n",
    )


def test_waiting_for_a_program_that_was_sent_a_signal_takes_any_end_unless_one_is_expected(tmp_path: Path) -> None:
    start = "  - start: {on: server, run: [sleep, 60], name: it}\n  - signal: {process: it, signal: KILL}\n"
    passes(tmp_path, start + "  - wait: it\n")
    passes(tmp_path, start + "  - wait: {process: it, expect: {exit: 137}}\n")
    assert "expected 0; got 137" in fails(tmp_path, start + "  - wait: {process: it, expect: {exit: 0}}\n").reason


def test_a_name_can_be_used_again_when_its_program_has_ended(tmp_path: Path) -> None:
    start = "  - start: {on: server, run: [sleep, 60], name: it}\n"
    passes(tmp_path, start + "  - stop: it\n" + start)
    assert "`it` is already running" in fails(tmp_path, start + start).reason


def test_a_file_is_placed_on_one_host_only(tmp_path: Path) -> None:
    (tmp_path / "beside.txt").write_text("from beside\n")
    passes(
        tmp_path,
        "  - file: {on: server, path: /tmp/x, content: \"port=${port}\\n\", mode: '0750'}\n"
        "  - file: {on: server, path: /run/y, source: beside.txt}\n"
        "  - run: {on: server, shell: 'cat /tmp/x /run/y; stat -c %a /tmp/x', "
        'expect: {stdout: "port=5\\nfrom beside\\n750"}}\n'
        "  - expect: {on: server, file: {path: /tmp/x, contains: port}}\n"
        "  - expect: {on: client, file: {path: /tmp/x, exists: false}}\n",
        header="topology: pair\nvariables: {port: 5}\n",
    )


def test_the_directories_of_a_file_are_made(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - file: {on: server, path: /tmp/etc/app/x.conf, content: a}\n"
        "  - expect: {on: server, file: {path: /tmp/etc/app/x.conf, contains: a}}\n",
    )


def test_a_file_where_a_directory_cannot_be_made_fails_the_step(tmp_path: Path) -> None:
    steps = "  - file: {on: server, path: /tmp/x, content: a}\n  - file: {on: server, path: /tmp/x/y, content: a}\n"
    assert "cannot write /tmp/x/y on server: ENOTDIR, Not a directory" in fails(tmp_path, steps).reason


def test_a_program_is_built_once_and_found_on_every_host(tmp_path: Path) -> None:
    needs("cc")
    (tmp_path / "hello.c").write_text('#include <stdio.h>\nint main(void) { printf("%d\\n", N); return 0; }\n')
    passes(
        tmp_path,
        "  - build: {source: hello.c, as: hi, flags: [-DN=42]}\n"
        "  - run: {on: client, run: [hi], expect: {stdout: '42'}}\n"
        "  - run: {on: server, shell: 'command -v hi', expect: {stdout: /run/lab/bin/hi}}\n",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hello.c", "it.yaml"]


def test_the_output_of_the_compiler_is_shown(tmp_path: Path) -> None:
    needs("cc")
    (tmp_path / "hello.c").write_text("int main(void) { return x; }\n")
    result = fails(tmp_path, "  - build: {source: hello.c}\n")
    assert "cc exited with status 1: " in result.reason
    assert "error: " in result.reason  # the first; all that the compiler wrote is the step's output
    assert "hello.c:1:25: error:" in result.reason


def test_output_is_streamed_while_the_program_runs(tmp_path: Path) -> None:
    told = EventLog()
    passes(tmp_path, "  - run: {on: client, shell: echo a}\n", listener=told)
    assert told.output_bytes == b"client echo stdout: a\n"


HOLDS_BACK = """
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("waiting\\\\n"); fprintf(stderr, "%d%d%d\\\\n", isatty(0), isatty(1), isatty(2)); pause(); }
"""


@pytest.fixture
def holds_back(tmp_path: Path) -> str:
    needs("cc")
    (tmp_path / "holds.c").write_text(HOLDS_BACK.replace("\\\\", "\\"))
    return "  - build: {source: holds.c}\n"


def test_output_of_a_c_program_on_a_terminal_is_unbuffered_and_unchanged(tmp_path: Path, holds_back: str) -> None:
    passes(
        tmp_path,
        f"{holds_back}"
        "  - start: {on: server, run: [holds], tty: true, ready: {line: '^waiting$'}}\n"
        '  - expect: {output: {process: holds, stdout: "waiting\\n111", stderr: ""}}\n'
        "  - stop: {process: holds, expect: {exit: 143}}\n",
    )


def test_without_a_terminal_the_failure_has_a_hint(tmp_path: Path, holds_back: str) -> None:
    hint = "Its stdout may be buffered: try `tty: true` or `stdbuf -oL`."
    start = "  - start: {on: server, run: [holds], ready: {line: waiting}}\n    within: 1s\n"
    assert hint in fails(tmp_path, f"{holds_back}{start}").reason
    start = "  - start: {on: server, run: [holds]}\n"
    expect = "  - expect: {output: {process: holds, stdout: waiting}, within: 100ms}\n"
    assert hint[:-1] in fails(tmp_path, f"{holds_back}{start}{expect}").reason
    ended = "  - start: {on: server, shell: exit 0, ready: {line: waiting}}\n"
    assert "buffered" not in fails(tmp_path, ended).reason


def test_a_terminal_has_a_size_takes_stdin_beside_it_and_asks_for_no_colours(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - run: {on: client, shell: stty size; echo $TERM; printf last, tty: true, "
        'expect: {stdout: "24 200\\ndumb\\nlast"}}\n'
        "  - run: {on: client, shell: 'cat; echo $TERM', tty: true, stdin: typed, env: {TERM: vt100}, "
        "expect: {stdout: typedvt100}}\n",
    )


def test_all_that_was_written_to_a_terminal_before_the_end_is_read(tmp_path: Path) -> None:
    numbers = "".join(f"{number}\n" for number in range(1, 20001))
    result = passes(tmp_path, "  - run: {on: client, run: [seq, '20000'], tty: true}\n")
    output = step(result, "1").output
    assert output is not None
    assert output.stdout == numbers


def test_children_of_a_program_on_a_terminal_receive_a_hangup(tmp_path: Path) -> None:
    left = "trap 'echo > /tmp/hung-up; exit' HUP; touch /tmp/set; while :; do sleep 0.05; done"
    passes(
        tmp_path,
        f'  - run: {{on: client, run: [sh, -c, "({left}) & until test -e /tmp/set; do sleep 0.05; done"], tty: true}}\n'
        "  - expect: {on: client, file: {path: /tmp/hung-up}, within: 20s}\n",
    )


def test_libraries_and_object_files_among_the_flags_stand_after_the_sources(tmp_path: Path) -> None:
    needs("cc")
    needs("ar")
    (tmp_path / "seven.c").write_text("int seven(void) { return 7; }\n")
    (tmp_path / "three.c").write_text("int three(void) { return 3; }\n")
    (tmp_path / "main.c").write_text("int seven(void), three(void); int main(void) { return seven() + three(); }\n")
    for command in (["cc", "-c", "seven.c", "three.c"], ["ar", "rcs", "libseven.a", "seven.o"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    passes(
        tmp_path,
        "  - build: {source: main.c, flags: [libseven.a, three.o]}\n"
        "  - run: {on: client, run: [main], expect: {exit: 10}}\n"
        "  - build: {source: main.c, as: again, flags: [-x, c, three.o, -L., -lseven]}\n"
        "  - run: {on: client, run: [again], expect: {exit: 10}}\n",
    )


def test_programs_calls_and_files_of_a_switch(tmp_path: Path) -> None:
    passes(
        tmp_path,
        "  - run: {on: s1, run: [hostname], expect: {stdout: s1}}\n"
        "  - s1: |\n"
        "      s = socket(AF_UNIX, SOCK_STREAM)\n"
        "  - start: {on: s1, shell: echo up; exec sleep 60, name: a, ready: {line: up}}\n"
        "  - file: {on: s1, path: /tmp/x, content: here}\n"
        "  - expect: {on: s1, file: {path: /tmp/x, contains: here}, running: a}\n",
        header="topology: star:2\n",
    )
    with pytest.raises(DocumentError, match="`s1` is a switch: it forwards packets without inspecting them"):
        passes(tmp_path, "  - drop: {on: s1, protocol: icmp}\n", header="topology: star:2\n")


@pytest.mark.parametrize(
    "body",
    [
        "run: {on: client, run: [sleep, '60'], within: 300ms}",
        "start: {on: client, run: [sleep, '60'], ready: {line: x}, within: 300ms}",
        "wait: {process: a, within: 300ms}",
        "repeat: {times: 9, within: 300ms, steps: [{run: {on: client, run: [sleep, '60']}}]}",
    ],
)
def test_a_deadline_may_stand_inside_the_step_too(tmp_path: Path, body: str) -> None:
    before = time.monotonic()
    fails(tmp_path, f"  - start: {{on: client, run: [sleep, '60'], name: a}}\n  - {body}\n")
    assert time.monotonic() - before < 40


def test_a_reason_has_only_the_last_of_the_output(tmp_path: Path) -> None:
    result = fails(tmp_path, "  - run: {on: client, shell: 'seq 10000; echo last; exit 1'}\n")
    shown = step(result, "1").reason.partition("\n")[2]
    assert shown.endswith("last")
    assert len(shown) <= SHOWN_CHARACTERS


def test_programs_on_several_hosts_may_have_one_name(tmp_path: Path) -> None:
    steps = (
        "  - start: {on: [client, server], run: [sleep, '60']}\n"
        "  - expect: {running: client/sleep}\n"
        "  - stop: client/sleep\n"
        "  - stop: sleep\n"
        "  - expect: {not_running: server/sleep}\n"
        "  - start: {on: client, run: [sleep, '60']}\n"
        "  - stop: sleep\n"
        "  - start: {on: [client, server], run: [sleep, '60']}\n"
        "  - stop: sleep\n"
    )
    result = fails(tmp_path, steps)
    assert "several nodes run `sleep`; write which: client/sleep, server/sleep" in result.reason
