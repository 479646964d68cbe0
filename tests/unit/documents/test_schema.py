"""Shapes: how they read values, and that the published JSON Schemas accept the same documents.

A schema cannot express that names must exist or that texts have a syntax: such mistakes are not marked `in_schema`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.documents import Diagnostic, parse
from labctl.documents.schema import Reading, Shape, Unusable
from labctl.scenario import json_schema
from labctl.scenario.file_schema import ExpectBody, RepeatBody, RunBody, StartBody, StopBody
from labctl.scenario.loader import checked
from labctl.topology import resolve_inline
from labctl.topology.schema import schema as topology_schema
from tests.skips import ALL

EXAMPLES = 300 if ALL else 100
ROOT = Path(__file__).resolve().parents[3]

TOPOLOGY = """
name: office
about: one of everything
include: [{file: tests/unit/documents/included.yaml, with: {n: 1}}]
parameters: {n: 1}
for: [{each: {i: 1..n}, where: true, for: [], hosts: {"extra${i}": {}}}]
mtu: 1500
addresses: dual
dns: gw
routes: automatic
routing: automatic
anycast: false
ipv4_pool: 10.0.0.0/8
ipv6_pool: fd00::/16
hosts:
  server:
    sysctls: {net.core.somaxconn: 128}
    dns: [10.0.0.53]
    environment: {MODE: test}
    offload: false
    labels: {tier: front}
    limits: {pids: 100, memory: 256MiB, cpu: 50%}
    expose: ["8080:80", {machine: 8081, port: 81, protocol: tcp}]
    services:
      web: {run: [sleep, 9], env: {A: 1}, cwd: ., user: 3, ready: {file: /run/x}, within: 5s, restart: always}
      db: {shell: sleep 9, ready: {listening: tcp/5432}, after: [log], may_fail: true, origin: "x:1"}
      log: {shell: sleep 9, ready: {line: ready}, env: {}, tty: true, trace: true}
      ospf: {use: frr, config: {content: router ospf}, options: [-t], daemons: [ospfd]}
      queue: {shell: sleep 9, ready: {command: ["true"]}}
  client: {count: 2, routes: none, exec: ["true", [ip, addr], {run: [ip, link], within: 1s, may_fail: false}]}
  other:
    loopback: [10.255.0.1, {address: "fd00:ff::1", anycast: true}]
    gateway: gw
    routing: automatic
    routes:
      - {to: 192.0.2.0/24, via: [gw], dev: eth0, metric: 5, weight: 2, table: 100, src: 10.255.0.1, onlink: false}
      - {to: 192.0.3.0/24, hops: [{via: gw, dev: eth0, weight: 2, onlink: false}, {dev: eth1}]}
      - {to: 192.0.4.0/24, kind: blackhole, vrf: v0}
      - 192.0.5.0/24 dev eth0
    rules:
      - {from: 10.0.1.0/24, to: lan, fwmark: 0x1/0xff, iif: eth0, oif: eth1, not: true, lookup: main, priority: 7}
      - {from: gw, action: prohibit}
      - {from: 10.0.2.0/24, vrf: v0}
      - from 10.0.1.0/24 table 100
    files: {/etc/x: {content: x, mode: "0600", owner: root}, /srv/y: {source: /etc/hosts}}
    binds: ["/usr:/mnt", {source: /usr, target: /media, rw: true}]
    private: [/var/log]
    firewall:
      {policy: drop, allow: [tcp/80], deny: [{from: client, to: lan, protocol: udp, port: 53}, {direction: in}]}
routers:
  gw:
    nat: {preset: cgnat, outside: lan, hairpin: true, ipv6: true, ports: 9, timeout: 1min}
    interfaces:
      eth0.10: {vlan: 10, on: eth0, protocol: 802.1ad, mtu: 1400, mac: "02:00:00:00:00:09", ipv4: 10.8.0.1/24}
      b0: {bond: 802.3ad, members: [eth1], lacp_rate: slow, hash: layer3+4, miimon: 100ms}
      m0: {macvlan: bridge, on: eth0, ipv6: false, delay: 1ms}
      i0: {ipvlan: l2, on: eth0}
      v0: {vrf: 100, members: [m0]}
      x0: {vxlan: 7, remotes: [server], port: 4789, learning: true, local: 10.0.0.1}
      x1: {vxlan: 8, group: 239.1.1.1, on: eth0}
      g0: {gre: {remote: server, local: 10.0.0.1, key: 3, ttl: 9}}
      g1: {gretap: server}
      g2: {ip6gre: server}
      g3: {ip6gretap: server}
      g4: {ipip: server}
      g5: {sit: server}
      g6: {ip6tnl: server}
      w0: {wireguard: {peers: [{node: server, endpoint: 10.0.0.2, allowed_ips: 10.0.0.0/8, keepalive: 9s}], port: 5}}
      w1: {wireguard: {peers: [{public_key: x, preshared_key: y}], private_key: z}}
      l0: {bridge: true, members: [], stp: true}
      d0: {dummy: true}
    forward: ["80:server", {port: 81, to: server, to_port: 82, protocol: udp}]
    firewall: {preset: stateful, outside: lan}
