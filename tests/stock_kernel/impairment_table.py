"""Measure what links do against what was asked of them, and write the table of docs/impairments.md.

    python -m tests.stock_kernel.impairment_table            measure in QEMU, and write the table
    python -m tests.stock_kernel.impairment_table --here     measure on this kernel, which needs netem; print the rows

A share that depends on chance has the interval in which it falls in 999 of 1,000 runs.
"""

from __future__ import annotations

import math
import os
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from labctl.plan.operations import SetImpairment
from labctl.topology.impairments import parse_words
from tests.integration import networks
from tests.integration.inside import NetworkLab, enter_own_namespaces
from tests.measuring import transfer, udp_pair
from tests.patience import patient

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "impairments.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->"
HEADERS = ("asked for", "measured", "expected")
_SIGMAS = 3.29  # of a normal distribution: 99.9% are within
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 32, 33, 35  # asm-generic/socket.h
_TIMESPEC = struct.Struct("=qq")
_STAMP = struct.Struct("=Qq")  # number, nanoseconds


def lab(words: str) -> NetworkLab:
    """Make two hosts; `client` sends with this impairment."""
    return NetworkLab(*networks.pair(), SetImpairment("client", "eth0", parse_words(words.split()) or None))


def received(sock: socket.socket) -> tuple[int, float]:
    """Return a packet's number and its delay (ms), to when the kernel received it. TimeoutError."""
    data, ancillary, _, _ = sock.recvmsg(100, 100)
    number, sent_ns = _STAMP.unpack(data)
    ((_, _, time_spec),) = ancillary
    seconds, nanoseconds = _TIMESPEC.unpack(time_spec)
    return number, (seconds * 1_000_000_000 + nanoseconds - sent_ns) / 1e6


def delays_ms(words: str, count: int, pause_s: float) -> tuple[list[float], int, int]:
    """Send packets; return the delay of each that arrived, how many arrived twice and how many were overtaken."""
    found: dict[int, float] = {}
    twice = overtaken = latest = 0
    with lab(words) as made:
        one, other = udp_pair(made, "client", "server")
        with one, other:
            other.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
            other.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            stop = threading.Event()

            def receive() -> None:
                nonlocal twice, overtaken, latest
                other.settimeout(0.2)
                while not stop.is_set():
                    try:
                        number, delay_ms = received(other)
                    except TimeoutError:
                        continue
                    if number in found:
                        twice += 1
                        continue
                    found[number] = delay_ms
                    overtaken += number < latest
                    latest = max(latest, number)

            thread = threading.Thread(target=receive)
            thread.start()
            for number in range(count):
                one.send(_STAMP.pack(number, time.time_ns()))
                if pause_s:
                    stop.wait(pause_s)
            stop.wait(patient(0.5))
            stop.set()
            thread.join()
    return list(found.values()), twice, overtaken


def percentiles(values: Sequence[float]) -> str:
    cuts = statistics.quantiles(values, n=20)
    return ", ".join(f"{cuts[at]:.1f}" for at in (0, 4, 9, 14, 18)) + " ms"


def interval(count: int, share: float, inflation: float = 1.0) -> str:
    """Return the interval of a share of `count` packets; `inflation` is that of the variance by dependence."""
    half = _SIGMAS * math.sqrt(share * (1 - share) * inflation / count)
    return f"{share * 100:.2f}% ± {half * 100:.2f}%"


def row(words: str, measured: str, expected: str) -> None:
    sys.stdout.write(f"| `{words}` | {measured} | {expected} |\n")
    sys.stdout.flush()


