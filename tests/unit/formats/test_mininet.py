from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import InputError
from labctl.formats import Options
from labctl.formats.mininet import read_miniedit
from tests.unit.formats.samples import DATA, shells, translated, written

OFFICE = DATA / "mininet/office.py"
DRAWN = DATA / "mininet/drawn.mn"


def test_the_first_of_several_topologies_is_read_and_the_others_are_named() -> None:
    data, found = translated(OFFICE)
    assert (list(data["hosts"]), list(data["switches"])) == (["h1", "h2"], ["s1"])
    assert str(found.notes[0]).startswith(
        "the first of its topologies, office; --topo selects another of office, routed"
    )


def test_parameters_of_links_are_impairments() -> None:
    data, found = translated(OFFICE)
    assert data["links"][0] == {"ends": ["h1", "s1"], "rate": "10mbit", "delay": "5ms", "loss": "1%"}
    assert str(found.missing[0]) == "max_queue_size of h1 - s1, max_queue_size of h2 - s1: a queue in packets"


def test_a_topology_is_chosen_with_arguments() -> None:
    assert list(translated(OFFICE, Options(choice="office,4"))[0]["hosts"]) == ["h1", "h2", "h3", "h4"]
    with pytest.raises(InputError, match=r"there is no topology 'x'; there are office, routed, LinuxRouter|Office"):
        translated(OFFICE, Options(choice="x"))


def test_a_node_that_forwards_is_a_router_and_addresses_are_those_of_the_program() -> None:
    data, _ = translated(OFFICE, Options(choice="routed"))
    assert data["routers"] == {"r0": {"sysctls": {"net.ipv4.ip_forward": 1}}}
    assert data["networks"]["s1"] == {
        "ipv4": "192.168.1.0/24",
        "members": [{"node": "r0", "ipv4": "192.168.1.1"}, {"node": "h1", "ipv4": "192.168.1.100"}],
    }
    assert data["hosts"]["h1"] == {"gateway": "192.168.1.1"}


PROGRAM = """
from mininet.net import Mininet
from mininet.log import setLogLevel, info, lg
from mininet.topolib import TreeTopo
{}
"""


@pytest.mark.parametrize(
    ("body", "hosts"),
    [
        ("net = Mininet()\na = net.addHost('a')\ns = net.addSwitch('s')\nnet.addLink(a, s)\nnet.start()\n", 1),
        ("if __name__ == '__main__':\n    net = Mininet(TreeTopo(depth=2, fanout=3))\n    net.run(print)\n", 9),
        ("class T(TreeTopo):\n    pass\n", 2),
        ("import os\nif os.getuid():\n    exit(1)\nnet = Mininet(TreeTopo())\nnet.start()\nnet.stop()\n1/0\n", 2),
    ],
)
def test_programs_without_topos_are_read(tmp_path: Path, body: str, hosts: int) -> None:
    data, _ = translated(written(tmp_path, "x.py", PROGRAM.format(body)))
    assert len(data["hosts"]) == hosts


def test_commands_that_configure_are_kept_and_others_reported(tmp_path: Path) -> None:
    body = "net = Mininet(TreeTopo())\nh1 = net['h1']\nnet.start()\n"
    body += "h1.cmd('ip route add 10.9.0.0/16 dev h1-eth0')\nh1.cmd('ip a')\nprint(h1.cmd('iperf -s &'))\n"
    data, found = translated(written(tmp_path, "x.py", PROGRAM.format(body)))
    assert shells(data["hosts"]["h1"]) == ["ip route add 10.9.0.0/16 dev h1-eth0"]
    assert data["networks"]["s1"]["members"][0] == {"node": "h1", "interface": "h1-eth0"}
    assert "h1: `iperf -s &`: the program uses the network" in str(found.missing[0])


def notes_of(directory: Path, body: str) -> tuple[dict[str, Any], str]:
    data, found = translated(written(directory, "x.py", PROGRAM.format(body)))
    return data, "\n".join(found.report)


def test_nodes_and_links_without_a_mininet_object_are_read(tmp_path: Path) -> None:
    body = "from mininet.node import Node\nfrom mininet.link import Link\nfrom mininet.util import quietRun\n"
    body += "from time import sleep\ns = Node('s0', inNamespace=False)\na, b = Node('a'), Node('b')\n"
    body += "Link(a, s)\nLink(b, s)\na.setIP('192.0.2.1/24')\nb.setIP('192.0.2.2/24')\n"
    body += "s.cmd('ovs-vsctl add-br dp0')\nwhile 'is_connected' not in quietRun('ovs-vsctl show'):\n    sleep(1)\n"
    data, _ = notes_of(tmp_path, body)
    assert [member["node"] for member in data["networks"]["s0"]["members"]] == ["a", "b"]
    assert data["networks"]["s0"]["ipv4"] == "192.0.2.0/24"


