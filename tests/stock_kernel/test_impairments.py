"""Delay, jitter, loss and rate, measured against what was asked: needs netem, which a distribution's kernel has.

Lower bounds of times are exact: the kernel lets nothing through early. Upper bounds are those of an emulated machine.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from labctl import scenario
from labctl.errors import LabImpossible
from labctl.lab.client.handle import Lab
from labctl.lab.keeper.reconcile import network_changed
from labctl.observe import network
from labctl.observe.impairments import impairments
from labctl.observe.inspect import inspect
from labctl.observe.machine import without_qdisc
from labctl.plan.build import build, set_impairments
from labctl.plan.diff import difference
from labctl.plan.impairment_changes import change_impairments, sendings
from labctl.plan.operations import Plan, SetImpairment
from labctl.plan.queueing import TokenBucket, needs_counts, queues
from labctl.scenario import RunOptions
from labctl.scenario.results import Outcome
from labctl.topology.impairments import read_changes
from labctl.topology.model import Endpoint, Impairment, Topology
from labctl.topology.netem import Discipline, QueueLimit, QueueUnit
from tests import skips
from tests.integration import networks
from tests.integration.detached import running
from tests.integration.inside import NetworkLab, inside
from tests.integration.plan.test_render import in_sandbox, script_of
from tests.measuring import binomial_bounds, one_way_s, over, sent_through, transfer, udp_pair
from tests.patience import patient
from tests.unit.topology.drafts import resolved

MS, MBIT = 1000, 1_000_000
NO_NETEM = without_qdisc("netem")

pytestmark = [
    skips.needs_feature("netem", not NO_NETEM, NO_NETEM),
    skips.needs_programs("ip", "tc"),
    pytest.mark.stock_kernel,
]


def paired(*, client: Impairment | None = None, server: Impairment | None = None) -> NetworkLab:
    wanted = (("client", client), ("server", server))
    return NetworkLab(*networks.pair(), *(SetImpairment(node, "eth0", one) for node, one in wanted if one))


def built(link: str) -> Plan:
    lines = ("hosts: {client: , server: }", f"links: [{{ends: [client, server], ipv4: 192.0.2.0/24, {link}}}]")
    return build(resolved(*lines))


def queues_shown(lab: NetworkLab, node: str) -> list[dict[str, Any]]:
    """The disciplines of the node's eth0 with their counters, as tc tells them."""
    with lab.nodes.entered(node):
        shown = subprocess.check_output(["tc", "-s", "-json", "qdisc", "show", "dev", "eth0"], text=True)
    found: list[dict[str, Any]] = json.loads(shown)
    return found


@inside
def test_a_delay_is_that_of_every_packet_in_each_direction() -> None:
    delay = Impairment(delay_us=40 * MS)
    with paired(client=delay, server=delay) as lab:
        for sender, receiver in (("client", "server"), ("server", "client")):
            taken = one_way_s(lab, sender, receiver, 15)
            assert min(taken) >= 0.040
            assert min(taken) < 0.040 + patient(0.05)


@inside
def test_a_delay_of_one_end_is_that_of_what_it_sends() -> None:
    with paired(client=Impairment(delay_us=200 * MS)) as lab:
        assert min(one_way_s(lab, "client", "server", 5)) >= 0.200
        assert min(one_way_s(lab, "server", "client", 20)) < 0.200


@inside
def test_jitter_spreads_the_delay_to_both_sides() -> None:
    # Of 60 packets at least one comes within the first, and one in the last quarter, but for 1 in 30 million times.
    with paired(client=Impairment(delay_us=80 * MS, jitter_us=60 * MS)) as lab:
        taken = one_way_s(lab, "client", "server", 60)
        assert min(taken) >= 0.020
        assert min(taken) < 0.080
        assert max(taken) >= 0.110


@inside
@pytest.mark.parametrize("loss_ppm", [10_000, 250_000])
def test_so_many_packets_are_lost_as_were_to_be(loss_ppm: int) -> None:
    count = 2000
    with paired(client=Impairment(loss_ppm=loss_ppm)) as lab:
        low, high = binomial_bounds(count, loss_ppm / 1e6)
        assert low <= sent_through(lab, "client", "server", count).lost <= high
        assert sent_through(lab, "server", "client", 200).lost == 0


@inside
def test_everything_or_nothing_is_lost() -> None:
    with paired(client=Impairment(loss_ppm=1_000_000)) as lab:
        assert sent_through(lab, "client", "server", 100).lost == 100
        lab.apply(SetImpairment("client", "eth0", None))
        assert sent_through(lab, "client", "server", 100).lost == 0


