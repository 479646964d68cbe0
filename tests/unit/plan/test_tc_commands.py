"""An impairment as commands of tc(8); the stock-kernel stage compares what they make with what labctl makes."""

from __future__ import annotations

from labctl.plan.tc_commands import impairment_commands
from labctl.structs import replace
from labctl.topology.impairments import parse
from labctl.topology.netem import Pair


def commands(**written: object) -> list[str]:
    return [line.removeprefix("tc -n a ") for line in impairment_commands("a", "eth0", parse(written), 1500)]


def test_all_of_netem() -> None:
    assert commands(
        delay="20ms",
        jitter="2ms",
        distribution="normal",
        delay_correlation="25%",
        gemodel="1% 10% 70% 0.1%",
        duplicate="1%",
        corrupt="0.1%",
        reorder="25%",
        reorder_correlation="50%",
    ) == [
        "qdisc replace dev eth0 root handle 112: netem limit 22000 delay 20000us 2000us 25% distribution normal "
        "loss gemodel 1% 10% 70% 0.1% duplicate 1% corrupt 0.1% reorder 25% 50% gap 1"
    ]


def test_a_discipline_is_below_the_rate() -> None:
    assert commands(rate="10mbit", discipline="fq_codel", queue="100packets") == [
        "qdisc replace dev eth0 root handle f8: tbf rate 10000000bit burst 5000 limit 151800",
        "qdisc replace dev eth0 parent f8:1 handle f9: fq_codel limit 100",
    ]
    assert commands(rate="10mbit", discipline="red", queue="120kB")[1].endswith(
        "red limit 120000 max 30000 min 10000 avpkt 1518 bandwidth 10000000bit"
    )


def test_pairs_are_classes_with_filters_by_mac() -> None:
    impairment = replace(parse({"rate": "8mbit"}), pairs=(Pair("b", "02:00:00:00:00:0b", parse({"delay": "40ms"})),))
    assert impairment_commands("a", "eth0", impairment, 1500) == [
        "tc -n a qdisc replace dev eth0 root handle 130: htb default 1",
        "tc -n a class replace dev eth0 parent 130: classid 130:1 htb rate 1000gbit",
        "tc -n a class replace dev eth0 parent 130: classid 130:2 htb rate 1000gbit",
        "tc -n a filter add dev eth0 parent 130: protocol all prio 1 flower dst_mac 02:00:00:00:00:0b classid 130:2",
        "tc -n a qdisc replace dev eth0 parent 130:1 handle 1001: tbf rate 8000000bit burst 4000 limit 70000",
        "tc -n a qdisc replace dev eth0 parent 130:2 handle 1042: netem limit 40000 delay 40000us",
    ]
