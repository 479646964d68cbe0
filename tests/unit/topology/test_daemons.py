"""Services with `use`: the programs, order, conditions and files of each daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl import topology
from labctl.documents import DocumentError
from labctl.topology.daemons import frr_daemons_in
from labctl.topology.model import RESOLV_CONF, Node


def node(directory: Path, *lines: str, name: str = "r1") -> Node:
    (directory / "lab.yaml").write_text("\n".join(lines))
    return topology.load(directory / "lab.yaml").node(name)


def mistakes(directory: Path, *lines: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        node(directory, *lines)
    return [one.message for one in caught.value.diagnostics]


def test_frr_is_zebra_its_daemons_and_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "r1.conf").write_text(
        "router ospf\nrouter bgp 65001\n neighbor ${h1.ipv4} remote-as 2\nip route 10.9.0.0/16 Null0\n"
    )
    made = node(
        tmp_path,
        "routers: {r1: {services: {routing: {use: frr, config: r1.conf, options: [-t], after: [log], restart: always},"
        " log: {shell: sleep 9}}}}",
        "hosts: {h1: }",
        "links: [[r1, h1]]",
    )
    assert {one.name: one.after for one in made.services} == {
        "zebra": ("r1/log",),
        "ospfd": ("r1/zebra",),
        "bgpd": ("r1/zebra",),
        "staticd": ("r1/zebra",),
        "routing": ("r1/zebra", "r1/ospfd", "r1/bgpd", "r1/staticd"),
        "log": (),
    }
    assert all(one.ready for one in made.services if one.name != "log")
    assert made.services[0].argv[-1] == "-t"
    files = {file.path: file.content for file in made.tree.files}
    assert files["/etc/frr/vtysh.conf"] == "service integrated-vtysh-config\n"
    assert " neighbor 10.0.0.2 remote-as 2\n" in (files["/etc/frr/frr.conf"] or "")


@pytest.mark.parametrize(
    ("config", "daemons"),
    [
        ("router ospf\nrouter ospf6\n", ("ospfd", "ospf6d")),
        ("router bgp 1 vrf red\n", ("bgpd",)),
        ("interface eth0\n ip ospf cost 3\n ip pim\nrouter rip\n", ("ripd", "pimd")),
        ("router isis x\nbfd\n", ("isisd", "bfdd")),
        ("ipv6 route ::/0 blackhole\n", ("staticd",)),
        ("hostname r1\n! router bgp 3\n", ()),
    ],
)
def test_the_daemons_that_a_configuration_mentions(config: str, daemons: tuple[str, ...]) -> None:
    assert frr_daemons_in(config) == daemons


def test_a_file_of_the_user_takes_precedence(tmp_path: Path) -> None:
    made = node(
        tmp_path,
        "dns: 192.0.2.53",
        "hosts: {r1: {files: {/etc/resolv.conf: {content: mine}},"
        " services: {d: {use: dnsmasq, ready: {listening: udp/67}}}}}",
    )
    assert [(one.path, one.content) for one in made.tree.files] == [(RESOLV_CONF, "mine")]
    assert made.services[0].ready is not None
    assert made.services[0].ready.listening == "udp/67"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("dns: [ns, '2001:db8::53']", "nameserver 10.0.0.1\nnameserver 2001:db8::53\n"),
        ("dns: ns.eth0.ipv6", "nameserver fd00::1\n"),
        ("environment: {}", "nameserver 10.0.0.1\n"),
    ],
)
def test_name_servers(tmp_path: Path, keys: str, expected: str) -> None:
    lines = ("dns: ns", f"hosts: {{ns: , r1: {{{keys}}}}}", "links: [[ns, r1]]")
    assert [one.content for one in node(tmp_path, *lines).tree.files] == [expected]


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("{use: frr}", "frr needs a configuration"),
        ("{use: quagga, config: x}", "expected one of dnsmasq, radvd, frr, bird"),
        ("{use: bird, config: nowhere.conf}", "there is no file or directory `nowhere.conf`"),
        ("{use: frr, config: {content: x}, daemons: [ospf]}", "`ospf` is not a daemon of FRR"),
        ("{use: bird, config: {content: x}, daemons: [ospfd]}", "`daemons` belongs to a service with `use: frr`"),
        ("{run: [x], config: {content: x}}", "`config` belongs to a service with `use`"),
        ("{use: bird, run: [x]}", "takes only one of `run` or `use`"),
        ("{restart: always}", "needs `run`, `shell` or `use`"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    found = mistakes(tmp_path, f"hosts: {{h: {{services: {{x: {service}}}}}}}")
    assert any(message in one for one in found), found


def test_a_node_runs_one_of_each(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        "hosts: {h: {services: {a: {use: bird, config: {content: x}}, b: {use: bird, config: {content: y}}}}}",
    )
    assert found == ["another service places /etc/bird/bird.conf, too: a node runs one bird"]
