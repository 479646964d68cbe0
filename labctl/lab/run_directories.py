"""What belongs into every host's /run: the directories that systemd would make there for installed packages.

These are the `d` and `D` lines of tmpfiles.d(5), `RuntimeDirectory=` of services and what they make by mkdir(1) in
`ExecStartPre=` (systemd.exec(5)), and home directories of accounts. Without them many servers do not start: sshd
requires /run/sshd, FRR /run/frr, mosquitto /run/mosquitto, BIRD /run/bird. Whether such a service runs does not matter.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from labctl.lab.host_tree import give, ids_of
from labctl.topology.file_tree import lies_in

TMPFILES = ("/etc/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d")  # of equal names the first counts
UNITS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
PASSWD = "/etc/passwd"
_NOT_MADE = ("/run/systemd", "/run/lab")  # programs take the first for a running systemd; the second is labctl's


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A directory that belongs into /run."""

    path: str
    mode: int = 0o755
    owner: str = ""  # USER or USER:GROUP; "" for root


LOCK = RunDirectory("/run/lock", 0o1777)


class RunDirectories:
    """The directories of this machine's packages; looked for once, when they are first wanted."""

    def __init__(self) -> None:
        self._found: tuple[RunDirectory, ...] | None = None

    def __repr__(self) -> str:
        return f"<RunDirectories, {'not looked for' if self._found is None else len(self._found)}>"

    def get(self) -> tuple[RunDirectory, ...]:
        """All of them, each after those that it lies in."""
        if self._found is None:
            self._found = run_directories()
        return self._found


def run_directories(
    tmpfiles: Iterable[str] = TMPFILES, units: Iterable[str] = UNITS, passwd: str = PASSWD
) -> tuple[RunDirectory, ...]:
    """What packages want in /run, each after those that it lies in."""
    found = {LOCK.path: LOCK}
    for line in _lines(tmpfiles, ".conf"):
        if directory := _of_tmpfiles(line.split()):
            found.setdefault(directory.path, directory)
    for text in _texts(units, ".service"):
        if "RuntimeDirectory=" in text or "mkdir" in text:
            for directory in _of_unit(text):
                found.setdefault(directory.path, directory)
    for line in _lines_of(passwd):
        fields = line.split(":")
        if len(fields) == 7 and (home := _directory(fields[5], "", fields[2], fields[3])):
            found.setdefault(home.path, home)
    return tuple(found[path] for path in sorted(found))


def make(directories: Iterable[RunDirectory]) -> None:
    """Make them in the calling process's /run. What cannot be made, or given to its owner, stays as it is."""
    for one in directories:
        with contextlib.suppress(OSError):
            os.makedirs(one.path, exist_ok=True)
            os.chmod(one.path, one.mode)
            if one.owner:
                give(one.path, *ids_of(one.owner))


def _of_tmpfiles(words: list[str]) -> RunDirectory | None:
    """The directory in /run that a line of tmpfiles.d(5) makes; None for all other lines."""
    if len(words) < 2 or words[0].rstrip("!-+=~^$") not in ("d", "D"):
        return None
    mode, user, group = (*(word.lstrip(":~") for word in words[2:5]), "-", "-", "-")[:3]
    return _directory(words[1], mode, "" if user == "-" else user, "" if group == "-" else group)


def _of_unit(text: str) -> Iterator[RunDirectory]:
    """The directories that a service has systemd make."""
    settings: dict[str, str] = {}
    before: list[list[str]] = []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        settings[key.strip()] = value.strip()
        if key.strip() == "ExecStartPre":
            before.append(value.strip().lstrip("-+!@:").split())
    mode, user, group = (settings.get(key, "") for key in ("RuntimeDirectoryMode", "User", "Group"))
    for name in settings.get("RuntimeDirectory", "").split():
        directory = _directory(f"/run/{name.partition(':')[0]}", mode, user, group)
        if directory is not None:
            yield directory
    for words in before:
        if words and os.path.basename(words[0]) == "mkdir":
            at = words.index("-m") if "-m" in words[:-1] else -1
            for path in words[1:]:
                owner = next((chown[1] for chown in before if _is_chown(chown) and path in chown[2:]), "")
                user, _, group = owner.partition(":")
                directory = _directory(path, words[at + 1] if at > 0 else "", user, group)
                if directory is not None:
                    yield directory


def _is_chown(words: list[str]) -> bool:
    return len(words) > 2 and os.path.basename(words[0]) == "chown"


def _directory(written: str, mode: str, user: str, group: str) -> RunDirectory | None:
    path = os.path.normpath(written.removeprefix("/var") if written.startswith("/var/run/") else written)
    if not path.startswith("/run/") or "%" in path or any(lies_in(path, place) for place in _NOT_MADE):
        return None
    digits = int(mode, 8) if mode and set(mode) <= set("01234567") else 0o755
    owner = "" if user in ("", "root") and group in ("", "root") else f"{user or 'root'}:{group}".rstrip(":")
    return RunDirectory(path, digits, owner)


def _lines_of(path: str) -> list[str]:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()
    return []


def _lines(places: Iterable[str], suffix: str) -> Iterator[str]:
    for text in _texts(places, suffix):
        yield from text.splitlines()


def _texts(places: Iterable[str], suffix: str) -> Iterator[str]:
    """The files with that suffix, in the order of their names; of equal names, that in the first of the places."""
    files: dict[str, str] = {}
    for place in places:
        with contextlib.suppress(OSError):
            for name in os.listdir(place):
                if name.endswith(suffix):
                    files.setdefault(name, os.path.join(place, name))
    for name in sorted(files):
        with contextlib.suppress(OSError), open(files[name], encoding="utf-8", errors="replace") as file:
            yield file.read()
