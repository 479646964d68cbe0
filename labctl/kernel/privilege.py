"""The namespaces that a lab lives in, and why a machine may refuse them: the cause and the remedy.

`diagnose` is a pure function of readings, so that the refusals of every machine are tested on any machine.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import socket
import struct
from enum import Enum

from labctl.errors import MachineError, describe_errno
from labctl.kernel import syscalls
from labctl.kernel.capabilities import effective_capabilities, needs_user_namespace, status_field
from labctl.kernel.mounts import mount_sys
from labctl.structs import Struct, replace
from labctl.unpatched import Socket

_SIOCSIFFLAGS = 0x8914  # linux/sockios.h
_IFF_UP = 1  # linux/if.h
LAB_NAMESPACES = (
    syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
)


class Stage(Enum):
    """The step that was refused; the value is the verb phrase for messages."""

    USER_NAMESPACE = "make a user namespace"
    IDENTITY = "map your user to root in the new user namespace"
    NAMESPACES = "make the lab's namespaces"


class Readings(Struct, frozen=True):
    """The properties of this machine that decide about namespaces; a sysctl that the kernel lacks is None."""

    euid: int
    unprivileged_userns_clone: int | None = None  # kernel.unprivileged_userns_clone (Debian's kernels)
    apparmor_restrict_userns: int | None = None  # kernel.apparmor_restrict_unprivileged_userns (Ubuntu 23.10)
    max_user_namespaces: int | None = None  # user.max_user_namespaces
    max_net_namespaces: int | None = None  # user.max_net_namespaces
    max_pid_namespaces: int | None = None
    max_mnt_namespaces: int | None = None
    max_uts_namespaces: int | None = None
    max_ipc_namespaces: int | None = None
    is_in_chroot: bool = False  # and its root directory is no mount point
    seccomp: bool = False  # this process has a system call filter (containers, sandboxes)
    container: bool = False
    selinux_userns: bool = False  # SELinux is enforcing


def diagnose(readings: Readings, stage: Stage, number: int) -> str:
    """Return the message for `stage` that was refused with errno `number`: the object, the cause, the remedy."""
    who = "root" if readings.euid == 0 else "an ordinary user"
    head = f"lab: cannot {stage.value} as {who}: {describe_errno(number)}."
    return f"{head} {_remedy(readings, stage, number)}"


def _remedy(readings: Readings, stage: Stage, number: int) -> str:
    if number in (errno.ENOSPC, errno.EUSERS):
        limits = {f"user.max_{kind}_namespaces": getattr(readings, f"max_{kind}_namespaces") for kind in _KINDS}
        known = {setting: limit for setting, limit in limits.items() if limit is not None}
        smallest = min(known, key=lambda setting: known[setting], default="user.max_net_namespaces")
        if known.get(smallest) == 0:
            return f"They are disabled. Try: sudo sysctl {smallest}=10000"
        if number == errno.EUSERS:
            return "User namespaces are nested too deeply (the kernel allows 32)."
        return (
            "A limit on namespaces is reached. Compare `sysctl -a --pattern 'user.max_.*_namespaces'` with the running "
            f"labs and containers. Try: sudo sysctl {smallest}=20000"
        )
    if number == errno.EINVAL:
        return "This kernel was built without these namespaces (CONFIG_USER_NS, CONFIG_NET_NS, CONFIG_PID_NS)."
    if number == errno.ENOSYS:
        return "unshare(2) is not available: a sandbox or an emulator hides it."
    if readings.is_in_chroot:
        return "This process is in a chroot whose root is no mount point. Try: mount --bind DIR DIR before chroot DIR"
    if readings.max_user_namespaces == 0:
        return "User namespaces are disabled. Try: sudo sysctl user.max_user_namespaces=10000, or run as root."
    if readings.euid != 0 and readings.unprivileged_userns_clone == 0:
        return "Try: sudo sysctl kernel.unprivileged_userns_clone=1, or run as root."
    if readings.euid != 0 and readings.apparmor_restrict_userns:
        return (
            "AppArmor denies user namespaces to ordinary users. "
            "Try: labctl doctor --fix (sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0), or run as root."
        )
    if readings.container or readings.seccomp:
        return (
            "This process is confined (a container or sandbox with a system call filter). "
            "Try docker run --privileged, or --cap-add SYS_ADMIN --cap-add NET_ADMIN "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined "
            "--security-opt systempaths=unconfined."
        )
    if readings.euid == 0:
        return "This root has no CAP_SYS_ADMIN. Try with all capabilities (see `capsh --print`)."
    if readings.selinux_userns:
        return "SELinux may deny user namespaces to this domain (see `ausearch -m avc`). Try as root."
    return "A security module may deny user namespaces (see the kernel's log). Try as root."


def enter_lab_namespaces(*, with_users: bool = False) -> bool:
    """Move the calling process (single-threaded) into a lab's new namespaces; its next child is the lab's PID 1.

    Without privilege, it first enters a user namespace in which the user and group are root, with the subordinate ids
    of the user if `with_users`; the result is True then. MachineError, with the remedy. user_namespaces(7),
    pid_namespaces(7).
    """
    stage = Stage.NAMESPACES
    euid = os.geteuid()  # in the user namespace it will be 0
    rootless = needs_user_namespace(euid, effective_capabilities())
    limits = _read_limits() if rootless else {}
    try:
        if rootless:
            stage = Stage.USER_NAMESPACE
            _enter_user_namespace(euid, os.getegid(), with_users=with_users)
            stage = Stage.NAMESPACES
        syscalls.unshare(LAB_NAMESPACES)
    except _IdentityRefused as refused:
        raise MachineError(diagnose(read_machine(refused.euid), Stage.IDENTITY, refused.errno or 0)) from refused
    except OSError as error:
        raise MachineError(diagnose(replace(read_machine(euid), **limits), stage, error.errno or 0)) from error
    return rootless


def enter_private_network() -> bool:
    """Move the calling process into user, network and mount namespaces of its own, in which it is root and `lo` is up.

    For a single-threaded process of an ordinary user; it and its children cannot reach the machine's network after
    that. False, and nothing is done, if the process may make labs as it is. MachineError, with the remedy.
    """
    euid = os.geteuid()
    if not needs_user_namespace(euid, effective_capabilities()):
        return False
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise MachineError(
            f"private network: this process has {threads} threads, and a process with several cannot enter a user "
            "namespace (unshare(2)). Call enter_private_network() before anything starts a thread."
        )
    stage = Stage.USER_NAMESPACE
    limits = _read_limits()
    try:
        _enter_user_namespace(euid, os.getegid())
        stage = Stage.NAMESPACES
        syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS)
        _set_loopback_up()
    except _IdentityRefused as refused:
        raise MachineError(diagnose(read_machine(euid), Stage.IDENTITY, refused.errno or 0)) from refused
    except OSError as error:
        raise MachineError(diagnose(replace(read_machine(euid), **limits), stage, error.errno or 0)) from error
    mount_sys()
    return True


def _set_loopback_up() -> None:
    """Set `lo` up, which is down in a new network namespace (netdevice(7))."""
    with Socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


class _IdentityRefused(OSError):
    def __init__(self, number: int, euid: int) -> None:
        super().__init__(number, os.strerror(number))
        self.euid = euid


def _enter_user_namespace(uid: int, gid: int, *, with_users: bool = False) -> None:
    mapper = _mapper(uid, gid) if with_users else None
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except BaseException:
        if mapper is not None:
            mapper.close()
        raise
    if mapper is not None:
        mapper.map()
    try:
        if highest("gid") == -1:
            syscalls.write_once("/proc/self/setgroups", "deny")
            syscalls.write_once("/proc/self/gid_map", f"0 {gid} 1")
        if highest("uid") == -1:
            syscalls.write_once("/proc/self/uid_map", f"0 {uid} 1")
    except OSError as error:
        raise _IdentityRefused(error.errno or 0, uid) from error


def _mapper(uid: int, gid: int) -> Mapper | None:
    """Return None if the user has no subordinate ids."""
    grant = read_grant(uid)
    if grant.problem:
        return None
    try:
        return Mapper(grant, uid, gid)
    except OSError:
        return None


def read_machine(euid: int) -> Readings:
    """Read this machine's properties; `euid` is that of the user before any namespace was entered."""
    sysctl = {name: _read_int(path) for name, path in _SYSCTLS.items()}
    return Readings(
        euid=euid,
        **sysctl,
        seccomp=status_field("Seccomp") not in ("", "0"),
        is_in_chroot=_is_in_chroot(),
        container=os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"),
        selinux_userns=_read_int("/sys/fs/selinux/enforce") == 1,
    )


