"""The nursery: a preloaded process that forks a boot for each lab of its owner (docs/decisions/0016).

It is single-threaded, so it may fork, and makes nothing itself. It ends with its owner; when the owner has hung up, as
soon as its last boot has ended; and some time after the owner's last lab.
"""

from __future__ import annotations

import codecs
import errno
import gc
import os
import select
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from functools import cache
from importlib import import_module
from ipaddress import ip_interface
from typing import Self

from labctl.kernel import processes, rtnl, syscalls
from labctl.lab import protocol
from labctl.lab.keeper import boot
from labctl.lab.keeper.file_tree import owned_run_directories
from labctl.lab.protocol import (
    BOOT_REPLY,
    BOOT_REQUEST_DESCRIPTORS,
    DIES_WITH_OWNER,
    LATE_ACCESS,
    RECORDER,
    STAYS,
    Open,
)
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
from labctl.structs import Struct
from labctl.topology.model import Node, NodeKind

CONTROL = 3  # descriptors from the owner: the socket for requests
OWNER = 4  # a pidfd of the owner
IDLE_S = 3.0  # after the last lab, the time that the next one may take to come


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
        BootForker(control).serve()
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
    codecs.lookup("ascii")  # of files in /proc
    gc.enable()  # disabled during the imports, which leave so little garbage that searching for it does not pay
    gc.freeze()  # collections in forked children then leave these pages shared


@cache
def _prepare_programs() -> None:
    """Do the same for the first program on a host, which most labs run; only the first call does so."""
    from labctl.lab.agent import messages, server

    assert server
    import_module(f"labctl.{RECORDER}")
    messages.decode(messages.encode(messages.SystemCall(""))[messages.LENGTH_BYTES :], messages.SystemCall)
    owned_run_directories()
    gc.freeze()


class WaitingBoot(Struct, frozen=True):
    """A boot that waits for its lab."""

    pid: int
    pidfd: int
    requests: socket.socket  # to it

    @classmethod
    def fork(cls) -> Self:
        """Fork one. OSError."""
        nursery = os.getpid()
        requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as stack:
            stack.callback(requests.close)
            pid = processes.fork(lambda: _wait_for_lab(nursery, theirs))
            waiting = cls(pid, os.pidfd_open(pid), requests)
            stack.pop_all()
        return waiting


def _wait_for_lab(nursery: int, requests: socket.socket) -> None:
    """Be a boot, first without a lab."""
    processes.die_with_parent()  # a boot of a lab that stays forks once more, which ends this
    if os.getppid() != nursery:
        return  # it ended before the line above took effect
    processes.keep_only(0, 1, 2, OWNER, requests.fileno())
    kind, descriptors, _, _ = socket.recv_fds(requests, 64, BOOT_REQUEST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if len(descriptors) == BOOT_REQUEST_DESCRIPTORS:
        channel, liveness, errors = descriptors
        os.dup2(errors, 2)
        os.close(errors)
        requests.close()
        connection = socket.socket(fileno=channel)
        if kind.decode() in (RECORDER, LATE_ACCESS):
            import_module(f"labctl.{kind.decode()}").run(connection, liveness, OWNER)
        else:
            boot.run(connection, liveness, OWNER, stays=kind.decode() == STAYS)


class BootForker:
    """Forks boots for the requests on the control socket. From the second lab on, one boot waits for the next lab."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poller = select.poll()
        self._boots: set[int] = set()  # pidfds of those with a lab
        self._waiting: WaitingBoot | None = None
        self._labs = 0

    def serve(self) -> None:
        """Answer requests until the owner ends; without a lab, also until it has hung up or `IDLE_S` is over."""
        self._poller.register(self._control, select.POLLIN)
        if not self._poller.poll(0):  # else the lab that the owner waits for comes first
            _prepare_programs()
        self._poller.register(OWNER, select.POLLIN)
        while self._control.fileno() != -1 or self._boots:
            is_idle = self._labs > 0 and not self._boots
            events = self._poller.poll(IDLE_S * 1000 if is_idle else None)
            if not events:
                return  # the owner's next lab starts another nursery
            for descriptor, _ in events:
                if descriptor == OWNER:
                    return  # and every boot with this process
                if descriptor in self._boots:
                    os.waitid(os.P_PIDFD, descriptor, os.WEXITED)
                    self._poller.unregister(descriptor)
                    self._boots.remove(descriptor)
                    os.close(descriptor)
                else:
                    self._receive()

    def _receive(self) -> None:
        """Receive a request and answer it."""
        kind, descriptors = b"", list[int]()
        with suppress(ConnectionResetError):  # the owner hung up before it received an answer
            kind, descriptors, _, _ = socket.recv_fds(
                self._control, 64, BOOT_REQUEST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        if not kind:
            self._poller.unregister(self._control)
            self._control.close()
            return
        try:
            if len(descriptors) != BOOT_REQUEST_DESCRIPTORS:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._answer(kind, descriptors)
        except BrokenPipeError:
            pass  # the owner has hung up since its request; the boot, if there is one, reads EOF
        except OSError as error:
            with suppress(BrokenPipeError):
                self._control.send(BOOT_REPLY.pack(error.errno or errno.EIO, 0))
        else:
            self._labs += 1
            if self._labs > 1:
                self._prepare_next()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _prepare_next(self) -> None:
        """Prepare the next lab of an owner that makes many."""
        _prepare_programs()
        if self._waiting is None:
            with suppress(OSError):  # the next request tries again
                self._waiting = WaitingBoot.fork()

    def _answer(self, kind: bytes, descriptors: list[int]) -> None:
        """Give a boot its lab, and the owner the boot's pidfd. OSError."""
        waiting, self._waiting = self._waiting, None
        if waiting is None or not self._is_given(waiting, kind, descriptors):
            waiting = WaitingBoot.fork()
            self._is_given(waiting, kind, descriptors)  # if it is killed here, the pidfd shows that to the owner
        socket.send_fds(self._control, [BOOT_REPLY.pack(0, waiting.pid)], [waiting.pidfd])

    def _is_given(self, waiting: WaitingBoot, kind: bytes, descriptors: list[int]) -> bool:
        """Give the boot its lab; whether it has not been killed while it waited."""
        self._boots.add(waiting.pidfd)
        self._poller.register(waiting.pidfd, select.POLLIN)
        with waiting.requests as requests, suppress(BrokenPipeError):
            socket.send_fds(requests, [kind], descriptors)
            return True
        return False
