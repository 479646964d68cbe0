"""`labctl capture` on a running lab: lines, pcapng, and how it ends."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.cli.capture import READ_EVERY_S
from labctl.lab.client.handle import Lab
from tests.e2e import running as command
from tests.e2e.command import LABCTL, TIMEOUT_S, environment
from tests.integration.detached import running


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    with running() as name:
        yield name


def send(name: str, count: int, port: int = 9, *, sender: str = "client", target: str = "10.0.0.2") -> None:
    with Lab.attach(name) as lab, lab.socket(sender, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(b"hello", (target, port))


def begun(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert process.stderr.readline().startswith("capturing ")


def test_each_packet_is_a_line_with_names_and_the_filter_holds(name: str) -> None:
    with command.running("capture", "client-server", "--lab", name, "-c", 3, "udp", "port", 7) as process:
        begun(process)
        send(name, 2)
        send(name, 5, port=7)
        shown, errors = process.communicate(timeout=TIMEOUT_S)
    lines = shown.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r" *\d+\.\d{6} client:\d+ > server:7 udp len 5", line) for line in lines), shown
    assert errors == "3 packets of client-server\n"
    assert process.returncode == 0


def test_of_a_node_each_line_names_the_interface_and_the_direction(name: str) -> None:
    with command.running("capture", "server", "--lab", name, "-c", 2, "udp") as process:
        begun(process)
        send(name, 1)
        send(name, 1, sender="server", target="10.0.0.1")
        shown, _ = process.communicate(timeout=TIMEOUT_S)
    there, back = sorted(line.split(maxsplit=1)[1] for line in shown.splitlines())
    assert re.fullmatch(r"eth0  in  client:\d+ > server:9 udp len 5", there)
    assert re.fullmatch(r"eth0  out server:\d+ > client:9 udp len 5", back)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_last_packet(name: str, number: int) -> None:
    with command.running("capture", "client:eth0", "--lab", name, "udp") as process:
        begun(process)
        send(name, 4)
        process.send_signal(number)
        shown, errors = process.communicate(timeout=TIMEOUT_S)
    assert len(shown.splitlines()) == 4
    assert errors == "4 packets of client:eth0\n"
    assert process.returncode == 0


def test_it_ends_after_its_time(name: str) -> None:
    ended = command.give("capture", "client", "--lab", name, "--for", "10ms", "udp")
    assert (ended.stdout, ended.returncode) == ("", 0)


def test_it_ends_with_the_lab(name: str) -> None:
    other = f"{name}-ends"
    with running(name=other), command.running("capture", "client", "--lab", other, "udp") as process:
        begun(process)
        assert command.give("down", "--force", other).returncode == 0
        assert process.wait(timeout=TIMEOUT_S) == 0


def test_it_ends_when_nobody_reads_any_more(name: str) -> None:
    with command.running("capture", "client", "--lab", name, "udp") as process:
        begun(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=TIMEOUT_S) == 0


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs the program tshark")
def test_tshark_reads_the_pcapng_from_a_pipe_while_it_is_captured(name: str) -> None:
    argv = [LABCTL, "capture", "client-server", "--lab", name, "-c", "4", "-w", "-", "udp"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    ) as process:
        assert process.stdout is not None
        fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.len", "-e", "udp.dstport"]
        with subprocess.Popen(["tshark", "-r", "-", *fields], stdin=process.stdout, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True) as reader:  # fmt: skip
            process.stdout.close()
            begun(process)
            send(name, 4)
            listed, _ = reader.communicate(timeout=TIMEOUT_S)
        process.wait(timeout=TIMEOUT_S)
    assert listed == "client:eth0\t47\t9\n" * 4


def test_a_file_has_whole_packets(name: str, tmp_path: Path) -> None:
    file = tmp_path / "client.pcapng"
    with command.running("capture", "client", "--lab", name, "-c", 1, "-w", file, "udp") as process:
        begun(process)
        with Lab.attach(name) as lab, lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x" * 1400, ("10.0.0.2", 9))
        process.communicate(timeout=TIMEOUT_S)
    assert b"x" * 1400 in file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sever",), "capture sever: no node, interface, network or link; did you mean server?"),
        (("client", "tcp prot 5"), "tcp prot 5"),
        (("client", "-w", "/nowhere/file"), "labctl capture: -w /nowhere/file: cannot write: "),
        (("client", "--for", "soon"), "labctl capture: --for "),
    ],
)
def test_mistakes_are_refused_before_anything_is_captured(name: str, arguments: tuple[str, ...], message: str) -> None:
    ended = command.give("capture", *arguments, "--lab", name)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert "capturing" not in ended.stderr


def test_lines_are_shown_several_times_a_second() -> None:
    assert READ_EVERY_S <= 0.2
