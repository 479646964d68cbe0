"""TLS keys that programs of a lab wrote to the file of SSLKEYLOGFILE, with which Wireshark decrypts their packets.

curl, Python, Firefox and others write it (draft-ietf-tls-keylogfile). The keys are secret: they are in a timeline only
because somebody set the variable.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from labctl.errors import LabctlError
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan

VARIABLE = "SSLKEYLOGFILE"
_LIMIT_BYTES = 1 << 20  # of each file


def key_files(plan: Plan, environment: Mapping[str, str] = os.environ) -> tuple[tuple[str, str], ...]:
    """Return the nodes and absolute paths of such files: of the nodes, their services, and the lab's `environment`."""
    found: dict[tuple[str, str], None] = {}
    for node in plan.nodes:
        if node.kind is not NodeKind.SWITCH:
            pairs = [*environment.items(), *node.environment]
            pairs += [pair for service in node.services for pair in service.environment]
            found |= {(node.name, path): None for name, path in pairs if name == VARIABLE and os.path.isabs(path)}
    return tuple(found)


def read_keys(lab: Lab, files: Iterable[tuple[str, str]]) -> str:
    """Return the content of the files that exist, each line once."""
    lines: dict[str, None] = {}
    for node, path in files:
        try:
            with open(lab.open_file(node, path), "rb") as file:
                content = file.read(_LIMIT_BYTES)
        except (LabctlError, OSError):  # no program has written it, or the lab has ended
            continue
        lines |= dict.fromkeys(content.decode("ascii", "replace").splitlines(keepends=True))
    return "".join(lines)
