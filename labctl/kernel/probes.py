"""Features of the kernel that labctl or programs on hosts use: probes, and remedies where the kernel lacks one.

A probe makes what it tries in network namespaces of a process of its own (`main`), which end with it; nothing is made
in the machine's. Distribution kernels have most features as modules in /lib/modules, loaded on first use. A feature may
be missing because its module is not loaded and this user cannot load it, because the package with its module is not
installed, or because the kernel was built without it. `labctl doctor` and errors name the remedy for each case.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

from labctl.errors import MachineError
from labctl.kernel import bridge, link_state, nftables, qdiscs, route_messages, rtnl
from labctl.kernel.netlink import (
    IFINFO,
    IFLA_IFNAME,
    IFLA_LINKINFO,
    LOOPBACK_INDEX,
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    RTM_DELLINK,
    RTM_NEWLINK,
    U32,
    Batch,
    attribute,
    message,
    open_socket,
)
from labctl.structs import Struct, replace
from labctl.unpatched import Socket

_ETH_P_ALL = 0x0003  # linux/if_ether.h, in host order
_PACKET_OUTGOING = 4  # linux/if_packet.h
_SCTP, _MPTCP = 132, 262  # IPPROTO_*
# A queueing discipline of another kind cannot replace one with its handle, so each probe has a handle of its own.
_HANDLES = {"netem": 0x0001_0000, "tbf": 0x0002_0000, "htb": 0x0003_0000, "fq_codel": 0x0004_0000}
_IFLA_LINK = 5
_CREATE = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL


class Feature(Struct, frozen=True):
    """A kernel feature: what labctl uses it for, and the kernel's module and option (without CONFIG_) for it."""

    use: str
    module: str
    option: str
    needed: bool = False  # for every lab
    own: bool = True  # labctl uses it; else only programs on hosts do