@inside
def test_a_seed_repeats_the_losses_on_kernels_that_take_one_and_does_no_harm_on_others() -> None:
    takes_one = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 6)
    made = built("ipv6: false, mtu: 1200")  # below 1280 bytes there is no IPv6, whose own packets would draw, too
    with NetworkLab(*made.operations) as lab:
        found = []
        for seed in (7, 7, 8):
            lab.apply(*set_impairments(made, [("client", "eth0")], Impairment(loss_ppm=250_000), seed))
            found.append(sent_through(lab, "client", "server", 300).arrived)
        assert (found[0] == found[1]) is takes_one
        assert found[0] != found[2]


@inside
def test_a_rate_is_kept_whatever_else_is_asked_for() -> None:
    with paired() as lab:
        for delay_us, loss_ppm in ((0, 0), (10 * MS, 0), (10 * MS, 1000)):
            impairment = Impairment(delay_us, 0, loss_ppm, 8 * MBIT)
            bucket = queues(impairment, 1500)[0]
            assert isinstance(bucket, TokenBucket)
            lab.apply(SetImpairment("client", "eth0", impairment))
            done = transfer(lab, "client", "server", 1_500_000)
            assert done.size <= 1_000_000 * done.taken_s + bucket.burst_bytes
            assert done.wire_bit_s > 8 * MBIT / 10  # an emulated processor is no measure


@inside
def test_a_link_with_a_delay_works_on_after_an_overload_whatever_its_discipline_or_is_refused() -> None:
    with paired() as lab:
        for discipline in Discipline:
            limit = QueueLimit(30, QueueUnit.PACKETS)
            impairment = Impairment(10 * MS, rate_bit_s=8 * MBIT, queue=limit, discipline=discipline)
            try:
                lab.apply(SetImpairment("client", "eth0", impairment))
            except LabImpossible:  # a kernel whose netem would accept no more
                assert needs_counts(impairment)
                continue
            one, other = udp_pair(lab, "client", "server")
            with one, other:
                for _ in range(60):
                    for _ in range(20):
                        one.send(bytes(1400))
                    select.poll().poll(10)
            until = time.monotonic() + patient(10)
            while any(queue["qlen"] for queue in queues_shown(lab, "client")):
                assert time.monotonic() < until, (discipline, queues_shown(lab, "client"))
                select.poll().poll(50)
            assert queues_shown(lab, "client")[-1]["drops"] > 0
            assert min(one_way_s(lab, "client", "server", 5)) >= 0.010


@inside
def test_a_long_fat_link_holds_more_than_netem_s_usual_thousand_packets() -> None:
    count = 3000
    with paired(client=Impairment(delay_us=100_000 * MS)) as lab:
        one, other = udp_pair(lab, "client", "server")
        with one, other:
            one.settimeout(patient(20))
            for number in range(count):
                one.send(number.to_bytes(4, "big"))
            (emulator,) = queues_shown(lab, "client")
    assert emulator["drops"] == 0
    assert emulator["qlen"] >= count


@inside
def test_what_tcp_hands_over_at_once_is_lost_packet_by_packet_where_there_is_a_rate() -> None:
    # tbf cuts the 64 KiB that TCP hands over before netem sees them: no packet of netem's is larger than the MTU.
    with paired(client=Impairment(loss_ppm=1, rate_bit_s=8 * MBIT)) as lab:
        transfer(lab, "client", "server", 1_000_000)
        emulator = next(one for one in queues_shown(lab, "client") if one["kind"] == "netem")
    assert emulator["packets"] >= 1_000_000 // 1448


@inside
def test_a_running_link_is_changed_from_any_impairment_to_any_other() -> None:
    wanted = [
        Impairment(delay_us=MS),
        Impairment(delay_us=MS, jitter_us=MS, loss_ppm=1, rate_bit_s=100 * MBIT),
        Impairment(loss_ppm=2),
        Impairment(rate_bit_s=50 * MBIT),
        Impairment(delay_us=2 * MS, rate_bit_s=40 * MBIT),
        Impairment(delay_us=3 * MS, jitter_us=500, rate_bit_s=30 * MBIT),
        Impairment(rate_bit_s=50 * MBIT),
        None,
    ]
    with (
        paired() as lab,
        lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as listener,
        lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as one,
    ):
        listener.bind(("192.0.2.2", 5000))
        listener.listen(1)
        one.connect(("192.0.2.2", 5000))
        other, _ = listener.accept()
        with other:
            for sock in (one, other):
                sock.settimeout(patient(30))
            for impairment in [*wanted, *reversed(wanted)]:
                lab.apply(SetImpairment("client", "eth0", impairment))
                there = impairments(lab, "client").get("eth0")
                assert (there.impairment if there else None) == impairment
                over(one, other, 20_000)


