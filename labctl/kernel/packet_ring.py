"""Packets of all interfaces of a network namespace, as blocks of a ring that the kernel fills (packet(7), TPACKET_V3).

The kernel fills one block after the other, and gives a block to user space when it is full or has been open for
`RETIRE_MS`. `PacketRing` also takes the packets of the block that the kernel is still filling, so nobody waits for that
time. Nothing is decoded here: a block goes to a file as it is.

To make a ring takes a grace period of the kernel (RCU, some 10 ms). `PacketQueue` records at once: an ordinary packet
socket, whose packets cost 30 times as much to read. It makes the same blocks of them.

Layouts and numbers are those of linux/if_packet.h, which are the same on every architecture.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import CLOCK_REALTIME, clock_gettime_ns

from labctl.kernel import sockaddr, socket_calls
from labctl.kernel.socket_calls import FilterProgram
from labctl.unpatched import Socket

AF_PACKET = 17
ETH_P_ALL = socket.htons(3)  # linux/if_ether.h
SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_AUXDATA, PACKET_VERSION, PACKET_VNET_HDR = 5, 6, 8, 10, 15
TPACKET_V3 = 2
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 26, 33, 35  # asm-generic/socket.h
RETIRE_MS = 100
BLOCK_BYTES = 1 << 16
LARGE_BLOCK_BYTES = 1 << 18  # a packet with all of its payload may have 64 KiB and more (GSO)
FRAME_BYTES = 2048  # of no effect with TPACKET_V3, but checked
NEW_INTERFACES = 8  # that many indexes behind the highest known one are looked at

REQUEST = struct.Struct("=7I")  # struct tpacket_req3
BLOCK = struct.Struct("=8I")  # struct tpacket_block_desc: version, offset of private area, status, ...
STATUS_OFFSET, BLOCK_HEADER_BYTES = 8, 48
PACKET = struct.Struct("=6I")  # struct tpacket3_hdr: next, seconds, nanoseconds, captured, length, status
SENDER = struct.Struct("=HHiHBB8s")  # struct sockaddr_ll: family, protocol, interface, hardware, kind, address
AUXDATA = struct.Struct("=3I4H")  # struct tpacket_auxdata: status, length, captured, offsets, VLAN tag and type
VNET_HEADER_BYTES = 10
COUNTERS = struct.Struct("=3I")  # struct tpacket_stats_v3: packets with drops, drops, freezes
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1
PACKET_HEADER_BYTES = 48  # of struct tpacket3_hdr
PACKETS_PER_BLOCK = 128
UNSTAMPED_NS = 5_000_000  # a packet without a stamp gets the time of its reading
_REST = struct.Struct("=HHIIH10x")  # of struct tpacket3_hdr: offsets of packet and payload, hash, VLAN tag and type
_STATUS_AND_COUNT = struct.Struct("=II")
_STAMP = struct.Struct("=II")
_TIMESPEC = struct.Struct("@ll")
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_RETURN = 0x06  # BPF_RET | BPF_K
_LOAD_HALF, _LOAD_BYTE, _JUMP_IF_EQUAL = 0x28, 0x30, 0x15  # BPF_LD | BPF_ABS | BPF_H or BPF_B; BPF_JMP | BPF_JEQ
DHCP_BYTES = 400

Write = Callable[..., None]  # of (number of packets, parts of the block)


def accept(snap_bytes: int) -> bytes:
    """Return the program of a filter (bpf(4)) that takes the first `snap_bytes` of each packet; 0 for none."""
    return _INSTRUCTION.pack(_RETURN, 0, 0, snap_bytes)


def accept_headers(snap_bytes: int) -> bytes:
    """Return a program that takes the first `snap_bytes` of each packet, and `DHCP_BYTES` of those of DHCP.

    The kind of a DHCP message is among its options, which begin 282 bytes after the Ethernet header (RFC 2131).
    """
    if snap_bytes >= DHCP_BYTES:
        return accept(snap_bytes)
    instructions = (
        (_LOAD_HALF, 0, 0, 12),  # type of the Ethernet header
        (_JUMP_IF_EQUAL, 0, 5, 0x0800),
        (_LOAD_BYTE, 0, 0, 23),  # protocol of IPv4
        (_JUMP_IF_EQUAL, 0, 3, socket.IPPROTO_UDP),
        (_LOAD_HALF, 0, 0, 34),  # source port, without options of IPv4
        (_JUMP_IF_EQUAL, 2, 0, 67),
        (_JUMP_IF_EQUAL, 1, 0, 68),
        (_RETURN, 0, 0, snap_bytes),
        (_RETURN, 0, 0, DHCP_BYTES),
    )
    return b"".join(_INSTRUCTION.pack(*each) for each in instructions)


class _PacketSocket:
    """A packet socket with its filter and counters. Owns the socket; one thread at a time may use it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._rejects = False
        self.packets = self.drops = 0  # since the start, as `count` read them

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def reject(self) -> None:
        """Take no more packets. OSError."""
        self._attach(accept(0))
        self._rejects = True

    def _attach(self, program: bytes) -> None:
        held = FilterProgram(program)  # the kernel copies the instructions that it points to
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, held.raw)

    def count(self) -> None:
        """Read the kernel's counters into `packets` and `drops`."""
        packets, drops = COUNTERS.unpack_from(self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12).ljust(12))[:2]
        self.packets += packets
        self.drops += drops

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

    def _bind(self) -> None:
        """Receive packets of all interfaces from here on. OSError."""
        address = SENDER.pack(AF_PACKET, ETH_P_ALL, 0, 0, 0, 0, b"")
        bound = socket_calls.bind(self._socket.fileno(), address, len(address))
        if bound.errno:
            raise OSError(bound.errno, os.strerror(bound.errno))


