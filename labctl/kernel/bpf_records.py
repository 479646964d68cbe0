"""The records of labctl's BPF programs (kernel/bpf_programs), in memory as the programs write them.

A record begins with RECORD: its length (a multiple of 8), its kind, the inode number of the network namespace, and
CLOCK_MONOTONIC in nanoseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

RECORD = struct.Struct("=HHIQ")  # struct header
SOCKET_RECORD = struct.Struct("=16xQQ16s16sHHHBB8I")  # struct socket_record
CALL_RECORD = struct.Struct("=16xQqQQIIHHI16s6Q16x")  # struct call_record; parts follow
PART = struct.Struct("=HBxI")  # struct part: bytes, what, and how many bytes there were; the bytes follow, padded to 8
DROP_RECORD = struct.Struct("=16xQIIHHBBBxIII16s40s128s")  # struct drop_record


class Kind(IntEnum):
    """Kinds of records; the same numbers as in tracer.bpf.c."""

    STATE = 1
    RETRANSMIT = 2
    RESET_SENT = 3
    RESET_RECEIVED = 4
    DROP = 5
    CALL = 6
    ACCEPT_QUEUE = 7  # of a listener, when a connection to it is established


class SocketFields(NamedTuple):
    """SOCKET_RECORD, of a TCP socket or a connection request; addresses as in packets, IPv4 in the first four bytes."""

    cookie: int  # SO_COOKIE; 0: not given yet
    inode: int  # 0: no descriptor refers to the socket
    local: bytes
    peer: bytes
    local_port: int
    peer_port: int
    family: int
    state: int  # before the event
    new_state: int
    receive_queue: int  # of a listener: its accept queue
    send_queue: int  # of a listener: the limit of its accept queue
    receive_buffer: int
    send_buffer: int
    congestion_window: int
    srtt_us8: int  # smoothed round trip time in eighths of a microsecond
    retransmits: int
    reason: int  # of a reset: enum sk_rst_reason; of a state: the socket's error


class DropFields(NamedTuple):
    """DROP_RECORD, of a packet that a node dropped."""

    cookie: int
    reason: int  # enum skb_drop_reason
    length: int  # of the packet from `frame` on
    protocol: int  # of Ethernet
    captured: int  # bytes in `frame`
    has_ethernet: int  # whether `frame` begins with the Ethernet header, and not with that of IP
    has_route: int
    is_route_local: int  # the packet is for this node
    interface: int  # index; 0: none yet, on its way out
    arrived_on: int  # index of an interface; 0: it was made here
    route_interface: int
    interface_name: bytes
    location: bytes  # symbol of the kernel function
    frame: bytes


class CallFields(NamedTuple):
    """CALL_RECORD, of a system call."""

    until_ns: int  # 0: it has not returned
    result: int
    inode: int  # of the socket that the call names, or returns; 0: none
    cookie: int  # 0: not given yet
    pid: int  # as the program sees it
    tid: int
    number: int
    is_forked: int  # the process has executed no program since fork(2) made it
    length_before: int  # what the layout's `value_result` pointed to at the entry
    program: bytes
    a0: int  # arguments, unsigned
    a1: int
    a2: int
    a3: int
    a4: int
    a5: int


class PartOf(IntEnum):
    """Parts of a call's memory; smaller numbers are indexes of the layout's regions."""

    ENTRY = 16  # the region that is read at the entry
    NAME = 17  # msg_name of a struct msghdr
    VECTORS = 18  # struct iovec[]
    DATA = 19  # of one of these


def split(records: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the bytes of each of several records in a row."""
    offset = 0
    while offset < len(records):
        length, kind, _, _ = RECORD.unpack_from(records, offset)
        yield kind, records[offset : offset + length]
        offset += length
