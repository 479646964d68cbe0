"""The ways to build networks that are compared, and how to install what they need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.options import Options, progress

LIMIT = "C program"
_SOURCE = Path(__file__).parent / "builders" / "limit.c"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to build networks.

    Args:
        command: returns how to start its builder, or None where something is missing.
        install: what to do then.
    """

    name: str
    command: Callable[[Options], list[str] | None]
    install: str


def _program(interpreter: str | Path, module: str) -> list[str]:
    return [str(interpreter), "-m", f"tests.benchmarks.builders.{module}"]


def compiled(options: Options) -> list[str] | None:
    """Compile limit.c, once for a run; return its command, or None without a C compiler."""
    program = options.scratch / "limit"
    if not program.exists():
        if not shutil.which("cc"):
            return None
        subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", program, _SOURCE], check=True)
    return [str(program)]


def _mininet(_: Options) -> list[str] | None:
    # Debian's package is for Debian's interpreter, whatever python3 is first on PATH.
    for interpreter in ("/usr/bin/python3", sys.executable):
        check = [interpreter, "-c", "import mininet"]
        if Path(interpreter).exists() and subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return _program(interpreter, "mininet") if shutil.which("mnexec") and shutil.which("brctl") else None
    return None


def _in_venv(name: str) -> Callable[[Options], list[str] | None]:
    def command(options: Options) -> list[str] | None:
        interpreter = options.peers / name / "bin" / "python"
        return _program(interpreter, name) if interpreter.exists() else None

    return command


_OPTION = "run `python -m tests.benchmarks --install`"
WAYS = (
    Way(LIMIT, compiled, "install a C compiler: apt-get install gcc libc6-dev"),
    Way("labctl API", lambda _: _program(sys.executable, "labctl_api"), ""),
    Way("labctl up/down", lambda _: _program(sys.executable, "labctl_command"), ""),
    Way(
        "ip -batch",
        lambda _: _program(sys.executable, "ip_batch") if shutil.which("ip") else None,
        "apt-get install iproute2",
    ),
    Way("pyroute2", lambda _: _program(sys.executable, "plain_pyroute2"), ""),
    Way("Mininet", _mininet, "apt-get install --no-install-recommends mininet bridge-utils net-tools"),
    Way("munet", _in_venv("munet"), _OPTION),
    Way("NeST", _in_venv("nest"), _OPTION),
)


def install(folder: Path) -> None:
    """Install munet and NeST, each into a virtual environment below `folder`. CalledProcessError."""
    for name in ("munet", "nest"):
        if not (folder / name).exists():
            progress(f"installing {name} in {folder / name}")
            venv.create(folder / name, with_pip=True)
            subprocess.run([folder / name / "bin" / "python", "-m", "pip", "install", "--quiet", name], check=True)
