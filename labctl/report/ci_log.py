"""The log of a CI server: which one reads it, how a part of it is folded, what it must not be given unchanged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from labctl.printable import harmless_on_github
from labctl.report import github, gitlab


class CiLog(Protocol):
    """How lines are written for one kind of server."""

    def section(self, title: str, lines: Sequence[str], duration_s: float) -> list[str]:
        """The lines, folded under their title; they come last, and took `duration_s` until now."""

    def harmless(self, line: str) -> str:
        """The line, changed where the server would take it for a command."""


class GitHubLog:
    """Groups; the runner's commands in other people's text are broken."""

    def section(self, title: str, lines: Sequence[str], duration_s: float) -> list[str]:
        return [github.group_start(title), *map(self.harmless, lines), github.group_end()]

    def harmless(self, line: str) -> str:
        return harmless_on_github(line)


class GitLabLog:
    """Sections, with the time that they took; control characters, without which they are none, are shown anyway."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._number = 0

    def section(self, title: str, lines: Sequence[str], duration_s: float) -> list[str]:
        self._number += 1
        name, now_s = gitlab.section_name(title, self._number), self._clock()
        start = gitlab.section_start(name, title, now_s - duration_s, collapsed=True)
        return [start, *map(self.harmless, lines), gitlab.section_end(name, now_s)]

    def harmless(self, line: str) -> str:
        return line


def log_here(environ: Mapping[str, str]) -> CiLog | None:
    """The log that standard output goes to; None where it is no known CI server's."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return GitHubLog()
    return GitLabLog() if environ.get("GITLAB_CI") == "true" else None
