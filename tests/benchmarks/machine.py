"""The machine and the software that were measured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from labctl import __version__


def description() -> dict[str, str]:
    """Return what a reader needs to compare figures with those of another machine."""
    return {
        "CPU": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.1f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "labctl": _commit() or __version__,
        "pyroute2": version("pyroute2"),
        "msgspec": version("msgspec"),
        "user": "root" if os.geteuid() == 0 else "ordinary user",
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """The checkout's commit, with a + for uncommitted changes; "" where there is none."""
    if not shutil.which("git"):
        return ""
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{__version__} ({shown.stdout.strip()})" if shown.returncode == 0 else ""