switches:
  s1:
    sysctls: {net.ipv4.ip_forward: 0}
    stp: {enable: true, priority: 4096, forward_delay: 2s, hello_time: 1s, max_age: 6s}
    ageing: 300s
    snooping: true
    fdb: {"02:00:00:00:00:07": server}
    delays: {server: {other: 1ms}}
networks:
  world: {members: [server, other], between: [{nodes: [server, other], loss: 1%}], delays: {server: {other: 1ms}}}
  far: {members: [server, other], distances: {server: {other: 100km}}}
  lan: {ipv4: 10.0.1.0/24, ipv6: false, mtu: 1400, members: [client, {node: gw, interface: lan0, delay: 1ms}]}
vlans: {red: {id: 10, ipv4: 10.7.0.0/24}}
groups: {ends: [server, other]}
tunnels: [{ends: [gw, server], kind: gre, ipv4: 10.6.0.0/24, ipv6: false, mtu: 1300, key: 4, ttl: 9}]
links:
  - [gw, server]
  - [other, {node: s1, vlan: red, isolated: true, cost: 9, flood: true, learning: true}]
  - [server, {node: s1, trunk: [10, 20], native: 30}]
  - {ends: [gw, {node: other, ipv4: 10.0.9.2/24, mac: "02:00:00:00:00:01"}], delay: 2ms, loss: 1%, ipv6: false}
  - {ends: [server, other], delay: 2ms, jitter: 1ms, rate: 10mbit}
  - {ends: [server, other], delay: 2ms, jitter: 1ms, distribution: normal, delay_correlation: 1%}
  - {ends: [server, other], rate: 10mbit, burst: 9kB}
  - {ends: [server, other], preset: dsl, loss: 1%, loss_correlation: 1%, queue: 50ms, discipline: red}
  - {ends: [server, other], gemodel: {p: 1%}, duplicate: 1%, duplicate_correlation: 1%, limit: 50ms, rate: 10mbit}
  - {ends: [server, other], distance: 9km, reorder: 1%, reorder_correlation: 1%, gap: 5}
  - {ends: [server, other], corrupt: 1%, corrupt_correlation: 1%, profile: [{at: 0s, delay: 1ms}]}
