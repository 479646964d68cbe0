"""The tracer on the real kernel: what it follows, what it loses, and that nothing of it stays."""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from labctl.errors import MachineError
from labctl.kernel import bpf, libbpf
from labctl.kernel.bpf import Tracer
from labctl.kernel.bpf_records import Kind, split
from tests import skips
from tests.integration.inside import inside
from tests.patience import patient
from tests.tracing import for_root, needs_bpf

pytestmark = pytest.mark.stock_kernel


def own_network() -> int:
    return os.stat("/proc/self/ns/net").st_ino


def listen(times: int = 1) -> None:
    """Two changes of state each time."""
    for _ in range(times):
        with socket.socket() as sock:
            sock.listen()


def kinds(tracer: Tracer) -> list[int]:
    return [kind for records in tracer.drain().values() for kind, _ in split(b"".join(records))]


@for_root
@needs_bpf
@inside
def test_only_namespaces_that_are_followed_give_records() -> None:
    with Tracer() as tracer:
        listen()
        assert kinds(tracer) == []
        tracer.follow([own_network()])
        listen()
        assert kinds(tracer) == [Kind.STATE, Kind.STATE]
        tracer.forget([own_network()])
        listen()
        assert kinds(tracer) == []


@for_root
@needs_bpf
@inside
def test_records_that_find_the_ring_full_are_counted() -> None:
    with Tracer(ring_bytes=4096) as tracer:
        tracer.follow([own_network()])
        listen(100)
        read = len(kinds(tracer))
        assert 0 < read < 200
        assert tracer.lost() == 200 - read


@for_root
@needs_bpf
@inside
def test_the_ring_wraps_around() -> None:
    with Tracer(ring_bytes=4096) as tracer:
        tracer.follow([own_network()])
        for _ in range(200):
            listen()
            assert kinds(tracer) == [Kind.STATE, Kind.STATE]
        assert tracer.lost() == 0


@for_root
@needs_bpf
@inside
def test_the_descriptor_is_readable_when_a_quarter_of_the_ring_is_full() -> None:
    with Tracer(ring_bytes=8192) as tracer, select.epoll() as poller:
        poller.register(tracer.fileno(), select.EPOLLIN | select.EPOLLET)
        poller.poll(0)
        tracer.follow([own_network()])
        listen()
        assert poller.poll(0) == []
        listen(12)
        assert poller.poll(10) != []


@for_root
@needs_bpf
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_program_outlives_the_process_that_loaded_it(number: signal.Signals) -> None:
    source = "import signal; from labctl.kernel.bpf import Tracer; t = Tracer(); print(flush=True); signal.pause()"
    holder = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    with holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            programs = programs_of(holder.pid)
        finally:
            holder.send_signal(number)
    assert len(programs) == len(bpf.EVENT_PROGRAMS)
    until = monotonic() + patient(10.0)
    while programs & loaded():  # the kernel frees them a moment later
        assert monotonic() < until


def programs_of(pid: int) -> set[int]:
    """The numbers of the programs that a process holds by descriptor."""
    infos = [info.read_text() for info in Path(f"/proc/{pid}/fdinfo").iterdir()]
    return {int(number) for info in infos for number in re.findall(r"^prog_id:\t([0-9]+)$", info, re.MULTILINE)}


def loaded() -> set[int]:
    """The numbers of all programs on the machine."""
    library, number, found = ctypes.CDLL(libbpf.LIBRARY), ctypes.c_uint32(0), set()
    while library.bpf_prog_get_next_id(number, ctypes.byref(number)) == 0:
        found.add(number.value)
    return found


@skips.for_ordinary_users("they may not load BPF programs")
def test_an_ordinary_user_reads_which_privilege_is_missing() -> None:
    with pytest.raises(MachineError, match=r"BPF: CAP_BPF"):
        Tracer()


@for_root
def test_a_machine_without_the_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "LIBRARY", "libbpf.so.none")
    libbpf._libbpf.cache_clear()
    try:
        with pytest.raises(MachineError, match=r"BPF: .* is not installed\. Try: sudo apt-get install"):
            Tracer()
    finally:
        libbpf._libbpf.cache_clear()
