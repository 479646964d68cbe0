from __future__ import annotations

import pytest

from labctl.topology.devices import Bond, BondMode, Macvlan, MacvlanMode, Tunnel, TunnelKind, Vlan, Wireguard


@pytest.mark.parametrize(
    ("kind", "key", "overhead"),
    [
        ("gre", None, 24),
        ("gre", 7, 28),
        ("ipip", None, 20),
        ("sit", None, 20),
        ("gretap", None, 38),
        ("ip6tnl", None, 40),
    ],
)
def test_overhead_of_a_tunnel(kind: str, key: int | None, overhead: int) -> None:
    assert Tunnel(TunnelKind(kind), "", "", key).overhead_bytes == overhead


def test_what_the_kernel_changes_in_place() -> None:
    tunnel = Tunnel(TunnelKind.GRE, "10.0.0.1", "10.0.0.2")

    assert tunnel.changes_in_place(Tunnel(TunnelKind.GRE, "10.0.0.1", "10.0.0.3"))
    assert not tunnel.changes_in_place(Tunnel(TunnelKind.IPIP, "10.0.0.1", "10.0.0.2"))
    assert not Vlan(10).changes_in_place(Vlan(20))
    assert not Bond(BondMode.LACP).changes_in_place(Bond(BondMode.XOR))
    assert Macvlan(MacvlanMode.BRIDGE).changes_in_place(Macvlan(MacvlanMode.PRIVATE))
    assert not Macvlan(MacvlanMode.BRIDGE).changes_in_place(Macvlan(MacvlanMode.PASSTHRU))


def test_the_description_of_wireguard_has_no_private_key() -> None:
    assert "secret" not in Wireguard(private_key="secret").text()
