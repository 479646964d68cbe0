"""Ini `labctl_private_network`: without root, the tests run in user and network namespaces of their own."""

from __future__ import annotations

import pytest

from labctl.errors import LabctlError


def enter() -> None:
    """Move this process there (root's stays), before it has threads and workers. UsageError names the remedy."""
    from labctl.api.process import enter_private_network

    try:
        enter_private_network()
    except LabctlError as error:
        raise pytest.UsageError(f"labctl_private_network: {error}") from error
