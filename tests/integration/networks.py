"""Plans of small networks, written by hand: the executor is tested without the rooms before it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

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


def mac(number: int, side: int = 0) -> str:
    return f"02:00:00:{side:02x}:{number >> 8:02x}:{number & 255:02x}"


def pair() -> list[Operation]:
    """`client` (.1) and `server` (.2) on a direct link, 192.0.2.0/24 and 2001:db8::/64."""
    operations: list[Operation] = [MakeNode("client", NodeKind.HOST), MakeNode("server", NodeKind.HOST)]
    operations.append(MakeLink(LinkEnd("client", "eth0", mac(1), 1500), LinkEnd("server", "eth0", mac(2), 1500)))
    for node, number in (("client", 1), ("server", 2)):
        operations += _addresses(node, "eth0", f"192.0.2.{number}/24", f"2001:db8::{number}/64", f"fe80::{number}/64")
    operations += [SetUp("client", "eth0"), SetUp("server", "eth0")]
    return operations


def star(hosts: int) -> list[Operation]:
    """h1, h2, ... (10.0.0.n/16, fd00::n/64) on the switch s1."""
    numbers = range(1, hosts + 1)
    operations: list[Operation] = [MakeNode("s1", NodeKind.SWITCH)]
    operations += [MakeNode(f"h{n}", NodeKind.HOST) for n in numbers]
    operations.append(MakeBridge("s1", "br0", 1500))
    for n in numbers:
        host, port = LinkEnd(f"h{n}", "eth0", mac(n), 1500), LinkEnd("s1", f"port{n}", mac(n, 1), 1500, "br0")
        operations.append(MakeLink(host, port))
    for n in numbers:
        v4, v6 = f"10.0.{n >> 8}.{n & 255}/16", f"fd00::{n:x}/64"
        operations += _addresses(f"h{n}", "eth0", v4, v6, f"fe80::{n:x}/64")
    for n in numbers:
        operations += [SetUp(f"h{n}", "eth0"), SetUp("s1", f"port{n}")]
    operations.append(SetUp("s1", "br0"))
    return operations


def routed() -> list[Operation]:
    """left (10.1.0.1, fd01::1) - gw (.254, ::fe) - right (10.2.0.1, fd02::1), with routes both ways."""
    operations: list[Operation] = [MakeNode("left", NodeKind.HOST), MakeNode("right", NodeKind.HOST)]
    operations.append(MakeNode("gw", NodeKind.ROUTER))
    operations.append(SetSysctl("gw", "net.ipv4.ip_forward", "1"))
    operations.append(SetSysctl("gw", "net.ipv6.conf.all.forwarding", "1"))
    for number, node in ((1, "left"), (2, "right")):
        ends = LinkEnd(node, "eth0", mac(number), 1500), LinkEnd("gw", f"eth{number}", mac(number, 1), 1500)
        operations.append(MakeLink(*ends))
    for number, node in ((1, "left"), (2, "right")):
        operations += _addresses(node, "eth0", f"10.{number}.0.1/24", f"fd0{number}::1/64", "fe80::1/64")
        operations += _addresses("gw", f"eth{number}", f"10.{number}.0.254/24", f"fd0{number}::fe/64", "fe80::fe/64")
        operations += [SetUp(node, "eth0"), SetUp("gw", f"eth{number}")]
    for number, node, other in ((1, "left", 2), (2, "right", 1)):
        for family, via in ((f"10.{other}.0.0/24", f"10.{number}.0.254"), (f"fd0{other}::/64", f"fd0{number}::fe")):
            operations.append(AddRoute(node, ip_network(family), ip_address(via), "eth0"))
    return operations


def _addresses(node: str, ifname: str, *addresses: str) -> Iterator[Operation]:
    return (AddAddress(node, ifname, ip_interface(address)) for address in addresses)
