from __future__ import annotations

from pathlib import Path

from hypothesis import example
from hypothesis import given as generated
from hypothesis import strategies as st

from labctl import documents
from labctl.formats.assembly import assemble, leave_out
from labctl.formats.sketch import Addressing, Options, Part, Port, Role, Sketch
from labctl.formats.yaml_writer import write
from labctl.topology import resolve_inline
from tests.unit.formats.samples import shells


def given(*devices: str) -> Sketch:
    sketch = Sketch("x", "tool", Addressing.GIVEN)
    for name in devices:
        sketch.device(name)
    return sketch


def test_the_prefix_of_most_addresses_wins_and_others_become_commands() -> None:
    sketch = given("a", "b", "c")
    sketch.network(
        "lan", [Port("a", "", ["10.0.0.1/24"]), Port("b", "", ["10.0.0.2/24"]), Port("c", "", ["10.9.0.1/16"])]
    )
    data = assemble(sketch, Options()).data
    assert data["networks"]["lan"]["ipv4"] == "10.0.0.0/24"
    assert shells(data["hosts"]["c"]) == ["ip address add 10.9.0.1/16 dev eth0"]
    assert (data["addresses"], data["routes"]) == ("ipv4", "none")


def test_further_addresses_of_a_port_are_a_list_unless_another_network_has_them() -> None:
    sketch = given("a", "b", "c")
    sketch.connect(Port("a", "", ["10.0.0.1/24", "10.7.0.1/24", "10.1.0.9/24"]), Port("b", "", ["10.0.0.2/24"]))
    sketch.connect(Port("b", "", ["10.1.0.1/24"]), Port("c", "", ["10.1.0.2/24"]))
    data = assemble(sketch, Options()).data
    assert data["links"][0]["ends"][0] == {"node": "a", "ipv4": ["10.0.0.1/24", "10.7.0.1/24"]}
    assert shells(data["hosts"]["a"]) == ["ip address add 10.1.0.9/24 dev eth0"]


def test_routes_by_a_gateway_of_the_node_are_keys_and_others_commands() -> None:
    sketch = given("a", "b")
    sketch.connect(Port("a", "", ["10.0.0.1/24"]), Port("b", "", ["10.0.0.2/24"]))
    commands = ["ip route add default via 10.0.0.2", "ip route add 10.9.0.0/16 via 10.0.0.2 metric 5"]
    sketch.devices["a"].commands = [*commands, "ip route add 10.8.0.0/16 via 192.0.2.1"]
    sketch.devices["b"].commands = ["ip route add default via 10.0.0.1", "ip route del default"]
    hosts = assemble(sketch, Options()).data["hosts"]
    assert hosts["a"] == {
        "gateway": "10.0.0.2",
        "routes": [{"to": "10.9.0.0/16", "via": "10.0.0.2", "metric": 5}],
        "exec": [{"shell": "ip route add 10.8.0.0/16 via 192.0.2.1", "may_fail": True}],
    }
    assert len(hosts["b"]["exec"]) == 2


def test_a_prefix_that_another_network_has_is_set_by_commands() -> None:
    sketch = given("a", "b", "c", "d")
    sketch.connect(Port("a", "", ["10.0.0.1/8"]), Port("b", "", ["10.0.0.2/8"]))
    sketch.connect(Port("c", "", ["10.0.0.3/8"]), Port("d"))
    data = assemble(sketch, Options()).data
    assert data["links"][1] == {"ends": ["c", "d"], "ipv4": False}
    assert shells(data["hosts"]["c"]) == ["ip address add 10.0.0.3/8 dev eth0"]


def test_where_labctl_derives_addresses_a_repeated_prefix_is_left_out() -> None:
    sketch = Sketch("x", "tool", Addressing.AUTOMATIC)
    sketch.connect(Port(sketch.device("a").name, "", ["10.0.0.1/8"]), Port(sketch.device("b").name, "", ["10.0.0.2/8"]))
    sketch.connect(Port(sketch.device("c").name, "", ["10.0.0.3/8"]), Port(sketch.device("d").name))
    data = assemble(sketch, Options()).data
    assert data["links"][1] == ["c", "d"]
    assert data["hosts"]["c"] == {}
    assert [str(remark) for remark in sketch.report.missing] == [
        "c: 10.0.0.3/8: another network has its prefix, so labctl derives addresses for this one"
    ]


def test_a_loopback_address_of_several_nodes_is_anycast() -> None:
    sketch = given("a", "b")
    sketch.connect(Port("a", "", ["10.0.0.1/8"]), Port("b", "", ["10.0.0.2/8"]))
    for device in sketch.devices.values():
        device.append("loopback", "10.9.9.9")
    assembled = assemble(sketch, Options())
    assert assembled.data["anycast"] is True
    _, mistakes = resolve_inline(documents.parse(write(assembled.data, [], assembled.comments), "x"), (), Path())
    assert list(map(str, mistakes)) == []


def test_a_node_with_two_interfaces_is_a_router() -> None:
    sketch = Sketch("x", "tool")
    for name in ("a", "b", "c"):
        sketch.device(name)
    sketch.connect(Port("a"), Port("b"))
    sketch.connect(Port("b"), Port("c"))
    data = assemble(sketch, Options()).data
    assert (list(data["hosts"]), list(data["routers"]), data["links"]) == (["a", "c"], ["b"], [["a", "b"], ["b", "c"]])


