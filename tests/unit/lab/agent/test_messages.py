"""The messages between an agent and its client: from values to frames and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.kernel.sockaddr import decode as decode_address
from labctl.lab.agent.messages import (
    LENGTH_BYTES,
    Begun,
    CallResult,
    CStruct,
    Impossible,
    Stop,
    SystemCall,
    Value,
    decode,
    decode_answer,
    encode,
)
from labctl.structs import MsgspecError

_VALUES: st.SearchStrategy[Value] = st.recursive(
    st.one_of(
        st.integers(-(2**63), 2**63),
        st.text(),
        st.binary(),
        st.none(),
        st.builds(decode_address, st.binary(max_size=30)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.builds(CStruct, st.lists(st.tuples(st.text(), inner), max_size=3).map(tuple)),
    ),
    max_leaves=5,
)


@given(st.lists(_VALUES, max_size=4))
def test_a_call_survives_the_wire(arguments: list[Value]) -> None:
    call = SystemCall("send", tuple(arguments), 4, (Stop(errno=11), Stop(data=b"\0")))
    assert decode(encode(call)[LENGTH_BYTES:], SystemCall) == call


@given(st.lists(_VALUES, max_size=4), st.text())
def test_an_answer_survives_the_wire(values: list[Value], text: str) -> None:
    for answer in (
        CallResult(text, -1, 11, 5, 6, -1, tuple(values), text, 3, False),
        Begun(5, text),
        Impossible(text),
    ):
        assert decode_answer(encode(answer)[LENGTH_BYTES:]) == answer


def test_text_with_bytes_that_are_not_utf8_survives_the_wire() -> None:
    call = SystemCall("unlink", ("/tmp/\udcff",))
    assert decode(encode(call)[LENGTH_BYTES:], SystemCall) == call


def test_a_frame_begins_with_the_length_of_its_payload() -> None:
    frame = encode(Impossible("no host of that name"))
    assert int.from_bytes(frame[:LENGTH_BYTES], "big") == len(frame) - LENGTH_BYTES


@pytest.mark.parametrize("payload", [b"[]", b"{}", b'{"type": "Begun"}', b'{"type": "SystemCall", "name": "x"}'])
def test_an_answer_of_another_shape_is_refused(payload: bytes) -> None:
    with pytest.raises(MsgspecError):
        decode_answer(payload)
