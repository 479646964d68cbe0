"""Requirements of scenarios on the machine: kernel features, root, programs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from labctl.topology.model import OWN_DIRECTORIES, FileTree, entries_of, lies_in
from labctl.unpatched import Socket

if TYPE_CHECKING:
    from labctl.scenario.file_schema import Requires

_IPPROTO_SCTP = 132
_NETLINK_NETFILTER = 12  # linux/netlink.h


# A probe returns the reason why the feature is missing, or "".


def _without_path(what: str, path: str) -> str:
    return "" if Path(path).exists() else f"the kernel has no {what}: {path} does not exist"


def _without_socket(what: str, family: int, kind: int, protocol: int) -> str:
    # The socket itself is the probe: EPROTONOSUPPORT if the protocol is neither built in nor a module that can load.
    try:
        Socket(family, kind, protocol).close()
    except OSError as error:
        return f"the kernel has no {what}: cannot open a socket: {error.strerror}"
    return ""


def _without_user_namespaces() -> str:
    limit = Path("/proc/sys/user/max_user_namespaces")
    try:
        allowed = int(limit.read_text())
    except (OSError, ValueError):
        return "the kernel has no user namespaces"
    return "" if allowed > 0 else f"{limit} is 0"


def _without_core_sysctls() -> str:
    # Before Linux 6.3 a network namespace that belongs to a user namespace has an empty /proc/sys/net/core.
    import subprocess

    namespaces = ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]
    probe = ["unshare", *namespaces, "test", "-e", "/proc/sys/net/core/somaxconn"]
    try:
        succeeded = subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError as error:
        return f"cannot look for net.core.somaxconn in a new network namespace: unshare: {error.strerror}"
    return "" if succeeded else "hosts of a lab have no net.core sysctls (without root they need Linux 6.3)"


def _without_qdisc(name: str) -> str:
    from labctl.observe.machine import without_qdisc

    return without_qdisc(name)


def _without_feature(name: str) -> str:
    from labctl.observe.machine import without_feature

    return without_feature(name)


def _without_root() -> str:
    return "" if os.geteuid() == 0 else "not run as root"


def _without_users() -> str:
    from labctl.observe.machine import users_in_labs

    found = None if os.geteuid() == 0 else users_in_labs(os.geteuid())
    return "" if found is None or found.works else f"programs cannot change their user in a lab: {found.problem}"


_DEVICES = ("vlan", "bond", "macvlan", "ipvlan", "vxlan", "vrf", "gre", "ipip", "sit", "ip6tnl", "wireguard", "dummy")
FEATURES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "ipv6": partial(_without_path, "IPv6", "/proc/sys/net/ipv6"),
        "nftables": partial(_without_socket, "nftables", socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER),
        "reuseport": lambda: "" if hasattr(socket, "SO_REUSEPORT") else "this Python has no SO_REUSEPORT",
        "user-namespaces": _without_user_namespaces,
        "mptcp": partial(_without_path, "MPTCP", "/proc/sys/net/mptcp/enabled"),
        "sctp": partial(_without_socket, "SCTP", socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_SCTP),
        "core-sysctls": _without_core_sysctls,
        "netem": partial(_without_qdisc, "netem"),
        "tbf": partial(_without_qdisc, "tbf"),
        "vlan-filtering": partial(_without_feature, "vlan-filtering"),
        "policy-rules": partial(_without_feature, "policy-rules"),
        "multipath": partial(_without_feature, "multipath"),
        "stp": partial(_without_feature, "stp"),
        "tproxy": partial(_without_feature, "tproxy"),
        **{kind: partial(_without_feature, kind) for kind in _DEVICES},
        "users": _without_users,
        "root": _without_root,
    }
)


def unmet(requires: Requires) -> str:
    """Return why a scenario with these requirements cannot run here (all reasons), or ""."""
    reasons = [f"the program `{name}` is not installed" for name in requires.programs if not _in_path(name)]
    if requires.root and (reason := _without_root()):
        reasons.append(f"needs root: {reason}")
    for name in requires.features:
        if name in FEATURES and (reason := FEATURES[name]()):  # the loader reports an unknown feature
            reasons.append(f"needs {name}: {reason}")
    return "; ".join(reasons)


class KnownPrograms:
    """Programs that steps can run, as far as this is known at load time: those of the machine, and those steps add.

    A program in `requires.programs` is never missing: without it labctl skips the scenario.
    """

    def __init__(self, directory: Path, required: Iterable[str], trees: Iterable[FileTree]) -> None:
        self._directory = directory
        self._names = set(required)
        self._paths: set[str] = set()
        self._has_binds = False  # the content of binds is known only at run time
        for tree in trees:
            self._has_binds = self._has_binds or bool(tree.binds)
            for file in tree.files:
                for _, relative in entries_of(file.source) if file.source else [("", "")]:
                    path = os.path.normpath(os.path.join(file.path, relative))
                    self._paths.add(path)
                    self._names.add(os.path.basename(path))

    def add_name(self, name: str) -> None:
        self._names.add(name)

    def add_path(self, path: str) -> None:
        self._paths.add(path)

    def missing(self, program: str, cwd: str | None) -> tuple[str, str]:
        """Return why `program` cannot run, and what to try; ("", "") if it can. Default `cwd`: the scenario's."""
        if self._has_binds or program in self._names or program in self._paths or Path(program).name in self._names:
            return "", ""
        if "/" in program:
            path = Path(os.path.normpath(self._directory / (cwd or "") / program))
            own = any(lies_in(str(path), directory) for directory in OWN_DIRECTORIES)
            if own and not path.is_relative_to(self._directory):
                return "", ""  # a host's own directory: its content is known only at run time
            if not os.path.isfile(path):
                return (
                    f"there is no program {program}",
                    "paths are relative to the directory of the scenario, or to `cwd`",
                )
            if not os.access(path, os.X_OK):
                return f"{program} is not executable", f"chmod +x {program}, or run it with its interpreter"
            return "", ""
        if located(program, self._directory) is not None:
            return "", ""
        hint = f"install it, `build` it in an earlier step, or skip without it: requires: {{programs: [{program}]}}"
        return f"the program `{program}` is not installed on this machine", hint


def _in_path(program: str) -> bool:
    import shutil

    return shutil.which(program) is not None


def located(program: str, directory: Path) -> str | None:
    """Return the name or path to start `program` by: itself if PATH has it, else its path in `directory`, or None."""
    if "/" in program or _in_path(program):
        return program
    beside = directory / program
    return str(beside) if os.path.isfile(beside) and os.access(beside, os.X_OK) else None
