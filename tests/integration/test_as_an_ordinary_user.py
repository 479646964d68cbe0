"""The same tests of labs, by somebody who is not root: in a user namespace, with the same results.

Not collected (tests/conftest.py) where the tests run as an ordinary user anyway.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USER = 12345


def as_user(*argv: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        argv,
        cwd=ROOT,
        env=environment,
        user=USER,
        group=USER,
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )


def test_labs_work_the_same_for_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = Path("/tmp") / f"labctl-user-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, USER, USER)
    try:
        seen = as_user(sys.executable, "-c", "import labctl, pytest", home=home)
        if seen.returncode != 0:
            pytest.skip(f"user {USER} cannot read this checkout or its Python: {seen.stdout.strip()[-200:]}")
        finished = as_user(
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={home}/pytest"),
            "tests/integration",
            home=home,
        )
        assert finished.returncode == 0, finished.stdout[-8000:]
    finally:
        shutil.rmtree(home)
