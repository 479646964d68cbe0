"""Boot: the first process of a lab, a fresh interpreter that the owner starts (docs/decisions/0001).

It waits for the owner's `Open`, enters the lab's namespaces, forks the keeper, and from then on only watches: when the
owner is gone it ends the keeper, when the keeper is gone it reaps it and ends. Until `Open` comes it has made nothing.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys

from labctl.errors import KernelError, LabError, LabGone, MachineError
from labctl.kernel import processes, syscalls
from labctl.kernel.privilege import enter_lab_namespaces
from labctl.lab.keeper import keep
from labctl.lab.protocol import Channel, Failed, Open
from labctl.lab.starting import DIES_WITH_OWNER

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
    channel = Channel(socket.socket(fileno=CHANNEL))
    _preload(channel)
    with contextlib.suppress(LabGone):
        frame = channel.receive(until=None)
        if frame is not None and isinstance(frame.message, Open):
            try:
                _watch(owner, channel, frame.message, frame.number)
            except (LabError, MachineError) as error:
                channel.send(frame.number, Failed.of(error), until=None)
            except OSError as error:
                number = error.errno or 0
                hint = processes.remedy(number)
                failure = KernelError(f"lab {frame.message.lab}", "start its keeper", number, hint=hint)
                channel.send(frame.number, Failed.of(failure), until=None)
    os._exit(0)


def _preload(channel: Channel) -> None:
    """Import while the owner still reads its files what the keeper needs in any case, and what it likely needs."""
    from labctl.kernel import messages

    messages.link_message()
    messages.address_message()
    messages.route_message()
    waiting = select.poll()
    waiting.register(channel.fileno(), select.POLLIN)
    if not waiting.poll(0):
        from labctl.lab import caller

        caller.preload()
    gc.collect()
    gc.freeze()  # a forked child's collections then leave these pages shared


def _watch(owner: int, channel: Channel, request: Open, number: int) -> None:
    enter_lab_namespaces()
    boot_reading, boot_writing = os.pipe2(os.O_CLOEXEC)

    def keeper() -> None:
        os.close(boot_writing)
        os.close(LIVENESS)
        os.close(owner)
        keep(channel, request, number, boot_reading)

    pid = processes.fork(keeper)
    pidfd = os.pidfd_open(pid)
    channel.close()  # the keeper's alone: that it ends is to be seen by the owner
    os.close(boot_reading)
    poller = select.poll()
    poller.register(LIVENESS, 0)  # POLLHUP: the owner closed it, or ended
    poller.register(owner, select.POLLIN)  # ended, though a process that it forked may hold the other open
    poller.register(pidfd, select.POLLIN)
    if pidfd not in {descriptor for descriptor, _ in poller.poll()}:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitpid(pid, 0)
