from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl import documents
from labctl.documents import Document
from labctl.errors import InputError
from labctl.formats.containerlab import read
from labctl.formats.startup import program_exists
from labctl.formats.yaml_writer import write
from tests.unit.formats.samples import DATA, translated, written

SITES = DATA / "containerlab/sites.clab.yml"


def test_nodes_by_their_interfaces_and_bridges_as_switches() -> None:
    data, _ = translated(SITES)
    assert (list(data["hosts"]), list(data["routers"]), list(data["networks"])) == (
        ["web", "user1", "user2"], ["gw", "srl"], ["lan", "srl-e1-1"]
    )  # fmt: skip
    assert data["name"] == "sites"


def test_addresses_of_exec_are_those_of_the_ends() -> None:
    data, _ = translated(SITES)
    assert data["links"][1]["ends"] == [
        {"node": "gw", "interface": "eth2", "ipv4": "10.2.0.1/24", "ipv6": "2001:db8:2::1/64"},
        {"node": "web", "interface": "eth1", "ipv4": "10.2.0.2/24", "ipv6": "2001:db8:2::2/64"},
    ]
    assert data["routes"] == "none"


def test_the_extended_form_of_a_link_has_mac_and_mtu() -> None:
    data, _ = translated(SITES)
    assert data["links"][0]["mtu"] == 1400
    assert data["links"][0]["ends"][0]["mac"] == "02:00:00:00:00:12"


def test_groups_kinds_and_defaults_are_merged() -> None:
    data, _ = translated(SITES)
    assert data["hosts"]["user1"] == {
        "environment": {"SITE": "east", "ROLE": "client"}, "gateway": "10.1.0.1"
    }  # fmt: skip


def test_images_kinds_and_links_to_the_machine_are_reported_with_lines() -> None:
    _, found = translated(SITES)
    reported = "\n".join(found.report)
    assert "web (line 19), gw (line 27), user1 (line 35), user2 (line 39): the image alpine:3" in reported
    assert "srl (line 43): kind nokia_srlinux (ghcr.io/nokia/srlinux)" in reported
    assert "the link of srl:e1-1, host:srl-e1-1 (line 56)" in reported


def test_a_file_without_addresses_gets_automatic_ones(tmp_path: Path) -> None:
    text = 'topology:\n  nodes: {a: {kind: ceos}, b: {kind: ceos}}\n  links: [{endpoints: ["a:eth1", "b:eth1"]}]\n'
    data, _ = translated(written(tmp_path, "two.clab.yml", text))
    assert "routes" not in data
    assert data["name"] == "two"


def test_a_file_without_nodes_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "x.clab.yml", "topology:\n  nodes: {}\n")
    with pytest.raises(InputError, match=r"`topology.nodes` has no nodes"):
        translated(path)


def test_binds_that_cannot_be_mounted_are_left_out(tmp_path: Path) -> None:
    text = "topology:\n  nodes:\n    a: {kind: linux, binds: [missing:/x, $X:/y, x, __clabNodeDir__/c:/c, /:/proc]}\n"
    data, found = translated(written(tmp_path, "x.clab.yml", text))
    assert data["hosts"] == {"a": {}}
    assert len(found.missing) == 4


FRR = """
topology:
  nodes:
    r1: {kind: frr, startup-config: r1.conf, extras: {frr: {daemons: [ospfd]}}}
    r2: {kind: frr, startup-config: "interface eth1\\n ip address 10.0.0.2/24\\n"}
    r3: {kind: frr, startup-config: missing.conf}
  links: [{endpoints: ["r1:eth1", "r2:eth1"]}]
"""


def test_nodes_of_the_kind_frr_run_it_with_their_configuration(tmp_path: Path) -> None:
    written(tmp_path, "r1.conf", "interface eth1\n ip address 10.0.0.1/24\n")
    data, found = translated(written(tmp_path, "x.clab.yml", FRR))
    assert [end["ipv4"] for end in data["links"][0]["ends"]] == ["10.0.0.1/24", "10.0.0.2/24"]
    assert list(data["routers"]) == ["r1", "r2", "r3"]
    assert "r3: startup-config (line 6): there is no such file" in "\n".join(found.report)
    if program_exists("zebra"):
        frr = data["routers"]["r1"]["services"]["frr"]
        assert (frr["config"], frr["daemons"]) == ("r1.conf", ["ospfd"])


