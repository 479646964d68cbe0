"""Parameters, repetition and includes with arguments: what they write out, and where their mistakes are."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from labctl import topology
from labctl.documents import DocumentError, parse
from labctl.documents.diagnostics import Mistake
from labctl.topology.composition import arguments_of, with_arguments
from labctl.topology.model import Topology


def loaded(directory: Path, text: str, **arguments: object) -> Topology:
    (directory / "lab.yaml").write_text(text)
    return topology.load(directory / "lab.yaml", arguments=arguments)


def mistakes(directory: Path, text: str, **arguments: object) -> list[tuple[str, str]]:
    """The mistakes, each with its position."""
    with pytest.raises(DocumentError) as caught:
        loaded(directory, text, **arguments)
    return [(str(one.position), one.message) for one in caught.value.diagnostics]


RING = """parameters: {n: 4, rate: 10mbit}
for:
  - each: {i: 1..n}
    routers: {"r${i}": {sysctls: {net.ipv4.ip_default_ttl: "${60 + i}"}}}
    links: [{ends: ["r${i}", "r${i % n + 1}"], rate: "${rate}", mtu: "${1400 + i}"}]
"""


def test_a_ring(tmp_path: Path) -> None:
    ring = loaded(tmp_path, RING)
    assert [node.name for node in ring.nodes] == ["r1", "r2", "r3", "r4"]
    assert [(link.a.node, link.b.node) for link in ring.links] == [
        ("r1", "r2"),
        ("r2", "r3"),
        ("r3", "r4"),
        ("r4", "r1"),
    ]
    assert ring.nodes[2].interfaces[1].mtu == 1403
    assert ("net.ipv4.ip_default_ttl", "63") in ring.nodes[2].sysctls


def test_arguments_replace_parameters(tmp_path: Path) -> None:
    ring = loaded(tmp_path, RING, n=7, rate="1gbit")
    assert len(ring.nodes) == 7
    impairment = ring.nodes[0].interfaces[0].impairment
    assert impairment is not None
    assert impairment.rate_bit_s == 10**9


def test_pairs_conditions_and_shared_networks(tmp_path: Path) -> None:
    text = """
parameters: {cities: [berlin, paris, rome]}
networks: {wan: {members: []}}
for:
  - each: {i: 0..2}
    routers: {"${cities[i]}": }
    networks: {wan: {members: ["${cities[i]}"]}}
  - each: {i: 0..2, j: i+1..2}
    where: not (i == 0 and j == 2)
    links: [["${cities[i]}", "${cities[j]}"]]
  - each: {site: [{name: x, hosts: [a, b]}, {name: y, hosts: [c]}]}
    routers: {"${site.name}": }
    for:
      each: {host: site.hosts}
      hosts: {"${host}": }
      links: [["${site.name}", "${host}"]]
"""
    made = loaded(tmp_path, text)
    pairs = [(link.a.node, link.b.node) for link in made.links]
    assert pairs == [
        *(("berlin", "wan"), ("paris", "wan"), ("rome", "wan"), ("berlin", "paris"), ("paris", "rome")),
        *(("x", "a"), ("x", "b"), ("y", "c")),
    ]


def test_other_variables_stay(tmp_path: Path) -> None:
    text = """
parameters: {n: 1}
hosts:
  h${n}: {environment: {A: "${PORT} ${self.ipv4} ${file%.txt} $${n} ${n}", B: "$${h1.ipv4}"}}
  other: {}
links: [["h${n}", other]]
"""
    environment = dict(loaded(tmp_path, text).nodes[0].environment)
    assert environment == {"A": "${PORT} 10.0.0.1 ${file%.txt} ${n} 1", "B": "${h1.ipv4}"}


def test_includes_with_arguments(tmp_path: Path) -> None:
    (tmp_path / "home.yaml").write_text(
        'parameters: {name: , pcs: 1}\nrouters: {"${name}": }\n'
        'hosts: {"${name}-pc": {count: "${pcs}"}}\nlinks: [["${name}", "${name}-pc"]]\n'
    )
    text = """
include:
  - {file: home.yaml, with: {name: alice, pcs: 2}}
  - {file: home.yaml, with: {name: bob}}
  - {file: home.yaml, with: {name: bob}}
