"""`labctl.unpatched`: its sockets do not go through what others may replace."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from labctl import unpatched


def blocked(*arguments: Any, **options: Any) -> None:
    raise RuntimeError("blocked")


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__init__", "connect", "bind", "listen", "accept", "send", "sendall", "recv", "sendmsg", "recvmsg"):
        monkeypatch.setattr(socket.socket, name, blocked)
    for name in ("socket", "socketpair", "create_connection"):
        monkeypatch.setattr(socket, name, blocked)


@pytest.mark.usefixtures("replaced")
def test_a_socket_uses_its_own_methods() -> None:
    with unpatched.Socket() as listener, unpatched.Socket(socket.AF_INET, socket.SOCK_STREAM) as near:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near.connect(listener.getsockname())
        far, peer = listener.accept()
        with far, far.dup() as copy:
            assert peer == near.getsockname()
            near.sendall(b"hello")
            assert copy.recv(10) == b"hello"
            copy.sendmsg([b"hello"])
            assert near.recvmsg(10)[0] == b"hello"


@pytest.mark.usefixtures("replaced")
def test_a_pair_is_connected() -> None:
    first, second = unpatched.socketpair()
    with first, second:
        first.sendall(b"hello")
        assert second.recv(10) == b"hello"
        assert not first.get_inheritable()


def test_a_socket_is_one_of_pythons() -> None:
    with unpatched.Socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert isinstance(sock, socket.socket)
        assert unpatched.StandardSocket is socket.socket
        with sock.makefile("rb"):
            assert sock.gettimeout() is None


def test_no_socket_and_no_clock_of_a_client_can_be_replaced() -> None:
    import re
    from pathlib import Path

    import labctl

    package = Path(labctl.__file__).parent
    found = [
        f"{path.relative_to(package)}: {match[0]}"
        for room in ("api", "kernel", "lab", "observe", "scenario")
        for path in (package / room).rglob("*.py")
        if "keeper" not in path.parts  # a process of its own
        for match in re.finditer(r"\b(socket\.socket\(|socket\.socketpair\(|time\.monotonic\()", path.read_text())
    ]
    assert found == []