def test_a_link_to_the_machine_is_left_out(tmp_path: Path) -> None:
    body = "from mininet.node import Node\nnet = Mininet(TreeTopo())\nroot = Node('root', inNamespace=False)\n"
    data, report = notes_of(tmp_path, body + "net.addLink(root, net['s1'])\nnet.start()\n")
    assert list(data["hosts"]) == ["h1", "h2"]
    assert "the link root - s1: root is the machine itself" in report


def test_files_and_interfaces_of_the_machine_are_reported(tmp_path: Path) -> None:
    body = "from mininet.link import Intf\nnet = Mininet(TreeTopo())\nopen('/tmp/log', 'w').write('x')\n"
    _, report = notes_of(tmp_path, body + "Intf('eth1', node=net['s1'])\nnet.start()\n")
    assert "the program would write /tmp/log; labctl writes no files" in report
    assert "interfaces of the machine stay outside of the lab: eth1 at s1" in report
    assert not Path("/tmp/log").exists()


def test_a_program_that_waits_without_end_has_made_its_network(tmp_path: Path) -> None:
    body = "import time\nnet = Mininet(TreeTopo())\nnet.start()\nwhile True:\n    time.sleep(1)\n"
    assert list(notes_of(tmp_path, body)[0]["hosts"]) == ["h1", "h2"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os\nos.system('true')", r"x.py:7: .* PermissionError: it calls os.system"),
        ("import os\nos.open('x', os.O_WRONLY)", r"x.py:7: .* PermissionError: it opens 'x' for writing"),
        ("import socket\nsocket.socket()", r"x.py:7: .* PermissionError: it calls socket.__new__"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("pass", "LookupError: it makes no network"),
        ("def f(:", r"x.py:6: .*SyntaxError"),
        ("from mininet.topo import Topo\ntopos = {'a': Topo}", "the Mininet program makes no nodes"),
    ],
)
def test_a_program_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, body: str, message: str) -> None:
    path = written(tmp_path, "x.py", "from mininet.net import Mininet\n\n\n\n\n" + body)
    with pytest.raises(InputError, match=message):
        translated(path)
    assert [each.name for each in tmp_path.iterdir()] == ["x.py"]


def test_a_program_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labctl.formats.mininet._TIMEOUT_S", 0.5)
    path = written(tmp_path, "x.py", "from mininet.net import Mininet\nwhile True: pass\n")
    with pytest.raises(InputError, match="does not end within"):
        translated(path)


def test_a_file_of_miniedit_is_read() -> None:
    data, found = translated(DRAWN)
    assert data["links"][0] | {"ends": None} == {
        "ends": None, "ipv4": "10.0.0.0/8", "rate": "100mbit", "delay": "2ms"
    }  # fmt: skip
    assert data["hosts"]["h2"] == {
        "private": ["/var/log"],
        "sysctls": {"net.core.somaxconn": 99},
        "gateway": "10.0.0.1",
    }
    assert [str(one) for one in found.missing] == [
        "the link h2 - nowhere: it does not join two nodes of the file",
        "1 controllers: switches are bridges of the kernel, without OpenFlow",
    ]


def test_rings_of_switches_run_the_spanning_tree_protocol(tmp_path: Path) -> None:
    body = "from mininet.topolib import TorusTopo\nnet = Mininet(TorusTopo(3, 3))\nnet.start()\n"
    data, found = translated(written(tmp_path, "ring.py", PROGRAM.format(body)))
    assert all(each["stp"] is True for each in data["networks"].values())
    assert "spanning tree" in str(found.notes[0])


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["h1", "s1", "", "10.0.0.1", "5ms"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["opts", "number", "src", "dest", "hostname", "ip", "bw", "delay"]), inner),
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["hosts", "switches", "links", "controllers"]), JSON))
def test_any_values_of_miniedit_are_read(data: dict[str, Any]) -> None:
    assert read_miniedit(json.dumps(data).encode(), Path("x"), "x").tool == "MiniEdit"


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(content: bytes) -> None:
    try:
        assert read_miniedit(content, Path("x"), "x").tool == "MiniEdit"
    except InputError as error:
        assert "not JSON" in str(error)  # noqa: PT017
