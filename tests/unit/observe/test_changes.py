"""Changes between two states of a node, of programs and of faults."""

from __future__ import annotations

from ipaddress import IPv4Interface, ip_network

from labctl.kernel.routes import BOOT, KernelAddress, KernelLink, KernelRoute, NextHop
from labctl.lab.description import FaultInfo, ProcessInfo, ProcessState
from labctl.observe.changes import fault_changes, node_changes, program_changes
from labctl.observe.impairments import FoundImpairment
from labctl.observe.inspect import NodeState
from labctl.structs import replace
from labctl.topology.netem import Impairment

ETH0 = KernelLink("eth0", 2, "02:00:00:00:00:01", 1500, True, True)
ADDRESS = KernelAddress("eth0", IPv4Interface("10.0.0.1/24"))
ROUTE = KernelRoute(ip_network("10.1.0.0/16"), (NextHop(None, "eth0"),), protocol=BOOT)
STATE = NodeState(links=(ETH0,), addresses=(ADDRESS,), routes=(ROUTE,))


def texts(before: NodeState, after: NodeState) -> list[str]:
    return [str(each) for each in node_changes("a", before, after)]


def test_nothing_is_reported_without_a_change() -> None:
    assert texts(STATE, STATE) == []


def test_states_of_links_are_reported_with_what_they_were() -> None:
    down, unplugged, small = (replace(ETH0, **each) for each in ({"up": False}, {"carrier": False}, {"mtu": 1400}))
    assert texts(STATE, replace(STATE, links=(down,))) == ["a:eth0: state is down, was up"]
    assert texts(STATE, replace(STATE, links=(unplugged,))) == ["a:eth0: state is without carrier, was up"]
    assert texts(STATE, replace(STATE, links=(small,))) == ["a:eth0: mtu is 1400, was 1500"]


def test_addresses_and_routes_are_added_and_removed() -> None:
    bare = replace(STATE, addresses=(), routes=())
    assert texts(bare, STATE) == [f"a: route {ROUTE} was added", "a:eth0: address 10.0.0.1/24 was added"]
    assert texts(STATE, bare) == [f"a: route {ROUTE} was removed", "a:eth0: address 10.0.0.1/24 was removed"]


def test_of_a_removed_interface_addresses_and_routes_are_not_repeated() -> None:
    assert texts(STATE, NodeState()) == ["a:eth0: interface 02:00:00:00:00:01 was removed"]


def test_impairments_are_reported_with_what_they_were() -> None:
    slow = replace(STATE, impairments={"eth0": FoundImpairment(Impairment(rate_bit_s=1_000_000))})
    assert texts(STATE, slow) == ["a:eth0: impairment is rate 1mbit, was none"]
    assert texts(slow, STATE) == ["a:eth0: impairment is none, was rate 1mbit"]


def test_a_program_is_reported_when_its_state_changes() -> None:
    runs = ProcessInfo("a", "web", 5, ("sleep",), 0.0, ProcessState.RUNNING)
    ended = runs.replaced(state=ProcessState.ENDED, returncode=3)
    own = runs.replaced(name="")  # of a command of somebody, which ends with it
    assert [str(each) for each in program_changes([runs], [ended, own])] == [
        "a: program web is ended, exit status 3, was running"
    ]
    assert [str(each) for each in program_changes([], [runs])] == ["a: program web is running, was not there"]


def test_faults_begin_and_are_healed() -> None:
    fault = FaultInfo(1, "partition", "partition a | b", ("a", "b"), 0.0)
    assert [str(each) for each in fault_changes([], [fault])] == ["lab: fault partition a | b was added"]
    assert [str(each) for each in fault_changes([fault], [])] == ["lab: fault partition a | b was removed"]
