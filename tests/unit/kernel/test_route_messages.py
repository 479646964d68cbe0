"""Messages for routes and policy rules are, attribute for attribute, what pyroute2 encodes."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg  # type: ignore[import-untyped]  # it has no annotations
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped]

from labctl.kernel import route_messages
from labctl.kernel.netlink import (
    HEADER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_NEWROUTE,
    RTM_NEWRULE,
)
from labctl.kernel.route_messages import Hop, RouteRequest, RuleRequest

NET4, NET6 = ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")
GATEWAY4, GATEWAY6 = ip_address("10.0.1.254"), ip_address("fd00:1::fe")


def decoded(of: type[Any], encoded: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fixed fields and the attributes that pyroute2 reads."""
    message = of(encoded)
    message.decode()
    fields = {name: message[name] for name, _ in of.fields}
    return fields, {name: value for name, value, *_ in message["attrs"]}


def route(*hops: Hop, to: Any = NET4, kind: str = "unicast", metric: int = 0, table: int = 254) -> RouteRequest:
    return RouteRequest(to, kind, hops, metric, table, None)


@pytest.mark.parametrize(
    ("request_", "attributes"),
    [
        (route(Hop(7, GATEWAY4)), {"RTA_GATEWAY": "10.0.1.254", "RTA_OIF": 7}),
        (route(Hop(7, GATEWAY4), metric=20, table=1000), {"RTA_PRIORITY": 20, "RTA_GATEWAY": "10.0.1.254"}),
        (route(Hop(7, GATEWAY6)), {"RTA_VIA": {"family": socket.AF_INET6, "addr": "fd00:1::fe"}, "RTA_OIF": 7}),
        (route(Hop(7, GATEWAY6), to=NET6), {"RTA_GATEWAY": "fd00:1::fe", "RTA_OIF": 7}),
        (route(Hop(7)), {"RTA_OIF": 7}),
        (route(kind="blackhole"), {}),
    ],
)
def test_a_route_has_the_attributes_that_it_needs(request_: RouteRequest, attributes: dict[str, Any]) -> None:
    fields, found = decoded(rtmsg, route_messages.new_route(request_))
    version = request_.destination.version
    assert found == {
        "RTA_DST": str(request_.destination.network_address),
        "RTA_TABLE": request_.table,
        **attributes,
        **({"RTA_OIF": 7} if request_.hops else {}),
    }
    assert fields["family"] == (socket.AF_INET if version == 4 else socket.AF_INET6)
    assert (fields["dst_len"], fields["proto"]) == (request_.destination.prefixlen, 3)
    assert fields["type"] == route_messages.ROUTE_KINDS[request_.kind]
    assert fields["table"] == (request_.table if request_.table < 256 else 0)
    on_link = request_.hops == (Hop(7),)
    assert fields["scope"] == (253 if on_link else 0)


def test_several_next_hops_have_weights_less_one_and_flags_of_their_own() -> None:
    request = route(Hop(7, GATEWAY4, 3), Hop(8, GATEWAY6, 256, onlink=True), Hop(9))
    found = decoded(rtmsg, route_messages.new_route(request))[1]["RTA_MULTIPATH"]
    assert [(hop["oif"], hop["hops"], hop["flags"]) for hop in found] == [(7, 2, 0), (8, 255, 4), (9, 0, 0)]
    assert dict(found[0]["attrs"])["RTA_GATEWAY"] == "10.0.1.254"
    assert dict(found[1]["attrs"])["RTA_VIA"]["addr"] == "fd00:1::fe"
    assert not found[2]["attrs"]


def test_onlink_of_a_single_next_hop_is_a_flag_of_the_route() -> None:
    fields, _ = decoded(rtmsg, route_messages.new_route(route(Hop(7, GATEWAY4, onlink=True))))
    assert fields["flags"] == 4


def header(message: bytes) -> tuple[int, int]:
    _, kind, flags, _, _ = HEADER.unpack_from(message)
    return kind, flags


def test_types_and_flags() -> None:
    one, rule = route(Hop(7)), RuleRequest(4, 1, "lookup", 254)
    create = NLM_F_REQUEST | NLM_F_CREATE
    assert header(route_messages.new_route(one)) == (RTM_NEWROUTE, create | NLM_F_EXCL)
    assert header(route_messages.new_route(one, in_place=True)) == (RTM_NEWROUTE, create | NLM_F_REPLACE)
    assert header(route_messages.remove_route(one)) == (RTM_DELROUTE, NLM_F_REQUEST)
    assert header(route_messages.new_rule(rule)) == (RTM_NEWRULE, create | NLM_F_EXCL)
    assert header(route_messages.remove_rule(rule)) == (RTM_DELRULE, NLM_F_REQUEST)


def test_a_rule_selects_packets_and_names_a_table() -> None:
    rule = RuleRequest(4, 77, "lookup", 1000, NET4, ip_network("10.0.0.1/32"), (0x10, 0xFF), "eth0", "eth1", True)
    fields, found = decoded(fibmsg, route_messages.new_rule(rule))
    assert (fields["family"], fields["src_len"], fields["dst_len"]) == (socket.AF_INET, 24, 32)
    assert (fields["action"], fields["table"], fields["flags"]) == (1, 0, 2)
    assert found == {
        "FRA_PRIORITY": 77,
        "FRA_TABLE": 1000,
        "FRA_SRC": "192.0.2.0",
        "FRA_DST": "10.0.0.1",
        "FRA_FWMARK": 0x10,
        "FRA_FWMASK": 0xFF,
        "FRA_IIFNAME": "eth0",
        "FRA_OIFNAME": "eth1",
        "FRA_PROTOCOL": 3,
    }


def test_a_rule_that_refuses_packets_looks_up_no_table() -> None:
    fields, found = decoded(fibmsg, route_messages.new_rule(RuleRequest(6, 5, "prohibit", 254, NET6)))
    assert (fields["family"], fields["action"], fields["table"]) == (socket.AF_INET6, 8, 0)
    assert found == {"FRA_PRIORITY": 5, "FRA_SRC": "2001:db8::", "FRA_PROTOCOL": 3}
