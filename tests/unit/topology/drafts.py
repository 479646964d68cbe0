"""Random topologies for Hypothesis: any tangle of hosts, routers and switches, as a file's text."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from labctl.documents import Diagnostic, parse
from labctl.topology import resolve_inline
from labctl.topology.model import Topology

_IMPAIRED = st.sampled_from(["", "", "", ", delay: 5ms", ", loss: 1%, rate: 2mbit"])


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """A connected topology of routers, with switches and hosts hung on it in any way."""
    routers = [f"r{number}" for number in range(draw(st.integers(1, 6)))]
    switches = [f"s{number}" for number in range(draw(st.integers(0, 4)))]
    hosts = [f"h{number}" for number in range(draw(st.integers(1, 6)))]
    middle = routers + switches
    links = []
    for index, node in enumerate(middle[1:], start=1):
        links.append((node, draw(st.sampled_from(middle[:index]))))
    for host in hosts:
        for where in draw(st.lists(st.sampled_from(middle), min_size=1, max_size=2, unique=True)):
            links.append((host, where))
    for _ in range(draw(st.integers(0, 4))):
        first, second = draw(st.sampled_from(middle)), draw(st.sampled_from(middle))
        if first != second and not (first in switches and second in switches):
            links.append((first, second))
    topology, mistakes = from_lines(
        f"hosts: {{{', '.join(f'{name}: ' for name in hosts)}}}",
        f"routers: {{{', '.join(f'{name}: ' for name in routers)}}}",
        f"switches: {{{', '.join(f'{name}: ' for name in switches)}}}",
        "links:",
        *(f"  - {{ends: [{a}, {b}]{draw(_IMPAIRED)}}}" for a, b in links),
    )
    assert not mistakes
    assert topology is not None
    return topology


def from_lines(*lines: str) -> tuple[Topology | None, list[Diagnostic]]:
    """The topology written in these lines."""
    return resolve_inline(parse("\n".join(lines) + "\n", "random.yaml"), (), Path())


def resolved(*lines: str) -> Topology:
    """The same for lines without a mistake."""
    topology, mistakes = from_lines(*lines)
    assert topology is not None, mistakes
    assert not mistakes, "\n".join(map(str, mistakes))
    return topology
