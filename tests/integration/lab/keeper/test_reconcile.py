"""Running networks changed to what another plan describes: the result, what is left alone, and failures undone."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from labctl import topology
from labctl.errors import KernelError
from labctl.kernel.namespaces import read_sysctl
from labctl.lab.client.handle import Lab
from labctl.lab.keeper.clients import Client
from labctl.lab.keeper.reconcile import RollbackActions, network_changed
from labctl.lab.protocol import SetRollback
from labctl.observe import network
from labctl.observe.network import addresses, links, routes
from labctl.plan.build import build
from labctl.plan.diff import Difference, difference
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    Operation,
    Plan,
    RemoveAddress,
    SetDown,
    SetSysctl,
    SetUp,
    operations_to_json,
)
from tests.integration.detached import becomes, python, running
from tests.integration.inside import NetworkLab, first_reply, inside
from tests.integration.networks import pair
from tests.unit.topology.drafts import resolved


def built(*lines: str) -> Plan:
    return build(topology.load(lines[0]) if len(lines) == 1 else resolved(*lines))


def snapshot(lab: NetworkLab, *, indexes: bool = True) -> dict[str, set[str]]:
    """What the kernel has, node by node, as text."""
    found: dict[str, set[str]] = {}
    for node in lab.nodes:
        has = {str(one) for one in (*addresses(lab, node), *routes(lab, node))}
        for link in links(lab, node):
            index = link.index if indexes else 0
            has.add(f"{link.name} {index} {link.mac if link.name != 'br0' else ''} {link.mtu} {link.up} {link.carrier}")
        found[node] = has
    return found


def reconcile(lab: NetworkLab, old: Plan, new: Plan) -> Difference:
    found = difference(old, new)
    with network_changed(found, lab.nodes):
        pass
    return found


@contextmanager
def connection(lab: NetworkLab, client: str, server: str, address: str) -> Iterator[None]:
    """An open TCP connection between two hosts, which is used before and after."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        lab.socket(server, family, socket.SOCK_STREAM) as listener,
        lab.socket(client, family, socket.SOCK_STREAM) as one,
    ):
        listener.bind((address, 5000))
        listener.listen(1)
        one.settimeout(20)
        one.connect((address, 5000))
        other, _ = listener.accept()
        with other:
            other.settimeout(20)
            for number in range(2):
                if number:
                    yield
                one.sendall(b"there")
                assert other.recv(100) == b"there"
                other.sendall(b"back")
                assert one.recv(100) == b"back"


BASE = (
    "hosts: {a: , b: , c: , d: }",
    "routers: {gw: }",
    "networks: {lan: {ipv4: 10.0.1.0/24, members: [a, b, gw]}}",
    "links: [[gw, c], [c, d]]",
)


EDITS: dict[str, tuple[str, ...]] = {
    "one more host": (
        "hosts: {a: , b: , c: , d: , e: }",
        *BASE[1:3],
        "links: [[gw, c], [c, d], [e, gw]]",
    ),
    "a host fewer": ("hosts: {a: , b: , c: }", *BASE[1:3], "links: [[gw, c]]"),
    "a link fewer": (*BASE[:3], "links: [[gw, c]]"),
    "one more link": (*BASE[:3], "links: [[gw, c], [c, d], [d, gw]]"),
    "another mtu": (*BASE[:3], "links: [{ends: [gw, c], mtu: 1400}, [c, d]]"),
    "another mtu of a switch": (
        *BASE[:2],
        "networks: {lan: {ipv4: 10.0.1.0/24, mtu: 1400, members: [a, b, gw]}}",
        BASE[3],
    ),
    "other addresses": (*BASE[:3], "links: [{ends: [gw, c], ipv4: 10.7.0.0/24}, [c, d]]"),
    "no ipv6": (*BASE[:3], "links: [{ends: [gw, c], ipv6: false}, [c, d]]"),
    "a router more": (BASE[0], "routers: {gw: , r2: }", BASE[2], "links: [[gw, c], [c, d], [r2, d], [r2, gw]]"),
    "a host becomes a router": (
        "hosts: {a: , b: , c: }",
        "routers: {gw: , d: }",
        *BASE[2:],
    ),
    "another mac": (*BASE[:3], "links: [{ends: [gw, {node: c, mac: '02:00:00:00:00:09'}]}, [c, d]]"),
    "a link inserted": (*BASE[:3], "links: [[gw, d], [gw, c], [c, d]]"),
    "settings": ("hosts: {a: {sysctls: {net.core.somaxconn: 7}}, b: , c: , d: }", *BASE[1:]),
}


