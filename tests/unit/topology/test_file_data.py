"""The data of several files as one: every key as it is written, absolute paths, defaults where they applied."""

from __future__ import annotations

import json
from pathlib import Path

from labctl import topology
from labctl.documents import parse
from labctl.topology.draft import from_shape
from labctl.topology.file_data import as_end, as_link, merged, of_shape
from tests.unit.topology.test_resolved_file import assert_same_again


def test_files_that_are_included_become_one(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "site.yaml").write_text(
        "mtu: 1400\nroutes: none\nhosts: {p: {services: {s: {run: [sleep, '9']}}, files: {/etc/x: {source: x}}}}\n"
        "routers: {r: }\nnetworks: {back: {members: [p, r]}}\nlinks: [[p, r]]\n"
    )
    (tmp_path / "part" / "x").write_text("x")
    (tmp_path / "main.yaml").write_text(
        "include: [part/site.yaml]\nhosts: {a: {exec: [ls, {run: [ls], cwd: part}], binds: ['part:/srv/p']}}\n"
        "networks: {lan: {members: [a, r]}}\nlinks: [[a, {node: p, interface: up}]]\n"
    )
    made = topology.load(tmp_path / "main.yaml")
    assert_same_again(made, names=False)
    data = json.loads(made.file)
    assert data["hosts"]["p"]["files"]["/etc/x"]["source"] == str(tmp_path / "part" / "x")
    assert data["hosts"]["p"]["routing"] == "none"
    assert "include" not in data


def test_defaults_of_an_included_file_stay_those_of_its_nodes(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "routing: none\ndns: 192.0.2.1\nhosts: {p: {dns: 192.0.2.9}}\nrouters: {r: {routes: [{to: default, via: p}]}}\n"
        "links: [[p, r]]\n"
    )
    (tmp_path / "bare.yaml").write_text("hosts: {q: }\nlinks: [[q, r]]\n")
    (tmp_path / "main.yaml").write_text("include: [site.yaml, bare.yaml]\ndns: a\nhosts: {a: }\nlinks: [[a, r]]\n")
    made = topology.load(tmp_path / "main.yaml")
    assert_same_again(made, names=False)
    data = json.loads(made.file)
    assert data["routers"]["r"] == {"routes": [{"to": "default", "via": "p"}], "routing": "none", "dns": "192.0.2.1"}
    assert (data["hosts"], data["dns"]) == ({"p": {"dns": "192.0.2.9", "routing": "none"}, "q": {}, "a": {}}, "a")
    (resolver,) = [one for one in made.node("q").tree.files if one.path == "/etc/resolv.conf"]
    assert str(resolver.content).startswith("nameserver 10.0.")


def test_files_of_daemons_and_of_profiles_have_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "r.conf").write_text("router id 10.0.0.1;\n")
    (tmp_path / "slow.csv").write_text("at,delay\n0s,10ms\n5s,80ms\n")
    (tmp_path / "main.yaml").write_text(
        "hosts: {a: , b: }\nrouters: {r: {services: {d: {use: bird, config: r.conf}}}}\n"
        "networks: {n: {members: [{node: a, profile: slow.csv}, r]}}\n"
        "links: [{ends: [a, b], profile: {file: slow.csv, loop: 60s}}]\n"
    )
    made = topology.load(tmp_path / "main.yaml")
    assert_same_again(made)
    data = json.loads(made.file)
    assert data["routers"]["r"]["services"]["d"]["config"] == str(tmp_path / "r.conf")
    assert data["networks"]["n"]["members"][0]["profile"] == str(tmp_path / "slow.csv")
    assert data["links"][0]["profile"] == {"file": str(tmp_path / "slow.csv"), "loop": "60s"}


def test_an_unknown_key_stays_as_it_is() -> None:
    document = parse("hosts: {a: {new: [1, {x: y}]}}\nother: {z: 1}", "test.yaml")
    assert merged([((), document)], "n") == {"name": "n", "hosts": {"a": {"new": [1, {"x": "y"}]}}, "other": {"z": 1}}


def test_a_shape_has_names_and_links() -> None:
    assert of_shape(from_shape("star:2")) == {
        "name": "star-2",
        "hosts": {"h1": {}, "h2": {}},
        "switches": {"s1": {}},
        "links": [["h1", "s1"], ["h2", "s1"]],
    }


def test_short_forms_are_mappings() -> None:
    assert as_link(["a", "b"]) == {"ends": ["a", "b"]}
    assert as_end("a") == {"node": "a"}
