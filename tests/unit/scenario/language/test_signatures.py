from __future__ import annotations

import pytest

from labctl.scenario.language.checker import CheckContext, check
from labctl.scenario.language.parser import parse
from labctl.scenario.language.signatures import SIGNATURES, Kind, Known

NAMES = {name: Known(Kind.DESCRIPTOR) for name in ("s", "c", "u", "e", "fd")}


def without_options(usage: str) -> str:
    """Return a usage without its optional parts, `[, ...]`, which may contain brackets."""
    kept, depth = "", 0
    for position, character in enumerate(usage):
        if depth or usage.startswith("[, ", position):
            depth += (character == "[") - (character == "]")
        else:
            kept += character
    return kept


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_usage_of_a_call_is_valid_without_its_optional_arguments(name: str) -> None:
    for text in without_options(SIGNATURES[name].usage).split(" or "):
        program = parse(text)
        problems = check(program, CheckContext(names=dict(NAMES))).problems
        assert list(map(str, problems)) == [], text


def test_the_number_of_arguments_selects_the_form() -> None:
    sendto = SIGNATURES["sendto"]
    assert [len(sendto.form_for(count) or ()) for count in (2, 3, 4, 5)] == [0, 3, 4, 0]
    assert len(SIGNATURES["drop_capabilities"].form_for(7) or ()) == 7
