"""What this machine needs to boot another kernel, and which of a distribution's packages bring it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass


class CannotRun(Exception):
    """Why no kernel can be booted here, and what to do."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a machine is called by QEMU and by the distributions."""

    qemu: str
    qemu_package: str
    kernel_packages: tuple[str, ...]  # Debian's, Ubuntu's
    vng: tuple[str, ...] = ()  # what virtme-ng has to be told


ARCHITECTURES = {
    "x86_64": Architecture(
        "qemu-system-x86_64", "qemu-system-x86", ("linux-image-amd64", "linux-image-generic"), ("--disable-microvm",)
    ),
    "aarch64": Architecture("qemu-system-aarch64", "qemu-system-arm", ("linux-image-arm64", "linux-image-generic")),
}
PROGRAMS = {
    "depmod": "kmod",
    "busybox": "busybox-static",
    "zstd": "zstd",
    "file": "file",
    "mke2fs": "e2fsprogs",
    "setpriv": "util-linux",
}
SYSTEM = ("/usr/local/sbin", "/usr/sbin", "/sbin")
APT_TIMEOUT_S = 600


def say(line: str) -> None:
    """Tell whoever started the run."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def architecture() -> Architecture:
    """This machine's. CannotRun when none of its kernels was ever tried."""
    found = ARCHITECTURES.get(platform.machine())
    if found is None:
        raise CannotRun(f"no kernel is known for {platform.machine()}, only for {', '.join(ARCHITECTURES)}.")
    return found


def search_path() -> str:
    """PATH with the system's own folders, which an ordinary user's may lack."""
    return os.pathsep.join(dict.fromkeys([*os.environ.get("PATH", os.defpath).split(os.pathsep), *SYSTEM]))


def find(program: str) -> str | None:
    """Where a program is."""
    return shutil.which(program, path=search_path())


def install_missing(machine: Architecture) -> None:
    """Install by apt-get what is missing, as root. CannotRun when something is missing still."""
    packages = PROGRAMS | {machine.qemu: machine.qemu_package}
    missing = [package for program, package in packages.items() if find(program) is None]
    if not missing:
        return
    if os.geteuid() == 0 and find("apt-get"):
        say(f"Installing by apt-get: {' '.join(missing)} ...")
        if _apt_install(missing).returncode != 0:
            apt("apt-get", "-qq", "update")
            _apt_install(missing)
    still = [f"{program} ({package})" for program, package in packages.items() if find(program) is None]
    if still:
        raise CannotRun(f"not installed: {', '.join(still)}. Try: sudo apt-get install {' '.join(missing)}")


def apt(*argv: str, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    """A command of apt's; what it writes comes back."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "PATH": search_path()}
    return subprocess.run(
        argv,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=APT_TIMEOUT_S,
        check=False,
    )


def _apt_install(packages: Iterable[str]) -> subprocess.CompletedProcess[str]:
    options = ("-qq", "-y", "-o", "DPkg::Lock::Timeout=120", "--no-install-recommends")
    return apt("apt-get", *options, "install", *packages)
