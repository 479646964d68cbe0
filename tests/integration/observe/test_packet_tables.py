"""What somebody has changed in a node's tables of nftables is drift; what nobody has changed is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.lab.client.handle import Lab
from labctl.observe.inspect import inspect
from labctl.observe.packet_tables import differences
from labctl.plan.build import build
from labctl.plan.operations import MakeTable
from labctl.topology import load
from tests.integration.lab.test_packet_tables import NETWORKS, VARIANTS
from tests.labs import output
from tests.skips import needs_programs


def drift(lab: Lab) -> list[str]:
    return [str(one) for one in inspect(lab, "lab", lab.describe().plan).differs]


@pytest.mark.stock_kernel
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant["preset"])
def test_tables_that_nobody_has_changed_are_those_of_the_plan(variant: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(NETWORKS % variant)
    with Lab.open(build(load(tmp_path / "net.yaml"))) as lab:
        assert drift(lab) == []


@needs_programs("nft")
def test_a_changed_table_is_drift(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(NETWORKS % VARIANTS[0])
    plan = build(load(tmp_path / "net.yaml"))
    with Lab.open(plan) as lab:
        firewall = ("inet", "labctl-firewall", "input")
        output(lab, "server", "nft", "add", "rule", *firewall, "tcp", "dport", "22", "accept")
        output(lab, "server", "nft", "chain", *firewall, "{ policy accept; }")
        output(lab, "gw", "nft", "flush", "chain", "inet", "labctl-translation", "forward")
        output(lab, "gw", "nft", "delete", "table", "inet", "labctl-firewall")
        found = drift(lab)
    assert "server: policy of labctl-firewall input is accept, not drop" in found
    assert [one for one in found if "was added" in one] == ["server: rule of labctl-firewall input number 10 was added"]
    assert "gw: nftables table labctl-firewall is missing" in found
    assert any(one.startswith("gw: rule of labctl-translation forward `iifname") for one in found)


def test_a_table_that_is_not_there_is_one_difference(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(NETWORKS % VARIANTS[0])
    tables = [one for one in build(load(tmp_path / "net.yaml")).operations if isinstance(one, MakeTable)]
    assert [len(list(differences(table, {}))) for table in tables] == [1] * len(tables)