FEATURES = {
    "veth": Feature("links", "veth", "VETH", needed=True),
    "bridge": Feature("switches, networks", "bridge", "BRIDGE"),
    "vlan-filtering": Feature("VLANs of switches", "", "BRIDGE_VLAN_FILTERING"),
    "stp": Feature("stp: true on a switch", "", "STP"),
    "ipv6": Feature("IPv6 addresses", "ipv6", "IPV6"),
    "policy-rules": Feature("rules of nodes", "", "IP_MULTIPLE_TABLES"),
    "multipath": Feature("routes with several next hops", "", "IP_ROUTE_MULTIPATH"),
    "netem": Feature("delay, jitter and loss of links", "sch_netem", "NET_SCH_NETEM"),
    "netem-queues": Feature("delay or loss with codel, fq_codel or cake", "sch_netem", "NET_SCH_NETEM"),
    "egress": Feature("loss of links without netem", "", "NETFILTER_EGRESS"),
    "tbf": Feature("rate limits of links", "sch_tbf", "NET_SCH_TBF"),
    "nftables": Feature("drop steps", "nf_tables", "NF_TABLES"),
    "nat": Feature("nat on routers", "nft_masq", "NFT_MASQ"),
    "conntrack": Feature("firewalls, and nat between networks of a lab", "nft_ct", "NFT_CT"),
    "sock_diag": Feature("expectations about sockets", "tcp_diag", "INET_DIAG"),
    "unix_diag": Feature("expectations about AF_UNIX sockets", "unix_diag", "UNIX_DIAG"),
    "packet": Feature("captures", "af_packet", "PACKET"),
    "tun": Feature("programs that create tunnels", "tun", "TUN"),
    "mptcp": Feature("scenarios with MPTCP", "", "MPTCP"),
    "sctp": Feature("scenarios with SCTP", "sctp", "IP_SCTP"),
    "core-sysctls": Feature("net.core sysctls on hosts", "", ""),
    "dummy": Feature("`interfaces` with dummy", "dummy", "DUMMY"),
    "vlan": Feature("`interfaces` with vlan", "8021q", "VLAN_8021Q"),
    "bond": Feature("`interfaces` with bond", "bonding", "BONDING"),
    "macvlan": Feature("`interfaces` with macvlan", "macvlan", "MACVLAN"),
    "ipvlan": Feature("`interfaces` with ipvlan", "ipvlan", "IPVLAN"),
    "vxlan": Feature("`interfaces` with vxlan", "vxlan", "VXLAN"),
    "vrf": Feature("`interfaces` with vrf", "vrf", "NET_VRF"),
    "gre": Feature("`interfaces` with gre", "ip_gre", "NET_IPGRE"),
    "ipip": Feature("`interfaces` with ipip", "ipip", "NET_IPIP"),
    "sit": Feature("`interfaces` with sit", "sit", "IPV6_SIT"),
    "ip6tnl": Feature("`interfaces` with ip6tnl", "ip6_tunnel", "IPV6_TUNNEL"),
    "ip6gre": Feature("`interfaces` with ip6gre", "ip6_gre", "IPV6_GRE"),
    "wireguard": Feature("`interfaces` with wireguard", "wireguard", "WIREGUARD"),
    "tproxy": Feature("nft tproxy", "nft_tproxy", "NFT_TPROXY", own=False),
    "htb": Feature("tc qdisc add htb", "sch_htb", "NET_SCH_HTB", own=False),
    "fq_codel": Feature("tc qdisc add fq_codel", "sch_fq_codel", "NET_SCH_FQ_CODEL", own=False),
}
FEATURE_OF_KIND = {"gretap": "gre", "ip6gretap": "ip6gre"}  # of link, where the feature has another name
# Attributes of the kinds of links that programs on hosts create (linux/if_link.h, linux/if_tunnel.h).
_LINKS = {
    "dummy": b"",
    "vlan": attribute(1, b"\7\0"),
    "bond": b"",
    "macvlan": attribute(1, U32.pack(4)),  # MACVLAN_MODE_BRIDGE
    "ipvlan": attribute(1, b"\0\0"),
    "vxlan": attribute(1, U32.pack(7)),
    "vrf": attribute(1, U32.pack(107)),
    "gre": attribute(6, bytes((127, 0, 0, 1))) + attribute(7, bytes((127, 0, 0, 2))),
    "ipip": attribute(2, bytes((127, 0, 0, 1))) + attribute(3, bytes((127, 0, 0, 2))),
    "sit": attribute(2, bytes((127, 0, 0, 1))) + attribute(3, bytes((127, 0, 0, 2))),
    "ip6tnl": attribute(2, bytes(15) + b"\1") + attribute(3, bytes(15) + b"\2"),
    "ip6gre": attribute(6, bytes(15) + b"\1") + attribute(7, bytes(15) + b"\2"),
    "wireguard": b"",
}
_STP_ATTEMPTS, _STP_PAUSE_MS, _STP_TIMEOUT_S = 25, 20, 10.0
_LOUD = {
    "gre": "ip_gre",
    "ipip": "ipip",
    "sit": "sit",
    "ip6tnl": "ip6_tunnel",
    "ip6gre": "ip6_gre",
    "bond": "bonding",
}  # loading it makes interfaces in all namespaces, the machine's too
_TC_HTB_GLOB = struct.pack("=5I", 3, 10, 0, 0, 0)  # struct tc_htb_glob: version, rate2quantum, default class, ...


# -- remedies


def remedy(name: str) -> str:
    """Return what to try on a machine whose kernel lacks the feature."""
    if name == "stp":  # 6631463b6e66 ("llc: Don't drop packet from non-root netns."), also in later stable kernels
        return (
            "Use Linux 6.5 or later (or 5.15.123, 6.1.42): older ones do not pass its messages to network namespaces."
        )
    if name == "netem-queues":  # netem_miscounts of qdiscs.py
        return "Use a kernel with netem: Linux 6.13 or later, or a stable one since December 2024."
    if name == "egress":
        return "Linux 5.16 and later has it with CONFIG_NETFILTER_EGRESS. Links with netem do not need it."
    if name == "core-sysctls":
        return "Run labctl as root, or use Linux 6.3 or later."
    if name == "ipv6" and "ipv6.disable=1" in _text("/proc/cmdline"):
        return "IPv6 was disabled at boot. Remove ipv6.disable=1 from the kernel's command line."
    if name == "tun" and os.path.exists("/dev/net/tun"):
        return "Try: sudo chmod 666 /dev/net/tun"
    return module_remedy(FEATURES[name].module, FEATURES[name].option)


