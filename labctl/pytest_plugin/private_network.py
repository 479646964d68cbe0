"""ini `labctl_private_network`: without root, the tests run in user and network namespaces of their own."""

from __future__ import annotations

import os

import pytest

from labctl.errors import LabctlError


def enter() -> None:
    """Move this process there, before it has threads and workers. UsageError names the remedy."""
    if os.geteuid() == 0:
        return
    from labctl import enter_private_network

    try:
        enter_private_network()
    except (LabctlError, RuntimeError) as error:
        raise pytest.UsageError(f"labctl_private_network: {error}") from error
