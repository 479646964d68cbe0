"""What a keeper reports about its lab: nodes and programs.

These are plain classes, so that `labctl ps`, `start`, `stop` and `logs` need not import msgspec (docs/decisions/0017).
"""

from __future__ import annotations

from enum import StrEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from labctl.plan.operations import Plan


class ProcessState(StrEnum):
    """The life cycle of a program."""

    RUNNING = "running"
    WAITING = "waiting"  # it ended, and will be restarted after a pause
    STOPPING = "stopping"  # it was sent a signal to end it
    ENDED = "ended"


class _Record:
    """A value that is equal to another with the same fields; JSON has it as an object of its fields."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def replaced(self, **changes: Any) -> Self:
        """Return a copy with these fields changed."""
        return type(self)(**{**vars(self), **changes})

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Return the record of a JSON object. TypeError, ValueError, KeyError."""
        return cls(**fields)


class ProcessInfo(_Record):
    """A program on a node. Detached programs have a name; "" for one that ends with its client."""

    def __init__(
        self,
        node: str,
        name: str,
        pid: int,
        argv: tuple[str, ...],
        started_at: float,
        state: ProcessState,
        restarts: int = 0,
        returncode: int | None = None,
        machine_pid: int = 0,
        restart: str = "no",
        problem: str = "",
    ) -> None:
        self.node = node
        self.name = name
        self.pid = pid  # on its host
        self.argv = argv
        self.started_at = started_at  # seconds since 1970, the last start
        self.state = state
        self.restarts = restarts
        self.returncode = returncode  # of the last end, as Popen.returncode
        self.machine_pid = machine_pid  # in the machine's PID namespace (for nsenter); 0 when it is unknown
        self.restart = restart  # labctl.topology.model.Restart's value
        self.problem = problem  # why it could not be restarted

    @property
    def is_detached(self) -> bool:
        """Whether it outlives the client that started it, and has a log."""
        return bool(self.name)

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Return the program of a JSON object. TypeError, ValueError, KeyError."""
        return cls(**{**fields, "argv": tuple(fields["argv"]), "state": ProcessState(fields["state"])})


class NodeInfo(_Record):
    """A node of a running lab."""

    def __init__(self, name: str, kind: str, network: str, init_pid: int = 0) -> None:
        self.name = name
        self.kind = kind  # labctl.topology.model.NodeKind's value
        self.network = network  # path of its network namespace on the machine, /proc/KEEPER/fd/N (for nsenter --net=)
        self.init_pid = init_pid  # its process 1, in the machine's PID namespace; 0 before the first program on it


class FaultInfo(_Record):
    """A fault that is in force in a lab."""

    def __init__(
        self,
        number: int,
        kind: str,
        text: str,
        nodes: tuple[str, ...],
        began_at: float,
        name: str = "",
        duration_s: float | None = None,
        is_owned: bool = False,
    ) -> None:
        self.number = number  # from 1
        self.kind = kind  # labctl.plan.faults.FaultKind's value
        self.text = text  # for people: `partition a b | c`
        self.nodes = nodes
        self.began_at = began_at  # seconds since 1970
        self.name = name
        self.duration_s = duration_s  # it is healed after that; None: not by itself
        self.is_owned = is_owned  # it ends with the client that began it

    def as_data(self) -> dict[str, object]:
        """Return it for the JSON that people get."""
        data = {name: value for name, value in vars(self).items() if name != "is_owned"}
        return {**data, "name": self.name or None, "nodes": list(self.nodes), "ends_with_client": self.is_owned}

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Return the fault of a JSON object. TypeError, KeyError."""
        return cls(**{**fields, "nodes": tuple(fields["nodes"])})


class FaultMoment(_Record):
    """What happened to a fault: it began, was healed, or took its link down or up."""

    def __init__(self, seq: int, number: int, text: str, nodes: tuple[str, ...], at_ns: int, state: str) -> None:
        self.seq = seq  # of this moment, from 1
        self.number = number  # of the fault
        self.text = text
        self.nodes = nodes
        self.at_ns = at_ns  # CLOCK_MONOTONIC
        self.state = state  # `begun`, `healed`; of a flap also `down`, `up`

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Return the moment of a JSON object. TypeError, KeyError."""
        return cls(**{**fields, "nodes": tuple(fields["nodes"])})


class Description(_Record):
    """What a keeper reports about its lab."""

    def __init__(
        self,
        name: str,
        topology: str,
        uid: int,
        started_at: float,
        keeper_pid: int,
        rootless: bool,
        nodes: tuple[NodeInfo, ...],
        processes: tuple[ProcessInfo, ...],
        source: str = "",
        plan_json: Any = None,
        faults: tuple[FaultInfo, ...] = (),
        down: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.name = name
        self.topology = topology
        self.uid = uid  # the owner's
        self.started_at = started_at  # seconds since 1970
        self.keeper_pid = keeper_pid  # in the machine's PID namespace
        self.rootless = rootless  # it lives in a user namespace
        self.nodes = nodes
        self.processes = processes
        self.source = source  # the topology file's text, or what the lab was made of (`star:3`)
        self.plan_json = plan_json  # the plan in force, as labctl.plan.operations writes it
        self.faults = faults  # that are in force
        self.down = down  # ends (node, interface) that clients have set down; not those that faults keep down

    @property
    def plan(self) -> Plan:
        """The plan in force: what the lab was made of, or last reconciled to."""
        from labctl.plan.operations import plan_from_json

        return plan_from_json(self.plan_json)

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Return the description of a JSON object. TypeError, ValueError, KeyError."""
        nodes = tuple(map(NodeInfo.read, fields["nodes"]))
        processes, faults = (
            tuple(map(ProcessInfo.read, fields["processes"])),
            tuple(map(FaultInfo.read, fields["faults"])),
        )
        down = tuple((node, ifname) for node, ifname in fields.get("down", ()))
        return cls(**{**fields, "nodes": nodes, "processes": processes, "faults": faults, "down": down})


RECORDS = (ProcessInfo, NodeInfo, FaultInfo, FaultMoment, Description)
