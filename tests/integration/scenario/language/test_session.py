"""The call language on real sockets, over loopback in a network namespace of the test's own."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
from collections.abc import Iterator
from time import monotonic, monotonic_ns

import pytest

from labctl.lab.agent.client import AgentEnded, CallImpossible
from labctl.lab.agent.messages import SystemCall
from labctl.scenario.language.checker import CheckContext, check
from labctl.scenario.language.parser import parse
from labctl.scenario.language.session import CallsOutcome, Session
from labctl.scenario.results import CallRecord
from tests.integration.call_bench import Bench

PAIRS = [(family, kind) for family in ("AF_INET", "AF_INET6", "AF_UNIX") for kind in ("SOCK_STREAM", "SOCK_DGRAM")]
ADDRESSES = {"AF_INET": "127.0.0.1:5000", "AF_INET6": "[::1]:5000", "AF_UNIX": "@calls-test"}


class Process:
    """A session with the little that a test wants to say: do this, or fail with that."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.context = CheckContext()

    def run(self, text: str, within_s: float = 20.0) -> CallsOutcome:
        checked = check(parse(text), self.context)
        assert checked.problems == ()
        outcome = self.session.run(parse(text), monotonic() + within_s)
        if outcome.failure is None:
            self.context = checked.context
        return outcome

    def do(self, text: str, within_s: float = 20.0) -> tuple[CallRecord, ...]:
        outcome = self.run(text, within_s)
        assert outcome.failure is None, str(outcome.failure)
        return outcome.records

    def fail(self, text: str, within_s: float = 20.0) -> str:
        outcome = self.run(text, within_s)
        assert outcome.failure is not None
        return str(outcome.failure)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made


@pytest.fixture
def processes(bench: Bench) -> Iterator[tuple[Process, Process]]:
    variables: dict[str, object] = {"port": 5000}
    callers = [bench.start_agent(), bench.start_agent("other")]
    origin_ns = monotonic_ns()
    server, client = (Process(Session(made, variables=variables, origin_ns=origin_ns)) for made in callers)
    yield server, client
    for caller in callers:
        caller.close()


@pytest.fixture
def server(processes: tuple[Process, Process]) -> Process:
    return processes[0]


@pytest.fixture
def client(processes: tuple[Process, Process]) -> Process:
    return processes[1]


def connect(server: Process, client: Process) -> None:
    server.do("""
        s = socket(AF_INET, SOCK_STREAM)
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, 1)
        bind(s, "127.0.0.1:${port}")
        listen(s, 1)
    """)
    client.do("""
        c = socket(AF_INET, SOCK_STREAM)
        connect(c, "127.0.0.1:${port}")
    """)
    server.do("conn, peer = accept(s)")


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_every_family_and_type_carries_data(family: str, kind: str, server: Process, client: Process) -> None:
    address = ADDRESSES[family]
    server.do(f's = socket({family}, {kind}, 0)\nbind(s, "{address}")')
    client.do(f"c = socket({family}, {kind})")
    if kind == "SOCK_STREAM":
        server.do("listen(s, 5)")
        client.do(f'connect(c, "{address}")')
        server.do("conn, peer = accept(s)\nassert peer.family == " + family)
        client.do('send(c, b"hello") -> 5')
        server.do('recv(conn, 100) -> b"hello"')
    else:
        client.do(f'sendto(c, b"hello", "{address}") -> 5')
        server.do('data, addr = recvfrom(s, 100) -> b"hello"\nassert data == b"hello"')


def test_descriptors_number_from_three_and_the_lowest_free_one_is_taken(server: Process) -> None:
    server.do("""
        socket(AF_INET, SOCK_STREAM) -> 3
        socket(AF_INET6, SOCK_DGRAM) -> 4
        close(3)
        a, b = socketpair(AF_UNIX, SOCK_STREAM)
        assert [a, b] == [3, 5]
        dup(a) -> 6
        dup2(a, 9) -> 9
    """)


