"""Packets that wait for a processor (/proc/net/softnet_stat).

What one end of a veth sends is in a queue of the processor until a softirq delivers it to the other end. On a busy
machine, or when a hypervisor has taken the processor away, that takes a while.
"""

from __future__ import annotations

import select

from labctl.clock import monotonic

STATISTICS = "/proc/net/softnet_stat"  # of all network namespaces; a line of hexadecimal numbers per processor
_WAITING = 11  # the column with the length of the queue, since Linux 5.10 (net/core/net-procfs.c)
_PAUSE_MS = 2


def waiting_packets(statistics: str) -> int:
    """Return how many packets wait, by what STATISTICS contains; 0 if the kernel does not report it."""
    rows = (line.split() for line in statistics.splitlines())
    return sum(int(row[_WAITING], 16) for row in rows if len(row) > _WAITING)


def await_delivery(within_s: float) -> bool:
    """Wait until no packet waits for a processor; return whether that was so within the time."""
    until = monotonic() + within_s
    while are_waiting():
        if monotonic() >= until:
            return False
        select.poll().poll(_PAUSE_MS)
    return True


def are_waiting() -> bool:
    """Return whether packets wait for a processor now."""
    try:
        with open(STATISTICS, encoding="ascii") as file:
            return waiting_packets(file.read()) > 0
    except OSError:  # /proc is not mounted
        return False
