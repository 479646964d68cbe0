"""Ini `labctl_private_network`: without root, the tests run in user and network namespaces of their own."""

from __future__ import annotations

import os

import pytest

from labctl.errors import LabctlError


def enter() -> None:
    """Move this process there (root's stays), before it has threads and workers. UsageError names the remedy.

    In there the user is called root. pytest names its temporary directory after who it takes the user to be, and it
    must not take root's: who it is stays in LOGNAME, where nothing else tells it (getpass.getuser).
    """
    from labctl.api.process import enter_private_network

    user = _user()
    try:
        entered = enter_private_network()
    except LabctlError as error:
        raise pytest.UsageError(f"labctl_private_network: {error}") from error
    if entered and not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["LOGNAME"] = user


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # nobody of that number is in /etc/passwd
        return f"user-{os.geteuid()}"
