"""What this kernel can do, found by doing it in a network namespace that is thrown away with the process that asks.

Run as a process of its own (`main`), which enters the namespaces of a lab as a lab's boot would, tries everything, and
writes what came back as JSON. Nothing is made on the machine itself.

What this kernel was built with, and how to get a part that it lacks.

Kernels that distributions build have most parts as modules: under /lib/modules, loaded when they are first needed. A
part may be missing in three ways: its module is not loaded and must not be by this user, its module's package is not
installed, or the kernel was built without it. `labctl doctor` and refusals of the kernel give the same remedy.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from labctl.errors import MachineError
from labctl.kernel import nftables
from labctl.kernel.netlink import NLM_F_APPEND, NLM_F_CREATE, attribute
from labctl.structs import Struct, asdict
from labctl.unpatched import Socket


def remedy(module: str, option: str) -> str:
    """What to try where the kernel lacks that module, which the option (without CONFIG_) builds."""
    release = os.uname().release
    set_to = _kernel_option(option, release)
    if set_to in ("", "n") and _module_is_there(module, release):
        set_to = "m"
    match set_to:
        case "m":
            if _module_is_there(module, release):
                return f"Try: sudo modprobe {module}"
            ubuntu = f"Ubuntu: sudo apt-get install linux-modules-extra-{release}"
            fedora = "Fedora, RHEL: sudo dnf install kernel-modules-extra"
            return f"Its module {module} is not installed. {ubuntu}; {fedora}"
        case "y":
            return "The kernel has it, but does not let this user (or this container) use it. Try as root."
        case _:
            return f"This kernel ({release}) was built without CONFIG_{option}; another kernel is needed."


def remedy_for_qdisc(module: str) -> str:
    """What to try where the kernel lacks a queueing discipline: `sch_netem` is built by CONFIG_NET_SCH_NETEM."""
    return remedy(module, f"NET_{module.upper()}")


def _kernel_option(option: str, release: str) -> str:
    """`y`, `m`, `n`, or "" when the kernel does not tell how it was built."""
    import gzip

    text = ""
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        text = _text(f"/boot/config-{release}")
    if not text:
        return ""
    for line in text.splitlines():
        if line.startswith(f"CONFIG_{option}="):
            return line.rpartition("=")[2]
    return "n"


def _module_is_there(module: str, release: str) -> bool:
    return bool(module) and f"/{module}.ko" in _text(f"/lib/modules/{release}/modules.dep")


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


_AF_PACKET_ALL = 0x0003  # ETH_P_ALL, linux/if_ether.h, in host order
_SCTP, _MPTCP = 132, 262  # IPPROTO_*
_ROOT_QDISC = 0xFFFF_FFFF  # TC_H_ROOT, linux/pkt_sched.h
_HANDLE = 0x0001_0000


class Probed(Struct, frozen=True):
    """What came back: `errno` 0 when it works, -1 when `detail` says why not."""

    name: str
    errno: int = 0
    detail: str = ""


def probe_all() -> Iterator[Probed]:
    """Every probe, in the calling process's network namespace, which it changes."""
    pyroute2: Any = import_module("pyroute2")
    with pyroute2.IPRoute() as route:
        route.link("set", index=1, state="up")
        base = _base(route)
        for kind in _LINKS:
            yield _tried(kind, lambda kind=kind: _link(route, kind, base))  # type: ignore[misc]
        for kind in _QDISCS:
            yield _tried(kind, lambda kind=kind: _qdisc(route, kind))  # type: ignore[misc]
        yield _tried("ipv6", lambda: _ipv6(route))
    yield _tried("nftables", _nftables)
    yield _tried("nat", _nat)
    yield _tried("sock_diag", _sock_diag)
    yield _tried("unix_diag", _unix_diag)
    yield _tried("packet", lambda: Socket(socket.AF_PACKET, socket.SOCK_RAW, _AF_PACKET_ALL).close())
    yield _tried("core-sysctls", _core_sysctls)
    yield _tried("sctp", lambda: Socket(socket.AF_INET, socket.SOCK_STREAM, _SCTP).close())
    yield _tried("mptcp", lambda: Socket(socket.AF_INET, socket.SOCK_STREAM, _MPTCP).close())


def main() -> None:
    """Writes the probes' results on standard output; MachineError's words alone when there can be no namespaces."""
    from labctl.kernel.privilege import enter_lab_namespaces

    try:
        enter_lab_namespaces()
        found: list[dict[str, Any]] = [asdict(each) for each in probe_all()]
        told: dict[str, Any] = {"probes": found}
    except MachineError as error:
        told = {"refused": str(error)}
    sys.stdout.write(json.dumps(told))


def try_qdisc(kind: str) -> None:
    """Writes on standard output why `lo` cannot have that discipline; nothing where it can. In a process of its own."""
    from labctl.errors import describe_errno
    from labctl.kernel import qdisc
    from labctl.kernel.netlink import LOOPBACK_INDEX, NETLINK_ROUTE, Batch, open_socket
    from labctl.kernel.privilege import enter_lab_namespaces

    try:
        enter_lab_namespaces()
    except MachineError as error:
        sys.stdout.write(str(error))
        return
    where = (LOOPBACK_INDEX, _HANDLE, _ROOT_QDISC)
    if kind == "netem":
        message = qdisc.replace_netem(*where, delay_us=1000, jitter_us=0, loss_ppm=0, limit_packets=1000)
    else:
        message = qdisc.replace_tbf(*where, rate_bytes_s=125_000, burst_bytes=70_000, limit_bytes=70_000)
    with open_socket(NETLINK_ROUTE) as sock:
        batch: Batch[str] = Batch(sock)
        batch.add(message, kind)
        for refused in batch.commit():
            sys.stdout.write(f"the kernel refuses {kind}: {describe_errno(refused.errno)}")


