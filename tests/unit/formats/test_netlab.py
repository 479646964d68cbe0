from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl import documents
from labctl.errors import InputError
from labctl.formats.netlab import read
from labctl.formats.yaml_writer import write
from tests.unit.formats.samples import DATA, translated, written

LINKS = DATA / "netlab/links.yml"


def test_devices_of_the_kind_linux_are_hosts_and_bridges_switches() -> None:
    data, _ = translated(LINKS)
    assert (list(data["hosts"]), list(data["routers"]), list(data["switches"])) == (["h1", "h2"], ["r1", "r2"], ["sw"])


def test_all_forms_of_links() -> None:
    data, _ = translated(LINKS)
    assert data["links"] == [
        ["r1", "r2"],
        {"ends": ["r1", "r2"], "ipv4": "172.31.0.0/29", "rate": "1000kbit", "delay": "5ms"},
        {"ends": [{"node": "r2", "ipv4": "192.168.7.9/24"}, "h1"]},
        {"ends": ["r1", "r2"], "mtu": 1400},
        {"ends": ["r2", "sw"], "mtu": 1400},
    ]
    assert data["networks"]["r1-h1-h2"] == {"members": ["r1", "h1", "h2"]}


def test_modules_and_unknown_nodes_are_reported_with_lines() -> None:
    _, found = translated(LINKS)
    assert [str(one).partition(": ")[0] for one in found.missing] == [
        "the end `nowhere` (line 39)",
        "the module ospf (line 4)",
    ]


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("nodes: [a, b]\nlinks: [a-b]\n", [["a", "b"]]),
        ("nodes: a,b\nlinks:\n  one: a-b\n  two: [a-b]\n", [["a", "b"], ["a", "b"]]),
        ("nodes: [r-1, r-2]\nlinks: [r-1-r-2]\n", [["r-1", "r-2"]]),
        ("groups: {g: {members: [a, b], _auto_create: true}}\nnodes: [c]\nlinks: [a-b]\n", [["a", "b"]]),
        ("nodes: [{name: a}, b]\nlinks: [{interfaces: [{node: a, ipv4: 5}, b], prefix: 10.9.0.0/24}]\n",
         [{"ends": [{"node": "a", "ipv4": "10.9.0.5/24"}, "b"]}]),
        ("nodes: [a, b]\nlinks: [{a: , b: , bandwidth: 100, tc: {loss: 1, jitter: 2}}]\n",
         [{"ends": ["a", "b"], "rate": "100kbit", "loss": "1%"}]),
    ],
)  # fmt: skip
def test_short_forms(tmp_path: Path, text: str, links: list[Any]) -> None:
    data, _ = translated(written(tmp_path, "topology.yml", text))
    assert data["links"] == links


def test_a_file_without_nodes_is_refused() -> None:
    with pytest.raises(InputError, match="`nodes` has no nodes"):
        read(documents.parse("nodes: {}", "x"), Path("x"), "x")


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["a", "a-b", "b", "linux", "10.0.0.0/24"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["a", "b", "members", "prefix", "interfaces", "node", "ipv4", "tc", "device", "vlan.access"]
            ),
            inner,
        ),
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["links", "groups", "defaults", "module", "prefix", "vlans"]), VALUES))
def test_any_values_are_read(data: dict[str, Any]) -> None:
    document = documents.parse(write({**data, "nodes": {"a": {}, "b": {}}}), "x")
    assert read(document, Path("x"), "x").devices
