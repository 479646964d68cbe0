"""`tests/stock_kernel/run`: boots a distribution's kernel over this machine's files and runs tests there.

Everything that it starts is in a PID namespace that ends with it, so QEMU does too, whatever happens. Exit status: 0
passed (or not to be had here, which is said; with CI in the environment that is a failure), 1 failed, 3 not booted.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.stock_kernel import image, kernels
from tests.stock_kernel.kernels import Kernel
from tests.stock_kernel.machine import Architecture, CannotRun, architecture, install_missing, say, search_path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
CACHE = CHECKOUT / ".cache" / "stock-kernel"
HIDDEN = ("/tmp", "/var/tmp", "/run", "/dev")  # where virtme-ng's guest has file systems of its own
RUN, LOCK = "run-", "lock"
MARK = "stock_kernel"
FOLDERS = ("integration", "e2e", "faults", "docs", "stock_kernel")
# As an ordinary user: what only this run can try, in namespaces that belong to a user namespace.
OF_USER = ("tests/stock_kernel/test_impairments.py",)
SLOW = 5.0  # times as long may a test wait under emulation
DEADLINE_S = 1800.0
# Of two, one may execute for ever an instruction that the other has patched (the static key of a tracepoint, to which a
# BPF program attaches): QEMU 7.2 keeps the old translation. It came after some 330 attachments.
CPUS, MEMORY = 1, "2G"
POLL_S = 0.2
END_S = 20.0
NOT_BOOTED = 3


def main(argv: Sequence[str]) -> int:
    """The script's exit status."""
    options = _parser().parse_args(argv)
    try:
        machine = architecture()
        if any(character in str(CACHE) for character in " ,:'\"\\"):
            raise CannotRun(f"{CHECKOUT}: its name has a character that QEMU or virtme-ng takes for something else.")
        if any(CHECKOUT.is_relative_to(hidden) for hidden in HIDDEN):
            raise CannotRun(f"{CHECKOUT}: the guest has a {', '.join(HIDDEN)} of its own. Clone to somewhere else.")
        install_missing(machine)
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / ".gitignore").write_text("*\n")
        kernel = kernels.fetch(CACHE, machine, options.kernel)
    except CannotRun as reason:
        if os.environ.get("CI"):
            say(f"tests/stock_kernel/run: FAILED: {reason}")
            return NOT_BOOTED
        say(f"tests/stock_kernel/run: skipped: {reason}")
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        return _in_guest(machine, kernel, options)
    except CannotRun as reason:
        say(f"tests/stock_kernel/run: FAILED: {reason}")
        return NOT_BOOTED
    except KeyboardInterrupt:
        say("tests/stock_kernel/run: interrupted")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/stock_kernel/run", description=__doc__, allow_abbrev=False)
    parser.add_argument("--kernel", default="", metavar="PACKAGE|FILE.deb", help="instead of the distribution's newest")
    parser.add_argument("--exec", default="", metavar="COMMAND", help="run this there instead of tests")
    parser.add_argument("--kvm", action="store_true", help="with the processor's help, where /dev/kvm may be used")
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, metavar="SECONDS", help="end QEMU then")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="pytest's arguments")
    return parser


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _in_guest(machine: Architecture, kernel: Kernel, options: argparse.Namespace) -> int:
    last = CACHE / "last"
    _sweep()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=RUN) as folder, (Path(folder) / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = Path(folder) / "results"
        results.mkdir()
        try:
            image.make(Path(folder) / "disk.img", CHECKOUT)
            (results / "guest.sh").write_text(_script(results, options))
            _boot(machine, kernel, Path(folder), options)
            return status_of(results, expects_scenarios=not options.exec and not options.arguments)
        finally:
            shutil.rmtree(last, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run of this checkout may have kept its own at the same time
                results.rename(last)


def _sweep() -> None:
    """Remove the folders of runs that were killed: nobody holds their locks."""
    for folder in CACHE.glob(f"{RUN}*"):
        with contextlib.suppress(OSError), (folder / LOCK).open() as lock:  # another run's, or just being removed
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _script(results: Path, options: argparse.Namespace) -> str:
    """The guest's script with its variables and arguments."""
    do, arguments = "all", []
    if options.exec:
        do, arguments = "exec", [options.exec]
    elif options.arguments:
        do, arguments = "pytest", options.arguments
    marked = [str(path.relative_to(CHECKOUT)) for path in _marked()]
    variables = {
        "checkout": str(CHECKOUT),
        "stdlib": str(image.stdlib()),
        "results": str(results),
        "slow": str(SLOW),
        "do": do,
        "files": " ".join(marked),
        "files_of_user": " ".join(path for path in marked if path.startswith(OF_USER)),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([*lines, f"set -- {shlex.join(arguments)}", (HERE / "guest.sh").read_text()])


def _marked() -> Iterator[Path]:
    """The files with marked tests: to collect the others would take a minute there."""
    for folder in FOLDERS:
        for path in sorted((CHECKOUT / "tests" / folder).rglob("test_*.py")):
            if MARK in path.read_text():
                yield path


def _boot(machine: Architecture, kernel: Kernel, folder: Path, options: argparse.Namespace) -> None:
    """Boot, follow what the guest writes until it ends, or end it at the deadline."""
    emulated = () if options.kvm else ("--disable-kvm",)
    results = folder / "results"
    command = [
        *("vng", "--verbose", "--run", str(kernel.image), *emulated, *machine.vng, "--force-9p"),
        *("--user", "root", "--cpus", str(CPUS), "--memory", MEMORY, "--rwdir", str(results)),
        f"--qemu-opts=-drive file={folder / 'disk.img'},if=virtio,format=raw",
        *("--", f"sh {results / 'guest.sh'}"),
    ]
    # Whoever ends this process, the kernel ends the first process of the namespace for it, and so all that is in it.
    namespace = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL"]
    if os.geteuid() != 0:
        namespace += ["--user", "--map-current-user"]
    path = f"{CHECKOUT / '.venv' / 'bin'}{os.pathsep}{search_path()}"
    environment = {"PATH": path, "HOME": str(folder), "LC_ALL": "C.UTF-8", "TMPDIR": str(folder)}
    say(f"Booting {kernel.image} ...")
    until = time.monotonic() + options.deadline
    with (folder / "results" / "console").open("wb") as console:
        guest = subprocess.Popen(
            [*namespace, *command],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is this process's affair
        )
        try:
            _follow(guest, results / "output", until)
        finally:
            if guest.poll() is None:
                guest.kill()
            guest.wait(END_S)
    if time.monotonic() > until:
        say(f"tests/stock_kernel/run: ended after {options.deadline:g} s")


def _follow(guest: subprocess.Popen[bytes], output: Path, until: float) -> None:
    """Show what the guest writes until it ends or it is time."""
    pidfd = os.pidfd_open(guest.pid)
    shown = 0
    try:
        while True:
            ended, _, _ = select.select([pidfd], [], [], POLL_S)
            shown += _show(output, shown)
            if ended or time.monotonic() > until:
                return
    finally:
        os.close(pidfd)


def _show(output: Path, offset: int) -> int:
    try:
        with output.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return 0
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
    return len(data)


def status_of(results: Path, *, expects_scenarios: bool) -> int:
    """What the guest's exit status and results come to."""
    try:
        status = int((results / "status").read_text())
    except FileNotFoundError:
        console = (results / "console").read_text(errors="replace").splitlines()
        say("\n".join(["The kernel did not come to the script's end. Its console's last lines:", *console[-40:]]))
        return NOT_BOOTED
    if expects_scenarios:
        skipped = _skipped(results / "scenarios.json")
        for line in skipped:
            say(f"FAILED: {line}")
        status = status or bool(skipped)
    return status


def _skipped(file: Path) -> list[str]:
    """The scenarios that did not run."""
    try:
        told = json.loads(file.read_text())
    except FileNotFoundError:
        return ["the shipped scenarios: no result"]
    found = told["scenarios"]
    if not found:
        return ["the shipped scenarios: none was run"]
    return [f"{each['name']}: skipped: {each['reason']}" for each in found if each["outcome"] == "skipped"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