def module_remedy(module: str, option: str) -> str:
    """Return what to try on a machine whose kernel lacks the module, which the option (without CONFIG_) builds."""
    release = os.uname().release
    has_module = bool(module) and f"/{module}.ko" in _text(f"/lib/modules/{release}/modules.dep")
    setting = _kernel_option(option, release)
    if has_module and setting in ("", "n", "m"):
        return f"Try: sudo modprobe {module}"
    if setting == "m":
        ubuntu = f"Ubuntu: sudo apt-get install linux-modules-extra-{release}"
        return f"Its module {module} is not installed. {ubuntu}; Fedora, RHEL: sudo dnf install kernel-modules-extra"
    if setting == "y":
        return "The kernel has it, but does not let this user (or this container) use it. Try as root."
    return f"This kernel ({release}) was built without CONFIG_{option}; another kernel is needed."


def _kernel_option(option: str, release: str) -> str:
    """Return `y`, `m` or `n`, or "" if the kernel's configuration is not available."""
    import gzip

    try:
        with gzip.open("/proc/config.gz", "rt", encoding="utf-8", errors="replace") as file:
            config = file.read()
    except OSError:
        config = _text(f"/boot/config-{release}")
    prefix = f"CONFIG_{option}="
    return next((line.removeprefix(prefix) for line in config.splitlines() if line.startswith(prefix)), config and "n")


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


# -- probes


class Probed(Struct, frozen=True):
    """The result of a probe: `errno` is 0 if the feature works, -1 if `detail` has the reason."""

    name: str
    errno: int = 0
    detail: str = ""


def main(*names: str) -> None:
    """Probe the features in new namespaces, and write the results on standard output as JSON.

    If the process cannot have namespaces of its own, the result is the message of the MachineError.
    """
    from labctl.kernel.privilege import enter_lab_namespaces

    result: list[tuple[str, int, str]] | str
    try:
        enter_lab_namespaces()
        result = [(each.name, each.errno, each.detail) for each in map(probe, names)]
    except MachineError as error:
        result = str(error)
    sys.stdout.write(json.dumps(result))


def probe(name: str) -> Probed:
    """Try the feature in the calling process's network namespace, which this changes."""
    try:
        _PROBES[name]()
    except OSError as error:
        return Probed(name, error.errno or -1, error.strerror or str(error))
    except Exception as error:  # noqa: BLE001  # an unforeseen failure is a result, and other probes still run
        return Probed(name, -1, f"{type(error).__name__}: {error}")
    return Probed(name)


def _send(message: bytes) -> None:
    with open_socket(NETLINK_ROUTE) as sock:
        batch: Batch[None] = Batch(sock)
        batch.add(message, None)
        for refused in batch.commit():
            raise OSError(refused.errno, refused.detail or os.strerror(refused.errno))


def _veth() -> None:
    from labctl.kernel.namespaces import current_network

    network = current_network()
    try:
        first = rtnl.VethEnd("probe0", 10, "02:00:00:00:00:01", 1500, network)
        _send(rtnl.new_veth(first, replace(first, ifname="probe1", index=11, mac="02:00:00:00:00:02")))
    finally:
        os.close(network)


def _vlan_filtering() -> None:
    with contextlib.suppress(FileExistsError):
        _send(rtnl.new_bridge("probe2", 12, 1500))
    _send(bridge.set_option(12, "vlan_filtering", 1))


