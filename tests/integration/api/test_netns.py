"""`Host.netns()`: in the kernel where this process may, else by Python's sockets; each both as root and as a user.

What has to be a process of its own, because it enters namespaces for good or needs a single thread, is a script.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import socketserver
import struct
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from socket import gethostbyaddr, gethostbyname, gethostname, if_nameindex

import pytest
import redis
import requests

from labctl import Host, Lab, MachineError
from labctl.kernel.routes import KernelLink
from tests.labs import arrives

WAIT_S = 20.0
WEB = [sys.executable, "-u", "-m", "http.server", "8000", "--bind", "::"]
# What redis-py needs of a server, where redis-server is not installed.
SMALL_REDIS = """
import socketserver
class Handler(socketserver.StreamRequestHandler):
    values = {}
    def handle(self):
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                words.append(self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2])
            name = words[0].upper()
            if name == b"SET":
                self.values[words[1]] = words[2]
                self.wfile.write(b"+OK\\r\\n")
            elif name == b"GET":
                value = self.values.get(words[1], b"")
                self.wfile.write(b"$%d\\r\\n%s\\r\\n" % (len(value), value))
            else:
                self.wfile.write(b"+OK\\r\\n")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("0.0.0.0", 6379), Handler).serve_forever()
"""


def place() -> tuple[str, str, str]:
    """Where the calling thread is."""
    return os.readlink("/proc/thread-self/ns/net"), os.readlink("/proc/thread-self/ns/mnt"), os.getcwd()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("pair") as lab, lab["server"].start(WEB, ready=8000):
        for host in lab.hosts.values():  # what a first visit opens is open before any test
            with host.netns():
                pass
        yield lab


@pytest.fixture
def client(lab: Lab) -> Host:
    return lab["client"]


def test_the_standard_librarys_clients_are_on_the_host(client: Host) -> None:
    with client.netns():
        with urllib.request.urlopen("http://server:8000/", timeout=WAIT_S) as answer:
            assert answer.status == 200
        connection = http.client.HTTPConnection("server", 8000, timeout=WAIT_S)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()


def test_requests_is_on_the_host(client: Host) -> None:
    with client.netns(), requests.Session() as session:
        session.trust_env = False  # a proxy of the machine's
        assert session.get("http://server:8000/", timeout=WAIT_S).status_code == 200
        assert session.get("http://[fd00::2]:8000/", timeout=WAIT_S).status_code == 200


def test_redis_py_is_on_the_host(lab: Lab, client: Host) -> None:
    program = ["redis-server", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no", "--dir", "/tmp"]
    if not any(os.access(f"{path}/redis-server", os.X_OK) for path in (*os.get_exec_path(), "/usr/bin")):
        program = [sys.executable, "-c", SMALL_REDIS]
    with (
        lab["server"].start(program, ready=6379, ready_timeout_s=WAIT_S),
        client.netns(),
        redis.Redis(host="server") as database,
    ):
        database.set("colour", "blue")
        assert database.get("colour") == b"blue"


def test_names_are_those_that_the_host_knows(client: Host) -> None:
    with client.netns():
        assert socket.gethostbyname("server") == "10.0.0.2"
        assert socket.gethostbyname_ex("server")[2] == ["10.0.0.2"]
        found = socket.getaddrinfo("server", 80, type=socket.SOCK_STREAM)
        assert [address[4][0] for address in found] == ["fd00::2", "10.0.0.2"]
        assert socket.getaddrinfo("server", 80, family=socket.AF_INET)[0][4] == ("10.0.0.2", 80)
        assert socket.getaddrinfo("localhost", 80, family=socket.AF_INET)[0][4] == ("127.0.0.1", 80)
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("nonesuch", 80)


def test_sockets_are_bound_and_connected_by_name(lab: Lab, client: Host) -> None:
    with lab["server"].netns():
        listener = socket.socket()
        listener.bind(("server", 5000))
        listener.listen()
    with listener, client.netns(), socket.socket() as sock:
        assert sock.connect_ex(("server", 5000)) == 0
        assert sock.getpeername() == ("10.0.0.2", 5000)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("server", 5001))
        with socket.socket(type=socket.SOCK_DGRAM) as sender, lab["server"].socket(type=socket.SOCK_DGRAM) as receiver:
            receiver.bind(("10.0.0.2", 5353))
            assert sender.sendto(b"hello", ("server", 5353)) == 5
            assert arrives(lambda: sender.sendto(b"hello", ("server", 5353)), receiver, b"hello")[0] == "10.0.0.1"


def test_a_socket_made_inside_stays_on_the_host_and_one_made_before_does_not_go_there(client: Host) -> None:
    with socket.socket() as outside:
        with client.netns(), socket.socket() as inside:
            inside.connect(("server", 8000))
        with client.netns():
            inside = socket.create_connection(("server", 8000))
            with pytest.raises(OSError, match=r"[Aa]ssign"):  # EADDRNOTAVAIL: the machine has no such address
                outside.bind(("10.0.0.1", 0))
        with inside:
            inside.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert inside.recv(12) == b"HTTP/1.0 200"


def test_visits_nest_and_end_in_order(lab: Lab, client: Host) -> None:
    before = place()
    with client.netns():
        with lab["server"].netns():
            assert socket.gethostbyname("client") == "10.0.0.1"
            with socket.create_connection(("localhost", 8000)) as own:
                assert own.getpeername()[0] in ("127.0.0.1", "::1")
            with client.netns(), pytest.raises(ConnectionRefusedError):
                socket.create_connection(("localhost", 8000))
        with socket.create_connection(("server", 8000)) as sock:
            assert sock.getsockname()[0] == "fd00::1"
    assert place() == before


def test_an_error_inside_ends_the_visit(client: Host) -> None:
    before = (place(), dict(vars(socket.socket)), dict(vars(socket)))
    with pytest.raises(ZeroDivisionError), client.netns():
        raise ZeroDivisionError
    assert (place(), dict(vars(socket.socket)), dict(vars(socket))) == before


def test_other_threads_are_where_they_were_and_new_ones_are_on_the_host(client: Host) -> None:
    home, seen = place(), list[object]()
    inside, looked = threading.Event(), threading.Event()

    def elsewhere() -> None:
        assert inside.wait(WAIT_S)
        seen.append(place())
        with socket.socket() as sock:
            try:
                sock.bind(("10.0.0.1", 0))
            except OSError as error:
                seen.append(error.errno)
        looked.set()

    def on_host() -> None:
        with socket.create_connection(("server", 8000)) as sock:
            seen.append(sock.getpeername()[0])

    other = threading.Thread(target=elsewhere)
    other.start()
    with client.netns():
        inside.set()
        assert looked.wait(WAIT_S)
        new = threading.Thread(target=on_host)
        new.start()
        new.join()
    other.join()
    assert seen == [home, errno.EADDRNOTAVAIL, "fd00::2"]


def test_many_threads_visit_many_hosts_at_once(lab: Lab) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            home = place()
            for _ in range(5):
                host = lab["client" if number % 2 else "server"]
                with host.netns(), socket.socket(type=socket.SOCK_DGRAM) as sock:
                    sock.connect(("client" if number % 2 else "server", 9))
                    assert sock.getsockname()[0] == host.ipv4
                assert place() == home
        except BaseException as error:  # noqa: BLE001  # told by the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_event_loop_inside_has_its_sockets_on_the_host(client: Host) -> None:
    import asyncio

    async def fetch() -> bytes:
        reader, writer = await asyncio.open_connection("server", 8000)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return answer

    with client.netns():
        assert asyncio.run(fetch()).startswith(b"HTTP/1.0 200")


def test_a_visit_is_for_one_block_of_one_thread(client: Host) -> None:
    visit = client.netns()
    with visit:
        with pytest.raises(RuntimeError, match="has already begun"):
            visit.__enter__()
        raised: list[BaseException] = []

        def leave() -> None:
            try:
                visit.__exit__(None, None, None)
            except RuntimeError as error:
                raised.append(error)

        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
        assert "thread that began it" in str(raised[0])


def test_files_and_directory_stay_this_processes_own(client: Host, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    before = os.getcwd()
    with client.netns():
        assert (tmp_path / "note").read_text() == "mine"
        assert os.getcwd() == before


def addresses() -> str:
    return subprocess.run(["ip", "-br", "-4", "address"], capture_output=True, text=True, check=True).stdout


def test_the_kernel_really_has_the_thread_there_or_strict_refuses_with_the_remedy(client: Host) -> None:
    if os.geteuid() != 0:
        with pytest.raises(MachineError, match="labctl_private_network"), client.netns(strict=True):
            pass
        with client.netns() as visit:
            assert not visit.in_kernel
        return
    home, machine = place(), (addresses(), Path("/etc/hosts").read_text())
    with client.netns(strict=True) as visit:
        assert visit.in_kernel
        assert place()[0] != home[0]
        assert place()[2] == home[2]
        assert "10.0.0.1/24" in addresses()
        assert (
            subprocess.run(["getent", "hosts", "server"], capture_output=True, text=True).stdout.split()[1] == "server"
        )
        assert sorted(os.listdir("/sys/class/net"))[:1] == ["eth0"]
        assert "server" in Path("/etc/hosts").read_text()
    assert place() == home
    assert (addresses(), Path("/etc/hosts").read_text()) == machine


PRIVATE = """
import os, socket, subprocess, threading
from labctl import Lab, enter_private_network
user = os.geteuid() != 0
assert enter_private_network() is user
assert enter_private_network() is False
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0)); listener.listen()
    socket.create_connection(listener.getsockname()).close()
