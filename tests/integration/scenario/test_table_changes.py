"""Translations and firewalls change in a running lab: by the API, by steps, and by another plan."""

from __future__ import annotations

from pathlib import Path

import pytest

import labctl
from labctl.errors import InputError, LabctlError
from labctl.lab.client.handle import Lab
from labctl.plan.build import build, tables
from labctl.plan.operations import MakeTable, Plan, RemovePart, ReplacePart, SetSysctl
from labctl.scenario.table_changes import planned_tables, table_changes, with_firewall, with_nat
from labctl.structs import replace
from labctl.topology import load
from labctl.topology.filter_schema import FirewallFile, NatFile
from labctl.topology.packet_rules import NatPreset, Policy
from tests.integration.detached import name_of_lab
from tests.integration.nat_probe import Outside
from tests.integration.plan.test_firewall import REFUSED, SILENT, connect
from tests.integration.plan.test_translation import INDEPENDENT, NETWORKS, OF_PORT, SERVERS
from tests.labs import output

S1 = SERVERS["s1"]


def plan_of(directory: Path, preset: str, *more: tuple[str, str]) -> Plan:
    text = NETWORKS % (preset, "")
    for old, new in more:
        assert old in text
        text = text.replace(old, new)
    (directory / "net.yaml").write_text(text)
    return build(load(directory / "net.yaml"))


def test_another_plan_changes_the_translation_in_place(tmp_path: Path) -> None:
    before, after = (
        plan_of(tmp_path, "full-cone"),
        plan_of(tmp_path, "symmetric", ("s1: {}", "s1: {firewall: stateful}")),
    )
    with Lab.open(before) as lab, Outside(lab, SERVERS) as outside:
        assert outside.behaviour("a", 40000) == (INDEPENDENT, INDEPENDENT)
        lab.reconcile(after)
        assert connect(lab, "s2", S1, 80, SILENT) == SILENT
        lab.reconcile(plan_of(tmp_path, "symmetric"))
        assert connect(lab, "s2", S1, 80, REFUSED) == REFUSED
        assert outside.behaviour("a", 41000) == (OF_PORT, OF_PORT)


def test_a_change_that_fails_restores_the_tables(tmp_path: Path) -> None:
    before, after = (
        plan_of(tmp_path, "full-cone"),
        plan_of(tmp_path, "symmetric", ("s1: {}", "s1: {firewall: stateful}")),
    )
    refused = SetSysctl("s1", "net.ipv4.conf.all.no_such_setting", "1")
    with Lab.open(before) as lab:
        tables = output(lab, "gw", "nft", "list", "ruleset")
        with pytest.raises(LabctlError):
            lab.reconcile(replace(after, operations=(*after.operations, refused)))
        assert output(lab, "gw", "nft", "list", "ruleset") == tables
        assert output(lab, "s1", "nft", "list", "ruleset") == ""


def test_a_host_of_the_api_changes_its_tables(tmp_path: Path) -> None:
    plan_of(tmp_path, "full-cone")
    with labctl.Lab(tmp_path / "net.yaml") as lab:
        lab["gw"].set_nat("symmetric")
        assert "fully-random" in lab["gw"].run(["nft", "list", "ruleset"]).stdout
        assert "dport 8080 dnat ip to" in lab["gw"].run(["nft", "list", "ruleset"]).stdout
        lab["gw"].set_firewall("stateful", allow=["tcp/22 from s1"])
        assert "policy drop" in lab["gw"].run(["nft", "list", "ruleset"]).stdout
        assert "fully-random" in lab["gw"].run(["nft", "list", "ruleset"]).stdout
        lab["gw"].set_nat(None)
        lab["gw"].set_firewall(None)
        assert lab["gw"].run(["nft", "list", "ruleset"]).stdout == ""
        with pytest.raises(InputError, match="only routers translate"):
            lab["a"].set_nat("symmetric")
        with pytest.raises(InputError, match="`nowhere` is neither a node"):
            lab["a"].set_firewall(allow=["tcp/22 from nowhere"])
        with pytest.raises(InputError, match="expected one of"):
            lab["gw"].set_nat("cone")


def test_a_node_keeps_what_a_change_leaves_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "full-cone")
    topology = load(tmp_path / "net.yaml")
    changed = with_nat(topology, "gw", NatFile({"preset": NatPreset.SYMMETRIC}))
    assert changed.translation is not None
    assert (changed.translation.outside, len(changed.translation.forwards)) == ("eth1", 2)
    for outside in ("wan", "s1", "eth1"):
        again = with_nat(topology, "gw", NatFile({"outside": outside}))
        assert again.translation is not None
        assert again.translation.outside == "eth1"
    before = planned_tables(plan, "gw")
    off = table_changes(before, tables(with_nat(topology, "gw", None), topology))
    assert [type(one) for one in off] == [RemovePart]
    on = table_changes([], tables(with_firewall(topology, "a", FirewallFile({"policy": Policy.DROP})), topology))
    assert [type(one) for one in on] == [MakeTable]
    assert [type(one) for one in table_changes(before, tables(changed, topology))] == [ReplacePart]
    assert table_changes(before, before) == ()


SCENARIO = """
name: changes
topology: net.yaml
steps:
  - nat: {on: gw, preset: symmetric}
  - firewall: {on: s1, preset: stateful, deny: [tcp/22]}
  - expect: {on: s2, unreachable: s1}
"""


def test_steps_change_tables_of_a_lab_that_stays_and_restore_them(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "full-cone")
    (tmp_path / "steps.yaml").write_text(SCENARIO)
    lab = Lab.up(plan, name_of_lab())
    try:
        lab.stay()
        before = [output(lab, node, "nft", "list", "ruleset") for node in ("gw", "s1")]
        with labctl.Lab.attach(name_of_lab()) as attached, attached.scenario(tmp_path / "steps.yaml"):
            assert output(lab, "gw", "nft", "list", "ruleset") != before[0]
        assert [output(lab, node, "nft", "list", "ruleset") for node in ("gw", "s1")] == before
    finally:
        lab.down()
