"""Mermaid and Graphviz: every node and link, any name, and what Graphviz itself accepts."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from labctl.drawing.diagram import Diagram, Edge, State, Symbol, Vertex, diagram_of
from labctl.drawing.markup import dot, mermaid
from labctl.topology import load

ODD = Diagram(
    'a "lab"',
    (Vertex('x"y', Symbol.HOST, ("10.0.0.1",)), Vertex("b\\<c>", Symbol.ROUTER, state=State.BAD)),
    (Edge('x"y', "b\\<c>", ".1", ".2", ("down", "delay 5ms"), State.BAD),),
)


def test_mermaid_has_names_as_texts_and_bad_links_in_red() -> None:
    assert mermaid(ODD).splitlines() == [
        "flowchart TB",
        '    n0["x#34;y<br>10.0.0.1"]',
        '    n1(["b\\#60;c#62;"])',
        '    n0 -.-|".1 \u2013 .2<br>down<br>delay 5ms"| n1',
        "    linkStyle 0 stroke:#cf222e",
        "    classDef bad stroke:#cf222e,stroke-width:3px",
        "    class n1 bad",
    ]


def test_dot_quotes_names_and_has_texts_at_both_ends() -> None:
    (line,) = [line for line in dot(ODD).splitlines() if " -- " in line]
    assert line.startswith('    "x\\"y" -- "b\\\\<c>" [taillabel=".1", headlabel=".2", label="down\\ndelay 5ms"')


@pytest.mark.parametrize("diagram", [ODD, diagram_of(load("mesh:5")), diagram_of(load("star:300"))])
def test_graphviz_reads_it(diagram: Diagram) -> None:
    program = shutil.which("dot")
    if program is None:
        pytest.skip("needs Graphviz")
    made = subprocess.run([program, "-Tplain"], input=dot(diagram), capture_output=True, text=True, check=True)
    assert made.stdout.count("\nnode ") == len(diagram.vertices)
    assert made.stdout.count("\nedge ") == len(diagram.edges)
