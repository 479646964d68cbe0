"""`labctl cp`: copy files and directories between nodes and this machine, with modes and times, like cp(1)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, NamedTuple

from labctl.cli.cp_ends import name_of
from labctl.cli.exit import complain
from labctl.cli.lab_selection import attach, attach_lab_with, check_node
from labctl.errors import InputError, LabError
from labctl.report.terminal import waiting

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.client.process import Process

EXIT_FAILED = 1
_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv.pop(1)); from labctl.cli.cp_ends import main; sys.exit(main(sys.argv[1:]))"
)


class Location(NamedTuple):
    """A path on a node, or on this machine (`node` is "")."""

    node: str
    path: str

    def __str__(self) -> str:
        return f"{self.node}:{self.path}" if self.node else self.path


def location(word: str) -> Location:
    """Return the location: `h1:/tmp/file` is on h1; `./h1:file` and `/x:y` are on this machine."""
    node, colon, path = word.partition(":")
    if not colon or "/" in node or not node:
        return Location("", word)
    return Location(node, path or "/")


def cp(paths: Sequence[str], lab: str | None) -> int:
    """Run `labctl cp`. Return 1 if something could not be copied."""
    if len(paths) < 2:
        raise InputError("labctl cp: TARGET is missing. Try: labctl cp FILE NODE:/tmp/")
    *sources, target = map(location, paths)
    nodes = [each.node for each in (*sources, target) if each.node]
    if not nodes:
        raise InputError("labctl cp: neither SOURCE nor TARGET is on a node. Write a node's file as NODE:/PATH.")
    with attach_lab_with(nodes[0], lab) if len(set(nodes)) == 1 else attach(lab) as attached:
        for node in nodes:
            check_node(attached, node)
        worst = 0
        for node in dict.fromkeys(each.node for each in sources):
            from_node = [each.path for each in sources if each.node == node]
            worst = max(worst, _copied(attached, node, from_node, target, several=len(sources) > 1))
    return worst


def _copied(lab: Lab, node: str, paths: Sequence[str], target: Location, *, several: bool) -> int:
    """Run both ends of a copy, with a pipe between them."""
    with ExitStack() as stack:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pipe = ExitStack()
        stack.callback(pipe.close)
        pipe.callback(os.close, reading)
        pipe.callback(os.close, writing)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        names = [name_of(os.path.join("/", path) if node else path) for path in paths]
        words = ["receive", target.path, "several" if several else "one", *names]
        receiver = _end(lab, target.node, words, reading, null, stack)
        sender = _end(lab, node, ["send", *paths], null, writing, stack)
        pipe.close()
        with waiting(f"copying to {target.node or 'this machine'}"):
            sent, received = sender.ended(), receiver.ended()
        errors = [
            f"{on + ':' if on else ''}{line}"
            for end, on in ((sender, node), (receiver, target.node))
            for line in end.errors()
        ]
    for line in errors:
        complain(f"labctl cp: {line}")
    if (sent or received) and not errors:
        raise LabError(f"labctl cp: the copy was killed (status {sent} and {received}).")
    return EXIT_FAILED if sent or received else 0


class _End:
    """A running end of a copy. The stack of `_end` owns it."""

    def __init__(self, process: Process | subprocess.Popen[bytes], errors: int) -> None:
        self._process = process
        self._errors = errors

    def ended(self) -> int:
        """Wait for it, and return its exit status."""
        status = self._process.wait()
        assert status is not None  # without a timeout
        return status

    def errors(self) -> list[str]:
        """Return the lines on its standard error, after it ended."""
        size = os.fstat(self._errors).st_size
        return os.pread(self._errors, min(size, 1 << 16), 0).decode(errors="backslashreplace").splitlines()


def _end(lab: Lab, node: str, words: list[str], stdin: int, stdout: int, stack: ExitStack) -> _End:
    from labctl.lab.client.nursery import search_path

    argv = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP, search_path()[0], *words]
    errors = os.memfd_create("labctl-copy", os.MFD_CLOEXEC)
    stack.callback(os.close, errors)
    if node:
        process = lab.spawn(node, argv, stdin=stdin, stdout=stdout, stderr=errors, cwd="/")
        stack.enter_context(closing(process))
        return _End(process, errors)
    local = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=errors)
    stack.callback(_reap, local)
    return _End(local, errors)


def _reap(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