def measure() -> None:
    """Print the rows of the table."""
    values, _, _ = delays_ms("", 1500, 0.003)
    row("nothing", f"delays of 5, 25, 50, 75, 95%: {percentiles(values)}", "what this machine adds to all others")
    with lab("") as made:
        done = transfer(made, "client", "server", 20_000_000)
    row("nothing", f"{done.wire_bit_s / 1e6:.0f} Mbit/s by TCP", "the most that this machine can do")
    words = "delay=40ms"
    values, _, _ = delays_ms(words, 200, 0.005)
    row(words, f"delay {statistics.median(values):.1f} ms (median), {min(values):.1f} ms (least)", "40 ms")
    for name, expected in (
        ("uniform", "50 ± 10 ms: 41.0, 45.0, 50.0, 55.0, 59.0 ms"),
        ("normal", "33.6, 43.3, 50.0, 56.7, 66.4 ms"),
        ("pareto", "43.6, 44.7, 46.8, 51.2, 66.2 ms"),
    ):
        words = f"delay=50ms jitter=10ms distribution={name}"
        values, _, _ = delays_ms(words, 1500, 0.003)
        row(words, f"delays of 5, 25, 50, 75, 95%: {percentiles(values)}", expected)
    for words, share, inflation in (
        ("loss=1%", 0.01, 1.0),
        ("loss=10%", 0.1, 1.0),
        ("corrupt=5%", 0.05, 1.0),
        ("gemodel=1%,10%", 1 / 11, (1 + 0.89) / (1 - 0.89)),
    ):
        count = 10_000
        values, _, _ = delays_ms(words, count, 0)
        row(words, f"{(count - len(values)) / count * 100:.2f}% of {count:,} lost", interval(count, share, inflation))
    values, twice, _ = delays_ms("duplicate=5%", 10_000, 0)
    row("duplicate=5%", f"{twice / 100:.2f}% of 10,000 arrived twice", interval(10_000, 0.05))
    words = "delay=20ms reorder=25%"
    values, _, _ = delays_ms(words, 2000, 0.001)
    early = sum(value < 10 for value in values) / len(values)
    row(words, f"{early * 100:.1f}% of {len(values):,} skipped the delay", interval(len(values), 0.25))
    for words in ("rate=2mbit", "rate=20mbit", "rate=20mbit delay=10ms loss=0.01%"):
        size = 1_000_000 if "=2mbit" in words else 6_000_000
        with lab(words) as made:
            done = transfer(made, "client", "server", size)
        row(
            words,
            f"{done.wire_bit_s / 1e6:.2f} Mbit/s by TCP",
            words.split()[0].removeprefix("rate=").replace("m", " M") + "/s",
        )
    for discipline, expected in (
        ("fifo", "200 ms, and losses"),
        ("codel", "less than fifo, but that flow does not slow down"),
        ("red", "50 ms, a quarter of the queue"),
        ("fq_codel", "far less than fifo: flows take turns"),
        ("cake", "far less than fifo: flows take turns"),
    ):
        loaded(f"rate=8mbit queue=200ms discipline={discipline}", expected)
    loaded("rate=8mbit queue=200ms discipline=fq_codel delay=30ms", "30 ms more")


def loaded(words: str, expected: str) -> None:
    with lab(words) as made:
        waits = loaded_ms(made)
    found = f"{statistics.median(waits):.0f} ms (median of {len(waits)} of 60)" if waits else "all lost"
    row(words, f"delay beside a flow of 12 Mbit/s: {found}", expected)


def loaded_ms(made: NetworkLab) -> list[float]:
    """Return the delays of single packets while another flow sends 1.5 times what an 8 Mbit/s link carries."""
    one, other = udp_pair(made, "client", "server")
    waits = []
    stop = threading.Event()

    def overload(sender: socket.socket) -> None:
        while not stop.wait(0.01):
            for _ in range(10):
                sender.send(bytes(1472))

    sender = made.socket("client", socket.AF_INET, socket.SOCK_DGRAM)
    sink = made.socket("server", socket.AF_INET, socket.SOCK_DGRAM)
    with one, other, sender, sink:
        sink.bind(("192.0.2.2", 0))
        sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 8 << 20)
        sender.connect(sink.getsockname())
        thread = threading.Thread(target=overload, args=(sender,))
        thread.start()
        stop.wait(1.5)  # the queue fills
        other.settimeout(1)
        other.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        for _ in range(60):
            one.send(_STAMP.pack(0, time.time_ns()))
            with suppress(TimeoutError):
                waits.append(received(other)[1])
            stop.wait(0.02)
        stop.set()
        thread.join()
    return waits


def write_table() -> None:
    """Measure in QEMU, and put the rows into the page. SystemExit if there are none."""
    command = [
        str(ROOT / "tests" / "stock_kernel" / "run"),
        "--exec",
        "python -m tests.stock_kernel.impairment_table --here",
    ]
    shown = subprocess.run(command, capture_output=True, text=True)
    load = os.getloadavg()[2]  # of 15 minutes
    rows = [line.strip() for line in shown.stdout.splitlines() if line.strip().startswith("| `")]
    kernel = next((line.split()[1].rstrip(":") for line in shown.stdout.splitlines() if line.startswith("== ")), "?")
    if not rows or shown.returncode:
        sys.exit(f"nothing was measured:\n{shown.stdout}{shown.stderr}")
    heads = [f"| {' | '.join(HEADERS)} |", "|---|---|---|"]
    text = (
        f"Measured on Debian's kernel {kernel}, emulated by QEMU without KVM on {os.cpu_count()} processors with other "
        f"work (load average {load:.1f}), and both ends in one process. This makes delays longer and rates lower; the "
        "first three rows tell how much.\n\n"
    )
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + text + "\n".join([*heads, *rows]) + "\n" + end + after)


if __name__ == "__main__":
    if "--here" in sys.argv:
        os.environ.setdefault("LABCTL_TESTS_SLOW", "3")
        enter_own_namespaces()
        measure()
    else:
        write_table()
