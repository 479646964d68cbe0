"""What this machine can do for labs, for `labctl doctor` and for scenarios that require a feature.

Everything is tried, in namespaces that end with the process that tries it.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

from labctl.clock import monotonic
from labctl.errors import LabctlError, MachineError, describe_errno, errno_name
from labctl.kernel.capabilities import effective_capabilities, needs_user_namespace
from labctl.kernel.link_state import neighbour_table
from labctl.kernel.privilege import Readings, read_machine
from labctl.kernel.probes import FEATURES, remedy
from labctl.structs import Struct

__all__ = ["FEATURES", "Readings"]

PROBE_TIMEOUT_S = 60.0
SCOPE_TIMEOUT_S = 10.0
LAB_TIMEOUT_S = 30.0


class Finding(Struct, frozen=True):
    """Whether something works, and if not, the problem and the remedy."""

    name: str
    works: bool
    detail: str = ""
    problem: str = ""
    remedy: str = ""


def privilege() -> tuple[Readings, bool]:
    """Return the machine's readings, and whether labs of this user live in a user namespace."""
    euid = os.geteuid()
    return read_machine(euid), needs_user_namespace(euid, effective_capabilities())


def program(name: str) -> str:
    """Return the path of a program in PATH or in the directories of administrators' programs, or ""."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    return shutil.which(name, path=path) or ""


def _run(code: str, *, within: Sequence[str] = (), timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Run Python code in a process of its own, started by `within`, and return its output. MachineError."""
    from labctl.lab.client.nursery import search_path

    code = f"import sys; sys.path.extend(sys.argv[1:]); {code}"
    argv = [*within, sys.executable, "-I", "-S", "-c", code, *search_path()]
    try:
        ended = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, errors="backslashreplace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"the probe did not run: {error}") from error
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["the process was killed"]
        raise MachineError(f"the probe failed: {lines[-1]}")
    return ended.stdout


# -- features of the kernel


def probe_kernel() -> list[Finding]:
    """Probe each feature, in the order of FEATURES. MachineError, with the remedy, if labs cannot have namespaces."""
    findings = []
    for name, number, detail in _probe(*FEATURES):
        problem = "" if number == 0 else detail if number == -1 else f"{errno_name(number)}, {detail}"
        findings.append(Finding(name, number == 0, FEATURES[name].use, problem, remedy(name) if number else ""))
    return findings


def without_qdisc(kind: str) -> str:
    """Return why links cannot have delay and loss (`netem`) or a rate (`tbf`), with the remedy; "" if they can."""
    return without_feature(kind)


def without_feature(name: str) -> str:
    """Return why labs cannot have this one of FEATURES, with the remedy; "" if they can."""
    try:
        ((_, number, _),) = _probe(name)
    except MachineError as error:
        return str(error)
    return f"the kernel refuses {name}: {describe_errno(number)}. {remedy(name)}" if number else ""


def _probe(*names: str) -> list[tuple[str, int, str]]:
    import json

    try:
        result = json.loads(_run(f"from labctl.kernel.probes import main; main(*{names!r})"))
    except MachineError as error:
        raise MachineError(f"kernel: cannot probe its features: {error}.") from error
    if isinstance(result, str):
        raise MachineError(result)
    return [(name, number, detail) for name, number, detail in result]


# -- what recordings use

KERNEL_EVENTS = "TCP states, drops with reasons, system calls of all programs"


def kernel_events() -> Finding:
    """Try whether recordings can have the kernel's events and system calls, by BPF programs."""
    try:
        refusal = _run("from labctl.kernel.bpf import refusal; print(refusal())").strip()
    except MachineError as error:
        refusal = str(error)
    problem, _, found = refusal.partition(". Try: ")
    remedy = f"Try: {found}" if found else "Try as root, outside of containers, on a distribution's kernel."
    return Finding("BPF", not refusal, KERNEL_EVENTS, problem, remedy if refusal else "")


def packet_filters() -> Finding:
    """Try whether filters of packets can be compiled."""
    from labctl.kernel.packet_filter import LIBRARIES, compile_filter

    try:
        compile_filter("tcp", 1)
    except MachineError:
        return Finding("libpcap", False, "filters of packets", f"{LIBRARIES[0]} is not installed")
    return Finding("libpcap", True, "filters of packets")


# -- users in labs of ordinary users


def users_in_labs(euid: int) -> Finding:
    """Try whether the labs of this ordinary user can have users other than their owner."""
    from labctl.kernel.privilege import read_grant

    name = "users in labs"
    grant = read_grant(euid)
    if grant.problem:
        return Finding(name, False, problem=grant.problem, remedy=grant.remedy)
    try:
        mapped = _run(
            "from labctl.kernel.privilege import enter_lab_namespaces, highest; "
            "enter_lab_namespaces(with_users=True); print(highest('uid') > 0 and highest('gid') > 0)"
        )
    except MachineError as error:
        return Finding(name, False, problem=str(error))
    if mapped.strip() == "True":
        return Finding(name, True)
    return Finding(name, False, problem="newuidmap or newgidmap fails", remedy="Try: unshare --user --map-auto true")


_USER_REFUSED = re.compile(
    r"(set\w*[ug]id|setgroups|setting groups|initgroups|group-id|user-id|privileges|chown|owner|ownership|chang\w+ to)"
    r"\b.*(Operation not permitted|Invalid argument)",
    re.IGNORECASE,
)


