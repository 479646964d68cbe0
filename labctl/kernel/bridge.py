"""Bridges: the options of a bridge and of its ports, VLANs of ports, and static forwarding entries (bridge(8)).

The messages and what the kernel reports. Options have the names of ip-link(8) and bridge(8), and the kernel's units:
hundredths of a second (USER_HZ). Structures: linux/if_link.h, linux/if_bridge.h, linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

from labctl.kernel import netlink
from labctl.kernel.netlink import NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, attribute, attribute_values, dump, message
from labctl.structs import Struct

AF_BRIDGE = 7
_NESTED = 0x8000  # NLA_F_NESTED
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5  # IFLA_INFO_*
_IFLA_PROTINFO, _IFLA_EXT_MASK = 12, 29
_RTEXT_FILTER_BRVLAN = 2  # linux/rtnetlink.h
_VLAN_INFO = 2  # IFLA_BRIDGE_VLAN_INFO
_VLAN = struct.Struct("=HH")  # struct bridge_vlan_info: flags, number
_PVID, _UNTAGGED = 2, 4  # BRIDGE_VLAN_INFO_*
_NDMSG = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
_RTM_NEWNEIGH = 28
_NUD_NOARP, _NUD_PERMANENT, _NTF_MASTER = 0x40, 0x80, 0x04
_NDA_LLADDR, _NDA_VLAN, _NDA_MASTER = 2, 5, 9

_OPTIONS = {  # IFLA_BR_* and the format of the value
    "forward_delay": (1, "I"),
    "hello_time": (2, "I"),
    "max_age": (3, "I"),
    "ageing_time": (4, "I"),
    "stp_state": (5, "I"),
    "priority": (6, "H"),
    "vlan_filtering": (7, "B"),
    "mcast_snooping": (23, "B"),
    "mcast_querier": (25, "B"),
    "mcast_query_response_interval": (34, "Q"),
    "vlan_default_pvid": (39, "H"),
}
_PORT_OPTIONS = {  # IFLA_BRPORT_*
    "cost": (3, "I"),
    "hairpin": (4, "B"),
    "guard": (5, "B"),
    "learning": (8, "B"),
    "flood": (9, "B"),
    "mcast_flood": (27, "B"),
    "isolated": (33, "B"),
}
_ROOT_PORT = 12  # IFLA_BR_ROOT_PORT
_STATE = 1  # IFLA_BRPORT_STATE
STATES = ("disabled", "listening", "learning", "forwarding", "blocking")  # BR_STATE_*


def set_option(index: int, name: str, value: int) -> bytes:
    """Set an option of a bridge; `address` is its MAC as a number. EOPNOTSUPP for VLANs on a kernel without them."""
    header = netlink.IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    if name == "address":
        return message(netlink.RTM_SETLINK, NLM_F_REQUEST, header + attribute(netlink.IFLA_ADDRESS, value.to_bytes(6)))
    type, form = _OPTIONS[name]
    data = attribute(type, struct.pack(f"={form}", value))
    info = attribute(_INFO_KIND, b"bridge\0") + attribute(_INFO_DATA, data)
    return message(netlink.RTM_NEWLINK, NLM_F_REQUEST, header + attribute(netlink.IFLA_LINKINFO, info))


def set_port_option(index: int, name: str, value: int) -> bytes:
    """Set an option of a port."""
    type, form = _PORT_OPTIONS[name]
    data = attribute(_IFLA_PROTINFO | _NESTED, attribute(type, struct.pack(f"={form}", value)))
    return message(netlink.RTM_SETLINK, NLM_F_REQUEST, netlink.IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + data)


def add_vlan(index: int, vlan: int, *, tagged: bool) -> bytes:
    """Let a port pass a VLAN; untagged, it is also that of frames that arrive without a tag."""
    return _vlan(netlink.RTM_SETLINK, index, vlan, 0 if tagged else _PVID | _UNTAGGED)


def remove_vlan(index: int, vlan: int) -> bytes:
    """Remove a VLAN of a port."""
    return _vlan(netlink.RTM_DELLINK, index, vlan, 0)


def _vlan(type: int, index: int, vlan: int, flags: int) -> bytes:
    data = attribute(netlink.IFLA_AF_SPEC, attribute(_VLAN_INFO, _VLAN.pack(flags, vlan)))
    return message(type, NLM_F_REQUEST, netlink.IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + data)


def add_forwarding(index: int, mac: str, vlan: int = 0) -> bytes:
    """Add a static entry: frames for the MAC leave by this port. It does not age, and replaces a learned one."""
    return _forwarding(_RTM_NEWNEIGH, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, index, mac, vlan)


def remove_forwarding(index: int, mac: str, vlan: int = 0) -> bytes:
    """Remove an entry; ENOENT if there is none."""
    return _forwarding(netlink.RTM_DELNEIGH, NLM_F_REQUEST, index, mac, vlan)


def _forwarding(type: int, flags: int, index: int, mac: str, vlan: int) -> bytes:
    entry = _NDMSG.pack(AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER, 0)
    entry += attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
    return message(type, flags, entry + (attribute(_NDA_VLAN, struct.pack("=H", vlan)) if vlan else b""))


# -- what the kernel has


class BridgeState(Struct, frozen=True):
    """Bridges and ports of a namespace: options by interface, and of ports also the state, an index of `STATES`.

    `vlans` are (VLAN, whether tagged) by interface, and `forwarding` the static entries: (interface, MAC, VLAN).
    """

    options: Mapping[str, Mapping[str, int]]
    states: Mapping[str, int]
    vlans: Mapping[str, frozenset[tuple[int, bool]]]
    forwarding: frozenset[tuple[str, str, int]]


def read(sock: socket.socket) -> BridgeState:
    """Read the namespace of `sock` (NETLINK_ROUTE, borrowed). OSError."""
    options: dict[str, dict[str, int]] = {}
    states: dict[str, int] = {}
    names: dict[int, str] = {}
    has_vlans = False
    for _, payload in dump(sock, netlink.RTM_GETLINK, netlink.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        values = attribute_values(payload, netlink.IFINFO.size)
        name = values[netlink.IFLA_IFNAME].rstrip(b"\0").decode()
        names[netlink.IFINFO.unpack_from(payload)[2]] = name
        info = attribute_values(values.get(netlink.IFLA_LINKINFO, b""))
        if info.get(_INFO_KIND) == b"bridge\0":
            options[name] = _parsed(attribute_values(info.get(_INFO_DATA, b"")), _OPTIONS)
            options[name]["address"] = int.from_bytes(values.get(netlink.IFLA_ADDRESS, b""))
            has_vlans |= bool(options[name].get("vlan_filtering"))
        elif info.get(_INFO_SLAVE_KIND) == b"bridge\0":
            port = attribute_values(info.get(_INFO_SLAVE_DATA, b""))
            options[name] = _parsed(port, _PORT_OPTIONS)
            states[name] = port.get(_STATE, b"\0")[0]
    return BridgeState(options, states, _vlans(sock) if has_vlans else {}, _static(sock, names))


def root_port(sock: socket.socket, index: int) -> int:
    """Return the number of the port of a bridge that leads to the root; 0 if it is the root itself. OSError."""
    for _, payload in dump(sock, netlink.RTM_GETLINK, netlink.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        if netlink.IFINFO.unpack_from(payload)[2] == index:
            info = attribute_values(attribute_values(payload, netlink.IFINFO.size).get(netlink.IFLA_LINKINFO, b""))
            port = attribute_values(info.get(_INFO_DATA, b"")).get(_ROOT_PORT, b"\0\0")
            return int(struct.unpack("=H", port)[0])
    return 0


def root_message() -> bytes:
    """Return a frame with a configuration message of a bridge that no other is better than (802.1D-1998, 9.3.1)."""
    identifier = bytes.fromhex("0000020000000001")
    message = bytes(5) + identifier + bytes(4) + identifier + struct.pack("!5H", 0x8001, 0, 6 << 8, 1 << 8, 2 << 8)
    return bytes.fromhex("0180c2000000020000000001") + struct.pack("!H", 3 + len(message)) + b"\x42\x42\x03" + message


def unsettled(sock: socket.socket) -> list[str]:
    """Return the ports that the spanning tree protocol has not decided about: listening or learning. OSError."""
    return [name for name, state in _port_states(sock) if STATES[state] in ("listening", "learning")]


def _port_states(sock: socket.socket) -> list[tuple[str, int]]:
    found = []
    for _, payload in dump(sock, netlink.RTM_GETLINK, netlink.IFINFO.pack(AF_BRIDGE, 0, 0, 0, 0)):
        values = attribute_values(payload, netlink.IFINFO.size)
        state = attribute_values(values.get(_IFLA_PROTINFO, b"")).get(_STATE)
        if state:
            found.append((values[netlink.IFLA_IFNAME].rstrip(b"\0").decode(), state[0]))
    return found


def _parsed(values: Mapping[int, bytes], table: Mapping[str, tuple[int, str]]) -> dict[str, int]:
    found = {}
    for name, (type, form) in table.items():
        if len(values.get(type, b"")) >= struct.calcsize(f"={form}"):
            found[name] = int(struct.unpack_from(f"={form}", values[type])[0])
    return found


def _vlans(sock: socket.socket) -> dict[str, frozenset[tuple[int, bool]]]:
    request = netlink.IFINFO.pack(AF_BRIDGE, 0, 0, 0, 0)
    request += attribute(_IFLA_EXT_MASK, netlink.U32.pack(_RTEXT_FILTER_BRVLAN))
    found = {}
    for _, payload in dump(sock, netlink.RTM_GETLINK, request):
        values = attribute_values(payload, netlink.IFINFO.size)
        spec = values.get(netlink.IFLA_AF_SPEC, b"")
        each = [
            _VLAN.unpack_from(spec, offset)
            for type, offset, _ in netlink.attributes(spec)
            if type & netlink.NLA_TYPE_MASK == _VLAN_INFO
        ]
        name = values[netlink.IFLA_IFNAME].rstrip(b"\0").decode()
        found[name] = frozenset((vlan, not flags & _UNTAGGED) for flags, vlan in each)
    return found


def _static(sock: socket.socket, names: Mapping[int, str]) -> frozenset[tuple[str, str, int]]:
    found = set()
    for _, payload in dump(sock, netlink.RTM_GETNEIGH, _NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0)):
        family, index, state, _, _ = _NDMSG.unpack_from(payload)
        values = attribute_values(payload, _NDMSG.size)
        if family == AF_BRIDGE and state & _NUD_NOARP and _NDA_MASTER in values and index in names:
            vlan = struct.unpack("=H", values.get(_NDA_VLAN, b"\0\0"))[0]
            found.add((names[index], values[_NDA_LLADDR].hex(":"), vlan))
    return frozenset(found)