def test_accept_shows_the_length_as_value_and_result(server: Process, client: Process) -> None:
    connect(server, client)
    client.do('d = socket(AF_INET, SOCK_STREAM)\nbind(d, "127.0.0.1:40000")\nconnect(d, "127.0.0.1:5000")')
    (record,) = server.do("conn, peer = accept(s, addrlen=4)")
    assert record.call == "accept(3, {AF_INET, ...:40000}, [4 -> 16])"
    assert record.value == "...:40000, addrlen 4 -> 16"
    server.do("assert peer.addrlen == 16\nassert peer.port == 40000")
    assert "it has only 4 of its 16 bytes" in server.fail('assert peer.host == "127.0.0.1"')


def test_a_lowered_limit_of_descriptors_gives_emfile_and_the_channel_goes_on(server: Process) -> None:
    server.do("""
        setrlimit(RLIMIT_NOFILE, 5)
        socket(AF_INET, SOCK_STREAM) -> 3
        socket(AF_INET, SOCK_STREAM) -> 4
        s = socket(AF_INET, SOCK_STREAM) -> EMFILE
        assert s == -1
        close(4)
        socket(AF_INET, SOCK_STREAM) -> 4
    """)


@pytest.mark.parametrize("user_namespace", [True, False] if os.getuid() == 0 else [True])
def test_without_capabilities_a_privileged_port_gives_eacces(user_namespace: bool) -> None:
    with Bench(user_namespace=user_namespace) as bench:
        process = Process(Session(bench.start_agent(), variables={}, origin_ns=0))
        process.do("""
            s = socket(AF_INET, SOCK_STREAM)
            bind(s, ":80")
            close(s)
            drop_capabilities(CAP_NET_BIND_SERVICE)
            s = socket(AF_INET, SOCK_STREAM)
            bind(s, ":80") -> EACCES
            socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)
            drop_capabilities()
            socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) -> EPERM
            bind(s, ":8080")
        """)


def test_socket_refuses_unknown_values(server: Process) -> None:
    server.do("""
        socket(AF_X25, SOCK_STREAM) -> EAFNOSUPPORT
        socket(AF_INET, SOCK_STREAM, IPPROTO_UDP) -> EPROTONOSUPPORT
        socket(AF_INET, 99) -> EINVAL | ESOCKTNOSUPPORT
        socket(AF_INET, SOCK_SEQPACKET) -> ESOCKTNOSUPPORT
    """)


def test_bind_and_connect_report_why_they_failed(server: Process, client: Process) -> None:
    connect(server, client)
    server.do("""
        t = socket(AF_INET, SOCK_STREAM)
        bind(t, "127.0.0.1:5000") -> EADDRINUSE
        bind(t, "192.0.2.1:5000") -> EADDRNOTAVAIL
        bind(t, ":0")
        me = getsockname(t)
        assert me.port > 1023
        assert me.host == "0.0.0.0"
        connect(t, "127.0.0.1:81") -> ECONNREFUSED
        connect(t, "192.0.2.1:81") -> ENETUNREACH
        bind(99, ":0") -> EBADF
        bind(0, ":0") -> ENOTSOCK
        accept(conn) -> EINVAL
    """)
    client.do("""
        connect(c, "127.0.0.1:5000") -> EISCONN
        d = socket(AF_INET, SOCK_STREAM)
        send(d, b"x") -> EPIPE
        recv(d, 1) -> ENOTCONN
        getpeername(d) -> ENOTCONN
    """)


def test_addresses_may_be_of_the_wrong_family_or_length(server: Process) -> None:
    server.do("""
        s = socket(AF_INET, SOCK_STREAM)
        bind(s, [AF_INET6, "[::1]:5000"]) -> EAFNOSUPPORT
        bind(s, "127.0.0.1:5000", addrlen=4) -> EINVAL
        t = socket(AF_INET6, SOCK_STREAM)
        bind(t, "[fe80::1%lo]:5000") -> EADDRNOTAVAIL
        bind(t, "[::ffff:127.0.0.1]:5001")
        u = socket(AF_UNIX, SOCK_STREAM)
        connect(u, "/no/such/socket") -> ENOENT
        me = getsockname(u)
        assert me.path == ""
    """)


def test_sending_to_a_closed_connection_gives_epipe_not_a_signal(server: Process, client: Process) -> None:
    connect(server, client)
    client.do('shutdown(c, SHUT_WR)\nsend(c, b"x") -> EPIPE')


