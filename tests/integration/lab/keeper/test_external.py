"""`nat: true`: a lab reaches the machine's network, and the machine is as before when the lab has ended, however."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from labctl.errors import MachineError
from labctl.kernel import nat
from labctl.kernel.namespaces import entered, read_sysctl, write_sysctl
from labctl.lab.client.handle import Lab
from labctl.lab.keeper import host_changes
from tests.integration.inside import inside
from tests.integration.machine import (
    MACHINE4,
    MACHINE6,
    NAT,
    OTHER4,
    Machine,
    command_output,
    connected,
    holds,
    ip,
    plan_of,
    processes_of,
)
from tests.labs import arrives, output, run
from tests.skips import for_ordinary_users, for_root, needs_feature, needs_programs

pytestmark = needs_programs("nft")  # the machine's packet filters before and after

V4, V6 = socket.AF_INET, socket.AF_INET6
IS_ROOT = os.geteuid() == 0  # inside, everybody is
UP0 = "net/ipv4/conf/up0/forwarding"
needs_force_forwarding = needs_feature(
    "ipv6-force-forwarding", Path("/proc/sys/net/ipv6/conf/all/force_forwarding").exists(), "Linux 6.17 has it"
)


@pytest.mark.stock_kernel
@inside
def test_hosts_reach_the_world_under_the_machines_address() -> None:
    with Machine() as machine, Lab.open(plan_of(NAT)) as lab:
        server = machine.server(V4)
        assert [connected(lab, node, server) for node in ("near", "far", "gw", "inner")] == [MACHINE4] * 4


@needs_force_forwarding
@inside
def test_hosts_reach_the_world_by_ipv6_without_the_machine_becoming_a_router() -> None:
    with Machine() as machine, Lab.open(plan_of(NAT)) as lab:
        server = machine.server(V6)
        assert [connected(lab, node, server) for node in ("near", "far")] == [MACHINE6] * 2
        assert read_sysctl("net/ipv6/conf/all/forwarding") == "0"


@pytest.mark.stock_kernel
@inside
def test_hosts_reach_the_world_by_ipv6_through_a_machine_that_is_a_router() -> None:
    with Machine() as machine:
        write_sysctl("net/ipv6/conf/all/forwarding", "1")
        before = machine.state()
        with Lab.open(plan_of(NAT)) as lab:
            assert connected(lab, "far", machine.server(V6)) == MACHINE6
        assert machine.is_as(before)


@inside
def test_without_ipv6_on_the_machine_connections_fail_at_once() -> None:
    with Machine(with_ipv6=False), Lab.open(plan_of(NAT)) as lab, lab.socket("far", V6, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        with pytest.raises(OSError, match="unreachable"):
            sock.connect(("2001:db8:ffff::1", 80))


@pytest.mark.stock_kernel
@inside
def test_udp_and_icmp_come_back_too() -> None:
    with Machine() as machine, Lab.open(plan_of(NAT)) as lab:
        server = machine.server(V4, socket.SOCK_DGRAM)
        with lab.socket("far", V4, socket.SOCK_DGRAM) as sock:
            peer = arrives(lambda: sock.sendto(b"question", server.getsockname()), server, b"question")
            assert peer
            assert arrives(lambda: server.sendto(b"answer", peer), sock, b"answer")
        assert run(lab, "far", "ping", "-c1", "-w5", "192.0.2.1").status == 0


@inside
def test_a_lab_with_the_machines_own_prefix_reaches_beyond_it() -> None:
    text = NAT.replace("lan: {members", "lan: {ipv4: 203.0.113.0/24, members")
    with Machine() as machine, Lab.open(plan_of(text)) as lab:
        assert connected(lab, "near", machine.server(V4)) == MACHINE4


@inside
def test_two_routers_with_nat_share_the_hosts_among_them() -> None:
    text = "hosts: {a: {}, b: {}}\nrouters: {r1: {nat: true}, r2: {nat: true}}\nlinks: [[a, r1], [b, r2], [r1, r2]]"
    with Machine() as machine, Lab.open(plan_of(text)) as lab:
        server = machine.server(V4)
        assert [connected(lab, node, server) for node in ("a", "b")] == [MACHINE4] * 2
        assert "via 169.254" in output(lab, "r1", "ip", "route", "show", "default")


@inside
def test_hosts_ask_the_machines_name_servers() -> None:
    from labctl.lab.keeper.external import resolv_conf

    with Machine(), Lab.open(plan_of(NAT)) as lab:
        assert output(lab, "far", "cat", "/etc/resolv.conf") == resolv_conf()


@pytest.mark.stock_kernel
@inside
def test_the_machine_forwards_nothing_else_meanwhile_that_it_did_not_before() -> None:
    with Machine() as machine, Lab.open(plan_of(NAT)) as lab:
        with entered(machine.world):
            assert command_fails("ping", "-c1", "-W1", OTHER4)
        assert connected(lab, "near", machine.server(V4)) == MACHINE4


def command_fails(*argv: str) -> bool:
    return subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode != 0


@pytest.mark.stock_kernel
@inside
def test_rules_of_the_machines_own_stay_and_nothing_is_left() -> None:
    with Machine() as machine:
        command_output("nft", "add table inet own; add chain inet own forward { type filter hook forward priority 0; }")
        before = machine.state()
        with Lab.open(plan_of(NAT)):
            assert "table inet own" in command_output("nft", "list", "ruleset")
            assert read_sysctl(UP0) == "1"
        assert machine.is_as(before)
        assert list(machine.records.iterdir()) == []


@inside
def test_settings_of_a_machine_that_forwards_are_not_touched() -> None:
    with Machine(with_ipv6=False) as machine:
        write_sysctl("net/ipv4/ip_forward", "1")
        before = machine.state()
        with Lab.open(plan_of(NAT)) as lab:
            assert connected(lab, "far", machine.server(V4)) == MACHINE4
            assert "chain forward" not in command_output("nft", "list", "ruleset")
        assert machine.is_as(before)


@inside
def test_of_two_labs_the_last_one_restores() -> None:
    with Machine() as machine:
        before = machine.state()
        first = Lab.open(plan_of(NAT))
        with Lab.open(plan_of(NAT)) as second:
            first.close()
            assert read_sysctl(UP0) == "1"
            assert connected(second, "far", machine.server(V4)) == MACHINE4
        assert machine.is_as(before)


@inside
def test_settings_that_others_changed_meanwhile_are_not_restored() -> None:
    with Machine():
        with Lab.open(plan_of(NAT)):
            write_sysctl(UP0, "0")
        assert read_sysctl(UP0) == "0"


@pytest.mark.parametrize(
    "killed",
    [
        ["keeper"],
        ["boot"],
        ["guard", "keeper"],
        ["boot", "keeper"],
        pytest.param(
            ["guard", "guard", "boot"],
            marks=for_root("in a user namespace there is no second guard"),
        ),
    ],
    ids=lambda names: "-".join(names),
)
@inside
def test_the_machine_is_as_before_whatever_is_killed(killed: list[str]) -> None:
    with Machine() as machine:
        before = machine.state()
        lab = Lab.open(plan_of(NAT))
        assert holds(lambda: {"boot", "guard", "keeper"} <= processes_of(lab).keys())
        pids = processes_of(lab)
        for name in killed:
            with contextlib.suppress(ProcessLookupError):  # the keeper may have ended with boot
                os.kill(pids[name], signal.SIGKILL)
            if name == "guard" and IS_ROOT:
                assert holds(lambda before=pids["guard"]: processes_of(lab).get("guard", before) != before)  # type: ignore[misc]
                pids |= processes_of(lab)
        lab.close()
        assert machine.is_as(before)
        assert holds(lambda: list(machine.records.iterdir()) == [])


def kill_and_wait(*pids: int) -> None:
    """SIGKILL, and wait until each has ended: only then does the record's lock show that nobody will undo it."""
    ending = [os.pidfd_open(pid) for pid in pids]
    for pidfd in ending:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for pidfd in ending:
        select.select([pidfd], [], [], 10)
        os.close(pidfd)


