"""`labctl trace` on a running lab: with a command, for a duration, live, and to files."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from labctl.cli import trace as trace_module
from labctl.cli.trace import trace
from labctl.lab.client.handle import Lab
from tests.e2e.command import LABCTL, TIMEOUT_S
from tests.integration.detached import running
from tests.labs import output
from tests.skips import for_root
from tests.tracing import without_library

SERVER = (
    "import socket; s = socket.create_server(('', 5000)); print('up', flush=True)\nwhile True: s.accept()[0].recv(9)"
)
CLIENT = "import socket; c = socket.create_connection(('10.0.0.2', 5000)); c.sendall(b'hello'); print('sent')"


def labctl(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LABCTL, *words], capture_output=True, text=True, timeout=TIMEOUT_S, **options)


def started(name: str) -> None:
    """Start the server, and return when it listens."""
    with Lab.attach(name) as lab:
        lab.start_process("server", [sys.executable, "-I", "-S", "-c", SERVER], name="server")
        until = time.monotonic() + TIMEOUT_S
        while b"up" not in lab.read_log("server", "server"):
            assert time.monotonic() < until


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_command_s_calls_and_packets_are_shown_and_its_output_and_status_are_its_own(tmp_path: Path) -> None:
    with running() as name:
        started(name)
        files = [f"--json={tmp_path}/t.json", f"--html={tmp_path}/t.html", f"--pcap={tmp_path}/t.pcapng"]
        script = f"{CLIENT}; raise SystemExit(7)"
        ran = labctl("trace", name, "client", *files, "--", sys.executable, "-I", "-S", "-c", script)
    assert (ran.returncode, ran.stdout) == (7, "sent\n"), ran.stderr
    for shown in ("connect(3, 10.0.0.2:5000)", 'sendto(3, "hello", 5', "SYN"):
        assert shown in ran.stderr
    assert max(len(line) for line in ran.stderr.splitlines() if not line.startswith("wrote ")) <= 80
    events = json.loads((tmp_path / "t.json").read_text())["events"]
    assert {"Call", "Packet"} <= {event["type"] for event in events}
    assert (tmp_path / "t.html").stat().st_size > 10_000
    assert (tmp_path / "t.pcapng").read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"


@for_root("ordinary users' calls are traced by strace anyway")
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_without_libbpf_strace_traces_the_command_of_root(tmp_path: Path) -> None:
    with running() as name:
        started(name)
        env = os.environ | without_library("libbpf.so.1", tmp_path)
        words = ("trace", name, "client", f"--json={tmp_path}/t.json", "--", sys.executable, "-I", "-S", "-c", CLIENT)
        ran = labctl(*words, env=env)
        others = labctl("trace", name, "--for", "1ms", env=env)
    assert (ran.returncode, ran.stdout) == (0, "sent\n"), ran.stderr
    timeline = json.loads((tmp_path / "t.json").read_text())
    assert "connect" in {event["name"] for event in timeline["events"] if event["type"] == "Call"}
    assert {what.partition(": ")[2] for what in timeline["missing"]} == {
        "libbpf.so.1 is not installed. Try: sudo apt-get install libbpf1"
    }
    assert trace_module.CALLS_OF_RUNNING_PROGRAMS in " ".join(others.stdout.split())


def test_packets_of_a_lab_are_shown_live_until_ctrl_c() -> None:
    with running() as name:
        started(name)
        tracing = subprocess.Popen([LABCTL, "trace", name, "-f"], stdout=subprocess.PIPE)
        assert tracing.stdout is not None
        shown = b""
        until = time.monotonic() + TIMEOUT_S
        with Lab.attach(name) as lab, selectors.DefaultSelector() as selector:
            selector.register(tracing.stdout, selectors.EVENT_READ)
            while b"SYN" not in shown and time.monotonic() < until:  # a connection may be before the recording
                with contextlib.closing(lab.spawn("client", [sys.executable, "-I", "-S", "-c", CLIENT])) as process:
                    assert process.wait(TIMEOUT_S) == 0
                if selector.select(0):
                    shown += os.read(tracing.stdout.fileno(), 65536)
        assert b"SYN" in shown
        tracing.send_signal(signal.SIGINT)
        tracing.communicate(timeout=TIMEOUT_S)
    assert tracing.returncode == 0
    ended = labctl("trace", name, "--for", "1ms")
    assert ended.returncode == 125
    assert "no lab" in ended.stderr.lower()


def test_what_cannot_be_recorded_is_named_and_that_nothing_happened(capsys: pytest.CaptureFixture[str]) -> None:
    with running() as name:
        assert trace(["server"], (), name, "1ms", False, "tcp port 1", None, None, None, None, None) == 0
    out, err = capsys.readouterr()
    shown = " ".join(out.split())
    assert f"lab {name}: no calls or packets while it was recorded" in err
    assert (trace_module.CALLS_OF_RUNNING_PROGRAMS in shown) is (os.geteuid() != 0), shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--", "true"], "the command needs one node to run on"),
        (["client", "server", "--", "true"], "the command needs one node to run on"),
        (["clien"], "has no node clien; did you mean client?"),
        (["--for", "soon"], "`soon` is not a duration"),
        (["--filter", "tcp port ("], "can't parse filter expression"),
        (["--html", "/nowhere/t.html"], "--html /nowhere/t.html: no directory /nowhere"),
    ],
)
def test_a_bad_command_line_is_refused_before_anything_is_recorded(words: list[str], message: str) -> None:
    with running() as name:
        refused = labctl("trace", "--lab", name, *words)
    assert (refused.returncode, refused.stdout) == (125, "")
    assert message in " ".join(refused.stderr.split())


def test_a_missing_command_is_reported_as_by_exec() -> None:
    with running() as name:
        refused = labctl("trace", name, "client", "--", "no-such-program")
    assert refused.returncode == 127
    assert "cannot run no-such-program: ENOENT" in refused.stderr


def test_a_node_s_packets_arrive_at_nodes_that_were_not_named_and_others_are_left_out(tmp_path: Path) -> None:
    with running() as name, Lab.attach(name) as lab:
        file = tmp_path / "t.json"
        tracing = subprocess.Popen([LABCTL, "trace", name, "client", "-f", f"--json={file}"], stdout=subprocess.PIPE)
        assert tracing.stdout is not None
        with tracing, selectors.DefaultSelector() as selector:
            selector.register(tracing.stdout, selectors.EVENT_READ)
            until = time.monotonic() + TIMEOUT_S
            while not selector.select(0.05):  # until something of it is drawn
                assert time.monotonic() < until
                output(lab, "server", "ping", "-c1", "-w10", "10.0.0.1")
            tracing.send_signal(signal.SIGINT)
        events = json.loads(file.read_text())["events"]
    echoes = [event for event in events if event["type"] == "Packet" and "echo" in event["header"]["summary"]]
    assert {(event["host"], event["receiver"]) for event in echoes} == {("server", "client"), ("client", "server")}
    assert {event["host"] for event in events if event["type"] != "Packet"} <= {"", "client"}
