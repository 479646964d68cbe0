"""Drop rules as matches of nftables."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from labctl.errors import InputError
from labctl.kernel.nftables import IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, NFPROTO_IPV4, NFPROTO_IPV6, Hook
from labctl.lab.keeper.drop_rules import PAIRS_MAX, drop, matches
from labctl.plan.drop_rules import Direction, DropProtocol, DropRule


def test_an_empty_rule_spares_neighbour_discovery() -> None:
    found = [(one.family, one.protocol, one.excluded_protocol) for one in matches(DropRule())]
    assert found == [
        (NFPROTO_IPV4, None, None),
        (NFPROTO_IPV6, None, IPPROTO_ICMPV6),
        (NFPROTO_IPV6, IPPROTO_ICMPV6, None),
    ]


def test_a_port_is_that_of_either_end_over_tcp_and_udp() -> None:
    found = {(one.protocol, one.source_port, one.destination_port) for one in matches(DropRule(port=53))}
    assert found == {
        (protocol, *ports) for protocol in (IPPROTO_TCP, IPPROTO_UDP) for ports in ((53, None), (None, 53))
    }


def test_an_address_of_one_family_leaves_the_other_alone() -> None:
    rule = DropRule(direction=Direction.OUT, protocol=DropProtocol.TCP, sources=(ip_address("192.0.2.1"),))
    assert [(one.hook, one.family, one.source) for one in matches(rule)] == [
        (Hook.POSTROUTING, NFPROTO_IPV4, ip_address("192.0.2.1").packed)
    ]


def test_too_many_pairs_of_addresses_are_refused() -> None:
    addresses = tuple(ip_address(number) for number in range(1, 131))
    assert len(addresses) ** 2 > PAIRS_MAX
    with pytest.raises(InputError, match="pairs of addresses"):
        drop(DropRule(sources=addresses, destinations=addresses))
