"""`labctl watch`: changes of a running lab and of its file, a line each, as they happen."""

from __future__ import annotations

import errno
import json as json_format
import os
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli.exit import Stopped, complain
from labctl.cli.files import load_topology
from labctl.cli.lab_selection import attach
from labctl.errors import InputError, LabctlError, LabGone, MachineError, describe_errno
from labctl.lab.client import state_dir
from labctl.observe.changes import Change, FileWatch, NodeWatch, fault_changes, program_changes
from labctl.observe.inspect import DriftKind
from labctl.report.terminal import Ink, Screen, standard_output
from labctl.structs import to_builtins

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan

_CHECK_S = 0.5  # programs and faults have no notification
_FILE, _LAB = "file", "lab"


def watch(source: str | None, as_json: bool, apply: bool, lab: str | None) -> int:
    """Run `labctl watch`, until Ctrl-C or the end of the lab."""
    file = _file(source)
    if apply and file is None:
        raise InputError("labctl watch: --apply needs a topology file. Try: labctl watch --apply office.yaml")
    if apply and as_json:
        raise InputError("labctl watch: --apply has no --json.")
    name = lab or (source if file is None else load_topology(str(file)).name)
    if file is not None and name is not None and name not in state_dir.labs():
        if not apply:
            raise InputError(f"lab {name}: does not run. Try: labctl up {file}, or labctl watch --apply {file}")
        _bring_up(file, name)
    try:
        _Session(standard_output(), name, file, as_json=as_json, apply=apply).run()
    except Stopped as stopped:
        return 128 + stopped.number  # Ctrl-C is the usual end
    return 0


def _file(source: str | None) -> Path | None:
    """Return the file that the word names; None if it names a lab."""
    if source is None or (source in state_dir.labs() and not os.path.isfile(source)):
        return None
    if os.path.isfile(source):
        return Path(source)
    raise InputError(f"{source}: neither a file nor a running lab. Try: labctl ps")


def _bring_up(file: Path, name: str) -> None:
    from labctl.cli.lifecycle import bring_up

    bring_up(str(file), name)


def _watched(file: Path) -> FileWatch:
    """Watch the file. MachineError where a limit of inotify(7) is reached."""
    try:
        return FileWatch([file])
    except OSError as error:
        limits = {errno.EMFILE: "max_user_instances", errno.ENOSPC: "max_user_watches"}
        name = limits.get(error.errno or 0)
        hint = f" Other programs, as editors, watch many. See `sysctl fs.inotify.{name}`." if name else ""
        raise MachineError(f"{file}: cannot watch it: {describe_errno(error.errno or 0)}.{hint}") from error


class _Session:
    def __init__(self, screen: Screen, name: str | None, file: Path | None, *, as_json: bool, apply: bool) -> None:
        self.screen = screen
        self.name = name
        self.file = file
        self.as_json = as_json
        self.apply = apply

    def run(self) -> None:
        """Report until the lab has ended."""
        with ExitStack() as stack:
            files: FileWatch | None = None
            if self.file is not None:
                files = stack.enter_context(_watched(self.file))
            try:
                while self._watch_plan(files):
                    pass
            except LabGone:
                self._write(Change("", "", DriftKind.CHANGED, "lab", "up", "ended"))

    def _watch_plan(self, files: FileWatch | None) -> bool:
        """Report until the lab has another plan (return True). LabGone."""
        with attach(self.name) as lab:
            self.name = lab.name
            description = lab.describe()
            plan = description.plan
            with NodeWatch(lab, [node.name for node in plan.nodes]) as nodes:
                self._show_state(lab, plan)
                others = {lab.fileno(): _LAB} | ({files.fileno(): _FILE} if files is not None else {})
                while True:
                    changes, ready = nodes.wait(_CHECK_S, others)
                    self._write(*changes)
                    now = lab.describe()
                    self._write(*program_changes(description.processes, now.processes))
                    self._write(*fault_changes(description.faults, now.faults))
                    if now.plan_json != description.plan_json:
                        self._line("the lab was updated to another plan", Ink.STRONG)
                        return True
                    description = now
                    if _FILE in ready and files is not None and files.changed():
                        self._read_file(lab, apply=self.apply)

    def _show_state(self, lab: Lab, plan: Plan) -> None:
        """Report where the lab differs from its plan, and from its file."""
        from labctl.observe.inspect import inspect

        differs = inspect(lab, lab.name, plan).differs
        self._line(f"watching lab {lab.name}: " + ("it differs from its file:" if differs else "no drift"), Ink.FAINT)
        for each in differs:
            if self.as_json:
                self._write(Change(each.node, each.interface, each.kind, each.what, each.planned, each.found))
            else:
                self._line(f"  {each}", Ink.ODD)
        if self.file is not None:
            self._read_file(lab, apply=False)

    def _read_file(self, lab: Lab, *, apply: bool) -> None:
        """Report what the file would change, or change it."""
        assert self.file is not None
        assert self.name is not None
        try:
            if apply:
                self._line(f"{self.file} has changed", Ink.STRONG)
                _bring_up(self.file, self.name)
                return
            from labctl.cli.lifecycle import difference_from
            from labctl.plan.build import build
            from labctl.plan.render import render_difference_text

            found = difference_from(lab, build(load_topology(str(self.file))))
            if not found:
                self._line(f"{self.file}: the lab matches it", Ink.FAINT)
                return
            self._line(f"{self.file} differs from the lab; labctl up would change:", Ink.STRONG)
            for line in render_difference_text(found).rstrip("\n").split("\n"):
                self._line(f"  {line}", Ink.ODD)
        except (LabctlError, OSError) as error:
            if isinstance(error, LabGone):
                raise
            complain(str(error))

    def _write(self, *changes: Change) -> None:
        for each in changes:
            bad = each.after in ("down", "without carrier", "ended") or each.kind is DriftKind.MISSING
            if self.as_json:
                data = {"time": _now(), **to_builtins(each)}
                self.screen.write_bytes(json_format.dumps(data, ensure_ascii=False).encode() + b"\n")
            else:
                self._line(str(each), Ink.BAD if bad else Ink.PLAIN)

    def _line(self, text: str, ink: Ink = Ink.PLAIN) -> None:
        from labctl.printable import printable

        if self.as_json:
            self.screen.write_bytes(json_format.dumps({"time": _now(), "text": text}).encode() + b"\n")
            return
        look = self.screen.look
        self.screen.write([f"{look.paint(_now()[11:23], Ink.FAINT)} {look.paint(printable(text), ink)}"])


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