def test_linger_with_zero_resets_the_connection(server: Process, client: Process) -> None:
    connect(server, client)
    server.do("setsockopt(conn, SOL_SOCKET, SO_LINGER, [1, 0])\nclose(conn)")
    client.do("poll([c, POLLIN], 10000) -> 1\nrecv(c, 10) -> ECONNRESET")


def test_a_call_blocks_stays_pending_and_is_awaited_in_a_later_program(server: Process, client: Process) -> None:
    server.do('s = socket(AF_INET, SOCK_STREAM)\nbind(s, "127.0.0.1:5000")\nlisten(s, 1)')
    (waiting,) = server.do("accept(s) -> blocks 50ms")
    assert (waiting.returned, waiting.duration_s) == (None, None)
    assert waiting.call == "accept(3, addr, [16])"
    assert server.session.pending
    client.do('c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "127.0.0.1:5000")\nme = getsockname(c)\n$port = me.port')
    (returned,) = server.do("conn, peer = await -> 4 within 10s\nassert peer.port == $port\nassert conn == 4")
    assert returned.started_s == waiting.started_s
    assert returned.duration_s is not None
    assert returned.duration_s >= 0.05


def test_a_call_that_returns_does_not_block(server: Process) -> None:
    reason = server.fail("socket(AF_INET, SOCK_STREAM) -> blocks 50ms")
    assert reason.startswith("socket(AF_INET, SOCK_STREAM, 0) returned 3 after ")
    assert "expected it to block for 50ms. Line 1: socket(AF_INET, SOCK_STREAM) -> blocks 50ms" in reason


def test_a_call_past_its_deadline_fails_the_program_and_stays_pending(server: Process) -> None:
    server.do("s = socket(AF_INET, SOCK_DGRAM)\nbind(s, ':0')")
    outcome = server.run("recv(s, 10) within 200ms")
    assert re.search(r"recv\(3, buf, 10, 0\) has not returned after \d+\.\d s", str(outcome.failure))
    assert outcome.records[-1].duration_s is None
    assert "is still pending" in str(server.session.run(parse("close(s)"), monotonic() + 1).failure)


def test_the_step_deadline_is_every_calls_deadline(server: Process) -> None:
    server.do("s = socket(AF_INET, SOCK_DGRAM)\nbind(s, ':0')")
    before = monotonic()
    assert "has not returned" in server.fail("recv(s, 10) within 1m", within_s=0.1)
    assert monotonic() - before < 15


def test_until_fills_the_buffers_and_empties_them_again(server: Process, client: Process) -> None:
    connect(server, client)
    (*_, record) = client.do("""
        set_nonblocking(c)
        total = send(c, b"x" * 65536) until EAGAIN
        $total = total
        shutdown(c, SHUT_WR)
    """)
    records = server.do("""
        recv(conn, 10, MSG_PEEK) -> b"xxxxxxxxxx"
        n = ioctl(conn, FIONREAD)
        assert n > 0
        got = recv(conn, 65536) until b""
        assert len(got) == $total
    """)
    assert records[-1].repeated > 10
    assert "bytes in" in (records[-1].value or "")
    assert record.returned == 0


def test_until_stops_at_a_failure_that_was_not_asked_for(server: Process, client: Process) -> None:
    connect(server, client)
    server.do("setsockopt(conn, SOL_SOCKET, SO_LINGER, [1, 0])\nclose(conn)")
    reason = client.fail('poll([c, POLLIN], "10s") -> 1\nrecv(c, 10) until b""')
    assert "returned -1 ECONNRESET (Connection reset by peer); expected it to go on until b''" in reason


def test_a_udp_socket_connects_and_dissolves_the_connection(server: Process, client: Process) -> None:
    server.do('s = socket(AF_INET, SOCK_DGRAM)\nbind(s, "127.0.0.1:5000")')
    client.do("""
        u = socket(AF_INET, SOCK_DGRAM)
        connect(u, "127.0.0.1:5000")
        send(u, b"one")
        peer = getpeername(u)
        assert peer.port == 5000
        connect(u, AF_UNSPEC)
        getpeername(u) -> ENOTCONN
        send(u, b"two") -> EDESTADDRREQ
        connect(u, "127.0.0.1:81")
        send(u, b"three")
        recv(u, 10) -> ECONNREFUSED
    """)
    server.do("""
        data, addr = recvfrom(s, 2)
        assert data == b"on"
        sendto(s, b"reply", addr) -> 5
        recvfrom(s, 10, MSG_DONTWAIT) -> EAGAIN
    """)


