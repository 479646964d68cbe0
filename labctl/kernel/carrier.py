"""A link's carrier, brought up to date now instead of when the kernel's link watch gets to it.

When both ends of a veth pair are up, the kernel starts their queues and lets a bridge forward on a port only in a
deferred work item; what is sent before is dropped without a word, and a lost first ARP request costs a second. Asking a
device for its link state through ethtool carries out what is deferred for it (net/core/link_watch.c,
linkwatch_sync_dev).
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from array import array

SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_GLINK = 0x0000_000A  # linux/ethtool.h
_IFREQ = struct.Struct("16sP16x")  # struct ifreq: name, pointer (netdevice(7))


def settle(sock: socket.socket, ifname: str) -> bool:
    """True when the interface, in the namespace of any socket `sock`, has a carrier; deferred changes are done first.

    OSError (ENODEV) when there is no such interface. A device whose driver cannot tell has one.
    """
    value = array("I", [ETHTOOL_GLINK, 0])
    request = _IFREQ.pack(ifname.encode(), value.buffer_info()[0])
    try:
        fcntl.ioctl(sock.fileno(), SIOCETHTOOL, request)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return True
        raise
    return bool(value[1])
