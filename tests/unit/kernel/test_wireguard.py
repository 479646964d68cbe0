from __future__ import annotations

from ipaddress import ip_address

from labctl.kernel.netlink import HEADER, attribute_values
from labctl.kernel.wireguard import KernelPeer, device_message


def test_a_message_has_the_key_the_port_and_each_peer() -> None:
    peer = KernelPeer(b"p" * 32, (ip_address("10.0.0.2"), 51820), ("10.9.0.0/24", "fd00::/64"), 25)

    values = attribute_values(memoryview(device_message(30, "wg0", b"k" * 32, 51820, [peer])), HEADER.size + 4)

    assert values[2] == b"wg0\0"
    assert values[3] == b"k" * 32
    assert values[6] == (51820).to_bytes(2, "little")
    (of_peer,) = attribute_values(values[8]).values()
    found = attribute_values(of_peer)
    assert found[1] == b"p" * 32
    assert found[4] == bytes.fromhex("0200ca6c0a000002") + bytes(8)
    assert len(attribute_values(found[9])) == 2