def _tried(name: str, attempt: Callable[[], None]) -> Probed:
    netlink_error = _netlink_error()
    try:
        attempt()
    except netlink_error as error:
        return Probed(name, error.code, str(error.args[1]) if len(error.args) > 1 else "")
    except OSError as error:
        return Probed(name, error.errno or -1, error.strerror or str(error))
    except Exception as error:  # noqa: BLE001  # a probe that fails in a new way is a finding, not the end of the others
        return Probed(name, -1, f"{type(error).__name__}: {error}")
    return Probed(name)


def _netlink_error() -> Any:
    """pyroute2's own exception: a refusal by the kernel, with its errno as `code`."""
    return import_module("pyroute2.netlink.exceptions").NetlinkError


def _base(route: Any) -> int:
    """The index of a link that others are made on: a veth pair, or `lo` where there can be none."""
    try:
        route.link("add", ifname="base0", kind="veth", peer="base1")
    except _netlink_error():
        return 1
    index = int(route.link_lookup(ifname="base0")[0])
    for name in ("base0", "base1"):
        route.link("set", index=route.link_lookup(ifname=name)[0], state="up")
    return index


_LINKS = ("veth", "bridge", "dummy", "vlan", "bond", "macvlan", "ipvlan", "vxlan", "vrf", "gre", "wireguard", "tun")
_QDISCS = ("tbf", "netem", "htb", "fq_codel")


# Their modules make interfaces in all network namespaces when they are loaded, the machine's too (gre0).
_LOUD = {"gre": "ip_gre", "bond": "bonding"}


def _could_be_loaded(kind: str) -> bool:
    """Whether trying this kind would load a module that this kernel has (modules.alias, depmod(8))."""
    module = _LOUD.get(kind)
    if module is None or os.path.exists(f"/sys/module/{module}"):
        return False
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.alias", encoding="utf-8", errors="replace") as file:
            return f"alias rtnl-link-{kind} {module}\n" in file
    except OSError:
        return False


def _link(route: Any, kind: str, base: int) -> None:
    if _could_be_loaded(kind):
        return
    if kind == "tun":
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
        return
    kinds: dict[str, dict[str, Any]] = {
        "veth": {"peer": "probe1"},
        "vlan": {"link": base, "vlan_id": 7},
        "macvlan": {"link": base, "macvlan_mode": "bridge"},
        "ipvlan": {"link": base, "ipvlan_mode": 0},
        "vxlan": {"vxlan_id": 7, "vxlan_group": "239.1.1.1", "vxlan_link": base, "vxlan_port": 4789},
        "vrf": {"vrf_table": 107},
        "gre": {"gre_local": "127.0.0.1", "gre_remote": "127.0.0.2", "gre_ttl": 16},
    }
    route.link("add", ifname="probe0", kind=kind, **kinds.get(kind, {}))
    route.link("del", index=route.link_lookup(ifname="probe0")[0])


def _qdisc(route: Any, kind: str) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "tbf": {"rate": 1_000_000, "burst": 10_000, "latency": "10ms"},
        "netem": {"delay": 10_000},
        "htb": {"default": 1},
    }
    index = route.link_lookup(ifname="base0")
    if not index:
        raise OSError(errno.ENODEV, "there is no veth to put it on")
    route.tc("add", kind, index=index[0], handle=_HANDLE, parent=_ROOT_QDISC, **kinds.get(kind, {}))
    route.tc("del", index=index[0], parent=_ROOT_QDISC)


def _ipv6(route: Any) -> None:
    if not os.path.isdir("/proc/sys/net/ipv6"):
        raise OSError(errno.EAFNOSUPPORT, "/proc/sys/net/ipv6 is not there")
    index = route.link_lookup(ifname="base0") or [1]
    route.addr("add", index=index[0], address="fd00::1", prefixlen=64, family=socket.AF_INET6)
    with Socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::1", 0))


def _nftables() -> None:
    _rule(b"filter\0", hook=1, priority=0, verdict=nftables.drop())


def _nat() -> None:
    _rule(b"nat\0", hook=4, priority=100, verdict=nftables.expression("masq", b""))


def _rule(kind: bytes, *, hook: int, priority: int, verdict: bytes) -> None:
    """A table with a chain of that type and one rule, made and removed."""
    table, chain = kind[:-1] + b"-probe\0", b"probe\0"
    named = attribute(1, table)  # NFTA_TABLE_NAME
    with Socket(socket.AF_NETLINK, socket.SOCK_RAW, nftables.NETLINK_NETFILTER) as sock:
        nftables.transact(
            sock,
            [
                nftables.request(nftables.NEW_TABLE, NLM_F_CREATE, named),
                nftables.request(
                    nftables.NEW_CHAIN, NLM_F_CREATE, nftables.base_chain(table, chain, kind, hook, priority)
                ),
                nftables.request(
                    nftables.NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, nftables.new_rule(table, chain, [verdict])
                ),
            ],
        )
        nftables.transact(sock, [nftables.request(nftables.DELETE_TABLE, 0, named)])


def _core_sysctls() -> None:
    if not os.path.exists("/proc/sys/net/core/somaxconn"):
        raise OSError(errno.ENOENT, "a namespace's /proc/sys/net/core is empty")


def _sock_diag() -> None:
    from labctl.kernel.sock_diag import NETLINK_SOCK_DIAG, Transport, inet_sockets

    with Socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        inet_sockets(sock, Transport.TCP)
        inet_sockets(sock, Transport.UDP)


def _unix_diag() -> None:
    from labctl.kernel.sock_diag import NETLINK_SOCK_DIAG, unix_sockets

    with Socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        unix_sockets(sock)
