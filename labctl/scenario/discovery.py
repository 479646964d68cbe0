"""Whether a YAML file is a scenario, told at a glance: of the many files of a folder few need be parsed to know it."""

from __future__ import annotations

import re

_STEPS = re.compile(rb"^(?:steps|\"steps\"|'steps')[ \t]*:", re.MULTILINE)


def has_steps(content: bytes) -> bool:
    """Whether its top level has the key `steps`, as a scenario has. An oddly written one may be taken for none."""
    return _STEPS.search(content) is not None