@inside
@pytest.mark.parametrize("edit", EDITS)
def test_after_an_edit_the_kernel_has_what_a_new_lab_would_have(edit: str) -> None:
    old, new = built(*BASE), built(*EDITS[edit])
    with NetworkLab(*new.operations) as fresh:
        wanted = snapshot(fresh, indexes=False)
        back = (built(*BASE), snapshot(fresh, indexes=False))
    with NetworkLab(*old.operations) as lab:
        first = snapshot(lab, indexes=False)
        reconcile(lab, old, new)
        assert snapshot(lab, indexes=False) == wanted
        reconcile(lab, new, back[0])
        assert snapshot(lab, indexes=False) == first


@inside
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("family", ["10.0.1.2", "ipv6"])
def test_a_connection_between_untouched_hosts_survives_any_edit(edit: str, family: str) -> None:
    old, new = built(*BASE), built(*EDITS[edit])
    with NetworkLab(*old.operations) as lab:
        found = [one.address.ip for one in addresses(lab, "b") if one.ifname == "eth0"]
        wanted = 4 if family == "10.0.1.2" else 6
        server = next(str(ip) for ip in found if ip.version == wanted and not ip.is_link_local)
        before = snapshot(lab)
        with connection(lab, "a", "b", server):
            reconcile(lab, old, new)
        if edit not in ("another mtu of a switch", "other addresses", "one more link"):
            assert {line.split()[1] for line in before["a"] if line.startswith("eth0")} == {
                line.split()[1] for line in snapshot(lab)["a"] if line.startswith("eth0")
            }


@inside
@pytest.mark.parametrize("server", ["10.2.0.2", "fd02::2"])
def test_inserting_a_link_in_the_middle_leaves_the_later_links_unchanged(server: str) -> None:
    nodes, later = "hosts: {a: , b: , c: , d: , e: }", "{ends: [a, b], ipv4: 10.2.0.0/24, ipv6: 'fd02::/64'}"
    old = built(nodes, "networks: {lan: {members: [c, e]}}", f"links: [{later}]")
    new = built(nodes, "networks: {lan: {members: [c, d, e]}}", f"links: [[c, d], {later}]")
    with NetworkLab(*new.operations) as fresh:
        wanted = snapshot(fresh, indexes=False)
    with NetworkLab(*old.operations) as lab:
        before = snapshot(lab)
        with connection(lab, "a", "b", server):
            reconcile(lab, old, new)
        after = snapshot(lab)
        assert (after["a"], after["b"]) == (before["a"], before["b"])
        assert snapshot(lab, indexes=False) == wanted


@inside
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_fails_at_its_end_is_undone(edit: str) -> None:
    old, new = built(*BASE), built(*EDITS[edit])
    bad = AddRoute("a", ip_network("203.0.113.0/24"), ip_address("198.51.100.1"), "eth0")
    with NetworkLab(*old.operations) as lab:
        before = snapshot(lab, indexes=False)
        with connection(lab, "a", "b", "10.0.1.2"), pytest.raises(KernelError) as caught:
            reconcile(lab, old, Plan(new.topology, new.nodes, (*new.operations, bad)))
        assert caught.value.attempted == "add route 203.0.113.0/24 via 198.51.100.1"
        assert snapshot(lab, indexes=False) == before
        reconcile(lab, old, new)  # and can be done after all


