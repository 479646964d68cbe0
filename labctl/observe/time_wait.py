"""A node's connections in TIME_WAIT: which there are, and ended, so that their addresses are free again."""

from __future__ import annotations

import socket
from collections.abc import Collection

from labctl.errors import KernelError
from labctl.kernel import time_wait
from labctl.kernel.diag import NETLINK_SOCK_DIAG
from labctl.kernel.time_wait import Waiting
from labctl.observe.access import Observable

__all__ = ["Waiting", "end", "waiting"]


def waiting(lab: Observable, node: str) -> frozenset[Waiting]:
    """Those of the node. KernelError when the kernel cannot tell."""
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        try:
            return time_wait.waiting(sock)
        except OSError as error:
            raise KernelError(f"node {node}", "list its connections in TIME_WAIT", error.errno or 0) from error


def end(lab: Observable, node: str, connections: Collection[Waiting]) -> None:
    """End these, where this kernel can. KernelError when it refuses for another reason."""
    with lab.socket(node, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        try:
            time_wait.end(sock, connections)
        except OSError as error:
            raise KernelError(f"node {node}", "end its connections in TIME_WAIT", error.errno or 0) from error