def _read_limits() -> dict[str, int | None]:
    """Read the limits on namespaces that hold for a lab. In a new user namespace, /proc/sys/user has that one's own."""
    return {name: _read_int(path) for name, path in _SYSCTLS.items() if path.startswith("/proc/sys/user/")}


_KINDS = ("user", "net", "pid", "mnt", "uts", "ipc")
_SYSCTLS = {
    "unprivileged_userns_clone": "/proc/sys/kernel/unprivileged_userns_clone",
    "apparmor_restrict_userns": "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    **{f"max_{kind}_namespaces": f"/proc/sys/user/max_{kind}_namespaces" for kind in _KINDS},
}


def _read_int(path: str) -> int | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None


def _is_in_chroot() -> bool:
    """Whether the root directory is no mount point: unshare(2) and mount(2) fail with EPERM and EINVAL then."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return not any(line.split()[4] == "/" for line in file)
    except (OSError, IndexError):
        return False


# -- subordinate ids
#
# An ordinary user may map one user and one group into a user namespace, their own, and setgroups(2) is denied then. If
# /etc/subuid and /etc/subgid grant ranges (subuid(5)), the setuid programs newuidmap and newgidmap (package uidmap) map
# these, too: 0 is the user, the ranges follow from 1 on. Servers that change to a user of their own need them.

PACKAGE = "uidmap"
TOOLS = ("newuidmap", "newgidmap")
MAX_SUBORDINATE_IDS = 65535  # as many as the accounts of a machine use
_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin")

IdRange = tuple[int, int]  # first id, count


class Grant(Struct, frozen=True):
    """The ids that a user may map; if none, the problem and the remedy."""

    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    tools: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""


def read_grant(uid: int, *, directory: str = "/etc") -> Grant:
    """Read what the files in `directory` grant to the user, and find the programs that map it."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return Grant(problem=f"user {uid} has no account, which newuidmap requires", remedy="Use an account.")
    found = {file: _ranges(f"{directory}/{file}", {name, str(uid)}) for file in ("subuid", "subgid")}
    if not all(found.values()):
        files = " and ".join(f"{directory}/{file}" for file, ranges in found.items() if not ranges)
        remedy = f"Try: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
        return Grant(problem=f"{name} has no range of ids in {files}", remedy=remedy)
    tools = tuple(filter(None, map(_tool, TOOLS)))
    if len(tools) < len(TOOLS):
        remedy = f"Install the package {PACKAGE} (Fedora, RHEL: shadow-utils)."
        return Grant(problem="newuidmap and newgidmap are not installed", remedy=remedy)
    return Grant(found["subuid"], found["subgid"], tools)


