"""Hosts: the mount, UTS, IPC and PID namespaces of a node, made with its first program, and its init.

The keeper, which is single-threaded, does all of this with children that it forks. The init is process 1 of the node's
PID namespace; when it ends, the kernel ends every process of the node.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from labctl.errors import KernelError, LabctlError, LabError, MachineError, describe_errno, kernel_errors
from labctl.kernel import mounts, processes, syscalls
from labctl.lab.keeper.file_tree import build_tree, make_run_directories, owned_run_directories
from labctl.lab.protocol import Failed, Pairs, decode, encode
from labctl.plan.hosts_files import HostsFiles, Line
from labctl.structs import Struct, replace
from labctl.topology.model import HOSTS, NO_NAME_SERVER, RESOLV_CONF, Node, PlacedFile

SHARED_DIRECTORY = "/run/lab"
SHARED_PROGRAMS = f"{SHARED_DIRECTORY}/bin"
STORE = "/run/host-files"
INSIDE = syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
START_TIMEOUT_S = 20.0  # for a child's steps before it is the program; milliseconds, unless the machine is swamped
READY = b"ready"
_LIMITS = {
    errno.ENOSPC: "A limit on namespaces is reached: see `sysctl -a --pattern 'user.max_(pid|mnt|uts|ipc)_namespaces'`."
}
# Variables that are dropped where hosts do not see the directory that they name.
_DIRECTORY_VARIABLES = ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR")


class LabContext(Struct):
    """The settings that all hosts of a lab share."""

    lab: str
    view: mounts.View
    environment: dict[str, str]  # the owner's
    cwd: str  # the owner's
    descriptor_limit: tuple[int, int]  # RLIMIT_NOFILE of the owner
    own_pid_namespace: int  # descriptor, the keeper's
    machine_proc: int  # descriptor of the machine's /proc
    rootless: bool  # the lab lives in a user namespace
    highest_uid: int  # programs can run as 0 to this; in a user namespace perhaps as 0 alone
    highest_gid: int
    resolv_conf: str = NO_NAME_SERVER


class Init(Struct, frozen=True):
    """A host's process 1; the keeper owns the pidfd."""

    pid: int
    pidfd: int
    machine_pid: int = 0  # in the machine's PID namespace


class Host(Struct):
    """A node and its init."""

    node: Node
    hosts_files: HostsFiles  # those of the lab
    network: int  # descriptor of its network namespace
    init: Init | None = None  # None until its first program
    exit_code: int | None = None  # of an init that ended from outside
    groups: tuple[int, ...] = ()  # descriptors through which its processes enter its control groups
    hidden_names: frozenset[str] = frozenset()  # in lower case: a fault leaves them out of its /etc/hosts

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines of its /etc/hosts."""
        lines = self.hosts_files.lines(self.name)
        if not self.hidden_names:
            return lines
        return tuple(line for line in lines if self.hidden_names.isdisjoint(line[1].casefold().split()))

    @property
    def subject(self) -> str:
        """Its name in messages: `host server`, `router gw`."""
        return f"{self.node.kind} {self.node.name}"


def start_inits(hosts: Iterable[Host], context: LabContext) -> None:
    """Make the mount, UTS, IPC and PID namespaces and the init of each host that has none, all at the same time.

    Raises: KernelError if the kernel refuses one. The hosts before it have their inits.
    """
    with ExitStack() as stack:
        starting: list[tuple[Host, Init, int]] = []
        refused: LabctlError | OSError | None = None
        for host in hosts:
            if host.init is None and host.exit_code is None:
                try:
                    starting.append((host, *_fork_init(host, context, stack)))
                except (LabctlError, OSError) as error:
                    refused = error  # a limit, which the hosts before it have not reached
                    break
        for host, init, reading in starting:
            report = processes.read_all(reading, START_TIMEOUT_S, host.subject)
            ready, _, machine_pid = report.partition(b" ")
            if ready != READY:
                raise reported_error(report, f"{host.subject}: its init ended before it was ready.")
            host.init = replace(init, machine_pid=int(machine_pid))
        if refused is not None:
            raise refused


def _fork_init(host: Host, context: LabContext, stack: ExitStack) -> tuple[Init, int]:
    """Fork the host's init, and return it with the pipe for its report.

    `stack` closes the pipe; it ends the init unless the host has it by then.
    """
    # Cached here and not in a child, for all hosts, and for those on the same networks.
    owned_run_directories()
    host.hosts_files.lines(host.name)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    stack.callback(os.close, reading)
    try:
        with kernel_errors(host.subject, "make a PID namespace", hint=_LIMITS):
            syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            pid = processes.fork(lambda: _init(host, context, writing))
        finally:
            syscalls.setns(context.own_pid_namespace, syscalls.CLONE_NEWPID)
    finally:
        os.close(writing)
    init = Init(pid, os.pidfd_open(pid))
    stack.callback(_end_unless_ready, host, init)
    return init, reading


def _end_unless_ready(host: Host, init: Init) -> None:
    if host.init is None:
        try:
            signal.pidfd_send_signal(init.pidfd, signal.SIGKILL)
        finally:
            os.close(init.pidfd)
            os.waitpid(init.pid, 0)


def fork_on_host(host: Host, context: LabContext, body: Callable[[], None]) -> int:
    """Fork a process that runs `body` in all namespaces of the host; returns its pid in the keeper's namespace."""
    if host.exit_code is not None:
        raise LabError(
            f"{host.subject}: cannot run anything: its init was ended from outside (status {host.exit_code}), and with "
            f"it every program on it. Open a new lab."
        )
    start_inits([host], context)
    assert host.init is not None
    pidfd = host.init.pidfd
    try:
        syscalls.setns(pidfd, syscalls.CLONE_NEWPID)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise LabError(f"{host.subject}: cannot run anything: its init was ended from outside.") from error
        raise KernelError(host.subject, "enter its PID namespace", error.errno or 0) from error

    def child() -> None:
        with kernel_errors(host.subject, "enter its namespaces"):
            _enter_groups(host)
            syscalls.setns(pidfd, INSIDE)
        body()

    try:
        hints = {errno.ENOMEM: "Its init has ended.", errno.EAGAIN: processes.remedy(errno.EAGAIN)}
        with kernel_errors(host.subject, "start a process", hint=hints):
            return processes.fork_closed(child)
    finally:
        syscalls.setns(context.own_pid_namespace, syscalls.CLONE_NEWPID)