def _stp() -> None:
    """Make a bridge accept a message of another root."""
    with contextlib.suppress(FileExistsError):
        _veth()
    with contextlib.suppress(FileExistsError):
        _send(rtnl.new_bridge("probe4", 14, 1500))
    for request in (
        bridge.set_option(14, "stp_state", 1),
        rtnl.set_master(11, 14),
        *(rtnl.set_up(index, True) for index in (10, 11, 14)),
    ):
        _send(request)
    frame = bridge.root_message()
    all_frames = socket.htons(_ETH_P_ALL)
    with open_socket(NETLINK_ROUTE) as sock, Socket(socket.AF_PACKET, socket.SOCK_RAW, all_frames) as frames:
        for name in ("probe0", "probe1"):
            link_state.has_carrier(sock, name)
        frames.settimeout(_STP_TIMEOUT_S)
        is_heard = False
        for _ in range(_STP_ATTEMPTS):
            frames.sendto(frame, ("probe0", 0))
            while not _has_arrived(frame, "probe1", *frames.recvfrom(2048)):  # later, on a busy machine
                continue
            if is_heard := bool(bridge.root_port(sock, 14)):  # the kernel gives the bridge the frame after that
                break
            select.poll().poll(_STP_PAUSE_MS)
    _send(rtnl.set_master(11, 0))
    if not is_heard:
        raise OSError(errno.EOPNOTSUPP, "messages of the protocol do not reach bridges in network namespaces")


def _has_arrived(frame: bytes, ifname: str, data: bytes, address: tuple[str, int, int, int, bytes]) -> bool:
    return data == frame and address[0] == ifname and address[2] != _PACKET_OUTGOING


def _policy_rules() -> None:
    rule = route_messages.RuleRequest(version=4, priority=1, action="lookup", table=254)
    _send(route_messages.new_rule(rule))
    _send(route_messages.remove_rule(rule))


def _multipath() -> None:
    _send(rtnl.set_up(LOOPBACK_INDEX, True))
    hops = (route_messages.Hop(LOOPBACK_INDEX),) * 2
    route = route_messages.RouteRequest(IPv4Network("192.0.2.0/24"), "unicast", hops, 1, 254, None)
    _send(route_messages.new_route(route))
    _send(route_messages.remove_route(route))


def _netem() -> None:
    _send(qdiscs.replace_netem(LOOPBACK_INDEX, _HANDLES["netem"], qdiscs.ROOT, qdiscs.NetemSettings(delay_us=1000)))


def _netem_queues() -> None:
    from labctl.kernel.namespaces import current_network

    _netem()
    home = current_network()
    try:
        if qdiscs.netem_miscounts(home):
            raise OSError(errno.EOPNOTSUPP, "netem miscounts packets that a queue below it drops")
    finally:
        os.close(home)


def _egress() -> None:
    """Make and remove a rule at the egress hook of an interface."""
    from labctl.kernel.loss_rules import clear_loss, set_loss

    with contextlib.suppress(FileExistsError):
        _veth()
    with open_socket(nftables.NETLINK_NETFILTER) as sock:
        set_loss(sock, "probe0", 1, is_new=True)
        clear_loss(sock, "probe0")


def _tbf() -> None:
    sizes = {"rate_bytes_s": 125_000, "burst_bytes": 70_000, "limit_bytes": 70_000}
    _send(qdiscs.replace_tbf(LOOPBACK_INDEX, _HANDLES["tbf"], qdiscs.ROOT, **sizes))


def _link(kind: str) -> None:
    """Create and remove a link of that kind, unless this would load a module that makes links everywhere."""
    module = _LOUD.get(kind, "")
    aliases = _text(f"/lib/modules/{os.uname().release}/modules.alias") if module else ""
    if f"alias rtnl-link-{kind} {module}\n" in aliases and not os.path.exists(f"/sys/module/{module}"):
        return
    with contextlib.suppress(FileExistsError):
        _veth()
    link = attribute(IFLA_IFNAME, b"probe3\0") + attribute(_IFLA_LINK, U32.pack(10))
    link += attribute(IFLA_LINKINFO, attribute(1, kind.encode() + b"\0") + attribute(2, _LINKS[kind]))
    _send(message(RTM_NEWLINK, _CREATE, IFINFO.pack(0, 0, 0, 0, 0) + link))
    name = IFINFO.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, b"probe3\0")
    _send(message(RTM_DELLINK, NLM_F_REQUEST, name))


