"""Boot: the first process of a lab, which the owner's nursery forks (docs/decisions/0001, 0016).

It waits for the owner's `Open`, enters the lab's namespaces and forks the keeper. From then on it only watches: when
the owner ends, it ends the keeper; when the keeper ends, it reaps it and ends itself. Before `Open` it makes nothing.

The boot of a registered lab is in a session of its own, adopted by the machine's init. It watches the owner until the
keeper reports that the lab outlives it, and it removes the lab's state directory and names when the keeper has ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from typing import TYPE_CHECKING

from labctl.errors import KernelError, LabctlError, LabGone
from labctl.kernel import processes, syscalls
from labctl.kernel.privilege import enter_lab_namespaces
from labctl.lab.client.lab_directory import LabDirectory
from labctl.lab.keeper.keeper import Registration, keep
from labctl.lab.protocol import Channel, Failed, Open

if TYPE_CHECKING:
    from labctl.lab.keeper.external import ExternalAccess


def run(channel: socket.socket, liveness: int, owner: int, *, stays: bool) -> None:
    """Be boot in the calling process, which the nursery has forked for it; ends the process.

    Args:
        channel: to the owner.
        liveness: a pipe that is hung up when the owner ends, or ends the lab.
        owner: a pidfd of the owner.
        stays: the lab may outlive its owner.
    """
    syscalls.set_process_name("labctl-boot")
    # Its own process group in the same session: Ctrl-C of the terminal does not reach it, but the kernel still
    # continues it, if it is stopped, when the nursery ends (an orphaned process group; setpgid(2)).
    os.setpgid(0, 0)
    refused: OSError | None = None
    if stays:
        try:
            leave_parent()
        except OSError as error:  # EAGAIN, too many processes; reported in reply to `Open`
            refused = error
    requests = Channel(channel, Open)
    with contextlib.suppress(LabGone):
        frame = requests.receive(until=None)
        if frame is not None and isinstance(frame.message, Open):
            _run(frame.message, frame.number, frame.descriptors, requests, liveness, owner, refused)
    os._exit(0)


def leave_parent() -> None:
    """Continue as an orphan in a session without a terminal."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


def _run(
    request: Open,
    number: int,
    descriptors: tuple[int, ...],
    channel: Channel,
    liveness: int,
    owner: int,
    refused: OSError | None,
) -> None:
    """Make the lab and watch it to its end; report errors on the channel. `refused` is an error from before."""
    ports, others = descriptors[: len(request.exposed)], descriptors[len(request.exposed) :]
    directory, listener = None, -1
    if request.is_registered:
        listener, *directories = others
        directory = LabDirectory.received(request.lab, tuple(directories))
    try:
        if refused is not None:
            raise refused
        processes.set_environment(dict(request.environment))  # the nursery's is that of the owner's first lab
        if directory is not None:
            directory.record_boot(os.getpid(), processes.start_time(os.getpid()))
        external = None
        if request.has_outside:
            from labctl.lab.keeper.external import prepare

            external = prepare(request, ports)
        try:
            _watch(liveness, owner, channel, request, number, directory, listener, external)
        finally:
            if external is not None:
                external.undo()
    except LabctlError as error:
        channel.send(number, Failed.of(error), until=None)
    except OSError as error:
        errno = error.errno or 0
        failure = KernelError(f"lab {request.lab}", "start its keeper", errno, hint=processes.remedy(errno))
        channel.send(number, Failed.of(failure), until=None)
    finally:
        if directory is not None:
            directory.clear(keep_last_words=True)


def _watch(
    liveness: int,
    owner: int,
    channel: Channel,
    request: Open,
    number: int,
    directory: LabDirectory | None,
    listener: int,
    external: ExternalAccess | None,
) -> None:
    """Fork the keeper; return when it has ended, which is at the latest when the owner ends."""
    pid_namespace = os.readlink("/proc/self/ns/pid")
    rootless = enter_lab_namespaces(with_users=True)
    boot_reading, boot_writing = os.pipe2(os.O_CLOEXEC)
    outlives_reading, outlives_writing = os.pipe2(os.O_CLOEXEC)

    def keeper() -> None:
        for descriptor in (boot_writing, outlives_reading, liveness, owner):
            os.close(descriptor)
        registration = Registration(directory, listener, outlives_writing, pid_namespace) if directory else None
        keep(channel, request, number, boot_reading, rootless, registration, external)

    pid = processes.fork(keeper)
    pidfd = os.pidfd_open(pid)
    if directory is not None:
        directory.keeper_pid = pid
    if external is not None:
        external.close_in_boot()
    channel.close()  # the keeper alone has it, so that the owner sees the keeper's end
    for descriptor in (boot_reading, outlives_writing, *([listener] if directory else [])):
        os.close(descriptor)
    poller = select.poll()
    poller.register(liveness, 0)  # POLLHUP: the owner closed it, or ended
    poller.register(owner, select.POLLIN)  # ended, though a process that it forked may hold the other open
    poller.register(pidfd, select.POLLIN)
    poller.register(outlives_reading, select.POLLIN)
    guard = external.guard_fd if external is not None else -1
    if guard != -1:
        poller.register(guard, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if pidfd in ready:
            break
        if external is not None and guard in ready:
            poller.unregister(guard)
            external.restart_guard()
            guard = external.guard_fd
            if guard != -1:
                poller.register(guard, select.POLLIN)
            continue
        if outlives_reading in ready:  # before the owner, which may end as soon as the lab outlives it
            poller.unregister(outlives_reading)
            if os.read(outlives_reading, 1):
                poller.unregister(liveness)
                poller.unregister(owner)
            continue
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        break
    os.waitpid(pid, 0)