"""

SCENARIO = """
name: everything
about: one of everything
topology: {hosts: {server: {}, client: {}}, routers: {gw: }, links: [[client, server], [gw, server]]}
requires: {programs: [sh], features: [ipv6], root: false}
within: 5s
timeout: 1m
variables: {n: 3, text: abc}
steps:
  - server: getpid()
  - {calls: {on: client, process: other, do: getpid()}, name: calls, within: 1s}
  - run: {on: client, run: [sh, -c, "true"], env: {A: 1}, cwd: /, user: 3, stdin: x, save: {stdout: out, exit: status}}
  - run: {on: client, shell: "true", expect: {exit: {at_least: 0}, stdout: {contains: [x], matches: y}, stderr: x}}
  - start: {on: server, shell: sleep 9, name: web, ready: {line: ready}, tty: true, trace: true}
  - stop: web
  - stop: {process: web, signal: TERM, expect: {exit: 143}}
  - signal: {process: web, signal: HUP}
  - {pause: web, within: 0}
  - resume: {process: web}
  - wait: {process: web, any_exit: true, save: {stderr: err}}
  - expect: {on: server, listening: tcp/80, accept_queue: 1, accept_queue_limit: {not: 3}, syn_queue: 0, within: 2s}
  - expect: {on: server, connection: {protocol: tcp, local: ":80", peer: "client:*", state: ESTAB, count: 1}, now: true}
  - expect: {on: client, reachable: server, unreachable: {node: 10.9.9.9, family: ipv4}, for: 1s}
  - expect: {on: server, not_listening: udp/53, counters: {ListenOverflows: {at_most: 0}, Udp.InErrors: {equals: 1}}}
  - expect: {on: server, connection: {receive_queue: 0, send_queue: {at_least: 0}}}
  - expect: {on: server, file: {path: /tmp/x, equals: x, not_contains: y}}
  - expect: {on: client, route: {to: default, via: server, dev: eth0, metric: 5}, address: 10.0.0.1}
  - expect: {on: client, file: {path: /tmp/x, exists: true}}
  - expect: {on: client, route: {to: default, table: 100, kind: blackhole, exists: false}}
  - expect: {on: client, route: {to: 10.0.2.0/24, vrf: red}}
  - expect: {running: web, not_running: web, output: {process: web, stdout: {json: {a: 1}}}, that: "$n == 3"}
  - expect: {on: client, command: ["true"], exit: 0, stdout: {contains: x}, stderr: "", env: {A: 1}, cwd: /, user: 0}
  - expect: {on: client, shell: "true", save: {stdout: out}}
  - link: {down: [client, server]}
  - link: {up: [client, server], which: 1}
  - link: {between: [client, server], set: {delay: 20ms, jitter: 1ms, loss: 1%, rate: 1mbit}, from: client}
  - link: {between: [client, server], set: {gemodel: {p: 1%}, preset: 4g}}
  - link: {clear: [client, server]}
  - drop: {on: server, direction: in, protocol: tcp, port: 80, from: client, to: server, flags: "syn"}
  - undrop: server
  - nat: {on: gw, preset: cgnat, outside: server, hairpin: true, ipv6: true, ports: 9, timeout: 1min}
  - nat: {on: gw, forward: "80:server"}
  - nat: {on: gw, off: true}
  - firewall: {on: server, preset: open, policy: drop, allow: [tcp/80], deny: [{from: client, port: 53}]}
  - firewall: {on: gw, preset: stateful, outside: server, off: false}
  - file: {on: server, path: /tmp/x, content: x, mode: "0644"}
  - file: {on: server, path: /run/x, source: hello.c}
  - build: {source: hello.c, as: hello, flags: [-O2]}
  - repeat: {times: 2, as: i, steps: [{client: getpid()}]}
  - parallel: [{client: getpid()}, [{server: getpid()}, {run: {on: server, run: ["true"]}}]]
  - set: {n: 4}
  - fault: {partition: [[client], [server]], for: 1s, name: split}
  - heal: {fault: split}
  - fault: {remove_address: {on: client, address: 10.0.0.1}}
  - fault: {remove_route: {on: client, to: 10.0.0.0/24}}
  - fault: {isolate: client}
  - fault: {flap: {link: [client, server], times: 2, period: 1s}}
  - fault: {blackhole: server}
  - fault: {kill: web}
  - during: {isolate: [client], steps: [{server: getpid()}]}
  - schedule: {faults: [isolate], targets: [client], every: 1s, lasting: 1s, for: 1s, seed: 3}
  - schedule: {steps: [{server: getpid()}]}
"""

KINDS = {"topology": (TOPOLOGY, topology_schema()), "scenario": (SCENARIO, json_schema())}
VALIDATORS = {kind: jsonschema.Draft202012Validator(schema) for kind, (_, schema) in KINDS.items()}


def mistakes(kind: str, data: object) -> list[Diagnostic]:
    """What labctl reports of a document that has this data."""
    document = parse(json.dumps(data, ensure_ascii=False), f"{kind}.yaml")
    assert document.data == data
    return checked(document)[1] if kind == "scenario" else resolve_inline(document, (), Path())[1]


def keys_of(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        for part in schema.values():
            yield from keys_of(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from keys_of(part)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every mapping or list in the data with every key or index of it."""
    if isinstance(data, dict | list):
        for key in list(data) if isinstance(data, dict) else range(len(data)):
            yield data, key
            yield from places(data[key])


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 5, 755, 70000, 10**25, 0.0, 1.0, 1.5, "", "x", "5", " 5 ", "-5", "0", "5 6",
        "true", "false", "${n}", "$${n}", "$$${n}", "a${n}b", "200ms", "1m30s", "1 h 2s", "5 apples", "0s", "no", "tcp",
        "udp", "icmp", "dual", "server", "getpid()", "10.0.0.1/24", [], ["x"], ["client", "server"], ["a", 1], [None],
        [[]], {}, {"x": 1}, {"on": "server"}, {"node": "server"}, {"equals": 1}, {"client": "getpid()"},
        [{"client": "getpid()"}],
    ]
).map(copy.deepcopy)  # fmt: skip


