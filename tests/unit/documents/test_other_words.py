"""Words of other tools: the hint of an unknown key names the key of labctl's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.documents import parse
from labctl.documents.other_words import WORDS, meaning
from labctl.documents.schema import Shape
from labctl.topology import resolve_inline
from labctl.topology.schema import TopologyFile


def shapes(base: type[Shape] = Shape) -> Iterator[type[Shape]]:
    for shape in base.__subclasses__():
        yield shape
        yield from shapes(shape)


KNOWN = {shape.__name__: shape for shape in shapes() if shape.__module__.startswith("labctl.topology.")}


def hints(text: str) -> list[str]:
    return [one.hint for one in resolve_inline(parse(text, "office.yaml"), (), Path())[1]]


def test_the_table_names_shapes_and_keys_that_exist() -> None:
    assert TopologyFile.__name__ in KNOWN
    for shape, of_shape in WORDS.items():
        for key, words in of_shape.items():
            assert " " in key or key in KNOWN[shape].KEYS, (shape, key)
            assert not KNOWN[shape].KEYS.keys() & set(words.split()), (shape, key)


@pytest.mark.parametrize("shape", WORDS)
def test_a_word_has_one_meaning_in_a_shape(shape: str) -> None:
    every = [word for words in WORDS[shape].values() for word in words.split()]
    assert len(every) == len(set(every))


def test_a_word_of_the_narrower_shape_comes_first() -> None:
    assert meaning("ports", ["HostFile", "NodeFile"]) == "expose"
    assert meaning("Default-Gateway", ["HostFile", "NodeFile"]) == "gateway"
    assert meaning("nothing", ["HostFile", "NodeFile"]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hosts: {a: {ip: 10.0.0.1/24}}", "addresses stand where the node joins a network"),
        ("hosts: {a: {volumes: []}}", "did you mean `binds`?"),
        ("hosts: {a: {nat: masquerade}}", "write the node below `routers`"),
        ("routers: {r: {frr: r1.conf}}", "`services: {routing: {use: frr"),
        ("hosts: {a: }\nnetworks: {n: {subnet: 10.0.0.0/24, members: [a]}}", "write `ipv4: 10.0.1.0/24`"),
        ("hosts: {a: }\nnetworks: {n: {hosts: [a]}}", "did you mean `members`?"),
        ("hosts: {a: , b: }\nlinks: [{ends: [a, b], latency: 20ms}]", "did you mean `delay`?"),
        ("hosts: {a: {routes: [{dst: default, via: b}]}, b: }\nlinks: [[a, b]]", "did you mean `to`?"),
        ("hosts: {a: , b: }\nlinks: [{ends: [a, {host: b}]}]", "did you mean `node`?"),
        ("hosts:\na: {}\nb: {}", "indent it if it belongs to `hosts`"),
        ("routers: {a: {nat: masq}}", "did you mean `masquerade`?"),
        ("hosts: [a, b]", "write each name as a key"),
        ("hosts: {a: }\ngroups: {g: a}\ninclude: lan.yaml", "write a list: [lan.yaml]"),
        ("links: {a: b}", "begin each entry with `- `"),
        ("hosts: {a: {interfaces: {v: {vrf: red, members: [eth0]}}}}", "write the number of its routing table"),
        ("hosts: {a: {services: {s: {run: {command: ls}}}}}", "write a list, [ls, -l], or use `shell:`"),
        ("hosts: {a: }\nswitches: {s: }\nlinks: [[a, {node: s, trunk: 10-5}]]", "write FIRST-LAST, from 1 to 4094"),
        ("hosts: {a: {routes: default via b}, b: }\nlinks: [[a, b]]", "write for example `routes: [{to: default"),
        ("hosts: {a: {routes: [ip route add default via b]}, b: }\nlinks: [[a, b]]", "leave out `ip route add`"),
    ],
)
def test_a_mistake_names_the_right_key(text: str, expected: str) -> None:
    assert expected in " | ".join(hints(text))
