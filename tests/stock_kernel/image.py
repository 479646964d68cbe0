"""A disk image with this checkout and Python's library: emulated, reading them file by file takes minutes."""

from __future__ import annotations

import subprocess
import sysconfig
import tempfile
from pathlib import Path

from tests.stock_kernel.machine import CannotRun, search_path

# What is no part of a checkout, and what the tests that run there do not import.
EXCLUDED = ("./.git", "./.cache", "./.hypothesis", "./.*_cache", "./docs/_build", "./dist")
HEAVY = ("babel", "mypy", "*mypyc*", "pip", "sphinx*", "setuptools", "zizmor*", "docutils", "virtme*")
SPARE_BYTES = 200 << 20  # for what is written there
BLOCK_BYTES = 4096


def stdlib() -> Path:
    """Python's library."""
    return Path(sysconfig.get_path("stdlib"))


def make(image: Path, checkout: Path) -> None:
    """Write an ext4 image with `checkout`/ and `stdlib`/. CannotRun."""
    with tempfile.TemporaryDirectory(dir=image.parent, prefix="staging-") as folder:
        staged = Path(folder)
        heavy = [f"*/site-packages/{name}" for name in HEAVY]
        _copy(checkout, staged / "checkout", (*EXCLUDED, *heavy))
        (staged / "checkout" / ".cache").mkdir()
        _copy(stdlib(), staged / "stdlib", ("./test", "./dist-packages", "./site-packages"))
        staged.chmod(0o755)
        used = sum(file.lstat().st_size // BLOCK_BYTES + 1 for file in staged.rglob("*")) * BLOCK_BYTES
        blocks = (int(used * 1.1) + SPARE_BYTES) // BLOCK_BYTES
        command = ["mke2fs", "-q", "-t", "ext4", "-b", str(BLOCK_BYTES), "-O", "^has_journal", "-d", str(staged)]
        _run([*command, str(image), str(blocks)])


def _copy(source: Path, target: Path, excluded: tuple[str, ...]) -> None:
    target.mkdir(mode=0o755)
    # Readable for the ordinary user of the guest, whatever the umask was here.
    pack = ["tar", "-c", "-C", str(source), "--mode=u+rwX,go+rX", "--owner=0", "--group=0", "--sort=name"]
    with subprocess.Popen([*pack, *(f"--exclude={name}" for name in excluded), "."], stdout=subprocess.PIPE) as packing:
        _run(["tar", "-x", "-C", str(target)], packing)
    if packing.returncode not in (0, 1):  # 1: a file changed meanwhile, as others may be at work here
        raise CannotRun(f"{source}: cannot be copied")


def _run(command: list[str], source: subprocess.Popen[bytes] | None = None) -> None:
    done = subprocess.run(
        command,
        env={"PATH": search_path(), "LC_ALL": "C.UTF-8"},
        stdin=source.stdout if source else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotRun(f"{' '.join(command)}: {done.stderr}")