@inside
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_fails_at_its_beginning_is_undone(edit: str) -> None:
    old, new = built(*BASE), built(*EDITS[edit])
    bad = SetSysctl("a", "net.core.nonsense", "1")
    with NetworkLab(*old.operations) as lab:
        before = snapshot(lab, indexes=False)
        with pytest.raises(KernelError):
            reconcile(lab, old, Plan(new.topology, new.nodes, (bad, *new.operations)))
        assert snapshot(lab, indexes=False) == before
        reconcile(lab, old, new)


@pytest.mark.stock_kernel
@inside
def test_an_exception_inside_the_with_rolls_the_change_back() -> None:
    old, new = built("star:3"), built("star:2")
    with NetworkLab(*old.operations) as lab:
        before = snapshot(lab, indexes=False)
        inside_it: set[str] = set()

        def change() -> None:
            with network_changed(difference(old, new), lab.nodes):
                inside_it.update(lab.nodes)
                raise RuntimeError("a service does not start")

        with pytest.raises(RuntimeError, match="a service"):
            change()
        assert inside_it == {"s1", "h1", "h2"}
        assert snapshot(lab, indexes=False) == before
        assert first_reply(lab, "h3", "10.0.0.1").reached


@pytest.mark.stock_kernel
@inside
def test_a_new_host_is_reached_at_once_also_under_the_address_of_an_old_one() -> None:
    old = built("hosts: {a: , b: }", "networks: {lan: {members: [a, b]}}")
    new = built("hosts: {a: , c: }", "networks: {lan: {members: [a, c]}}")
    with NetworkLab(*old.operations) as lab:
        assert first_reply(lab, "a", "10.0.0.2").reached
        reconcile(lab, old, new)
        assert first_reply(lab, "a", "10.0.0.2").reached
        assert first_reply(lab, "a", "fd00::2").reached


@pytest.mark.stock_kernel
@inside
def test_sysctls_are_reset_to_their_values_before_the_lab() -> None:
    old = built("hosts: {a: {sysctls: {net.core.somaxconn: 7}}, b: }", "links: [[a, b]]")
    new = built("hosts: {a: , b: }", "links: [[a, b]]")
    with NetworkLab(*new.operations) as fresh, fresh.nodes.entered("a"):
        usual = read_sysctl("net.core.somaxconn")
    with NetworkLab(*old.operations) as lab:
        reconcile(lab, old, new)
        with lab.nodes.entered("a"):
            assert read_sysctl("net.core.somaxconn") == usual


@pytest.mark.stock_kernel
@inside
def test_default_settings_reach_interfaces_that_are_there() -> None:
    old = built("hosts: {a: , b: }", "links: [[a, b]]")
    new = built("hosts: {a: {sysctls: {net.ipv4.conf.default.rp_filter: 1}}, b: }", "links: [[a, b]]")
    with NetworkLab(*old.operations) as lab:
        with lab.nodes.entered("a"):
            before = read_sysctl("net/ipv4/conf/eth0/rp_filter")
        reconcile(lab, old, new)
        with lab.nodes.entered("a"):
            assert read_sysctl("net/ipv4/conf/eth0/rp_filter") == "1"
        reconcile(lab, new, old)
        with lab.nodes.entered("a"):
            assert read_sysctl("net/ipv4/conf/eth0/rp_filter") == before


@inside
def test_objects_removed_by_hand_can_be_removed_from_the_plan() -> None:
    old, new = built("star:3"), built("star:2")
    with NetworkLab(*old.operations) as lab:
        by_hand: list[Operation] = [RemoveAddress("h3", "eth0", ip_interface("10.0.0.3/24"))]
        lab.apply(*by_hand)
        reconcile(lab, old, new)
        assert set(lab.nodes) == {"s1", "h1", "h2"}


