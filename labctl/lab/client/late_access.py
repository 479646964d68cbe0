"""Access to the machine that a running lab needs more, as labctl up prepares it and gives it to the keeper."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from labctl.clock import monotonic
from labctl.errors import LabGone, MachineError
from labctl.lab.client.boot_process import Boot, open_ports
from labctl.lab.client.lab_client import portable_pairs
from labctl.lab.frames import close_all
from labctl.lab.protocol import LATE_ACCESS, AccessPrepared, Channel, Failed, PrepareAccess
from labctl.structs import replace

if TYPE_CHECKING:
    from labctl.lab.protocol import Reconcile
    from labctl.plan.operations import Plan
    from labctl.topology.model import Limits

TIMEOUT_S = 30.0


def with_access(
    request: Reconcile, lab: str, before: Plan, after: Plan, stack: ExitStack
) -> tuple[Reconcile, tuple[int, ...]]:
    """Return the request with the access that the lab has not yet, and its descriptors, which `stack` closes.

    MachineError, InputError; nothing has changed then.
    """
    old = {node.name: node for node in before.nodes}
    known = {exposure.outer_end for node in before.nodes for exposure in node.exposures}
    exposed, descriptors = open_ports(after.nodes, stack, known)
    request = replace(request, exposed=exposed)
    routers = tuple(node.name for node in after.nodes if node.nat and not (node.name in old and old[node.name].nat))
    present, needed = ({each for node in plan.nodes for each in _limited(node.limits)} for plan in (before, after))
    if not routers and needed <= present:
        return request, descriptors
    controllers = needed if needed - present else ()
    process = Boot.start(LATE_ACCESS)
    stack.callback(process.forget)
    channel = Channel(process.channel)
    try:
        message = PrepareAccess(
            lab, request.plan, portable_pairs(os.environ.items()), routers, tuple(sorted(controllers))
        )
        channel.send(1, message, until=monotonic() + TIMEOUT_S)
        frame = channel.receive(until=monotonic() + TIMEOUT_S)
    except LabGone:
        frame = None
    if frame is None:
        words = process.last_words() or "its process ended."
        raise MachineError(f"lab {lab}: cannot prepare access to the machine: {words}")
    if isinstance(frame.message, Failed):
        raise frame.message.error()
    assert isinstance(frame.message, AccessPrepared)
    stack.callback(close_all, frame.descriptors)
    return replace(request, access=frame.message.access), (*descriptors, *frame.descriptors)


def _limited(limits: Limits | None) -> set[str]:
    """Return the controllers that the limits need (`labctl.kernel.cgroup.Controller`)."""
    if limits is None:
        return set()
    values = {"pids": limits.pids, "memory": limits.memory_bytes, "cpu": limits.cpu}
    return {controller for controller, value in values.items() if value is not None}
