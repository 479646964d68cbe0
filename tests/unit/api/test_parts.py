"""The pure parts of the API: the journal, what is asked of a program, targets, results, errors."""

from __future__ import annotations

import re
import threading
import time

import pytest

import labctl
from labctl import ActivityKind, Completed, NotFound, ProgramFailed, ProgramTimedOut
from labctl.api.core import check_argv
from labctl.api.host import open_flags
from labctl.api.journal import KEPT, OUTPUT_CHARACTERS, Journal, Seen
from labctl.api.program import not_ready, parse_ready
from labctl.api.sockets import target


def test_every_public_name_is_there_and_documented() -> None:
    assert labctl.__all__ == sorted(labctl.__all__, key=lambda name: (not name[0].isupper(), name))
    for name in labctl.__all__:
        assert getattr(labctl, name).__doc__
    assert set(labctl.__all__) <= set(dir(labctl))
    assert not hasattr(labctl, "nonesuch")


def test_a_journal_keeps_the_last_in_the_order_in_which_they_began() -> None:
    journal = Journal()
    first = journal.begin("a", ActivityKind.RUN, "first")
    second = journal.begin("b", ActivityKind.RUN, "second")
    second.end("done")
    first.end("late", stdout="x" * (OUTPUT_CHARACTERS + 100))
    found = journal.activities()
    assert [each.what for each in found] == ["first", "second"]
    assert len(found[0].stdout) < OUTPUT_CHARACTERS + 20
    for number in range(KEPT):
        journal.begin("a", ActivityKind.SOCKET, str(number)).end("")
    assert len(journal.activities()) == KEPT
    assert journal.activities()[0].what == "0"
    assert journal.forgotten == 2


def test_an_error_is_noted_with_its_errno_and_raised() -> None:
    journal = Journal()
    with pytest.raises(ConnectionRefusedError), journal.noting("a", ActivityKind.CONNECT, "b:1"):
        raise ConnectionRefusedError(111, "no")
    with pytest.raises(ValueError, match="wrong"), journal.noting("a", ActivityKind.CONNECT, "b:1"):
        raise ValueError("wrong\nmore")
    assert [each.outcome for each in journal.activities()] == ["ECONNREFUSED", "ValueError: wrong"]


def test_what_goes_on_is_looked_at_when_it_is_asked_for() -> None:
    journal = Journal()
    entry = journal.begin("a", ActivityKind.START, "web")
    states = iter([Seen("running", False), Seen("exited", True, "out")])
    entry.look = lambda: next(states)
    assert journal.activities()[0].outcome == "running"
    assert journal.activities()[0].outcome == "exited"


def test_a_journal_is_written_by_many_threads() -> None:
    journal = Journal()

    def write() -> None:
        for _ in range(50):
            journal.begin("a", ActivityKind.RUN, "x").end("")
            journal.activities()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started = [each.started_s for each in journal.activities()]
    assert len(started) == 200
    assert started == sorted(started)
    assert started[-1] < time.monotonic() - journal.origin


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (8000, "listen on tcp/8000"),
        ("udp/53", "listen on udp/53"),
        ("tcp:80", "listen on tcp/80"),
        ("unix:/run/x", "listen on unix//run/x"),
        ("unix/@name", "listen on unix/@name"),
        (re.compile("go"), "write a line with 'go'"),
    ],
)
def test_readiness_is_written_so(written: int | str | re.Pattern[str], shown: str) -> None:
    told = not_ready(parse_ready(written), frozenset(), "not so within 1 s")
    assert told == f"was to {shown} before it is used; not so within 1 s"


@pytest.mark.parametrize("wrong", [True, None, 8.0, re.compile(b"go")])
def test_readiness_of_another_type_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="ready="):
        parse_ready(wrong)  # type: ignore[arg-type]


def test_a_target_is_text_or_a_pair() -> None:
    assert target("server:80") == target(("server", 80)) == ("server", 80)
    assert target("[fd00::2]:80") == ("fd00::2", 80)
    for wrong in ("server", "server:http", ":80", "server:*"):
        with pytest.raises(ValueError, match=r"80|port"):
            target(wrong)
    with pytest.raises(TypeError, match="server"):
        target(80)  # type: ignore[arg-type]


def test_a_command_is_a_list_of_words() -> None:
    assert check_argv(["a", "b"]) == ("a", "b")
    for wrong in ("ls -l", b"ls"):
        with pytest.raises(TypeError, match="list of words"):
            check_argv(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="are str"):
        check_argv([b"ls"])  # type: ignore[list-item]


@pytest.mark.parametrize("mode", ["", "rw", "rr", "bt", "rbt", "q", "r++"])
def test_a_mode_that_open_does_not_know_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="mode"):
        open_flags(mode)


def test_a_result_checks_itself() -> None:
    good = Completed("h", ("true",), 0, "out", "", 0.1)
    assert good
    assert good.check() is good
    bad = Completed("h", ("false", "a b"), -9, "", "why", 0.1)
    assert not bad
    with pytest.raises(ProgramFailed, match=r"host h: `false 'a b'` was ended by SIGKILL[^$]*why") as caught:
        bad.check()
    assert caught.value.returncode == -9


def test_errors_are_what_they_are_caught_as() -> None:
    assert issubclass(NotFound, KeyError)
    assert str(NotFound("no node `x`")) == "no node `x`"
    assert issubclass(ProgramTimedOut, ProgramFailed)
    assert (ProgramFailed.exit_status, labctl.ScenarioFailed.exit_status) == (1, 1)
