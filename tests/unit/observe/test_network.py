"""Counters by name, from the files of /proc/net."""

from __future__ import annotations

import pytest

from labctl.observe.network import Counters, UnknownCounter, counters_here, parse_pairs, parse_snmp6

NETSTAT = """\
TcpExt: SyncookiesSent ListenOverflows ListenDrops
TcpExt: 0 3 4
IpExt: InNoRoutes InOctets
IpExt: 0 123
"""
SNMP = """\
Tcp: RtoAlgorithm MaxConn InErrs
Tcp: 1 -1 0
Udp: NoPorts InErrors
Udp: 2 1
"""
SNMP6 = "Ip6InReceives                   \t12\nUdp6InErrors                    \t1\nIcmp6OutType133 \t2\n"


def snapshot() -> Counters:
    return Counters({**dict(parse_pairs(NETSTAT)), **dict(parse_pairs(SNMP)), **dict(parse_snmp6(SNMP6))})


def test_counters_have_full_names_and_bare_names() -> None:
    found = snapshot()
    assert found["TcpExt.ListenOverflows"] == found["ListenOverflows"] == found["listenoverflows"] == 3
    assert found["Tcp.MaxConn"] == -1
    assert found["Ip6.InReceives"] == 12
    assert found["Icmp6.OutType133"] == 2


def test_a_bare_name_that_several_have_is_refused_with_their_full_names() -> None:
    with pytest.raises(UnknownCounter, match=r"use `Udp\.InErrors` or `Udp6\.InErrors`"):
        snapshot()["InErrors"]


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(UnknownCounter, match=r"did you mean `TcpExt\.ListenDrops`"):
        snapshot()["ListenDrop"]
    with pytest.raises(UnknownCounter, match="nstat"):
        snapshot()["zzz"]


def test_a_type_of_icmp_that_was_never_seen_counts_0() -> None:
    assert snapshot()["Icmp6.OutType133"] == 2
    assert snapshot()["Icmp6.InType1"] == snapshot()["IcmpMsg.OutType8"] == 0


def test_the_counters_of_this_machine_are_there_by_name() -> None:
    found = counters_here()
    if found is None:
        pytest.skip("not all of the files of /proc/net are there")
    assert {"TcpExt.ListenOverflows", "Udp.InErrors", "Udp6.InErrors"} <= set(found.values)


def test_a_difference_counts_what_has_happened_since() -> None:
    later = Counters({**snapshot().values, "TcpExt.ListenOverflows": 5, "TcpExt.New": 1})
    assert (later - snapshot()).changed() == {"TcpExt.ListenOverflows": 2, "TcpExt.New": 1}
