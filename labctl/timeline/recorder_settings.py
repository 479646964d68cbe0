"""The owner's settings for the recorder: values that both processes share."""

from __future__ import annotations

from labctl.structs import Struct


class PacketSettings(Struct, frozen=True, array_like=True):
    """What to record of the packets of each node."""

    ring_bytes: int
    snap_bytes: int  # of each packet
    program: str  # the filter (labctl.kernel.packet_filter), in hexadecimal; "" for none
    is_whole: bool  # packets may have 64 KiB and more


class Settings(Struct, frozen=True, array_like=True):
    """What to record of a lab."""

    limit_bytes: int  # of the spool
    packets: PacketSettings
    sample_interval_ns: int  # of sockets; 0: never