def _qdisc(kind: str, options: bytes = b"") -> None:
    with contextlib.suppress(FileExistsError):
        _veth()
    _send(qdiscs.replace_qdisc(10, _HANDLES[kind], qdiscs.ROOT, kind.encode(), options))


def _ipv6() -> None:
    from ipaddress import IPv6Interface

    if not os.path.isdir("/proc/sys/net/ipv6"):
        raise OSError(errno.EAFNOSUPPORT, "/proc/sys/net/ipv6 does not exist")
    _send(rtnl.set_up(LOOPBACK_INDEX, True))
    _send(rtnl.new_address(LOOPBACK_INDEX, IPv6Interface("fd00::1/64")))
    with Socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::1", 0))


def _rule(kind: bytes, *expressions: bytes, hook: int, priority: int) -> None:
    """Create and remove a table with one chain of that type and one rule."""
    table, chain = kind[:-1] + b"-probe\0", b"probe\0"
    named = attribute(1, table)  # NFTA_TABLE_NAME
    requests = [nftables.request(nftables.NEW_TABLE, NLM_F_CREATE, named)]
    requests += nftables.chain_requests(table, chain, kind, hook, priority, [list(expressions)])
    with open_socket(nftables.NETLINK_NETFILTER) as sock:
        nftables.transact(sock, requests)
        nftables.transact(sock, [nftables.request(nftables.DELETE_TABLE, 0, named)])


def _tproxy() -> None:
    to_port = nftables.number(1, socket.AF_INET) + nftables.number(3, 1)  # NFTA_TPROXY_FAMILY, NFTA_TPROXY_REG_PORT
    port = nftables.constant(struct.pack("!H", 8080), 1)
    _rule(b"filter\0", port, nftables.expression("tproxy", to_port), hook=0, priority=-150)


def _sock_diag() -> None:
    from labctl.kernel.sock_diag import NETLINK_SOCK_DIAG, Transport, inet_sockets

    with open_socket(NETLINK_SOCK_DIAG) as sock:
        inet_sockets(sock, Transport.TCP)
        inet_sockets(sock, Transport.UDP)


def _unix_diag() -> None:
    from labctl.kernel.sock_diag import NETLINK_SOCK_DIAG, unix_sockets

    with open_socket(NETLINK_SOCK_DIAG) as sock:
        unix_sockets(sock)


def _core_sysctls() -> None:
    if not os.path.exists("/proc/sys/net/core/somaxconn"):
        raise OSError(errno.ENOENT, "/proc/sys/net/core of a namespace is empty")


_PROBES: dict[str, Callable[[], None]] = {
    "veth": _veth,
    "bridge": lambda: _send(rtnl.new_bridge("probe2", 12, 1500)),
    "vlan-filtering": _vlan_filtering,
    "stp": _stp,
    "ipv6": _ipv6,
    "policy-rules": _policy_rules,
    "multipath": _multipath,
    "netem": _netem,
    "netem-queues": _netem_queues,
    "egress": _egress,
    "tbf": _tbf,
    "nftables": lambda: _rule(b"filter\0", nftables.drop(), hook=1, priority=0),
    "nat": lambda: _rule(b"nat\0", nftables.expression("masq", b""), hook=4, priority=100),
    "conntrack": lambda: _rule(b"filter\0", nftables.connection(0), hook=1, priority=0),
    "sock_diag": _sock_diag,
    "unix_diag": _unix_diag,
    "packet": lambda: Socket(socket.AF_PACKET, socket.SOCK_RAW, _ETH_P_ALL).close(),
    "tun": lambda: os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)),
    "mptcp": lambda: Socket(socket.AF_INET, socket.SOCK_STREAM, _MPTCP).close(),
    "sctp": lambda: Socket(socket.AF_INET, socket.SOCK_STREAM, _SCTP).close(),
    "core-sysctls": _core_sysctls,
    **{kind: partial(_link, kind) for kind in _LINKS},
    "tproxy": _tproxy,
    "htb": partial(_qdisc, "htb", attribute(2, _TC_HTB_GLOB)),
    "fq_codel": partial(_qdisc, "fq_codel"),
}
