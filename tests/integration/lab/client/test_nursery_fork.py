"""The nursery that a command forks before its imports."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.lab.client.nursery_fork import take
from tests.integration.detached import becomes

ROOT = Path(__file__).parents[4]
FORKING = """
from labctl.lab.client import nursery_fork
nursery_fork.fork_ahead()
(pid, *_), = nursery_fork._forked
"""
OPENING = """
from labctl.lab.client.handle import Lab
from labctl.lab.client.nursery import nurseries
from tests.labs import output, pair_plan
with Lab.open(pair_plan()) as lab:
    assert output(lab, "client", "echo", "x") == "x\\n"
    assert [each.pid for each in nurseries.all] == [pid]
"""


def run(script: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'{before} exec "$@"', "sh", sys.executable, "-c", FORKING + script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_process_that_has_not_forked_one_has_none_to_take() -> None:
    assert take() is None


@pytest.mark.parametrize("before", ["", "trap '' HUP INT QUIT CHLD;", "ulimit -c 0; umask 077;"])
def test_the_first_lab_uses_it(before: str) -> None:
    done = run(OPENING, before=before)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("before", ["exec <&-;", "exec >&- 2>&-;", "exec <&- >&- 2>&-;"])
def test_without_a_standard_stream_the_first_lab_starts_one(before: str) -> None:
    script = "from labctl.lab.client.nursery_fork import fork_ahead; fork_ahead(); pid = 0"
    done = subprocess.run(
        ["sh", "-c", f'{before} exec "$@"', "sh", sys.executable, "-c", script + OPENING.replace("== [pid]", "!= [0]")],
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0


def test_a_command_that_makes_no_lab_ends_it() -> None:
    done = run("print(pid)")
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_it_ends_with_a_command_that_is_killed_at_once() -> None:
    done = run("import os; print(pid, flush=True); os.kill(os.getpid(), 9)")
    assert done.returncode == -signal.SIGKILL
    assert becomes(lambda: not Path(f"/proc/{int(done.stdout)}").exists())


def test_after_it_was_killed_the_first_lab_opens_all_the_same() -> None:
    killing = "import os; os.kill(pid, 9); os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
    done = run(killing + OPENING.replace("== [pid]", "!= [pid]"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_the_command_forks_leaves_it_alone() -> None:
    done = run("import os, sys; child = os.fork()\nif not child: sys.exit()\nos.waitpid(child, 0)" + OPENING)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "forks"),
    [(("run", "no-such-scenario"), True), (("run", "--help"), False), (("ps",), False), (("up", "--help"), False)],
)
def test_only_a_command_that_may_make_a_lab_forks_it(arguments: tuple[str, ...], forks: bool) -> None:
    script = f"import sys, os; sys.argv = {['labctl', *arguments]!r}\n"
    script += "real = os.fork\ndef fork():\n    os.write(2, b'forked ')\n    return real()\nos.fork = fork\n"
    script += "from labctl.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("forked ") == forks


def test_signals_that_the_command_ignores_are_not_ignored_by_the_nursery() -> None:
    script = "import os\nwhile 'labctl-nursery' not in open(f'/proc/{pid}/comm').read(): os.sched_yield()\n"
    script += "print(*(line.split()[1] for line in open(f'/proc/{pid}/status') if line.startswith('SigIgn')))"
    done = run(script, before="trap '' USR1;")
    assert not int(done.stdout, 16) >> (signal.SIGUSR1 - 1) & 1


def test_a_signal_at_once_after_the_fork_does_not_make_the_nursery_act_as_the_command() -> None:
    script = "import sys, os; sys.argv = ['labctl', 'run', 'no-such-scenario']\n"
    script += "real = os.fork\ndef fork():\n    pid = real()\n    pid or os.kill(os.getpid(), 2)\n    return pid\n"
    script += "os.fork = fork\nfrom labctl.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "interrupted" not in done.stderr
