"""`Lab` and `Process`: what the owner of a lab holds. The keeper does the work; see docs/architecture.md."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.errors import DeadlineExceeded, InputError, LabError, LabGone
from labctl.lab import registry
from labctl.lab.description import Restart
from labctl.lab.place import LAST_WORDS, Place
from labctl.lab.protocol import (
    VERSION,
    Apply,
    Channel,
    Describe,
    Described,
    Done,
    Drop,
    Failed,
    Frame,
    Hello,
    Identity,
    Open,
    OpenFile,
    OpenLog,
    OpenSocket,
    Pairs,
    Processes,
    ProcessRows,
    PutFile,
    Reconcile,
    Request,
    SignalGroup,
    Spawn,
    SpawnCaller,
    Spawned,
    StartProcess,
    Stay,
    StopProcess,
    Undrop,
    Welcome,
)
from labctl.lab.starting import Boot, search_path

if TYPE_CHECKING:
    from labctl.lab.caller import Caller
    from labctl.lab.description import Description, ProcessInfo
    from labctl.lab.reaching import Connection
    from labctl.plan.droprule import DropRule
    from labctl.plan.operations import Operation, Plan

STATUS = struct.Struct("=i")
ANSWER_TIMEOUT_S = 30.0
HANG_UP_TIMEOUT_S = 2.0


class Lab:
    """A topology that exists in the kernel, for as long as this handle does. Thread-safe.

    Everything that a lab is ends with `close`, and with the end of the owning process, however that comes about.
    """

    def __init__(self, boot: Boot | Connection, name: str, nodes: tuple[str, ...], answer_timeout_s: float) -> None:
        """For `open`, `up` and `attach`: takes over `boot`."""
        self.name = name
        self.nodes = nodes
        self._boot = boot
        self._channel = Channel(boot.channel)
        self._timeout_s = answer_timeout_s
        self._exchange = threading.Lock()  # one request at a time is under way
        self._number = 0
        self._gone: LabGone | None = None
        self._closed = False
        self._unfinished: ExitStack | None = None  # what is held until a lab that is to stay does
        self._unfinished_state = -1

    @classmethod
    def open(
        cls,
        plan: Plan,
        *,
        visible_paths: Iterable[str | os.PathLike[str]] = (),
        deadline_s: float = ANSWER_TIMEOUT_S,
        boot: Boot | None = None,
    ) -> Self:
        """Make the lab that `plan` describes; the caller closes it.

        `visible_paths` stay visible on hosts although they lie under /tmp, /run or /dev/shm, as do this Python, labctl
        and the working directory. `boot` is one that was started ahead; it is taken over. Raises MachineError when this
        machine cannot have labs, KernelError when it refuses an operation, DeadlineExceeded after `deadline_s`.
        """
        lab = cls(boot or Boot.start(), plan.topology, tuple(node.name for node in plan.nodes), ANSWER_TIMEOUT_S)
        try:
            with ExitStack() as ports:
                request, descriptors = _with_ports(_open_request(plan, visible_paths), plan, ports)
                lab._done(request, descriptors, what="open the lab", timeout_s=deadline_s)
        except BaseException:
            lab.close()
            raise
        return lab

    @classmethod
    def up(
        cls,
        plan: Plan,
        name: str,
        *,
        source: str = "",
        visible_paths: Iterable[str | os.PathLike[str]] = (),
        deadline_s: float = ANSWER_TIMEOUT_S,
    ) -> Self:
        """Make a lab that stays: as `open`, but not yet kept until `stay` is called; `close` before that ends it.

        What is to be there from the first moment (services) is started between `up` and `stay`. `source` is what
        `describe` tells of where the plan came from. InputError when the name is bad or in use.
        """
        if problem := registry.lab_name_problem(name):
            raise InputError(f"The name `{name}` of a lab {problem}. Try --name.")
        with ExitStack() as stack:
            state = stack.enter_context(registry.opened_state())
            stack.enter_context(registry.transition(state, name))
            _check_free(state, name)
            place, listener = registry.reserve(state, name)
            with ExitStack() as theirs:
                theirs.callback(place.close)
                theirs.callback(os.close, listener)
                try:
                    boot = _boot_that_stays(place)
                except BaseException:
                    with contextlib.suppress(OSError):  # short of descriptors, perhaps: the next command sweeps it
                        place.clear()
                    raise
                lab = cls(boot, name, tuple(node.name for node in plan.nodes), ANSWER_TIMEOUT_S)
                lab._unfinished = stack.pop_all()
                lab._unfinished_state = state
                try:
                    request = replace(
                        _open_request(plan, visible_paths),
                        lab=name,
                        source=source,
                        stays=True,
                        hidden_paths=(str(registry.state_directory()),),
                    )
                    request, descriptors = _with_ports(request, plan, theirs)
                    descriptors += (listener, *place.descriptors)
                    lab._done(request, descriptors, what="make the lab", timeout_s=deadline_s)
                except BaseException:
                    theirs.close()
                    lab.close()
                    raise
        return lab

    def stay(self) -> None:
        """The lab that `up` made is to stay: from here on others find it, and nothing ends it but `down`."""
        self._done(Stay(), what="let the lab stay")
        if isinstance(self._boot, Boot):
            self._boot.let_go()
        if self._unfinished is not None:
            unfinished, self._unfinished = self._unfinished, None
            unfinished.close()

    @classmethod
    def attach(cls, name: str | None = None, *, deadline_s: float = ANSWER_TIMEOUT_S) -> Self:
        """A handle of a running lab (None: the only one); `close` leaves the lab as it is.

        Programs spawned with the handle end with it (SIGHUP, SIGKILL after 1 s). InputError when there is no such
        lab; DeadlineExceeded when its keeper does not answer (`labctl down --force`).
        """
        from labctl.lab import reaching

        if name is None:
            name = registry.choose(None)
        elif problem := registry.lab_name_problem(name):
            raise InputError(f"The name `{name}` of a lab {problem}.")
        lab = cls(reaching.connect(name, deadline_s=deadline_s), name, (), deadline_s)
        try:
            try:
                welcome = lab._ask(Hello(VERSION), what="greet the lab").message
            except DeadlineExceeded as error:
                raise reaching.not_answering(name, deadline_s) from error
            if not isinstance(welcome, Welcome) or welcome.version != VERSION:
                raise LabError(
                    f"lab {name}: was made by another version of labctl, which this one does not understand. "
                    f"Try: labctl down {name}, and `labctl up` again."
                )
            lab.nodes = welcome.nodes
        except BaseException:
            lab.close()
            raise
        return lab

    def describe(self) -> Description:
        """What the keeper knows of its lab."""
        from labctl.lab import description

        answer = self._ask(Describe(), what="describe the lab").message
        if not isinstance(answer, Described):
            raise LabError(f"lab {self.name}: the keeper answered {answer} where it was to describe itself.")
        return description.from_json(answer.text)

    def processes(self) -> tuple[ProcessInfo, ...]:
        """The programs of the lab: detached ones (also those that have ended) and those of clients."""
        return self._processes(Processes(), what="list the processes")

    def start_process(
        self,
        node: str,
        argv: Sequence[str],
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        restart: Restart = Restart.NO,
    ) -> ProcessInfo:
        """Start a program that outlives this handle; its output goes to its log (`registry.log_paths`).

        `name` is as a node's name and unique on the node among those that run ("": made from argv[0]). InputError when
        the name is bad or in use, KernelError when it cannot be run.
        """
        _check_arguments(argv, env, cwd)
        identity, environment = identity_of(user)
        request = StartProcess(
            node=node,
            name=name,
            argv=tuple(os.fspath(argument) for argument in argv),
            environment=(*environment, *(env or {}).items()),
            cwd=cwd,
            user=identity,
            restart=Restart(restart).value,
        )
        (info,) = self._processes(request, what=f"start {argv[0]} on {node}")
        return info

    def stop_process(self, node: str, name: str) -> ProcessInfo:
        """End a detached process: SIGTERM to its process group, SIGKILL after 2 s; returns when it has ended."""
        (info,) = self._processes(StopProcess(node, name), what=f"stop {name} on {node}")
        return info

    def read_log(self, node: str, name: str) -> bytes:
        """What a detached process has written and its log still has."""
        frame = self._ask(OpenLog(node, name), what=f"read the log of {name} on {node}")
        parts = []
        for descriptor in frame.descriptors:
            with open(descriptor, "rb") as file:
                parts.append(file.read())
        return b"".join(parts)

    def reconcile(self, plan: Plan, *, source: str = "") -> None:
        """Change the running lab to what `plan` describes, whole or not at all; what both have in common goes on."""
        from labctl.plan.codec import nodes_to_json, to_json

        request = Reconcile(plan.topology, nodes_to_json(plan.nodes), to_json(plan.operations), source)
        self._done(request, what="reconcile the lab")
        self.nodes = tuple(node.name for node in plan.nodes)

    def down(self, *, force: bool = False, deadline_s: float = 10.0) -> None:
        """End the lab, whoever uses it; returns when keeper and boot are gone. See `registry.take_down`."""
        self.close()
        registry.take_down(self.name, force=force, deadline_s=deadline_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "gone" if self._gone else f"{len(self.nodes)} nodes"
        return f"<Lab {self.name}, {state}>"

    def spawn(
        self,
        node: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        user: str | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Process:
        """Start a program on the node; the caller closes the `Process`, which does not end it.

        `user` is a name or number of this machine. `terminal` (rows, columns) gives it a terminal of its own instead of
        the three descriptors: `Process.terminal` is then the descriptor of the terminal's other side (the master).

        `env` is over the owner's environment and the node's. Descriptors stay the caller's; None is /dev/null. It is
        the leader of a session and process group of its own. KernelError when it cannot be run (ENOENT: is not there).
        """
        _check_arguments(argv, env, cwd)
        given = (None, None, None) if terminal else (stdin, stdout, stderr)
        identity, environment = identity_of(user)
        request = Spawn(
            node=node,
            argv=tuple(os.fspath(argument) for argument in argv),
            environment=(*environment, *(env or {}).items()),
            cwd=cwd,
            stdio=(given[0] is not None, given[1] is not None, given[2] is not None),
            user=identity,
            terminal=terminal,
        )
        descriptors = tuple(descriptor for descriptor in given if descriptor is not None)
        frame = self._ask(request, descriptors, what=f"start {argv[0]} on {node}")
        process = self._process(frame, node, tuple(argv))
        if terminal:
            process.terminal = frame.descriptors[2]
        return process

    def caller(self, node: str, name: str = "") -> Caller:
        """A new process on the node that makes socket calls; the caller of this closes it."""
        from labctl.lab.caller import Caller

        frame = self._ask(SpawnCaller(node, name), what=f"start a caller on {node}")
        channel = socket.socket(fileno=frame.descriptors[2])
        process = self._process(frame, node, ("caller", name) if name else ("caller",))
        return Caller(process=process, channel=channel, name=name)

    def socket(self, node: str, family: int, type: int, proto: int = 0) -> socket.socket:
        """An ordinary socket that lives in the node's network namespace; the caller owns it."""
        request = OpenSocket(node, int(family), int(type), proto)
        frame = self._ask(request, what=f"make a socket on {node}")
        return socket.socket(fileno=frame.descriptors[0])

    def open_file(self, node: str, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        """open(2) as a process on the node would; the caller owns the (close-on-exec) descriptor. KernelError."""
        frame = self._ask(OpenFile(node, path, flags, mode), what=f"open {path} on {node}")
        return frame.descriptors[0]

    def apply(self, operations: Iterable[Operation]) -> None:
        """Carry out operations on the lab's nodes, in order. KernelError for the first that the kernel refuses."""
        from labctl.plan.codec import to_json

        self._done(Apply(to_json(operations)), what="apply operations")

    def drop(self, node: str, rule: DropRule) -> None:
        """Drop the packets of the node that `rule` describes, until `undrop`."""
        from labctl.plan import droprule

        self._done(Drop(node, droprule.to_json(rule)), what=f"drop packets on {node}")

    def undrop(self, node: str) -> None:
        """Drop nothing more on the node."""
        self._done(Undrop(node), what=f"undo drops on {node}")

    def put_file(self, name: str, data: bytes, mode: int = 0o644) -> str:
        """Put a file into the directory that all hosts share; returns its path there.

        A program that is put at `bin/NAME` with mode 0o755 is found by its name on every host.
        """
        content = os.memfd_create("labctl-file", os.MFD_CLOEXEC)
        try:
            with open(content, "wb", closefd=False) as file:
                file.write(data)
            self._done(PutFile(name, mode), (content,), what=f"put the file {name}")
        finally:
            os.close(content)
        return f"/run/lab/{name}"

    def close(self) -> None:
        """End the lab and every process in it; returns when the keeper has been reaped. Idempotent.

        A lab that stays is left as it is, but for the programs that were spawned with this handle. The kernel frees
        namespaces and interfaces after that in its own time (some 100 ms).
        """
        self._closed = True
        self._boot.hang_up()  # wakes a thread that waits for an answer
        idle = self._exchange.acquire(timeout=HANG_UP_TIMEOUT_S)  # unless it is this very thread, in a signal handler
        try:
            self._boot.close()
        finally:
            unfinished, self._unfinished = self._unfinished, None
            if unfinished is not None:
                with unfinished:
                    _end_unfinished(self._unfinished_state, self.name)
            if idle:
                self._exchange.release()

    def _processes(self, request: Request, *, what: str) -> tuple[ProcessInfo, ...]:
        from labctl.lab.description import process_of

        answer = self._ask(request, what=what).message
        if not isinstance(answer, ProcessRows):
            raise LabError(f"lab {self.name}: the keeper answered {answer} where it was to {what}.")
        return tuple(process_of(row) for row in answer.rows)

    def _process(self, frame: Frame, node: str, argv: tuple[str, ...]) -> Process:
        spawned = frame.message
        if not isinstance(spawned, Spawned):
            raise LabError(f"lab {self.name}: the keeper answered {spawned} to a request to start {argv[0]}.")
        status, pidfd, *_ = frame.descriptors
        return Process(self, node, argv, spawned.pid, spawned.process, status, pidfd)

    def _signal_group(self, process: int, number: int) -> None:
        self._done(SignalGroup(process, number), what="signal a process group")

    def _done(
        self, request: Request, descriptors: tuple[int, ...] = (), *, what: str, timeout_s: float | None = None
    ) -> int:
        frame = self._ask(request, descriptors, what=what, timeout_s=timeout_s)
        return frame.message.value if isinstance(frame.message, Done) else 0

    def _ask(
        self, request: Request, descriptors: tuple[int, ...] = (), *, what: str, timeout_s: float | None = None
    ) -> Frame:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        until = time.monotonic() + timeout_s
        late = (
            f"lab {self.name}: could not {what} within {timeout_s:g} s. Is the machine overloaded, or the lab stopped?"
        )
        if not self._exchange.acquire(timeout=timeout_s):
            raise DeadlineExceeded(late)
        try:
            self._check_open(what)
        except BaseException:
            self._exchange.release()
            raise
        self._number += 1
        try:
            frame = self._exchanged(self._number, request, descriptors, until)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(late) from error
        except LabGone as error:
            if self._closed:
                raise RuntimeError(f"{self!r} was closed by another thread; cannot {what}") from error
            self._gone = LabGone(self._why_gone())
            raise self._gone from error
        except BaseException:  # Ctrl-C between a request and its answer: where the stream stands is not known
            self._gone = LabGone(f"lab {self.name}: interrupted while it was to {what}; it answers no more requests.")
            raise
        finally:
            self._exchange.release()
        if isinstance(frame.message, Failed):
            raise frame.message.error()
        return frame

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise RuntimeError(f"{self!r} has been closed; cannot {what}")
        if self._gone is not None:
            raise self._gone

    def _exchanged(self, number: int, request: Request, descriptors: tuple[int, ...], until: float) -> Frame:
        self._channel.send(number, request, descriptors, until=until)
        while True:
            frame = self._channel.receive(until=until)
            if frame is None:
                raise LabGone(f"lab {self.name}: its keeper has ended.")
            if frame.number == number:
                return frame
            for descriptor in frame.descriptors:  # the reply to a request that ran out of time
                os.close(descriptor)

    def _why_gone(self) -> str:
        words = self._boot.last_words().strip()
        text = f"lab {self.name}: its keeper has ended, and every process of the lab with it."
        return f"{text} Its last words:\n{words}" if words else f"{text} Was it killed (see the kernel's log for OOM)?"


class Process:
    """A program (or caller) on a node. Owns a pidfd and a status pipe; closing it does not end the program."""

    def __init__(
        self, lab: Lab, node: str, argv: tuple[str, ...], pid: int, process: int, status: int, pidfd: int
    ) -> None:
        """For `Lab`: takes over the descriptors."""
        self.node = node
        self.argv = argv
        self.pid = pid  # on its host
        self.pidfd = pidfd
        self.terminal: int | None = None  # the other side of its terminal, when it was given one
        self._lab = lab
        self._process = process  # its number in the keeper's PID namespace
        self._status = status
        self._reading = threading.Lock()
        self._returned: int | None = None
        os.set_blocking(status, False)

    def __repr__(self) -> str:
        if self._returned is None:
            state = "closed" if self._status == -1 else "running"
        else:
            code = self._returned
            state = f"exited with signal {-code}" if code < 0 else f"exited with status {code}"
        return f"<Process {' '.join(self.argv)!r} on {self.node}, {state}>"

    def fileno(self) -> int:
        """The status pipe, for selectors: readable when the process has ended (or the lab is gone)."""
        return self._status

    @property
    def returncode(self) -> int | None:
        """What `wait` returned last, None before that."""
        return self._returned

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit status, or minus the signal's number; None when it still runs after `timeout_s` (None: for ever).

        LabGone when the lab has ended and took the process with it.
        """
        if self._returned is not None:
            return self._returned
        if self._status == -1:
            raise RuntimeError(f"{self!r} has been closed; cannot wait for it")
        poller = select.poll()
        poller.register(self._status, select.POLLIN)
        if not poller.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000):
            return None
        with self._reading:
            if self._returned is None:
                try:
                    told = os.read(self._status, STATUS.size)
                except BlockingIOError:
                    return self._returned
                if len(told) != STATUS.size:
                    raise LabGone(f"lab {self._lab.name}: it has ended, and with it {self.argv[0]} on {self.node}.")
                (self._returned,) = STATUS.unpack(told)
        return self._returned

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process (`group`: to its process group). One that has ended already is left alone."""
        if group:
            self._lab._signal_group(self._process, number)
            return
        if self.pidfd == -1:
            raise RuntimeError(f"{self!r} has been closed; cannot signal it")
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Let go of the descriptors; the program goes on until it ends or the lab does. Idempotent."""
        status, self._status = self._status, -1
        pidfd, self.pidfd = self.pidfd, -1
        terminal, self.terminal = self.terminal, None
        for descriptor in (status, pidfd, terminal):
            if descriptor is not None and descriptor != -1:
                os.close(descriptor)


def _open_request(plan: Plan, visible_paths: Iterable[str | os.PathLike[str]]) -> Open:
    from labctl.plan.codec import nodes_to_json, to_json

    cwd = _working_directory()
    visible = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *search_path(), cwd]
    return Open(
        lab=plan.topology,
        topology=plan.topology,
        uid=os.geteuid(),
        nodes=nodes_to_json(plan.nodes),
        operations=to_json(plan.operations),
        environment=tuple(os.environ.items()),
        cwd=cwd,
        visible_paths=tuple(dict.fromkeys([*visible, *(os.path.abspath(path) for path in visible_paths)])),
    )


def _with_ports(request: Open, plan: Plan, stack: ExitStack) -> tuple[Open, tuple[int, ...]]:
    """The request with what the plan has outside the lab, and the sockets for it, which `stack` closes."""
    if not any(node.nat or node.exposures or node.limits for node in plan.nodes):
        return request, ()
    from labctl.lab.ports import open_ports

    exposed, descriptors = open_ports(plan.nodes, stack)
    return replace(request, has_outside=True, exposed=exposed), descriptors


def _working_directory() -> str:
    with contextlib.suppress(FileNotFoundError):  # it has been deleted
        return os.getcwd()
    return "/"


def identity_of(user: str | None) -> tuple[Identity | None, Pairs]:
    """Who a user (a name or number of this machine) is, and the environment that goes with it. InputError.

    None for root, and for whoever this process runs as: that is whom a lab's programs run as anyway.
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
        raise InputError(f"user {user}: this machine has none of that name (see `getent passwd`).") from None
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


def _check_arguments(argv: Sequence[str], env: Mapping[str, str] | None, cwd: str | None) -> None:
    if not argv:
        raise ValueError("argv is empty")
    if any("\0" in text for text in (*argv, *(env or {}), *(env or {}).values(), cwd or "")):
        raise ValueError(f"a null byte in the arguments, environment or directory of {argv[0]!r}")


def _check_free(state: int, name: str) -> None:
    """The name is nobody's, and nothing of an earlier lab of that name is left."""
    if registry.is_alive(state, name):
        raise InputError(
            f"lab {name}: is running already. `labctl up` with the lab's topology reconciles it, --name makes another "
            f"one, `labctl down {name}` ends it."
        )
    registry.clear_if_dead(state, name)
    _end_unfinished(state, name)


def _end_unfinished(state: int, name: str) -> None:
    """Nothing is left of a lab that was to stay and does not."""
    from labctl.lab import reaching

    reaching.end_unfinished(state, name)


def _boot_that_stays(place: Place) -> Boot:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        words = os.open(LAST_WORDS, flags, 0o600, dir_fd=place.directory)
    except OSError as error:
        raise registry.cannot("make a file in it", error) from error
    return Boot.start(errors=words)
