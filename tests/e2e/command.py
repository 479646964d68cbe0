"""Runs the command line as a user does: a process of its own, started by the installed console script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.patience import patient

LABCTL = str(Path(sys.executable).with_name("labctl"))
TIMEOUT_S = patient(60)

ECHO = """\
name: A server echoes
about: One line there and back.
topology: pair
steps:
  - server: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, "server:5000")
      listen(s, 2)
  - client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:5000")
      send(c, b"hello") -> 5
  - server: |
      conn, peer = accept(s)
      recv(conn, 100) -> b"hello"
"""

REFUSED = """\
name: Nobody listens
topology: pair
steps:
  - client: |
      c = socket(AF_INET, SOCK_STREAM)
      connect(c, "server:81")
"""

SKIPPED = """\
name: Needs what is not there
topology: pair
requires: {programs: [no-such-program]}
steps:
  - run: {on: client, run: [no-such-program]}
"""

WAITS = """\
name: Waits for ever
topology: pair
within: 50s
steps:
  - run: {on: client, run: [sh, -c, "echo ready; exec sleep 49"]}
"""

WRONG = """\
name: Wrong in two places
topology: pair
stesp: []
steps:
  - server: |
      s = sokcet(AF_INET, SOCK_STREAM)
"""


def environment(**more: str) -> dict[str, str]:
    """The test's environment without what changes how the command line looks."""
    unset = {"COLUMNS", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "TYPER_USE_RICH"}
    unset |= {"GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE", "GITLAB_CI"}  # these tests run there too
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "LC_ALL": "C.UTF-8", **more}


def labctl(*arguments: object, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs `labctl` to its end; keyword arguments are environment variables."""
    return subprocess.run(
        [LABCTL, *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
