"""Measurements of a link, with both sockets in this process and on one clock."""

from __future__ import annotations

import math
import socket
import subprocess
import threading
import time
from dataclasses import dataclass

from tests.integration.inside import NetworkLab
from tests.patience import patient

CLIENT, SERVER = "192.0.2.1", "192.0.2.2"  # of networks.pair()
ADDRESSES = {"client": CLIENT, "server": SERVER}
MARKER = b"the last one"
_CHUNK = 20  # packets that are sent at once: they fit any receive buffer


def udp_pair(lab: NetworkLab, sender: str, receiver: str) -> tuple[socket.socket, socket.socket]:
    """Connect two sockets on two hosts with permanent neighbour entries, because ARP is impaired, too."""
    _know(lab, sender, receiver)
    one = lab.socket(sender, socket.AF_INET, socket.SOCK_DGRAM)
    other = lab.socket(receiver, socket.AF_INET, socket.SOCK_DGRAM)
    other.settimeout(patient(20))
    other.bind((ADDRESSES[receiver], 0))
    one.bind((ADDRESSES[sender], 0))
    one.connect(other.getsockname())
    other.connect(one.getsockname())
    return one, other


def _know(lab: NetworkLab, *nodes: str) -> None:
    macs = {}
    for node in nodes:
        with lab.nodes.entered(node):
            shown = subprocess.run(["ip", "-br", "link", "show", "eth0"], check=True, capture_output=True, text=True)
        macs[node] = shown.stdout.split()[2]
    for node in nodes:
        for other in nodes:
            if other != node:
                entry = ["to", ADDRESSES[other], "lladdr", macs[other], "dev", "eth0", "nud", "permanent"]
                with lab.nodes.entered(node):
                    subprocess.run(["ip", "neigh", "replace", *entry], check=True)


def one_way_s(lab: NetworkLab, sender: str, receiver: str, count: int) -> list[float]:
    """Return the delay of each of `count` packets, sent one after the other."""
    taken = []
    one, other = udp_pair(lab, sender, receiver)
    with one, other:
        for number in range(count):
            began = time.monotonic()
            one.send(str(number).encode())
            assert other.recv(100) == str(number).encode()
            taken.append(time.monotonic() - began)
    return taken


@dataclass(frozen=True, slots=True)
class Sent:
    """The number of packets sent, and those that arrived."""

    count: int
    arrived: frozenset[int]

    @property
    def lost(self) -> int:
        return self.count - len(self.arrived)


def sent_through(lab: NetworkLab, sender: str, receiver: str, count: int) -> Sent:
    """Send `count` packets in order over a link without delay."""
    one, other = udp_pair(lab, sender, receiver)
    arrived: set[int] = set()
    with one, other:
        other.setblocking(False)
        for first in range(0, count, _CHUNK):
            for number in range(first, min(first + _CHUNK, count)):
                one.send(number.to_bytes(4, "big"))
            _drain(other, arrived)
        # Packets of a link without delay are delivered before send(2) returns, or by this CPU soon after it.
        until = time.monotonic() + patient(0.3)
        while time.monotonic() < until:
            _drain(other, arrived)
    return Sent(count, frozenset(arrived))


def _drain(sock: socket.socket, arrived: set[int]) -> None:
    while True:
        try:
            arrived.add(int.from_bytes(sock.recv(100), "big"))
        except BlockingIOError:
            return


def binomial_bounds(count: int, probability: float, improbable: float = 1e-9) -> tuple[int, int]:
    """Return the bounds of the number of successes, outside which it falls with that probability on either side."""
    logs = (
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(probability) + (count - k) * math.log1p(-probability)
        for k in range(count + 1)
    )  # fmt: skip
    chances = [math.exp(one) for one in logs]
    low, below = 0, chances[0]
    while below < improbable:
        low += 1
        below += chances[low]
    high, above = count, chances[count]
    while above < improbable:
        high -= 1
        above += chances[high]
    return low, high


@dataclass(frozen=True, slots=True)
class Transfer:
    """A TCP transfer's size and its duration, from before the first byte was sent."""

    size: int
    taken_s: float

    @property
    def wire_bit_s(self) -> float:
        """With the headers of full packets of 1500 bytes: 1448 of 1514 bytes are the program's."""
        return self.size * 8 / self.taken_s * 1514 / 1448


def transfer(lab: NetworkLab, sender: str, receiver: str, size: int) -> Transfer:
    """Send bytes over a new TCP connection."""
    with (
        lab.socket(receiver, socket.AF_INET, socket.SOCK_STREAM) as listener,
        lab.socket(sender, socket.AF_INET, socket.SOCK_STREAM) as one,
    ):
        for sock in (listener, one):
            sock.settimeout(patient(30))
        listener.bind((ADDRESSES[receiver], 0))
        listener.listen(1)
        one.connect(listener.getsockname())
        other, _ = listener.accept()
        with other:
            other.settimeout(patient(30))
            return over(one, other, size)


def over(one: socket.socket, other: socket.socket, size: int) -> Transfer:
    """Send bytes over an open connection."""
    began = time.monotonic()
    thread = threading.Thread(target=one.sendall, args=(bytes(size),))
    thread.start()
    received = 0
    try:
        while received < size:
            data = other.recv(1 << 20)
            assert data, f"the connection ended after {received} bytes"
            received += len(data)
    finally:
        taken = time.monotonic() - began
        if received < size:
            one.close()
        thread.join()
    return Transfer(size, taken)
