from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labctl.programs.output import KeptOutput, LineWatch, Stream


def kept(limit: int, *parts: bytes) -> KeptOutput:
    output = KeptOutput(limit)
    for part in parts:
        output.append(part)
    return output


def test_little_output_is_kept_whole() -> None:
    output = kept(4, b"abc", b"defg")
    assert output.text() == "abcdefg"
    assert output.truncated_bytes == 0


def test_of_much_output_the_first_and_the_last_bytes_are_kept() -> None:
    output = kept(4, b"abcdefgh", b"ijkl", b"mnop")
    assert output.truncated_bytes == 8
    assert output.text() == "abcd\n[... 8 bytes left out ...]\nmnop"


def test_bytes_that_are_no_utf8_do_not_hurt() -> None:
    assert kept(4, b"a\xff").text() == "a\N{REPLACEMENT CHARACTER}"


def test_a_character_cut_by_two_reads_is_whole() -> None:
    assert kept(1, "é".encode()).text() == "é"


@given(st.lists(st.binary(max_size=20), max_size=30), st.integers(1, 16))
def test_what_is_kept_and_what_is_dropped_is_all_there_was(parts: list[bytes], limit: int) -> None:
    whole = b"".join(parts)
    output = kept(limit, *parts)
    assert output.total_bytes == len(whole)
    assert output.truncated_bytes == max(0, len(whole) - 2 * limit)
    if not output.truncated_bytes:
        assert output.text() == whole.decode("utf-8", "replace")


def watching(pattern: str, *parts: bytes) -> bool:
    watch = LineWatch(pattern)
    for part in parts:
        watch.feed(Stream.STDOUT, part)
    return watch.found


def test_a_line_that_comes_in_pieces_is_found() -> None:
    assert watching("^ready$", b"starting\nre", b"ady\n")


def test_a_line_without_its_end_is_found() -> None:
    assert watching("Serving on port 80", b"Serving on port 80")


def test_a_pattern_does_not_reach_over_lines() -> None:
    assert not watching("one.*two", b"one\ntwo\n")


def test_what_was_found_stays_found() -> None:
    assert watching("a", b"a\n", b"b\n")
