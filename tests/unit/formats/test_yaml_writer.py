from __future__ import annotations

from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from labctl import documents
from labctl.formats.yaml_writer import scalar, write

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda key: key != "<<")
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.text(max_size=30), st.text("ab: #\n-'\"[", max_size=20)
)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, DATA, min_size=1, max_size=5))
@example({"a \u2028 b": ["c \u2029 d", "\x85 \x7f"]})  # line breaks of YAML 1.1
def test_what_is_written_reads_back_equal(data: dict[str, Any]) -> None:
    assert documents.parse(write(data), "x").data == data


@given(st.dictionaries(KEYS, st.text(max_size=30), min_size=1, max_size=5), st.text(max_size=40))
def test_comments_and_headers_do_not_change_the_data(data: dict[str, str], comment: str) -> None:
    text = write(data, [comment], {(next(iter(data)),): comment})
    assert documents.parse(text, "x").data == data


@given(st.text(max_size=20))
def test_a_parser_of_yaml_1_1_reads_texts_alike_up_to_its_numbers(text: str) -> None:
    assert yaml.safe_load(f"a: {scalar(text)}")["a"] == text or text[:1].isdigit()


def test_short_entries_stand_on_one_line_and_texts_of_several_lines_in_blocks() -> None:
    data = {"hosts": {"a": {}, "no": {"exec": ["ip route", {"shell": "x\ny\n"}]}}, "links": [["a", "no"]]}
    assert write(data, ["made"], {("links", 0): "5 km"}) == (
        "# made\n\nhosts:\n  a: {}\n"
        '  "no":\n    exec:\n      - ip route\n      - shell: |\n          x\n          y\n'
        'links:\n  - [a, "no"]  # 5 km\n'
    )
