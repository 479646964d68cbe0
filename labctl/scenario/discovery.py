"""Whether a YAML file is a scenario or a topology, told at a glance: of a folder's many files few need be parsed."""

from __future__ import annotations

import re

_STEPS = re.compile(rb"^(?:steps|\"steps\"|'steps')[ \t]*:", re.MULTILINE)
_HOSTS = re.compile(rb"^(?:hosts|\"hosts\"|'hosts')[ \t]*:", re.MULTILINE)


def has_steps(content: bytes) -> bool:
    """Whether its top level has the key `steps`, as a scenario has. An oddly written one may be taken for none."""
    return _STEPS.search(content) is not None


def has_hosts(content: bytes) -> bool:
    """Whether its top level has the key `hosts`, as a topology has. An oddly written one may be taken for none."""
    return _HOSTS.search(content) is not None
