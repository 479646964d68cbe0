"""The parts of commands that need no lab: places, links of a plan, the matrix, shells, the doctor's words."""

from __future__ import annotations

import signal
from collections import Counter
from ipaddress import ip_address

import pytest

from labctl import topology
from labctl.cli import doctor, network
from labctl.cli.cp import Place
from labctl.cli.exec import ways
from labctl.cli.main import Stopped, report_bug
from labctl.cli.terminal import how_to_start, shell_of
from labctl.errors import InputError
from labctl.lab.protocol import Description, NodeInfo
from labctl.observe.ping import PingPair, choose_pairs, pingable_nodes
from labctl.plan.build import build, topology_of
from labctl.plan.operations import SetDown, SetUp
from labctl.report.terminal import Look, cells, render

LOOK = Look()


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("h1:/tmp/x", Place("h1", "/tmp/x")),
        ("h1:", Place("h1", "/")),
        ("./h1:x", Place("", "./h1:x")),
        ("/a:b", Place("", "/a:b")),
        ("file", Place("", "file")),
    ],
)
def test_where_a_copy_leads(word: str, place: Place) -> None:
    assert Place.of(word) == place


def test_a_link_is_cut_at_its_switch_or_else_at_the_far_end() -> None:
    star = build(topology.load("star:2"))
    switch = next(node.name for node in star.nodes if node.kind == "switch")
    host = next(node.name for node in star.nodes if node.kind == "host")
    (cable,) = network.between(star, switch, host)
    assert cable.cut.node == switch
    pair = build(topology.load("pair"))
    cut = network.between(pair, "client", "server")
    assert network.operations(pair, cut, network.Order(network.LinkAction.DOWN)) == [SetDown("server", "eth0")]
    assert network.operations(pair, cut, network.Order(network.LinkAction.UP)) == [
        SetUp("client", "eth0"),
        SetUp("server", "eth0"),
    ]


def test_a_link_that_is_not_there_names_those_that_are() -> None:
    star = build(topology.load("star:2"))
    hosts = [node.name for node in star.nodes if node.kind == "host"]
    with pytest.raises(InputError, match=f"no link between {hosts[0]} and {hosts[1]}. Links of {hosts[0]}:"):
        network.between(star, *hosts)
    with pytest.raises(InputError, match=rf"no link between {hosts[0]} and {hosts[0]}\. Links of {hosts[0]}: [^.]*\.$"):
        network.between(star, hosts[0], hosts[0])
    with pytest.raises(InputError, match="no node h9"):
        network.between(star, hosts[0], "h9")
    with pytest.raises(InputError, match="no link between client:eth7 and server"):
        network.between(build(topology.load("pair")), "client:eth7", "server")


def test_every_pair_is_tried_in_both_families() -> None:
    tries = choose_pairs(build(topology.load("pair")), ["client", "server"])
    assert [(each.source, each.target, each.family) for each in tries] == [
        ("client", "server", "4"),
        ("client", "server", "6"),
        ("server", "client", "4"),
        ("server", "client", "6"),
    ]


def test_one_host_has_nobody_to_ask() -> None:
    with pytest.raises(InputError, match="Try two hosts"):
        choose_pairs(build(topology.load("pair")), ["client"])


@pytest.mark.parametrize("count", [101, 300, 1000])
def test_of_many_hosts_each_asks_and_is_asked_by_equally_many_others(count: int) -> None:
    planned = build(topology.load(f"star:{count}"))
    nodes = pingable_nodes(planned, routers=False)
    tries = [each for each in choose_pairs(planned, nodes) if each.family == "4"]
    asks, asked = Counter(each.source for each in tries), Counter(each.target for each in tries)
    assert asks == asked
    assert set(asks) == set(nodes)
    assert len(set(asks.values())) == 1
    assert len(tries) < 5000
    assert len({(each.source, each.target) for each in tries}) == len(tries)
    assert ("h1", "h2") in {(each.source, each.target) for each in tries}
    assert "tested: " in render(nodes, tries, LOOK, sampled=True)[-1]


def test_every_pair_of_many_hosts_is_tested_when_asked_for() -> None:
    planned = build(topology.load("star:101"))
    assert len(choose_pairs(planned, pingable_nodes(planned, routers=False), every_pair=True)) == 101 * 100 * 2


def test_the_matrix_says_who_was_not_reached_and_why() -> None:
    four, six = ip_address("10.0.0.2"), ip_address("fd00::2")
    tries = [PingPair("a", "b", four), PingPair("a", "b", six, "no answer"), PingPair("b", "a", four)]
    assert render(["a", "b"], tries, LOOK) == [
        "from \\ to a   b",
        "a         ·   4 -",
        "b         4   ·",
        "a -> b (fd00::2): no answer",
        "reached: IPv4 2 of 2, IPv6 0 of 1",
    ]


