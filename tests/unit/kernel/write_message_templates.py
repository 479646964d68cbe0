"""Writes labctl/kernel/message_templates.py: `python -m tests.unit.kernel.write_message_templates`; ruff format."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from labctl.kernel import message_templates, rtnl

TARGET = Path(message_templates.__file__)
_WIDTH = 48  # bytes in a line


def text() -> str:
    """Return the module, with messages as the installed pyroute2 encodes them."""
    lines = [
        '"""Messages of rtnetlink(7) with placeholder values, as pyroute2 encodes them; see `rtnl.py`.',
        "",
        "Written by `python -m tests.unit.kernel.write_message_templates`, for little-endian machines.",
        '"""',
        "",
        f'PYROUTE2 = "{importlib.metadata.version("pyroute2")}"  # the version',
        "ENCODED = {",
    ]
    for shape, encode in rtnl.PLACEHOLDERS.items():
        encoded = encode()
        parts = [encoded[start : start + _WIDTH].hex() for start in range(0, len(encoded), _WIDTH)]
        lines += [f'    "{shape}": bytes.fromhex(', *(f'        "{part}"' for part in parts), "    ),"]
    return "\n".join((*lines, "}")) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
