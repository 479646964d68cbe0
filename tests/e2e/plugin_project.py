"""A project of somebody's, with tests that use labctl's pytest plugin, and pytest run in it as they would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

TIMEOUT_S = 120
_PYTEST = (sys.executable, "-m", "pytest")
# Of the run that this test is part of, or of the person who runs it.
_OURS = ("GITHUB_", "GITLAB_", "PYTEST_", "LABCTL_SEED", "COLUMNS", "CI", "FORCE_COLOR", "PY_COLORS", "NO_COLOR")

# Hypothesis takes two thirds of pytest's start, and no project here uses it.
INI = """\
[pytest]
asyncio_default_fixture_loop_scope = function
addopts = --strict-markers --strict-config -p no:hypothesispytest
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """A pytest that has ended, its two streams together."""

    status: int
    output: str

    def lines(self, part: str) -> list[str]:
        """The lines that have `part` in them."""
        return [line for line in self.output.splitlines() if part in line]

    def outcomes(self) -> str:
        """`2 failed, 1 passed`: the last line without the time."""
        return self.output.strip().splitlines()[-1].strip("= ").rpartition(" in ")[0]


class Project:
    """A folder with files, in which pytest is run."""

    def __init__(self, folder: Path, ini: str = "", **files: str) -> None:
        """`files` by name, `__` for the dot of the suffix and `___` for a slash: test_it__py, sub___a__yaml."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.write("pytest.ini", INI + dedent(ini))
        for name, text in files.items():
            self.write(name.replace("___", "/").replace("__", "."), text)

    def write(self, name: str, text: str) -> Path:
        """A file of the project's."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    def command(self, *arguments: object) -> list[str]:
        """pytest with its temporary files in the project's folder."""
        base = f"--basetemp={self.folder / 'basetemp'}"
        return [*_PYTEST, base, *map(str, arguments)]

    def environment(self, **more: str) -> dict[str, str]:
        """The test's own without what tells pytest or labctl where they run."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        return {**kept, "LC_ALL": "C.UTF-8", "COLUMNS": "120", **more}

    def pytest(self, *arguments: object, **environment: str) -> Ran:
        """Runs pytest to its end."""
        ended = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        return Ran(ended.returncode, ended.stdout)

    @contextmanager
    def running(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """pytest while it runs, in a process group of its own; its output in a pipe; ended with the `with`."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=TIMEOUT_S)
