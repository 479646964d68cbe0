"""Outside access of a router: a veth pair to the machine, address translation at both ends, and forwarding.

The router translates the lab's addresses to its end of the pair, and the machine translates that address to its own.
So the machine needs no route to the lab, and the lab may use the prefixes of the machine's networks.

The machine's table has an owner (NFT_TABLE_F_OWNER, Linux 5.12): the netlink socket that created it. Only the owner can
change the table, and the kernel removes it when the last descriptor of that socket is closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network

from labctl.errors import KernelError, LabImpossible, describe_errno, kernel_errors
from labctl.kernel import netlink, nftables, rtnl
from labctl.kernel import routes as kernel_routes
from labctl.kernel.namespaces import entered, read_sysctl, write_sysctl
from labctl.structs import Struct
from labctl.unpatched import Socket

NETWORK_BITS = 30
# Each pool with its unusable part. Link-local addresses, without those of metadata services; if the machine has a route
# for all of them, the addresses for benchmarks (RFC 2544).
POOLS = ((IPv4Network("169.254.0.0/16"), IPv4Network("169.254.169.0/24")), (IPv4Network("198.18.0.0/15"), None))
IPV6_PREFIX = 0xFD6C_6162_6374  # a unique local prefix of 48 bits (RFC 4193)

_POSTROUTING, _FORWARD = 4, 2  # NF_INET_*
_OWNER = 2  # NFT_TABLE_F_OWNER
_ROUTER_TABLE = b"labctl-nat\0"
_REMEDY = "It requires Linux 5.12 or later with nf_tables, nf_nat and nft_masq. Try: sudo modprobe nft_masq"


class MachineNetwork(Struct, frozen=True):
    """The properties of the machine's network that labs with outside access depend on."""

    uplinks: tuple[str, ...]  # interfaces with IPv4 routes
    uplinks6: tuple[str, ...]  # interfaces with IPv6 routes; none without an IPv6 default route
    mtu: int  # the smallest of the uplinks, bytes
    taken: tuple[IPv4Network, ...]  # networks that the machine has routes to
    indexes: tuple[tuple[str, int], ...]  # of every interface but lo