@st.composite
def near(draw: st.DrawFn, kind: str) -> Any:
    """A valid document with up to three changes."""
    text, schema = KINDS[kind]
    data = copy.deepcopy(parse(text, kind).data)
    keys = sorted(set(keys_of(schema)))
    for _ in range(draw(st.integers(1, 3))):
        there = list(places(data))
        if not there:
            break
        inside, at = draw(st.sampled_from(there))
        match draw(st.sampled_from(["value", "value", "remove", "rename", "add", "twice", "copy"])):
            case "value":
                inside[at] = draw(VALUES)
            case "remove":
                del inside[at]
            case "rename" if isinstance(inside, dict):
                inside[draw(st.sampled_from(keys))] = inside.pop(at)
            case "add" if isinstance(inside, dict):
                inside[draw(st.sampled_from(keys))] = draw(VALUES)
            case "twice" if isinstance(inside, list):
                inside.append(copy.deepcopy(inside[at]))
            case "copy":
                other, key = draw(st.sampled_from(there))
                inside[at] = copy.deepcopy(other[key]) if key in other or isinstance(other, list) else 1
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_the_document_that_the_others_are_made_from_is_valid(kind: str) -> None:
    data = parse(KINDS[kind][0], kind).data
    assert [str(one) for one in mistakes(kind, data) if one.in_schema] == []
    VALIDATORS[kind].validate(data)


@pytest.mark.parametrize("kind", KINDS)
def test_the_document_that_the_others_are_made_from_has_every_key_of_its_schema(kind: str) -> None:
    text, schema = KINDS[kind]
    data = parse(text, kind).data
    if kind == "scenario":
        data["topology"] = parse(TOPOLOGY, kind).data
    assert set(keys_of(schema)) - {key for inside, key in places(data) if isinstance(inside, dict)} == set()


def agree(kind: str, data: object) -> None:
    told = [str(one) for one in mistakes(kind, data) if one.in_schema]
    refused = [error.message for error in VALIDATORS[kind].iter_errors(data)]
    assert bool(told) == bool(refused), f"labctl: {told}; JSON Schema: {refused}; {json.dumps(data)}"


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(near("topology"))
def test_validation_of_topologies_agrees_with_their_schema(data: Any) -> None:
    agree("topology", data)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(near("scenario"))
def test_validation_of_scenarios_agrees_with_their_schema(data: Any) -> None:
    agree("scenario", data)


@pytest.mark.parametrize(
    ("part", "valid"),
    [
        ({"name": 5}, True),
        ({"about": 5}, True),
        ({"within": 0}, True),
        ({"within": 5}, False),
        ({"within": "${n}"}, False),
        ({"topology": {"hosts": {"a": {"cuont": 3}}}}, False),
        ({"topology": {"hosts": {"a": None}, "links": [["a"]]}}, False),
        ({"topology": {"hosts": {"client": {"exec": ["ls", 5]}}}}, False),
        ({"topology": {"hosts": {"client": {"exec": [["ls", 5], "ls"]}}}}, True),
        ({"steps": []}, False),
    ],
)
def test_parts_of_scenarios(part: dict[str, Any], valid: bool) -> None:
    data = {"topology": "pair", "steps": [{"client": "getpid()"}], **part}
    assert VALIDATORS["scenario"].is_valid(data) is valid
    agree("scenario", data)


@pytest.mark.parametrize(
    ("step", "valid"),
    [
        ({"name": "x"}, False),
        ({"name": "x", "within": "1s"}, False),
        ({"client": "getpid()", "server": "getpid()"}, False),
        ({"client": "getpid()", "run": {"on": "client", "run": ["x"]}}, False),
        ({"run": {"on": "client"}}, False),
        ({"run": {"on": [], "run": ["x"]}}, False),
        ({"run": {"on": "client", "run": ["x"], "shell": "x"}}, False),
        ({"run": {"on": "client", "run": ["x"], "expect": {"stdout": 5}}}, True),
        ({"link": {}}, False),
        ({"link": {"set": {"delay": "1ms"}}}, False),
        ({"expect": {}}, False),
        ({"expect": {"on": "client"}}, False),
        ({"expect": {"listening": "tcp/5"}}, False),
        ({"expect": {"on": "client", "accept_queue": 1}}, False),
        ({"file": {"on": "client", "path": "/tmp/x", "content": 5, "mode": 755}}, True),
        ({"repeat": {"times": "three", "steps": [{"client": "getpid()"}]}}, False),
        ({"repeat": {"times": "3", "steps": [{"client": "getpid()"}]}}, True),
        ({"repeat": {"times": "${n}", "steps": [{"client": "getpid()"}]}}, True),
        ({"drop": {"on": "client", "protocol": "tcp", "port": "http"}}, False),
        ({"drop": {"on": "client", "port": 80}}, False),
        ({"parallel": [[]]}, False),
        ({"client": "getpid()", "name": None}, True),
    ],
)
def test_steps(step: dict[str, Any], valid: bool) -> None:
    data = {"topology": "pair", "variables": {"n": 1}, "steps": [step]}
    assert VALIDATORS["scenario"].is_valid(data) is valid
    agree("scenario", data)


