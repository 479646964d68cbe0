from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from labctl import topology
from labctl.topology.model import Address, AddressOnLink, NodeKind, Prefix, links_between, read_address


def test_of_a_link_to_a_switch_the_port_goes_down_whatever_the_order() -> None:
    star = topology.load("star:2")
    (link,) = links_between(star.links, "h1", "s1")
    for second in ("h1", "s1"):
        assert star.node(star.end_to_take_down(link, second).node).kind is NodeKind.SWITCH


def test_of_a_link_between_hosts_the_second_named_end_goes_down() -> None:
    pair = topology.load("pair")
    (link,) = links_between(pair.links, "server", "client")
    assert pair.end_to_take_down(link, "client").node == "client"
    assert pair.end_to_take_down(link, "server").node == "server"


def test_nodes_that_are_not_neighbours_have_no_link() -> None:
    assert links_between(topology.load("star:2").links, "h1", "h2") == []


def test_an_interface_selects_one_of_several_links_in_either_order() -> None:
    pair = topology.load("pair")
    (link,) = pair.links
    for first, second in ((link.a, link.b), (link.b, link.a)):
        assert links_between(pair.links, str(first), second.node) == [link]
    assert links_between(pair.links, f"{link.a.node}:eth7", link.b.node) == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((Address, text) for text in ("10.0.0.1", "fd00::1", "::ffff:10.0.0.1", "0.0.0.0")),
        *((AddressOnLink, text) for text in ("10.0.0.1/24", "fd00::1/64", "10.0.0.1/32", "::1/128")),
        *((Prefix, text) for text in ("10.0.0.0/24", "fd00::/64", "0.0.0.0/0", "::/0")),
    ],
)
def test_an_address_is_read_as_ipaddress_reads_it(kind: Any, text: str) -> None:
    readers: dict[Any, Any] = {Address: ip_address, AddressOnLink: ip_interface, Prefix: ip_network}
    reference = readers[kind](text)
    assert read_address(kind, text) == reference
    assert type(read_address(kind, text)) is type(reference)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((Address, value) for value in ("", "10.0.0.1/24", "10.0.0", "10.0.0.256", "fd00::1%eth0", "\0", 5, None)),
        *((AddressOnLink, value) for value in ("10.0.0.1", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/+8", "::1/129")),
        *((Prefix, value) for value in ("10.0.0.1/24", "10.0.0.0/x", "fd00::1/64")),
    ],
)
def test_what_is_no_address_is_refused(kind: Any, value: object) -> None:
    with pytest.raises(ValueError, match=r"address|host bits|permitted|netmask|null"):
        read_address(kind, value)
