"""A checkout that every user of this machine can use, for tests in which root becomes another user."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with labctl in it, and the interpreter that has what labctl needs."""

    folder: Path
    interpreter: Path

    def can_be_used(self) -> bool:
        """Whether an ordinary user can import labctl."""
        try:
            tried = subprocess.run(
                [self.interpreter, "-c", "import labctl.lab.client.handle"],
                cwd=self.folder,
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                env={},
                capture_output=True,
                check=False,
            )
        except PermissionError:
            return False
        return tried.returncode == 0


@contextmanager
def checkout_for_others() -> Iterator[Checkout]:
    """This checkout, or a copy where others cannot reach it, as in root's home; skips where they cannot run Python."""
    here = Checkout(ROOT, Path(sys.executable))
    if here.can_be_used():
        yield here
        return
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="labctl-copy-") as parent:
        os.chmod(parent, 0o755)
        folder = Path(parent) / "checkout"
        subprocess.run([ROOT / "tools" / "test-copy", folder], check=True, capture_output=True, timeout=300)
        copy = Checkout(folder, folder / ".venv" / "bin" / "python")
        if not copy.can_be_used():
            pytest.skip(f"another user cannot execute {copy.interpreter.resolve()}")
        yield copy
