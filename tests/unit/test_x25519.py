from __future__ import annotations

import base64

import pytest

from labctl.x25519 import BASE_POINT, decode_key, multiply, public_key_of


def test_iterations_of_rfc_7748_section_5_2() -> None:
    nine = (9).to_bytes(32, "little")

    assert multiply(nine, 9).hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"


def test_both_sides_compute_one_secret() -> None:
    one, other = bytes(range(32)), bytes(range(32, 64))
    near, far = (int.from_bytes(multiply(key, BASE_POINT), "little") for key in (one, other))

    assert multiply(one, far) == multiply(other, near)


def test_a_public_key_is_in_base64() -> None:
    private = base64.b64encode((9).to_bytes(32, "little")).decode()

    assert decode_key(public_key_of(private)).hex().startswith("422c8e7a")


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!"])
def test_a_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|base64|padding|Only"):
        decode_key(text)
