"""`labctl top`: a full-screen view of a running lab, refreshed every second, with keys that change it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from time import process_time
from typing import TYPE_CHECKING

from labctl.cli.exec import ExecRequest
from labctl.cli.lab_selection import attach, lab_name
from labctl.cli.network import all_cables, link_operations
from labctl.cli.programs import Log
from labctl.cli.shell import open_shell
from labctl.cli.signals import Signals
from labctl.cli.sockets import list_sockets
from labctl.cli.terminal import RawMode, window_of
from labctl.cli.top_view import LinkSample, Panel, Sample, Ui, screen
from labctl.clock import monotonic
from labctl.errors import InputError, KernelError, LabctlError, LabGone
from labctl.report.terminal import Look, look_of
from labctl.topology.model import NodeKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan

REFRESH_S = 1.0
_BUDGET = 0.1  # of a processor's time may go into sampling: a large lab is sampled less often
_SOCKET_NODES = 64  # nodes whose sockets are read
_LOG_LINES = 200
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the alternate screen of xterm; hide the cursor
_KEYS = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down",
    b"\x1b[5~": "pageup", b"\x1b[6~": "pagedown",
    b"\x1b[H": "home", b"\x1b[F": "end", b"\x1b[1~": "home", b"\x1b[4~": "end", b"\x1b[Z": "backtab",
}  # fmt: skip
_MOVES = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -10, "pagedown": 10, "home": -(1 << 30), "end": 1 << 30}


def top(lab: str | None, lab_option: str | None) -> int:
    """Run `labctl top` until `q`, Ctrl-C or the end of the lab."""
    if not (os.isatty(0) and os.isatty(1)):
        raise InputError("labctl top: standard input and output must be a terminal. Try: labctl sockets, ps, inspect")
    with attach(lab_name(lab, lab_option)) as attached:
        return Top(attached).run()


def sample_of(lab: Lab, plan: Plan) -> Sample:
    """Read the lab's state now. LabGone; KernelError if the kernel refuses."""
    from labctl.observe import network
    from labctl.observe.impairments import FoundImpairment, impairments
    from labctl.plan.operations import AddAddress

    description = lab.describe()
    nodes = [node.name for node in plan.nodes]
    kinds = {node.name: node.kind for node in plan.nodes}
    traffic = {node: network.traffic(lab, node) for node in nodes}
    up = {(node, each.name): each.up for node in nodes for each in network.links(lab, node)}
    in_force = lab.impaired()
    impaired = {(node, name): each for node in nodes for name, each in impairments(lab, node, in_force).items()}
    links = []
    for cable in all_cables(plan):
        ends = [(end.node, end.ifname) for end in (cable.near, cable.far)]
        near, far = (impaired.get(end, FoundImpairment()) for end in ends)
        text = "" if near == far == FoundImpairment() else str(near) if near == far else f"{near} / {far}"
        traffics = [traffic[node].get(ifname) for node, ifname in ends]
        links.append(LinkSample(cable, all(up.get(end, False) for end in ends), text, *traffics))
    addresses: dict[str, list[str]] = {}
    for each in plan.operations:
        if isinstance(each, AddAddress) and not each.address.is_link_local:
            addresses.setdefault(each.node, []).append(str(each.address.ip))
    chosen = [node for node in nodes if kinds[node] is not NodeKind.SWITCH]
    left_out = len(chosen) - _SOCKET_NODES
    return Sample(
        at_s=monotonic(),
        name=lab.name,
        started_at=description.started_at,
        nodes=tuple((node, kinds[node].value, tuple(addresses.get(node, ()))) for node in nodes),
        links=tuple(links),
        sockets=tuple(list_sockets(lab, chosen[:_SOCKET_NODES], with_holders=len(chosen) <= _SOCKET_NODES)),
        programs=description.processes,
        left_out=f"without the sockets of {left_out} nodes" if left_out > 0 else "",
    )