def _ranges(path: str, names: set[str]) -> tuple[IdRange, ...]:
    """Return the ranges of the lines NAME:FIRST:COUNT of these users, with at most MAX_SUBORDINATE_IDS ids in all."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip().split(":") for line in file]
    except OSError:
        return ()
    ranges: list[IdRange] = []
    left = MAX_SUBORDINATE_IDS
    for line in lines:
        if len(line) == 3 and line[0] in names and line[1].isdecimal() and line[2].isdecimal():
            count = min(int(line[2]), left)
            if count and int(line[1]):  # never 0, the machine's root
                ranges.append((int(line[1]), count))
                left -= count
    return tuple(ranges)


def _tool(name: str) -> str:
    return next((path for each in _DIRECTORIES if os.access(path := f"{each}/{name}", os.X_OK)), "")


class Mapper:
    """A shell that maps the ids of the calling process after that has entered a new user namespace.

    Create it before unshare(2): only a process of the parent namespace can use the setuid programs.
    """

    def __init__(self, grant: Grant, uid: int, gid: int) -> None:
        """Start the shell. OSError."""
        arguments = [_map_arguments(os.getpid(), uid, grant.uids), _map_arguments(os.getpid(), gid, grant.gids)]
        first, second = (f"{tool} {given}" for tool, given in zip(grant.tools, arguments, strict=True))
        reading, self._go = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", f"read go || exit 1; {first} & {second}; gids=$?; wait $! && exit $gids"],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reading, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                ],
            )
        except BaseException:
            os.close(self._go)
            raise
        finally:
            os.close(reading)

    def map(self) -> None:
        """Map the ids; a program that fails leaves them unmapped."""
        os.write(self._go, b"\n")
        self.close()

    def close(self) -> None:
        """End the shell; without a call of `map` before, it maps nothing."""
        os.close(self._go)
        os.waitpid(self._pid, 0)


def _map_arguments(pid: int, own: int, ranges: tuple[IdRange, ...]) -> str:
    words = [pid, 0, own, 1]
    inside = 1
    for first, count in ranges:
        words += [inside, first, count]
        inside += count
    return " ".join(map(str, words))


def highest(kind: str) -> int:
    """Return the highest uid (`kind` "uid") or gid up to which this process's user namespace maps all; -1 if none."""
    found = -1
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        for line in file:
            inside, _, count = map(int, line.split())
            if inside == found + 1:
                found = inside + count - 1
    return found
