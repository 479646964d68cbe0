"""The whole command line: what needs no running lab, and what makes and uses one.

Typer takes a millisecond a command to prepare: `labctl run` and its neighbours in app.py are started without this.
"""

from __future__ import annotations

from labctl.cli import lab_commands, up_commands
from labctl.cli.app import app

__all__ = ["app"]

up_commands.register(app)
lab_commands.register(app)
