"""Access to the machine for a lab that runs already: `nat: true` and `limits` that `labctl up` adds.

A process for it, which the nursery of labctl up forks, does what boot does for a new lab (`external.py`): it writes the
journal, starts a guard, changes the machine, and undoes that when the lab has ended. It sees the end on a pipe whose
writing end goes to the keeper: if labctl up fails before, the pipe ends with labctl up, and everything is undone.
"""

from __future__ import annotations

import contextlib
import os
import socket

from labctl.errors import LabctlError, LabGone
from labctl.kernel import processes, syscalls
from labctl.kernel.cgroup import Controller
from labctl.lab.keeper.boot import leave_parent
from labctl.lab.keeper.external import ExternalAccess, prepare_late
from labctl.lab.protocol import AccessPrepared, Channel, Failed, PrepareAccess, PreparedAccess


def run(channel: socket.socket, liveness: int, owner: int) -> None:
    """Prepare the access, give it to the owner, and undo it when the lab has ended; ends the process.

    Args:
        channel: to the owner, labctl up.
        liveness: not used.
        owner: not used.
    """
    syscalls.set_process_name("labctl-access")
    leave_parent()
    for descriptor in (liveness, owner):
        os.close(descriptor)
    requests = Channel(channel, PrepareAccess)
    with contextlib.suppress(LabGone):
        frame = requests.receive(until=None)
        if frame is not None and isinstance(frame.message, PrepareAccess):
            processes.set_environment(dict(frame.message.environment))  # the nursery's is that of the owner's first lab
            _serve(frame.message, frame.number, requests)
    os._exit(0)


def _serve(request: PrepareAccess, number: int, channel: Channel) -> None:
    try:
        controllers = {Controller(each) for each in request.controllers}
        access = prepare_late(request.lab, request.plan, request.routers, controllers)
    except LabctlError as error:
        channel.send(number, Failed.of(error), until=None)
        return
    try:
        channel.send(number, AccessPrepared(prepared(access)), access.late_descriptors, until=None)
    finally:
        channel.close()
        access.close_in_boot()
        os.read(access.alive[0], 1)  # until the keeper has ended, or labctl up has given up
        access.undo()


def prepared(access: ExternalAccess) -> PreparedAccess:
    """Return the access as the keeper receives it."""
    outlets = access.nat.outlets if access.nat is not None else ()
    return PreparedAccess(
        tuple((one.router, one.ifname, str(one.network), str(one.network6 or "")) for one in outlets),
        access.nat.mtu if access.nat is not None else 0,
        tuple(
            (parent.path, parent.version, tuple(each.value for each in parent.controllers), base)
            for parent, base in access.groups
        ),
        access.resolv_conf,
    )