def hint_without_users(output: str) -> str:
    """Return the remedy if a program's output shows that it could not change its user in this user's lab, else ""."""
    from labctl.kernel.privilege import read_grant

    if not _USER_REFUSED.search(output):
        return ""
    readings, in_user_namespace = privilege()
    grant = read_grant(readings.euid)
    if not in_user_namespace or not grant.problem:
        return ""
    return f"It could not change its user: an ordinary user's lab has one user, as {grant.problem}. {grant.remedy}"


# -- limits


class LabSize(Struct, frozen=True):
    """The largest number of nodes in a lab, and what limits it."""

    nodes: int
    by: str


_DESCRIPTORS_OF_A_KEEPER = 40  # besides those of nodes
_DESCRIPTORS_PER_NODE = 2


def largest_lab() -> LabSize:
    """Return the smaller of what descriptors and network namespaces allow; a node has a namespace of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sizes = []
    if hard != resource.RLIM_INFINITY:
        sizes.append(LabSize(max(0, (hard - _DESCRIPTORS_OF_A_KEEPER) // _DESCRIPTORS_PER_NODE), "descriptors"))
    namespaces = _sysctl("user.max_net_namespaces")
    if namespaces is not None:
        sizes.append(LabSize(max(0, namespaces - 1), "user.max_net_namespaces"))
    return min(sizes, key=lambda size: size.nodes, default=LabSize(1_000_000, "descriptors"))


BR_MAX_PORTS = 1024  # net/bridge/br_private.h; port 0 is reserved


class SharedLimit(Struct, frozen=True):
    """A limit that labs share with each other and with the machine, because namespaces do not multiply it."""

    name: str
    values: tuple[tuple[str, int], ...]  # setting (as in sysctl(8)), value
    counts: str  # what is counted together

    def __str__(self) -> str:
        return f"{', '.join(f'{setting} {value}' for setting, value in self.values)}: {self.counts}"


_SHARED_LIMITS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "connection tracking",
        ("net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets"),
        "connections through nat: true, in each namespace; the hash table is shared",
    ),
    ("inotify", ("fs.inotify.max_user_instances", "fs.inotify.max_user_watches"), "of one user in all labs"),
    ("keys", ("kernel.keys.maxkeys", "kernel.keys.root_maxkeys"), "of an ordinary user, of root, in all labs"),
    ("processes", ("kernel.pid_max", "kernel.threads-max"), "of the machine, including those of labs"),
    (
        "namespaces",
        tuple(f"user.max_{kind}_namespaces" for kind in ("net", "mnt", "uts", "pid", "ipc", "user")),
        "of one user in all labs",
    ),
    ("open files", ("fs.file-max",), "of the machine, including those of labs"),
    ("packet queue", ("net.core.netdev_max_backlog",), "frames of all labs that wait for one processor"),
)


def shared_limits() -> Iterator[SharedLimit]:
    """Yield the limits with their values; without settings that only the machine's own network namespace shows."""
    tables = [table for table in map(neighbour_table, (4, 6)) if table.is_limit_known]
    if tables:
        used = ", ".join(f"{table.entries} IPv{table.version}" for table in tables)
        counts = f"neighbours (ARP, ND) of all namespaces together; now {used}"
        yield SharedLimit("neighbour tables", tuple((table.setting, table.limit) for table in tables), counts)
    yield SharedLimit("bridge ports", (("BR_MAX_PORTS", BR_MAX_PORTS - 1),), "a larger switch has several bridges")
    for name, settings, counts in _SHARED_LIMITS:
        values = tuple((setting, value) for setting in settings if (value := _sysctl(setting)) is not None)
        if values:
            yield SharedLimit(name, values, counts)


def _sysctl(setting: str) -> int | None:
    try:
        with open(f"/proc/sys/{setting.replace('.', '/')}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


LIMITS = "limits: pids, memory, cpu of a host's programs"


def control_groups() -> Finding:
    """Try whether programs on hosts can have `limits:`, by the search that a lab makes, for all three controllers.

    A login may have no group with all three controllers although a scope from systemd has; that is tried, too.
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
    if not program(scope[0]):
        return False
    search = "from labctl.kernel.cgroup import Controller, find_parents; find_parents(tuple(Controller))"
    try:
        _run(search, within=(*scope, "--quiet"), timeout_s=SCOPE_TIMEOUT_S)
    except MachineError:
        return False
    return True


# -- a lab


def try_a_lab() -> Finding:
    """Make a lab of two hosts, use it, and end it; this decides whether labs can run here."""
    from ipaddress import ip_address

    from labctl import topology
    from labctl.lab.client.handle import Lab
    from labctl.observe.ping import reach
    from labctl.plan.build import build
    from labctl.plan.hosts_files import HostsFiles

    began = monotonic()
    try:
        planned = build(topology.load("pair"))
        with Lab.open(planned, deadline_s=LAB_TIMEOUT_S) as lab:
            first, second = planned.nodes
            process = lab.spawn(first.name, [sys.executable, "-I", "-S", "-c", "pass"])
            try:
                status = process.wait(LAB_TIMEOUT_S)
            finally:
                process.close()
            if status != 0:
                return Finding("lab", False, problem=f"a program on a host exited with status {status} instead of 0")
            address = ip_address(HostsFiles(planned).addresses(second.name, on=first.name)[0])
            echo = reach(lab, first.name, address)
            if not echo.reached:
                return Finding("lab", False, problem=f"{first.name} cannot reach {second.name}: {echo}")
    except LabctlError as error:
        return Finding("lab", False, problem=str(error))
    return Finding("lab", True, f"two hosts created, used and removed in {(monotonic() - began) * 1000:.0f} ms")