class Outlet(Struct, frozen=True):
    """A router's outside link: the machine's interface and the network of the pair (machine .1, router .2)."""

    router: str
    ifname: str
    network: IPv4Network
    network6: IPv6Network | None

    @property
    def machine_ends(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The addresses of the machine's end."""
        return self._ends(1)

    @property
    def router_ends(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The addresses of the router's end."""
        return self._ends(2)

    def _ends(self, number: int) -> tuple[IPv4Interface | IPv6Interface, ...]:
        four = IPv4Interface((int(self.network.network_address) + number, self.network.prefixlen))
        if self.network6 is None:
            return (four,)
        return four, IPv6Interface((int(self.network6.network_address) + number, self.network6.prefixlen))


class Setting(Struct, frozen=True, array_like=True):
    """A sysctl of the machine that has another value while the lab runs."""

    key: str  # separated by slashes, because names of interfaces contain dots
    before: str
    value: str

    @property
    def version(self) -> int:
        """The IP version."""
        return 4 if self.key.startswith("net/ipv4/") else 6

    @property
    def ifname(self) -> str:
        """The interface that it belongs to."""
        return self.key.split("/")[3]


def read_machine_network() -> MachineNetwork:
    """Read the network of the calling thread's namespace. OSError."""
    with netlink.open_socket(netlink.NETLINK_ROUTE) as sock:
        links = {link.name: link for link in kernel_routes.links(sock)}
        plain = [route for route in kernel_routes.routes(sock) if route.is_plain]
        routes = [(route.destination, hop) for route in plain for hop in route.hops if hop.ifname != "lo"]
        on_link = [each.address.network for each in kernel_routes.addresses(sock)]
    four = tuple(dict.fromkeys(hop.ifname for destination, hop in routes if destination.version == 4))
    six = tuple(
        dict.fromkeys(
            hop.ifname
            for destination, hop in routes
            if destination.version == 6 and (hop.gateway or not destination.is_link_local)
        )
    )
    default6 = any(destination == ip_network("::/0") for destination, _ in routes)
    uplinks6 = six if default6 else ()
    taken = {network for network in [*(destination for destination, _ in routes), *on_link] if network.prefixlen}
    return MachineNetwork(
        uplinks=tuple(name for name in four if name in links),
        uplinks6=tuple(name for name in uplinks6 if name in links),
        mtu=min((links[name].mtu for name in (*four, *uplinks6) if name in links), default=1500),
        taken=tuple(network for network in taken if isinstance(network, IPv4Network)),
        indexes=tuple((name, link.index) for name, link in links.items() if name != "lo"),
    )


def forwarding_settings(machine: MachineNetwork) -> tuple[Setting, ...]:
    """Return the settings to change so that packets from outside reach labs; none on a machine that forwards."""
    found = []
    for ifname in machine.uplinks:
        key = f"net/ipv4/conf/{ifname}/forwarding"
        if read_sysctl(key) == "0":
            found.append(Setting(key, "0", "1"))
    if ipv6_can_be_forwarded(machine) and read_sysctl("net/ipv6/conf/all/forwarding") == "0":
        for ifname in machine.uplinks6:
            key = f"net/ipv6/conf/{ifname}/force_forwarding"
            if read_sysctl(key) == "0":
                found.append(Setting(key, "0", "1"))
    return tuple(found)


def apply_settings(settings: Sequence[Setting]) -> None:
    """Change the settings in the calling thread's namespace. LabImpossible."""
    for setting in settings:
        try:
            write_sysctl(setting.key, setting.value)
        except OSError as error:
            problem = f"machine: cannot set {setting.key}={setting.value}: {describe_errno(error.errno or 0)}."
            raise LabImpossible(problem) from error


def restore_setting(setting: Setting) -> None:
    """Restore a setting, unless its interface was removed or something else has changed it since. OSError."""
    with contextlib.suppress(FileNotFoundError):
        if read_sysctl(setting.key) == setting.value:
            write_sysctl(setting.key, setting.before)


def ipv6_can_be_forwarded(machine: MachineNetwork) -> bool:
    """Whether the machine has IPv6 uplinks and can forward to them without becoming a router itself.

    A machine that does not forward gets its default route from router advertisements. Setting
    net.ipv6.conf.all.forwarding would remove it; Linux 6.17 has force_forwarding for single interfaces instead.
    """
    if not machine.uplinks6:
        return False
    with contextlib.suppress(OSError):
        if read_sysctl("net/ipv6/conf/all/forwarding") != "0":
            return True
    return os.path.exists("/proc/sys/net/ipv6/conf/all/force_forwarding")


def reserve_network(taken: Sequence[IPv4Network], start: int) -> tuple[IPv4Network, int, socket.socket]:
    """Find a free network for a veth pair, from number `start` on; return it, its number, and its reservation.

    The reservation is a socket that the caller owns: no two labs can bind its abstract name in one network namespace.
    LabImpossible if no network is free.
    """
    for pool, never in POOLS:
        if any(pool.subnet_of(network) for network in taken):
            continue
        count = 1 << (NETWORK_BITS - pool.prefixlen)
        unusable = (*taken, *([never] if never else []))
        for step in range(count):
            number = (start + step) % count
            network = IPv4Network((int(pool.network_address) + number * 4, NETWORK_BITS))
            if not 64 <= number < count - 64 or any(network.overlaps(other) for other in unusable):
                continue  # the first and the last 256 addresses of 169.254.0.0/16 are reserved (RFC 3927)
            sock = Socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                sock.bind(f"\0labctl-nat-{network}")
            except OSError as error:
                sock.close()
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
            return network, number, sock
    raise LabImpossible(f"lab: no network is free for `nat`: the machine has routes for all of {POOLS[0][0]}.")


def ipv6_network(number: int) -> IPv6Network:
    """Return the IPv6 network for the pair whose IPv4 network has that number."""
    return IPv6Network(((IPV6_PREFIX << 80) | (number << 64), 64))


def make_machine_table(
    sock: socket.socket, name: str, outlets: Sequence[Outlet], kept_apart: Sequence[tuple[int, int, int]]
) -> None:
    """Translate packets from the outlets, and drop what the machine did not forward before.

    `kept_apart` has (IP version, index of the incoming interface, index of the outgoing interface) to drop. The kernel
    removes the table when `sock` (NETLINK_NETFILTER, in the machine's namespace, borrowed) is closed. LabImpossible.
    """
    table = name.encode() + b"\0"
    owned = netlink.attribute(1, table) + nftables.number(2, _OWNER)  # NFTA_TABLE_NAME, _FLAGS
    requests = [nftables.request(nftables.NEW_TABLE, _CREATE, owned)]
    requests += _masquerade(table, [_from(address) for outlet in outlets for address in outlet.router_ends])
    if kept_apart:
        rules = [
            [
                *_of_version(version),
                *_index(nftables.META_IIF, incoming),
                *_index(nftables.META_OIF, outgoing),
                nftables.drop(),
            ]
            for version, incoming, outgoing in kept_apart
        ]
        requests += nftables.chain_requests(table, b"forward\0", b"filter\0", _FORWARD, 0, rules)
    _transact(sock, requests, f"machine: cannot make the nftables table {name}")


def connect(sock: socket.socket, machine: int, outlet: Outlet, router: int, index: int, ifname: str, mtu: int) -> None:
    """Create the veth pair of an outlet, and set up both ends; `machine` and `router` are namespace descriptors.

    `sock` (NETLINK_ROUTE, in the machine's namespace) and the descriptors are borrowed; `index` and `ifname` are those
    of the router's end. The pair is removed with the router's namespace. KernelError, LabImpossible.
    """
    # The router's end first: the kernel accepts the index of the second only if the first has one, too.
    first = rtnl.VethEnd(ifname, index, _mac(outlet, 2), mtu, router)
    second = rtnl.VethEnd(outlet.ifname, 0, _mac(outlet, 1), mtu, machine)
    subject = f"nat of {outlet.router}"
    _send(sock, subject, [(f"make the veth pair {outlet.ifname}", rtnl.new_veth(first, second))])
    with entered(machine):
        own = socket.if_nametoindex(outlet.ifname)
        _write(outlet, f"net/ipv4/conf/{outlet.ifname}/forwarding", "1")
        if outlet.network6 is None:
            _write(outlet, f"net/ipv6/conf/{outlet.ifname}/disable_ipv6", "1")
        elif os.path.exists(f"/proc/sys/net/ipv6/conf/{outlet.ifname}/force_forwarding"):
            _write(outlet, f"net/ipv6/conf/{outlet.ifname}/force_forwarding", "1")
    _send(sock, subject, _end_messages(outlet, own, outlet.ifname, outlet.machine_ends))
    _connect_router(outlet, router, index, ifname)


def disconnect(router: int, ifname: str) -> None:
    """Remove the outlet's pair and its table from the router of that namespace descriptor. OSError."""
    with entered(router):
        remove_link(ifname)
        with netlink.open_socket(nftables.NETLINK_NETFILTER) as sock:
            named = netlink.attribute(1, _ROUTER_TABLE)
            nftables.transact(
                sock,
                [
                    nftables.request(nftables.NEW_TABLE, netlink.NLM_F_CREATE, named),
                    nftables.request(nftables.DELETE_TABLE, 0, named),
                ],
            )


def remove_link(ifname: str) -> None:
    """Remove an interface from the calling thread's namespace, if it still exists. OSError."""
    try:
        index = socket.if_nametoindex(ifname)
    except OSError:
        return
    with netlink.open_socket(netlink.NETLINK_ROUTE) as sock:
        batch: netlink.Batch[str] = netlink.Batch(sock)
        batch.add(rtnl.remove_link(index), ifname)
        for refused in batch.commit():
            if refused.errno != errno.ENODEV:
                raise OSError(refused.errno, os.strerror(refused.errno), ifname)


_CREATE = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL


def _connect_router(outlet: Outlet, router: int, index: int, ifname: str) -> None:
    with entered(router):
        route_socket = netlink.open_socket(netlink.NETLINK_ROUTE)
        try:
            filter_socket = netlink.open_socket(nftables.NETLINK_NETFILTER)
        except OSError:
            route_socket.close()
            raise
    with route_socket, filter_socket:
        messages = _end_messages(outlet, index, ifname, outlet.router_ends)
        for end in outlet.machine_ends:
            default = ip_network("0.0.0.0/0" if end.version == 4 else "::/0")
            messages.append((f"add a default route via {end.ip}", rtnl.new_route(index, default, end.ip)))
        _send(route_socket, f"router {outlet.router}", messages)
        requests = [nftables.request(nftables.NEW_TABLE, _CREATE, netlink.attribute(1, _ROUTER_TABLE))]
        requests += _masquerade(_ROUTER_TABLE, [_index(nftables.META_OIF, index)])
        _transact(filter_socket, requests, f"router {outlet.router}: cannot translate its lab's addresses")


def _end_messages(
    outlet: Outlet, index: int, ifname: str, addresses: Sequence[IPv4Interface | IPv6Interface]
) -> list[tuple[str, bytes]]:
    """Return the messages that set up one end of the pair, each with what it does."""
    disable = [("disable its address generation", rtnl.disable_address_generation(index))]
    return [
        *([] if outlet.network6 is None else disable),
        *((f"add address {address} to {ifname}", rtnl.new_address(index, address)) for address in addresses),
        (f"set {ifname} up", rtnl.set_up(index, True)),
    ]


def _masquerade(table: bytes, tests: Sequence[list[bytes]]) -> list[nftables.Request]:
    """Return the requests for a chain that translates packets that pass any of the tests."""
    rules = [[*test, nftables.expression("masq", b"")] for test in tests]
    return nftables.chain_requests(table, b"postrouting\0", b"nat\0", _POSTROUTING, 100, rules)  # NF_IP_PRI_NAT_SRC


def _from(address: IPv4Interface | IPv6Interface) -> list[bytes]:
    """Match packets from exactly that address."""
    packed = address.ip.packed
    return [
        *_of_version(address.version),
        nftables.load(nftables.NETWORK_HEADER, 12 if address.version == 4 else 8, len(packed)),
        nftables.compare(nftables.EQUAL, packed),
    ]


def _of_version(version: int) -> list[bytes]:
    protocol = nftables.NFPROTO_IPV4 if version == 4 else nftables.NFPROTO_IPV6
    return [nftables.meta(nftables.META_NFPROTO), nftables.compare(nftables.EQUAL, bytes([protocol]))]


def _index(key: int, index: int) -> list[bytes]:
    return [nftables.meta(key), nftables.compare(nftables.EQUAL, netlink.U32.pack(index))]


def _mac(outlet: Outlet, number: int) -> str:
    """Return a locally administered address that no link inside a lab has (topology/addressing.py)."""
    _, second, third, fourth = outlet.network.network_address.packed
    return bytes((0x02, 0x6C, 0x62, second, third, fourth + number)).hex(":")


def _write(outlet: Outlet, key: str, value: str) -> None:
    with kernel_errors(f"nat of {outlet.router}", f"set {key}={value}"):
        write_sysctl(key, value)


def _send(sock: socket.socket, subject: str, messages: Sequence[tuple[str, bytes]]) -> None:
    batch: netlink.Batch[str] = netlink.Batch(sock)
    for attempted, message in messages:
        batch.add(message, attempted)
    for refused in batch.commit():
        raise KernelError(subject, refused.origin, refused.errno, detail=refused.detail)


def _transact(sock: socket.socket, requests: list[nftables.Request], problem: str) -> None:
    try:
        nftables.transact(sock, requests)
    except OSError as error:
        raise LabImpossible(f"{problem}: {describe_errno(error.errno or 0)}. {_REMEDY}") from error
