"""Sockets of a host in this process: names, interfaces and paths in their addresses are the host's."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labctl import AsyncLab, Host, Lab, NotFound
from labctl.observe.network import State
from tests.labs import arrives

WAIT_S = 20.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("pair") as lab:
        lab["server"].start(["true"]).close()  # what watches programs is there before any test
        yield lab


@pytest.fixture
def server(lab: Lab) -> Host:
    return lab["server"]


@pytest.fixture
def client(lab: Lab) -> Host:
    return lab["client"]


@pytest.fixture
def path() -> Iterator[str]:
    """A path that neither the machine nor a host has; the machine has not got it afterwards, either."""
    path = f"/run/labctl-test-{secrets.token_hex(8)}.sock"
    yield path
    assert not os.path.lexists(path)


def link_local(host: Host) -> str:
    words = host.run(["ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link"], check=True).stdout.split()
    return words[words.index("inet6") + 1].partition("/")[0]


def test_a_path_is_bound_and_connected_to_on_the_host(server: Host, client: Host, path: str) -> None:
    with server.socket(socket.AF_UNIX) as listener, server.socket(socket.AF_UNIX) as near:
        listener.bind(path)
        listener.listen()
        assert listener.getsockname() == path
        assert server.run(["test", "-S", path])
        assert path in [each.path for each in server.sockets()]
        near.connect(path)
        assert near.getpeername() == path
        far, _ = listener.accept()
        with far:
            near.sendall(b"hello")
            assert far.recv(10) == b"hello"
        with client.socket(socket.AF_UNIX) as other, pytest.raises(FileNotFoundError, match=f"client: .*{path}"):
            other.connect(path)
        with server.socket(socket.AF_UNIX) as second, pytest.raises(OSError, match="EADDRINUSE") as raised:
            second.bind(os.fsencode(path))
        assert raised.value.errno == errno.EADDRINUSE


def test_a_program_of_the_host_and_a_socket_of_this_process_meet_at_a_path(server: Host, path: str) -> None:
    program = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r}); s.sendall(b'from the host')"
    with server.listen(f"unix:{path}") as listener:
        assert server.run([sys.executable, "-c", program])
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b"from the host"


def test_datagrams_go_to_paths_of_the_host(server: Host, path: str) -> None:
    with (
        server.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        server.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        receiver.settimeout(WAIT_S)
        receiver.bind(path)
        sends: list[Callable[[], int]] = [
            lambda: sender.sendto(b"1", path),
            lambda: sender.sendto(b"1", 0, path),
            lambda: sender.sendmsg([b"1"], [], 0, path),
            lambda: sender.connect_ex(path) or sender.send(b"1"),
        ]
        for send in sends:
            assert send() == 1
            assert receiver.recv(10) == b"1"
        assert sender.connect_ex(f"{path}.not") == errno.ENOENT


def test_a_relative_path_is_that_of_the_working_directory(
    server: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lab("pair", visible_paths=[tmp_path]) as lab:
        monkeypatch.chdir(tmp_path)
        with lab["server"].socket(socket.AF_UNIX) as listener, lab["server"].socket(socket.AF_UNIX) as near:
            listener.bind("here.sock")
            listener.listen()
            assert listener.getsockname() == "here.sock"
            near.connect("here.sock")
        assert (tmp_path / "here.sock").is_socket()


def test_a_whole_path_needs_no_working_directory_on_the_host(
    server: Host, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if server.run(["test", "-d", tmp_path]):
        pytest.skip("pytest's temporary directory is to be seen on hosts")
    with server.listen(f"unix:{path}"), server.connect(f"unix:{path}") as near:
        assert near.getpeername() == path
    with server.socket(socket.AF_UNIX) as sock, pytest.raises(FileNotFoundError):
        sock.bind("here.sock")


def test_an_abstract_name_belongs_to_the_network_of_the_host(server: Host, client: Host) -> None:
    name = f"\0labctl-{secrets.token_hex(8)}"
    with server.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        with server.connect(f"unix:@{name[1:]}") as near:
            assert near.getpeername() == name.encode()
        with pytest.raises(ConnectionRefusedError):
            client.connect(f"@{name[1:]}")
        with socket.socket(socket.AF_UNIX) as of_machine, pytest.raises(ConnectionRefusedError):
            of_machine.connect(name)


def test_a_path_that_cannot_be_one_is_refused(server: Host) -> None:
    with server.socket(socket.AF_UNIX) as sock:
        with pytest.raises(OSError, match="too long"):
            sock.bind(f"/run/{'x' * 200}")
        with pytest.raises(FileNotFoundError):
            sock.bind("/run/no-such-directory/x")
    with pytest.raises(ValueError, match="unix:@name"):
        server.connect("unix:run/x")


def test_connecting_to_a_path_waits_for_a_full_queue_as_long_as_it_may(server: Host, path: str) -> None:
    with server.listen(f"unix:{path}", backlog=0), server.connect(f"unix:{path}") as first:
        assert first.gettimeout() == 10.0
        with pytest.raises(TimeoutError, match="no answer in time"):
            server.connect(f"unix:{path}", timeout_s=0.2)


def test_names_are_those_that_the_host_knows(server: Host, client: Host) -> None:
    with server.listen(5000), client.socket() as sock:
        sock.connect(("server", 5000))
        assert sock.getpeername() == (server.ipv4, 5000)
    with server.socket(type=socket.SOCK_DGRAM) as receiver, client.socket(type=socket.SOCK_DGRAM) as sender:
        receiver.bind(("server", 0))
        port = receiver.getsockname()[1]
        assert sender.sendmsg([b"hello"], [], 0, ("server", port)) == 5
        assert arrives(lambda: sender.sendmsg([b"hello"], [], 0, ("server", port)), receiver, b"hello")
        with pytest.raises(socket.gaierror, match="client has no address for 'nonesuch'"):
            sender.sendto(b"x", ("nonesuch", port))


def test_a_scope_is_an_interface_of_the_host(server: Host, client: Host) -> None:
    address = link_local(server)
    with server.listen(81, address=f"{address}%eth0", family=socket.AF_INET6) as listener:
        assert [str(each.local) for each in server.sockets() if each.listening] == [f"{address}%eth0"]
        with client.connect(f"[{address}%eth0]:81") as near, client.connect(near.getpeername()) as again:
            assert near.getpeername()[:2] == again.getpeername()[:2] == (address, 81)
        with client.socket(socket.AF_INET6) as sock:
            sock.connect((f"{address}%eth0", 81))
        with pytest.raises(OSError, match=f"needs its interface: {address}%eth0") as raised:
            client.connect(f"[{address}]:81")
        assert raised.value.errno == errno.EINVAL
        with pytest.raises(OSError, match="no interface eth7; it has lo, eth0"):
            client.connect(f"[{address}%eth7]:81")
        assert listener.getsockname()[0] == address
    with pytest.raises(NotFound):
        client.connect("10.0.0.2%eth0:81")


def test_when_no_address_of_a_name_answers_each_is_listed_with_its_reason(server: Host, client: Host) -> None:
    with server.listen("127.0.0.1:5000"), pytest.raises(ConnectionRefusedError) as refused:
        client.connect("server:5000")
    only = "Connection refused (server listens on port 5000 at 127.0.0.1:5000 only)"
    each = f"10.0.0.2: {only}; fd00::2: {only}"
    assert refused.value.strerror == f"host client: cannot connect to server:5000: {each}"


def test_a_refusal_over_ipv6_tells_of_a_server_that_is_ipv4_only(server: Host, client: Host) -> None:
    ipv4_only = "server listens at 0.0.0.0:5000, which is IPv4 only"
    with server.listen(5000):
        for host, to in ((client, "server:5000"), (client, "[fd00::2]:5000"), (server, "[::1]:5000")):
            with pytest.raises(ConnectionRefusedError, match=ipv4_only):
                host.connect(to, family=socket.AF_INET6)


def test_coroutines_get_the_same_errors() -> None:
    async def test() -> str:
        async with AsyncLab("pair") as lab:
            with pytest.raises(ConnectionRefusedError) as refused:
                await lab["client"].connect("server:81")
        return refused.value.strerror or ""

    assert asyncio.run(test()).endswith("10.0.0.2: Connection refused; fd00::2: Connection refused")


def test_where_to_listen_is_given_as_text_too(server: Host) -> None:
    address = link_local(server)
    for at, local in {
        "81": ("0.0.0.0", 81),
        ":82": ("0.0.0.0", 82),
        "server:83": (server.ipv4, 83),
        f"[{address}%eth0]:84": (address, 84),
    }.items():
        with server.listen(at) as listener:
            assert listener.getsockname()[:2] == local


def test_readiness_is_that_of_the_scope(server: Host) -> None:
    address = link_local(server)
    program = f"""
