"""The list of statements in docs/scenario-files.md is the language as it is."""

from __future__ import annotations

from pathlib import Path

from labctl.scenario.language.checker import CheckContext, check
from labctl.scenario.language.parser import parse
from labctl.scenario.language.syntax import Kind, Known

PAGE = Path(__file__).parents[4] / "docs" / "scenario-files.md"


def statements() -> list[str]:
    """The blocks of the section on the call language, line by line."""
    section = PAGE.read_text("utf-8").partition("\n## The call language\n")[2].partition("\n## Expectations\n")[0]
    blocks = [block.partition("\n```")[0] for block in section.split("```text\n")[1:]]
    return [line for block in blocks for line in block.splitlines()]


def test_every_statement_of_the_list_is_taken_by_itself() -> None:
    kinds = dict.fromkeys(("s", "u", "c", "p", "conn", "fd"), Kind.DESCRIPTOR) | {"control": Kind.LIST}
    names = {name: Known(kind) for name, kind in {**kinds, "peer": Kind.ADDRESS, "me": Kind.ADDRESS}.items()}
    hosts, variables = frozenset({"server", "client"}), {"port"}
    lines = statements()
    assert len(lines) > 15
    for line in lines:
        pending = "accept(s)" if "await" in line else ""
        assert check(parse(line), CheckContext(hosts, dict(names), variables, pending)).problems == (), line


def test_the_list_has_every_way_to_expect_something() -> None:
    text = "\n".join(statements())
    for word in ("-> blocks", "-> pending", "= await", "within", "after", "until", "assert ", "$port"):
        assert word in text