class PacketRing(_PacketSocket):
    """The packets of one network namespace, in a ring."""

    def __init__(self, sock: socket.socket, ring_bytes: int, program: bytes, *, is_large: bool = False) -> None:
        """Take over `sock` (AF_PACKET, SOCK_RAW, protocol 0) and record from here on. OSError.

        This waits for a grace period of the kernel (RCU), some 10 ms; rings of several sockets can be made at the same
        time. `program` are the instructions of a filter that returns how many bytes of a packet to take.
        `is_large`: packets of more than 64 KiB fit in a block.
        """
        super().__init__(sock)
        self._block, self._taken, self._offset = 0, 0, 0  # the block to read next; packets and bytes of it that were
        block_bytes = LARGE_BLOCK_BYTES if is_large else BLOCK_BYTES
        if ring_bytes < 4 * block_bytes:
            block_bytes = max(mmap.PAGESIZE, ring_bytes // 4 // mmap.PAGESIZE * mmap.PAGESIZE)
        self._block_bytes = block_bytes
        self._blocks = max(2, ring_bytes // block_bytes)
        frames = block_bytes // FRAME_BYTES * self._blocks
        request = REQUEST.pack(block_bytes, self._blocks, FRAME_BYTES, frames, RETIRE_MS, 0, 0)
        try:
            self._attach(program)
            sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            # As a C function, for which ctypes releases the interpreter's lock: it waits for a grace period (RCU).
            made = socket_calls.setsockopt(sock.fileno(), SOL_PACKET, PACKET_RX_RING, request)
            if made.errno:
                raise OSError(made.errno, os.strerror(made.errno))
            self._ring = mmap.mmap(sock.fileno(), block_bytes * self._blocks)
            self._bind()
        except BaseException:
            sock.close()
            raise
        self._view = memoryview(self._ring)

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

    def skip_before(self, before_ns: int) -> None:
        """Leave out the packets with an earlier time stamp (CLOCK_REALTIME) that have arrived."""
        while True:
            base = self._block * self._block_bytes
            _, _, status, count, first, _, *_ = BLOCK.unpack_from(self._ring, base)
            offset = self._offset or first
            while self._taken < count:
                next_offset, seconds, nanoseconds, *_, packet_status = PACKET.unpack_from(self._ring, base + offset)
                is_complete = packet_status & TP_STATUS_USER
                if not is_complete or seconds * 1_000_000_000 + nanoseconds >= before_ns:
                    return
                self._taken += 1
                offset += next_offset
                self._offset = offset
            if not status & TP_STATUS_USER:
                return
            self._release(base)

    def _release(self, base: int) -> None:
        """Give the block back to the kernel."""
        # Until the kernel opens it again, `flush` reads its count.
        _STATUS_AND_COUNT.pack_into(self._ring, base + STATUS_OFFSET, TP_STATUS_KERNEL, 0)
        self._block = (self._block + 1) % self._blocks
        self._taken = self._offset = 0

    def _write(self, write: Write, base: int, count: int, start: int, end: int) -> None:
        with self._view[base : base + BLOCK_HEADER_BYTES] as descriptor, self._view[base + start : base + end] as part:
            header = bytearray(descriptor)
            BLOCK.pack_into(
                header, 0, *BLOCK.unpack_from(header)[:3],
                count, BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES + len(part), *BLOCK.unpack_from(header)[6:],
            )  # fmt: skip
            write(count, header, part)

    def close(self) -> None:
        """End the recording, which waits for the kernel as its start does. Idempotent."""
        self._view.release()
        if not self._ring.closed:
            self._ring.close()
        self._socket.close()


class PacketQueue(_PacketSocket):
    """The packets of one network namespace, in the receive queue of a socket."""

    def __init__(self, sock: socket.socket, buffer_bytes: int, program: bytes, snap_bytes: int) -> None:
        """Take over `sock` (AF_PACKET, SOCK_RAW, protocol 0) and record from here on. OSError.

        `program` takes at most `snap_bytes` of a packet. Time stamps are right if
         the kernel stamps packets already (`stamping_socket`).
        """
        super().__init__(sock)
        self._indexes: dict[str, int] = {}
        self._message_bytes = VNET_HEADER_BYTES + max(snap_bytes, DHCP_BYTES)
        try:
            self._attach(program)
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            try:
                sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
            except PermissionError:  # an ordinary user; net.core.rmem_max limits the buffer
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            sock.setblocking(False)
            self._bind()
        except BaseException:
            sock.close()
            raise

    def flush(self, write: Write, *, before_ns: int | None = None) -> int:
        """Give all packets that have arrived to `write`, as PacketRing does, and return their number.

        With `before_ns`, leave out those with a later time stamp (CLOCK_REALTIME).
        """
        received = list(self._receive())
        latest_ns = received[-1][0] if received else 0
        for index in range(len(received) - 1, -1, -1):  # a packet without a stamp has got the time of its reading
            latest_ns = min(received[index][0], latest_ns)
            received[index] = latest_ns, received[index][1]
        if before_ns is not None:
            received = [each for each in received if each[0] < before_ns]
        for first in range(0, len(received), PACKETS_PER_BLOCK):
            part = received[first : first + PACKETS_PER_BLOCK]
            packets = b"".join(_stamped(packet, stamp_ns) for stamp_ns, packet in part)
            length = BLOCK_HEADER_BYTES + len(packets)
            header = BLOCK.pack(TPACKET_V3, 0, TP_STATUS_USER, len(part), BLOCK_HEADER_BYTES, length, 0, 0)
            write(len(part), header.ljust(BLOCK_HEADER_BYTES, b"\0"), packets)
        return len(received)

    def _receive(self) -> Iterator[tuple[int, bytes]]:
        """Yield the packets that have arrived: time stamp, and struct tpacket3_hdr with what follows it."""
        began_ns = clock_gettime_ns(CLOCK_REALTIME)
        space = socket.CMSG_SPACE(16) + socket.CMSG_SPACE(AUXDATA.size)
        while True:
            try:
                data, ancillary, _, sender = self._socket.recvmsg(self._message_bytes, space)
            except BlockingIOError:
                return
            stamp_ns = 0
            status = length = tag = tag_type = 0
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                    seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                    stamp_ns = seconds * 1_000_000_000 + nanoseconds
                elif level == SOL_PACKET and kind == PACKET_AUXDATA:
                    status, length, _, _, _, tag, tag_type = AUXDATA.unpack_from(value)
            name, protocol, packet_kind, hardware, address = sender
            captured = len(data) - VNET_HEADER_BYTES
            size = PACKET_HEADER_BYTES + SENDER.size + len(data)
            padding = -size % 8
            yield stamp_ns, b"".join((
                PACKET.pack(size + padding, 0, 0, captured, length, status | TP_STATUS_USER),
                _REST.pack(size - captured, size - captured, 0, tag, tag_type),
                SENDER.pack(AF_PACKET, socket.htons(protocol), self._index(name), hardware, packet_kind, 6, address),
                data,
                bytes(padding),
            ))  # fmt: skip
            if not self._rejects and stamp_ns > began_ns + UNSTAMPED_NS:
                return  # others may arrive as fast as this reads them

    def _index(self, name: str) -> int:
        index = self._indexes.get(name)
        if index is None:
            try:
                index = sockaddr.interface_index(self._socket, name)
            except OSError:  # it has been removed since
                index = 0
            self._indexes[name] = index
        return index

    def close(self) -> None:
        """End the recording, which waits for the kernel. Idempotent."""
        self._socket.close()


def _stamped(packet: bytes, stamp_ns: int) -> bytes:
    """The struct tpacket3_hdr with its time stamp."""
    return packet[:4] + _STAMP.pack(*divmod(stamp_ns, 1_000_000_000)) + packet[12:]


def stamping_socket() -> socket.socket:
    """Make the kernel stamp packets when they arrive, as long as the caller keeps this socket open."""
    sock = Socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return sock
