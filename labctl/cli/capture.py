"""`labctl capture`: the packets of a link, network, node or interface, as lines or as pcapng."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from labctl.cli.lab_selection import attach, attach_lab_with, suggestion
from labctl.cli.signals import Signals
from labctl.clock import monotonic
from labctl.errors import InputError, LabError, describe_errno
from labctl.report.terminal import Ink, Screen, is_terminal, shorten, silence, standard_error, standard_output
from labctl.structs import Struct
from labctl.timeline.event_text import packet_text
from labctl.timeline.events import AnyEvent, Loss, Packet, Source, Timeline
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.sinks.pcapng import PcapngWriter
from labctl.timeline.wires import hosts_of, links_of, stacked_on, wires_of
from labctl.topology.model import Endpoint, Link, links_between

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan

READ_EVERY_S = 0.1
STANDARD_OUTPUT = "-"
_LIMIT_BYTES = 16 << 20  # of what waits to be written
_LINE_BYTES = 256  # captured of a packet of which a line is shown
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Target(Struct, frozen=True):
    """What is captured: the packets of these nodes that cross one of these ends."""

    text: str
    nodes: tuple[str, ...]
    ends: frozenset[Endpoint] = frozenset()  # none: all interfaces

    def accepts(self, packet: Packet) -> bool:
        """Whether the packet left or arrived at one of the ends."""
        if not self.ends:
            return True
        ends = {Endpoint(packet.host, packet.interface), Endpoint(packet.receiver, packet.receiver_interface)}
        ends |= {Endpoint(hop.node, hop.interface) for hop in packet.others}
        return bool(self.ends & ends)


def capture(
    target: str,
    expression: Sequence[str],
    write: str | None,
    duration: str | None,
    count: int | None,
    lab: str | None,
) -> int:
    """Run `labctl capture` until Ctrl-C, `--for`, `--count` or the end of the lab."""
    from labctl.units import duration_s

    if write == STANDARD_OUTPUT and is_terminal(sys.stdout):
        raise InputError("labctl capture: cannot write pcapng to a terminal. Try: -w FILE, or -w - | wireshark -k -i -")
    try:
        limit_s = None if duration is None else duration_s(duration)
    except ValueError as error:
        raise InputError(f"labctl capture: --for {duration}: {error}") from error
    with _attach(target, lab) as attached:
        plan = attached.describe().plan
        chosen = target_of(plan, target)
        options = RecordOptions(
            nodes=chosen.nodes,
            packet_filter=" ".join(expression),
            snap_bytes=0 if write else _LINE_BYTES,
            kernel=False,
            sample_interval_s=0.0,
            limit_bytes=_LIMIT_BYTES,
        )
        with ExitStack() as stack:
            file = stack.enter_context(_opened(write)) if write else None
            recording = Recording.start(attached, options, title=f"capture {target}", plan=plan)
            stack.enter_context(recording)
            signals = stack.enter_context(Signals())
            recording.wait_ready()
            run = _Capture(recording, chosen, attached, signals, count, limit_s)
            standard_error().line(f"capturing {target}; Ctrl-C ends it", Ink.FAINT)
            if file is None:
                run.show(standard_output())
            else:
                run.write(file, write or STANDARD_OUTPUT)
    return 0


def _attach(target: str, lab: str | None) -> Lab:
    try:
        return attach_lab_with(target.partition(":")[0], lab)
    except InputError:  # a link, or nothing that any lab has
        return attach(lab)


def _opened(path: str) -> BinaryIO:
    if path == STANDARD_OUTPUT:
        if sys.stdout is None:
            raise InputError("labctl capture: -w -: cannot write: standard output is closed. Try: -w FILE")
        return open(os.dup(sys.stdout.fileno()), "wb")
    try:
        return open(path, "wb")
    except OSError as error:
        raise InputError(f"labctl capture: -w {path}: cannot write: {describe_errno(error.errno or 0)}.") from error


def target_of(plan: Plan, text: str) -> Target:
    """Read `NODE`, `NODE:INTERFACE`, a network, or a link: `A-B`, where A and B may have an interface. InputError."""
    hosts, wires = hosts_of(plan), wires_of(plan)
    ends = {end for wire in wires for end in wire.ends}
    node, _, ifname = text.partition(":")
    if text in hosts:
        return Target(text, (text,))
    if Endpoint(node, ifname) in ends:
        return Target(text, (node,), frozenset({Endpoint(node, ifname)}))
    for wire in wires:
        if wire.name == text:
            return _of_ends(text, wire.ends)
    links = _links(plan, text)
    if links:
        return _of_ends(text, [end for end in links if end.node in hosts])
    names = [*hosts, *(wire.name for wire in wires if len(wire.ends) > 1)]
    if below := stacked_on(plan).get(Endpoint(node, ifname)):
        tries = " or ".join(f"labctl capture {end}" for end in below)
        raise InputError(f"capture {text}: its packets are captured on the interfaces below it. Try {tries}.")
    if node in hosts and ifname:
        known = [end.ifname for end in sorted(ends, key=str) if end.node == node]
        raise InputError(f"capture {text}: {node} has no interface {ifname}; {suggestion(ifname, known)}")
    raise InputError(f"capture {text}: no node, interface, network or link; {suggestion(text, names)}")


def _of_ends(text: str, ends: Iterable[Endpoint]) -> Target:
    found = frozenset(ends)
    if not found:
        raise InputError(f"capture {text}: both ends are switches. Try the name of the network, or a host's link.")
    return Target(text, tuple(dict.fromkeys(end.node for end in sorted(found, key=str))), found)


def _links(plan: Plan, text: str) -> list[Endpoint]:
    """Return the ends of the links between two nodes, `A-B`; names may contain hyphens."""
    links = [Link(*ends) for ends in links_of(plan)]
    for at, character in enumerate(text):
        if character == "-" and (found := links_between(links, text[:at].strip(), text[at + 1 :].strip())):
            return [end for link in found for end in (link.a, link.b)]
    return []


class _Capture:
    """A capture from its first packet to its last."""

    def __init__(
        self, recording: Recording, target: Target, lab: Lab, signals: Signals, count: int | None, limit_s: float | None
    ) -> None:
        self._recording = recording
        self._target = target
        self._lab = lab
        self._signals = signals
        self._count = count
        self._until = None if limit_s is None else monotonic() + limit_s
        self._began: Timeline = recording.timeline()
        self._packets = 0
        if self._began.missing:
            raise LabError(f"capture {target.text}: cannot record {', '.join(self._began.missing)}.")

    def show(self, screen: Screen) -> None:
        """Write a line for each packet."""
        names = {address: node.name for node in self._began.nodes for address in node.addresses}
        width = screen.look.width if is_terminal(screen.stream) else None
        named = not self._target.ends

        def write(packets: Sequence[Packet]) -> None:
            lines = [self._line(packet, names, with_interface=named) for packet in packets]
            goes_on = screen.look.glyphs.goes_on
            screen.write([shorten(line, width, goes_on) if width else line for line in lines])

        self._run(write, sys.stdout)

    def write(self, file: BinaryIO, name: str) -> None:
        """Write pcapng; `name` is the file's, for messages."""
        writer = PcapngWriter(file, self._began.nodes, self._began.wires, self._began.clock, comment=self._began.title)

        def write(packets: Sequence[Packet]) -> None:
            writer.events(packets)
            file.flush()

        try:
            file.flush()
            writer.losses(self._run(write, file))
        except OSError as error:
            silence(file)
            if isinstance(error, BrokenPipeError):  # Wireshark has been closed
                return
            raise LabError(f"labctl capture: -w {name}: cannot write: {describe_errno(error.errno or 0)}.") from error

    def _line(self, packet: Packet, names: Mapping[str, str], *, with_interface: bool) -> str:
        at_s = (packet.at_ns - self._began.started_ns) / 1e9
        place = ""
        if with_interface:
            left = packet.host in self._target.nodes
            place = f"{packet.interface if left else packet.receiver_interface:<5} {'out' if left else 'in ':<3} "
        return f"{at_s:10.6f} {place}{packet_text(packet, names)}"

    def _run(self, write: Callable[[Sequence[Packet]], None], output: IO[Any] | None) -> tuple[Loss, ...]:
        """Write packets until the end, then their number to standard error; return what was lost."""
        poller = select.poll()
        poller.register(self._signals.fileno(), select.POLLIN)
        poller.register(self._lab.fileno(), 0)
        if output is not None and not output.closed:
            poller.register(output.fileno(), 0)  # reports POLLERR when the reader of a pipe has gone
        is_over = False
        while not is_over:
            ready = {descriptor for descriptor, _ in poller.poll(READ_EVERY_S * 1000)}
            is_over = bool(ready - {self._signals.fileno()}) or self._stopped()
            is_over = is_over or (self._until is not None and monotonic() >= self._until)
            packets, _ = self._recording.read()
            is_over = self._take(packets, write) or is_over
        losses = self._recording.stop().losses
        if self._packets != self._count:
            self._take(self._recording.read()[0], write)
        self._report(losses)
        return losses

    def _take(self, events: Iterable[AnyEvent], write: Callable[[Sequence[Packet]], None]) -> bool:
        """Write the packets of the target among the events; whether that was the last that is wanted."""
        found = [event for event in events if isinstance(event, Packet) and self._target.accepts(event)]
        if self._count is not None:
            found = found[: self._count - self._packets]
        self._packets += len(found)
        if found:
            write(found)
        return self._packets == self._count

    def _stopped(self) -> bool:
        """Whether a signal ends the capture; Ctrl-Z stops it."""
        for number in self._signals.taken():
            if number == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)
            elif number in _STOPPING:
                return True
        return False

    def _report(self, losses: Iterable[Loss]) -> None:
        screen = standard_error()
        lost = [loss for loss in losses if loss.source is Source.PACKETS]
        screen.line(
            f"{self._packets} {'packet' if self._packets == 1 else 'packets'} of {self._target.text}", Ink.FAINT
        )
        for loss in lost:
            screen.line(str(loss), Ink.BAD)
