"""Errors for operations that the kernel refuses name the operation, the reason and a remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from labctl.errors import KernelError, LabImpossible, MachineError
from labctl.kernel import netlink, rtnl
from labctl.kernel.netlink import Refused
from labctl.kernel.syscalls import drop_capabilities
from labctl.lab.keeper import netlink_queue
from labctl.lab.keeper.netlink_queue import NetlinkQueue, Origin, raise_first
from labctl.lab.keeper.nodes import NodeTable
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    LinkEnd,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    SetSysctl,
    SetUp,
)
from labctl.topology.model import NodeKind
from tests.integration.inside import NetworkLab, inside
from tests.integration.networks import mac, pair, star
from tests.patience import patient

CAP_NET_BROADCAST = 11  # linux/capability.h
FIRST_REPLY_S = patient(0.9)  # a lost first packet is repeated after a second


def refusal(lab: NetworkLab, *operations: Operation) -> KernelError:
    with pytest.raises(KernelError) as caught:
        lab.apply(*operations)
    return caught.value


@pytest.mark.stock_kernel
@inside
def test_an_address_given_twice_is_an_error_that_names_its_interface() -> None:
    with NetworkLab(*pair()) as lab:
        again = AddAddress("server", "eth0", ip_interface("192.0.2.2/24"))
        fine = AddAddress("server", "eth0", ip_interface("192.0.2.3/24"))
        error = refusal(lab, fine, again)
        assert (error.subject, error.attempted, error.errno) == (
            "server:eth0",
            "add address 192.0.2.2/24",
            errno.EEXIST,
        )
        assert str(error).startswith("server:eth0: cannot add address 192.0.2.2/24: EEXIST, File exists")
        assert str(error).endswith("Is it given twice?")


@inside
def test_a_gateway_that_is_not_on_the_link_is_refused_with_the_kernels_words() -> None:
    with NetworkLab(*pair()) as lab:
        error = refusal(lab, AddRoute("client", ip_network("10.0.0.0/8"), ip_address("203.0.113.1"), "eth0"))
        assert error.attempted == "add route 10.0.0.0/8 via 203.0.113.1"
        assert error.errno == errno.ENETUNREACH
        assert "gateway" in error.detail.lower()


@inside
def test_of_many_refusals_the_first_is_reported_and_the_others_are_counted() -> None:
    with NetworkLab(*pair()) as lab:
        gone = [AddRoute("client", ip_network(f"10.{n}.0.0/16"), ip_address("203.0.113.1"), "eth0") for n in range(100)]
        error = refusal(lab, *gone)
        assert error.attempted == "add route 10.0.0.0/16 via 203.0.113.1"
        assert error.detail.endswith("99 more refused after it")


@pytest.mark.stock_kernel
@inside
@pytest.mark.parametrize(
    ("operation", "subject", "number"),
    [
        (MakeNode("client", NodeKind.HOST), "node client", errno.EEXIST),
        (SetUp("client", "eth9"), "client:eth9", errno.ENODEV),
        (AddAddress("nobody", "eth0", ip_interface("10.0.0.1/8")), "nobody:eth0", errno.ENOENT),
        (SetSysctl("client", "net.core.nonsense", "1"), "node client", errno.ENOENT),
        (SetSysctl("client", "net.ipv4.ip_forward", "maybe"), "node client", errno.EINVAL),
        (SetSysctl("client", "kernel.hostname", "x"), "node client", errno.EINVAL),
        (SetSysctl("client", "net.../../kernel/hostname", "x"), "node client", errno.EINVAL),
    ],
    ids=lambda value: (
        str(value).replace(" ", "-") if isinstance(value, SetSysctl | MakeNode | SetUp | AddAddress) else ""
    ),
)
def test_an_impossible_operation_is_an_error_that_names_its_object(
    operation: Operation, subject: str, number: int
) -> None:
    with NetworkLab(*pair()) as lab:
        error = refusal(lab, operation)
        assert (error.subject, error.errno) == (subject, number)


@inside
def test_a_multicast_mac_is_refused_for_its_link() -> None:
    nodes = MakeNode("a", NodeKind.HOST), MakeNode("b", NodeKind.HOST)
    ends = LinkEnd("a", "eth0", "03:00:00:00:00:01", 1500), LinkEnd("b", "eth0", mac(2), 1500)
    with NetworkLab(*nodes) as lab:
        error = refusal(lab, MakeLink(*ends))
        assert (error.subject, error.attempted) == ("link a:eth0 - b:eth0", "make the veth pair")
        assert error.errno == errno.EADDRNOTAVAIL


@inside
@pytest.mark.parametrize(
    ("kind", "expected", "told"),
    [("veth", MachineError, "This kernel has no veth devices"), ("bridge", LabImpossible, "no bridge devices")],
)
def test_a_kind_of_device_that_the_kernel_lacks_is_the_machines_fault(
    kind: str, expected: type[MachineError], told: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make = getattr(rtnl, f"new_{kind}")
        other = kind[:-1] + "x"  # a kind of the same length that no kernel has
        patch.setattr(rtnl, f"new_{kind}", lambda *at: make(*at).replace(kind.encode(), other.encode()))
        with pytest.raises(MachineError, match=told) as caught:
            NetworkLab(*star(1))
    assert (type(caught.value), caught.value.exit_status) == (expected, 3)


@pytest.mark.stock_kernel
@inside
def test_more_ports_than_a_bridge_takes_are_refused_with_the_limit() -> None:
    operations: list[Operation] = [MakeNode("s1", NodeKind.SWITCH), MakeNode("h1", NodeKind.HOST)]
    operations.append(MakeBridge("s1", "br0", 1500))
    for n in range(1, 1025):
        port = LinkEnd("s1", f"p{n}", mac(n, 1), 1500, "br0")
        operations.append(MakeLink(replace(port, node="h1", bridge="", mac=mac(n)), port))
    with pytest.raises(KernelError) as caught:
        NetworkLab(*operations)
    assert caught.value.errno == errno.EXFULL
    assert "1023 ports" in str(caught.value)
    assert caught.value.subject == "link h1:p1024 - s1:p1024"


def test_a_tolerated_errno_is_no_refusal() -> None:
    up = SetUp("client", "eth0")
    raise_first([Refused(Origin(up, (errno.ENODEV,)), errno.ENODEV, "")])
    with pytest.raises(KernelError, match=r"client:eth0: cannot set it up: EPERM.*\(1 more refused after it\)"):
        raise_first(
            [Refused(Origin(up, (errno.ENODEV,)), number, "") for number in (errno.ENODEV, errno.EPERM, errno.EIO)]
        )


@pytest.mark.stock_kernel
@inside
def test_addresses_of_many_nodes_come_into_use_before_the_end_with_one_socket_that_listens() -> None:
    with nodes_of(star(40)) as (nodes, stack):
        queue = NetlinkQueue(nodes, stack)
        for number in range(1, 41):
            node, address = f"h{number}", ip_interface(f"fd00:1::{number:x}/64")
            interface = nodes.interface(node, "eth0")
            assert interface is not None
            queue.add(node, rtnl.new_address(interface.index, address), Origin(MakeNode(node, NodeKind.HOST)))
            queue.expect_address(node, interface.index, address.packed)
        assert [refused for node in queue.nodes for refused in queue.send(node)] == []
        queue.await_addresses()
        assert queue.expected_addresses == {}


@inside
def test_an_address_that_does_not_come_into_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink_queue, "ADDRESS_TIMEOUT_S", 0.01)
    with nodes_of(pair()) as (nodes, stack):
        queue = NetlinkQueue(nodes, stack)
        queue.expect_address("client", 99, ip_address("2001:db8::99").packed)
        with pytest.raises(KernelError, match="node client: cannot have 2001:db8::99 in use: ETIMEDOUT"):
            queue.await_addresses()


@inside
def test_an_address_that_is_removed_before_it_is_in_use_is_an_error_long_before_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(netlink_queue, "EXISTENCE_CHECK_S", 0.01)
    with nodes_of(pair()) as (nodes, stack):
        queue = NetlinkQueue(nodes, stack)
        for node in ("server", "client"):
            existing = rtnl.ipv6_addresses(queue.route_socket(node))
            index, packed = next(each for each in existing if each[0] != netlink.LOOPBACK_INDEX)
            queue.expect_address(node, index, packed)
        queue.expect_address("client", index, ip_address("2001:db8::99").packed)
        error = r"node client: cannot have 2001:db8::99 in use: EADDRNOTAVAIL.* Has a program on the node removed it\?"
        with pytest.raises(KernelError, match=error):
            queue.await_addresses()


@inside
def test_an_address_in_use_has_its_local_route() -> None:
    with NetworkLab(*star(60)) as lab:
        for number in range(1, 61):
            with lab.nodes.entered(f"h{number}"):
                routes = Path("/proc/thread-self/net/ipv6_route").read_text()
            assert f"{ip_address(f'fd00::{number:x}').packed.hex()} 80 " in routes


@inside
def test_addresses_whose_notifications_the_kernel_drops_are_found_by_their_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(netlink, "RECEIVE_BUFFER_BYTES", 1)  # the kernel makes it 2 KiB: two notifications
    find = Mock(side_effect=NetlinkQueue._find_addresses_in_use, autospec=True)
    monkeypatch.setattr(NetlinkQueue, "_find_addresses_in_use", lambda queue: find(queue))
    with NetworkLab(*star(100)) as lab:
        assert len(lab.nodes) == 101
    assert find.called


@inside
def test_addresses_come_into_use_before_the_end_without_cap_net_broadcast() -> None:
    """Root in a container often lacks it; the kernel then refuses to let a socket listen to other namespaces."""
    drop_capabilities((CAP_NET_BROADCAST,))
    with pytest.raises(PermissionError):
        netlink.open_socket(netlink.NETLINK_ROUTE, all_namespaces=True)
    with NetworkLab(*star(20)) as lab, ExitStack() as stack:
        queue = NetlinkQueue(lab.nodes, stack)
        for number in range(1, 21):
            interface = lab.nodes.interface(f"h{number}", "eth0")
            assert interface is not None
            joined = rtnl.multicast_groups(queue.route_socket(f"h{number}"))
            packed = ip_address(f"fd00::{number:x}").packed
            assert (interface.index, rtnl.SOLICITED_NODE + packed[-3:]) in joined


@contextmanager
def nodes_of(operations: list[Operation]) -> Iterator[tuple[NodeTable, ExitStack]]:
    """The nodes of a lab, and a stack for a queue."""
    with NetworkLab(*operations) as lab, ExitStack() as stack:
        yield lab.nodes, stack
