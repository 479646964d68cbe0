"""Which messages change an interface from one impairment to another: classes stay where the neighbours do."""

from __future__ import annotations

from labctl.kernel.netlink import HEADER, RTM_DELQDISC, RTM_NEWQDISC
from labctl.kernel.qdiscs import RTM_NEWTCLASS, RTM_NEWTFILTER
from labctl.lab.keeper.qdisc_messages import impairment_messages
from labctl.topology.netem import Discipline, Impairment, Pair

NAMES = {RTM_NEWQDISC: "qdisc", RTM_DELQDISC: "remove", RTM_NEWTCLASS: "class", RTM_NEWTFILTER: "filter"}
A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


def to(*pairs: tuple[str, int]) -> Impairment:
    return Impairment(pairs=tuple(Pair(mac[-2:], mac, Impairment(delay_us)) for mac, delay_us in pairs))


def messages(before: Impairment | None, now: Impairment) -> list[str]:
    made = impairment_messages(now, before, 7, 1500, None)
    return [f"{NAMES[HEADER.unpack_from(message)[1]]} {module}".strip() for message, module in made]


def test_new_neighbours_have_new_classes() -> None:
    made = ["qdisc sch_htb", "class sch_htb", "class sch_htb", "filter cls_flower", "qdisc sch_netem"]
    assert messages(None, to((A, 1))) == made
    assert messages(Impairment(5), to((A, 1))) == ["remove", *made]
    assert messages(to((B, 1)), to((A, 1))) == ["remove", *made]


def test_a_value_of_a_neighbour_changes_in_place() -> None:
    assert messages(to((A, 1), (B, 2)), to((A, 1), (B, 3))) == ["qdisc sch_netem"] * 2
    assert messages(to((A, 1), (B, 2)), to((A, 1), (B, 0))) == ["remove", "qdisc sch_netem"]


def test_without_neighbours_all_is_replaced() -> None:
    assert messages(to((A, 1)), Impairment(5)) == ["remove", "qdisc sch_netem"]


def test_each_discipline_names_its_module() -> None:
    for discipline in Discipline:
        if discipline is not Discipline.FIFO:
            one = Impairment(rate_bit_s=8_000_000, discipline=discipline)
            assert messages(None, one) == ["qdisc sch_tbf", f"qdisc sch_{discipline}"]
