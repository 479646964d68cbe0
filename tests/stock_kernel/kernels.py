"""A distribution's kernel, fetched by apt and unpacked into a cache: nothing is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.stock_kernel.machine import Architecture, CannotRun, apt, say, search_path

_PACKAGE = re.compile(r"linux-(?:image|modules|modules-extra)-[0-9][^\s,(|]*")
# Hardware that QEMU does not emulate: two thirds of all modules.
_UNUSED = ("drivers/gpu", "drivers/media", "drivers/net/wireless", "drivers/net/ethernet", "sound")


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: its image, and its modules below `folder`/lib/modules/`release`."""

    release: str
    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "boot" / f"vmlinuz-{self.release}"


def fetch(cache: Path, machine: Architecture, wanted: str = "") -> Kernel:
    """The newest kernel of this distribution, or `wanted`: a package of apt's or a .deb file. CannotRun."""
    if wanted.endswith(".deb"):
        file = Path(wanted).resolve()
        return _cached(cache, file.stem) or _unpacked(cache, file.stem, [file])
    needed = packages((wanted,) if wanted else machine.kernel_packages)
    name = needed[0]
    return _cached(cache, name) or _downloaded(cache, name, needed)


def packages(candidates: tuple[str, ...]) -> list[str]:
    """The packages with the image and the modules, by version: `apt-get download` wants no more."""
    for attempt in range(2):
        if attempt:
            apt("apt-get", "-qq", "update")  # the lists of a fresh container are empty
        for candidate in candidates:
            shown = apt("apt-cache", "show", "--no-all-versions", candidate)
            if shown.returncode == 0 and (found := _of(candidate, shown.stdout)):
                return found
    raise CannotRun(f"apt knows none of {', '.join(candidates)}. Try: apt-get update; or --kernel FILE.deb")


def _of(package: str, shown: str) -> list[str]:
    """That package, if it is one of a version, and those of a version that it depends on; the image's first."""
    depends = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
    found = _PACKAGE.findall(depends[1]) if depends else []
    images = [name for name in found if name.startswith("linux-image-")]
    if not _PACKAGE.fullmatch(package):
        for image in images:
            found += _of(image, apt("apt-cache", "show", "--no-all-versions", image).stdout)
    else:
        found.insert(0, package)
    return list(dict.fromkeys(sorted(found, key=lambda name: not name.startswith("linux-image-"))))


def _downloaded(cache: Path, name: str, packages: list[str]) -> Kernel:
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as folder:
        say(f"Fetching by apt-get: {' '.join(packages)} ...")
        done = apt("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages, cwd=folder)
        if done.returncode != 0:  # the lists may be older than what the server has
            apt("apt-get", "-qq", "update")
            done = apt("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages, cwd=folder)
        if done.returncode != 0:
            raise CannotRun(f"apt-get download {' '.join(packages)}:\n{done.stdout}")
        return _unpacked(cache, name, sorted(Path(folder).glob("*.deb")))


def _unpacked(cache: Path, name: str, files: list[Path]) -> Kernel:
    """In a folder of its own name only when all of it is there."""
    folder = Path(tempfile.mkdtemp(dir=cache, prefix="unpacking-"))
    try:
        excluded = [f"--exclude=./lib/modules/*/kernel/{part}" for part in _UNUSED]
        excluded += [f"--exclude=./usr/lib/modules/*/kernel/{part}" for part in _UNUSED]
        for file in files:
            _extract(file, folder, [*excluded, "--exclude=./usr/share"])
        if not (folder / "lib").exists():  # packages of a merged /usr
            (folder / "lib").symlink_to("usr/lib")
        release = _release(folder)
        depmod = ["depmod", "-b", str(folder), release]
        done = subprocess.run(depmod, env={"PATH": search_path()}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotRun(f"{' '.join(depmod)}: {done.stderr}")
        folder.chmod(0o755)
        try:
            folder.rename(cache / name)
        except OSError:
            if _cached(cache, name) is None:  # otherwise somebody else was quicker
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = _cached(cache, name)
    assert found is not None
    return found


def _extract(file: Path, folder: Path, excluded: list[str]) -> None:
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE)
    with archive:
        tar = ["tar", "-x", "--no-same-owner", "-C", str(folder), *excluded]
        done = subprocess.run(tar, stdin=archive.stdout, capture_output=True, text=True, check=False)
    if archive.returncode != 0 or done.returncode != 0:
        raise CannotRun(f"{file}: cannot be unpacked: {done.stderr}")


def _cached(cache: Path, name: str) -> Kernel | None:
    folder = cache / name
    return Kernel(_release(folder), folder) if folder.is_dir() else None


def _release(folder: Path) -> str:
    images = sorted((folder / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise CannotRun(f"{folder}: no kernel image in boot/, or several. Remove the folder, or name another package.")
    return images[0].name.removeprefix("vmlinuz-")
