"""`LabClient`: a client of a lab, which starts programs in it. Imports nothing that is slow to import.

`labctl exec` needs no more of a lab; `Lab` (labctl.lab.client.handle) adds everything else. The few messages here are
written as the lists that labctl.lab.protocol makes of its classes, since creating those classes takes longer than the
command; a test compares both (docs/decisions/0017).
"""

from __future__ import annotations

import os

from labctl.errors import DeadlineExceeded, InputError, LabError
from labctl.lab.client import state_dir
from labctl.lab.client.connection import connect, credentials, not_answering
from labctl.lab.client.process import Process
from labctl.lab.client.rpc_client import KeeperStopped, RpcClient
from labctl.lab.frames import VERSION, from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    from labctl.lab.client.boot_process import Boot
    from labctl.lab.client.connection import Connection
    from labctl.lab.description import Description, ProcessInfo
    from labctl.lab.protocol import Identity, Pairs
else:
    import _signal as signal  # without the enums of `signal`

REPLY_TIMEOUT_S = 30.0
HANG_UP_TIMEOUT_S = 2.0


class LabClient:
    """A running lab in which programs can be listed, started and stopped. Thread-safe."""

    def __init__(self, boot: Boot | Connection, name: str, nodes: tuple[str, ...], timeout_s: float) -> None:
        """For `attach`, and `open` and `up` of `Lab`: takes over `boot`."""
        self.name = name
        self.nodes = nodes
        self._boot = boot
        self._client = RpcClient(boot, name, timeout_s)

    @classmethod
    def attach(cls, name: str | None = None, *, deadline_s: float = REPLY_TIMEOUT_S) -> Self:
        """A handle of a running lab (None: the only one); `close` does not end the lab.

        Programs that were spawned with the handle end with it (SIGHUP, SIGKILL after 1 s). InputError if there is no
        such lab; DeadlineExceeded if its keeper does not answer (`labctl down --force`).
        """
        if name is None:
            name = state_dir.choose(None)
        elif problem := state_dir.lab_name_problem(name):
            raise InputError(f"The name `{name}` of a lab {problem}.")
        lab = cls(connect(name, deadline_s=deadline_s), name, (), deadline_s)
        try:
            try:
                with credentials() as shown:
                    body, _ = lab._client.ask(hello_request(), shown, what="greet the lab")
            except KeeperStopped:
                raise
            except DeadlineExceeded as error:
                raise not_answering(name, deadline_s) from error
            if is_other_version(body):
                raise LabError(
                    f"lab {name}: was made by another version of labctl, which this one does not understand. "
                    f"Try: labctl down {name}, and `labctl up` again."
                )
            lab.nodes = tuple(from_json(body)[2])
        except BaseException:
            lab.close()
            raise
        return lab

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._client.is_closed else "gone" if self._client.gone else f"{len(self.nodes)} nodes"
        return f"<{type(self).__name__} {self.name}, {state}>"

    @property
    def is_open(self) -> bool:
        """Whether the handle accepts requests: it has not been closed, and the lab has not ended."""
        return not self._client.is_closed and self._client.gone is None

    def spawn(
        self,
        node: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        is_cwd_optional: bool = False,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        user: str | None = None,
        terminal: tuple[int, int] | None = None,
        is_terminal_plain: bool = False,
        tracer: Sequence[str] = (),
        trace: int | None = None,
    ) -> Process:
        """Start a program on the node; the caller closes the `Process`, which does not end it.

        `user` is a name or uid of this machine. `terminal` (rows, columns) gives it its own terminal instead of
        `stdout`, `stderr` and, if None, `stdin`; `Process.terminal` is then a descriptor of the master. A plain
        terminal does not change line ends and does not echo.

        `env` has priority over the environments of node and owner. Descriptors stay the caller's; None is /dev/null.
        The program leads its own session and process group. KernelError if it cannot be started.

        `tracer` is a command that runs the program, as strace(1) does, and finds `trace` at TRACE_DESCRIPTOR.
        """
        check_arguments(argv, env, cwd)
        given = (stdin, None, None) if terminal else (stdin, stdout, stderr)
        identity, environment = identity_of(user)
        request = spawn_request(
            node,
            [portable(os.fspath(argument)) for argument in argv],
            portable_pairs((*environment, *(env or {}).items())),
            None if cwd is None else portable(cwd),
            tuple(descriptor is not None for descriptor in given),
            identity,
            terminal,
            is_cwd_optional,
            is_terminal_plain,
            tuple(map(portable, tracer)),
        )
        descriptors = tuple(descriptor for descriptor in (*given, trace) if descriptor is not None)
        what = f"start {argv[0]} on {node}"
        reply, received = self._client.ask(request, descriptors, what=what)
        match from_json(reply):
            case ["Spawned", int(number), int(pid)]:
                process = self._process(number, pid, received, node, tuple(argv))
            case other:
                raise self._unexpected(other, what)
        if terminal:
            process.terminal = received[2]
        return process

    def describe(self) -> Description:
        """The nodes, programs and plan of the lab."""
        from labctl.lab.description import Description

        what = "describe the lab"
        match self._ask_for(to_json(["Describe"]), what):
            case ["Described", dict(fields)]:
                return Description.read(fields)
            case other:
                raise self._unexpected(other, what)

    def processes(self) -> tuple[ProcessInfo, ...]:
        """The programs of the lab: detached ones, also those that have ended, and those of clients."""
        return self._rows(to_json(["Processes"]), "list the processes")

    def start_process(
        self,
        node: str,
        argv: Sequence[str],
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        is_cwd_optional: bool = False,
        user: str | None = None,
        restart: str = "no",
        terminal: tuple[int, int] | None = None,
        tracer: Sequence[str] = (),
        trace: int | None = None,
    ) -> ProcessInfo:
        """Start a program that outlives this handle; its output goes to its log (`lab_directory.log_paths`).

        With `terminal` (rows, columns) it has its own terminal, whose output goes to the log. `name` is unique among
        the running programs of the node ("": made from argv[0]). `restart` is a labctl.topology.model.Restart.
        `tracer` and `trace` are as for `spawn`. InputError if the name is bad or in use, KernelError if the program
        cannot be started.
        """
        check_arguments(argv, env, cwd)
        identity, environment = identity_of(user)
        request = start_request(
            node,
            name,
            [portable(os.fspath(argument)) for argument in argv],
            portable_pairs((*environment, *(env or {}).items())),
            None if cwd is None else portable(cwd),
            identity,
            restart,
            terminal,
            is_cwd_optional,
            tuple(map(portable, tracer)),
        )
        (info,) = self._rows(request, f"start {argv[0]} on {node}", () if trace is None else (trace,))
        return info

    def stop_process(self, node: str, name: str, number: int = signal.SIGTERM) -> ProcessInfo:
        """Signal the process group of a detached process, SIGKILL after 2 s; return when it has ended."""
        (info,) = self._rows(stop_request(node, name, int(number)), f"stop {name} on {node}")
        return info

    def close(self) -> None:
        """Disconnect, which ends the programs that were spawned with this handle. Idempotent.

        In a process that was forked of the client's, only close the copied descriptors.
        """
        if self._client.is_forked:
            self._client.is_closed = True
            self._boot.forget()
            return
        idle = self._client.hang_up(HANG_UP_TIMEOUT_S)
        try:
            self._boot.close()
        finally:
            self._ended()
            if idle:
                self._client.release()

    def _ended(self) -> None:
        """What else `close` does, once the connection is closed."""

    def _ask_for(self, request: bytes, what: str, descriptors: tuple[int, ...] = ()) -> Any:
        """Return the reply to a request, which has no descriptors."""
        return from_json(self._client.ask(request, descriptors, what=what)[0])

    def _rows(self, request: bytes, what: str, descriptors: tuple[int, ...] = ()) -> tuple[ProcessInfo, ...]:
        from labctl.lab.description import ProcessInfo  # its enum takes 1 ms, which exec does not need

        match self._ask_for(request, what, descriptors):
            case ["ProcessRows", [*rows]]:
                return tuple(map(ProcessInfo.read, rows))
            case other:
                raise self._unexpected(other, what)

    def _process(
        self, number: int, pid: int, descriptors: tuple[int, ...], node: str, argv: tuple[str, ...]
    ) -> Process:
        """The process of a reply `Spawned`, with its status pipe and pidfd, the first two descriptors."""

        def signal_group(signal_number: int) -> None:
            self._client.ask(signal_group_request(number, signal_number), what="signal a process group")

        status, pidfd, *_ = descriptors
        return Process(self.name, node, argv, pid, status, pidfd, signal_group)

    def _unexpected(self, reply: object, what: str) -> LabError:
        return LabError(f"lab {self.name}: cannot {what}: the keeper replied {reply}.")


