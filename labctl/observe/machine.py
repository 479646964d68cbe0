"""What this machine can do for labs: everything is tried, in namespaces that go away at once.

The kernel's limits that labs share with each other and with the machine: namespaces do not multiply them.

Most of the settings are shown only in the machine's own network namespace; where one is not shown, it is left out.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from labctl.errors import LabctlError, MachineError, errno_name
from labctl.kernel import probes
from labctl.kernel.neighbours import neighbour_table
from labctl.kernel.privilege import Readings, effective_capabilities, needs_user_namespace, read_machine
from labctl.structs import Struct
from labctl.topology.resolve import PORTS_LIMIT
from labctl.unpatched import monotonic

_DESCRIPTORS_OF_A_KEEPER = 40  # what it has open besides those of nodes
_DESCRIPTORS_A_NODE = 2
_NAMESPACE_KINDS = ("net", "mnt", "uts", "pid", "ipc", "user")


class SharedLimit(Struct, frozen=True):
    """A limit: its settings with their values, and whom or what they count together."""

    name: str
    values: tuple[tuple[str, int], ...]  # a setting (as sysctl(8) has it), its value
    counts: str

    def __str__(self) -> str:
        return f"{', '.join(f'{setting} {value}' for setting, value in self.values)}: {self.counts}"


class Size(Struct, frozen=True):
    """How many nodes a lab may have, and what allows no more."""

    nodes: int
    by: str


def largest_lab() -> Size:
    """The least of what descriptors and namespaces allow: a node has a network namespace of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sizes = []
    if hard != resource.RLIM_INFINITY:
        sizes.append(Size(max(0, (hard - _DESCRIPTORS_OF_A_KEEPER) // _DESCRIPTORS_A_NODE), "descriptors"))
    namespaces = _read("user.max_net_namespaces")
    if namespaces is not None:
        sizes.append(Size(max(0, namespaces - 1), "user.max_net_namespaces"))
    return min(sizes, key=lambda size: size.nodes, default=Size(1_000_000, "descriptors"))


def shared_limits() -> Iterator[SharedLimit]:
    """Each of them, with its value here."""
    tables = [table for table in map(neighbour_table, (4, 6)) if table.is_limit_known]
    if tables:
        used = ", ".join(f"{table.entries} IPv{table.version}" for table in tables)
        counts = f"neighbours (ARP, ND) of all namespaces together; now {used}"
        yield SharedLimit("neighbour tables", tuple((table.setting, table.limit) for table in tables), counts)
    yield SharedLimit("bridge ports", (("BR_MAX_PORTS", PORTS_LIMIT),), "links of one switch or network")
    known: tuple[tuple[str, tuple[str, ...], str], ...] = (
        (
            "connection tracking",
            ("net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"),
            "connections through nat: true, a namespace each; the hash table is one",
        ),
        (
            "inotify",
            ("fs.inotify.max_user_instances", "fs.inotify.max_user_watches"),
            "of one user in all labs",
        ),
        ("keys", ("kernel.keys.maxkeys", "kernel.keys.root_maxkeys"), "of an ordinary user, of root, in all labs"),
        ("processes", ("kernel.pid_max", "kernel.threads-max"), "of the machine, those of labs included"),
        ("namespaces", tuple(f"user.max_{kind}_namespaces" for kind in _NAMESPACE_KINDS), "of one user in all labs"),
        ("open files", ("fs.file-max",), "of the machine, those of labs included"),
    )
    for name, settings, counts in known:
        values = tuple((setting, value) for setting in settings if (value := _read(setting)) is not None)
        if values:
            yield SharedLimit(name, values, counts)


def _read(setting: str) -> int | None:
    try:
        with open(f"/proc/sys/{setting.replace('.', '/')}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


__all__ = ["Finding", "Readings", "control_groups", "privilege", "probe_kernel", "program", "try_a_lab"]

_PROBE = "import sys; sys.path.extend(sys.argv[1:]); from labctl.kernel.probes import main; main()"
_PROBE_QDISC = (
    "import sys; kind, *path = sys.argv[1:]; sys.path.extend(path); "
    "from labctl.kernel.probes import try_qdisc; try_qdisc(kind)"
)
_SEARCH = (
    "import sys; sys.path.extend(sys.argv[1:]); "
    "from labctl.kernel.cgroup import Controller, find_parents; find_parents(tuple(Controller))"
)
_PROBE_USERS = (
    "import sys; sys.path.extend(sys.argv[1:]); "
    "from labctl.kernel.privilege import enter_lab_namespaces; from labctl.kernel.privilege import highest; "
    "enter_lab_namespaces(with_users=True); print(highest('uid') > 0 and highest('gid') > 0)"
)
LIMITS = "limits: pids, memory, cpu of a host's programs"
PROBE_TIMEOUT_S = 60.0
SCOPE_TIMEOUT_S = 10.0
LAB_TIMEOUT_S = 30.0


class Finding(Struct, frozen=True):
    """Whether something works; `problem` says what came back when it does not, `remedy` what to try."""

    name: str
    works: bool
    detail: str = ""
    problem: str = ""
    remedy: str = ""


class Feature(Struct, frozen=True):
    """A feature of the kernel: what labctl uses it for, the module and the option of the kernel that have it."""

    use: str
    module: str
    option: str
    needed: bool = False


FEATURES = {
    "veth": Feature("links", "veth", "VETH", needed=True),
    "bridge": Feature("switches, networks", "bridge", "BRIDGE"),
    "ipv6": Feature("IPv6 addresses", "ipv6", "IPV6"),
    "netem": Feature("delay, jitter, loss, duplication, reordering", "sch_netem", "NET_SCH_NETEM"),
    "tbf": Feature("rate limits", "sch_tbf", "NET_SCH_TBF"),
    "htb": Feature("shared rate limits", "sch_htb", "NET_SCH_HTB"),
    "fq_codel": Feature("queue experiments", "sch_fq_codel", "NET_SCH_FQ_CODEL"),
    "nftables": Feature("drop steps", "nf_tables", "NF_TABLES"),
    "nat": Feature("nat: true on a router", "nft_masq", "NFT_MASQ"),
    "sock_diag": Feature("expectations about sockets", "tcp_diag", "INET_DIAG"),
    "unix_diag": Feature("expectations about AF_UNIX sockets", "unix_diag", "UNIX_DIAG"),
    "packet": Feature("captures", "af_packet", "PACKET"),
    "macvlan": Feature("experiments of your own", "macvlan", "MACVLAN"),
    "ipvlan": Feature("experiments of your own", "ipvlan", "IPVLAN"),
    "vxlan": Feature("experiments of your own", "vxlan", "VXLAN"),
    "vlan": Feature("experiments of your own", "8021q", "VLAN_8021Q"),
    "vrf": Feature("experiments of your own", "vrf", "NET_VRF"),
    "bond": Feature("experiments of your own", "bonding", "BONDING"),
    "dummy": Feature("experiments of your own", "dummy", "DUMMY"),
    "gre": Feature("experiments of your own", "ip_gre", "NET_IPGRE"),
    "wireguard": Feature("experiments of your own", "wireguard", "WIREGUARD"),
    "tun": Feature("programs that make tunnels", "tun", "TUN"),
    "mptcp": Feature("scenarios with MPTCP", "", "MPTCP"),
    "sctp": Feature("scenarios with SCTP", "sctp", "IP_SCTP"),
    "core-sysctls": Feature("net.core sysctls on hosts", "", ""),
}


def privilege() -> tuple[Readings, bool]:
    """What the machine says of itself, and whether labs here live in a user namespace."""
    euid = os.geteuid()
    return read_machine(euid), needs_user_namespace(euid, effective_capabilities())


def users_in_labs(euid: int) -> Finding:
    """Whether the labs of this (ordinary) user have other users than their owner; tried, in a namespace that ends."""
    from labctl.kernel.privilege import read_grant
    from labctl.lab.client.boot_process import search_path

    name = "users in labs"
    grant = read_grant(euid)
    if grant.problem:
        return Finding(name, False, problem=grant.problem, remedy=grant.remedy)
    argv = [sys.executable, "-I", "-S", "-c", _PROBE_USERS, *search_path()]
    try:
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, False, problem=f"cannot be tried: {error}")
    if ended.stdout.strip() == b"True":
        return Finding(name, True)
    return Finding(name, False, problem="newuidmap or newgidmap fails", remedy="Try: unshare --user --map-auto true")


_USER_REFUSED = re.compile(
    r"(set\w*[ug]id|setgroups|setting groups|initgroups|group-id|user-id|privileges|chown|owner|ownership|chang\w+ to)"
    r"\b.*(Operation not permitted|Invalid argument)",
    re.IGNORECASE,
)


def hint_without_users(output: str) -> str:
    """What to try, for the output of a program that could not change its user in this user's lab; "" for any other."""
    from labctl.kernel.privilege import read_grant

    if not _USER_REFUSED.search(output):
        return ""
    readings, in_user_namespace = privilege()
    grant = read_grant(readings.euid)
    if not in_user_namespace or not grant.problem:
        return ""
    return f"It could not change its user: an ordinary user's lab has one user, as {grant.problem}. {grant.remedy}"


def probe_kernel() -> list[Finding]:
    """Each feature, tried in a throw-away namespace. MachineError with the remedy when there can be none."""
    import json

    from labctl.lab.client.boot_process import search_path

    argv = [sys.executable, "-I", "-S", "-c", _PROBE, *search_path()]
    try:
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"kernel: its features cannot be tried: {error}.") from error
    if ended.returncode or not ended.stdout:
        words = ended.stderr.decode(errors="backslashreplace").strip().splitlines()
        raise MachineError(f"kernel: its features cannot be tried: {words[-1] if words else 'the process was killed'}.")
    told = json.loads(ended.stdout)
    if "refused" in told:
        raise MachineError(told["refused"])
    return [_finding(each["name"], each["errno"], each["detail"]) for each in told["probes"]]


def without_qdisc(kind: str) -> str:
    """Why links cannot have delay and loss (`netem`) or a rate (`tbf`) here, with the remedy; "" where they can."""
    from labctl.lab.client.boot_process import search_path

    argv = [sys.executable, "-I", "-S", "-c", _PROBE_QDISC, kind, *search_path()]
    try:
        ended = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT_S, encoding="utf-8"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"whether the kernel has {kind} cannot be tried: {error}"
    if ended.returncode:
        words = ended.stderr.strip().splitlines()
        return f"whether the kernel has {kind} cannot be tried: {words[-1] if words else 'the process was killed'}"
    came_back = ended.stdout.strip()
    return f"{came_back}. {remedy_for(FEATURES[kind], kind)}" if came_back else ""


def _finding(name: str, number: int, detail: str) -> Finding:
    feature = FEATURES[name]
    if number == 0:
        return Finding(name, True, feature.use)
    problem = detail if number == -1 else f"{errno_name(number)}, {detail}"
    return Finding(name, False, feature.use, problem, remedy_for(feature, name))


def remedy_for(feature: Feature, name: str) -> str:
    """What to try where the kernel lacks it: load its module, or which package or kernel has it."""
    if name == "core-sysctls":
        return "Run labctl as root, or use Linux 6.3 or later."
    if name == "ipv6":
        disabled = "ipv6.disable=1" in _text("/proc/cmdline")
        if disabled:
            return "IPv6 was switched off at boot: remove ipv6.disable=1 from the kernel's command line."
    if name == "tun" and os.path.exists("/dev/net/tun"):
        return "Try: sudo chmod 666 /dev/net/tun"
    return probes.remedy(feature.module, feature.option)


def program(name: str) -> str:
    """Where the program is, in PATH and the directories of administrators' programs; "" when it is not there."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    return shutil.which(name, path=path) or ""


def control_groups() -> Finding:
    """Whether programs on hosts can be limited (`limits:`): the search that a lab makes, for all three controllers.

    A login may have no group with all three while a scope that systemd is asked for has; that is tried too.
    """
    from labctl.kernel.cgroup import Controller, find_parents

    try:
        find_parents(tuple(Controller))
    except MachineError as error:
        scope = ["systemd-run", *([] if os.geteuid() == 0 else ["--user"]), "--scope", "-p", "Delegate=yes"]
        if _finds_groups_in(scope):
            return Finding("control groups", True, f"{LIMITS}, started with: {' '.join(scope)} labctl up ...")
        problem, _, remedy = str(error).partition(" here. ")
        return Finding("control groups", False, LIMITS, f"{problem.rpartition(': ')[2]} here", remedy)
    return Finding("control groups", True, LIMITS)


def _finds_groups_in(scope: list[str]) -> bool:
    from labctl.lab.client.boot_process import search_path

    if not program(scope[0]):
        return False
    argv = [*scope, "--quiet", sys.executable, "-I", "-S", "-c", _SEARCH, *search_path()]
    try:
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=SCOPE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


def try_a_lab() -> Finding:
    """A lab of two hosts, made, used and ended: the one finding that decides."""

    from labctl import topology
    from labctl.lab.client.handle import Lab
    from labctl.observe.ping import reach
    from labctl.plan.build import build

    began = monotonic()
    try:
        planned = build(topology.load("pair"))
        with Lab.open(planned, deadline_s=LAB_TIMEOUT_S) as lab:
            first, second = (node for node in planned.nodes)
            process = lab.spawn(first.name, [sys.executable, "-I", "-S", "-c", "pass"])
            try:
                status = process.wait(LAB_TIMEOUT_S)
            finally:
                process.close()
            if status != 0:
                return Finding("lab", False, problem=f"a program on a host ended with {status} instead of 0")
            from ipaddress import ip_address

            address = next(ip_address(text) for text, name in first.names if name == second.name and "." in text)
            echo = reach(lab, first.name, address)
            if not echo.reached:
                return Finding("lab", False, problem=f"{first.name} cannot reach {second.name}: {echo}")
    except LabctlError as error:
        return Finding("lab", False, problem=str(error))
    return Finding("lab", True, f"two hosts made, used and ended in {(monotonic() - began) * 1000:.0f} ms")


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
