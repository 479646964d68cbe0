"""The handle of a lab: opening, using and closing it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from ipaddress import ip_interface
from pathlib import Path

import pytest

from labctl.errors import KernelError, LabError
from labctl.lab.client.handle import Lab
from labctl.plan.drop_rules import DropProtocol, DropRule
from labctl.plan.operations import AddAddress, SetDown, SetUp
from labctl.structs import replace
from tests.labs import arrives, keeper_of, output, pair_plan


def is_reachable(lab: Lab, within_s: float = 10.0) -> bool:
    with (
        lab.socket("server", socket.AF_INET, socket.SOCK_DGRAM) as server,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("10.0.0.2", 7))
        try:
            return arrives(lambda: client.sendto(b"x", ("10.0.0.2", 7)), server, b"x", within_s) is not None
        except OSError:
            return False


def test_a_lab_has_the_nodes_of_its_plan_and_says_its_state() -> None:
    lab = Lab.open(pair_plan())
    assert (lab.name, lab.nodes, repr(lab)) == ("pair", ("client", "server"), "<Lab pair, 2 nodes>")
    lab.close()
    assert repr(lab) == "<Lab pair, closed>"


def test_closing_twice_is_the_same_as_once() -> None:
    lab = Lab.open(pair_plan())
    lab.close()
    lab.close()


def test_a_closed_lab_is_a_mistake_of_its_user() -> None:
    lab = Lab.open(pair_plan())
    lab.close()
    with pytest.raises(RuntimeError, match="has been closed; cannot start true on client"):
        lab.spawn("client", ["true"])


@pytest.mark.stock_kernel
def test_the_hosts_of_a_pair_reach_each_other() -> None:
    with Lab.open(pair_plan()) as lab:
        assert is_reachable(lab)


@pytest.mark.stock_kernel
def test_nothing_of_a_lab_is_in_the_machines_own_network_namespace() -> None:
    before = os.listdir("/sys/class/net")
    with Lab.open(pair_plan()):
        assert os.listdir("/sys/class/net") == before


def test_an_open_lab_adds_no_mount_to_the_machine() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with Lab.open(pair_plan()) as lab:
        output(lab, "server", "true")
        assert Path("/proc/self/mountinfo").read_text() == before


def test_labs_with_the_same_topology_and_names_do_not_disturb_each_other() -> None:
    with Lab.open(pair_plan()) as one, Lab.open(pair_plan()) as other:
        one.apply([SetDown("client", "eth0")])
        assert (is_reachable(one, within_s=0.2), is_reachable(other)) == (False, True)


def test_many_labs_open_at_the_same_time() -> None:
    labs: list[Lab] = []

    def open_one() -> None:
        labs.append(Lab.open(pair_plan()))

    threads = [threading.Thread(target=open_one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert [is_reachable(lab) for lab in labs] == [True] * 6
    finally:
        for lab in labs:
            lab.close()


@pytest.mark.stock_kernel
def test_a_link_goes_down_and_up_while_the_lab_is_open() -> None:
    with Lab.open(pair_plan()) as lab:
        lab.apply([SetDown("server", "eth0")])
        assert not is_reachable(lab, within_s=0.2)
        lab.apply([SetUp("server", "eth0")])
        assert is_reachable(lab)


def test_an_operation_that_the_kernel_refuses_fails_the_opening_and_leaves_nothing() -> None:
    twice = AddAddress("client", "eth0", ip_interface("10.0.0.1/24"))
    with pytest.raises(KernelError) as caught:
        Lab.open(pair_plan(more=[twice]))
    assert caught.value.errno == errno.EEXIST
    assert "10.0.0.1/24" in str(caught.value)


def test_an_unknown_node_is_named_with_those_there_are() -> None:
    with Lab.open(pair_plan()) as lab, pytest.raises(LabError, match=r"no node sever.*client, server"):
        lab.spawn("sever", ["true"])


def test_a_stopped_boot_and_keeper_do_not_keep_a_lab_from_closing() -> None:
    lab = Lab.open(pair_plan())
    os.kill(keeper_of(lab), signal.SIGSTOP)
    lab.close()


def test_an_owner_without_standard_streams_has_labs_too() -> None:
    script = (
        "import os\n"
        "for descriptor in (0, 1, 2): os.close(descriptor)\n"
        "from labctl.lab.client.handle import Lab\n"
        "from tests.labs import pair_plan, output\n"
        "with Lab.open(pair_plan()) as lab:\n"
        "    os._exit(42 if output(lab, 'server', 'hostname') == 'server\\n' else 1)\n"
    )
    root = Path(__file__).parents[2]
    finished = subprocess.run([sys.executable, "-c", script], cwd=root, timeout=60, check=False)
    assert finished.returncode == 42


def test_a_topology_name_of_any_length_is_no_obstacle() -> None:
    plan = replace(pair_plan(), topology="l" * 300)
    with Lab.open(plan) as lab:
        assert output(lab, "client", "hostname") == "client\n"


def test_what_is_dropped_on_a_node_does_not_arrive_until_it_is_undropped() -> None:
    with (
        Lab.open(pair_plan()) as lab,
        lab.socket("server", socket.AF_INET, socket.SOCK_DGRAM) as server,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("10.0.0.2", 9))
        lab.drop("server", DropRule(protocol=DropProtocol.UDP))
        client.sendto(b"lost", ("10.0.0.2", 9))
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv(10)
        lab.undrop("server")
        assert arrives(lambda: client.sendto(b"kept", ("10.0.0.2", 9)), server, b"kept")
