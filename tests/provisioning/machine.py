"""A freshly installed Debian beside this machine: a root file system, mounts, processes and a host name of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOT_TIMEOUT_S = 600
COMMAND_TIMEOUT_S = 900
_OUTER = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def require(program: str, package: str) -> None:
    """Skips the test where the program is missing; fails it where tools/provision --servers should have seen to it."""
    if shutil.which(program) is not None:
        return
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(f"{program} is not installed, which tools/provision --servers does")
    pytest.skip(f"needs {program}: apt-get install {package}")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that `booted` holds; `environment` is what reaches package servers as this machine does."""

    holder: int  # the PID, out here, of the process whose children live in there
    environment: tuple[tuple[str, str], ...]

    def run(self, command: str, *, user: str = "root", check: bool = True) -> subprocess.CompletedProcess[str]:
        """A line of shell in a login of that user, as `vagrant ssh -c` gives one. CalledProcessError with `check`."""
        login = ["runuser", "--login", user, "--command", command]
        return self._enter(login, check=check)

    def provision(self, *words: str) -> subprocess.CompletedProcess[str]:
        """tools/provision as the Vagrantfile's provisioner runs it; this machine's own sysctls cannot be written."""
        keep = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "
        line = keep + shlex.join(["/home/vagrant/labctl/tools/provision", *words])
        return self._enter(["unshare", "--mount", "sh", "-c", line], check=False)

    def _enter(self, argv: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        namespaces = f"/proc/{self.holder}/ns"
        enter = ["nsenter", f"--mount={namespaces}/mnt", f"--uts={namespaces}/uts", f"--ipc={namespaces}/ipc"]
        enter += [f"--pid={namespaces}/pid_for_children", "--wdns=/", "--"]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = ["env", "-i", f"PATH={path}", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"]
        environment += [f"{name}={value}" for name, value in self.environment]
        ended = subprocess.run(
            [*enter, *environment, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=COMMAND_TIMEOUT_S,
        )
        if check and ended.returncode:
            raise AssertionError(f"{shlex.join(argv)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return ended


@contextmanager
def booted(suite: str) -> Iterator[Machine]:
    """A machine with that release of Debian and this checkout in it, which ends with the `with` or this process."""
    argv = ["unshare", "--mount", "--propagation=private", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--"]
    argv += [str(ROOT / "tests" / "provisioning" / "boot"), suite, _mirror(), str(ROOT)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            # debootstrap's own report is short enough for a pipe, and told when it fails.
            if holder.stdout.readline() != b"ready\n":
                assert holder.stderr is not None
                raise AssertionError(f"no {suite} could be made:\n{holder.stderr.read().decode(errors='replace')}")
            yield Machine(holder.pid, tuple(_environment()))
        finally:
            holder.stdin.close()


def _mirror() -> str:
    """The mirror of Debian that this machine's apt uses."""
    wanted = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI) $(COMPONENT)",
        "Created-By: Packages",
        "Origin: Debian",
    ]
    lines = subprocess.run(wanted, capture_output=True, text=True, check=True).stdout.splitlines()
    uris = [line.split()[0] for line in lines if line.endswith(" main") and "security" not in line]
    return uris[0] if uris else "http://deb.debian.org/debian"


def _environment() -> Iterator[tuple[str, str]]:
    yield from ((name, os.environ[name]) for name in _OUTER if name in os.environ)
    yield from ((name, value) for name, value in os.environ.items() if name.startswith("PIP_"))
    yield "PIP_CERT", "/etc/outer-certificates.crt"
