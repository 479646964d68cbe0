"""The end of the process of a command."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_commands_last_output_ends_it_without_a_traceback(number: signal.Signals) -> None:
    script = "import atexit, os, sys; sys.argv = ['labctl', '--version']; from labctl.cli.main import main\n"
    script += f"atexit.register(os.kill, os.getpid(), {number}); main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-number, "")
    assert done.stdout.startswith("labctl ")
