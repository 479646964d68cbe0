"""What a process forked on a host does before it is a program, a caller or an opened file."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import traceback
from array import array
from collections.abc import Callable

from labctl.errors import KernelError, LabError
from labctl.kernel import processes, syscalls
from labctl.lab.host import (
    SHARED_DIRECTORY,
    START_TIMEOUT_S,
    Host,
    Surroundings,
    environment_on,
    failure_of,
    fork_inside,
    report_failure,
)
from labctl.lab.protocol import OpenFile, Spawn

PID = struct.Struct("=i")
OPEN_TIMEOUT_S = 2.0  # opening a file may block (a FIFO), and the keeper with it
CALLER_CHANNEL = 1000  # far above the descriptors 3, 4, ... that a caller's own calls get


def start_program(host: Host, surroundings: Surroundings, request: Spawn, stdio: tuple[int, ...]) -> tuple[int, int]:
    """Start a program; returns its pid in the keeper's namespace and on its host. KernelError when it cannot run."""
    environment = environment_on(host, surroundings, request.environment)

    def body(writing: int) -> None:
        processes.default_signals()
        os.setsid()
        _connect_stdio(request.stdio, stdio)
        _enter_directory(host, surroundings, request.cwd)
        processes.keep_only(0, 1, 2, writing)
        processes.set_descriptor_limit(surroundings.descriptor_limit)
        processes.execute(host.subject, request.argv, environment)

    return _start(host, surroundings, body, f"{host.subject}: {request.argv[0]}")


def start_caller(host: Host, surroundings: Surroundings, channel: int) -> tuple[int, int]:
    """Fork a caller that serves `channel`; returns its pid in the keeper's namespace and on its host.

    Its descriptors are 0, 1 and 2 (/dev/null) and the channel under a high number; the next one is 3.
    """
    from labctl.lab.caller import preload, serve

    preload()
    environment = environment_on(host, surroundings, ())

    def body(writing: int) -> None:
        processes.default_signals()
        processes.die_with_parent()
        os.setsid()
        _connect_stdio((False, False, False), ())
        _enter_directory(host, surroundings, None)
        os.environ.clear()
        os.environ.update(environment)
        high = min(CALLER_CHANNEL, max(processes.FIRST_FREE_DESCRIPTOR + 1, surroundings.descriptor_limit[0] - 1))
        syscalls.set_process_name("labctl-caller")
        os.close(writing)
        if channel != high:
            os.dup2(channel, high, inheritable=False)
        processes.keep_only(0, 1, 2, high)
        processes.set_descriptor_limit(surroundings.descriptor_limit)
        serve(high)

    return _start(host, surroundings, body, f"{host.subject}: caller")


def open_file(host: Host, surroundings: Surroundings, request: OpenFile) -> int:
    """open(2) on the host; the caller owns the descriptor."""
    mine, theirs = socket.socketpair()

    def body() -> None:
        try:
            descriptor = os.open(request.path, request.flags | os.O_CLOEXEC, request.mode)
        except OSError as error:
            error_number = error.errno or 0
            report_failure(theirs.fileno(), KernelError(host.subject, f"open {request.path}", error_number))
            return
        theirs.sendmsg([b"opened"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))])

    with mine, theirs:
        pid = fork_inside(host, surroundings, body)
        theirs.close()
        mine.settimeout(OPEN_TIMEOUT_S)
        try:
            report, descriptors, _, _ = socket.recv_fds(mine, 65536, 1, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError as error:
            os.kill(pid, signal.SIGKILL)
            hint = "A FIFO without a peer? Try O_NONBLOCK."
            raise KernelError(host.subject, f"open {request.path}", errno.ETIMEDOUT, hint=hint) from error
        finally:
            os.waitpid(pid, 0)
    if not descriptors:
        raise failure_of(report, f"{host.subject}: the process that opens {request.path} ended before it was done.")
    return descriptors[0]


def _start(host: Host, surroundings: Surroundings, body: Callable[[int], None], what: str) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def child() -> None:
        os.write(writing, PID.pack(os.getpid()))
        try:
            body(writing)
        except LabError as error:
            report_failure(writing, error)
        except OSError as error:
            attempted = "prepare a process" if not error.filename else f"use {error.filename} in a new process"
            report_failure(writing, KernelError(host.subject, attempted, error.errno or 0))
        except Exception:  # noqa: BLE001 - without a word it would pass for a program that has started
            report_failure(writing, LabError(f"{what}: could not start. This is a bug.\n{traceback.format_exc()}"))

    try:
        try:
            pid = fork_inside(host, surroundings, child)
        finally:
            os.close(writing)
        try:
            report = processes.read_all(reading, START_TIMEOUT_S, what)
        except LabError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    finally:
        os.close(reading)
    if len(report) != PID.size:
        os.waitpid(pid, 0)
        raise failure_of(report[PID.size :], f"{what}: it was killed before it had started.")
    (pid_on_host,) = PID.unpack(report)
    return pid, pid_on_host


def _connect_stdio(given: tuple[bool, bool, bool], descriptors: tuple[int, ...]) -> None:
    left = list(descriptors)
    for standard, is_given in enumerate(given):
        if is_given:
            os.dup2(left.pop(0), standard)
        else:
            null = os.open("/dev/null", os.O_RDONLY if standard == 0 else os.O_WRONLY)
            os.dup2(null, standard)
            os.close(null)


def _enter_directory(host: Host, surroundings: Surroundings, cwd: str | None) -> None:
    if cwd is None:
        _enter_first(surroundings.cwd, "/")
        return
    try:
        os.chdir(cwd)
    except OSError as error:
        hint = f"/tmp and /run are each host's own; {SHARED_DIRECTORY} is the lab's."
        raise KernelError(host.subject, f"enter the directory {cwd}", error.errno or 0, hint=hint) from error


def _enter_first(*directories: str) -> None:
    for directory in directories:
        if os.path.isdir(directory) and os.access(directory, os.X_OK):
            os.chdir(directory)
            return