def test_interface_names_are_omitted_if_labctl_derives_the_same() -> None:
    sketch = Sketch("x", "tool")
    for name in ("a", "b"):
        sketch.device(name)
    sketch.connect(Port("a", "eth0"), Port("b", "eth1"))
    assert assemble(sketch, Options()).data["links"] == [{"ends": ["a", {"node": "b", "interface": "eth1"}]}]


def test_linked_switches_share_a_prefix() -> None:
    sketch = given("a", "b")
    for name in ("s1", "s2"):
        sketch.device(name, Role.SWITCH)
    sketch.connect(Port("a", "", ["10.0.0.1/24"]), Port("s1"))
    sketch.connect(Port("s1"), Port("s2"))
    sketch.connect(Port("s2"), Port("b", "", ["10.0.1.2/24"]))
    data = assemble(sketch, Options()).data
    assert shells(data["hosts"]["b"]) == ["ip address add 10.0.1.2/24 dev eth0"]
    assert data["networks"] == {
        "s1": {"ipv4": "10.0.0.0/24", "members": [{"node": "a", "ipv4": "10.0.0.1"}]},
        "s2": {"members": [{"node": "b", "ipv4": False}]},
    }
    assert data["links"] == [["s1", "s2"]]


def test_a_switch_with_plain_links_is_a_network_and_its_other_links_stay() -> None:
    sketch = Sketch("x", "tool")
    for name in ("a", "b", "c"):
        sketch.device(name, Role.HOST)
    sketch.device("s", Role.SWITCH)
    for name in ("a", "b", "c"):
        sketch.connect(Port(name), Port("s"))
    sketch.cables[1].impairment = {"delay": "1ms"}
    data = assemble(sketch, Options()).data
    assert data["networks"] == {"s": {"members": ["a", "c"]}}
    assert data["links"] == [{"ends": ["b", "s"], "delay": "1ms"}]


def test_parts_are_left_out_on_request() -> None:
    sketch = Sketch("x", "tool")
    for name in ("a", "b"):
        sketch.device(name).commands.append("true")
    sketch.connect(Port("a"), Port("b")).impairment = {"delay": "1ms", "jitter": "1ms", "rate": "1mbit", "loss": "1%"}
    leave_out(sketch, frozenset({Part.DELAY, Part.COMMANDS}))
    assert sketch.cables[0].impairment == {"rate": "1mbit", "loss": "1%"}
    assert sketch.devices["a"].commands == []


WRITTEN = """10.0.0.1/24 10.0.0.2/24 10.0.0.0/24 10.0.0.255/24 10.0.1.1/16 10.0.0.9/32 10.1.0.1/30 10.1.0.2/30
10.1.0.0/31 10.1.0.1 224.0.0.1/24 127.0.0.1/8 0.0.0.0/0 255.255.255.255/32 x
fd00::1/64 fd00::1/127 fd00::/64 fe80::1/64 fd00::2/128"""
ADDRESSES = st.sampled_from(WRITTEN.split())
NAMES = st.sampled_from(["", "eth0", "eth1", "x"])
PORTS = st.tuples(st.sampled_from("abcdst"), st.lists(ADDRESSES, max_size=3), NAMES)
PREFIXES = st.sampled_from(["", "10.0.0.0/24", "10.9.0.0/30"])
CABLES = st.lists(st.tuples(st.lists(PORTS, min_size=2, max_size=4), PREFIXES), max_size=6)


@generated(CABLES, st.sampled_from(Addressing), st.booleans())
@example(cables=[([("s", [], ""), ("b", [], "")], "10.0.0.0/24")] * 2, addressing=Addressing.GIVEN, forwards=False)
def test_every_sketch_becomes_a_topology_without_mistakes(
    cables: list[tuple[list[tuple[str, list[str], str]], str]], addressing: Addressing, forwards: bool
) -> None:
    sketch = Sketch("x", "tool", addressing)
    for name in "abcd":
        sketch.device(name, Role.ROUTER if forwards else None)
    for name in "st":
        sketch.device(name, Role.SWITCH)
    for ports, prefix in cables:
        made: list[Port] = []
        for name, addresses, ifname in ports:
            used = {port.name for port in sketch.ports_of(sketch.devices[name])} | {port.name for port in made}
            is_switch = sketch.devices[name].role is Role.SWITCH
            port = Port(name, "" if ifname in used or is_switch else ifname)
            if not is_switch:
                port.ipv4 = [each for each in addresses if ":" not in each]
                port.ipv6 = [each for each in addresses if ":" in each]
            made.append(port)
        if len(made) == 2 and made[0].device != made[1].device:
            sketch.connect(*made).ipv4 = prefix
        elif len(made) > 2 and not any(sketch.devices[port.device].role is Role.SWITCH for port in made):
            sketch.network("n", made).ipv4 = prefix
    found = assemble(sketch, Options())
    document = documents.parse(write(found.data, [], found.comments), "x")
    _, mistakes = resolve_inline(document, (), Path())
    assert list(map(str, mistakes)) == []
