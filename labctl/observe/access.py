"""The little of a lab that observing needs; `labctl.lab`'s `Lab` has it, and so has any table of namespaces."""

from __future__ import annotations

import os
import socket
from typing import Protocol


class Observable(Protocol):
    """A lab whose nodes can be looked at from outside, by what was opened on them."""

    def socket(self, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
        """An ordinary socket that lives in the node's network namespace; the caller owns it."""
        ...

    def open_file(self, node: str, path: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of a file opened as a process on the node would; the caller owns it."""
        ...
