"""What a keeper reports about its lab: values that commands show."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from labctl.topology.service import Restart

if TYPE_CHECKING:
    from labctl.plan.operations import Plan


__all__ = ["Description", "NodeInfo", "ProcessInfo", "ProcessNews", "ProcessState", "Restart"]


class ProcessState(StrEnum):
    """How a process of a lab is doing."""

    RUNNING = "running"
    WAITING = "waiting"  # it ended, and is going to be started again after a pause
    STOPPING = "stopping"  # it was told to end
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A program on a node. Names are those of detached processes; "" for one that ends with its client."""

    node: str
    name: str
    pid: int  # on its host
    argv: tuple[str, ...]
    started_at: float  # seconds since 1970, the last start
    state: ProcessState
    restarts: int = 0
    returncode: int | None = None  # of the last end, as Popen.returncode
    machine_pid: int = 0  # as the machine sees it (for nsenter); 0 when it is not known
    restart: Restart = Restart.NO
    problem: str = ""  # why it could not be started again

    @property
    def is_detached(self) -> bool:
        """Whether it outlives the client that started it, and has a log."""
        return bool(self.name)


@dataclass(frozen=True, slots=True)
class ProcessNews:
    """How a detached process is doing from some moment on, as its watchers hear it."""

    state: ProcessState
    pid: int  # on its host; 0 when it does not run
    restarts: int
    returncode: int | None
    is_log_complete: bool  # it has ended, and all that it wrote is in its log

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("=BiI?i?")

    @classmethod
    def of(cls, info: ProcessInfo, *, is_log_complete: bool) -> ProcessNews:
        """The news that there are about a process."""
        return cls(info.state, info.pid, info.restarts, info.returncode, is_log_complete)

    def pack(self) -> bytes:
        """For `unpack`, `LAYOUT.size` bytes."""
        state, code = list(ProcessState).index(self.state), self.returncode
        return self.LAYOUT.pack(state, self.pid, self.restarts, code is not None, code or 0, self.is_log_complete)

    @classmethod
    def unpack(cls, data: bytes) -> ProcessNews:
        """The news that `pack` wrote."""
        state, pid, restarts, has_ended, code, is_log_complete = cls.LAYOUT.unpack(data)
        return cls(list(ProcessState)[state], pid, restarts, code if has_ended else None, is_log_complete)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node of a running lab."""

    name: str
    kind: str  # labctl.topology.model.NodeKind's value
    network: str  # /proc/KEEPER/fd/N as the machine sees it: its network namespace (for nsenter --net=)
    init_pid: int = 0  # its process 1 as the machine sees it; 0 before the first program on it


@dataclass(frozen=True, slots=True)
class Description:
    """What a keeper tells of its lab."""

    name: str
    topology: str
    uid: int  # the owner's
    started_at: float  # seconds since 1970
    keeper_pid: int  # as the machine sees it
    rootless: bool  # it lives in a user namespace
    nodes: tuple[NodeInfo, ...]
    processes: tuple[ProcessInfo, ...]
    source: str = ""  # the topology file's text, or what the lab was made of (`star:3`)
    plan_json: Any = field(default=None, repr=False)  # the plan in force, as labctl.plan.codec writes it

    @property
    def plan(self) -> Plan:
        """The plan in force: what the lab was made of, or last reconciled to."""
        from labctl.plan.codec import plan_from_json

        return plan_from_json(self.plan_json)
