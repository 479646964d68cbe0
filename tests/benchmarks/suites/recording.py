"""What a recording costs: a lab that is recorded, HTTP requests, and datagrams at the rate that a sender reaches."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack

from labctl.lab.client.handle import Lab
from labctl.timeline.events import Packet
from labctl.timeline.recording import Recording, RecordOptions
from tests.benchmarks.options import Options, progress
from tests.benchmarks.results import Section, Table, median, milliseconds, ratio, with_spread
from tests.labs import output, pair_plan

_SERVE = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(bytes(1000))
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8000), Answer).serve_forever()
"""
_GET = """
import http.client, socket, sys, time
for attempt in range(200):
    try: socket.create_connection(("server", 8000)).close(); break
    except ConnectionRefusedError: time.sleep(0.05)
began = time.perf_counter()
for _ in range(int(sys.argv[1])):
    connection = http.client.HTTPConnection("server", 8000)
    connection.request("GET", "/")
    connection.getresponse().read()
    connection.close()
print(time.perf_counter() - began)
"""
_FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("server", 5353))
data, send, count = bytes(22), sock.send, int(sys.argv[1])
began = time.perf_counter()
for _ in range(count):
    try: send(data)
    except OSError: count -= 1  # ECONNREFUSED, as nobody listens: this one was not sent
print(time.perf_counter() - began, count)
"""
_ECHO = """
import socket
with socket.create_server(("", 5000)) as listener:
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := sock.recv(64):
        sock.send(data)
"""
_ROUND_TRIPS = """
import socket, sys, time
while True:
    try: sock = socket.create_connection(("server", 5000)); break
    except ConnectionRefusedError: time.sleep(0.01)
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
recv, send = sock.recv, sock.send
for _ in range(1000): send(b"x"); recv(64)
began = time.perf_counter()
for _ in range(int(sys.argv[1])): send(b"x"); recv(64)
print(time.perf_counter() - began)
"""
NO_SAMPLES = RecordOptions(sample_interval_s=0, kernel=False)
TRACED = {
    "without a recording": None,
    "the kernel's events": RecordOptions(packets=False, sample_interval_s=0),
    "system calls of both programs": RecordOptions(packets=False, sample_interval_s=0, kernel=False, syscalls=("*",)),
}
LARGE = RecordOptions(sample_interval_s=0, kernel=False, limit_bytes=1 << 30)


def run(options: Options) -> Section:
    """Measure all three, each in turns with the same without a recording."""
    labs, requests, datagrams = (5, 100, 5000) if options.quick else (50, 10_000, 1_000_000)
    times = 1 if options.quick else 5
    plain, recorded = _labs(labs)
    tables = [
        Table(
            "A lab of two hosts, opened and closed",
            ("", "time", ""),
            (
                ("without a recording", with_spread(plain), ""),
                ("recorded", with_spread(recorded), ratio(median(recorded), median(plain))),
            ),
        )
    ]
    samples: dict[str, object] = {"lab_s": plain, "recorded_lab_s": recorded}
    progress(f"recording: {requests:,} requests, {times} times with each kind of recording")
    kinds = {
        "without a recording": None,
        "packets": NO_SAMPLES,
        "packets, kernel's events, samples of sockets": RecordOptions(),
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(times):
        for name, kind in kinds.items():
            taken[name].append(_requests(requests, kind))
    base = min(taken["without a recording"])  # how two processes share processors varies more than what is measured
    rows = tuple((name, milliseconds(min(each)), ratio(min(each), base)) for name, each in taken.items())
    title = f"{requests:,} HTTP requests, a connection for each; the least of {times} in turns"
    tables.append(Table(title, ("", "time", ""), rows))
    samples["requests_s"] = taken
    progress(f"recording: {requests:,} round trips, {times} times with each kind of recording")
    trips: dict[str, list[float]] = {name: [] for name in TRACED}
    for _ in range(times):
        for name, kind in TRACED.items():
            trips[name].append(_round_trips(requests, kind) / requests)
    base = min(trips["without a recording"])
    rows = tuple((name, f"{min(each) * 1e6:.1f} us", ratio(min(each), base)) for name, each in trips.items())
    tables.append(Table(f"A round trip of one byte over TCP; the least of {times} in turns", ("", "time", ""), rows))
    samples["round_trip_s"] = trips
    progress(f"recording: {datagrams:,} datagrams")
    tables.append(_flood(datagrams, samples))
    return Section("recording", "Recordings", tuple(tables), samples=samples)


def _labs(count: int) -> tuple[list[float], list[float]]:
    """The times of labs without and with a recording, in turns."""
    progress(f"recording: {count} labs")
    plan = pair_plan()

    def lab(kind: RecordOptions | None) -> float:
        began = time.perf_counter()
        with Lab.open(plan) as opened:
            if kind is not None:
                with Recording.start(opened, kind, plan=plan) as recording:
                    recording.wait_ready()
        return time.perf_counter() - began

    kinds = None, RecordOptions()
    for kind in (*kinds, *kinds):
        lab(kind)  # the processes that later labs share
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(count):
        for times, kind in zip(taken, kinds, strict=True):
            times.append(lab(kind))
    return taken


def _round_trips(count: int, kind: RecordOptions | None) -> float:
    """The time of so many round trips."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab.open(pair_plan()))
        if kind is not None:
            stack.enter_context(Recording.start(lab, kind, plan=pair_plan())).wait_ready()
        lab.spawn("server", [sys.executable, "-c", _ECHO]).close()
        return float(output(lab, "client", sys.executable, "-c", _ROUND_TRIPS, str(count)))


def _requests(count: int, kind: RecordOptions | None) -> float:
    """The time of so many requests."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab.open(pair_plan()))
        if kind is not None:
            stack.enter_context(Recording.start(lab, kind, plan=pair_plan())).wait_ready()
        lab.spawn("server", [sys.executable, "-c", _SERVE]).close()
        return float(output(lab, "client", sys.executable, "-c", _GET, str(count)))


def _flood(count: int, samples: dict[str, object]) -> Table:
    """Datagrams of 64 bytes as fast as one process sends them, seen at both hosts."""
    plan = pair_plan()
    with Lab.open(plan) as lab:

        def send() -> tuple[float, int]:
            took, sent = output(lab, "client", sys.executable, "-c", _FLOOD, str(count)).split()
            return float(took), int(sent)

        alone, _ = send()
        with Recording.start(lab, LARGE, plan=plan) as recording:
            recording.wait_ready()
            before = _cpu_s(recording._process.pid)
            together, sent = send()
            used = _cpu_s(recording._process.pid) - before
            timeline = recording.stop()
    seen = sum(isinstance(event, Packet) and event.header.protocol == "udp" for event in timeline.events)
    lost = sum(loss.count for loss in timeline.losses)
    samples["flood"] = {
        "count": count,
        "alone_s": alone,
        "recorded_s": together,
        "sent": sent,
        "seen": seen,
        "lost": lost,
    }
    rows = (
        ("packets a second, without a recording", f"{count / alone:,.0f}"),
        ("packets a second, recorded at both hosts", f"{count / together:,.0f}"),
        ("packets in the timeline", f"{seen:,} of {sent:,}"),
        ("packets that were lost", f"{lost:,}"),
        ("the recorder's CPU time for a packet at one host", f"{used / count / 2 * 1e6:.2f} us"),
    )
    return Table(f"{count:,} datagrams of 64 bytes", ("", ""), rows)


def _cpu_s(pid: int) -> float:
    """The CPU time of a process (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