home = os.readlink("/proc/thread-self/ns/net")
with Lab("pair") as lab:
    with lab["client"].netns(strict=True) as visit:
        assert visit.in_kernel
        print(subprocess.run(["ip", "-br", "address"], capture_output=True, text=True).stdout)
        print(socket.gethostbyname("server"))
        assert os.uname().nodename == socket.gethostname() == "client"
assert os.uname().nodename != "client"
assert os.readlink("/proc/thread-self/ns/net") == home
print("done")
"""


def script(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=60)


def test_a_user_in_a_private_network_really_enters_hosts() -> None:
    ended = script(PRIVATE)
    assert ended.returncode == 0, ended.stderr
    assert "10.0.0.1/24" in ended.stdout
    assert ended.stdout.endswith("10.0.0.2\ndone\n")


def test_a_private_network_cannot_be_entered_with_several_threads() -> None:
    ended = script(
        """
        import threading
        from labctl import MachineError, enter_private_network
        held = threading.Event()
        thread = threading.Thread(target=held.wait)
        thread.start()
        try:
            enter_private_network()
        except MachineError as error:
            print(error)
        held.set()
        thread.join()
        """
    )
    if os.geteuid() == 0:  # needs none, so nothing is done
        assert (ended.stdout, ended.stderr) == ("", "")
        return
    assert "this process has 2 threads" in ended.stdout, ended.stderr
    assert "before anything starts a thread" in ended.stdout


def test_requests_to_a_port_that_nobody_has_are_refused(client: Host) -> None:
    with client.netns(), pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen("http://server:8001/", timeout=WAIT_S)


def test_facts_are_the_hosts(lab: Lab, client: Host) -> None:
    names = [(link.index, link.name) for link in links(lab["client"])]
    with client.netns():
        assert socket.gethostname() == socket.getfqdn() == "client"
        assert socket.if_nameindex() == names
        index = socket.if_nametoindex("eth0")
        assert (index, "eth0") in names
        assert socket.if_indextoname(index) == "eth0"
        with pytest.raises(OSError, match="no interface"):
            socket.if_nametoindex("eth7")
        with pytest.raises(OSError, match="No such device"):
            socket.if_indextoname(index + 1000)
        assert socket.gethostbyaddr("10.0.0.2") == ("server", [], ["10.0.0.2"])
        assert socket.gethostbyaddr("server")[0] == socket.getfqdn("fd00::2") == "server"
        with pytest.raises(socket.herror):
            socket.gethostbyaddr("10.9.9.9")
        assert socket.getnameinfo(("10.0.0.2", 80), socket.NI_NUMERICSERV) == ("server", "80")
        assert socket.getnameinfo(("10.0.0.2", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0] == "10.0.0.2"
        assert socket.getnameinfo(("fe80::1", 80, 0, index), socket.NI_NUMERICHOST)[0] == "fe80::1%eth0"
        with pytest.raises(socket.gaierror):
            socket.getnameinfo(("10.9.9.9", 80), socket.NI_NAMEREQD)
        assert socket.getaddrinfo("fe80::1%eth0", 80, type=socket.SOCK_STREAM)[0][4] == ("fe80::1", 80, 0, index)
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("fe80::1%eth7", 80)
    assert socket.gethostname() == os.uname().nodename != "client"


def test_functions_that_were_imported_before_are_the_hosts(client: Host) -> None:
    machine = (gethostname(), if_nameindex())
    with client.netns():
        assert gethostname() == "client"
        assert [name for _, name in if_nameindex()] == ["lo", "eth0"]
        assert gethostbyname("server") == "10.0.0.2"
        assert gethostbyaddr("10.0.0.2")[0] == "server"
    assert (gethostname(), if_nameindex()) == machine


def links(host: Host) -> tuple[KernelLink, ...]:
    from labctl.observe import network

    return network.links(host.lab._core.engine, host.name)


def test_a_multicast_group_is_joined_on_the_interface_of_the_host(lab: Lab, client: Host) -> None:
    def joined() -> list[str]:
        lines = [line.split() for line in client.read_text("/proc/net/igmp6").splitlines()]
        return [interface for _, interface, address, *_ in lines if address == group.hex()]

    group = socket.inet_pton(socket.AF_INET6, "ff02::4:7")
    with client.netns(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 5354))
        index = socket.if_nametoindex("eth0")
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("@I", index))
        assert joined() == ["eth0"]
        with lab["server"].socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            assert arrives(lambda: sender.sendto(b"hello", ("ff02::4:7%eth0", 5354)), receiver, b"hello")
    assert joined() == []


def test_a_path_is_the_hosts(lab: Lab, client: Host) -> None:
    path = f"/run/labctl-test-{os.getpid()}.sock"
    with client.netns(), socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as near:
        listener.bind(path)
        listener.listen()
        assert client.run(["test", "-S", path])
        assert not os.path.lexists(path)
        near.connect(path)
        assert near.getpeername() == listener.getsockname() == path
        with lab["server"].netns(), socket.socket(socket.AF_UNIX) as other:
            assert other.connect_ex(path) == errno.ENOENT
        with socketserver.UnixDatagramServer(f"{path}.d", socketserver.BaseRequestHandler):
            assert client.run(["test", "-S", f"{path}.d"])
    assert not os.path.lexists(path)


def test_a_message_is_sent_to_a_name_and_servers_are_made_by_name(lab: Lab, client: Host) -> None:
    with lab["server"].netns(), socket.create_server(("server", 0)) as listener:
        assert listener.getsockname()[0] == "10.0.0.2"
        assert socket.has_dualstack_ipv6()
    with client.netns(), socket.socket(type=socket.SOCK_DGRAM) as sender, socket.socket(type=socket.SOCK_DGRAM) as own:
        own.bind(("client", 0))
        to = "client", own.getsockname()[1]
        assert sender.sendmsg([b"hel", b"lo"], [], 0, to) == 5
        assert arrives(lambda: sender.sendmsg([b"hel", b"lo"], [], 0, to), own, b"hello")
        sender.connect(("server", 9))
        assert sender.sendmsg([b"hello"]) == 5
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