@pytest.mark.parametrize("count", [2, 12, 60])
def test_a_matrix_fits_into_eighty_columns_or_is_left_out(count: int) -> None:
    nodes = [f"a-rather-long-name-{number}" for number in range(count)]
    tries = [PingPair(a, b, ip_address("10.0.0.1")) for a in nodes for b in nodes if a != b]
    lines = render(nodes, tries, LOOK)
    assert max(map(cells, lines)) <= 80
    assert len(lines) == (count + 2 if count < 60 else 1)


def test_a_shell_is_the_person_s_own_unless_it_is_none() -> None:
    assert shell_of("/bin/sh") == "/bin/sh"
    assert shell_of("/usr/sbin/nologin").endswith("sh")
    assert shell_of("bash").startswith("/")
    assert shell_of(None).endswith("sh")


def test_shells_are_told_the_host_in_the_way_that_they_read_start_files() -> None:
    assert how_to_start("/bin/bash").argv == ("/bin/bash", "--rcfile", "/run/lab/shell/bashrc", "-i")
    assert how_to_start("/bin/dash").environment == ("ENV=/run/lab/shell/shrc",)
    assert how_to_start("/usr/bin/zsh", "/home/u/zsh").environment[1] == "LABCTL_ZDOTDIR=/home/u/zsh"
    assert how_to_start("/usr/bin/fish").argv == ("/usr/bin/fish",)


def described(*, rootless: bool) -> Description:
    node = NodeInfo("h1", "host", "/proc/7/fd/9", 11)
    return Description("lab", "pair", 0, 0.0, 7, rootless, (node,), ())


def test_ways_into_a_root_lab_are_by_name() -> None:
    told = described(rootless=False)
    lines = [way.command for way in ways(told, told.nodes[0])]
    assert "ip -n lab-h1 address" in lines
    assert "nsenter --target 11 --net --mount --uts --ipc --pid" in lines


def test_ways_into_an_ordinary_user_s_lab_enter_its_user_namespace_first() -> None:
    told = described(rootless=True)
    lines = [way.command for way in ways(told, told.nodes[0])]
    assert "nsenter --target 7 --user --preserve-credentials --net=/proc/7/fd/9 ip address" in lines
    assert not any("netns" in line for line in lines)


def test_the_way_back_from_a_plan_is_the_topology() -> None:
    for shape in ("pair", "star:3", "line:2"):
        made = topology.load(shape)
        again = topology_of(build(made))
        assert [node.name for node in again.nodes] == [node.name for node in made.nodes]
        assert again.links == made.links
        for node in made.nodes:
            found = again.node(node.name)
            assert (found.kind, found.routes) == (node.kind, node.routes)
            assert {(one.name, one.mac, one.addresses) for one in found.interfaces} == {
                (one.name, one.mac, one.addresses) for one in node.interfaces
            }


def test_the_doctor_s_words_fit_and_say_the_remedy() -> None:
    checks = [
        doctor.Check("kernel", "veth", doctor.State.OK, "links"),
        doctor.Check("kernel", "netem", doctor.State.MISSING, "delay " * 20, "ENOENT", "Try: sudo modprobe sch_netem"),
    ]
    lines = doctor.render(checks, LOOK)
    assert max(map(cells, lines)) <= 80
    assert any("sudo modprobe sch_netem" in line for line in lines)
    assert lines[-1] == "Labs can run here. Not to be had: netem."


def test_the_doctor_says_when_labs_cannot_run() -> None:
    checks = [doctor.Check("labs", "a lab", doctor.State.FAILED, "", "EPERM", "Run as root.")]
    assert doctor.render(checks, LOOK)[-1] == "Labs cannot run here; what has failed above says why."


def test_a_signal_while_a_class_is_made_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    error = RuntimeError("Error calling __set_name__ on 'Key' instance")  # as Python 3.11 raises it
    error.__cause__ = Stopped(signal.SIGTERM)
    assert report_bug(error) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "labctl: interrupted by SIGTERM.\n"


@pytest.mark.parametrize(
    ("error", "limit"), [(MemoryError(), "ulimit -v"), (RuntimeError("can't start new thread"), "ulimit -u")]
)
def test_too_little_of_something_is_no_bug(error: Exception, limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_bug(error) == 4
    told = capsys.readouterr().err
    assert limit in told
    assert "Traceback" not in told
