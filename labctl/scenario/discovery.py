"""Which files of a directory are scenarios."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from labctl.errors import InputError, describe_errno

_SUFFIXES = (".yaml", ".yml")
_STEPS = re.compile(rb"^(?:steps|\"steps\"|'steps')[ \t]*:", re.MULTILINE)


def discover(paths: Iterable[str | Path]) -> tuple[Path, ...]:
    """A file is taken as given; of a directory and those below it, every YAML file with a `steps` key, sorted.

    InputError for what is not there, and for a directory without any scenario.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"{path}: there is no such file or directory.")
            found[path] = None
            continue
        inside = list(_scenarios_below(path))
        if not inside:
            raise InputError(f"{path}: no scenario in this directory (a YAML file with a `steps` key).")
        found.update(dict.fromkeys(inside))
    return tuple(found)


def _scenarios_below(directory: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read: {describe_errno(error.errno or 0)}.") from error

    for root, directories, files in os.walk(directory, onerror=fail):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if name.endswith(_SUFFIXES) and not name.startswith(".") and _STEPS.search(path.read_bytes()):
                yield path
