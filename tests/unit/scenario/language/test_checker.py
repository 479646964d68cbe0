"""What is found wrong with a program before anything is built."""

from __future__ import annotations

import tracemalloc

import pytest

from labctl.scenario.language.checker import CheckContext, check
from labctl.scenario.language.parser import parse
from labctl.scenario.language.syntax import Kind, Known, Problem

HOSTS = frozenset({"server", "client", "h1"})
S = "s = socket(AF_INET, SOCK_STREAM)\n"


def problems(text: str, context: CheckContext | None = None) -> tuple[Problem, ...]:
    return check(parse(text), context or CheckContext(HOSTS, {}, {"port"})).problems


def test_everything_in_the_grammar_is_accepted() -> None:
    text = r"""
        s = socket(AF_INET, SOCK_STREAM, 0)
        bind(s, "server:5000")
        bind(s, "10.0.0.1:80")
        six = socket(AF_INET6, SOCK_DGRAM)
        bind(six, "[fe80::1%eth0]:80")
        sendto(six, b"x", "10.0.0.1:80")
        bind(s, ":0")
        bind(s, "*:5000")
        u = socket(AF_UNIX, SOCK_DGRAM)
        bind(u, "/tmp/x.sock")
        bind(u, "@name")
        bind(u, "server.sock")
        listen(s, 2)
        listen(s, SOMAXCONN)
        conn, peer = accept(s)
        conn, peer = accept(s, addrlen=4)
        n = accept4(s, SOCK_NONBLOCK | SOCK_CLOEXEC)
        c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK)
        connect(c, "server:81") -> ECONNREFUSED
        connect(c, "server:${port}") -> 0 | EINPROGRESS
        connect(c, AF_UNSPEC)
        connect(c, peer)
        connect(c, [AF_INET6, "[::1]:80"]) -> EAFNOSUPPORT
        send(c, b"hello") -> 5
        recv(conn, 100, MSG_DONTWAIT) -> EAGAIN
        accept(s) -> blocks 200ms
        conn, peer = await
        accept(s) -> pending
        await -> 4 within 2s
        recv(c, 10) -> b"" within 1s
        recv(c, 10) -> EAGAIN after 100ms
        total = send(c, b"x" * 65536) until EAGAIN
        got = recv(conn, 65536) until b""
        assert peer.port == 40000
        assert peer.host in ["10.0.0.1", "10.0.0.2"]
        $mine = peer.port
        connect(c, "server:${mine}")
        x = b"a" * 10 + b"b"
        assert len(x) >= 11
        data, addr, flags = recvmsg(s, 100)
        sendmsg(s, [b"a", b"b"], "server:5000")
        sendmsg(s, b"a", MSG_DONTWAIT)
        sendto(s, b"a", MSG_DONTWAIT, addr)
        sendto(s, b"a", "server:5000")
        a, b = socketpair(AF_UNIX, SOCK_STREAM)
        ready = poll([[c, POLLIN | POLLHUP], [s, POLLIN]], "1s") -> 1
        r, w, e = select([c], [], [], 100)
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, True)
        setsockopt(s, SOL_SOCKET, SO_LINGER, [1, 0])
        setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, "200ms")
        v = getsockopt(c, SOL_SOCKET, SO_ERROR) -> ECONNREFUSED
        flags = fcntl(c, F_GETFL)
        fcntl(c, F_SETFL, flags | O_NONBLOCK)
        set_nonblocking(c)
        set_nonblocking(c, False)
        n = ioctl(c, SIOCOUTQ)
        setrlimit(RLIMIT_NOFILE, 5)
        drop_capabilities()
        drop_capabilities(CAP_NET_BIND_SERVICE, CAP_NET_RAW)
        unlink("/tmp/x.sock")
        getpid()
        close(c)
        dup2(c, 9)
        close(99)
        socket(99, 1, IPPROTO_TCP)
    """
    assert problems(text) == ()