def test_so_error_has_the_result_of_a_non_blocking_connect(client: Process) -> None:
    client.do("""
        c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK)
        connect(c, "127.0.0.1:81") -> EINPROGRESS
        ready = poll([c, POLLOUT], "10s") -> 1
        assert ready[0] & POLLERR == POLLERR
        v = getsockopt(c, SOL_SOCKET, SO_ERROR) -> ECONNREFUSED
        assert v == ECONNREFUSED
        getsockopt(c, SOL_SOCKET, SO_ERROR) -> 0
    """)


def test_poll_and_select_return_the_ready_descriptors(client: Process) -> None:
    client.do("""
        a, b = socketpair(AF_UNIX, SOCK_STREAM)
        poll([[a, POLLIN], [b, POLLOUT]], 0) -> [0, POLLOUT]
        poll([a, POLLIN], 50) -> 0 after 50ms
        write(b, b"x")
        r, w, x = select([a], [a], [], "1s") -> 2
        assert r == [a]
        select([a], [], []) -> [[3], [], []]
        read(a, 10) -> b"x"
    """)


def test_messages_gather_buffers_and_flag_a_truncated_datagram(client: Process) -> None:
    client.do("""
        a, b = socketpair(AF_UNIX, SOCK_DGRAM)
        sendmsg(a, [b"hel", b"lo"]) -> 5
        data, addr, flags = recvmsg(b, 3)
        assert data == b"hel"
        assert flags == MSG_TRUNC
        send(a, b"hello")
        recv(b, 2, MSG_TRUNC) -> 5
    """)


def test_options_are_written_and_read_as_their_own_types(client: Process) -> None:
    client.do("""
        c = socket(AF_INET, SOCK_STREAM)
        setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, "200ms")
        getsockopt(c, SOL_SOCKET, SO_RCVTIMEO) -> 200
        setsockopt(c, SOL_SOCKET, SO_LINGER, [1, 5])
        getsockopt(c, SOL_SOCKET, SO_LINGER) -> [1, 5]
        setsockopt(c, SOL_SOCKET, SO_BINDTODEVICE, "lo")
        name = getsockopt(c, SOL_SOCKET, SO_BINDTODEVICE)
        assert name == "lo"
        setsockopt(c, IPPROTO_TCP, TCP_NODELAY, 1)
        getsockopt(c, IPPROTO_TCP, TCP_NODELAY) -> 1
        raw = getsockopt(c, SOL_SOCKET, SO_TYPE, 4)
        assert raw == b"\\x01\\x00\\x00\\x00"
        setsockopt(c, SOL_SOCKET, SO_REUSEADDR, b"x") -> EINVAL
    """)


def test_a_receive_timeout_is_eagain_after_it(client: Process) -> None:
    client.do("""
        u = socket(AF_INET, SOCK_DGRAM)
        setsockopt(u, SOL_SOCKET, SO_RCVTIMEO, "50ms")
        recv(u, 10) -> EAGAIN after 50ms
    """)
    assert "expected not before 30s" in client.fail("recv(u, 10) -> EAGAIN after 30s")


def test_sigusr1_interrupts_a_blocked_call_and_sigusr2_does_not(client: Process) -> None:
    client.do("u = socket(AF_INET, SOCK_DGRAM)\nrecv(u, 10) -> blocks 50ms")
    client.session.caller.process.signal(signal.SIGUSR2)
    assert "has not returned" in client.fail("await within 50ms")
    client.session.caller.process.signal(signal.SIGUSR1)
    client.do("await -> EINTR")


def test_a_killed_process_fails_its_pending_call_with_its_exit_status(client: Process) -> None:
    client.do("u = socket(AF_INET, SOCK_DGRAM)\nrecv(u, 10) -> pending")
    client.session.caller.process.signal(signal.SIGKILL)
    reason = client.fail("data = await")
    assert "h1/other: its calling process" in reason
    assert "was killed by SIGKILL during recv(3, buf, 10, 0)" in reason
    with pytest.raises(AgentEnded):
        client.session.caller.begin(SystemCall("getpid")).wait(10)


