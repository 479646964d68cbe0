"""Who can make a lab without a user namespace."""

from __future__ import annotations

import os

import pytest

from labctl.kernel.capabilities import NEEDED, effective_capabilities, needs_user_namespace, status_field

ALL = sum(1 << capability for capability in NEEDED)


def test_root_with_its_capabilities_needs_no_user_namespace() -> None:
    assert not needs_user_namespace(0, ALL)


@pytest.mark.parametrize("missing", NEEDED)
def test_root_without_any_one_of_them_needs_a_user_namespace(missing: int) -> None:
    assert needs_user_namespace(0, ALL & ~(1 << missing))


def test_an_ordinary_user_needs_a_user_namespace() -> None:
    assert needs_user_namespace(1000, 0)


def test_the_capabilities_of_this_process_are_a_mask_of_64_bits() -> None:
    assert 0 <= effective_capabilities() < 1 << 64


def test_a_field_of_the_status_has_its_value_and_an_unknown_one_none() -> None:
    assert status_field("Pid") == str(os.getpid())
    assert status_field("NoSuchField") == ""
