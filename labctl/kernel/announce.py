"""An interface tells its neighbours its addresses: gratuitous ARP (RFC 5227) and unsolicited advertisements (RFC 4861).

Who asked for an address while a link was down asks again only after a second; told by its owner, it need not ask.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from labctl.kernel.icmp import checksum

ETH_P_ARP = 0x0806  # linux/if_ether.h
ETH_P_IPV6 = 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1").packed
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826
_IPV6 = struct.Struct("!IHBB16s16s")  # RFC 8200
_ADVERTISEMENT = struct.Struct("!BBHI16sBB6s")  # RFC 4861, section 4.4, with the target's link-layer address
_OVERRIDE = 0x2000_0000
_IPPROTO_ICMPV6 = 58


def announce(sock: socket.socket, ifname: str, mac: bytes, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
    """Send one announcement of each address on the interface; `sock` (AF_PACKET, SOCK_RAW) is borrowed. OSError."""
    for address in addresses:
        if isinstance(address, IPv4Address):
            sock.sendto(arp_announcement(mac, address), (ifname, ETH_P_ARP))
        else:
            sock.sendto(advertisement(mac, address), (ifname, ETH_P_IPV6))


def arp_announcement(mac: bytes, address: IPv4Address) -> bytes:
    """The Ethernet frame of an ARP request for one's own address."""
    arp = _ARP.pack(1, 0x0800, 6, 4, 1, mac, address.packed, bytes(6), address.packed)
    return _BROADCAST + mac + struct.pack("!H", ETH_P_ARP) + arp


def advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """The Ethernet frame of an unsolicited neighbour advertisement to all nodes."""
    size = _ADVERTISEMENT.size
    fields = (_OVERRIDE, address.packed, 2, 1, mac)
    pseudo_header = address.packed + _ALL_NODES + struct.pack("!II", size, _IPPROTO_ICMPV6)
    total = checksum(pseudo_header + _ADVERTISEMENT.pack(136, 0, 0, *fields))
    header = _IPV6.pack(6 << 28, size, _IPPROTO_ICMPV6, 255, address.packed, _ALL_NODES)
    frame = _ALL_NODES_MAC + mac + struct.pack("!H", ETH_P_IPV6)
    return frame + header + _ADVERTISEMENT.pack(136, 0, total, *fields)
