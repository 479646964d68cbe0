"""`expose`: a port of the machine leads to a port of a host, as root and without."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import struct
from functools import partial
from pathlib import Path

import pytest

from labctl.errors import MachineError
from labctl.kernel.namespaces import current_network
from labctl.kernel.processes import raise_descriptor_limit
from labctl.lab.client.handle import Lab
from labctl.lab.keeper import port_forwarder
from labctl.lab.keeper.machine_access import ForwardedPort
from tests.integration.detached import comm_of
from tests.integration.inside import inside
from tests.integration.machine import MACHINE4, Machine, boot_of, holds, ip, plan_of
from tests.labs import WAIT_S, arrives
from tests.skips import needs_programs

pytestmark = needs_programs("nft")  # the machine's packet filters before and after

V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def text(*ports: str) -> str:
    return f"hosts: {{web: {{expose: [{', '.join(ports)}]}}, other: {{}}}}\nlinks: [[web, other]]"


def server(lab: Lab, address: str, port: int, kind: int = STREAM) -> socket.socket:
    sock = lab.socket("web", V6 if ":" in address else V4, kind)
    sock.settimeout(WAIT_S)
    sock.bind((address, port))
    if kind == STREAM:
        sock.listen(600)
    return sock


def client(address: str, port: int) -> socket.socket:
    sock = socket.create_connection((address, port), WAIT_S)
    sock.settimeout(WAIT_S)
    return sock


def received(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


@inside
@pytest.mark.parametrize("where", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("listening", ["0.0.0.0", "10.0.0.1", "127.0.0.1", "fd00::1"])
def test_a_connection_to_the_machines_loopback_reaches_the_host(where: str, listening: str) -> None:
    with (
        Machine(),
        Lab.open(plan_of(text('"8080:80"'))) as lab,
        server(lab, listening, 80) as waiting,
        client(where, 8080) as sock,
        waiting.accept()[0] as accepted,
    ):
        sock.sendall(b"question")
        sock.shutdown(socket.SHUT_WR)
        assert received(accepted) == b"question"
        accepted.sendall(b"answer")
        accepted.shutdown(socket.SHUT_WR)
        assert received(sock) == b"answer"


@pytest.mark.stock_kernel
@inside
def test_without_an_address_only_the_loopback_addresses_are_bound() -> None:
    with Machine(), Lab.open(plan_of(text('"8080:80"', f'"{MACHINE4}:8081:80"'))) as lab, server(lab, "0.0.0.0", 80):
        with pytest.raises(ConnectionRefusedError):
            client(MACHINE4, 8080)
        with pytest.raises(ConnectionRefusedError):
            client("127.0.0.1", 8081)
        client(MACHINE4, 8081).close()


@pytest.mark.stock_kernel
@inside
def test_the_world_reaches_a_host_through_an_address_of_the_machine() -> None:
    with Machine() as machine, Lab.open(plan_of(text('"0.0.0.0:8080:80"'))) as lab, server(lab, "0.0.0.0", 80):
        from labctl.kernel.namespaces import socket_in

        with socket_in(machine.world, V4, STREAM) as sock:
            sock.settimeout(WAIT_S)
            sock.connect((MACHINE4, 8080))


@inside
def test_much_is_carried_both_ways_at_once_and_a_slow_reader_is_waited_for() -> None:
    with (
        Machine(),
        Lab.open(plan_of(text('"8080:80"'))) as lab,
        server(lab, "0.0.0.0", 80) as waiting,
        client("127.0.0.1", 8080) as sock,
        waiting.accept()[0] as accepted,
    ):
        for each in (sock, accepted):
            each.setblocking(False)
        sent, back = sum(filled(sock)), sum(filled(accepted))
        assert min(sent, back) > 128 * 1024
        for each in (sock, accepted):
            each.settimeout(WAIT_S)
            each.shutdown(socket.SHUT_WR)
        assert (len(received(accepted)), len(received(sock))) == (sent, back)


def filled(sock: socket.socket) -> list[int]:
    """Send until nobody takes any more."""
    sent = []
    while select.select([], [sock], [], 0.3)[1]:
        with contextlib.suppress(BlockingIOError):
            sent.append(sock.send(bytes(65536)))
    return sent


@inside
def test_a_port_without_a_server_on_the_host_resets_the_connection() -> None:
    with (
        Machine(),
        Lab.open(plan_of(text('"8080:80"'))),
        pytest.raises(ConnectionResetError),
        client("127.0.0.1", 8080) as sock,
    ):
        sock.recv(1)


@inside
def test_a_reset_by_the_server_is_a_reset_for_the_client() -> None:
    with (
        Machine(),
        Lab.open(plan_of(text('"8080:80"'))) as lab,
        server(lab, "0.0.0.0", 80) as waiting,
        client("127.0.0.1", 8080) as sock,
    ):
        accepted, _ = waiting.accept()
        sock.sendall(b"x")
        assert accepted.recv(1) == b"x"
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        accepted.close()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@inside
@pytest.mark.parametrize("listening", ["0.0.0.0", "127.0.0.1", "::1"])
def test_datagrams_of_several_peers_find_their_way_back(listening: str) -> None:
    with (
        Machine(),
        Lab.open(plan_of(text('"127.0.0.1:5353:53/udp"'))) as lab,
        server(lab, listening, 53, DATAGRAM) as waiting,
        contextlib.ExitStack() as stack,
    ):
        peers = [stack.enter_context(socket.socket(V4, DATAGRAM)) for _ in range(3)]
        backs = []
        for number, peer in enumerate(peers):
            question, answer = b"question %d" % number, b"answer %d" % number
            back = arrives(partial(peer.sendto, question, ("127.0.0.1", 5353)), waiting, question)
            backs.append(back)
            assert arrives(partial(waiting.sendto, answer, back), peer, answer)
        assert len(set(backs)) == len(peers)


@inside
def test_datagrams_that_wait_leave_the_loop_to_others_after_each() -> None:
    with Machine(), contextlib.ExitStack() as stack:
        outer, server_sock, peer = (stack.enter_context(socket.socket(V4, DATAGRAM)) for _ in range(3))
        outer.bind(("127.0.0.1", 0))
        server_sock.bind(("127.0.0.1", 0))
        outer.setblocking(False)
        network = current_network()
        stack.callback(os.close, network)
        port = ForwardedPort(outer.fileno(), network, ("127.0.0.1",), server_sock.getsockname()[1])
        server_sock.settimeout(WAIT_S)
        for _ in range(100):
            peer.sendto(b"x", outer.getsockname())
        assert holds(lambda: bytes_queued(outer) > 8192)

        async def forward_one_turn() -> None:
            sessions = port_forwarder._Sessions(outer, port, network)
            receiving = asyncio.create_task(sessions.receive())
            for _ in range(2):
                await asyncio.sleep(0)
            assert server_sock.recv(1) == b"x"
            assert outer.recv(1) == b"x"  # others still wait
            receiving.cancel()
            for session in sessions.by_peer.values():
                session.task.cancel()

        asyncio.run(forward_one_turn())


def bytes_queued(sock: socket.socket) -> int:
    """The memory of the datagrams that the socket has received, some 800 bytes each (SO_MEMINFO, sock_diag(7))."""
    (received, *_) = struct.unpack("=9I", sock.getsockopt(socket.SOL_SOCKET, 55, 36))
    return int(received)


def test_a_stream_that_never_blocks_leaves_the_loop_to_others_after_each_buffer() -> None:
    async def copy_one_turn() -> None:
        (sender, source), (sink, _receiver) = socket.socketpair(), socket.socketpair()
        with sender, source, sink, _receiver:
            source.setblocking(False)
            sink.setblocking(False)
            sender.sendall(bytes(2 * port_forwarder.BUFFER_BYTES))
            copying = asyncio.create_task(port_forwarder._copy(source, sink))
            await asyncio.sleep(0)
            assert len(source.recv(1 << 20)) == port_forwarder.BUFFER_BYTES
            copying.cancel()
            await asyncio.wait([copying])

    asyncio.run(copy_one_turn())


@inside
def test_more_connections_than_are_carried_at_once_wait_for_others_to_end() -> None:
    raise_descriptor_limit()
    with (
        Machine(),
        Lab.open(plan_of(text('"8080:80"'))) as lab,
        server(lab, "0.0.0.0", 80) as waiting,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(client("127.0.0.1", 8080)) for _ in range(port_forwarder.CONNECTIONS_MAX + 5)]
        accepted = [stack.enter_context(waiting.accept()[0]) for _ in range(port_forwarder.CONNECTIONS_MAX)]
        waiting.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waiting.accept()
        waiting.settimeout(WAIT_S)
        for sock in (clients[0], accepted[0], clients[1], accepted[1]):
            sock.close()
        for _ in range(2):
            stack.enter_context(waiting.accept()[0])


@inside
def test_a_port_in_use_is_an_error_before_anything_is_made() -> None:
    told = r"host web: cannot take the machine's port 127.0.0.1:8080/tcp .*EADDRINUSE"
    with Machine(), socket.create_server(("127.0.0.1", 8080)), pytest.raises(MachineError, match=told):
        Lab.open(plan_of(text('"8080:80"')))


@inside
def test_a_port_is_free_again_when_the_lab_has_ended() -> None:
    with Machine():
        for _ in range(2):
            with Lab.open(plan_of(text('"8080:80"'))) as lab, server(lab, "0.0.0.0", 80):
                client("127.0.0.1", 8080).close()
        with pytest.raises(ConnectionRefusedError):
            client("127.0.0.1", 8080)


@inside
def test_without_ipv6_on_the_machine_its_ipv4_loopback_alone_is_taken() -> None:
    with Machine():
        ip("-6 address delete ::1/128 dev lo")
        with Lab.open(plan_of(text('"8080:80"'))) as lab, server(lab, "0.0.0.0", 80):
            client("127.0.0.1", 8080).close()


@inside
def test_a_forwarder_that_was_killed_is_started_again() -> None:
    with Machine(), Lab.open(plan_of(text('"8080:80"'))) as lab, server(lab, "0.0.0.0", 80):
        client("127.0.0.1", 8080).close()
        assert holds(lambda: forwarder_of(lab) != 0)  # its name is there a moment after it is
        os.kill(forwarder_of(lab), signal.SIGKILL)
        client("127.0.0.1", 8080).close()  # it waits in the queue of the listening socket
        assert holds(lambda: forwarder_of(lab) != 0)


def forwarder_of(lab: Lab) -> int:
    keeper, *_ = _children(boot_of(lab))
    named = [pid for pid in _children(keeper) if comm_of(pid) == "labctl-forward"]
    return named[0] if named else 0


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.stock_kernel
def test_an_ordinary_lab_may_expose_without_privilege() -> None:
    """The only test outside a namespace of its own: on a loopback port below those that the kernel chooses from."""
    port = 20_000 + os.getpid() % 10_000  # none that the kernel gives to others meanwhile
    with (
        Lab.open(plan_of(text(f'"127.0.0.1:{port}:80"'))) as lab,
        server(lab, "0.0.0.0", 80) as waiting,
        client("127.0.0.1", port) as sock,
    ):
        accepted, _ = waiting.accept()
        with accepted:
            accepted.sendall(b"hello")
        assert received(sock) == b"hello"