@pytest.mark.stock_kernel
@inside
def test_where_all_were_killed_at_once_the_next_command_restores() -> None:
    with Machine() as machine:
        before = machine.state()
        lab = Lab.open(plan_of(NAT))
        assert holds(lambda: {"boot", "guard", "keeper"} <= processes_of(lab).keys())
        boot = processes_of(lab)["boot"]
        for name in ("boot", "guard", "keeper"):  # stopped first, or one would notice the other's end
            os.kill(processes_of(lab)[name], signal.SIGSTOP)
        pids = processes_of(lab)
        kill_and_wait(*(pids[name] for name in ("guard", "keeper", "boot")))
        assert boot == pids["boot"]
        lab.close()
        assert read_sysctl(UP0) == "1"
        assert host_changes.sweep() == ["changes of this machine by lab test"]
        assert machine.is_as(before)


@inside
def test_the_next_lab_restores_as_well() -> None:
    with Machine() as machine:
        before = machine.state()
        lab = Lab.open(plan_of(NAT))
        assert holds(lambda: {"boot", "guard", "keeper"} <= processes_of(lab).keys())
        pids = processes_of(lab)
        for name in ("boot", "guard"):
            os.kill(pids[name], signal.SIGSTOP)
        kill_and_wait(pids["guard"], pids["boot"])
        lab.close()
        with Lab.open(plan_of(NAT)) as again:
            assert connected(again, "far", machine.server(V4)) == MACHINE4
        assert machine.is_as(before)


@inside
def test_a_lab_that_fails_to_open_leaves_the_machine_as_it_was() -> None:
    text = NAT.replace("inner: {}", "inner: {sysctls: {net.core.no_such_thing: 1}}")
    with Machine() as machine:
        before = machine.state()
        with pytest.raises(Exception, match="no_such_thing"):
            Lab.open(plan_of(text))
        assert machine.is_as(before)


@inside
def test_a_network_that_the_machine_has_is_not_used_for_the_pair() -> None:
    with Machine() as machine:
        ip("route add 169.254.0.0/16 dev lan.7")
        with Lab.open(plan_of(NAT)) as lab:
            assert "198.1" in output(lab, "gw", "ip", "-br", "address", "show", "nat0")
            assert connected(lab, "near", machine.server(V4)) == MACHINE4


@inside
def test_no_two_labs_get_the_same_network() -> None:
    first, _, one = nat.reserve_network((), 1000)
    second, _, two = nat.reserve_network((), 1000)
    with one, two:
        assert not first.overlaps(second)
        assert not any(network.overlaps(IPv4Network("169.254.169.0/24")) for network in (first, second))


@for_ordinary_users("root may have nat")
def test_nat_requires_root() -> None:
    with pytest.raises(MachineError, match="router gw: cannot use `nat`: only root"):
        Lab.open(plan_of(NAT))
