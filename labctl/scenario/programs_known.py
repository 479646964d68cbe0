"""Whether a program that a step runs will be there: looked up on this machine before anything is built."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from labctl.topology.file_tree import OWN_DIRECTORIES, FileTree, entries_of, lies_in


class KnownPrograms:
    """What can be run, as far as it is known when the file is read: the machine's programs and what steps add.

    A program that `requires.programs` names is never missing: without it the scenario is skipped.
    """

    def __init__(self, directory: Path, required: Iterable[str]) -> None:
        self._directory = directory
        self._names = set(required)
        self._placed: set[str] = set()
        self._bound = False  # some node has binds: what is in them shows when it is run

    def built(self, name: str) -> None:
        self._names.add(name)

    def placed(self, path: str) -> None:
        self._placed.add(path)

    def on_nodes(self, trees: Iterable[FileTree]) -> None:
        """Take what the topology places on nodes for programs, too."""
        for tree in trees:
            self._bound = self._bound or bool(tree.binds)
            for file in tree.files:
                for _, relative in entries_of(file.source) if file.source else [("", "")]:
                    path = os.path.normpath(os.path.join(file.path, relative))
                    self._placed.add(path)
                    self._names.add(os.path.basename(path))

    def missing(self, program: str, cwd: str | None) -> tuple[str, str]:
        """What is wrong with running `program`, and what to try, or ("", ""). No `cwd`: the scenario's directory."""
        if self._bound or program in self._names or program in self._placed or Path(program).name in self._names:
            return "", ""
        if "/" in program:
            path = Path(os.path.normpath(self._directory / (cwd or "") / program))
            own = any(lies_in(str(path), directory) for directory in OWN_DIRECTORIES)
            if own and not path.is_relative_to(self._directory):
                return "", ""  # a host's own directory: what is there shows when it is run
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return "", ""
            if os.path.isfile(path):
                return f"{program} is not executable", f"chmod +x {program}, or run it with its interpreter"
            return f"there is no program {program}", "paths are relative to the scenario's directory, or to its `cwd`"
        if located(program, self._directory) is not None:
            return "", ""
        hint = f"install it, `build` it in an earlier step, or skip without it: requires: {{programs: [{program}]}}"
        return f"the program `{program}` is not installed on this machine", hint


def located(program: str, directory: Path) -> str | None:
    """`program` as it is to be started: as it is when PATH has it, its path when it lies in `directory`, or None."""
    if "/" in program or shutil.which(program):
        return program
    beside = directory / program
    return str(beside) if os.path.isfile(beside) and os.access(beside, os.X_OK) else None
