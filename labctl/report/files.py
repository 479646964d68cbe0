"""Writing report files: all or nothing, so that a reader never meets half a file.

By functions of `os`, not methods of paths: those are pyfakefs' while a test has fake files (pytest_plugin/labs.py).
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from labctl.errors import InputError, LabError, describe_errno


def check_writable(path: Path, option: str) -> None:
    """Says before anything is built that `path`, given for `option`, cannot be written. InputError."""
    try:
        if path.is_dir():
            raise InputError(f"{option} {path}: is a directory. Give the name of a file in it.")
        if path.exists():
            if not os.access(path, os.W_OK):
                raise InputError(f"{option} {path}: exists and cannot be written. Check its permissions.")
            return
        parent = path.absolute().parent
        if not parent.is_dir():
            raise InputError(f"{option} {path}: there is no directory {parent}. Make it first: mkdir -p {parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{option} {path}: no file can be made in {parent}. Check its permissions.")
    except OSError as error:
        raise InputError(f"{option} {path}: cannot look it up: {describe_errno(error.errno or 0)}.") from error


def write_whole(path: Path, data: bytes) -> None:
    """Replaces `path` by a file of `data` in one step; a device or pipe is written to as it is. LabError."""
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            path.write_bytes(data)
            return
        replace_file(Path(os.path.realpath(path)), data)  # a symbolic link stays one
    except OSError as error:
        raise LabError(f"{path}: cannot write the report: {describe_errno(error.errno or 0)}.") from error


def replace_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Puts a file of `data` in the place of `path`; `mode` is less the umask. OSError."""
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
