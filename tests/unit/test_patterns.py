"""Search for users' regular expressions in bounded time and memory."""

from __future__ import annotations

import re
import threading
from time import monotonic

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st
from pyfakefs.fake_filesystem import FakeFilesystem

from labctl import patterns
from labctl.patterns import CHEAP_STEPS, TooSlow, check_pattern, search, search_cost, search_lines

SLOW = ["(a+)+$x", "(a|aa)+$x", "(a?){40}b", r"^(\w+\s?)*$", r"(?=(a+)+$)b"]


@pytest.mark.parametrize("pattern", SLOW)
def test_a_search_stops_at_its_deadline(pattern: str) -> None:
    started = monotonic()
    with pytest.raises(TooSlow, match="cannot search for"):
        search(pattern, "a" * 60 + "!", re.MULTILINE, wall_s=0.3)
    assert monotonic() - started < 5


def test_the_bound_of_many_short_lines_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(pattern: str, flags: int, text: str) -> float:
        asked.append(text)
        return search_cost(pattern, flags, text)

    monkeypatch.setattr(patterns, "search_cost", counted)
    assert not search_lines("^ready$", ["y"] * 30_000)
    assert search_lines("^rea.*y$", ["y"] * 30_000 + ["really"])
    assert len(asked) == 2


def test_other_threads_run_during_a_long_search() -> None:
    ended = threading.Event()

    def look() -> None:
        with pytest.raises(TooSlow):
            search("(a+)+$x", "a" * 48, wall_s=2.0)
        ended.set()

    thread = threading.Thread(target=look)
    thread.start()
    waits = 0
    while not ended.wait(0.02):
        waits += 1
    thread.join()
    assert waits > 5


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("a{99999999999}", "the repetition number is too large at character 3"),
        ("(" * 500 + "a" + ")" * 500, "groups are nested more than 50 deep at character 51"),
        ("a" * 20000, "longer than 10000 characters"),
        ("a(b", "missing ), unterminated subpattern at character 2"),
        ("*", "nothing to repeat at character 1"),
    ],
)
def test_an_invalid_expression_is_refused_with_the_position(pattern: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", [r"port (\d+)", r"\[ready\] .* on [0-9.]+:\d+", "^x$", r"(?i)Hello", "a|b|c", r"\(" * 60]
)
def test_ordinary_expressions_on_ordinary_lines_need_no_process(pattern: str) -> None:
    check_pattern(pattern)
    assert search_cost(pattern, re.MULTILINE, "listening on 10.0.0.1:80, port 80\n" * 20) <= CHEAP_STEPS


@pytest.mark.parametrize(
    ("pattern", "text", "flags"),
    [
        (r"(x+)+y", "a\nxxy", re.MULTILINE),
        (r"(?<=a)(b|c)*d(?P<last>e)", "zabcbde", 0),
        (r"^((?:\w+ )+)end$", "one\ntwo three end\n", re.MULTILINE),
        (r"(A|b)+", "xxaBx", re.IGNORECASE),
        (r"(a|b)+\Z", "ab\udc80", 0),
        (r"(é|ü)+", "grüß", 0),
        (r"b*.c*[^d]*e", "x" * 3000 + "e", 0),
    ],
)
def test_a_search_in_a_separate_process_finds_what_re_finds(pattern: str, text: str, flags: int) -> None:
    assert search_cost(pattern, flags, text) > CHEAP_STEPS
    expected, found = re.search(pattern, text, flags), search(pattern, text, flags)
    assert (found and (found.span(), found.groups())) == (expected and (expected.span(), expected.groups()))


def test_a_pattern_is_searched_for_in_each_line() -> None:
    assert search_lines(re.compile("^(b|c)+$"), ["a", "bcb", "x"])
    assert not search_lines("^(b|c)+$", ["a", "bcbx", "x"])
    assert search_lines("b", ["a", "b"])
    assert not search_lines("a.b", ["a", "b"])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of sets in sets
@given(st.text("ab(|)*+?.[]^{1,2}\\d", max_size=12), st.text("ab1\n", max_size=30))
def test_a_cheap_search_equals_that_of_re(pattern: str, text: str) -> None:
    try:
        check_pattern(pattern)
    except ValueError:
        return
    if search_cost(pattern, 0, text) > CHEAP_STEPS:
        return
    expected, found = re.search(pattern, text), search(pattern, text)
    assert (found and found.span()) == (expected and expected.span())


def test_a_separate_process_searches_beside_fake_files(fs: FakeFilesystem) -> None:
    assert search("(a+)+b", "xaab") is not None
    with pytest.raises(TooSlow):
        search("(a+)+$x", "a" * 60, wall_s=0.3)


def test_the_deadline_of_a_search_follows_the_real_clock() -> None:
    with freeze_time("2020-01-01", auto_tick_seconds=3600):
        assert search("(a+)+b", "xaab", wall_s=60) is not None