@inside
def test_the_kernel_has_what_was_asked_for() -> None:
    wanted = (
        "delay: 274s, jitter: 2s",
        "delay: 1us, jitter: 1us",
        "loss: 0.0001%",
        "loss: 100%",
        "delay: 12345us, loss: 12.3456%, rate: 1kbit",
        "delay: 20ms, jitter: 2ms, loss: 1%, rate: 1000gbit",
        "delay: 20ms, jitter: 2ms, distribution: normal, delay_correlation: 25%",
        "delay: 20ms, jitter: 2ms, distribution: pareto, rate: 10mbit, burst: 9000B",
        "loss: 1%, loss_correlation: 25%, duplicate: 2%, duplicate_correlation: 50%, corrupt: 1%",
        "gemodel: 1% 10% 70% 0.1%, delay: 1ms",
        "delay: 10ms, reorder: 25%, reorder_correlation: 50%, corrupt: 0.1%, corrupt_correlation: 1%",
        "delay: 10ms, gap: 5, queue: 7",
        "rate: 10mbit, discipline: codel, queue: 50ms",
        "rate: 10mbit, discipline: fq_codel, queue: 100packets",
        "rate: 10mbit, discipline: cake, queue: 1MiB",
        "rate: 10mbit, discipline: red, queue: 256KiB",
        "rate: 10mbit, discipline: fq_codel, delay: 10ms, loss: 1%",
        "rate: 10mbit, discipline: cake, delay: 10ms",
    )
    links = (f"{{ends: [client, server], ipv6: false, {one}}}" for one in wanted)
    made = build(resolved("hosts: {client: , server: }", f"links: [{', '.join(links)}]"))
    with NetworkLab(*made.operations) as lab:
        assert inspect(lab, "x", made).differs == ()
        assert len(impairments(lab, "client")) == len(wanted)


@inside
def test_each_neighbour_on_a_network_has_its_own_values_which_change_in_place() -> None:
    def world(*lines: str) -> Plan:
        return build(
            resolved(
                "hosts: {a: , b: , c: }",
                "networks:",
                "  wan: {members: [{node: a, loss: 100%}, b, c], ipv4: 192.0.2.0/24, ipv6: false,",
                *lines,
                "}",
            )
        )

    def round_trip_ms(lab: NetworkLab, to: str) -> float:
        with lab.nodes.entered("a"):
            shown = subprocess.run(["ping", "-c3", "-i0.2", f"192.0.2.{to}"], capture_output=True, text=True).stdout
        return float(re.findall(r"time=([0-9.]+)", shown)[-1])

    kept = [f"{{nodes: [{{node: a, loss: 0}}, {node}]}}" for node in "bc"]
    plans = [
        world(f"delays: {{a: {{b: 20ms, c: 60ms}}}}, between: [{', '.join(kept)}]"),
        world(f"delays: {{a: {{b: 40ms, c: 60ms}}}}, between: [{', '.join(kept)}]"),
        world(f"delays: {{a: {{c: 30ms}}}}, between: [{kept[1]}]"),
    ]
    with NetworkLab(*plans[0].operations) as lab:
        macs = {node: next(each.mac for each in network.links(lab, node) if each.name == "eth0") for node in "abc"}
        for number, node in enumerate("bc", 2):  # the member's values are those of broadcasts
            with lab.nodes.entered("a"):
                entry = ["to", f"192.0.2.{number}", "lladdr", macs[node], "dev", "eth0", "nud", "permanent"]
                subprocess.run(["ip", "neigh", "replace", *entry], check=True)
        assert inspect(lab, "x", plans[0]).differs == ()
        assert 40 <= round_trip_ms(lab, "2") < 40 + patient(0.03) * 1000
        assert 120 <= round_trip_ms(lab, "3") < 120 + patient(0.03) * 1000
        for old, new in pairwise(plans):
            with network_changed(difference(old, new), lab.nodes):
                pass
            assert inspect(lab, "x", new).differs == ()
            if new is plans[1]:
                assert 80 <= round_trip_ms(lab, "2") < 80 + patient(0.03) * 1000
        assert 60 <= round_trip_ms(lab, "3") < 60 + patient(0.03) * 1000
        sent = sendings(Endpoint("a", "eth0"), Endpoint("c", "eth0"), "a", is_pair=True)
        lab.apply(*change_impairments(InForce(plans[-1]), plans[-1], sent, read_changes({"delay": "70ms"})))
        assert 100 <= round_trip_ms(lab, "3") < 100 + patient(0.03) * 1000  # c still delays by 30 ms


