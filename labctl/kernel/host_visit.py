"""A thread's visit to a host: its network namespace, its hostname, and a view of the files with the host's names.

The view is a mount namespace with this process's files, the host's /etc/hosts and /etc/resolv.conf mounted over, and
/sys with the host's devices, as `ip netns exec` makes it (ip-netns(8)). A thread of its own creates it and ends: a
thread that has entered a mount namespace no longer shares its working directory with the others (CLONE_FS).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import TypeVar

from labctl.errors import KernelError, LabError
from labctl.kernel import mounts, syscalls
from labctl.structs import Struct

_REFUSED = (errno.EPERM, errno.EACCES)
_HOSTS = "/etc/hosts"

T = TypeVar("T")


class HostNamespaces(Struct, frozen=True):
    """Descriptors of a network namespace, a UTS namespace and a mount namespace; the creator owns them."""

    network: int
    hostname: int | None  # the UTS namespace; None if threads could not return from one
    view: int  # the mount namespace
    root: int  # the process's root directory in the view, which chroot(2) may have changed

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in (self.network, self.hostname, self.view, self.root):
            if descriptor is not None:
                os.close(descriptor)


def open_host(network: int, hostname: str, files: Mapping[str, str], subject: str) -> HostNamespaces | None:
    """Create the namespaces for visits to a host; this takes over `network`, and `files` has contents by path.

    None if threads of this process cannot enter and leave: setns(2) requires CAP_SYS_ADMIN in the user namespaces that
    own both network namespaces. KernelError for any other refusal.
    """
    with ExitStack() as undo:
        undo.callback(os.close, network)
        try:
            with ExitStack() as opened:
                home = _open("net", opened)
                host = _run_in_thread(lambda: _create(network, home, hostname, files))
        except OSError as error:
            if error.errno in _REFUSED:
                return None
            raise KernelError(subject, "be entered by a thread", error.errno or 0) from error
        undo.pop_all()
        return host


class ThreadOrigin(Struct, frozen=True):
    """The namespaces that a thread came from, which this owns, and its working directory there."""

    namespaces: HostNamespaces
    cwd: str


def enter(host: HostNamespaces) -> ThreadOrigin:
    """Move the calling thread to the host; `leave` takes it back. OSError, and the thread has not moved."""
    with ExitStack() as undo:
        network = _open("net", undo)
        hostname = _open("uts", undo) if host.hostname is not None else None
        view = _open("mnt", undo)
        root = _open_root(undo)
        origin = ThreadOrigin(HostNamespaces(network, hostname, view, root), os.getcwd())
        syscalls.unshare(syscalls.CLONE_FS)  # setns(2) refuses a thread that shares its working directory
        syscalls.setns(host.network, syscalls.CLONE_NEWNET)
        undo.callback(syscalls.setns, network, syscalls.CLONE_NEWNET)
        if host.hostname is not None and hostname is not None:
            syscalls.setns(host.hostname, syscalls.CLONE_NEWUTS)
            undo.callback(syscalls.setns, hostname, syscalls.CLONE_NEWUTS)
        syscalls.setns(host.view, syscalls.CLONE_NEWNS)
        undo.callback(syscalls.setns, view, syscalls.CLONE_NEWNS)
        _change_directory(host.root, origin.cwd)
        undo.pop_all()
    return origin


def leave(origin: ThreadOrigin) -> None:
    """Move the calling thread back, to the working directory that it has now, if that exists there."""
    cwd = origin.cwd
    with suppress(OSError):  # the directory was removed
        cwd = os.getcwd()
    home = origin.namespaces
    try:
        syscalls.unshare(syscalls.CLONE_FS)  # a thread that was started on the host shares its directory with this one
        syscalls.setns(home.view, syscalls.CLONE_NEWNS)
        if home.hostname is not None:
            syscalls.setns(home.hostname, syscalls.CLONE_NEWUTS)
        syscalls.setns(home.network, syscalls.CLONE_NEWNET)
        _change_directory(home.root, cwd)
    finally:
        home.close()


def _open(kind: str, stack: ExitStack) -> int:
    """Open a namespace of the calling thread; `stack` closes it."""
    descriptor = os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _open_root(stack: ExitStack) -> int:
    """Open the calling thread's root directory; `stack` closes it."""
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _run_in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own; return or raise what it does."""
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            raised.append(error)

    thread = threading.Thread(target=run, name="labctl-visit")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return returned[0]


def _change_directory(root: int, directory: str) -> None:
    """Restore root and working directory after setns(2), which sets both to the root of the mount namespace."""
    if not os.path.samestat(os.fstat(root), os.stat("/")):
        os.fchdir(root)
        os.chroot(".")
    try:
        os.chdir(directory)
    except OSError:  # it does not exist here
        os.chdir("/")


def _create(network: int, home: int, hostname: str, files: Mapping[str, str]) -> HostNamespaces:
    """Create the mount and UTS namespaces; the calling thread must end afterwards."""
    syscalls.setns(network, syscalls.CLONE_NEWNET)
    syscalls.setns(home, syscalls.CLONE_NEWNET)  # tests whether a thread can return
    syscalls.setns(network, syscalls.CLONE_NEWNET)
    with ExitStack() as opened, ExitStack() as undo:
        own = _open("mnt", opened)
        name = _create_hostname(hostname)
        if name is not None:
            undo.callback(os.close, name)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        mounts.follow_machine()
        if _HOSTS in mounts.mount_files(files):
            raise LabError("thread on a host: cannot have the host's names: no /etc/hosts. Try: sudo touch /etc/hosts")
        mounts.mount_sys()
        view = _open("mnt", undo)
        root = _open_root(undo)
        syscalls.setns(own, syscalls.CLONE_NEWNS)
        undo.pop_all()
    return HostNamespaces(network, name, view, root)


def _create_hostname(hostname: str) -> int | None:
    """Return a descriptor of a new UTS namespace with that name; None if a thread could not return from it."""
    with ExitStack() as opened, ExitStack() as undo:
        own = _open("uts", opened)
        syscalls.unshare(syscalls.CLONE_NEWUTS)
        syscalls.sethostname(os.fsencode(hostname)[: syscalls.HOSTNAME_BYTES].decode(errors="ignore"))
        created = _open("uts", undo)
        try:
            syscalls.setns(own, syscalls.CLONE_NEWUTS)
        except PermissionError:  # in a user namespace that another process created, `own` is the machine's
            return None
        undo.pop_all()
    return created
