"""Frames carry bodies and descriptors; JSON is that of the standard library."""

from __future__ import annotations

import json
import os
import socket
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import LabGone
from labctl.lab import frames, protocol
from labctl.lab.description import RECORDS
from labctl.lab.frames import FrameStream, from_json, to_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def soon() -> float:
    return time.monotonic() + 10


def test_the_version_is_that_of_the_messages() -> None:
    """If a message has changed: write the number that this test computes into labctl/lab/frames.py."""
    messages = [kind for base in (protocol.Request, protocol.Reply) for kind in base.__subclasses__()]
    fields = [(kind.__name__, kind.__annotations__) for kind in messages]
    fields += [(kind.__name__, kind.__init__.__annotations__) for kind in RECORDS]
    assert zlib.crc32(repr(fields).encode()) == frames.VERSION


@given(VALUES)
def test_json_is_that_of_the_standard_library(value: object) -> None:
    body = to_json(value)
    assert body == json.dumps(value, separators=(",", ":")).encode()
    assert from_json(body) == json.loads(body) == value


def test_json_keeps_surrogates_that_stand_for_bytes() -> None:
    assert from_json(to_json(os.fsdecode(b"\xff/\xfe"))) == os.fsdecode(b"\xff/\xfe")


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[", b"{]", b"[1,]", b"[NaN]", b"[Infinity]", b"[1] ", b"[1][2]", b'"x']
)
def test_json_that_is_malformed_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(body)


def test_what_json_cannot_hold_is_not_encoded() -> None:
    for value in (float("nan"), {1, 2}, b"bytes"):
        with pytest.raises(ValueError, match=r"JSON"):
            to_json([value])


def test_a_large_frame_arrives_whole_with_its_descriptors() -> None:
    one, other = socket.socketpair()
    body = os.urandom(1 << 16) * 2
    reading, writing = os.pipe()
    FrameStream(one).send_body(3, body, [reading, writing], until=soon())
    received = FrameStream(other).receive_body(until=soon())
    assert received is not None
    assert received[:2] == (3, body)
    arrived = received[2]
    assert [os.fstat(each).st_ino for each in arrived] == [os.fstat(each).st_ino for each in (reading, writing)]
    frames.close_all((*arrived, reading, writing))
    for sock in (one, other):
        sock.close()


def test_half_a_frame_at_the_end_of_the_stream_is_the_end_of_the_lab() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.send(frames.HEADER.pack(10, 1, 0) + b"12345")
        one.shutdown(socket.SHUT_WR)
        with pytest.raises(LabGone, match="ended inside a message"):
            FrameStream(other).receive_body(until=soon())
