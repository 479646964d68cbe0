from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.formats.sketch import Report, Sketch, valid_interface, valid_name
from labctl.names import node_name_problem


@given(st.text(max_size=100))
def test_every_foreign_name_becomes_a_valid_one(foreign: str) -> None:
    assert node_name_problem(valid_name(foreign)) == ""


@pytest.mark.parametrize(
    ("foreign", "name"),
    [
        ("New York", "New-York"),
        ("São Paulo (2)", "São-Paulo-2"),
        ("10", "n10"),
        ("a..b", "a.b"),
        ("", "node"),
        ("pc1", "pc1"),
        ("x" * 80, "x" * 63),
    ],
)
def test_a_valid_name_is_near_to_the_foreign_one(foreign: str, name: str) -> None:
    assert valid_name(foreign) == name


def test_names_that_differ_in_case_only_are_numbered() -> None:
    sketch = Sketch("x", "tool")
    assert [sketch.unique(name) for name in ("Lan", "lan", "lan")] == ["Lan", "lan-2", "lan-3"]


def test_equal_reasons_are_reported_together_with_lines() -> None:
    report = Report()
    for number in range(6):
        report.left_out(f"n{number}", "an image", number)
    assert [str(one) for one in report.missing] == ["n0, n1 (line 1), n2 (line 2), n3 (line 3), 2 more: an image"]


def test_an_interface_name_that_the_kernel_refuses_is_left_to_labctl() -> None:
    assert (valid_interface("eth1"), valid_interface("GigabitEthernet0/0")) == ("eth1", "")
