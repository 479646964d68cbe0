"""A node as a place where programs run: made complete with its first program, by a process that then is its init.

All of this is done by the keeper, which is single-threaded, and by children that it forks. The init is process 1 of the
node's PID namespace; when it ends, the kernel ends every process of the node.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

from labctl.errors import KernelError, LabctlError, LabError, MachineError, describe_errno
from labctl.kernel import mounts, processes, syscalls
from labctl.lab.keeper import file_tree as run_directories
from labctl.lab.keeper.file_tree import RunDirectories, furnish
from labctl.lab.protocol import Failed, Pairs, decode, encode
from labctl.structs import Struct, replace
from labctl.topology.model import HOSTS, RESOLV_CONF, Node, PlacedFile

SHARED_DIRECTORY = "/run/lab"
SHARED_PROGRAMS = f"{SHARED_DIRECTORY}/bin"
STORE = "/run/host-files"
INSIDE = syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
START_TIMEOUT_S = 20.0  # for what a child does before it is the program; milliseconds, unless the machine is swamped

RESOLVERS = "# A lab has no name server; names are in /etc/hosts.\noptions timeout:1 attempts:1\n"
READY = b"ready"
LOCAL_NAMES = (("127.0.0.1", "localhost"), ("::1", "localhost ip6-localhost ip6-loopback"))


class Surroundings(Struct, frozen=True):
    """What all hosts of a lab have in common."""

    lab: str
    view: mounts.View
    environment: dict[str, str]  # the owner's
    cwd: str  # the owner's
    descriptor_limit: tuple[int, int]  # RLIMIT_NOFILE as the owner had it
    own_pid_namespace: int  # descriptor, the keeper's
    machine_proc: int  # descriptor of the machine's /proc, which tells what a process is called there
    rootless: bool  # the lab lives in a user namespace
    highest_uid: int  # 0 to it are the users that programs can run as; in a user namespace perhaps 0 alone
    highest_gid: int
    run_directories: RunDirectories
    resolvers: str | None = None  # what hosts have in /etc/resolv.conf; None: RESOLVERS


class Init(Struct, frozen=True):
    """A host's process 1; the keeper owns the pidfd."""

    pid: int
    pidfd: int
    machine_pid: int = 0  # as the machine sees it


class Host(Struct):
    """A node of the keeper's; `init` is None until its first program, `ended` tells how the init ended."""

    node: Node
    network: int  # descriptor of its network namespace
    init: Init | None = None
    ended: int | None = None
    groups: tuple[int, ...] = ()  # descriptors: what its processes enter its control groups by

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def subject(self) -> str:
        """How messages call it: `host server`, `router gw`."""
        return f"{self.node.kind} {self.node.name}"


def complete(host: Host, surroundings: Surroundings) -> Init:
    """Give the host its mount, UTS, IPC and PID namespaces and its init. KernelError names what the kernel refused."""
    surroundings.run_directories.get()  # here and not in a child, to be found once for all hosts
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            try:
                syscalls.unshare(syscalls.CLONE_NEWPID)
            except OSError as error:
                raise KernelError(
                    host.subject, "make a PID namespace", error.errno or 0, hint=_limit_hint(error)
                ) from error
            try:
                pid = processes.fork(lambda: _init(host, surroundings, writing))
            finally:
                syscalls.setns(surroundings.own_pid_namespace, syscalls.CLONE_NEWPID)
        finally:
            os.close(writing)
        init = Init(pid, os.pidfd_open(pid))
        try:
            report = processes.read_all(reading, START_TIMEOUT_S, host.subject)
            ready, _, machine_pid = report.partition(b" ")
            if ready != READY:
                raise failure_of(report, f"{host.subject}: its init ended before it was ready.")
        except (LabError, MachineError):
            _end(init)
            raise
        return replace(init, machine_pid=int(machine_pid))
    finally:
        os.close(reading)


def fork_inside(host: Host, surroundings: Surroundings, body: Callable[[], None]) -> int:
    """Fork a process of the host that runs `body` in all its namespaces; returns its pid in the keeper's namespace."""
    if host.ended is not None:
        raise LabError(
            f"{host.subject}: its init was ended from outside (status {host.ended}), and with it every program on it. "
            f"Open a new lab: a host's namespaces cannot be brought back."
        )
    if host.init is None:
        host.init = complete(host, surroundings)
    pidfd = host.init.pidfd
    try:
        syscalls.setns(pidfd, syscalls.CLONE_NEWPID)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise LabError(f"{host.subject}: its init has been ended from outside; it can run nothing more.") from error
        raise KernelError(host.subject, "enter its PID namespace", error.errno or 0) from error
    try:
        return processes.fork_closed(lambda: _inside(host, pidfd, body))
    except OSError as error:
        hint = "Its init has ended." if error.errno == errno.ENOMEM else ""
        raise KernelError(host.subject, "start a process", error.errno or 0, hint=hint) from error
    finally:
        syscalls.setns(surroundings.own_pid_namespace, syscalls.CLONE_NEWPID)