def environment_on(host: Host, context: LabContext, given: Pairs) -> dict[str, str]:
    """Return the environment of a program on the host: the owner's, over it the node's, over it the program's own."""
    environment = {
        name: value
        for name, value in context.environment.items()
        if name not in _DIRECTORY_VARIABLES or not context.view.hides(value)
    }
    environment |= {"LABCTL_NODE": host.name, "LABCTL_LAB": context.lab}
    environment |= dict(host.node.environment)
    environment |= dict(given)
    environment["PATH"] = f"{SHARED_PROGRAMS}:{environment.get('PATH', os.defpath)}"
    return environment


def hosts_file(lines: Iterable[Line]) -> str:
    """Return an /etc/hosts with these lines."""
    return "".join(f"{address}\t{names}\n" for address, names in lines)


def report_error(writing: int, error: LabError | MachineError) -> None:
    """Send the error from a child to the keeper, which decodes it with `reported_error`."""
    os.write(writing, encode(Failed.of(error)))


def reported_error(report: bytes, otherwise: str) -> LabctlError:
    """Return the error in a child's report; LabError(otherwise) when the child reported nothing."""
    return (decode(report, Failed) if report else Failed.of(LabError(otherwise))).error()


def _enter_groups(host: Host) -> None:
    if host.groups:
        from labctl.kernel.cgroup import enter

        enter(host.groups)


def _init(host: Host, context: LabContext, writing: int) -> None:
    try:
        os.umask(0o022)  # its files are for all users of the lab; programs have the owner's umask
        processes.default_signals()
        processes.die_with_parent()
        _enter_groups(host)
        _make_namespaces(host, context)
    except (LabError, MachineError) as error:
        report_error(writing, error)
        raise
    except OSError as error:
        report_error(writing, LabError(f"{host.subject}: {describe_errno(error.errno or 0)} ({error})"))
        raise
    syscalls.set_process_name("labctl-init")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps orphans
    null = os.open("/dev/null", os.O_RDWR)
    for standard in range(processes.FIRST_FREE_DESCRIPTOR):
        os.dup2(null, standard)
    os.write(writing, b"%s %d" % (READY, processes.own_pid(context.machine_proc)))
    processes.keep_only(0, 1, 2)
    while True:
        signal.pause()


def _make_namespaces(host: Host, context: LabContext) -> None:
    with kernel_errors(host.subject, "make its namespaces", hint=_LIMITS):
        syscalls.setns(host.network, syscalls.CLONE_NEWNET)
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
        syscalls.sethostname(os.fsencode(host.name)[: syscalls.HOSTNAME_BYTES].decode(errors="ignore"))
    mounts.make_root(context.view, host.subject, in_lab=True, read_only=(SHARED_DIRECTORY,))
    make_run_directories()
    tree = host.node.tree
    if not tree.places(RESOLV_CONF) and not mounts.is_replaceable(RESOLV_CONF):
        tree = replace(tree, files=(*tree.files, PlacedFile(RESOLV_CONF, context.resolv_conf)))
    if tree:
        private = [place for place, _ in context.view.covered]
        build_tree(tree, private, STORE, host.subject, rootless=context.rootless)
    names = hosts_file(host.lines)
    if not tree.places(HOSTS) and not mounts.replace_file(HOSTS, names, STORE, host.subject):
        raise LabError(f"{host.subject}: cannot give it names: this machine has no /etc/hosts. Try: touch /etc/hosts")
    if not tree.places(RESOLV_CONF):
        mounts.replace_file(RESOLV_CONF, context.resolv_conf, STORE, host.subject)
