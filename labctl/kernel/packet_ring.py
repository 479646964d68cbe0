"""Packets of all interfaces of a network namespace, in a ring that the kernel fills (packet(7), TPACKET_V3).

The kernel fills one block after the other, and gives a block to user space when it is full or has been open for
`RETIRE_MS`. `PacketRing` also takes the packets of the block that the kernel is still filling, so nobody waits for that
time. Nothing is decoded here: a block goes to a file as it is.

Layouts and numbers are those of linux/if_packet.h, which are the same on every architecture.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress

from labctl.kernel import sockaddr
from labctl.kernel.socket_calls import FilterProgram

AF_PACKET = 17
ETH_P_ALL = socket.htons(3)  # linux/if_ether.h; the protocol with which the socket is made
SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_VNET_HDR = 5, 6, 10, 15
TPACKET_V3 = 2
SO_ATTACH_FILTER = 26  # asm-generic/socket.h
RETIRE_MS = 100
BLOCK_BYTES = 1 << 16
LARGE_BLOCK_BYTES = 1 << 18  # a packet with all of its payload may have 64 KiB and more (GSO)
FRAME_BYTES = 2048  # of no effect with TPACKET_V3, but checked
NEW_INTERFACES = 8  # that many indexes behind the highest known one are looked at

REQUEST = struct.Struct("=7I")  # struct tpacket_req3
BLOCK = struct.Struct("=8I")  # struct tpacket_block_desc: version, offset of private area, status, ...
STATUS_OFFSET, BLOCK_HEADER_BYTES = 8, 48
PACKET = struct.Struct("=6I")  # struct tpacket3_hdr: next, seconds, nanoseconds, captured, length, status
COUNTERS = struct.Struct("=3I")  # struct tpacket_stats_v3: packets with drops, drops, freezes
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1
_STATUS_AND_COUNT = struct.Struct("=II")
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_RETURN = 0x06  # BPF_RET | BPF_K

Write = Callable[..., None]  # of (number of packets, parts of the block)


def accept(snap_bytes: int) -> bytes:
    """Return the program of a filter (bpf(4)) that takes the first `snap_bytes` of each packet; 0 for none."""
    return _INSTRUCTION.pack(_RETURN, 0, 0, snap_bytes)


class PacketRing:
    """The packets of one network namespace. Owns the socket; one thread at a time may use it."""

    def __init__(self, sock: socket.socket, ring_bytes: int, program: bytes, *, is_large: bool = False) -> None:
        """Take over `sock` (AF_PACKET, SOCK_RAW, ETH_P_ALL) and record from here on. OSError.

        This waits for a grace period of the kernel (RCU), some 10 ms; rings of several sockets can be made at the same
        time. `program` are the instructions of a filter that returns how many bytes of a packet to take.
        `is_large`: packets of more than 64 KiB fit in a block.
        """
        self._socket = sock
        self._block, self._taken, self._offset = 0, 0, 0  # the block to read next; packets and bytes of it that were
        self.packets = self.drops = 0  # since the start, as `count` read them
        block_bytes = LARGE_BLOCK_BYTES if is_large else BLOCK_BYTES
        if ring_bytes < 4 * block_bytes:
            block_bytes = max(mmap.PAGESIZE, ring_bytes // 4 // mmap.PAGESIZE * mmap.PAGESIZE)
        self._block_bytes = block_bytes
        self._blocks = max(2, ring_bytes // block_bytes)
        frames = block_bytes // FRAME_BYTES * self._blocks
        request = REQUEST.pack(block_bytes, self._blocks, FRAME_BYTES, frames, RETIRE_MS, 0, 0)
        try:
            self.attach(program)
            sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sock.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
            self._ring = mmap.mmap(sock.fileno(), block_bytes * self._blocks)
        except BaseException:
            sock.close()
            raise
        self._view = memoryview(self._ring)

    def fileno(self) -> int:
        """The socket: readable when a block is ready."""
        return self._socket.fileno()

    def attach(self, program: bytes) -> None:
        """Replace the filter; it holds for packets from here on. OSError."""
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, FilterProgram(program).raw)

    def drain(self, write: Write) -> None:
        """Give all blocks that are ready to `write`, and then back to the kernel.

        `write(count, *parts)` is called with a block: `parts` together are a struct tpacket_block_desc and `count`
        packets. They are valid during the call only.
        """
        while True:
            base = self._block * self._block_bytes
            _, _, status, count, first, length, *_ = BLOCK.unpack_from(self._ring, base)
            if not status & TP_STATUS_USER:
                return
            if count > self._taken:
                self._write(write, base, count - self._taken, self._offset or first, length)
            _STATUS_AND_COUNT.pack_into(
                self._ring, base + STATUS_OFFSET, TP_STATUS_KERNEL, 0
            )  # `flush` reads the count
            self._block = (self._block + 1) % self._blocks
            self._taken = self._offset = 0

    def flush(self, write: Write) -> None:
        """Do the same, and also give to `write` the packets of the block that the kernel is filling."""
        self.drain(write)
        base = self._block * self._block_bytes
        _, _, status, count, first, _, *_ = BLOCK.unpack_from(self._ring, base)
        if status & TP_STATUS_USER:  # it has been filled meanwhile
            self.drain(write)
            return
        start = end = self._offset or first
        complete = self._taken
        while complete < count:
            next_offset, *_, packet_status = PACKET.unpack_from(self._ring, base + end)
            if not packet_status & TP_STATUS_USER:  # being copied
                break
            complete += 1
            end += next_offset or self._block_bytes  # the block has been closed meanwhile: the last one has no next
        end = min(end, BLOCK.unpack_from(self._ring, base)[5])
        if complete > self._taken:
            self._write(write, base, complete - self._taken, start, end)
            self._taken, self._offset = complete, end

    def _write(self, write: Write, base: int, count: int, start: int, end: int) -> None:
        with self._view[base : base + BLOCK_HEADER_BYTES] as descriptor, self._view[base + start : base + end] as part:
            header = bytearray(descriptor)
            BLOCK.pack_into(
                header, 0, *BLOCK.unpack_from(header)[:3],
                count, BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES + len(part), *BLOCK.unpack_from(header)[6:],
            )  # fmt: skip
            write(count, header, part)

    def count(self) -> bool:
        """Read the kernel's counters into `packets` and `drops`; whether there were new drops."""
        packets, drops, _ = COUNTERS.unpack(self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, COUNTERS.size))
        self.packets += packets
        self.drops += drops
        return bool(drops)

    def interfaces(self, names: Iterable[str]) -> dict[int, str]:
        """Return the names of these interfaces and of some that programs have made later, by index."""
        found: dict[int, str] = {}
        for name in names:
            with suppress(OSError):  # ENODEV
                found[sockaddr.interface_index(self._socket, name)] = name
        last = max(found, default=0)
        for index in range(last + 1, last + 1 + NEW_INTERFACES):
            with suppress(OSError):
                found[index] = sockaddr.interface_name(self._socket, index)
        return found

    def close(self) -> None:
        """End the recording, which waits for the kernel as its start does. Idempotent."""
        self._view.release()
        if not self._ring.closed:
            self._ring.close()
        self._socket.close()
