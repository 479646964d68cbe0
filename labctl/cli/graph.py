"""`labctl graph`: draw the network of a topology file or of a running lab."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli.files import load_topology
from labctl.cli.lab_selection import attach
from labctl.drawing.diagram import NOT_LIVE, Diagram, Labels, Live, State, diagram_of, shortened
from labctl.errors import InputError
from labctl.lab.client import state_dir
from labctl.report.terminal import ASCII, Ink, standard_output, waiting
from labctl.structs import replace

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.plan.operations import Plan
    from labctl.topology.model import Topology

FORMATS = {".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot", ".txt": "text"}
_ADDRESSES_TO = 24  # links up to which addresses are shown


def graph(
    source: str | None,
    format: str,
    output: Path | None,
    labels: str,
    every_host: bool,
    ascii: bool,
    values: Sequence[str] = (),
) -> int:
    """Run `labctl graph`."""
    if format == "auto":
        format = FORMATS.get(output.suffix, "") if output is not None else "text"
        if not format:
            raise InputError(f"{output}: the name has none of the endings {', '.join(FORMATS)}. Try: --format svg")
    topology, live = read(source, values)
    diagram = diagram_of(topology, Labels.NAMES, every_host=every_host, live=live)
    chosen = labels if labels != "auto" else "addresses" if len(diagram.edges) <= _ADDRESSES_TO else "names"
    diagram = diagram_of(topology, Labels(chosen), every_host=every_host, live=live)
    if output is None and format == "text":
        _print(diagram, ascii=ascii)
    else:
        write(rendered(diagram, format, ascii=ascii), output)
    return 0


def rendered(diagram: Diagram, format: str, *, ascii: bool = False) -> str:
    """Return the drawing as text, in one of the values of FORMATS."""
    if format == "svg":
        from labctl.drawing.svg import document

        return document(diagram)
    if format in ("mermaid", "dot"):
        from labctl.drawing import markup

        return markup.mermaid(diagram) if format == "mermaid" else markup.dot(diagram)
    from labctl.drawing import outline

    lines = outline.outline(diagram, characters=outline.ASCII if ascii else outline.BOXES)
    return "".join(f"{line.text}\n" for line in lines)


def write(text: str, output: Path | None) -> None:
    """Write the text to the file, or print it. InputError, LabError if the file cannot be written."""
    if output is None:
        standard_output().write_bytes(text.encode())
        return
    from labctl.report.artifacts import write_file

    try:
        write_file(output, text.encode())
    except OSError as error:
        from labctl.cli.file_commands import cannot_write

        raise cannot_write(output, error) from error
    standard_output().line(f"wrote {output}")


def _print(diagram: Diagram, *, ascii: bool) -> None:
    from labctl.drawing import outline

    screen = standard_output()
    look = screen.look
    characters = outline.ASCII if ascii or look.glyphs is ASCII else outline.BOXES
    inks = {State.GOOD: Ink.PLAIN, State.IMPAIRED: Ink.ODD, State.BAD: Ink.BAD}
    lines = outline.outline(diagram, look.width, characters)
    screen.write([look.paint(line.text, inks[line.state]) for line in lines])


def read(source: str | None, values: Sequence[str] = ()) -> tuple[Topology, Live]:
    """Return the topology of the file or shape, or that of the running lab of that name with its present state.

    Without a source it is the lab that other commands would choose. A running lab takes precedence over a shape or a
    shipped name, and a file over both. `values` are parameters of a file.
    """
    if source is not None and (os.path.exists(source) or source not in state_dir.labs()):
        with waiting(f"reading {source}"):
            return load_topology(source, values), NOT_LIVE
    if values:
        raise InputError("labctl: --set is for topology files; a running lab has its values.")
    from labctl.plan.build import topology_of

    with attach(source) as lab:
        description = lab.describe()
        with waiting(f"reading {len(description.nodes)} nodes of lab {lab.name}"):
            return replace(topology_of(description.plan), name=lab.name), live_state(lab, description.plan)


def live_state(lab: Lab, plan: Plan) -> Live:
    """Return what differs in the lab from a network in which everything works."""
    from labctl.observe import network, services
    from labctl.observe.impairments import impairments
    from labctl.plan.operations import MakeLink

    ends = {
        (end.node, end.ifname) for each in plan.operations if isinstance(each, MakeLink) for end in (each.a, each.b)
    }
    up: set[tuple[str, str]] = set()
    impaired: dict[tuple[str, str], tuple[str, str]] = {}
    in_force = lab.impaired()
    for node in dict.fromkeys(node for node, _ in sorted(ends)):
        up.update((node, each.name) for each in network.links(lab, node) if each.up)
        for ifname, each in impairments(lab, node, in_force).items():
            own = shortened(each.impairment) if each.impairment else ""
            impaired[node, ifname] = (", ".join(filter(None, (own, each.foreign))), str(each))
    notes: dict[str, list[str]] = {}
    for key in services.not_running(lab, plan):
        node, _, name = key.partition("/")
        notes.setdefault(node, []).append(f"{name} does not run")
    for fault in lab.describe().faults:
        for node in fault.nodes:
            notes.setdefault(node, []).append(fault.text)
    return Live(frozenset(ends - up), impaired, notes)
