from __future__ import annotations

from labctl.plan.device_commands import device_commands
from labctl.plan.operations import MakeDevice
from labctl.topology.devices import Peer, Vlan, Vxlan, Wireguard


def test_a_vlan_is_on_its_interface() -> None:
    part = MakeDevice("a", "eth0", "eth0.10", Vlan(10), mtu=1500)

    assert device_commands(part)[0] == (
        "ip -n a link add link eth0 name eth0.10 mtu 1500 type vlan protocol 802.1q id 10"
    )
    assert device_commands(part, remove=True) == ["ip -n a link delete dev eth0.10"]


def test_a_vxlan_floods_to_each_remote() -> None:
    part = MakeDevice("a", "", "vx", Vxlan(100, local="10.0.0.1", remotes=("10.0.0.2", "10.0.0.3")))

    assert device_commands(part)[-1] == "bridge -n a fdb append 00:00:00:00:00:00 dev vx dst 10.0.0.3"


def test_generated_keys_are_made_once_and_only_for_their_owner() -> None:
    peer = Peer("b", "wg0", endpoint="10.0.0.2", allowed=("0.0.0.0/0",))
    part = MakeDevice("a", "", "wg0", Wireguard(peers=(peer,)))

    assert device_commands(part)[-3:] == [
        "test -s a-wg0.key || (umask 077; wg genkey > a-wg0.key)",
        "test -s b-wg0.key || (umask 077; wg genkey > b-wg0.key)",
        "ip netns exec a wg set wg0 listen-port 51820 private-key a-wg0.key "
        'peer "$(wg pubkey < b-wg0.key)" endpoint 10.0.0.2:51820 allowed-ips 0.0.0.0/0',
    ]
