"""The table of calls."""

from __future__ import annotations

import pytest

from labctl.lab.agent.addresses import CannotForm
from labctl.lab.agent.handlers import HANDLERS, prepare
from labctl.lab.agent.messages import SystemCall
from labctl.scenario.language.syntax import SIGNATURES


def test_every_call_of_the_language_has_a_handler() -> None:
    assert SIGNATURES.keys() - HANDLERS.keys() == {"set_nonblocking"}  # the language makes two calls of fcntl of it
    assert HANDLERS.keys() <= SIGNATURES.keys()


def test_an_unknown_call_has_none() -> None:
    with pytest.raises(CannotForm, match="there is no call fork"):
        prepare(SystemCall("fork"))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (SystemCall("listen", (3, 128)), "listen(3, 128)"),
        (SystemCall("shutdown", (3, 2)), "shutdown(3, SHUT_RDWR)"),
        (SystemCall("recv", (3, 10, 2)), "recv(3, buf, 10, MSG_PEEK)"),
        (SystemCall("read", (3, 10)), "read(3, buf, 10)"),
        (SystemCall("accept4", (-1, 0o4000)), "accept4(-1, addr, [16], SOCK_NONBLOCK)"),
        (SystemCall("getpid"), "getpid()"),
    ],
)
def test_a_prepared_call_reads_as_in_c(call: SystemCall, text: str) -> None:
    assert prepare(call).text(None) == text
