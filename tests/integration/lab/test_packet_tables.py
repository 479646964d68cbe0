"""Tables that labctl packs are those that nft makes of the printed text."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.lab.client.handle import Lab
from labctl.lab.packet_tables import FIELDS
from labctl.plan.build import build
from labctl.plan.operations import MakeTable
from labctl.plan.packet_tables import nft
from labctl.topology import load
from tests.labs import output, run
from tests.skips import needs_programs

pytestmark = [needs_programs("nft"), pytest.mark.stock_kernel]

NETWORKS = """
hosts:
  a: {}
  b: {}
  server:
    firewall:
      preset: %(host)s
      policy: %(policy)s
      deny: [{from: [10.9.0.0/16, lan], port: 8000-8010}, {from: 10.8.0.1, direction: out}]
      allow: [tcp/80, icmp, {from: [gw, lan, 10.0.0.0/8], protocol: udp, port: 53}, {to: a, direction: out}]
routers:
  gw:
    nat: {preset: %(preset)s, outside: wan, hairpin: %(hairpin)s, ipv6: true, timeout: 90s}
    forward: ["8080:a:80", "5000-5002:b:6000/udp", "7000-7010:a"]
    firewall: {preset: %(router)s, allow: [{from: server, to: lan, port: 22}]}
  isp: {}
networks:
  lan: {ipv4: 192.168.1.0/24, members: [gw, a, b]}
  wan: {ipv4: 203.0.113.0/24, members: [gw, isp, server]}
"""
VARIANTS = (
    {"preset": "full-cone", "hairpin": "true", "host": "stateful", "router": "stateful", "policy": "drop"},
    {"preset": "address-restricted", "hairpin": "false", "host": "open", "router": "drop-in", "policy": "reject"},
    {"preset": "hairpin", "hairpin": "true", "host": "corporate", "router": "corporate", "policy": "reject"},
    {"preset": "symmetric", "hairpin": "false", "host": "lockdown", "router": "lockdown", "policy": "drop"},
    {"preset": "cgnat", "hairpin": "true", "host": "drop-in", "router": "open", "policy": "accept"},
    {"preset": "masquerade", "hairpin": "true", "host": "stateful", "router": "stateful", "policy": "reject"},
)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant["preset"])
def test_the_kernel_has_what_nft_makes_of_the_printed_text(variant: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(NETWORKS % variant)
    plan = build(load(tmp_path / "net.yaml"))
    tables = [one for one in plan.operations if isinstance(one, MakeTable)]
    assert {one.node for one in tables} >= {"gw", "server"}
    with Lab.open(plan) as lab:
        for node in ("gw", "server"):
            packed = output(lab, node, "nft", "list", "ruleset")
            text = "".join(nft(one.table, one.sets, one.chains) for one in tables if one.node == node)
            made = run(lab, node, "sh", "-c", f"nft flush ruleset && nft -f - <<'EOF'\n{text}EOF")
            assert made.output == ""
            assert output(lab, node, "nft", "list", "ruleset") == packed


def test_every_field_of_a_rule_can_be_packed(tmp_path: Path) -> None:
    for variant in VARIANTS:
        (tmp_path / "net.yaml").write_text(NETWORKS % variant)
        for table in build(load(tmp_path / "net.yaml")).operations:
            if isinstance(table, MakeTable):
                rules = [rule for chain in table.chains for rule in chain.rules]
                assert {field for rule in rules for match in rule.matches for field in match.fields} <= FIELDS.keys()
