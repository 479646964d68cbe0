"""Further users and groups for the user namespace of an ordinary user's lab: subuid(5), newuidmap(1).

An ordinary user may map one user and one group into a user namespace: their own, and setgroups(2) is then denied. Where
/etc/subuid and /etc/subgid grant ranges, the setuid programs newuidmap and newgidmap (package uidmap) map these too:
0 is the user, 1 and further are the ranges. Servers that change to a user of their own need that.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

PACKAGE = "uidmap"
TOOLS = ("newuidmap", "newgidmap")
MOST = 65535  # further ids: as many as a machine's own accounts use
_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin")

Range = tuple[int, int]  # first, how many


@dataclass(frozen=True, slots=True)
class Grant:
    """What a user may map; `problem` is why nothing, `remedy` what to try."""

    uids: tuple[Range, ...] = ()
    gids: tuple[Range, ...] = ()
    tools: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""


def read_grant(uid: int, *, directory: str = "/etc") -> Grant:
    """What the files below `directory` grant to that user, and where the programs are that map it."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return Grant(problem=f"user {uid} has no account, which newuidmap requires", remedy="Use an account.")
    found = {file: _ranges(f"{directory}/{file}", {name, str(uid)}) for file in ("subuid", "subgid")}
    if not all(found.values()):
        files = " and ".join(f"{directory}/{file}" for file, ranges in found.items() if not ranges)
        remedy = f"Try: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
        return Grant(problem=f"{name} has no range of ids in {files}", remedy=remedy)
    tools = tuple(filter(None, map(_tool, TOOLS)))
    if len(tools) < len(TOOLS):
        remedy = f"Install the package {PACKAGE} (Fedora, RHEL: shadow-utils)."
        return Grant(problem="newuidmap and newgidmap are not installed", remedy=remedy)
    return Grant(found["subuid"], found["subgid"], tools)


def _ranges(path: str, names: set[str]) -> tuple[Range, ...]:
    """The lines NAME:FIRST:COUNT of these users, cut to MOST ids altogether."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip().split(":") for line in file]
    except OSError:
        return ()
    ranges: list[Range] = []
    left = MOST
    for line in lines:
        if len(line) == 3 and line[0] in names and line[1].isdecimal() and line[2].isdecimal():
            count = min(int(line[2]), left)
            if count and int(line[1]):  # never the machine's root
                ranges.append((int(line[1]), count))
                left -= count
    return tuple(ranges)


def _tool(name: str) -> str:
    return next((path for each in _DIRECTORIES if os.access(path := f"{each}/{name}", os.X_OK)), "")


class Mapper:
    """A shell in the user namespace of now, which maps the ids of the calling process when that has entered another.

    Made before unshare(2); the kernel lets only a process of the parent namespace use the setuid programs.
    """

    def __init__(self, grant: Grant, uid: int, gid: int) -> None:
        """OSError when the shell cannot be started."""
        words = [_words(os.getpid(), uid, grant.uids), _words(os.getpid(), gid, grant.gids)]
        first, second = (f"{tool} {given}" for tool, given in zip(grant.tools, words, strict=True))
        reading, self._go = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", f"read go || exit 1; {first} & {second}; gids=$?; wait $! && exit $gids"],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reading, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                ],
            )
        except BaseException:
            os.close(self._go)
            raise
        finally:
            os.close(reading)

    def map(self) -> None:
        """Map the ids, as far as the programs do it."""
        os.write(self._go, b"\n")
        self.close()

    def close(self) -> None:
        """End the shell: one that `map` has not been called on does nothing."""
        os.close(self._go)
        os.waitpid(self._pid, 0)


def _words(pid: int, own: int, ranges: tuple[Range, ...]) -> str:
    words = [pid, 0, own, 1]
    inside = 1
    for first, count in ranges:
        words += [inside, first, count]
        inside += count
    return " ".join(map(str, words))


def highest(kind: str) -> int:
    """The highest uid (`kind` "uid") or gid up to which this process's user namespace maps all; -1: none."""
    found = -1
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        for line in file:
            inside, _, count = map(int, line.split())
            if inside == found + 1:
                found = inside + count - 1
    return found
