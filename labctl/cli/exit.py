"""What every command has in common: how it ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from labctl.errors import LabctlError

P = ParamSpec("P")


def ends_with_status(command: Callable[P, int]) -> Callable[P, None]:
    """Makes a function that gives an exit status a command; labctl's own errors become a message and their status."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from labctl.cli.main import complain, report_bug, stopped_status

        try:
            status = command(*args, **kwargs)
        except LabctlError as error:
            complain(str(error))
            status = error.exit_status
        except KeyboardInterrupt as stopped:  # here, for typer has its own idea of it
            status = stopped_status(stopped)
        except Exception as error:  # noqa: BLE001  # typer would print it in its own way; reported in full
            status = report_bug(error)
        raise SystemExit(status)

    return wrapped