def test_a_name_that_the_hosts_file_lacks_is_the_scenarios_mistake(client: Process) -> None:
    client.do("c = socket(AF_INET, SOCK_STREAM)")
    assert 'no nobody in this host\'s /etc/hosts. Line 1: connect(c, "nobody:80")' in client.fail(
        'connect(c, "nobody:80")'
    )
    with pytest.raises(CallImpossible):
        client.session.caller.call(SystemCall("recv", (3, "x")), 1)
    client.do("close(c)")


def test_one_call_at_a_time_is_the_developers_rule(client: Process) -> None:
    client.do("u = socket(AF_INET, SOCK_DGRAM)\nrecv(u, 10) -> pending")
    with pytest.raises(RuntimeError, match="one call at a time"):
        client.session.caller.begin(SystemCall("getpid"))


def test_a_refused_connect_reports_the_return_value_and_errno(client: Process) -> None:
    outcome = client.run('c = socket(AF_INET, SOCK_STREAM)\nconnect(c, "127.0.0.1:81")')
    assert str(outcome.failure) == (
        "connect(3, {AF_INET, 127.0.0.1:81}, 16) returned -1 ECONNREFUSED (Connection refused); expected 0. "
        'Line 2: connect(c, "127.0.0.1:81")'
    )
    record = outcome.records[-1]
    assert (record.returned, record.errno, record.errno_meaning) == (
        -1,
        "ECONNREFUSED",
        os.strerror(errno.ECONNREFUSED),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("getpid() -> 0", "; expected 0"),
        ('a, b = socketpair(AF_UNIX, SOCK_STREAM)\nwrite(a, b"x")\nread(b, 9) -> b"y"', "expected b'y'"),
        ("n = getpid()\nassert n == -5", "expected == -5"),
        ("close(77) -> EINVAL | ENOTSOCK", "returned -1 EBADF (Bad file descriptor); expected EINVAL or ENOTSOCK"),
        ("close($nothing)", "the scenario variable `nothing` has not been set"),
    ],
)
def test_a_failed_expectation_names_the_expected_result(text: str, reason: str, client: Process) -> None:
    assert reason in client.fail(text)


def test_paths_of_unix_sockets_are_made_and_unlinked(server: Process, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "x.sock"
    server.session._variables["path"] = str(path)
    server.do("""
        u = socket(AF_UNIX, SOCK_STREAM)
        bind(u, "${path}")
        bind(u, "${path}") -> EADDRINUSE
        me = getsockname(u)
        assert me.path == $path
        unlink("${path}")
        unlink("${path}") -> ENOENT
    """)


def test_a_caller_closed_while_blocked_ends(bench: Bench) -> None:
    caller = bench.start_agent()
    session = Session(caller, variables={}, origin_ns=0)
    assert (
        session.run(parse("u = socket(AF_INET, SOCK_DGRAM)\nrecv(u, 1) -> pending"), monotonic() + 20).failure is None
    )
    caller.close()
    caller.close()
    assert caller.process.wait(0) in (-signal.SIGKILL, 0)


def test_the_channel_of_a_calling_process_cannot_be_closed_by_the_scenario(client: Process) -> None:
    assert "belongs to labctl" in client.fail("close(1023)")


def test_times_are_on_the_clock_that_all_hosts_share(client: Process) -> None:
    before = monotonic_ns()
    result = client.session.caller.call(SystemCall("getpid"), 10)
    assert result is not None
    assert before < result.started_ns <= result.ended_ns < monotonic_ns()


def test_an_ipv6_socket_reaches_the_name_localhost_only_by_its_ipv6_address(client: Process) -> None:
    with open("/etc/hosts") as file:
        has_ipv6 = any(line.split()[:1] == ["::1"] and "localhost" in line.split() for line in file)
    client.do("c = socket(AF_INET6, SOCK_STREAM)")
    if has_ipv6:
        client.do('connect(c, "localhost:81") -> ECONNREFUSED')
    else:
        assert "localhost has no AF_INET6 address" in client.fail('connect(c, "localhost:81")')


def test_the_namespace_of_the_bench_is_not_the_machines(client: Process) -> None:
    client.do('c = socket(AF_INET, SOCK_DGRAM)\nsendto(c, b"x", "192.0.2.1:9") -> ENETUNREACH')
    assert socket.if_nameindex()
