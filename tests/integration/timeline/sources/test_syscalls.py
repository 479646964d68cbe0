"""System calls of programs by BPF: the same as strace(1) reports of the same run."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest

from labctl.kernel.bpf import CallTracer
from labctl.lab.client.handle import Lab
from labctl.lab.client.process import Process
from labctl.timeline.events import Call, Clock
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.sources.strace import StraceParser, command_line
from labctl.timeline.sources.syscalls import calls
from tests import skips
from tests.labs import WAIT_S, output, pair_plan, run, shell
from tests.patience import patient
from tests.tracing import for_root, needs_bpf, network_inode

pytestmark = [pytest.mark.stock_kernel, for_root, needs_bpf]
CALLS_ONLY = RecordOptions(packets=False, kernel=False, sample_interval_s=0, syscalls=("*",))

FORK_SERVER = r"""
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(7000) };
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	bind(listener, (struct sockaddr *)&address, sizeof(address));
	listen(listener, 4);
	for (int served = 0; served < 2; served++) {
		struct sockaddr_in peer;
		socklen_t length = sizeof(peer);
		int sock = accept(listener, (struct sockaddr *)&peer, &length);

		if (fork() == 0) {
			char data[64];
			ssize_t size = read(sock, data, sizeof(data));
			struct iovec parts[2] = { { data, size }, { "\n", 1 } };
			struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

			close(listener);
			writev(sock, parts, 2);
			sendmsg(sock, &message, MSG_NOSIGNAL);
			return 0;
		}
		close(sock);
		wait(0);
	}
	return 0;
}
"""
CLIENT = """
import socket, time
for _ in range(2):
    while True:
        try:
            sock = socket.create_connection(("10.0.0.2", 7000))
            break
        except ConnectionRefusedError:
            time.sleep(0.01)  # leave an emulated machine's only processor to the server
    sock.sendall(b"hello\\0\\x7f")
    while sock.recv(100):
        pass
"""
MANY_KINDS = r"""
import fcntl, os, select, socket, struct, termios
one, other = socket.socketpair()
poll = select.epoll()
poll.register(one, select.EPOLLIN | select.EPOLLOUT)
poll.modify(one, select.EPOLLIN)
poll.poll(0)
other.send(b"x")
poll.poll(1)
poll.unregister(one)
select.select([one], [other], [one], 1)
select.select([one, other], [], [], 0)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(("::1", 6000))
udp.sendto(b"hi" * 60, ("::1", 6000))
udp.recvfrom(10)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3))
udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
try:
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
except OSError:
    pass
local = socket.socket(socket.AF_UNIX)
local.bind("/tmp/local")
local.listen()
peer = socket.socket(socket.AF_UNIX)
peer.connect("/tmp/local")
accepted, _ = local.accept()
peer.sendmsg([b"a", b"\0\1772"])
accepted.recvmsg(100)
fcntl.ioctl(accepted.fileno(), termios.FIONREAD, bytearray(4))
accepted.shutdown(socket.SHUT_RDWR)
with open("/etc/hosts", "rb") as file:
    os.sendfile(other.fileno(), file.fileno(), None, 5)
os.writev(other.fileno(), [b"q" * 100, b""])
os.readv(one.fileno(), [bytearray(5), bytearray(400)])
os.dup2(one.fileno(), 50)
os.unlink("/tmp/local")
os._exit(0)
"""
SERVE_TWICE = """
import http.server
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
with Server(("", 8000), http.server.SimpleHTTPRequestHandler) as server:
    server.handle_request()
    server.handle_request()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.open(pair_plan("calls")) as opened:
        yield opened


@contextmanager
def program_of(lab: Lab, node: str, *argv: str) -> Iterator[Process]:
    """A program that is killed at the end of the block, if it goes on."""
    process = lab.spawn(node, argv)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.signal(signal.SIGKILL)
        process.close()


def straced(lab: Lab, node: str, *argv: str) -> tuple[list[Call], list[Call]]:
    """Run a program to its end under strace, and return its calls by BPF and by strace."""
    command = ["--output=/tmp/strace" if word.startswith("--output") else word for word in command_line()]
    command = [word for word in command[: command.index("--")] if word != "-DDD"]
    with CallTracer() as tracer:
        tracer.follow([network_inode(lab, node)])
        run(lab, node, *command, "--", *argv)
        records = b"".join(record for found in tracer.drain().values() for record in found)
        assert tracer.lost() == 0
    parser = StraceParser(node, argv[0], Clock())
    by_strace = parser.feed(shell(lab, node, "cat /tmp/strace").encode()) + parser.finish()
    names = {"strace"}  # strace asks for the protocols of sockets
    return (
        [call for call in calls(records, node) if call.program not in names],
        [call for call in by_strace if isinstance(call, Call) and call.until_ns is not None],
    )


def by_thread(found: list[Call]) -> list[list[str]]:
    """The calls of each thread in their order, as text; in the order of the threads' first calls."""
    threads: dict[int, list[str]] = {}
    for call in sorted(found, key=lambda call: call.at_ns):
        result = call.errno or call.result
        # strace decodes messages of netlink.
        arguments, data = ("netlink", b"") if "NETLINK" in call.arguments else (call.arguments, call.data)
        text = f"{call.name}({arguments}) = {result} {call.value} {data!r} {call.data_bytes}"
        threads.setdefault(call.tid, []).append(re.sub(r"0x[0-9a-f]{6,}", "POINTER", text))
    return list(threads.values())