def test_ports_of_a_router_with_one_link_are_left_out(tmp_path: Path) -> None:
    nodes = "r: {kind: frr, image: frr, ports: ['8080:80']}, h: {kind: linux, image: x, ports: ['8081:80']}"
    text = f"topology: {{nodes: {{{nodes}}}, links: [{{endpoints: ['r:eth1', 'h:eth1']}}]}}"
    data, found = translated(written(tmp_path, "x.clab.yml", text))
    assert "r: ports (line 1): only hosts can expose ports" in "\n".join(found.report)
    assert "expose" not in data["routers"]["r"]
    assert data["hosts"]["h"]["expose"] == ["8081:80"]


def test_addresses_are_also_those_of_vars(tmp_path: Path) -> None:
    text = "topology:\n  nodes: {a: {kind: linux}, b: {kind: linux}}\n  links:\n"
    text += '    - {endpoints: ["a:eth1", "b:eth1"], vars: {ipv4: [10.0.0.1/24, 10.0.0.2/24]}}\n'
    text += "    - type: veth\n      endpoints:\n        - {node: a, interface: eth2, vars: {ipv4: 10.0.1.1/24}}\n"
    text += "        - {node: b, interface: eth2, vars: {ipv4: 10.0.1.2/24}}\n"
    data, _ = translated(written(tmp_path, "x.clab.yml", text))
    assert [[end["ipv4"] for end in link["ends"]] for link in data["links"]] == [
        ["10.0.0.1/24", "10.0.0.2/24"],
        ["10.0.1.1/24", "10.0.1.2/24"],
    ]


def test_variables_of_the_environment_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_NUMBER", "7")
    text = "name: x${LAB_NUMBER}\ntopology:\n  nodes:\n"
    text += '    a: {kind: linux, env: {A: "${LAB_UNSET:=b}", B: "${LAB_UNSET}"}}\n'
    data, _ = translated(written(tmp_path, "x.clab.yml", text))
    assert (data["name"], data["hosts"]["a"]["environment"]) == ("x7", {"A": "b", "B": "${LAB_UNSET}"})


def test_a_template_is_refused_with_its_line(tmp_path: Path) -> None:
    text = "name: x\ntopology:\n  nodes:\n{{- range seq 3 }}\n    r{{ . }}: {}\n{{- end }}\n"
    with pytest.raises(InputError, match=r"x.clab.yml:4: .* a Go template"):
        translated(written(tmp_path, "x.clab.yml", text))


def test_a_node_that_is_a_bridge_is_a_switch(tmp_path: Path) -> None:
    bridge = ["ip link add br0 type bridge", *(f"ip link set eth{n} master br0" for n in (1, 2))]
    text = f"topology:\n  nodes:\n    sw: {{kind: linux, exec: {json.dumps(bridge)}}}\n"
    text += "".join(f"    h{n}: {{kind: linux, exec: [ip addr add 10.0.0.{n}/24 dev eth1]}}\n" for n in (1, 2))
    text += '  links: [{endpoints: ["sw:eth1", "h1:eth1"]}, {endpoints: ["sw:eth2", "h2:eth1"]}]\n'
    data, _ = translated(written(tmp_path, "x.clab.yml", text))
    assert data["networks"]["sw"]["ipv4"] == "10.0.0.0/24"
    assert [member["ipv4"] for member in data["networks"]["sw"]["members"]] == ["10.0.0.1", "10.0.0.2"]


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["a", "a:eth1", "bridge", "linux", ""])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["nodes", "links", "kind", "exec", "endpoints", "a", "b", "binds", "env", "ports", "type"]),
            inner,
        ),
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["nodes", "links", "defaults", "kinds", "groups"]), VALUES))
def test_any_values_are_read_or_refused(topology: dict[str, Any]) -> None:
    document = documents.parse(write({"topology": topology | {"nodes": topology.get("nodes") or {"a": {}}}}), "x")
    assert _reads(document)


def _reads(document: Document) -> bool:
    try:
        return bool(read(document, Path("x"), "x").devices)
    except InputError:
        return True
