"""Tables of nftables as text for nft."""

from __future__ import annotations

from labctl.plan.packet_tables import Chain, ElementSet, Kind, Match, Rule, Translate, Update, Verdict, nft


def test_a_table_is_the_text_that_nft_reads() -> None:
    owners = ElementSet("owners", ("inet_proto", "inet_service"), ("ipv4_addr", "inet_service"), 60)
    port = ("meta l4proto", "th dport")
    rules = (
        Rule((Match(("iifname",), ("eth0.10",), True),), verdict=Verdict.RESET),
        Rule((Match(("ct status",), ("dnat",), True), Match(port, ("@owners",)))),
        Rule((), (Update("owners", port, ("ip saddr", "th sport"), 60),)),
        Rule((), translate=Translate(Kind.DESTINATION, 4, lookup="owners", keys=port)),
        Rule((), translate=Translate(Kind.SOURCE, 6, "fd00::1", 1024, 2047)),
        Rule((), translate=Translate(Kind.MASQUERADE, 4, random=True)),
    )
    text = nft("t", (owners,), (Chain("c", "nat", "prerouting", -100, rules, Verdict.DROP),))
    assert text.splitlines() == [
        "table inet t {",
        "  map owners { type inet_proto . inet_service : ipv4_addr . inet_service; "
        "size 65536; flags dynamic,timeout; timeout 60s; }",
        "  chain c {",
        "    type nat hook prerouting priority -100; policy drop;",
        '    iifname != "eth0.10" reject with tcp reset',
        "    ct status ! dnat meta l4proto . th dport @owners",
        "    update @owners { meta l4proto . th dport timeout 60s : ip saddr . th sport }",
        "    dnat ip to meta l4proto . th dport map @owners",
        "    snat ip6 to [fd00::1]:1024-2047",
        "    masquerade fully-random",
        "  }",
        "}",
    ]