def environment_on(host: Host, surroundings: Surroundings, given: Pairs) -> dict[str, str]:
    """The environment of a program on the host: the owner's, the node's, then what the program was given."""
    environment = {
        name: value
        for name, value in surroundings.environment.items()
        if name not in _PLACES or not surroundings.view.hides(value)
    }
    environment |= {"LABCTL_NODE": host.name, "LABCTL_LAB": surroundings.lab}
    environment |= dict(host.node.environment)
    environment |= dict(given)
    environment["PATH"] = f"{SHARED_PROGRAMS}:{environment.get('PATH', os.defpath)}"
    return environment


_PLACES = ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR")  # dropped where the directory is not to be seen


def report_failure(writing: int, error: LabError | MachineError) -> None:
    """In a child: tell the keeper, for which `failure_of` reads it."""
    os.write(writing, encode(Failed.of(error)))


def failure_of(report: bytes, otherwise: str) -> LabctlError:
    """The error that a child's report is; `otherwise` when the child ended without a word."""
    failed: Failed = decode(report, Failed) if report else Failed.of(LabError(otherwise))
    return failed.error()


def _end(init: Init) -> None:
    try:
        signal.pidfd_send_signal(init.pidfd, signal.SIGKILL)
    finally:
        os.close(init.pidfd)
        os.waitpid(init.pid, 0)


def _inside(host: Host, init_pidfd: int, body: Callable[[], None]) -> None:
    try:
        _enter_groups(host)
        syscalls.setns(init_pidfd, INSIDE)
    except OSError as error:
        raise KernelError(host.subject, "enter its namespaces", error.errno or 0) from error
    body()


def _enter_groups(host: Host) -> None:
    if host.groups:
        from labctl.kernel.cgroup import enter

        enter(host.groups)


def _init(host: Host, surroundings: Surroundings, writing: int) -> None:
    try:
        os.umask(0o022)  # what it makes is for all users of the lab; programs have the owner's umask
        processes.default_signals()
        processes.die_with_parent()
        _enter_groups(host)
        _build(host, surroundings)
    except (LabError, MachineError) as error:
        report_failure(writing, error)
        raise
    except OSError as error:
        report_failure(writing, LabError(f"{host.subject}: {describe_errno(error.errno or 0)} ({error})"))
        raise
    syscalls.set_process_name("labctl-init")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans are reaped by the kernel
    null = os.open("/dev/null", os.O_RDWR)
    for standard in range(processes.FIRST_FREE_DESCRIPTOR):
        os.dup2(null, standard)
    os.write(writing, b"%s %d" % (READY, processes.own_pid(surroundings.machine_proc)))
    processes.keep_only(0, 1, 2)
    while True:
        signal.pause()


def _limit_hint(error: OSError) -> str:
    if error.errno != errno.ENOSPC:
        return ""
    return "A limit on namespaces is reached: see `sysctl -a --pattern 'user.max_(pid|mnt|uts|ipc)_namespaces'`."


def _build(host: Host, surroundings: Surroundings) -> None:
    try:
        syscalls.setns(host.network, syscalls.CLONE_NEWNET)
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
        syscalls.sethostname(os.fsencode(host.name)[: syscalls.HOSTNAME_BYTES].decode(errors="ignore"))
    except OSError as error:
        raise KernelError(host.subject, "make its namespaces", error.errno or 0, hint=_limit_hint(error)) from error
    mounts.make_root(surroundings.view, host.subject, in_lab=True, read_only=(SHARED_DIRECTORY,))
    run_directories.make(surroundings.run_directories.get())
    tree = host.node.tree
    resolvers = RESOLVERS if surroundings.resolvers is None else surroundings.resolvers
    if not tree.places(RESOLV_CONF) and not mounts.is_replaceable(RESOLV_CONF):
        tree = replace(tree, files=(*tree.files, PlacedFile(RESOLV_CONF, resolvers)))
    if tree:
        own_places = [place for place, _ in surroundings.view.places]
        furnish(tree, own_places, STORE, host.subject, rootless=surroundings.rootless)
    if not tree.places(HOSTS):
        lines = "".join(f"{address}\t{name}\n" for address, name in (*LOCAL_NAMES, *host.node.names))
        if not mounts.replace_file(HOSTS, lines, STORE, host.subject):
            raise LabError(
                f"{host.subject}: cannot give it names: this machine has no /etc/hosts. Try: touch /etc/hosts"
            )
    if not tree.places(RESOLV_CONF):
        mounts.replace_file(RESOLV_CONF, resolvers, STORE, host.subject)
