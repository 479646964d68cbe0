"""Causes of failed calls on sockets of AF_UNIX, from calls built by hand."""

from __future__ import annotations

from typing import Any

import pytest

from labctl.timeline.events import Call, Mark, Source
from labctl.timeline.evidence import Evidence
from labctl.timeline.explain import explain
from labctl.timeline.local_sockets import explain_local, path_of
from tests.timelines import Builder

PATH, ABSTRACT = '{AF_UNIX, "/tmp/x"}', '{AF_UNIX, @"x"}'


def called(b: Builder, at_us: float, host: str, name: str, arguments: str, result: int = 0, **more: Any) -> Call:
    b.call(at_us, at_us + 1, host, name, arguments, result, **{"fd": 3, **more})
    call = b.events[-1]
    assert isinstance(call, Call)
    return call


def bound(b: Builder, address: str = PATH, *, host: str = "server", at_us: float = 0) -> None:
    called(b, at_us, host, "bind", f"3, {address}, 9")


def failed(b: Builder, name: str, errno: str, address: str = PATH, *, host: str = "server") -> str:
    """The causes of a call that failed at 100 us on another descriptor."""
    call = called(b, 100, host, name, f"5, {address}, 9", -1, errno=errno, fd=5)
    return "; ".join(explain(b.timeline(), call))


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ('3, {AF_UNIX, "/tmp/x"}, 9', "/tmp/x"),
        ('3, {AF_UNIX, @"x"}, 9', "@x"),
        ("3, {AF_INET, 10.0.0.2:5000}, 16", ""),
        ("3, 5", ""),
    ],
)
def test_the_path_or_name_of_a_call(arguments: str, path: str) -> None:
    assert path_of(called(Builder(), 0, "server", "connect", arguments)) == path


def test_a_socket_file_of_another_host_is_not_reached() -> None:
    b = Builder()
    bound(b)
    assert failed(b, "connect", "ENOENT", host="client") == (
        "client has no file /tmp/x; server bound it, "
        "but a socket file belongs to one host, and links do not carry AF_UNIX"
    )


def test_an_abstract_name_of_another_host_is_not_reached() -> None:
    b = Builder()
    bound(b, ABSTRACT)
    assert "an abstract name belongs to one host" in failed(b, "connect", "ECONNREFUSED", ABSTRACT, host="client")


def test_a_path_that_is_bound_later_or_never() -> None:
    b = Builder()
    bound(b, at_us=1100)
    assert failed(b, "connect", "ENOENT") == "nothing had bound /tmp/x yet; server on server did 1.0 ms later"
    b = Builder()
    bound(b, '{AF_UNIX, "/tmp/y"}')
    assert failed(b, "connect", "ENOENT") == "no socket on server is bound to /tmp/x; server has bound /tmp/y"


def test_a_bound_socket_that_does_not_listen() -> None:
    b = Builder()
    bound(b)
    assert failed(b, "connect", "ECONNREFUSED") == "server on server has bound /tmp/x but has not called listen"


def test_a_file_outlives_its_socket() -> None:
    b = Builder()
    bound(b)
    called(b, 50, "server", "close", "3")
    remains = "the file /tmp/x remains of a socket that server on server bound, and that was closed at 0.1 ms"
    assert failed(b, "connect", "ECONNREFUSED") == remains
    assert failed(b, "bind", "EADDRINUSE") == f"{remains}; unlink it before bind"


def test_a_file_outlives_its_program() -> None:
    b = Builder()
    bound(b)
    common = b._common(50, "server", Source.MARKS)
    b.events.append(Mark(**common, text="exited with status 1", program="server", exit_status=1))
    assert "remains of a socket" in failed(b, "connect", "ECONNREFUSED")


def test_an_abstract_name_ends_with_its_socket() -> None:
    b = Builder()
    bound(b, ABSTRACT)
    called(b, 50, "server", "close", "3")
    assert failed(b, "connect", "ECONNREFUSED", ABSTRACT) == (
        "server on server closed the socket @x, and an abstract name ends with its socket"
    )


def test_the_holder_of_a_path_is_named() -> None:
    b = Builder()
    bound(b)
    assert failed(b, "bind", "EADDRINUSE") == "the same process on server has bound /tmp/x at 0.0 ms"


def test_files_of_unknown_owners_are_inferred() -> None:
    assert failed(Builder(), "bind", "EADDRINUSE").endswith("(inferred); unlink it before bind")
    assert failed(Builder(), "connect", "ECONNREFUSED").endswith("its owner has ended (inferred)")


def test_a_full_accept_queue_of_a_path() -> None:
    b = Builder()
    bound(b)
    called(b, 10, "server", "listen", "3, 1")
    for number in range(2):
        called(b, 20 + number, "server", "connect", f"7, {PATH}, 9", fd=7 + number)
    assert failed(b, "connect", "EAGAIN") == (
        "the accept queue of /tmp/x is full: 2 waiting for accept, with a backlog of 1; "
        "server on server listens and has not called accept"
    )


def test_calls_of_other_families_are_left_to_others() -> None:
    call = called(Builder(), 0, "server", "connect", "3, {AF_INET, 10.0.0.2:5000}, 16", -1, errno="ECONNREFUSED")
    assert explain_local(Evidence(Builder().timeline()), call) == []