class InForce:
    """What a plan has, as a lab reports it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def impaired(self, nodes: Iterable[str] = ()) -> dict[tuple[str, str], Impairment]:
        found = [one for one in self._plan.operations if isinstance(one, SetImpairment)]
        return {(one.node, one.ifname): one.impairment for one in found if one.impairment}


@inside
def test_a_new_plan_changes_delay_and_loss_while_a_connection_goes_on() -> None:
    plans = [built(link) for link in ("mtu: 1500", "delay: 5ms, loss: 1%", "delay: 5ms, rate: 40mbit", "mtu: 1500")]
    with (
        NetworkLab(*plans[0].operations) as lab,
        lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as listener,
        lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as one,
    ):
        listener.bind(("192.0.2.2", 5000))
        listener.listen(1)
        one.connect(("192.0.2.2", 5000))
        other, _ = listener.accept()
        with other:
            for sock in (one, other):
                sock.settimeout(patient(30))
            for old, new in pairwise(plans):
                with network_changed(difference(old, new), lab.nodes):
                    pass
                assert inspect(lab, "x", new).differs == ()
                over(one, other, 20_000)


def test_a_scenario_changes_a_link_and_gives_a_running_lab_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    file = tmp_path / "slow.yaml"
    file.write_text(
        "topology: pair\n"
        "within: 50s\n"
        "timeout: 300s\n"
        "requires: {features: [netem, tbf]}\n"
        "steps:\n"
        "  - link: {between: [client, server], set: {delay: 300ms}, from: client}\n"
        "  - client: |\n"
        "      c = socket(AF_INET, SOCK_STREAM)\n"
        '      connect(c, "server:81") -> ECONNREFUSED\n'
        "  - link: {between: [client, server], set: {loss: 100%}}\n"
        "  - expect: {on: client, unreachable: server}\n"
        "  - link: {clear: [client, server]}\n"
        "  - expect: {on: client, reachable: server}\n"
        "  - link: {between: [client, server], set: {rate: 5mbit, delay: 1ms}, from: server}\n"
    )
    loaded = scenario.load(file)
    planned = build(loaded.topology)
    with running(planned) as name:
        with Lab.attach(name) as lab:
            lab.apply(set_impairments(planned, [("client", "eth0")], Impairment(delay_us=7 * MS)))
        result = scenario.run_scenario(loaded, RunOptions(lab=name))
        assert result.outcome is Outcome.PASSED, result.reason
        connect = next(call for step in result.steps for call in step.calls if call.call.startswith("connect"))
        assert (connect.duration_s or 0.0) >= 0.3
        with Lab.attach(name) as lab:
            there = {node: str(one) for node in lab.nodes for one in impairments(lab, node).values()}
        assert there == {"client": "delay 7ms"}


def test_the_shell_script_makes_the_same_queues() -> None:
    made = resolved(
        "hosts: {a: , b: }",
        "links:",
        "  - {ends: [a, {node: b, loss: 0.5%}], delay: 20ms, jitter: 3ms, rate: 10mbit}",
        "  - {ends: [a, b], loss: 1%}",
        "  - {ends: [a, {node: b, delay: 10ms, reorder: 25%, gap: 5}], rate: 10mbit, discipline: red, queue: 256KiB}",
        "  - {ends: [a, {node: b, gemodel: 1% 10% 70% 0.1%}], rate: 10mbit, discipline: cake, queue: 1MiB}",
        "  - {ends: [a, {node: b, delay: 9ms}], rate: 10mbit, discipline: fq_codel, queue: 100}",
        "  - {ends: [a, {node: b, discipline: fifo}], rate: 10mbit, discipline: codel, queue: 50ms, corrupt: 1% }",
        "networks: {wan: {members: [{node: a, rate: 8mbit}, b], between: [{nodes: [a, b], delay: 5ms}]}}",
    )
    ends = [(node, f"eth{number}") for node in ("a", "b") for number in range(7)]
    shown = in_sandbox(script_of(made) + "".join(f"tc -n {node} qdisc show dev {ifname}\n" for node, ifname in ends))
    assert [_alike(line) for line in shown.splitlines()] == [_alike(line) for line in of_labctl(made, ends)]


def _alike(line: str) -> str:
    """Without the number of references, which is a matter of when tc looked."""
    return re.sub(r" refcnt \d+", "", line)


def of_labctl(made: Topology, ends: Sequence[tuple[str, str]]) -> list[str]:
    """What tc shows of the disciplines that labctl itself has made."""
    lines: list[str] = []

    @inside
    def look() -> None:
        with NetworkLab(*build(made).operations) as lab:
            for node, ifname in ends:
                with lab.nodes.entered(node):
                    lines.extend(
                        subprocess.check_output(["tc", "qdisc", "show", "dev", ifname], text=True).splitlines()
                    )
        with open(writing, "w") as file:
            file.write("\n".join(lines))

    reading, writing = os.pipe()
    try:
        look()
    finally:
        os.close(writing)
    with open(reading) as file:
        return file.read().splitlines()
