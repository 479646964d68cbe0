"""`labctl export`: a topology or a running lab as a file of another tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labctl.cli.graph import read as read_source
from labctl.cli.graph import rendered, write
from labctl.drawing.diagram import Labels, diagram_of


def export(format: str, source: str | None, output: Path | None, values: Sequence[str] = ()) -> int:
    """Run `labctl export`."""
    topology, live = read_source(source, values)
    if format in ("mermaid", "dot", "svg"):
        write(rendered(diagram_of(topology, Labels.ADDRESSES, every_host=format == "dot", live=live), format), output)
        return 0
    if format == "graphml":
        from labctl.exports.graphml import graphml

        text = graphml(topology)
    elif format == "containerlab":
        from labctl.exports.containerlab import containerlab

        text = containerlab(topology)
    elif format == "yaml":
        from labctl.topology.resolved_file import text_of

        text = text_of(topology.file)
    else:
        from labctl.plan.build import build
        from labctl.plan.render import render_shell

        text = render_shell(build(topology))
    write(text, output)
    return 0
