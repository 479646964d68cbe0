"""`labctl cp`: files and directories between hosts and this machine, as cp(1) does it, modes and times kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from labctl.cli.cp_ends import name_of
from labctl.cli.labs import attach, check_node, having
from labctl.cli.main import complain
from labctl.errors import InputError, LabError
from labctl.report.terminal import waiting
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.client.process import Process

EXIT_FAILED = 1
_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv.pop(1)); from labctl.cli.cp_ends import main; sys.exit(main(sys.argv[1:]))"
)


class Place(Struct, frozen=True):
    """Where files are: a path on a node, or (`node` "") on this machine."""

    node: str
    path: str

    @classmethod
    def of(cls, word: str) -> Place:
        """`h1:/tmp/file` is on h1, `./h1:file` and `/x:y` on this machine. InputError for an empty path."""
        node, colon, path = word.partition(":")
        if not colon or "/" in node or not node:
            if not word:
                raise InputError("labctl cp: an empty name is no file.")
            return cls("", word)
        return cls(node, path or "/")

    def __str__(self) -> str:
        return f"{self.node}:{self.path}" if self.node else self.path


def copy(sources: Sequence[str], target: str, lab_name: str | None) -> int:
    """Copies; 1 when something could not be copied, which is said. InputError when the command line is wrong."""
    places = [Place.of(word) for word in sources]
    goal = Place.of(target)
    nodes = [place.node for place in (*places, goal) if place.node]
    if not nodes:
        raise InputError("labctl cp: neither side is on a host. A file on one is written NODE:/PATH.")
    with having(nodes[0], lab_name) if len(set(nodes)) == 1 else attach(lab_name) as lab:
        for node in nodes:
            check_node(lab, node)
        worst = 0
        for node in dict.fromkeys(place.node for place in places):
            paths = [place.path for place in places if place.node == node]
            worst = max(worst, _copied(lab, node, paths, goal, several=len(places) > 1))
    return worst


def _copied(lab: Lab, node: str, paths: Sequence[str], goal: Place, *, several: bool) -> int:
    """Runs both ends of a copy, with a pipe between the two."""
    with ExitStack() as stack:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pipe = ExitStack()
        stack.callback(pipe.close)
        pipe.callback(os.close, reading)
        pipe.callback(os.close, writing)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        names = [name_of(os.path.join("/", path) if node else path) for path in paths]
        words = ["receive", goal.path, "several" if several else "one", *names]
        receiver = _end(lab, goal.node, words, reading, null, stack)
        sender = _end(lab, node, ["send", *paths], null, writing, stack)
        pipe.close()
        with waiting(f"copying to {goal.node or 'this machine'}"):
            sent, received = sender.ended(), receiver.ended()
        said = [
            f"{place + ':' if place else ''}{line}"
            for end, place in ((sender, node), (receiver, goal.node))
            for line in end.said()
        ]
    for line in said:
        complain(f"labctl cp: {line}")
    if (sent or received) and not said:
        raise LabError(f"labctl cp: the copy was ended from outside (status {sent} and {received}).")
    return EXIT_FAILED if sent or received else 0


class _End:
    """One end of a copy that runs; owned by the stack of `_end`."""

    def __init__(self, process: Process | subprocess.Popen[bytes], said: int) -> None:
        self._process = process
        self._said = said

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        status = self._process.wait()
        assert status is not None  # without a deadline
        return status

    def said(self) -> list[str]:
        """What it complained of, when it has ended."""
        size = os.fstat(self._said).st_size
        return os.pread(self._said, min(size, 1 << 16), 0).decode(errors="backslashreplace").splitlines()


def _end(lab: Lab, node: str, words: list[str], stdin: int, stdout: int, stack: ExitStack) -> _End:
    from labctl.lab.client.boot_process import search_path

    argv = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, search_path()[0], *words]
    said = os.memfd_create("labctl-copy", os.MFD_CLOEXEC)
    stack.callback(os.close, said)
    if node:
        process = lab.spawn(node, argv, stdin=stdin, stdout=stdout, stderr=said, cwd="/")
        stack.enter_context(closing(process))
        return _End(process, said)
    local = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=said)
    stack.callback(_reap, local)
    return _End(local, said)


def _reap(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