import signal, socket
s = socket.socket(socket.AF_INET6)
s.bind(({address!r}, 90, 0, socket.if_nametoindex("eth0")))
s.listen()
signal.pause()
"""
    with server.start([sys.executable, "-c", program], ready=f"tcp/[{address}%eth0]:90") as running:
        assert running.returncode is None
    with pytest.raises(Exception, match="eth9"):
        server.start([sys.executable, "-c", program], ready=f"tcp/[{address}%eth9]:90", ready_timeout_s=0.5)


def test_coroutines_reach_paths_and_scopes(lab: Lab, server: Host, path: str) -> None:
    address = link_local(server)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(10))
        writer.close()

    async def said(host: str, to: str) -> bytes:
        reader, writer = await asynchronous[host].open_connection(to)
        writer.write(b"hello")
        answer = await reader.read(10)
        writer.close()
        await writer.wait_closed()
        return answer

    async def main() -> None:
        async with (
            await asynchronous["server"].start_server(echo, f"unix:{path}"),
            await asynchronous["server"].start_server(echo, 91, address=f"{address}%eth0", family=socket.AF_INET6),
        ):
            assert await said("server", f"unix:{path}") == b"hello"
            assert await said("client", f"[{address}%eth0]:91") == b"hello"
            with await asynchronous["server"].socket(socket.AF_UNIX) as sock:
                await asyncio.get_running_loop().sock_connect(sock, path)
            with pytest.raises(FileNotFoundError):
                await asynchronous["client"].connect(f"unix:{path}")
        await asynchronous.aclose()

    asynchronous = AsyncLab.over(lab)
    asyncio.run(main())


def test_both_ends_of_a_connection_are_sockets_of_this_process(client: Host, server: Host) -> None:
    with server.listen(5000) as listener, client.connect("server:5000") as near:
        far, peer = listener.accept()
        with far:
            assert isinstance(near, socket.socket)
            assert isinstance(far, socket.socket)
            assert peer == near.getsockname()
            near.sendall(b"ping")
            assert far.recv(4) == b"ping"
            assert [one.state for one in server.sockets() if one.local_port == 5000] == [
                State.LISTEN,
                State.ESTABLISHED,
            ]


def test_connections_go_by_name_by_address_and_by_family(client: Host, server: Host) -> None:
    with server.listen(family=socket.AF_INET6) as six, server.listen(address="server") as four:
        ports = {socket.AF_INET6: six.getsockname()[1], socket.AF_INET: four.getsockname()[1]}
        assert four.getsockname()[0] == "10.0.0.2"
        for to, family in (
            (("server", ports[socket.AF_INET6]), socket.AF_INET6),
            (f"server:{ports[socket.AF_INET]}", socket.AF_INET),
            (f"[fd00::2]:{ports[socket.AF_INET6]}", socket.AF_INET6),
            (f"10.0.0.2:{ports[socket.AF_INET]}", socket.AF_INET),
        ):
            with client.connect(to) as connection:
                assert connection.family == family
        with pytest.raises(ConnectionRefusedError):
            client.connect(("server", ports[socket.AF_INET6]), family=socket.AF_INET)
    with pytest.raises(ValueError, match="has no port or host"):
        client.connect("server:*")
    with pytest.raises(OSError, match=re.escape("host server: cannot listen on 192.0.2.1:0")):
        server.listen(address="192.0.2.1")


def test_nobody_answers_in_time(client: Host, lab: Lab) -> None:
    link = lab.link("client", "server")
    link.down()
    try:
        with pytest.raises(OSError, match="cannot connect to server:80"):
            client.connect("server:80", timeout_s=0.2)
    finally:
        link.up()


def test_a_datagram_socket_and_a_raw_socket_live_on_the_host(client: Host, server: Host) -> None:
    with server.socket(type=socket.SOCK_DGRAM) as receiver, client.socket(type=socket.SOCK_DGRAM) as sender:
        receiver.bind((server.ipv4, 5353))
        assert arrives(lambda: sender.sendto(b"hello", (server.ipv4, 5353)), receiver, b"hello")
    with client.socket(type=socket.SOCK_RAW, proto=socket.IPPROTO_ICMP) as raw:
        assert raw.type == socket.SOCK_RAW
    with pytest.raises(OSError, match="host client"):
        client.socket(type=12345)
