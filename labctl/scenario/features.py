"""What a scenario may require of the machine, each with a probe that asks the machine itself.

A probe returns the reason why the feature is not there, or "".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from labctl.unpatched import Socket

if TYPE_CHECKING:
    from labctl.scenario.model import Requirements


def _ipv6() -> str:
    # Absent when the kernel was built without IPv6 or booted with ipv6.disable=1.
    return "" if Path("/proc/sys/net/ipv6").is_dir() else "the kernel has no IPv6 (/proc/sys/net/ipv6 is not there)"


def _netfilter_netlink() -> str:
    # The socket itself is the probe: EPROTONOSUPPORT when nfnetlink is neither built in nor to be loaded.
    import socket

    try:
        Socket(socket.AF_NETLINK, socket.SOCK_RAW, 12).close()  # NETLINK_NETFILTER, linux/netlink.h
    except OSError as error:
        return f"the kernel has no nftables (a netfilter netlink socket gives: {error.strerror})"
    return ""


def _reuseport() -> str:
    import socket

    return "" if hasattr(socket, "SO_REUSEPORT") else "SO_REUSEPORT is not there"


def _unprivileged() -> str:
    limit = Path("/proc/sys/user/max_user_namespaces")
    try:
        allowed = int(limit.read_text())
    except (OSError, ValueError):
        return "the kernel has no user namespaces"
    return "" if allowed > 0 else f"{limit} is 0"


def _mptcp() -> str:
    return "" if Path("/proc/sys/net/mptcp/enabled").exists() else "the kernel has no MPTCP (/proc/sys/net/mptcp)"


def _sctp() -> str:
    import socket

    try:
        Socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()  # IPPROTO_SCTP
    except OSError as error:
        return f"the kernel has no SCTP ({error.strerror})"
    return ""


def _core_sysctls() -> str:
    # Before Linux 6.3 a network namespace that belongs to a user namespace has an empty /proc/sys/net/core.
    import subprocess

    namespaces = ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]
    probe = ["unshare", *namespaces, "test", "-e", "/proc/sys/net/core/somaxconn"]
    try:
        there = subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError as error:
        return f"cannot look for net.core.somaxconn in a new network namespace: unshare: {error.strerror}"
    return "" if there else "a lab's hosts have no net.core sysctls (without root they need Linux 6.3)"


def _netem() -> str:
    from labctl.observe.machine import without_qdisc

    return without_qdisc("netem")


def _tbf() -> str:
    from labctl.observe.machine import without_qdisc

    return without_qdisc("tbf")


def _root() -> str:
    return "" if os.geteuid() == 0 else "not run as root"


FEATURES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "ipv6": _ipv6,
        "nftables": _netfilter_netlink,
        "reuseport": _reuseport,
        "user-namespaces": _unprivileged,
        "mptcp": _mptcp,
        "sctp": _sctp,
        "core-sysctls": _core_sysctls,
        "netem": _netem,
        "tbf": _tbf,
        "root": _root,
    }
)


def unmet(requires: Requirements) -> str:
    """Why a scenario with these requirements cannot run here (all reasons), or ""."""
    reasons = [f"the program `{name}` is not installed" for name in requires.programs if not shutil.which(name)]
    if requires.root and (reason := _root()):
        reasons.append(f"needs root: {reason}")
    for name in requires.features:
        if name not in FEATURES:
            continue  # a mistake of the file, which is reported by itself
        reason = FEATURES[name]()
        if reason:
            reasons.append(f"needs {name}: {reason}")
    return "; ".join(reasons)