def hello_request() -> bytes:
    """Return a client's first request."""
    return to_json(["Hello", VERSION])


def is_other_version(reply: bytes) -> bool:
    """Whether this answer to a client's first request came from a keeper of another version."""
    match from_json(reply):
        case ["Welcome", version, [*_]] if version == VERSION:
            return False
    return True


def spawn_request(*fields: object) -> bytes:
    """Return the request `Spawn` with all its fields, in their order."""
    return to_json(["Spawn", *fields])


def start_request(*fields: object) -> bytes:
    """Return the request `StartProcess` with all its fields, in their order."""
    return to_json(["StartProcess", *fields])


def stop_request(node: str, name: str, number: int) -> bytes:
    """Return the request that ends a detached program."""
    return to_json(["StopProcess", node, name, number])


def signal_group_request(process: int, number: int) -> bytes:
    """Return the request that signals the process group of a spawned process."""
    return to_json(["SignalGroup", process, number])


def portable(text: str) -> str:
    """Convert text of the command line, environment or file system to what a process in UTF-8 mode has for its bytes.

    The processes of a lab are in that mode, whatever the locale.
    """
    try:
        return os.fsencode(text).decode(errors="surrogateescape")
    except UnicodeEncodeError:  # from a file: characters that this locale lacks
        return text


