"""`${h2.ipv4}` and the like: what each stands for, and what is said of those that do not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.documents import DocumentError
from labctl.documents.diagnostics import Mistake
from labctl.scenario import load
from labctl.topology import resolve_inline
from labctl.topology.address_variables import ATTRIBUTES, AddressVariables
from labctl.topology.model import Topology
from tests.unit.topology.drafts import from_lines, resolved

FILE = """
hosts: {server: , client: {count: 2}, c.x: }
routers: {gw: }
networks: {lan: {members: [server, client, c.x, gw], ipv6: false}}
links: [[gw, server], {ends: [gw, {node: client-1, interface: up.1}], ipv4: false}]
"""


@pytest.fixture
def topology() -> Topology:
    from labctl.documents import parse

    made, diagnostics = resolve_inline(parse(FILE, "it.yaml"), (), Path())
    assert not diagnostics
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server.ipv4", "10.0.0.1"),
        ("SERVER.ipv4", "10.0.0.1"),
        ("server.ipv6", "fd00:0:0:1::2"),  # of the first interface that has one
        ("server.eth1.ipv4", "10.0.1.2"),
        ("client-2.ipv4", "10.0.0.4"),
        ("c.x.eth0.ipv4", "10.0.0.2"),
        ("c.x.ipv4", "10.0.0.2"),
        ("client-1.up.1.ipv6", "fd00:0:0:2::2"),
        ("gw.eth1.ipv4_network", "10.0.1.0/24"),
        ("gw.ipv6_network", "fd00:0:0:1::/64"),
    ],
)
def test_a_variable_is_the_address_that_the_topology_gives(topology: Topology, name: str, value: str) -> None:
    variables = AddressVariables(topology)
    assert variables.owns(name)
    assert variables.get(name) == value


def test_macs_and_link_local_addresses_are_those_of_the_interface(topology: Topology) -> None:
    variables = AddressVariables(topology)
    eth1 = topology.node("gw").interface("eth1")
    assert variables.get("gw.eth1.mac") == eth1.mac
    assert variables.get("gw.eth1.link_local").startswith("fe80::")
    assert variables.get("gw.mac") == topology.node("gw").interfaces[0].mac


def test_an_attribute_is_not_an_interface_of_that_name() -> None:
    topology = made("hosts: {a: , b: }\nlinks: [[{node: a, interface: mac}, b], [{node: a, interface: mac.ipv4}, b]]")
    variables = AddressVariables(topology)
    assert variables.get("a.mac") == variables.get("a.mac.mac") == topology.node("a").interface("mac").mac
    assert variables.get("a.mac.ipv4") == "10.0.0.1"
    assert variables.get("a.mac.ipv4.ipv4") == "10.0.1.1"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("serve.ipv4", "there is no node `serve`", "did you mean `server`?"),
        ("client-2.eth7.ipv4", "client-2 has no interface `eth7`", "did you mean `eth0`?"),
        ("server.ipv5", "server has no address variable `ipv5`", "did you mean `ipv6`?"),
        ("server.eth0.macc", "server:eth0 has no address variable `macc`", "did you mean `mac`?"),
        ("server.eth0", "`${server.eth0}` lacks an attribute", "write for example `${server.eth0.ipv4}`"),
        ("server..ipv4", "server has no interface ``", "allowed: eth0, eth1"),
        ("client-2.ipv6", "client-2 has no IPv6 address", ""),
        ("client-1.up.1.ipv4", "client-1:up.1 has no IPv4 address", ""),
        ("lan.ipv4", "lan is a switch: its ports have no addresses", ""),
    ],
)
def test_an_unknown_one_is_a_mistake_with_a_suggestion(topology: Topology, name: str, message: str, hint: str) -> None:
    variables = AddressVariables(topology)
    assert variables.owns(name)
    with pytest.raises(Mistake) as caught:
        variables.get(name)
    assert (str(caught.value), caught.value.hint) == (message, hint)


@pytest.mark.parametrize("name", ["PORT", "file%.txt", "x:-a.b", "name-default.txt", "log.dir"])
def test_what_names_no_node_and_no_attribute_is_somebody_elses(topology: Topology, name: str) -> None:
    assert not AddressVariables(topology).owns(name)


def test_every_attribute_has_an_example_for_files_whose_topology_is_wrong() -> None:
    variables = AddressVariables(None)
    assert {variables.get(f"any.{name}") for name in ATTRIBUTES} == set(ATTRIBUTES.values())


def test_scenarios_have_them_in_every_text(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text(
        "topology: pair\nvariables: {peer: '${server.ipv4}'}\nsteps:\n"
        "  - name: to ${server.ipv4}\n"
        "    run: {on: client, run: [echo, '${peer}', '$${server.ipv4}', '${server.ipv6}']}\n"
        '  - server: |\n      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, "${server.ipv4}:80")\n'
        "  - repeat: {times: 1, steps: [{expect: {on: server, listening: 'tcp/${server.eth0.ipv4}:80'}}]}\n"
    )
    scenario = load(file)
    assert dict(scenario.variables) == {"peer": "10.0.0.2"}
    run, calls, repeat = scenario.steps
    assert run.title == "to 10.0.0.2"
    assert isinstance(run.data, dict)
    assert run.data["run"][1:] == ["${peer}", "$${server.ipv4}", "fd00::2"]
    assert isinstance(calls.data, dict)
    assert '"10.0.0.2:80"' in calls.data["do"]
    assert repeat.branches[0][0].data == {"on": "server", "listening": "tcp/10.0.0.2:80"}


def test_scenarios_tell_every_wrong_one_at_its_place(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text(
        "topology: pair\nsteps:\n"
        "  - run: {on: client, shell: 'echo ${serve.ipv4} ${client.ipv4} ${client.eth1.mac}'}\n"
        '  - server: |\n      s = socket(AF_INET, SOCK_STREAM)\n      bind(s, "${sever.ipv4}:80")\n'
        "  - run: {on: client, shell: 'echo ${client.ipv6} ${nothing}'}\n"
    )
    with pytest.raises(DocumentError) as caught:
        load(file)
    found = [(str(one.position), one.message, one.hint) for one in caught.value.diagnostics]
    assert found == [
        ("3:36", "there is no node `serve`", "did you mean `server`?"),
        ("3:65", "client has no interface `eth1`", "did you mean `eth0`?"),
        ("6:16", "there is no node `sever`", "did you mean `server`?"),
        ("7:51", "there is no variable `nothing`", "write `$${` for a literal `${`"),
    ]


def test_a_wrong_topology_does_not_make_its_addresses_wrong(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text("topology: nowhere.yaml\nsteps:\n  - run: {on: client, run: [echo, '${server.eth0.ipv4}']}\n")
    with pytest.raises(DocumentError) as caught:
        load(file)
    assert len(caught.value.diagnostics) == 1


def made(text: str) -> Topology:
    from labctl.documents import parse

    topology, diagnostics = resolve_inline(parse(text, "it.yaml"), (), Path())
    assert not diagnostics
    assert topology is not None
    return topology


def test_topologies_have_them_in_commands_services_and_environment() -> None:
    topology = made(
        "hosts:\n"
        "  a: {count: 2, environment: {ME: '${self.ipv4}'}, exec: 'echo ${b.ipv4} $${b.ipv4} ${HOME}'}\n"
        "  b: {services: {web: {run: [x, '${self.ipv6}'], env: {A: '${a-2.mac}'}, "
        "ready: {listening: 'tcp/${b.ipv4}:1'}}}}\n"
        "networks: {lan: {members: [a, b]}}\n"
    )
    assert [node.environment for node in topology.nodes[:2]] == [(("ME", "10.0.0.2"),), (("ME", "10.0.0.3"),)]
    assert topology.node("a-1").commands[0].argv == ("sh", "-c", "echo 10.0.0.1 ${b.ipv4} ${HOME}")
    (web,) = topology.node("b").services
    assert web.argv == ("x", "fd00::1")
    assert web.environment == (("A", topology.node("a-2").interfaces[0].mac),)
    assert web.ready is not None
    assert web.ready.listening == "tcp/10.0.0.1:1"


CHAIN = "{routes}routers: {{r1: {{{own}}}, r2: }}\nhosts: {{h1: , h2: }}\nlinks: [[h1, r1], [r1, r2], [r2, h2]]\n"


@pytest.mark.parametrize(
    ("routes", "own", "with_routes"),
    [
        ("", "", {"r1", "r2", "h1", "h2"}),
        ("", "routes: none", {"r2", "h1", "h2"}),
        ("routes: none\n", "", set()),
        ("routes: none\n", "routes: automatic", {"r1"}),
    ],
)
def test_routes_none_leaves_static_routes_out(routes: str, own: str, with_routes: set[str]) -> None:
    topology = made(CHAIN.format(routes=routes, own=own))
    assert {node.name for node in topology.nodes if node.routes} == with_routes


def test_commands_and_routes_travel_with_a_plan() -> None:
    from labctl.plan.build import build, topology_of
    from labctl.plan.operations import plan_from_json, plan_to_json
    from labctl.plan.render import render_text

    built = build(made("hosts: {a: {exec: [ls, {run: [b, c], env: {D: 1}, within: 5s}]}, b: {routes: none}}"))
    nodes = plan_from_json(plan_to_json(built)).nodes
    assert nodes == built.nodes
    assert [len(node.commands) for node in nodes] == [2, 0]
    assert [node.automatic_routes for node in topology_of(built).nodes] == [True, False]
    assert "run on a: ls\nrun on a: b c\n" in render_text(built)


def test_lo_is_an_interface_with_loopback_addresses() -> None:
    lines = ("hosts: {a: {loopback: [10.255.0.1], environment: {X: '%s'}}, b: }", "links: [[a, b]]")
    assert (
        dict(resolved(lines[0] % "${a.lo.ipv4} ${a.ipv4}", lines[1]).node("a").environment)["X"]
        == "10.255.0.1 10.0.0.1"
    )
    for attribute, message in (("mac", "a:lo has no mac address"), ("link_local", "a:lo has no link_local address")):
        (mistake,) = from_lines(lines[0] % f"${{a.lo.{attribute}}}", lines[1])[1]
        assert mistake.message == message
    assert from_lines(lines[0] % "${b.lo.ipv4}", lines[1])[1][0].message == "b has no interface `lo`"
