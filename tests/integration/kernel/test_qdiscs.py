"""Rates of links on the real kernel, and what all impairments have in common; delay and loss: tests/stock_kernel."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from labctl.errors import KernelError, MachineError
from labctl.kernel import probes, qdiscs
from labctl.kernel.namespaces import current_network
from labctl.lab.keeper.reconcile import network_changed
from labctl.observe.impairments import impairments
from labctl.observe.inspect import inspect
from labctl.observe.machine import without_qdisc
from labctl.plan.build import build, set_impairments
from labctl.plan.diff import difference
from labctl.plan.operations import AddAddress, Operation, Plan, SetImpairment
from labctl.plan.queueing import TokenBucket, queues
from labctl.topology.model import Impairment
from tests import skips
from tests.integration import networks
from tests.integration.inside import NetworkLab, inside
from tests.integration.plan.test_render import in_sandbox, script_of
from tests.measuring import Transfer, over, transfer
from tests.patience import patient
from tests.unit.topology.drafts import resolved

MBIT = 1_000_000


TRIES = 20  # on a loaded machine one of them shows what the link can do


ENOUGH = 0.9 if patient(1) == 1 else 0.1  # of the rate; an emulated processor is no measure


NO_TBF, NO_NETEM = without_qdisc("tbf"), without_qdisc("netem")


pytestmark = [
    skips.needs_feature("tbf", not NO_TBF, NO_TBF),
    skips.needs_programs("ip", "tc"),
]


def rate(mbit: int) -> Impairment:
    return Impairment(rate_bit_s=mbit * MBIT)


def burst_bytes(impairment: Impairment) -> int:
    bucket = queues(impairment, 1500)[0]
    assert isinstance(bucket, TokenBucket)
    return bucket.burst_bytes


def paired(*, client: Impairment | None = None, server: Impairment | None = None) -> NetworkLab:
    wanted = (("client", client), ("server", server))
    return NetworkLab(*networks.pair(), *(SetImpairment(node, "eth0", one) for node, one in wanted if one))


def of(lab: NetworkLab, node: str) -> str:
    return str(impairments(lab, node).get("eth0", "nothing"))


def built(*lines: str) -> Plan:
    return build(resolved(*lines))


def pair_plan(link: str) -> Plan:
    return built("hosts: {client: , server: }", f"links: [{{ends: [client, server], ipv4: 192.0.2.0/24, {link}}}]")


@contextmanager
def connection(lab: NetworkLab) -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as listener,
        lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as one,
    ):
        listener.bind(("192.0.2.2", 5000))
        listener.listen(1)
        for sock in (listener, one):
            sock.settimeout(patient(30))
        one.connect(("192.0.2.2", 5000))
        other, _ = listener.accept()
        with other:
            other.settimeout(patient(30))
            yield one, other


def bound_holds(done: Transfer, impairment: Impairment) -> bool:
    """Whether it was as slow as it had to be: more than the rate allows comes from the burst alone."""
    return done.size <= impairment.rate_bit_s / 8 * done.taken_s + burst_bytes(impairment)


def is_faster(attempt: Callable[[], Transfer], impairment: Impairment) -> bool:
    """Whether the bound does not hold: on a loaded machine, one time of several."""
    return any(not bound_holds(attempt(), impairment) for _ in range(TRIES))


@pytest.mark.alone  # both ends need the processor at once
@pytest.mark.stock_kernel
@inside
@pytest.mark.parametrize("mbit", [10, 100])
def test_a_tcp_transfer_gets_the_rate_of_its_link_and_not_more(mbit: int) -> None:
    asked = rate(mbit)
    with paired(client=asked) as lab:
        shares: list[float] = []
        while len(shares) < TRIES:
            done = transfer(lab, "client", "server", mbit * 40_000)
            assert bound_holds(done, asked)
            shares.append(done.wire_bit_s / asked.rate_bit_s)
            if shares[-1] >= ENOUGH:
                return
        pytest.fail(f"shares of the rate: {shares}")


@inside
def test_a_rate_of_one_end_is_that_of_what_it_sends() -> None:
    slow = rate(4)
    with paired(client=slow) as lab:
        there = transfer(lab, "client", "server", 300_000)
        assert bound_holds(there, slow)
        assert is_faster(lambda: transfer(lab, "server", "client", 300_000), slow)


@inside
def test_a_rate_is_changed_and_taken_away_under_an_open_connection() -> None:
    with paired(client=rate(100)) as lab, connection(lab) as (one, other):
        over(one, other, 100_000)
        lab.apply(SetImpairment("client", "eth0", rate(4)))
        assert of(lab, "client") == "rate 4mbit"
        assert bound_holds(over(one, other, 300_000), rate(4))
        lab.apply(SetImpairment("client", "eth0", None))
        assert of(lab, "client") == "nothing"
        assert is_faster(lambda: over(one, other, 300_000), rate(4))


@inside
@pytest.mark.parametrize("mtu", [68, 1500, 9000, 65535])
def test_packets_of_the_largest_size_pass_at_the_lowest_rate_that_is_sensible(mtu: int) -> None:
    lines = (
        "hosts: {a: , b: }",
        f"links: [{{ends: [a, b], ipv4: 192.0.2.0/24, ipv6: false, mtu: {mtu}, rate: 10mbit}}]",
    )
    with (
        NetworkLab(*built(*lines).operations) as lab,
        lab.socket("a", socket.AF_INET, socket.SOCK_DGRAM) as one,
        lab.socket("b", socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        other.settimeout(patient(20))
        other.bind(("192.0.2.2", 5000))
        one.sendto(bytes(mtu - 28), ("192.0.2.2", 5000))
        assert len(other.recv(1 << 17)) == mtu - 28


@inside
def test_a_datagram_of_the_largest_size_passes_in_fragments_at_a_low_rate() -> None:
    with (
        paired(client=rate(10)) as lab,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as one,
        lab.socket("server", socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        other.settimeout(patient(20))
        other.bind(("192.0.2.2", 5000))
        one.sendto(bytes(65_507), ("192.0.2.2", 5000))
        assert len(other.recv(1 << 17)) == 65_507


@pytest.mark.stock_kernel
@inside
def test_the_kernel_reports_the_rate_that_was_set() -> None:
    rates = ("1kbit", "1500kbit", "10mbit", "1gbit", "40gbit", "1000gbit")
    links = (f"{{ends: [client, server], rate: {text}}}" for text in rates)
    made = built("hosts: {client: , server: }", f"links: [{', '.join(links)}]")
    with NetworkLab(*made.operations) as lab:
        assert [str(one) for one in impairments(lab, "client").values()] == [f"rate {text}" for text in rates]
        assert inspect(lab, "x", made).differs == ()


@inside
def test_a_switch_delays_nothing_but_limits_what_it_sends_to_one_host() -> None:
    lines = (
        "hosts: {client: , server: }",
        "switches: {s1: }",
        "links:",
        "  - {ends: [client, s1], ipv4: 192.0.2.0/24}",
        "  - ends: [server, {node: s1, rate: 4mbit}]",
    )
    with NetworkLab(*built(*lines).operations) as lab:
        assert impairments(lab, "s1").keys() == {"server"}
        assert bound_holds(transfer(lab, "client", "server", 300_000), rate(4))
        assert is_faster(lambda: transfer(lab, "server", "client", 300_000), rate(4))


@pytest.mark.stock_kernel
@inside
def test_a_new_plan_adds_changes_and_removes_rates_while_a_connection_goes_on() -> None:
    plans = [pair_plan(link) for link in ("mtu: 1500", "rate: 40mbit", "rate: 20mbit, mtu: 1400", "mtu: 1400")]
    with NetworkLab(*plans[0].operations) as lab, connection(lab) as (one, other):
        for old, new, found in zip(plans, plans[1:], ("rate 40mbit", "rate 20mbit", "nothing"), strict=False):
            with network_changed(difference(old, new), lab.nodes):
                pass
            assert (of(lab, "client"), of(lab, "server")) == (found, found)
            assert inspect(lab, "x", new).differs == ()
            over(one, other, 50_000)


@inside
def test_a_change_that_is_refused_leaves_the_rates_as_they_were() -> None:
    old, new = pair_plan("rate: 40mbit"), pair_plan("rate: 20mbit")
    changed = difference(old, new)
    same = next(one for one in old.operations if isinstance(one, AddAddress))
    broken = type(changed)(changed.removals, (*changed.additions, same), changed.ended, changed.nodes, changed.changes)
    with NetworkLab(*old.operations) as lab:
        with pytest.raises(KernelError), network_changed(broken, lab.nodes):
            pytest.fail("the address is there already")
        assert (of(lab, "client"), of(lab, "server")) == ("rate 40mbit", "rate 40mbit")
        with network_changed(changed, lab.nodes):
            pass
        assert (of(lab, "client"), of(lab, "server")) == ("rate 20mbit", "rate 20mbit")


@inside
def test_a_link_that_is_made_again_has_its_rate_again() -> None:
    old = pair_plan("rate: 40mbit")
    new = built(
        "hosts: {client: , server: }",
        "links: [{ends: [{node: client, mac: '02:00:00:00:00:77'}, server], ipv4: 192.0.2.0/24, rate: 40mbit}]",
    )
    with NetworkLab(*old.operations) as lab:
        with pytest.raises(RuntimeError), network_changed(difference(old, new), lab.nodes):  # noqa: PT012  # it is undone
            assert of(lab, "client") == "rate 40mbit"
            raise RuntimeError
        assert (of(lab, "client"), of(lab, "server")) == ("rate 40mbit", "rate 40mbit")


BY_HAND = {
    "tc qdisc delete dev eth0 root": "client:eth0: impairment is none, not rate 40mbit",
    "tc qdisc replace dev eth0 root handle f1: tbf rate 1mbit burst 5000 limit 70000": (
        "client:eth0: impairment is rate 1mbit, not rate 40mbit"
    ),
    "tc qdisc replace dev eth0 root handle 9: pfifo limit 7": "client:eth0: impairment is pfifo, not rate 40mbit",
    "tc qdisc replace dev eth0 root handle 1: htb default 1": "client:eth0: impairment is htb, not rate 40mbit",
}


@inside
@pytest.mark.parametrize("command", BY_HAND)
def test_a_queue_changed_by_hand_is_reported_and_can_be_set_again(command: str) -> None:
    made = pair_plan("rate: 40mbit")
    with NetworkLab(*made.operations) as lab:
        with lab.nodes.entered("client"):
            subprocess.run(["sh", "-ec", command], check=True)
        assert [str(one) for one in inspect(lab, "x", made).differs] == [BY_HAND[command]]
        lab.apply(*set_impairments(made, [("client", "eth0")], rate(40)))
        assert inspect(lab, "x", made).differs == ()


@inside
@pytest.mark.parametrize("command", BY_HAND)
def test_what_was_changed_by_hand_can_be_cleared(command: str) -> None:
    made = pair_plan("rate: 40mbit")
    with NetworkLab(*made.operations) as lab:
        with lab.nodes.entered("client"):
            subprocess.run(["sh", "-ec", command], check=True)
        lab.apply(*set_impairments(made, [("client", "eth0")], None))
        assert of(lab, "client") == "nothing"


@inside
def test_an_impairment_outlives_its_link_s_absence() -> None:
    from labctl.plan.operations import SetDown, SetUp

    with paired(client=rate(10)) as lab:
        lab.apply(SetDown("client", "eth0"))
        lab.apply(SetUp("client", "eth0"))
        assert of(lab, "client") == "rate 10mbit"


@skips.for_machines_without("netem", is_there=not NO_NETEM)
@inside
def test_without_netem_the_message_names_the_link_and_the_package_and_nothing_is_changed() -> None:
    operations: list[Operation] = [
        SetImpairment("server", "eth0", rate(5)),
        SetImpairment("client", "eth0", Impairment(delay_us=20_000, rate_bit_s=MBIT)),
    ]
    with paired(client=rate(10)) as lab:
        with pytest.raises(MachineError) as caught:
            lab.apply(*operations)
        said = str(caught.value)
        assert said.startswith(
            "link client:eth0 - server:eth0: cannot set delay 20ms rate 1mbit on client:eth0: ENOENT, "
        )
        assert said.endswith(f"This kernel has no netem. {probes.remedy('netem')}")
        assert without_qdisc("netem").endswith(probes.remedy("netem"))
        assert (of(lab, "client"), of(lab, "server")) == ("rate 10mbit", "nothing")


def test_the_shell_script_makes_the_same_queues() -> None:
    made = resolved("hosts: {a: , b: }", "links: [{ends: [a, {node: b, rate: 5mbit}], rate: 10mbit}]")
    shown = in_sandbox(script_of(made) + "tc -n a -json qdisc show dev eth0\ntc -n b -json qdisc show dev eth0\n")
    found = [json.loads(line)[0] for line in shown.splitlines()]
    assert [(one["kind"], one["handle"], one["options"]["rate"]) for one in found] == [
        ("tbf", "f1:", 10 * MBIT // 8),
        ("tbf", "f1:", 5 * MBIT // 8),
    ]


@inside
def test_netem_is_tried_in_a_namespace_of_its_own() -> None:
    home = current_network()
    try:
        before = os.fstat(home).st_ino
        assert isinstance(qdiscs.netem_miscounts(home), bool)
        assert not (NO_NETEM and qdiscs.netem_miscounts(home))
        after = current_network()
        assert os.fstat(after).st_ino == before
        os.close(after)
    finally:
        os.close(home)