@pytest.mark.parametrize(
    ("text", "column", "message", "hint"),
    [
        ("sokcet(AF_INET, SOCK_STREAM)", 0, "there is no call `sokcet`", "did you mean `socket`?"),
        ("socket(AF_INTE, SOCK_STREAM)", 7, "there is no constant `AF_INTE`", "did you mean `AF_INET`?"),
        ("socket(SOCK_STREAM, 1)", 7, "socket: `SOCK_STREAM` is not a domain, AF_...", "the order is"),
        ("socket(AF_INET)", 0, "socket does not take 1 argument", "socket(AF_INET, SOCK_STREAM[, 0])"),
        (S + "listen(s)", 0, "listen does not take 1 argument", "listen(s, 5)"),
        (S + 'send(s, "hello")', 8, 'send: expected bytes, b"...", got a text', 'bytes are written b"hello"'),
        (S + "recv(s, b'x')", 8, "recv: expected a number of bytes, got bytes", ""),
        (S + "recv(s, 10, SO_ERROR)", 12, "recv: `SO_ERROR` is not flags, MSG_...", ""),
        (S + "shutdown(s, MSG_PEEK)", 12, "shutdown: `MSG_PEEK` is not SHUT_RD, SHUT_WR or SHUT_RDWR", ""),
        ("close(q)", 6, "`q` has not been assigned", ""),
        (S + "conn = accept(ss)", 14, "`ss` has not been assigned", ""),
        (S + 'connect(s, "sever:80")', 11, "there is no host `sever`", "did you mean `server`?"),
        (S + 'connect(s, "server")', 11, '"server" is not an address', 'write "HOST:PORT"'),
        (S + 'connect(s, "server:99999")', 11, '"server:99999": `99999` is not a port', "a number from 0 to 65535"),
        (S + 'connect(s, "server:http")', 11, '"server:http": `http` is not a port', ""),
        (S + "connect(s, AF_INET)", 11, "connect: `AF_INET` is not an address", "AF_UNSPEC is the only"),
        (S + "connect(s, 5)", 11, "connect: expected an address", ""),
        (
            S + 'connect(s, "server:1") -> ECONREFUSED',
            26,
            "there is no errno `ECONREFUSED`",
            "did you mean `ECONNREFUSED`",
        ),
        (S + 'send(s, b"x") -> b"x"', 17, "this call returns no bytes", "`-> N` compares"),
        (S + 'recv(s, 10) -> "x"', 15, "a call returns no text", 'bytes are written b"..."'),
        (S + "a, b, c = accept(s)", 0, "accept returns 1 to 2 values, not 3", "conn, peer = accept(s)"),
        ("a = socketpair(AF_UNIX, SOCK_STREAM)", 0, "socketpair returns 2 values, not 1", "a, b = socketpair"),
        ("x = await", 4, "no call of this process is pending", "`-> blocks` or `-> pending`"),
        (S + "c = accept(s) -> pending", 0, "a call that stays pending returns no value", "take it later: c = await"),
        (S + "recv(s, 10, addrlen=4)", 12, "recv has no argument `addrlen=`", "allowed: none"),
        (S + "accept(s, addlen=4)", 10, "accept has no argument `addlen=`", "allowed: only `addrlen`"),
        (S + "x = $prot", 4, "there is no scenario variable `prot`", "did you mean `port`?"),
        (S + 'connect(s, "server:${prot}")', 11, "there is no scenario variable `prot`", "did you mean `port`?"),
        (S + "me = getsockname(s)\nassert me.prot == 5", 10, "an address has no `.prot`", "did you mean `port`?"),
        (S + "assert s.port == 5", 9, "a descriptor has no `.port`", ""),
        ('x = b"a" + 5', 9, "`+` does not take bytes and a number", ""),
        ("EAGAIN = 5", 0, "cannot assign `EAGAIN`: it is a constant", ""),
        (S + 'poll([s, POLLIN], "1")', 18, "the duration `1` has no unit", ""),
        (S + "poll(s)", 5, "poll: expected a list such as [c, POLLIN], got a descriptor", ""),
        (S + 'recv(s, 1) until b"" -> 0', 17, "a call takes `until` or `->`, not both", ""),
        ("drop_capabilities(NET_RAW)", 18, "there is no constant `NET_RAW`", ""),
    ],
)
def test_a_mistake_is_reported_at_its_place(text: str, column: int, message: str, hint: str) -> None:
    (found,) = problems(text)
    assert (found.line, found.column) == (text.count("\n"), column)
    assert found.message.startswith(message)
    assert found.hint.startswith(hint)


def test_all_mistakes_are_reported_at_once_and_none_causes_another() -> None:
    text = """
s = sokcet(AF_INET, SOCK_STREAM)
bind(s, "sever:80")
t = socket(AF_INET SOCK_STREAM)
listen(t)
accept(s) -> pending
x = await within 5
close(nothing)
"""
    assert [(found.line, found.column) for found in problems(text)] == [
        (1, 4),
        (2, 8),
        (3, 19),
        (4, 0),
        (6, 17),
        (7, 6),
    ]


def test_another_call_while_one_is_pending_is_reported_once() -> None:
    found = problems(S + "accept(s) -> blocks\nclose(s)\nclose(s)\nawait\nclose(s)")
    assert [(problem.line, problem.hint) for problem in found] == [(2, "`await` it first")]


def test_names_variables_and_the_pending_call_persist_from_step_to_step() -> None:
    first = check(
        parse(S + "$mine = 5\nconn = accept(s) -> EAGAIN\naccept(s) -> blocks"), CheckContext(HOSTS, {}, set())
    )
    assert first.problems == ()
    assert first.context.names["s"] == Known(Kind.DESCRIPTOR, "AF_INET", "SOCK_STREAM")
    assert first.context.pending == "accept"
    assert first.context.variables == {"mine"}
    second = check(parse("conn, peer = await\nclose(conn)\nx = $mine"), first.context)
    assert second.problems == ()
    assert second.context.pending == ""


def test_memory_grows_with_the_number_of_mistakes_and_not_with_its_square() -> None:
    program = parse("\n".join(f"recv(name{number}, 5)" for number in range(5000)))
    tracemalloc.start()
    try:
        found = check(program, CheckContext(HOSTS, {}, set()))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20  # of lists of the names so far: 100 MB
    finally:
        tracemalloc.stop()
    assert len(found.problems) == 5000
    later = check(parse("recv(other, 5)"), found.context)
    assert later.context.names is found.context.names  # a copy for each of 100,000 steps takes minutes


def test_a_near_miss_is_a_name_that_was_known_there() -> None:
    found = problems("recv(first, 5)\nrecv(frist, 5)\nrecv(second, 5)\nrecv(secnod, 5)")
    assert [problem.hint for problem in found] == ["", "did you mean `first`?", "", "did you mean `second`?"]


def test_the_family_of_a_descriptor_selects_the_form_of_its_addresses() -> None:
    assert problems('u = socket(AF_UNIX, SOCK_STREAM)\nbind(u, "whatever:you:like")') == ()
    assert problems('u = socket(AF_INET6, SOCK_STREAM)\nbind(u, "/tmp/x")') != ()


def test_a_value_that_is_unknown_before_the_run_is_not_reported() -> None:
    unknown = CheckContext()
    assert problems('connect(5, "anybody:80")\nx = $anything\nlisten(5, ${backlog})', unknown) == ()
    assert problems('s = socket(AF_INET, SOCK_STREAM)\nconnect(s, "${host}:80")', unknown) == ()
