"""The making of a lab that stays: its name is free, its boot lives on without the one who started it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from labctl.errors import InputError
from labctl.lab import registry
from labctl.lab.place import LAST_WORDS
from labctl.lab.starting import Boot

if TYPE_CHECKING:
    from labctl.lab.place import Place


def check_free(state: int, name: str) -> None:
    """The name is nobody's, and nothing of an earlier lab of that name is left."""
    if registry.is_alive(state, name):
        raise InputError(
            f"lab {name}: is running already. `labctl up` with the lab's topology reconciles it, --name makes another "
            f"one, `labctl down {name}` ends it."
        )
    registry.clear_if_dead(state, name)
    end_unfinished(state, name)


def end_unfinished(state: int, name: str) -> None:
    """Nothing is left of a lab that was to stay and does not."""
    from labctl.lab import reaching

    reaching.end_unfinished(state, name)


def boot_that_stays(place: Place) -> Boot:
    """The boot of a lab in that place, where it leaves its last words. LabError when no file can be made there."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        words = os.open(LAST_WORDS, flags, 0o600, dir_fd=place.directory)
    except OSError as error:
        raise registry.cannot("make a file in it", error) from error
    return Boot.start(errors=words, lab=place.lab, state_directory=str(registry.configured_directory()))