@skips.needs_programs("strace")
def test_calls_of_every_kind_are_those_that_strace_reports(lab: Lab) -> None:
    ours, theirs = straced(lab, "client", sys.executable, "-I", "-S", "-c", MANY_KINDS)
    (mine,), (others,) = by_thread(ours), by_thread(theirs)
    assert mine == [re.sub(r", left \{.*?\}", "", each).replace("sa_family=", "") for each in others]
    assert {"epoll_ctl", "pselect6", "recvmsg", "writev", "readv", "sendfile", "ioctl", "socketpair", "dup2"} <= {
        call.name for call in ours
    }


@skips.needs_programs("strace", "curl")
def test_calls_of_curl_are_those_that_strace_reports(lab: Lab) -> None:
    ours, theirs = straced(lab, "client", "curl", "-s", "-m5", "http://10.0.0.2:9/")
    assert by_thread(ours) == by_thread(theirs)
    assert "connect(5, {AF_INET, 10.0.0.2:9}, 16)" in {f"{call.name}({call.arguments})" for call in ours}


@skips.needs_programs("strace", "cc")
@pytest.mark.parametrize("options", [(), ("-static",)], ids=["dynamic", "static"])
def test_calls_of_a_fork_server_are_those_that_strace_reports(
    lab: Lab, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "server.c").write_text(FORK_SERVER)
    subprocess.run(["cc", "-o", tmp_path / "fork-server", tmp_path / "server.c", *options], check=True)
    descriptor = lab.open_file("server", "/tmp/fork-server", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
    with open(descriptor, "wb") as file:
        file.write((tmp_path / "fork-server").read_bytes())
    with program_of(lab, "client", sys.executable, "-I", "-S", "-c", CLIENT) as client:
        ours, theirs = straced(lab, "server", "/tmp/fork-server")
        assert client.wait(WAIT_S) == 0
    assert by_thread(ours) == by_thread(theirs)
    assert len({call.pid for call in ours}) == 3
    (first,) = {call.pid for call in ours if call.name == "listen"}
    names = {call.pid: "fork-server" if call.pid == first else f"fork-server[{call.pid}]" for call in ours}
    assert {call.pid: call.program for call in ours} == names


@skips.needs_programs("strace", "curl")
def test_calls_of_a_threaded_server_are_those_that_strace_reports(lab: Lab) -> None:
    script = "while ! curl -sf http://10.0.0.2:8000/; do :; done; curl -s http://10.0.0.2:8000/none"
    with program_of(lab, "client", "sh", "-c", script) as client:
        ours, theirs = straced(lab, "server", sys.executable, "-I", "-S", "-c", SERVE_TWICE)
        assert client.wait(WAIT_S) == 0
    assert by_thread(ours) == by_thread(theirs)
    assert len({call.tid for call in ours}) > 1


def test_the_socket_of_a_call_has_the_inode_that_proc_shows(lab: Lab) -> None:
    source = "import os, socket; s = socket.socket(); s.bind(('', 0)); s.listen(); print(os.fstat(s.fileno()).st_ino)"
    with Recording.start(lab, CALLS_ONLY) as recording:
        recording.wait_ready()
        inode = int(output(lab, "client", sys.executable, "-I", "-S", "-c", source))
        found = [event for event in recording.stop().events if isinstance(event, Call)]
    assert [call.name for call in found][:3] == ["socket", "bind", "listen"]
    assert {call.socket and call.socket.inode for call in found} == {inode}


def test_a_call_that_blocks_shows_as_begun_and_later_as_returned(lab: Lab) -> None:
    source = "import socket; s = socket.create_server(('', 6001)); s.accept()"
    with Recording.start(lab, CALLS_ONLY) as recording:
        recording.wait_ready()
        with program_of(lab, "server", sys.executable, "-I", "-S", "-c", source) as server:
            begun = next_accept(recording)
            assert (begun.until_ns, begun.result, begun.program) == (None, None, os.path.basename(sys.executable))
            with lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client:
                client.connect(("10.0.0.2", 6001))
                port = client.getsockname()[1]
                assert server.wait(WAIT_S) == 0
        (returned,) = [call for call in recording.stop().events if isinstance(call, Call) and call.name == "accept4"]
    assert returned.key == begun.key
    assert returned.arguments == f"3, {{AF_INET, 10.0.0.1:{port}}}, [16], SOCK_CLOEXEC"
    assert returned.result == 4


def next_accept(recording: Recording) -> Call:
    until = monotonic() + patient(20.0)
    while monotonic() < until:
        for event in recording.read()[0]:
            if isinstance(event, Call) and event.name == "accept4":
                return event
    raise AssertionError("no accept4 begun")


def test_calls_of_labctl_itself_and_of_visitors_are_left_out(lab: Lab) -> None:
    agent = lab.start_agent("client")
    with Recording.start(lab, CALLS_ONLY) as recording:
        recording.wait_ready()
        lab.socket("client", socket.AF_INET, socket.SOCK_STREAM).close()
        agent.close()
        assert [event for event in recording.stop().events if isinstance(event, Call)] == []
