"""Boot: the first process of a lab, a fresh interpreter that the owner starts (docs/decisions/0001).

It waits for the owner's `Open`, enters the lab's namespaces, forks the keeper, and from then on only watches: when the
owner is gone it ends the keeper, when the keeper is gone it reaps it and ends. Until `Open` comes it has made nothing.

A lab that stays has a boot without a terminal and without a parent of ours; the owner is watched until the keeper says
that the lab stays, and boot takes away what the lab was known by (`Place`) when the keeper has ended.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

from labctl.errors import KernelError, LabctlError, LabGone
from labctl.kernel import processes, syscalls
from labctl.kernel.privilege import enter_lab_namespaces
from labctl.lab.client.boot_process import DIES_WITH_OWNER, STAYS
from labctl.lab.client.lab_connection import start_time
from labctl.lab.client.state_dir import Place
from labctl.lab.keeper.keeper import Staying, keep
from labctl.lab.protocol import Channel, Failed, Open

if TYPE_CHECKING:
    from labctl.lab.keeper.external import Outside


CHANNEL = 3  # descriptors that the owner hands over
LIVENESS = 4  # reads as ended when the owner is gone


def main() -> None:
    """What the fresh interpreter runs; ends the process."""
    if sys.argv[2] == DIES_WITH_OWNER:
        processes.die_with_parent()  # even when it has been stopped
    processes.ignore(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
    processes.keep_only(0, 1, 2, CHANNEL, LIVENESS)
    syscalls.set_process_name("labctl-boot")
    for descriptor in (CHANNEL, LIVENESS):
        os.set_inheritable(descriptor, False)
    owner = os.pidfd_open(os.getppid())
    refused: OSError | None = None
    if sys.argv[2] == STAYS:
        try:
            _leave_parent()
        except OSError as error:  # EAGAIN, too many processes: told when there is somebody to tell
            refused = error
    channel = Channel(socket.socket(fileno=CHANNEL), Open)
    _preload(channel)
    with contextlib.suppress(LabGone):
        frame = channel.receive(until=None)
        if frame is not None and isinstance(frame.message, Open):
            ports = len(frame.message.exposed)
            place, listener = _place_of(frame.message, frame.descriptors[ports:])
            try:
                if refused is not None:
                    raise refused
                if place is not None:
                    place.record_boot(os.getpid(), start_time(os.getpid()))
                outside = _outside_of(frame.message, frame.descriptors[:ports])
                try:
                    _watch(owner, channel, frame.message, frame.number, place, listener, outside)
                finally:
                    if outside is not None:
                        outside.undo()
            except LabctlError as error:
                channel.send(frame.number, Failed.of(error), until=None)
            except OSError as error:
                number = error.errno or 0
                hint = processes.remedy(number)
                failure = KernelError(f"lab {frame.message.lab}", "start its keeper", number, hint=hint)
                channel.send(frame.number, Failed.of(failure), until=None)
            finally:
                if place is not None:
                    place.clear(keep_last_words=True)
    os._exit(0)


def _leave_parent() -> None:
    """Go on as a process that is nobody's to wait for, in a session without a terminal."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")


def _place_of(request: Open, descriptors: tuple[int, ...]) -> tuple[Place | None, int]:
    """Where a lab that stays has its directory, and the socket that it listens on; None and -1 for any other."""
    if not request.stays:
        return None, -1
    listener, *others = descriptors
    return Place.received(request.lab, tuple(others)), listener


def _preload(channel: Channel) -> None:
    """Import while the owner still reads its files what the keeper needs in any case, and what it likely needs."""
    from labctl.kernel import rtnl

    rtnl.load_message_classes()
    waiting = select.poll()
    waiting.register(channel.fileno(), select.POLLIN)
    if not waiting.poll(0):
        from labctl.lab.agent import server

        assert server
    gc.collect()
    gc.freeze()  # a forked child's collections then leave these pages shared


def _outside_of(request: Open, ports: tuple[int, ...]) -> Outside | None:
    """What the lab needs of the machine, prepared while this process is still in the machine's namespaces."""
    if not request.has_outside:
        return None
    from labctl.lab.keeper.external import prepare

    return prepare(request, ports)


def _watch(
    owner: int,
    channel: Channel,
    request: Open,
    number: int,
    place: Place | None,
    listener: int,
    outside: Outside | None,
) -> None:
    pids = os.readlink("/proc/self/ns/pid")
    rootless = enter_lab_namespaces(with_users=True)
    boot_reading, boot_writing = os.pipe2(os.O_CLOEXEC)
    stay_reading, stay_writing = os.pipe2(os.O_CLOEXEC)

    def keeper() -> None:
        for descriptor in (boot_writing, stay_reading, LIVENESS, owner):
            os.close(descriptor)
        staying = Staying(place, listener, stay_writing, pids) if place else None
        keep(channel, request, number, boot_reading, rootless, staying, outside)

    pid = processes.fork(keeper)
    pidfd = os.pidfd_open(pid)
    if place is not None:
        place.keeper_pid = pid
    if outside is not None:
        outside.leave_to_keeper()
    channel.close()  # the keeper's alone: that it ends is to be seen by the owner
    for descriptor in (boot_reading, stay_writing, *([listener] if place else [])):
        os.close(descriptor)
    poller = select.poll()
    poller.register(LIVENESS, 0)  # POLLHUP: the owner closed it, or ended
    poller.register(owner, select.POLLIN)  # ended, though a process that it forked may hold the other open
    poller.register(pidfd, select.POLLIN)
    poller.register(stay_reading, select.POLLIN)
    guard = outside.guard_fd if outside is not None else -1
    if guard != -1:
        poller.register(guard, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if pidfd in ready:
            break
        if outside is not None and guard in ready:
            poller.unregister(guard)
            outside.guard_again()
            guard = outside.guard_fd
            if guard != -1:
                poller.register(guard, select.POLLIN)
            continue
        if stay_reading in ready:  # before the owner is looked at: it may go as soon as it is told that the lab stays
            poller.unregister(stay_reading)
            if os.read(stay_reading, 1):
                poller.unregister(LIVENESS)
                poller.unregister(owner)
            continue
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        break
    os.waitpid(pid, 0)