def without_description(schema: Any, where: str = "") -> Iterator[str]:
    if isinstance(schema, dict):
        for name, part in schema.get("properties", {}).items():
            if "additionalProperties" in schema and not part.get("description"):
                yield f"{where}.{name}"
        for key, part in schema.items():
            yield from without_description(part, f"{where}.{key}")
    elif isinstance(schema, list):
        for part in schema:
            yield from without_description(part, where)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_and_every_mapping_has_a_description(kind: str) -> None:
    schema = KINDS[kind][1]
    assert list(without_description(schema)) == []
    assert [name for name, part in schema["$defs"].items() if not part.get("description")] == []


def problems(shape: type[Shape], data: object, *, final: bool = False) -> list[str]:
    reading = Reading(final=final)
    try:
        shape.read(data, reading)
    except Unusable:
        assert reading.problems, "what is unusable has a reason"
    return [str(problem) for problem in reading.problems]


def test_every_mistake_is_reported_with_its_path() -> None:
    data = {"run": ["a", None], "expect": {"exit": {"atleast": 1}, "stdout": 7}, "env": [], "any_exit": 1}
    assert problems(RunBody, data) == [
        "on: the key `on` is missing",
        "run.1: expected text, got nothing",
        "expect.exit.atleast: unknown key `atleast`",
        "env: expected a mapping, got a list",
        "any_exit: expected true or false, got the number 1",
    ]


def test_a_number_is_accepted_as_text_and_a_boolean_is_not() -> None:
    assert RunBody.read({"on": "a", "run": ["sleep", 0.5, 10]}, Reading()).run == ["sleep", "0.5", "10"]
    assert problems(RunBody, {"on": "a", "run": [True]}) == ["run.0: expected text, got true"]


def test_a_command_line_in_place_of_a_list_names_the_fix() -> None:
    reading = Reading()
    RunBody.read({"on": "a", "run": "ls -l"}, reading)
    assert [(str(one), one.hint) for one in reading.problems] == [
        (
            "run: expected a list, got the text `ls -l`",
            "write a list, [ls, -l], or use `shell:` for the text of a shell command",
        )
    ]


def test_shorthands_stand_for_their_mapping() -> None:
    expect = ExpectBody.read({"on": "a", "reachable": "b", "listening": "tcp/1", "accept_queue": 3}, Reading())
    assert expect.reachable is not None
    assert expect.reachable.node == "b"
    assert expect.accept_queue is not None
    assert expect.accept_queue.equals == 3


@pytest.mark.parametrize("times", ["${n}", "x${n}"])
def test_a_variable_may_replace_a_number_until_its_substitution(times: str) -> None:
    data = {"times": times, "steps": [1]}
    assert problems(RepeatBody, data) == []
    assert problems(RepeatBody, data, final=True) == [f"times: expected a whole number, got the text `{times}`"]


@pytest.mark.parametrize(("times", "told"), [(3, 3), ("3", 3), (" 3 ", 3)])
def test_a_number_may_be_written_as_a_text(times: object, told: int) -> None:
    assert RepeatBody.read({"times": times, "steps": [1]}, Reading(final=True)).times == told


@pytest.mark.parametrize("times", [True, 1.5, "x", "", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 50, None, []])
def test_any_other_value_is_not_a_whole_number(times: object) -> None:
    assert len(problems(RepeatBody, {"times": times, "steps": [1]})) == 1


def test_the_keys_of_a_shape_cannot_be_changed() -> None:
    body = StopBody.read({"process": "x"}, Reading())
    with pytest.raises(AttributeError):
        body.process = "y"


def test_a_key_without_a_value_equals_a_missing_key() -> None:
    body = StartBody.read({"on": "a", "run": ["x"], "ready": None}, Reading())
    assert body.ready is None
    assert body.given == {"on", "run"}


def test_equal_shapes_are_equal() -> None:
    one: dict[str, Any] = {"process": "x"}
    assert StopBody.read(one, Reading()) == StopBody.read(one, Reading())
    assert StopBody.read(one, Reading()) != StopBody.read({"process": "y"}, Reading())
    assert repr(StopBody.read(one, Reading())) == "StopBody(process='x')"
