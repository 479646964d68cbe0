"""A thread's visit to a host: its network namespace, its hostname, and a view of the files with the host's names.

The view is a mount namespace: this process's own files, with the host's /etc/hosts and /etc/resolv.conf laid over, and
/sys with the host's devices, as `ip netns exec` has it (ip-netns(8)). It is made by a thread of its own that ends then,
for a thread that has once entered a mount namespace has left the others' working directory (CLONE_FS) for good.
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


class Place(Struct, frozen=True):
    """A network namespace, a hostname and a view of the files, as descriptors; the maker owns them."""

    network: int
    hostname: int | None  # a UTS namespace; None where threads could not come back from one
    view: int
    root: int  # the process's root directory in the view: it may have been changed (chroot(2))

    def close(self) -> None:
        """Let go of all."""
        for descriptor in (self.network, self.hostname, self.view, self.root):
            if descriptor is not None:
                os.close(descriptor)


def make_place(network: int, hostname: str, files: Mapping[str, str], subject: str) -> Place | None:
    """The place of the host whose network namespace is open at `network` (taken over), `files` by their path.

    None when the kernel does not let threads of this process go there and come back: setns(2) asks for CAP_SYS_ADMIN
    in the user namespaces that own both. KernelError for anything else.
    """
    with ExitStack() as undo:
        undo.callback(os.close, network)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            view, root, name = _in_a_thread(lambda: _make_view(network, home, hostname, files))
        except OSError as error:
            if error.errno in _REFUSED:
                return None
            raise KernelError(subject, "be entered by a thread", error.errno or 0, detail=str(error)) from error
        finally:
            os.close(home)
        undo.pop_all()
        return Place(network, name, view, root)


class Home(Struct, frozen=True):
    """Where a thread came from; it owns the descriptors."""

    network: int
    hostname: int
    view: int
    root: int
    cwd: str
    is_renamed: bool  # it has left its UTS namespace, too


def enter(place: Place) -> Home:
    """The calling thread is in `place` from here on; `leave` brings it home. OSError, and it has not moved."""
    with ExitStack() as undo:
        network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, network)
        hostname = os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, hostname)
        view = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, view)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, root)
        home = Home(network, hostname, view, root, os.getcwd(), is_renamed=place.hostname is not None)
        syscalls.unshare(syscalls.CLONE_FS)  # setns(2): a thread that shares its working directory may not
        syscalls.setns(place.network, syscalls.CLONE_NEWNET)
        undo.callback(syscalls.setns, network, syscalls.CLONE_NEWNET)
        if place.hostname is not None:
            syscalls.setns(place.hostname, syscalls.CLONE_NEWUTS)
            undo.callback(syscalls.setns, hostname, syscalls.CLONE_NEWUTS)
        syscalls.setns(place.view, syscalls.CLONE_NEWNS)
        undo.callback(syscalls.setns, view, syscalls.CLONE_NEWNS)
        _go(place.root, home.cwd)
        undo.pop_all()
    return home


def leave(home: Home) -> None:
    """The calling thread is where it came from, in the working directory that it has now, if that is there."""
    cwd = home.cwd
    with suppress(OSError):  # it has been deleted
        cwd = os.getcwd()
    try:
        syscalls.unshare(syscalls.CLONE_FS)  # a thread that was started on the host shares it with this one
        syscalls.setns(home.view, syscalls.CLONE_NEWNS)
        if home.is_renamed:
            syscalls.setns(home.hostname, syscalls.CLONE_NEWUTS)
        syscalls.setns(home.network, syscalls.CLONE_NEWNET)
        _go(home.root, cwd)
    finally:
        for descriptor in (home.network, home.hostname, home.view, home.root):
            os.close(descriptor)


def _in_a_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, done by a thread that does nothing else."""
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


def _go(root: int, directory: str) -> None:
    """After setns(2), which leaves the thread at the root of the mount namespace: the process's root and directory."""
    if not os.path.samestat(os.fstat(root), os.stat("/")):
        os.fchdir(root)
        os.chroot(".")
    try:
        os.chdir(directory)
    except OSError:  # it is not there any more
        os.chdir("/")


def _make_hostname(hostname: str) -> int | None:
    """A descriptor of a new UTS namespace with that name; None where a thread cannot go there and come back."""
    with ExitStack() as opened, ExitStack() as undo:
        own = os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, own)
        syscalls.unshare(syscalls.CLONE_NEWUTS)
        syscalls.sethostname(os.fsencode(hostname)[: syscalls.HOSTNAME_BYTES].decode(errors="ignore"))
        made = os.open("/proc/thread-self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, made)
        try:
            syscalls.setns(own, syscalls.CLONE_NEWUTS)
        except PermissionError:  # the machine's, in a user namespace that somebody else has made
            return None
        undo.pop_all()
    return made


def _make_view(network: int, home: int, hostname: str, files: Mapping[str, str]) -> tuple[int, int, int | None]:
    """Descriptors of the mount namespace, of the root in it, and of a UTS namespace, if any.

    The calling thread is of no use afterwards.
    """
    syscalls.setns(network, syscalls.CLONE_NEWNET)
    syscalls.setns(home, syscalls.CLONE_NEWNET)  # there is a way back, too
    syscalls.setns(network, syscalls.CLONE_NEWNET)
    with ExitStack() as opened, ExitStack() as undo:
        own = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, own)
        name = _make_hostname(hostname)
        if name is not None:
            undo.callback(os.close, name)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        mounts.follow_machine()
        if _HOSTS in mounts.lay_over(files):
            raise LabError("a thread on a host cannot be given names: this machine has no /etc/hosts. Try: touch it")
        mounts.mount_sys()
        view = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, view)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, root)
        syscalls.setns(own, syscalls.CLONE_NEWNS)
        undo.pop_all()
    return view, root, name