links: [[alice, bob]]
"""
    names = [node.name for node in loaded(tmp_path, text).nodes]
    assert names == ["alice-pc-1", "alice-pc-2", "alice", "bob-pc-1", "bob"] or sorted(names) == [
        *("alice", "alice-pc-1", "alice-pc-2", "bob", "bob-pc-1")
    ]
    missing = mistakes(tmp_path, "include: [home.yaml]\n")
    assert missing == [("1:11", "the parameter `name` of home.yaml needs a value")]


def test_mistakes_in_arguments_are_at_the_include(tmp_path: Path) -> None:
    (tmp_path / "home.yaml").write_text('parameters: {pcs: 1}\nhosts: {pc: {count: "${pcs}"}}\n')
    unknown = mistakes(tmp_path, "include:\n  - {file: home.yaml, with: {pc: 2}}\n")
    assert unknown == [("2:30", "home.yaml has no parameter `pc`")]
    with pytest.raises(DocumentError) as caught:
        loaded(tmp_path, "include:\n  - {file: home.yaml, with: {pcs: many}}\n")
    (wrong,) = caught.value.diagnostics
    assert (Path(wrong.file).name, wrong.message) == ("home.yaml", "expected a whole number, got the text `many`")
    assert wrong.hint.endswith("lab.yaml:2:29")


def test_a_parameter_without_a_value_makes_no_further_mistakes(tmp_path: Path) -> None:
    text = 'parameters: {n: }\nhosts: {h: {count: "${n}"}, z: {cuont: 2}}\nlinks: [[h-1, z]]\n'
    assert mistakes(tmp_path, text) == [
        ("1:14", "the parameter `n` needs a value"),
        ("2:33", "unknown key `cuont`"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("for: [{each: {i: 1..3}, hosts: {h: }}]", ("1:33", "more than one repetition makes `h`")),
        ("for: [{each: {i: 1..3}, name: x}]", ("1:25", "`for` cannot repeat `name`")),
        ("for: []\neach: {i: 1..3}", ("2:1", "unknown key `each`")),
        ("for: [{hosts: {}}]", ("1:7", "expected a mapping with `each`")),
        ("for: [{each: {i: many}, hosts: {}}]", ("1:18", "`many` uses the unknown name `many`")),
        ("for: [{each: {i: 1..x}, hosts: {}}]", ("1:18", "`1..x` uses the unknown name `x`")),
        ("for: [{each: {i: 1..2.5}, hosts: {}}]", ("1:18", "`1..2.5` is not a range of whole numbers")),
        ("for: [{each: {1i: 1..2}, hosts: {}}]", ("1:15", "`1i` cannot be the name of a variable")),
        ("for: [{each: {i: 1..2}, where: i <, hosts: {}}]", ("1:32", "`where` is not an expression")),
        ("parameters: [n]", ("1:13", "expected a mapping of names to values")),
        ("parameters: {n: 2}\nmtu: '${n / m}'\n", ("2:6", "`${n / m}` uses the unknown name `m`")),
        ("parameters: {n: 2}\nmtu: '${n}'\n", ("2:6", "must be at least 68")),
        ("for: [{each: {i: 1..3}, hosts: {'h${i}': {cuont: 2}}}]", ("1:43", "unknown key `cuont`")),
    ],
)
def test_mistakes_have_the_position_of_their_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)  # labctl shows lines of files there, whatever they are
    found = mistakes(tmp_path, text)
    assert expected[0] in [position for position, _ in found]
    assert any(message.startswith(expected[1]) for _, message in found), found


def test_unknown_arguments(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "parameters: {nodes: 3}\nhosts: {a: }\n", node=4)
    assert found == [("1:1", "there is no parameter `node`")]


@pytest.mark.parametrize(
    "text",
    [
        "for: [{each: {i: 1..999999999}, hosts: {'h${i}': }}]",
        "for: [{each: {i: 1..9999, j: 1..9999}, where: i > j + 99999, hosts: {'h${i}': }}]",
        "for: [{each: {i: 1..9999}, for: [{each: {j: 1..9999}, hosts: {'h${i}-${j}': }}]}]",
        f"parameters: {{n: {'x' * 9999}}}\nfor: [{{each: {{i: 1..9999}}, hosts: {{'h${{i}}': {{a: ' ${{n}}'}}}}}}]",
        f"parameters: {{n: [{'x,' * 999}]}}\nfor: [{{each: {{i: 1..999}}, hosts: {{'h${{i}}': {{files: '${{n}}'}}}}}}]",
    ],
)
def test_a_file_that_is_too_large_is_refused_soon(tmp_path: Path, text: str) -> None:
    started = time.process_time()
    assert mistakes(tmp_path, text)[-1][1].startswith("the file is too large when it is written out")
    assert time.process_time() - started < 20


def test_all_included_files_together_are_limited(tmp_path: Path) -> None:
    block = "{each: {i: 1..4000}, hosts: {'${p}${i}': {environment: {N: ' ${n}'}}}}"
    (tmp_path / "part.yaml").write_text(f"parameters: {{p: , n: {'x' * 9000}}}\nfor: [{block}]\n")
    included = ", ".join(f"{{file: part.yaml, with: {{p: {letter}}}}}" for letter in "ab")
    found = mistakes(tmp_path, f"include: [{included}]\n")
    assert any("64 MiB of text" in message for _, message in found), found


def test_a_file_without_composition_is_not_rewritten() -> None:
    document = parse("hosts: {a: {environment: {A: '${n}'}}}", "lab.yaml")
    assert with_arguments(document, (), {}) == (document, [], True)


def test_arguments_of_the_command_line() -> None:
    assert arguments_of(["n=4", "name=x", "cities=[a, b]", "empty="]) == {
        "n": 4, "name": "x", "cities": ["a", "b"], "empty": "",
    }  # fmt: skip
    for words, problem in ((["n"], "is not NAME=VALUE"), (["n=1", "n=2"], "given twice"), (["n=[1"], "cannot be read")):
        with pytest.raises(Mistake, match=problem):
            arguments_of(words)
