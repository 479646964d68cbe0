"""Valid and invalid names of nodes and interfaces."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.names import idna_form, interface_name_problem, name_key, node_name_problem

MODEST = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KERNEL_FORBIDS = re.compile(rb"[/:%\s\xa0]")  # dev_valid_name in net/core/dev.c; its isspace() knows Latin-1

NAMES = st.text(st.characters(categories=("L", "N"), include_characters="-_."), min_size=1, max_size=40)


def valid_for_the_kernel(name: str) -> bool:
    raw = name.encode()
    return 0 < len(raw) <= 15 and not KERNEL_FORBIDS.search(raw) and name not in (".", "..")


@MODEST
@given(st.text(max_size=80))
def test_any_text_is_a_valid_name_or_refused(name: str) -> None:
    problem = node_name_problem(name)
    if not problem:
        assert 0 < len(name.encode()) <= 63
        assert "/" not in name
        assert name[0] not in "-."
    if not interface_name_problem(name):
        assert valid_for_the_kernel(name)


@pytest.mark.parametrize(
    "name", ["server", "client-1", "web.example", "R_2", "büro", "сервер", "主机", "हिन्दी", "x" * 63]
)
def test_good_node_names(name: str) -> None:
    assert node_name_problem(name) == ""


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("", "is empty"),
        ("a/b", "contains `/`"),
        ("a b", "contains a space"),
        ("a\nb", "U+000A"),
        ("-a", "starts with `-`"),
        (".hidden", "starts with `.`"),
        ("a.", "ends with `.`"),
        ("a..b", "contains `..`"),
        ("x" * 64, "64 bytes"),
        ("主" * 22, "66 bytes"),
        ("1", "IPv4 address"),
        ("127.1", "IPv4 address"),
        ("0x7f.1", "IPv4 address"),
        ("LocalHost", "every host"),
    ],
)
def test_bad_node_names(name: str, part: str) -> None:
    assert part in node_name_problem(name)


@pytest.mark.parametrize(
    "name", ["lo", "all", "default", "eth/0", "a:b", "à", "sixteen-bytes-xx", "", ".", "..", "a b", "%d"]
)
def test_bad_interface_names(name: str) -> None:
    assert interface_name_problem(name)


def test_names_that_differ_only_in_case_are_the_same() -> None:
    assert name_key("SERVER") == name_key("server")
    assert name_key("Ärger") == name_key("ä".upper() + "RGER")


def test_a_name_outside_ascii_has_an_idna_form() -> None:
    assert idna_form("büro") == "xn--bro-hoa"
    assert idna_form("server") == ""
