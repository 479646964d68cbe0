"""Virtual interfaces of a node: VLAN, bond, MACVLAN, VRF, VXLAN, tunnels, WireGuard, bridge, dummy.

A `Device` is an interface that the kernel makes of others, or of nothing; ends of links are no devices. Its `spec` is
one of the classes in `DeviceSpec`; `options` of a spec have the names and values of ip-link(8).
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from labctl.structs import Struct, replace

VXLAN_PORT, WIREGUARD_PORT = 4789, 51820  # RFC 7348; the port of wg-quick(8)'s examples
TUNNEL_TTL = 64  # a packet's own, which is 1 for OSPF, would not reach a remote end behind a router
MIIMON_MS = 100
HIDDEN = "(hidden)"  # in place of a secret
FORWARD_DELAY_CS = 200  # of a bridge with STP, in 1/100 s: the least that IEEE 802.1D allows is 4 s, the kernel 2 s
# The kernel gives every namespace a fallback device of each kind of tunnel that it has loaded
# (net.core.fb_tunnels_only_for_init_net in Documentation/admin-guide/sysctl/net.rst).
FALLBACK_DEVICES = frozenset(
    {"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"}
)

Options = tuple[tuple[str, str | int], ...]


class BondMode(StrEnum):
    ROUND_ROBIN = "balance-rr"
    ACTIVE_BACKUP = "active-backup"
    XOR = "balance-xor"
    BROADCAST = "broadcast"
    LACP = "802.3ad"
    TLB = "balance-tlb"
    ALB = "balance-alb"


class HashPolicy(StrEnum):
    """What a bond spreads packets by."""

    LAYER2 = "layer2"
    LAYER34 = "layer3+4"
    LAYER23 = "layer2+3"
    ENCAP23 = "encap2+3"
    ENCAP34 = "encap3+4"
    VLAN = "vlan+srcmac"


class LacpRate(StrEnum):
    SLOW = "slow"
    FAST = "fast"


class MacvlanMode(StrEnum):
    BRIDGE = "bridge"
    PRIVATE = "private"
    VEPA = "vepa"
    PASSTHRU = "passthru"


class IpvlanMode(StrEnum):
    L2 = "l2"
    L3 = "l3"
    L3S = "l3s"


class VlanProtocol(StrEnum):
    Q = "802.1q"
    AD = "802.1ad"


class TunnelKind(StrEnum):
    """The kinds of tunnels, with the names of ip-link(8)."""

    GRE = "gre"
    GRETAP = "gretap"
    IP6GRE = "ip6gre"
    IP6GRETAP = "ip6gretap"
    IPIP = "ipip"
    SIT = "sit"
    IP6TNL = "ip6tnl"

    @property
    def is_over_ipv6(self) -> bool:
        """Whether its own packets are IPv6."""
        return self.value.startswith("ip6")

    @property
    def carries(self) -> tuple[int, ...]:
        """The IP versions of packets in it."""
        return {TunnelKind.IPIP: (4,), TunnelKind.SIT: (6,)}.get(self, (4, 6))

    @property
    def is_ethernet(self) -> bool:
        """Whether it carries Ethernet frames."""
        return self.value.endswith("tap")


class Spec(Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True, gc=False):
    """Base of the kinds of devices."""

    KIND: ClassVar[str] = ""  # of ip-link(8)
    HAS_MAC: ClassVar[bool] = True  # a MAC address of its own
    NEEDS_PARENT: ClassVar[bool] = False
    IN_PLACE: ClassVar[tuple[str, ...]] = ()  # fields that the kernel changes without making it again

    @property
    def kind(self) -> str:
        return self.KIND

    @property
    def has_mac(self) -> bool:
        return self.HAS_MAC

    @property
    def finds_neighbours(self) -> bool:
        """Whether ARP and neighbour discovery run on it from the start; on bonds and bridges, with the first member."""
        return self.has_mac

    @property
    def carries(self) -> tuple[int, ...]:
        """The IP versions of packets on it."""
        return (4, 6)

    @property
    def overhead_bytes(self) -> int:
        """What it adds to a packet, which its MTU must leave room for."""
        return 0

    @property
    def options(self) -> Options:
        """The options of `ip link add type KIND`, in order."""
        return ()

    def text(self) -> str:
        """Describe it in a few words, without secrets: `vlan 10`."""
        return self.kind

    def without_secrets(self) -> Spec:
        """Return it with HIDDEN in place of private keys."""
        return self

    def changes_in_place(self, new: Spec) -> bool:
        """Return whether the kernel changes it to `new` while it stays."""
        if type(new) is not type(self) or new.kind != self.kind:
            return False
        return set(self.changed(new)) <= set(self.IN_PLACE)

    def changed(self, new: Spec) -> list[str]:
        """Return the names of the fields that are otherwise in `new`, of the same class."""
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(new, name)]


class Vlan(Spec, frozen=True):
    """Frames with a tag, of IEEE 802.1Q or 802.1ad, on another interface."""

    KIND = "vlan"
    NEEDS_PARENT = True
    HAS_MAC = False  # that of the interface
    id: int
    protocol: VlanProtocol = VlanProtocol.Q

    @property
    def finds_neighbours(self) -> bool:
        return True

    @property
    def options(self) -> Options:
        return (("protocol", self.protocol.value), ("id", self.id))

    def text(self) -> str:
        return f"vlan {self.id}" + (f" ({self.protocol})" if self.protocol is VlanProtocol.AD else "")


class Bond(Spec, frozen=True):
    """Several interfaces as one (Documentation/networking/bonding.rst)."""

    KIND = "bond"
    IN_PLACE = ("lacp_rate", "hash_policy", "miimon_ms")
    mode: BondMode
    miimon_ms: int = MIIMON_MS
    hash_policy: HashPolicy = HashPolicy.LAYER2
    lacp_rate: LacpRate = LacpRate.FAST

    @property
    def finds_neighbours(self) -> bool:
        return False

    @property
    def options(self) -> Options:
        found: list[tuple[str, str | int]] = [("mode", self.mode.value), ("miimon", self.miimon_ms)]
        if self.mode in (BondMode.XOR, BondMode.LACP, BondMode.TLB):
            found.append(("xmit_hash_policy", self.hash_policy.value))
        if self.mode is BondMode.LACP:
            found.append(("lacp_rate", self.lacp_rate.value))
        return tuple(found)

    def text(self) -> str:
        return f"bond {self.mode}"


class Macvlan(Spec, frozen=True):
    """A further MAC address on another interface."""

    KIND = "macvlan"
    NEEDS_PARENT = True
    IN_PLACE = ("mode",)
    mode: MacvlanMode = MacvlanMode.BRIDGE

    @property
    def options(self) -> Options:
        return (("mode", self.mode.value),)

    def text(self) -> str:
        return f"macvlan {self.mode}"

    def changes_in_place(self, new: Spec) -> bool:
        modes = {one.mode for one in (self, new) if isinstance(one, Macvlan)}
        return super().changes_in_place(new) and (len(modes) == 1 or MacvlanMode.PASSTHRU not in modes)


class Ipvlan(Spec, frozen=True):
    """Further addresses on another interface, with its MAC address."""

    KIND = "ipvlan"
    NEEDS_PARENT = True
    HAS_MAC = False
    IN_PLACE = ("mode",)
    mode: IpvlanMode = IpvlanMode.L2

    @property
    def finds_neighbours(self) -> bool:
        return self.mode is IpvlanMode.L2

    @property
    def options(self) -> Options:
        return (("mode", self.mode.value),)

    def text(self) -> str:
        return f"ipvlan {self.mode}"


class Vrf(Spec, frozen=True):
    """A routing table of its own for its members (Documentation/networking/vrf.rst)."""

    KIND = "vrf"
    HAS_MAC = False
    table: int

    @property
    def options(self) -> Options:
        return (("table", self.table),)

    def text(self) -> str:
        return f"vrf with table {self.table}"


class Vxlan(Spec, frozen=True):
    """Ethernet in UDP (RFC 7348). Frames for unknown stations go to every one of `remotes`, or to `group`."""

    KIND = "vxlan"
    IN_PLACE = ("remotes",)
    id: int
    port: int = VXLAN_PORT
    local: str = ""  # address; a node's name in a draft, as `remotes`
    group: str = ""  # multicast address
    remotes: tuple[str, ...] = ()
    learning: bool = True

    @property
    def overhead_bytes(self) -> int:
        return 70 if any(":" in one for one in (self.local, self.group, *self.remotes)) else 50

    @property
    def options(self) -> Options:
        found: list[tuple[str, str | int]] = [("id", self.id)]
        found += [(key, value) for key, value in (("local", self.local), ("group", self.group)) if value]
        return (*found, ("dstport", self.port), ("ttl", TUNNEL_TTL), ("learning", "on" if self.learning else "off"))

    def text(self) -> str:
        to = f" to {', '.join(self.remotes) or self.group}" if self.remotes or self.group else ""
        return f"vxlan {self.id}{to}"


class Tunnel(Spec, frozen=True):
    """A tunnel between two addresses: GRE (RFC 2784, 2890), IP in IP (RFC 2003), IPv6 in IPv4 (RFC 4213), RFC 2473."""

    IN_PLACE = ("local", "remote", "key", "ttl")
    tunnel: TunnelKind
    local: str  # address; "" for any, a node's name in a draft
    remote: str
    key: int | None = None  # of GRE
    ttl: int = TUNNEL_TTL

    @property
    def kind(self) -> str:
        return self.tunnel.value

    @property
    def has_mac(self) -> bool:
        return self.tunnel.is_ethernet

    @property
    def carries(self) -> tuple[int, ...]:
        return self.tunnel.carries

    @property
    def overhead_bytes(self) -> int:
        outer = 40 if self.tunnel.is_over_ipv6 else 20
        gre = 4 + 4 * (self.key is not None) if "gre" in self.tunnel else 0
        return outer + gre + 14 * self.tunnel.is_ethernet

    @property
    def options(self) -> Options:
        found: list[tuple[str, str | int]] = []
        found += [(name, value) for name, value in (("local", self.local), ("remote", self.remote)) if value]
        found += [("ttl", self.ttl)] if self.ttl else []
        found += [("key", self.key)] if self.key is not None else []
        found += [("encaplimit", "none")] if self.tunnel.is_over_ipv6 else []
        return tuple(found)

    def text(self) -> str:
        key = f" with key {self.key}" if self.key is not None else ""
        return f"{self.kind} from {self.local or 'any'} to {self.remote or 'any'}{key}"


class Peer(Struct, frozen=True, array_like=True, gc=False):
    """A WireGuard peer. In a plan `public_key` is "" if the key of the device `node`:`ifname` is generated.

    In a draft `endpoint` "" and `port` 0 are those of that device.
    """

    node: str = ""
    ifname: str = ""
    public_key: str = ""  # base64, as of wg(8)
    endpoint: str = ""  # an address; "" to wait for the peer
    port: int = WIREGUARD_PORT
    allowed: tuple[str, ...] = ()  # prefixes
    keepalive_s: int = 0
    preshared_key: str = ""
    waits: bool = False  # of a draft: it has no endpoint

    def __str__(self) -> str:
        return f"{self.node}:{self.ifname}" if self.node else self.public_key


class Wireguard(Spec, frozen=True):
    """WireGuard (wg(8)). Without `private_key`, the lab generates a key and keeps it."""

    KIND = "wireguard"
    HAS_MAC = False
    IN_PLACE = ("port", "private_key", "peers")
    port: int = WIREGUARD_PORT
    private_key: str = ""  # base64
    peers: tuple[Peer, ...] = ()

    @property
    def overhead_bytes(self) -> int:
        return 80

    def without_secrets(self) -> Wireguard:
        peers = (replace(peer, preshared_key=HIDDEN) if peer.preshared_key else peer for peer in self.peers)
        return replace(self, private_key=HIDDEN if self.private_key else "", peers=tuple(peers))

    def text(self) -> str:
        return f"wireguard on port {self.port}" + (f" with {', '.join(map(str, self.peers))}" if self.peers else "")


class Bridge(Spec, frozen=True):
    """A bridge on a host or router."""

    KIND = "bridge"
    IN_PLACE = ("stp",)
    stp: bool = False

    @property
    def finds_neighbours(self) -> bool:
        return False

    @property
    def options(self) -> Options:
        delay: Options = (("forward_delay", FORWARD_DELAY_CS),) if self.stp else ()
        return (("stp_state", int(self.stp)), *delay, ("mcast_snooping", 0))

    def text(self) -> str:
        return "bridge with STP" if self.stp else "bridge"


class Dummy(Spec, frozen=True):
    """An interface that drops what it sends: for addresses of a node."""

    KIND = "dummy"

    @property
    def finds_neighbours(self) -> bool:
        return False


DeviceSpec = Vlan | Bond | Macvlan | Ipvlan | Vrf | Vxlan | Tunnel | Wireguard | Bridge | Dummy
JOINING = (Bond, Bridge)  # their members have no addresses: the device has them


class Device(Struct, frozen=True, gc=False):
    """What makes an interface a device: its spec, the interface it is on, and its members."""

    spec: DeviceSpec
    on: str = ""
    members: tuple[str, ...] = ()

    @property
    def joins(self) -> bool:
        """Whether it is one station with its members, which then have no addresses."""
        return isinstance(self.spec, JOINING)
