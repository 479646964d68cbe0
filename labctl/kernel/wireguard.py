"""Keys and peers of WireGuard interfaces: generic netlink messages of linux/wireguard.h.

Each function uses the network namespace that the calling thread is in.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from labctl.kernel.netlink import (
    NLM_F_REQUEST,
    Batch,
    attribute,
    attribute_values,
    attributes,
    dump,
    message,
    open_socket,
)
from labctl.structs import Struct, replace

NETLINK_GENERIC = 16  # linux/netlink.h
_GENERIC = struct.Struct("=BBH")  # struct genlmsghdr: command, version, (reserved)
_CONTROLLER, _GET_FAMILY = 0x10, 3  # GENL_ID_CTRL, CTRL_CMD_GETFAMILY (linux/genetlink.h)
_FAMILY_ID, _FAMILY_NAME = 1, 2  # CTRL_ATTR_*
_GET_DEVICE, _SET_DEVICE, _VERSION = 0, 1, 1  # WG_CMD_*
_REPLACE_PEERS, _REPLACE_ALLOWED = 1, 2  # WGDEVICE_F_REPLACE_PEERS, WGPEER_F_REPLACE_ALLOWEDIPS
_IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _FLAGS, _LISTEN_PORT, _PEERS = 2, 3, 4, 5, 6, 8  # WGDEVICE_A_*
_PEER_KEY, _PEER_PSK, _PEER_FLAGS, _PEER_ENDPOINT, _PEER_KEEPALIVE, _PEER_ALLOWED = 1, 2, 3, 4, 5, 9  # WGPEER_A_*
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_LENGTH = 1, 2, 3  # WGALLOWEDIP_A_*
_NESTED = 0x8000  # NLA_F_NESTED
KEY_BYTES = 32


class KernelPeer(Struct, frozen=True):
    """A peer: keys are bytes, `endpoint` is an address and a port."""

    public_key: bytes
    endpoint: tuple[IPv4Address | IPv6Address, int] | None = None
    allowed: tuple[str, ...] = ()  # prefixes
    keepalive_s: int = 0
    preshared_key: bytes = bytes(KEY_BYTES)


def set_device(ifname: str, private_key: bytes, port: int, peers: Iterable[KernelPeer]) -> None:
    """Set key and port of a WireGuard interface, and replace its peers. OSError."""
    with open_socket(NETLINK_GENERIC) as sock:
        batch: Batch[None] = Batch(sock)
        batch.add(device_message(_family(sock), ifname, private_key, port, peers), None)
        for refused in batch.commit():
            raise OSError(refused.errno, refused.detail or os.strerror(refused.errno))


def device_message(family: int, ifname: str, private_key: bytes, port: int, peers: Iterable[KernelPeer]) -> bytes:
    """Encode what `set_device` sends; `family` is the number of WireGuard's generic netlink family."""
    attrs = attribute(_IFNAME, ifname.encode() + b"\0") + attribute(_PRIVATE_KEY, private_key)
    attrs += attribute(_LISTEN_PORT, struct.pack("=H", port)) + attribute(_FLAGS, struct.pack("=I", _REPLACE_PEERS))
    listed = b"".join(attribute(_NESTED | number, _peer(peer)) for number, peer in enumerate(peers))
    attrs += attribute(_NESTED | _PEERS, listed)
    return message(family, NLM_F_REQUEST, _GENERIC.pack(_SET_DEVICE, _VERSION, 0) + attrs)


def _peer(peer: KernelPeer) -> bytes:
    attrs = attribute(_PEER_KEY, peer.public_key) + attribute(_PEER_FLAGS, struct.pack("=I", _REPLACE_ALLOWED))
    attrs += attribute(_PEER_PSK, peer.preshared_key)
    if peer.endpoint is not None:
        attrs += attribute(_PEER_ENDPOINT, _socket_address(*peer.endpoint))
    attrs += attribute(_PEER_KEEPALIVE, struct.pack("=H", peer.keepalive_s))
    prefixes = b""
    for number, prefix in enumerate(map(ip_network, peer.allowed)):
        family = socket.AF_INET if prefix.version == 4 else socket.AF_INET6
        one = attribute(_ALLOWED_FAMILY, struct.pack("=H", family))
        one += attribute(_ALLOWED_ADDRESS, prefix.network_address.packed)
        one += attribute(_ALLOWED_LENGTH, bytes([prefix.prefixlen]))
        prefixes += attribute(_NESTED | number, one)
    return attrs + attribute(_NESTED | _PEER_ALLOWED, prefixes)


def _socket_address(address: IPv4Address | IPv6Address, port: int) -> bytes:
    """Return a struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7))."""
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, address.packed)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, address.packed, 0)


class KernelDevice(Struct, frozen=True):
    """A WireGuard interface as the kernel reports it, without its private key."""

    public_key: bytes  # empty without a private key
    port: int
    peers: tuple[KernelPeer, ...]  # without preshared keys


def read_device(sock: socket.socket, ifname: str) -> KernelDevice:
    """Return what the kernel reports; `sock` is of NETLINK_GENERIC, in the interface's namespace. OSError."""
    payload = _GENERIC.pack(_GET_DEVICE, _VERSION, 0) + attribute(_IFNAME, ifname.encode() + b"\0")
    key, port, peers = b"", 0, dict[bytes, KernelPeer]()
    for _, found in dump(sock, _family(sock), payload):
        values = attribute_values(found, _GENERIC.size)
        key = values.get(_PUBLIC_KEY, key)
        (port,) = struct.unpack("=H", values[_LISTEN_PORT]) if _LISTEN_PORT in values else (port,)
        listed = values.get(_PEERS, b"")
        for _, offset, length in attributes(listed):  # a peer with many prefixes may come in several parts
            peer = attribute_values(listed[offset : offset + length])
            key_of_peer, allowed = peer[_PEER_KEY], tuple(_prefixes(peer.get(_PEER_ALLOWED, b"")))
            if (before := peers.get(key_of_peer)) is not None:
                peers[key_of_peer] = replace(before, allowed=(*before.allowed, *allowed))
                continue
            endpoint = _endpoint(peer[_PEER_ENDPOINT]) if _PEER_ENDPOINT in peer else None
            (keepalive_s,) = struct.unpack("=H", peer.get(_PEER_KEEPALIVE, b"\0\0"))
            peers[key_of_peer] = KernelPeer(key_of_peer, endpoint, allowed, keepalive_s)
    return KernelDevice(key, port, tuple(peers.values()))


def _endpoint(data: bytes) -> tuple[IPv4Address | IPv6Address, int]:
    """Return address and port of a struct sockaddr_in or sockaddr_in6."""
    (family,) = struct.unpack_from("=H", data)
    port, packed = struct.unpack_from("!H4s" if family == socket.AF_INET else "!H4x16s", data, 2)
    return ip_address(packed), port


def _prefixes(data: bytes) -> Iterable[str]:
    for _, offset, length in attributes(data):
        values = attribute_values(data[offset : offset + length])
        yield f"{ip_address(values[_ALLOWED_ADDRESS])}/{values[_ALLOWED_LENGTH][0]}"


def _family(sock: socket.socket) -> int:
    """Return the number of WireGuard's family. OSError: EOPNOTSUPP without it."""
    payload = _GENERIC.pack(_GET_FAMILY, 1, 0)
    for _, found in dump(sock, _CONTROLLER, payload):
        values = attribute_values(found, _GENERIC.size)
        if values.get(_FAMILY_NAME) == b"wireguard\0":
            return int(struct.unpack("=H", values[_FAMILY_ID])[0])
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