def portable_pairs(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """`portable` for an environment."""
    return tuple((portable(name), portable(value)) for name, value in pairs)


def working_directory() -> str:
    """That of this process; `/` if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def identity_of(user: str | None) -> tuple[Identity | None, Pairs]:
    """The ids of a user (name or uid of this machine), and the environment that goes with them. InputError.

    None for root and for the user of this process: programs of a lab run as that user anyway.
    """
    if user is None:
        return None, ()
    import pwd

    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if user.isdecimal():
            uid = int(user)
            return (None if uid in (0, os.geteuid()) else (uid, uid, ())), ()
        raise InputError(f"user {user}: this machine has no such user (see `getent passwd`).") from None
    if entry.pw_uid in (0, os.geteuid()):
        return None, ()
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    environment = (
        ("HOME", entry.pw_dir),
        ("USER", entry.pw_name),
        ("LOGNAME", entry.pw_name),
        ("SHELL", entry.pw_shell or "/bin/sh"),
    )
    return (entry.pw_uid, entry.pw_gid, groups), environment


def check_arguments(argv: Sequence[str], env: Mapping[str, str] | None, cwd: str | None) -> None:
    """ValueError if execve(2) cannot pass them on unchanged."""
    if not argv:
        raise ValueError("argv is empty")
    if any("\0" in text for text in (*argv, *(env or {}), *(env or {}).values(), cwd or "")):
        raise ValueError(f"a null byte in the arguments, environment or directory of {argv[0]!r}")
