"""Delays that follow from distances are left out where the kernel cannot have them; delays of the file stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl import topology
from labctl.observe import machine
from labctl.observe.derived_delays import feasible
from labctl.topology.model import Topology
from tests.unit.formats.samples import ZOO


def delays(model: Topology) -> int:
    return sum(
        each.impairment is not None and each.impairment.delay_us > 0 for node in model.nodes for each in node.interfaces
    )


def test_a_kernel_with_netem_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "without_qdisc", lambda kind: "")
    loaded = topology.load(ZOO / "Abilene.graphml")
    assert feasible(loaded) is loaded
    assert delays(loaded) == 28


def test_a_kernel_without_netem_loses_them_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "without_qdisc", lambda kind: "no netem")
    changed = feasible(topology.load(ZOO / "Abilene.graphml"))
    assert delays(changed) == 0
    assert changed.imported is not None
    assert changed.imported.report[-1].startswith("left out: the delays: ")


def test_delays_of_the_file_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "without_qdisc", lambda kind: "no netem")
    path = tmp_path / "x.gml"
    path.write_text('graph [ node [ id 0 ] node [ id 1 ] edge [ source 0 target 1 delay "5ms" ] ]')
    assert delays(feasible(topology.load(path))) == 2
