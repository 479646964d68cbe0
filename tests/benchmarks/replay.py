"""Record what labctl sends to the kernel for a topology, for the C program to send the same (`build replay:FILE 0`).

    python -m tests.benchmarks.replay TOPOLOGY FILE        in namespaces of its own (container.py)

The network is built for real. The file has a header (struct header of limit.c), then records (struct record) with
their payloads: messages to one namespace that are sent together, sysctls as `path NUL value NUL`, and interfaces whose
carrier is brought up to date. Descriptors of namespaces in messages become FIRST_FD and the node's number.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

from labctl import topology
from labctl.kernel import link_state, namespaces, netlink
from labctl.kernel.netlink import (
    HEADER,
    IFINFO,
    IFLA_LINKINFO,
    IFLA_NET_NS_FD,
    RTM_NEWLINK,
    U32,
    attributes,
)
from labctl.kernel.rtnl import IFLA_INFO_DATA, NETNSA_FD, RTM_NEWNSID, VETH_INFO_PEER
from labctl.lab.keeper import executor
from labctl.lab.keeper.executor import execute
from labctl.lab.keeper.nodes import NodeTable
from labctl.plan.build import build
from labctl.plan.operations import AddAddress, MakeNode
from labctl.topology.model import NodeKind
from labctl.unpatched import Socket

FIRST_FD = 16  # as in limit.c
_HOME = -1
_HEADER = struct.Struct("=4sIII4s")
_RECORD = struct.Struct("=IiI")
_MESSAGES, _SYSCTL, _CARRIER = 1, 2, 3
_RTGENMSG = 4  # bytes of struct rtgenmsg, padded (linux/rtnetlink.h)
_SIOCGSKNS = 0x894C  # linux/sockios.h


class _Recorder:
    """Writes records of what the executor does; nodes are numbered in the order in which they are made."""

    def __init__(self, file: BinaryIO, nodes: NodeTable) -> None:
        self._file, self._nodes = file, nodes
        self._numbers: dict[int, int] = {}  # by descriptor
        self._inodes: dict[int, int] = {}

    def write(self, kind: int, namespace: int, payload: bytes) -> None:
        """Write a record for the network namespace that is open at `namespace`."""
        self._learn()
        node = self._inodes.get(os.fstat(namespace).st_ino, _HOME)
        self._file.write(_RECORD.pack(kind, node, len(payload)) + payload)

    def _learn(self) -> None:
        """Number the nodes that were made since the last record."""
        for number, name in list(enumerate(self._nodes))[len(self._numbers) :]:
            fd = self._nodes[name].fd
            self._numbers[fd] = self._inodes[os.fstat(fd).st_ino] = number

    def write_here(self, kind: int, payload: bytes) -> None:
        """Write a record for the calling thread's network namespace."""
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self.write(kind, namespace, payload)
        finally:
            os.close(namespace)

    def write_of(self, sock: socket.socket, kind: int, payload: bytes) -> None:
        """Write a record for the network namespace of the socket."""
        namespace = fcntl.ioctl(sock.fileno(), _SIOCGSKNS)
        try:
            self.write(kind, namespace, payload)
        finally:
            os.close(namespace)

    def renumbered(self, messages: bytes | bytearray) -> bytes:
        """Return the messages with the descriptors of nodes as the C program has them."""
        self._learn()
        data = bytearray(messages)
        peer = (IFLA_LINKINFO, IFLA_INFO_DATA, VETH_INFO_PEER)

        def renumber_at(offset: int) -> None:
            U32.pack_into(data, offset, FIRST_FD + self._numbers[U32.unpack_from(data, offset)[0]])

        def renumber(start: int, end: int, path: tuple[int, ...]) -> None:
            for type, offset, length in attributes(memoryview(data), start, end):
                if type == IFLA_NET_NS_FD and path in (peer, ()):
                    renumber_at(offset)
                elif path and type == path[0]:
                    renumber(offset + (0 if path[1:] else IFINFO.size), offset + length, path[1:])

        start = 0
        while start < len(data):
            length, type, *_ = HEADER.unpack_from(data, start)
            if type == RTM_NEWLINK:
                renumber(start + HEADER.size + IFINFO.size, start + length, peer)
            elif type == RTM_NEWNSID:
                for kind, offset, _ in attributes(memoryview(data), start + HEADER.size + _RTGENMSG, start + length):
                    if kind == NETNSA_FD:
                        renumber_at(offset)
            start += length + -length % 4
        return bytes(data)


def record(source: str | Path, path: Path) -> None:
    """Build the network of a file or a shape in this process, and record how. Raises what the executor raises."""
    plan = build(topology.load(source))
    nodes = NodeTable()
    with path.open("wb") as file:
        file.write(bytes(_HEADER.size))
        recorder = _Recorder(file, nodes)

        class RecordingSocket(Socket):
            def sendto(self, data: bytearray, address: tuple[int, int]) -> int:  # type: ignore[override]
                sent = super().sendto(data, address)
                recorder.write_of(self, _MESSAGES, recorder.renumbered(data))
                return sent

        def write_sysctl(key: str, value: str) -> None:
            original_write(key, value)
            recorder.write_here(_SYSCTL, f"/proc/sys/{key.replace('.', '/')}\0{value}\0".encode())

        def has_carrier(sock: socket.socket, ifname: str) -> bool:
            recorder.write_of(sock, _CARRIER, f"{ifname}\0".encode())
            return original_carrier(sock, ifname)

        original_write, original_carrier = namespaces.write_sysctl, link_state.has_carrier
        with (
            patch.object(netlink, "Socket", RecordingSocket),
            patch.object(namespaces, "write_sysctl", write_sysctl),
            patch.object(executor, "write_sysctl", write_sysctl),
            patch.object(link_state, "has_carrier", has_carrier),
        ):
            execute(plan.operations, nodes)
        made = [operation for operation in plan.operations if isinstance(operation, MakeNode)]
        hosts = [number for number, operation in enumerate(made) if operation.kind is NodeKind.HOST]
        addresses = [
            operation.address.ip.packed
            for operation in plan.operations
            if isinstance(operation, AddAddress) and operation.node == made[hosts[-1]].node
        ]
        file.seek(0)
        file.write(_HEADER.pack(b"LABR", len(made), hosts[0], hosts[-1], min(addresses, key=len)))


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
