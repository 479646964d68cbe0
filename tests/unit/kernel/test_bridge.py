"""Messages about bridges are, byte for byte, what pyroute2 encodes."""

from __future__ import annotations

from typing import Any

import pytest

from labctl.kernel import bridge
from labctl.kernel.netlink import NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK
from labctl.kernel.rtnl import message_class

MAC = "02:00:00:00:00:09"


def encoded(kind: str, type: int, fields: dict[str, int], attrs: list[tuple[str, Any]], flags: int = 0) -> bytes:
    message = message_class(kind)()
    message["header"]["type"], message["header"]["flags"] = type, NLM_F_REQUEST | flags
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)


@pytest.mark.parametrize("name", bridge._OPTIONS)
def test_options_of_bridges(name: str) -> None:
    data = {"attrs": [(f"IFLA_BR_{name.upper().replace('INTERVAL', 'INTVL')}", 1)]}
    info = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)]}
    attrs = [("IFLA_LINKINFO", info)]
    assert bridge.set_option(7, name, 1) == encoded("ifinfmsg", RTM_NEWLINK, {"index": 7}, attrs)


def test_the_address_of_a_bridge() -> None:
    attrs = [("IFLA_ADDRESS", MAC)]
    assert bridge.set_option(7, "address", 0x020000000009) == encoded("ifinfmsg", RTM_SETLINK, {"index": 7}, attrs)


@pytest.mark.parametrize(
    ("name", "attribute"),
    [("isolated", "ISOLATED"), ("hairpin", "MODE"), ("flood", "UNICAST_FLOOD"), ("cost", "COST"), ("guard", "GUARD")],
)
def test_options_of_ports(name: str, attribute: str) -> None:
    attrs = [("IFLA_PROTINFO", {"attrs": [(f"IFLA_BRPORT_{attribute}", 1)]})]
    fields = {"family": bridge.AF_BRIDGE, "index": 7}
    mine, theirs = bridge.set_port_option(7, name, 1), encoded("ifinfmsg", RTM_SETLINK, fields, attrs)
    assert mine.replace(b"\x0c\x80", b"\x0c\x00") == theirs.replace(b"\x0c\x80", b"\x0c\x00")  # NLA_F_NESTED


def test_static_entries() -> None:
    fields = {"family": bridge.AF_BRIDGE, "ifindex": 7, "state": 0x40, "flags": 4}
    attrs = [("NDA_LLADDR", MAC), ("NDA_VLAN", 10)]
    flags = NLM_F_CREATE | NLM_F_REPLACE
    assert bridge.add_forwarding(7, MAC, 10) == encoded("ndmsg", 28, fields, attrs, flags)
    assert bridge.remove_forwarding(7, MAC) == encoded("ndmsg", 29, fields, attrs[:1])


def test_vlans_are_struct_bridge_vlan_info() -> None:
    assert bridge.add_vlan(7, 10, tagged=False).endswith(b"\x08\x00\x02\x00\x06\x00\x0a\x00")
    assert bridge.remove_vlan(7, 10)[4:6] == RTM_DELLINK.to_bytes(2, "little")


def test_the_message_of_a_root_has_the_length_of_the_standard() -> None:
    frame = bridge.root_message()
    assert (len(frame), int.from_bytes(frame[12:14])) == (14 + 38, 38)
