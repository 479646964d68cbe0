"""A lab plays the profiles of its links, each moment at its time, and stays as long as it does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile, islice

import pytest

from labctl.kernel import notifications
from labctl.kernel.netlink import NETLINK_ROUTE, RTM_NEWQDISC, messages_in
from labctl.kernel.qdiscs import parse_qdisc
from labctl.lab.client.handle import Lab
from labctl.lab.keeper.clients import Timers
from labctl.lab.keeper.nodes import NodeTable
from labctl.lab.keeper.profile_player import ProfilePlayer
from labctl.observe.impairments import impairments
from labctl.observe.machine import without_qdisc
from labctl.plan.build import build, set_impairments
from labctl.plan.operations import Plan
from labctl.topology.netem import Impairment, Profile, QueueLimit, QueueUnit
from tests import skips
from tests.integration import networks
from tests.integration.detached import becomes, running
from tests.integration.inside import NetworkLab, inside
from tests.labs import WAIT_S
from tests.unit.topology.drafts import resolved

pytestmark = skips.needs_feature("tbf", not without_qdisc("tbf"), without_qdisc("tbf"))


def built(profile: str) -> Plan:
    return build(resolved("hosts: {a: , b: }", f"links: [{{ends: [{{node: a, profile: {profile}}}, b]}}]"))


def rate(lab: Lab) -> int:
    return impairments(lab, "a", lab.impaired()).get("eth0", None).impairment.rate_bit_s // 1_000_000  # type: ignore[union-attr]


@contextmanager
def attached(plan: Plan) -> Iterator[Lab]:
    with running(plan) as name, Lab.attach(name) as lab:
        yield lab


def rates(sock: socket.socket) -> Iterator[int]:
    """The rates that the kernel reports to a subscriber, in order."""
    while True:
        for kind, _, _, payload in messages_in(sock.recv(65536)):
            if kind == RTM_NEWQDISC and (found := parse_qdisc(payload)).kind == "tbf":
                yield found.rate_bit_s // 1_000_000


def test_moments_follow_each_other_and_repeat(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", f"{tmp_path}/state")
    moments = "[{at: 0s, rate: 8mbit}, {at: 1s, rate: 16mbit}, {at: 2s, rate: 24mbit}]"  # a late timer skips one
    plan = built(f"{{moments: {moments}, loop: 3s}}")
    with attached(plan) as lab:
        with lab.socket("a", socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
            notifications.subscribe(sock)
            sock.settimeout(WAIT_S)
            following = dropwhile(lambda rate: rate != 8, rates(sock))
            assert list(islice(following, 4)) == [8, 16, 24, 8]
        lab.apply(set_impairments(plan, [("a", "eth0")], Impairment(rate_bit_s=1_000_000)))
        assert rate(lab) == 1
        assert lab.impaired()["a", "eth0"] == Impairment(rate_bit_s=1_000_000)


def test_the_last_moment_stays(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_STATE_DIR", f"{tmp_path}/state")
    with attached(built("[{at: 0s, rate: 8mbit}, {at: 100ms, rate: 16mbit}]")) as lab:
        assert becomes(lambda: rate(lab) == 16)
        (present,) = lab.impaired().values()
        assert present.rate_bit_s == 16_000_000
        assert present.profile is not None


@inside
def test_a_queue_without_anything_that_queues_replaces_the_discipline_before() -> None:
    plan = built("[{at: 0s, rate: 8mbit}]")
    with NetworkLab(*plan.operations) as lab:
        lab.apply(*set_impairments(plan, [("a", "eth0")], Impairment(queue=QueueLimit(10, QueueUnit.PACKETS))))
        assert impairments(lab, "a") == {}


@inside
def test_a_profile_whose_interface_is_removed_ends() -> None:
    plan = built("[{at: 0s, rate: 8mbit}, {at: 1ms, rate: 16mbit}]")
    with NetworkLab(*plan.operations) as lab:
        timers = Timers()
        player = ProfilePlayer(lab.nodes, timers)
        player.update()
        assert timers.wait_ms() is not None
        lab.nodes["a"].interfaces.clear()
        player.update()
        assert timers.wait_ms() is None
        assert not lab.nodes.profiled


@inside
def test_a_profile_that_is_replaced_begins_anew() -> None:
    table: NodeTable
    plan = built("[{at: 0s, rate: 8mbit}, {at: 10s, rate: 16mbit}]")
    with NetworkLab(*networks.pair()) as other, NetworkLab(*plan.operations) as lab:
        assert not other.nodes.profile_changes
        table = lab.nodes
        before = table.profiled["a", "eth0"]
        assert isinstance(before, Profile)
        lab.apply(*set_impairments(plan, [("a", "eth0")], Impairment(rate_bit_s=8000)))
        assert not table.profiled
        assert table.profile_changes == 2
