from __future__ import annotations

import pytest

from labctl.kernel import devices
from labctl.kernel.netlink import IFINFO, attribute_values
from labctl.kernel.rtnl import message_class

OPTIONS = {
    "vlan": (("protocol", "802.1ad"), ("id", 10)),
    "bond": (("mode", "802.3ad"), ("miimon", 100), ("xmit_hash_policy", "layer3+4"), ("lacp_rate", "fast")),
    "macvlan": (("mode", "bridge"),),
    "ipvlan": (("mode", "l3"),),
    "vrf": (("table", 100),),
    "vxlan": (("id", 100), ("local", "10.0.0.1"), ("dstport", 4789), ("ttl", 64), ("learning", "on")),
    "gre": (("local", "10.0.0.1"), ("remote", "10.0.0.2"), ("ttl", 64), ("key", 7)),
    "ip6gre": (("local", "fd00::1"), ("remote", "fd00::2"), ("ttl", 64), ("encaplimit", "none")),
    "ipip": (("local", "10.0.0.1"), ("remote", "10.0.0.2"), ("ttl", 64)),
    "sit": (("local", "10.0.0.1"), ("remote", "10.0.0.2"), ("ttl", 64)),
    "ip6tnl": (("local", "fd00::1"), ("remote", "fd00::2"), ("ttl", 64), ("encaplimit", "none")),
    "bridge": (("stp_state", 1), ("forward_delay", 200), ("mcast_snooping", 0)),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_a_message_sets_is_what_a_report_with_its_attributes_has(kind: str) -> None:
    encoded = devices.new_device(kind, OPTIONS[kind], "dev0", 30, on=5)

    values = attribute_values(memoryview(encoded)[16:], IFINFO.size)
    found_kind, found, on = devices.reported(values)

    assert (found_kind, dict(found)) == (kind, dict(OPTIONS[kind]))
    assert on == 5


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("vlan", {"IFLA_VLAN_ID": 10, "IFLA_VLAN_PROTOCOL": 0x88A8}),
        ("bond", {"IFLA_BOND_MODE": 4, "IFLA_BOND_MIIMON": 100, "IFLA_BOND_XMIT_HASH_POLICY": 1}),
        ("macvlan", {"IFLA_MACVLAN_MODE": "bridge"}),
        ("vrf", {"IFLA_VRF_TABLE": 100}),
        ("vxlan", {"IFLA_VXLAN_ID": 100, "IFLA_VXLAN_LOCAL": "10.0.0.1", "IFLA_VXLAN_PORT": 4789}),
        ("gre", {"IFLA_GRE_LOCAL": "10.0.0.1", "IFLA_GRE_REMOTE": "10.0.0.2", "IFLA_GRE_TTL": 64}),
        ("ipip", {"IFLA_IPIP_LOCAL": "10.0.0.1", "IFLA_IPIP_REMOTE": "10.0.0.2"}),
        ("sit", {"IFLA_SIT_LOCAL": "10.0.0.1", "IFLA_SIT_REMOTE": "10.0.0.2"}),
    ],
)
def test_pyroute2_decodes_the_options(kind: str, attributes: dict[str, object]) -> None:
    decoded = message_class("ifinfmsg")(devices.new_device(kind, OPTIONS[kind], "dev0", 30, on=5))
    decoded.decode()

    info = decoded.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA")

    assert info.get_attr("IFLA_INFO_KIND") == kind
    assert {name: data.get_attr(name) for name in attributes} == attributes
