"""A topology as one file with all derived values: it makes the same plan, whatever keys it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl import scenario, topology
from labctl.documents import DocumentError, parse
from labctl.formats.yaml_writer import write
from labctl.plan.build import build
from labctl.plan.diff import difference
from labctl.structs import replace
from labctl.topology import resolved_file
from labctl.topology.model import Topology
from labctl.topology.netem import Discipline, Distribution, Impairment, Moment, Pair, Profile

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted((ROOT / "topologies").rglob("*.yaml"))
SCENARIOS = sorted((ROOT / "scenarios").rglob("*.yaml"))


def read(text: str, file: str = "test.yaml") -> Topology:
    made, diagnostics = topology.resolve_inline(parse(text, file), (), Path(file).parent)
    if diagnostics or made is None:
        raise DocumentError(diagnostics)
    return made


def assert_same_again(made: Topology, *, names: bool = True) -> None:
    """`names`: also the order of nodes, in which /etc/hosts has them."""
    text = resolved_file.text_of(made.file)
    again = read(text, "/elsewhere/again.yaml")
    before, after = build(made), build(again)
    found = difference(before, after)
    assert not (found if names else replace(found, names=False)), text
    assert {node.name: node for node in after.nodes} == {node.name: node for node in before.nodes}, text
    assert resolved_file.text_of(again.file) == text  # nothing is left to derive


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_topology_makes_the_same_plan_again(path: Path) -> None:
    assert_same_again(topology.load(path))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_topology_of_a_shipped_scenario_makes_the_same_plan_again(path: Path) -> None:
    assert_same_again(scenario.load(path).topology)


@pytest.mark.parametrize("shape", ["pair", "star:4", "line:3", "tree:2,3", "mesh:4"])
def test_a_shape_makes_the_same_plan_again(shape: str) -> None:
    assert_same_again(topology.load(shape))


def test_names_of_interfaces_macs_and_addresses_are_written_out() -> None:
    made = read("hosts: {a: , b: {count: 2}}\nnetworks: {lan: {members: [a, b]}}")
    assert resolved_file.explicit(made.file)["networks"]["lan"]["members"][2] == {
        "node": "b-2",
        "interface": "eth0",
        "mac": made.node("b-2").interfaces[0].mac,
        "ipv4": "10.0.0.3/24",
        "ipv6": "fd00::3/64",
    }


def test_parameters_and_repetition_are_written_out() -> None:
    made = read(
        "parameters: {n: 4}\nfor:\n  each: {i: 1..n}\n  routers: {'r${i}': }\n  links: [['r${i}', 'r${i % n + 1}']]\n"
    )
    assert_same_again(made)
    assert "parameters" not in resolved_file.explicit(made.file)


def test_values_for_neighbours_and_profiles_of_a_running_lab_replace_those_of_the_file() -> None:
    made = read(
        "hosts: {a: , b: , c: }\n"
        "networks: {lan: {members: [{node: a, loss: 2%, rate: 1mbit}, b, c], delays: {a: {b: 5ms}}}}\n"
        "links: [{ends: [a, b], delay: 1ms}]\n"
    )
    mac = {end.node: made.node(end.node).interface(end.ifname).mac for end in (made.links[n].a for n in range(3))}
    moments = (
        Moment(0, Impairment(delay_us=1000, jitter_us=500, distribution=Distribution.NORMAL)),
        Moment(1_500_000, Impairment(delay_us=1000, rate_bit_s=8000, discipline=Discipline.RED)),
        Moment(2_000_000, Impairment()),
    )
    now: dict[tuple[str, str], Impairment | None] = {
        ("a", "eth0"): Impairment(loss_ppm=20_000, pairs=(Pair("c", mac["c"], Impairment(rate_bit_s=8_000_000)),)),
        ("b", "eth0"): None,
        ("b", "eth1"): replace(moments[1].impairment, profile=Profile(moments, 3_000_000)),
    }
    again = read(resolved_file.text_of(made.file, impairments=now))
    network = again.node("a").interface("eth0").impairment
    assert network is not None
    assert network.pairs == now["a", "eth0"].pairs  # type: ignore[union-attr]
    back = again.node("c").interface("eth0").impairment
    assert back is not None
    assert back.pairs == (Pair("a", mac["a"], Impairment()),)  # as without values: an entry is for both directions
    profiled = again.node("b").interface("eth1").impairment
    assert profiled is not None
    assert profiled.profile == Profile(moments, 3_000_000)


SWITCHED = {
    "links to a switch": "switches: {s: {KEYS}}\nlinks: [[a, s], [s, b]]",
    "a link to a network": "networks: {s: {members: [a], KEYS}}\nlinks: [[b, s]]",
    "members": "networks: {s: {members: [a, b], KEYS}}",
}


@pytest.mark.parametrize("written", SWITCHED.values(), ids=SWITCHED)
def test_values_between_two_nodes_on_a_switch_are_written(written: str) -> None:
    made = read("hosts: {a: , b: }\n" + written.replace("KEYS", ""))
    now = Impairment(pairs=(Pair("b", made.node("b").interface("eth0").mac, Impairment(delay_us=20_000)),))
    text = resolved_file.text_of(made.file, impairments={("a", "eth0"): now})
    again = read(text)
    assert again.node("a").interface("eth0").impairment == now, text
    assert_same_again(again)


@pytest.mark.parametrize("written", SWITCHED.values(), ids=SWITCHED)
def test_values_between_two_nodes_of_an_included_file_are_kept(written: str, tmp_path: Path) -> None:
    part = "hosts: {a: , b: }\n" + written.replace("KEYS", "delays: {a: {b: 5ms}}")
    (tmp_path / "part.yaml").write_text(part)
    (tmp_path / "whole.yaml").write_text("include: [part.yaml]\nhosts: {c: }\nlinks: [[c, s]]\n")
    made = topology.load(tmp_path / "whole.yaml")
    assert made.node("a").interface("eth0").impairment is not None
    assert_same_again(made, names=False)


def test_impairments_of_a_running_lab_replace_those_of_the_file() -> None:
    made = read("hosts: {a: , b: , c: }\nlinks: [{ends: [a, {node: b, loss: 1%}], delay: 5ms}, [b, c]]")
    now = {("a", "eth0"): Impairment(rate_bit_s=10_000_000), ("b", "eth0"): None}
    links = resolved_file.explicit(made.file, now)["links"]
    near, far = links[0]["ends"]
    assert (near["rate"], "loss" in far, "delay" in links[0]) == ("10mbit", False, False)
    again = read(resolved_file.text_of(made.file, impairments=now))
    assert again.node("a").interface("eth0").impairment == Impairment(rate_bit_s=10_000_000)
    assert again.node("b").interface("eth0").impairment is None


def test_the_header_is_a_comment() -> None:
    assert resolved_file.text_of("pair", ["The lab x."]).startswith("# The lab x.\n")


# -- any file ----------------------------------------------------------------------------------------------------------

IMPAIRED = st.fixed_dictionaries(
    {},
    optional={
        "delay": st.sampled_from(["5ms", "1s", "200us"]),
        "loss": st.sampled_from(["1%", "0.5%"]),
        "rate": st.sampled_from(["10mbit", "1gbit"]),
    },
)
NODE = st.fixed_dictionaries(
    {},
    optional={
        "count": st.integers(1, 3),
        "sysctls": st.just({"net.core.somaxconn": 128}),
        "environment": st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["x", "on", "1", "$${a}", "a b"])),
        "routes": st.sampled_from(["none", "automatic"]),
        "limits": st.just({"pids": 20, "memory": "64MiB", "cpu": "50%"}),
        "exec": st.lists(st.sampled_from(["true", ["ls", "-l"], {"run": ["ls"], "user": "nobody"}]), max_size=2),
        "services": st.just({"web": {"run": ["sleep", "9"], "env": {"P": "1"}, "restart": "always", "within": "3s"}}),
        "files": st.just({"/etc/motd": {"content": "a\n b\n", "mode": "0600", "owner": "root"}}),
        "private": st.just(["/var/log/x"]),
        "offload": st.booleans(),
        "firewall": st.just({"policy": "drop", "allow": ["tcp/80"]}),
    },
)  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """Any small network: nodes with any keys, networks, links with any impairment."""
    hosts = {f"h{number}": draw(NODE) for number in range(draw(st.integers(1, 4)))}
    routers = {f"r{number}": draw(NODE) for number in range(draw(st.integers(0, 3)))}
    nodes = [*hosts, *routers]
    networks: dict[str, Any] = {}
    for number in range(draw(st.integers(0, 2))):
        members = [{"node": name, **draw(IMPAIRED)} for name in draw(st.lists(st.sampled_from(nodes), unique=True))]
        networks[f"n{number}"] = {"members": members, **draw(st.sampled_from([{}, {"mtu": 1400}, {"ipv6": False}]))}
    links: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 5))):
        a, b = draw(st.tuples(st.sampled_from(nodes), st.sampled_from([*nodes, *networks])))
        if a != b:
            far = b if draw(st.booleans()) else {"node": b, **draw(IMPAIRED)}
            links.append({"ends": [a, far], **draw(IMPAIRED), **draw(st.sampled_from([{}, {"mtu": 9000}]))})
    top: dict[str, Any] = draw(
        st.sampled_from([{}, {"addresses": "ipv4"}, {"mtu": 1300}, {"ipv4_pool": "172.16.0.0/12"}])
    )
    return {"name": "any", **top, "hosts": hosts, "routers": routers, "networks": networks, "links": links}


def test_characters_that_yaml_has_as_escapes_only() -> None:
    text = r'{"hosts": {"a": {"files": {"/etc/a\u2028b": {"content": "x \u2029 \x7f \x85 \ufeff"}}}}}'
    assert_same_again(read(text))


@given(files())
def test_any_topology_makes_the_same_plan_again(data: dict[str, Any]) -> None:
    assert_same_again(read(write(data)))
