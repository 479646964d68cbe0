"""What strace(1) writes, read as calls."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from labctl.timeline.events import Call, Clock, Flow, Mark, SocketKey, Source
from labctl.timeline.sources.strace import DECODING_NS, StraceParser, command_line

OFFSET_NS = 1_700_000_000 * 10**9
CLOCK = Clock(offset_ns=OFFSET_NS)

# Of strace 6.1, with the options of `command_line`; a server that forks for each connection, and a client.
FORKING = rb"""11145 1700000001.000000100 execve("/usr/bin/sh", ["sh"...], 0x7ff /* 3 vars */) = 0 <0.000274750>
11145 1700000001.000000200 execve("./forks", ["./forks"], 0x561ff04feb38 /* 39 vars */) = 0 <0.000161080>
11145 1700000001.000000300 close(3</etc/ld.so.cache>) = 0 <0.000008102>
11145 1700000001.000000400 read(3</usr/lib/libc.so.6>, "\177ELF\2\1"..., 832) = 832 <0.000008503>
11145 1700000001.000000500 socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 3<socket:[32108534]> <0.000022073>
11145 1700000001.000000600 setsockopt(3<socket:[32108534]>, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0 <0.000009464>
11145 1700000001.000000700 bind(3<socket:[32108534]>, {sa_family=AF_INET, sin_port=htons(5077), sin_addr=inet_addr("10.0.0.2")}, 16) = 0 <0.000014882>
11145 1700000001.000000800 listen(3<socket:[32108534]>, 5) = 0 <0.000010545>
11145 1700000001.000000900 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f3) = 11151 <0.000143000>
11145 1700000001.000001000 accept(3<socket:[32108534]>,  <unfinished ...>
11151 1700000001.000001100 socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 4<socket:[32108770]> <0.000074030>
11151 1700000001.000001200 connect(4<socket:[32108770]>, {sa_family=AF_INET, sin_port=htons(5077), sin_addr=inet_addr("10.0.0.2")}, 16) = 0 <0.000111877>
11145 1700000001.000001300 <... accept resumed>{sa_family=AF_INET, sin_port=htons(50178), sin_addr=inet_addr("10.0.0.1")}, [16]) = 4<socket:[32108800]> <0.000000300>
11151 1700000001.000001400 sendto(4<socket:[32108770]>, "a, \"b\") = 1\n\0\1", 12, 0, NULL, 0) = 12 <0.000034742>
11145 1700000001.000001500 read(4<socket:[32108800]>,  <unfinished ...>
11151 1700000001.000001600 close(4<socket:[32108770]>) = 0 <0.000033000>
11145 1700000001.000001700 <... read resumed>"a, \"b\") = 1\n\0\1", 100) = 12 <0.000138908>
11151 1700000001.000001800 exit_group(0) = ?
11151 1700000001.000001900 +++ exited with 0 +++
11145 1700000001.000002000 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=11151} ---
11145 1700000001.000002100 accept(3<socket:[32108534]>, NULL, NULL) = ? ERESTARTSYS (To be restarted if SA_RESTART is set) <0.000500000>
11145 1700000001.000002200 +++ killed by SIGKILL +++
"""  # noqa: E501


def events_of(text: bytes, *cuts: int) -> list[Call | Mark]:
    parser = StraceParser("server", "x", CLOCK)
    edges = [0, *sorted(cuts), len(text)]
    events = [event for start, end in pairwise(edges) for event in parser.feed(text[start:end])]
    return events + parser.finish()


def calls_of(text: bytes, *cuts: int) -> list[Call]:
    """The last event of each call: what has returned replaces what was in progress."""
    return list({event.key: event for event in events_of(text, *cuts) if isinstance(event, Call)}.values())


def line(text: str, tid: int = 7) -> bytes:
    return f"{tid} 1700000001.000000000 {text}\n".encode()


def test_only_calls_on_sockets_are_events() -> None:
    assert [call.name for call in calls_of(FORKING)] == [
        *("socket", "setsockopt", "bind", "listen", "accept", "socket", "connect", "sendto", "read", "close", "accept"),
    ]


def test_a_call_has_its_process_times_and_socket() -> None:
    connect = next(call for call in calls_of(FORKING) if call.name == "connect")
    assert connect == Call(
        at_ns=10**9 + 1200,
        host="server",
        source=Source.SYSCALLS,
        seq=0,
        until_ns=10**9 + 1200 + DECODING_NS + 111877,
        pid=11151,
        tid=11151,
        program="forks[11151]",
        name="connect",
        arguments="4, {AF_INET, 10.0.0.2:5077}, 16",
        result=0,
        fd=4,
        socket=SocketKey("server", inode=32108770, flow=Flow("tcp", "", 0, "10.0.0.2", 5077)),
    )


def test_what_calls_show_of_a_socket_s_ends_is_known_of_later_calls() -> None:
    calls = {call.name: call for call in calls_of(FORKING)}
    assert calls["sendto"].socket == SocketKey("server", 32108770, 0, Flow("tcp", "", 0, "10.0.0.2", 5077))
    assert calls["listen"].socket == SocketKey("server", 32108534, 0, Flow("tcp", "10.0.0.2", 5077, "", 0))
    assert calls["read"].socket == SocketKey("server", 32108800, 0, Flow("tcp", "10.0.0.2", 5077, "10.0.0.1", 50178))


def test_data_is_what_the_string_stands_for() -> None:
    sent = next(call for call in calls_of(FORKING) if call.name == "sendto")
    assert (sent.data, sent.data_bytes, sent.result) == (b'a, "b") = 1\n\0\1'[:12], 12, 12)
    assert sent.arguments == r'4, "a, \"b\") = 1\n\0\1", 12, 0, NULL, 0'


def test_a_resumed_call_began_at_its_entry() -> None:
    accept = calls_of(FORKING)[4]
    assert (accept.name, accept.at_ns, accept.until_ns, accept.result) == (
        "accept",
        10**9 + 1000,
        10**9 + 1300 + DECODING_NS,
        4,
    )


def test_a_call_does_not_begin_before_the_thread_s_last_one_returned() -> None:
    text = b"""7 1700000001.000000000 listen(3<socket:[5]>, 5) = 0 <0.000003000>
