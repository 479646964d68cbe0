"""Delays that an import derived from distances, on kernels without netem: the lab is created without them."""

from __future__ import annotations

from pathlib import Path

from labctl.structs import replace
from labctl.topology.model import Topology


def feasible(topology: Topology) -> Topology:
    """Return the topology, without derived delays if the kernel has no netem; its report then has the reason.

    The foreign file has distances, not delays, so a lab without delays is as the file has it. Delays that a file asks
    for stay, and the lab is refused.
    """
    if topology.imported is None or not topology.imported.derived_delays:
        return topology
    from labctl.observe.machine import without_qdisc

    if not without_qdisc("netem"):
        return topology
    from labctl import topology as reader
    from labctl.formats import Options, Part

    changed = reader.load(Path(topology.imported.path), options=Options(without=frozenset({Part.DELAY})))
    assert changed.imported is not None
    note = "left out: the delays: this machine's kernel has no netem (labctl doctor --all)"
    return replace(changed, imported=replace(changed.imported, report=(*changed.imported.report, note)))
