"""The nursery: a preloaded process that forks a boot for each lab of its owner (docs/decisions/0016).

It is single-threaded, so it may fork, and makes nothing itself. It ends with its owner; and when the owner has hung up,
as soon as its last boot has ended.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
from ipaddress import ip_interface

from labctl.kernel import capabilities, privilege, processes, rtnl, syscalls
from labctl.lab import protocol
from labctl.lab.keeper import boot
from labctl.lab.keeper.file_tree import owned_run_directories
from labctl.lab.protocol import BOOT_REPLY, BOOT_REQUEST_DESCRIPTORS, DIES_WITH_OWNER, STAYS, Open
from labctl.plan.operations import (
    AddAddress,
    LinkEnd,
    MakeLink,
    MakeNode,
    Operation,
    Plan,
    SetUp,
    plan_from_json,
    plan_to_json,
)
from labctl.topology.model import Node, NodeKind

CONTROL = 3  # descriptors from the owner: the socket for requests
OWNER = 4  # a pidfd of the owner


def main() -> None:
    """Run the nursery in a process that the owner started for it; ends the process."""
    run(dies_with_owner=sys.argv[2] == DIES_WITH_OWNER)


def run(*, dies_with_owner: bool) -> None:
    """Be the nursery; ends the process. `dies_with_owner`: the parent is the owner's main thread."""
    if dies_with_owner:
        processes.die_with_parent()  # also while it is stopped
    processes.ignore(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
    processes.keep_only(0, 1, 2, CONTROL, OWNER)
    syscalls.set_process_name("labctl-nursery")
    os.chdir("/")  # requests hold the owner's directory; this process must not keep another one in use
    for descriptor in (CONTROL, OWNER):
        os.set_inheritable(descriptor, False)
    with socket.socket(fileno=CONTROL) as control:
        _prepare_lab()
        _serve(control)
    os._exit(0)


def _prepare_lab() -> None:
    """Do without effect what every lab does, so that boots find its imports, decoders and message templates."""
    nodes = tuple(Node(name, NodeKind.HOST) for name in ("a", "b"))
    ends = [LinkEnd(node.name, "eth0", "02:00:00:00:00:01", 1500) for node in nodes]
    addresses = [ip_interface(written) for written in ("10.0.0.1/24", "fd00::1/64")]
    operations: tuple[Operation, ...] = (
        *(MakeNode(node.name, node.kind) for node in nodes),
        MakeLink(*ends),
        *(AddAddress("a", "eth0", address) for address in addresses),
        SetUp("a", "eth0"),
    )
    request = Open("pair", plan_to_json(Plan("pair", nodes, operations)), (), "/", ())
    plan_from_json(protocol.decode(protocol.encode(request), Open).plan)
    protocol.decode(protocol.encode(protocol.Hello(1)), protocol.Request)
    first, second = (rtnl.VethEnd(end.ifname, 2, end.mac, end.mtu, 0) for end in ends)
    rtnl.new_veth(first, second)
    for address in addresses:
        rtnl.new_address(2, address)
    capabilities.effective_capabilities()
    privilege.highest("uid")
    gc.collect()
    gc.freeze()  # collections in forked children then leave these pages shared


def _prepare_programs() -> None:
    """Do the same for the first program on a host, which most labs run."""
    from labctl.lab.agent import messages, server

    assert server
    messages.decode(messages.encode(messages.SystemCall(""))[messages.LENGTH_BYTES :], messages.SystemCall)
    owned_run_directories()
    gc.collect()
    gc.freeze()


def _serve(control: socket.socket) -> None:
    poller = select.poll()
    poller.register(control, select.POLLIN)
    if not poller.poll(0):
        _prepare_programs()  # otherwise the lab that the owner waits for comes first
    poller.register(OWNER, select.POLLIN)
    boots: set[int] = set()  # pidfds
    while control.fileno() != -1 or boots:
        for descriptor, _ in poller.poll():
            if descriptor == OWNER:
                return  # and every boot with this process
            if descriptor in boots:
                os.waitid(os.P_PIDFD, descriptor, os.WEXITED)
                poller.unregister(descriptor)
                boots.remove(descriptor)
                os.close(descriptor)
            elif (forked := _answer(control)) is None:
                poller.unregister(control)
                control.close()
            elif forked != -1:
                boots.add(forked)
                poller.register(forked, select.POLLIN)


def _answer(control: socket.socket) -> int | None:
    """Fork a boot as the owner requests; return its pidfd, -1 if that fails, None when the owner has hung up."""
    kind, descriptors, _, _ = socket.recv_fds(control, 64, BOOT_REQUEST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not kind:
        return None
    nursery = os.getpid()
    try:
        if len(descriptors) != BOOT_REQUEST_DESCRIPTORS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pid = processes.fork(lambda: _boot(nursery, descriptors, stays=kind.decode() == STAYS))
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        control.send(BOOT_REPLY.pack(error.errno or errno.EIO, 0))
        return -1
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    socket.send_fds(control, [BOOT_REPLY.pack(0, pid)], [pidfd])
    return pidfd


def _boot(nursery: int, descriptors: list[int], *, stays: bool) -> None:
    if not stays:
        processes.die_with_parent()
        if os.getppid() != nursery:
            return  # it ended before the line above took effect
    channel, liveness, errors = descriptors
    os.dup2(errors, 2)
    processes.keep_only(0, 1, 2, OWNER, channel, liveness)
    boot.run(socket.socket(fileno=channel), liveness, OWNER, stays=stays)