7 1700000001.000015000 accept(3<socket:[5]>, NULL, NULL) = 4<socket:[6]> <0.000100000>
"""
    for cuts in ((), (100,)):  # the second line arrives in two pieces
        first, second = calls_of(text, *cuts)
        assert first.until_ns == second.at_ns == 10**9 + 3_000 + DECODING_NS


def test_a_call_in_progress_is_an_event_until_it_returns() -> None:
    parser = StraceParser("server", "x", CLOCK)
    parser.feed(line("socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 3<socket:[5]> <0.000001000>"))
    begun = parser.feed(line("accept4(3<socket:[5]>, ").rstrip(b"\n"))
    assert [(call.name, call.until_ns) for call in begun if isinstance(call, Call)] == [("accept4", None)]
    assert parser.feed(b"") == []
    (returned,) = parser.feed(b"NULL, NULL, 0) = 4<socket:[5]> <0.000001000>\n")
    assert isinstance(returned, Call)
    assert isinstance(begun[0], Call)
    assert (returned.key, returned.until_ns, returned.result) == (begun[0].key, begun[0].at_ns + DECODING_NS + 1000, 4)


def test_a_call_that_a_signal_interrupts_has_no_result() -> None:
    accept = calls_of(FORKING)[-1]
    assert (accept.result, accept.errno, accept.until_ns) == (None, "ERESTARTSYS", 10**9 + 2100 + DECODING_NS + 500_000)


def test_a_call_of_a_killed_program_has_not_returned() -> None:
    text = line("recvfrom(3<socket:[5]>,  <unfinished ...>) = ?") + line("+++ killed by SIGKILL +++")
    (call,) = calls_of(text)
    assert (call.name, call.result, call.until_ns) == ("recvfrom", None, None)


def test_an_error_has_its_name() -> None:
    text = line("socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP) = 3<socket:[9]> <0.000001000>") + line(
        "connect(3<socket:[9]>, {sa_family=AF_INET6, sin6_port=htons(81), sin6_flowinfo=htonl(0), "
        'inet_pton(AF_INET6, "fe80::1", &sin6_addr), sin6_scope_id=if_nametoindex("eth0")}, 28) = '
        "-1 ECONNREFUSED (Connection refused) <0.000100000>"
    )
    _, call = calls_of(text)
    assert (call.result, call.errno, call.arguments) == (-1, "ECONNREFUSED", "3, {AF_INET6, [fe80::1%eth0]:81}, 28")
    assert call.socket == SocketKey("server", 9, 0, Flow("tcp", "", 0, "fe80::1", 81))


def test_threads_belong_to_their_process_although_they_call_before_its_fork_returns() -> None:
    text = b"".join([
        line("clone3({flags=CLONE_VM|CLONE_FILES|CLONE_THREAD, stack=0x7f}, 88 <unfinished ...>"),
        line("socket(AF_UNIX, SOCK_DGRAM, 0) = 3<socket:[77]> <0.000001000>", tid=8),
        line("<... clone3 resumed> => {parent_tid=[8]}, 88) = 8 <0.000100000>"),
        line("close(3<socket:[77]>) = 0 <0.000001000>", tid=7),
    ])  # fmt: skip
    assert [(call.name, call.pid, call.tid) for call in calls_of(text)] == [("socket", 7, 8), ("close", 7, 7)]


def test_children_that_execute_no_program_have_their_pid_in_their_name() -> None:
    text = b"".join([
        line("clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD) = 8 <0.000100000>"),
        line("close(3<socket:[77]>) = 0 <0.000001000>", tid=8),
        line("close(4<socket:[78]>) = 0 <0.000001000>", tid=7),
        line("clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD) = 9 <0.000100000>", tid=8),
        line('execve("/usr/bin/cat", ["cat"], 0x7f /* 3 vars */) = 0 <0.000001000>', tid=9),
        line("close(4<socket:[78]>) = 0 <0.000001000>", tid=9),
    ])  # fmt: skip
    assert [call.program for call in calls_of(text)] == ["x[8]", "x", "cat"]


def test_messages_have_the_data_of_their_parts() -> None:
    text = line(
        "sendmsg(3<socket:[5]>, {msg_name={sa_family=AF_INET, sin_port=htons(53), "
        'sin_addr=inet_addr("10.0.0.2")}, msg_namelen=16, '
        'msg_iov=[{iov_base="ab", iov_len=2}, {iov_base="c\\303", iov_len=2}], msg_iovlen=2, '
        "msg_controllen=0, msg_flags=0}, 0) = 4 <0.000001000>"
    )
    (call,) = calls_of(text)
    assert (call.data, call.data_bytes) == (b"abc\xc3", 4)
    assert "msg_name={AF_INET, 10.0.0.2:53}" in call.arguments


def test_long_strings_are_shortened_and_their_data_kept() -> None:
    (call,) = calls_of(line(f'write(3<socket:[1]>, "{"x" * 200}"..., 4000) = 4000 <0.000001000>'))
    assert call.arguments == f'3, "{"x" * 64}"..., 4000'
    assert (call.data, call.data_bytes) == (b"x" * 200, 4000)


def test_options_that_are_structures_are_decoded() -> None:
    value = r'"\1\0\0\0\0\0\0\0 \241\7\0\0\0\0\0"'
    text = f"setsockopt(3<socket:[9]>, SOL_SOCKET, SO_RCVTIMEO_OLD, {value}, 16) = 0 <0.000000001>"
    (call,) = calls_of(line(text))
    assert call.arguments == "3, SOL_SOCKET, SO_RCVTIMEO_OLD, {tv_sec=1, tv_usec=500000}, 16"


def test_waits_have_what_they_found() -> None:
    text = line(
        "poll([{fd=3<socket:[5]>, events=POLLIN}, {fd=4</dev/null>, events=POLLIN}], 2, 500) = 1 "
        "([{fd=3, revents=POLLIN}]) <0.000001000>"
    )
    (call,) = calls_of(text)
    assert call.arguments == "[{fd=3, events=POLLIN}, {fd=4, events=POLLIN}], 2, 500"
    assert (call.value, call.fd) == ("[{fd=3, revents=POLLIN}]", None)


def test_processes_that_outlive_strace_spoil_the_run() -> None:
    *_, mark = events_of(line("socket(AF_INET, SOCK_STREAM, IPPROTO_IP) = 3<socket:[5]> <0.000001000>"))
    assert isinstance(mark, Mark)
    assert mark.text.startswith("strace of x was ended: its traced system calls fail with ENOSYS")
    assert not any(isinstance(event, Mark) for event in events_of(FORKING))


@given(st.lists(st.integers(0, len(FORKING)), max_size=30))
def test_calls_do_not_depend_on_where_the_output_is_cut(cuts: list[int]) -> None:
    assert calls_of(FORKING, *cuts) == calls_of(FORKING)


@given(st.binary(max_size=400))
def test_no_output_is_an_error(noise: bytes) -> None:
    lines = FORKING.split(b"\n")
    calls_of(b"\n".join([lines[0], noise, *lines[1:]]))
    calls_of(b"7 1700000001.000000000 sendto(3<socket:[5]>, " + noise + b") = 1 <0.000001000>\n")


def test_only_traced_calls_stop_a_program() -> None:
    assert "--seccomp-bpf" in command_line()
    assert "--seccomp-bpf" not in command_line(seccomp=False)