@pytest.mark.stock_kernel
@inside
def test_a_second_address_survives_the_first() -> None:
    base = built("pair")
    second = AddAddress("client", "eth0", ip_interface("10.0.0.9/24"))
    old = Plan(base.topology, base.nodes, (*base.operations, second))
    first = AddAddress("client", "eth0", ip_interface("10.0.0.1/24"))
    new = Plan(base.topology, base.nodes, tuple(one for one in old.operations if one != first))
    with NetworkLab(*old.operations) as lab:
        reconcile(lab, old, new)
        assert {str(one.address) for one in addresses(lab, "client") if one.address.version == 4} == {
            "127.0.0.1/8",
            "10.0.0.9/24",
        }


@inside
def test_nothing_of_a_removed_node_is_held_afterwards() -> None:
    old, new = built("star:3"), built("star:2")
    with NetworkLab(*old.operations) as lab:
        before = len(os.listdir("/proc/self/fd"))
        reconcile(lab, old, new)
        assert len(os.listdir("/proc/self/fd")) == before - 1


CUT = """
import sys, time
from labctl.lab.client.handle import Lab
from labctl.plan.drop_rules import Direction, DropRule
from labctl.plan.operations import SetDown, SetUp
with Lab.attach(sys.argv[1]) as lab:
    lab.when_gone([SetUp("b", "eth0"), SetUp("c", "eth0")], ["a"])
    lab.drop("a", DropRule(direction=Direction.OUT))
    lab.apply([SetDown("b", "eth0"), SetDown("c", "eth0")])
    print("done", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))


def star_of(*nodes: str) -> Plan:
    """Each of the nodes on a link to the first one."""
    first, *others = nodes
    links = ", ".join(f"[{first}, {other}]" for other in others)
    return build(resolved(f"hosts: {{{', '.join(f'{node}: ' for node in nodes)}}}", f"links: [{links}]"))


def is_up(lab: Lab, node: str) -> bool:
    return any(link.up for link in network.links(lab, node) if link.name == "eth0")


def test_actions_of_a_killed_client_skip_a_node_that_left_the_lab() -> None:
    with running(star_of("a", "b", "c")) as name, Lab.attach(name) as lab:
        client = python(CUT, name)
        assert client.stdout is not None
        assert client.stdout.readline() == "done\n"
        lab.reconcile(star_of("a", "b"), source="")
        assert not is_up(lab, "b")
        client.send_signal(signal.SIGKILL)
        client.communicate()
        assert becomes(lambda: is_up(lab, "b"))
        with lab.socket("a", socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"not dropped", ("127.0.0.1", 9))  # EPERM if it were


def test_new_actions_replace_those_before_and_nothing_cancels_them() -> None:
    with running(star_of("a", "b", "c")) as name, Lab.attach(name) as lab:
        with Lab.attach(name) as other:
            other.when_gone([SetDown("b", "eth0")])
            other.when_gone([SetDown("c", "eth0")])
        assert becomes(lambda: not is_up(lab, "c"))
        assert is_up(lab, "b")
        with Lab.attach(name) as other:
            other.when_gone([SetUp("c", "eth0")])
            other.when_gone()
        with Lab.attach(name) as other:  # whose end comes after
            other.when_gone([SetDown("b", "eth0")])
        assert becomes(lambda: not is_up(lab, "b"))
        assert not is_up(lab, "c")


@inside
def test_actions_on_a_missing_node_are_skipped_and_the_others_executed() -> None:
    undropped: list[str] = []
    one, other = socket.socketpair()
    with one, NetworkLab(*pair()) as lab:
        actions, client = RollbackActions(lab.nodes, undropped.append), Client(other)
        operations = [SetDown("gone", "eth0"), SetDown("client", "eth0")]
        actions.set(client, SetRollback(operations_to_json(operations), ("gone", "client")))
        actions.on_disconnect(client)
        assert not next(link for link in network.links(lab, "client") if link.name == "eth0").up
        client.close()
    assert undropped == ["client"]
