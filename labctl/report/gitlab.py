"""A run on GitLab's runners: sections of the job's log that can be folded. JUnit (`--junit`) does the rest there.

docs.gitlab.com, "CI/CD job logs", custom collapsible sections. A section's beginning and its title stand in one line.
"""

from __future__ import annotations

import re

from labctl.printable import printable

_ERASE = "\x1b[0K"
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_.-]+")


def section_name(text: str, number: int) -> str:
    """A name for a section: letters, digits, `_`, `.` and `-` only, and no two alike in one log."""
    return f"labctl_{number}_{_NOT_IN_NAMES.sub('_', text)[:60].strip('_')}".rstrip("_")


def section_start(name: str, title: str, at_s: float, *, collapsed: bool = False) -> str:
    """The line that opens a section; `at_s` is seconds since the epoch, from which GitLab shows how long it took."""
    options = "[collapsed=true]" if collapsed else ""
    shown = " ".join(printable(title).split())
    return f"{_ERASE}section_start:{int(at_s)}:{name}{options}\r{_ERASE}{shown}"


def section_end(name: str, at_s: float) -> str:
    """The line that closes it."""
    return f"{_ERASE}section_end:{int(at_s)}:{name}\r{_ERASE}"