class Top:
    """The screen of one lab: samples, draws, and does what keys ask for. For the main thread."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ui = Ui()
        self._plan = lab.describe().plan
        self._sample = sample_of(lab, self._plan)
        self._before: Sample | None = None
        self._next_s = self._sample.at_s + REFRESH_S
        self._log: Log | None = None
        self._log_lines: list[str] = []
        self._raw = RawMode(0)
        self._is_over = False

    def run(self) -> int:
        """Show the screen until the person quits; return the exit status. The terminal is restored in every case."""
        with ExitStack() as stack:
            signals = stack.enter_context(Signals())
            stack.enter_context(self._raw)
            stack.callback(self._write, _LEAVE)
            self._write(_ENTER)
            while not self._is_over:
                self._draw()
                timeout_s = max(0.0, self._next_s - monotonic())
                readable, _, _ = select.select([0, signals.fileno()], [], [], timeout_s)
                if signals.fileno() in readable and (number := self._take(signals)):
                    return 128 + number
                if 0 in readable:
                    self._typed(os.read(0, 1024))
                if monotonic() >= self._next_s:
                    try:
                        self._refresh()
                    except LabGone:
                        break
        return 0

    def _take(self, signals: Signals) -> int:
        """Return the signal that ends the command; 0 if none did."""
        for number in signals.taken():
            if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                return number
        return 0

    def _refresh(self) -> None:
        began_s, began_cpu_s = monotonic(), process_time()
        if not self.ui.is_paused:
            self._plan = self.lab.describe().plan  # `labctl up` may have changed it
            with suppress(KernelError):  # a node was removed meanwhile
                self._before, self._sample = self._sample, sample_of(self.lab, self._plan)
            if self._log is not None:
                more = self._log.lines(self._log.more())
                self._log_lines = (self._log_lines + [line.decode(errors="replace") for line in more])[-_LOG_LINES:]
        took_s, cpu_s = monotonic() - began_s, process_time() - began_cpu_s
        # Not by `took_s` alone, which is long while others use the processors. Keys are handled between samples.
        self.ui.interval_s = max(REFRESH_S, 2 * took_s, cpu_s / _BUDGET)
        self._next_s = began_s + self.ui.interval_s

    def _draw(self) -> None:
        rows, columns = window_of(1)
        base = look_of(sys.stdout)
        look = Look(columns, base.colour, base.glyphs)
        lines = screen(self._sample, self._before, self.ui, self._log_lines, look, rows)
        self._write("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")

    @staticmethod
    def _write(text: str) -> None:
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        while data:
            data = data[os.write(1, data) :]

    # -- keys

    def _typed(self, data: bytes) -> None:
        for key in keys_in(data):
            try:
                self._key(key)
            except LabGone:
                self._is_over = True
            except LabctlError as error:
                self.ui.message = str(error)

    def _key(self, key: str) -> None:
        ui, panels = self.ui, list(Panel)
        ui.message = ""
        if key in ("q", "\x03", "\x04"):
            self._is_over = True
        elif key == "?":
            ui.shows_help = not ui.shows_help
        elif key in ("\t", "backtab"):
            ui.focus = panels[(panels.index(ui.focus) + (1 if key == "\t" else -1)) % len(panels)]
        elif key in _MOVES:
            rows = self._rows(ui.focus)
            ui.selected[ui.focus] = max(0, min(ui.selection(ui.focus, rows) + _MOVES[key], rows - 1))
        elif key == " ":
            ui.is_paused = not ui.is_paused
        elif key == "c":
            self._cut_or_heal()
        elif key == "s":
            self._outside_of_screen(self._shell)
        elif key == "p":
            self._outside_of_screen(self._packets)
        elif key in ("l", "\r"):
            self._choose_log()

    def _rows(self, panel: Panel) -> int:
        sample = self._sample
        lists = {Panel.NODES: sample.nodes, Panel.LINKS: sample.links, Panel.PROGRAMS: sample.programs}
        if panel is Panel.SOCKETS:
            return len(sample.sockets) + len({each.node for each in sample.sockets})
        return len(lists.get(panel, ()))

    def _link(self) -> LinkSample | None:
        links = self._sample.links
        return links[self.ui.selection(Panel.LINKS, len(links))] if links else None

    def _node(self) -> str:
        sample = self._sample
        if self.ui.focus is Panel.PROGRAMS and sample.programs:
            return sample.programs[self.ui.selection(Panel.PROGRAMS, len(sample.programs))].node
        return sample.nodes[self.ui.selection(Panel.NODES, len(sample.nodes))][0]

    def _cut_or_heal(self) -> None:
        link = self._link()
        if link is None:
            self.ui.message = "The lab has no link."
            return
        action = "down" if link.is_up else "up"
        self.lab.apply(link_operations(self.lab, self._plan, [link.cable], action))
        self.ui.message = f"link {link.cable} is {action}"
        self._next_s = monotonic()

    def _choose_log(self) -> None:
        programs = self._sample.programs
        if not programs:
            self.ui.message = "No program runs. Try: labctl start NODE -- COMMAND"
            return
        chosen = programs[self.ui.selection(Panel.PROGRAMS, len(programs))]
        if not chosen.is_detached:
            self.ui.message = f"{chosen.argv[0]} on {chosen.node} has no log: its output goes to its command."
            return
        from labctl.lab.client.lab_directory import log_paths

        label = f"{chosen.node}/{chosen.name}"
        self._log = Log(label, *log_paths(self.lab.name, chosen.node, chosen.name))
        self.ui.log_of = label
        whole = self._log.lines(self._log.all_so_far())
        self._log_lines = [line.decode(errors="replace") for line in whole[-_LOG_LINES:]]

    def _outside_of_screen(self, run: Callable[[], None]) -> None:
        """Give the terminal to another program until it ends."""
        self._write(_LEAVE)
        self._raw.leave()
        try:
            run()
        finally:
            self._raw.enter()
            self._write(_ENTER)
            self._next_s = monotonic()

    def _shell(self) -> None:
        status = open_shell(self.lab, ExecRequest(self._node(), ()))
        self.ui.message = f"the shell on {self._node()} exited with status {status}" if status else ""

    def _packets(self) -> None:
        """Show packets with `labctl capture`, which Ctrl-C ends."""
        link = self._link() if self.ui.focus is Panel.LINKS else None
        where = str(link.cable.near) if link is not None else self._node()
        command = [sys.executable, "-m", "labctl", "capture", where, "--lab", self.lab.name]
        with subprocess.Popen(command) as process:  # Ctrl-C reaches both; here it is only noted
            process.wait()


def keys_in(data: bytes) -> list[str]:
    """Return the keys in what a terminal sent: names of special ones, characters of others."""
    keys = []
    while data:
        special = next((each for each in _KEYS if data.startswith(each)), None)
        if special is not None:
            keys.append(_KEYS[special])
            data = data[len(special) :]
        elif data.startswith(b"\x1b"):  # another sequence, or Escape alone
            data = data[_length_of_sequence(data) :]
        else:
            keys.append(chr(data[0]))
            data = data[1:]
    return keys


def _length_of_sequence(data: bytes) -> int:
    """Return the length of an escape sequence (ECMA-48 CSI: parameters, then a final byte)."""
    if data[1:2] not in (b"[", b"O"):
        return 1
    end = next((at for at in range(2, len(data)) if 0x40 <= data[at] <= 0x7E), len(data) - 1)
    return end + 1
