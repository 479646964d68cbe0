"""The sentences of the manual pages, and that the table has what it should have."""

from __future__ import annotations

import re

import pytest

from labctl.lab.agent.constants import ERRNOS
from labctl.scenario.language.syntax import SIGNATURES
from labctl.timeline.call_errors import _rows, call_error


def test_a_refused_connect() -> None:
    found = call_error("connect", "ECONNREFUSED")
    assert str(found) == ("connect(2): No socket listens on the remote address; the host answered with RST.")


def test_a_call_on_a_unix_socket_has_a_sentence_of_its_own_if_it_needs_one() -> None:
    found = call_error("connect", "ECONNREFUSED", is_unix=True)
    assert found is not None
    assert found.page == "unix(7)"
    assert call_error("connect", "EISCONN", is_unix=True) == call_error("connect", "EISCONN")


def test_a_call_that_blocks() -> None:
    found = call_error("accept")
    assert found is not None
    assert found.sentence.startswith("The accept queue is empty")


def test_errnos_of_any_call() -> None:
    assert call_error("dup", "EBADF") == call_error("recv", "EBADF")
    assert call_error("getpid", "ELOOP") is None


def test_calls_errnos_and_pages_exist_and_sentences_are_sentences() -> None:
    for (call, errno), found in _rows().items():
        assert call == "*" or call.removesuffix("@unix") in SIGNATURES
        assert errno == "-" or errno in ERRNOS
        assert re.fullmatch(r"[a-z0-9_]+\([1-9]\)", found.page)
        assert re.fullmatch(r"[A-Z`].*\.", found.sentence)


@pytest.mark.parametrize(
    "call", ["accept", "connect", "recv", "recvfrom", "recvmsg", "send", "poll", "select", "epoll_wait"]
)
def test_each_call_that_blocks_has_a_sentence_of_its_own(call: str) -> None:
    assert call_error(call) != call_error("getpid")
