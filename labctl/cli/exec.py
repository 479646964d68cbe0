"""Programs on a node: `labctl exec`, and the start of background programs. Imports nothing that is slow to import.

`labctl env` prints how other tools reach a node.
"""

from __future__ import annotations

import errno
import os

from labctl.cli.exit import complain
from labctl.cli.lab_selection import attach_as, attach_lab_with
from labctl.cli.signals import Signals, wait_passing_signals
from labctl.errors import InputError, KernelError
from labctl.lab.client.lab_client import LabClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from labctl.lab.client.process import Process
    from labctl.lab.description import Description, NodeInfo


EXIT_CANNOT = 126  # like env(1), timeout(1) and docker
EXIT_NOT_FOUND = 127

# Variables of this terminal and language that a program on a node gets; all others are those of `labctl up`.
_PASSED = ("TERM", "COLORTERM", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "NO_COLOR", "FORCE_COLOR")


class ExecRequest:
    """A program to start on a node. `environment` has K=V, or K for this process's own value."""

    def __init__(
        self,
        node: str,
        command: tuple[str, ...],
        environment: tuple[str, ...] = (),
        directory: str | None = None,
        user: str | None = None,
        name: str | None = None,
    ) -> None:
        self.node = node
        self.command = command
        self.environment = environment
        self.directory = directory
        self.user = user
        self.name = name  # of a background program

    def on(self, node: str) -> ExecRequest:
        """Return the same request for another node."""
        return ExecRequest(node, self.command, self.environment, self.directory, self.user, self.name)


def exec_command(
    node: str | None,
    command: tuple[str, ...],
    lab: str | None,
    terminal: bool,
    interactive: bool,  # ignored: standard input is always passed on
    detach: bool,
    environment: tuple[str, ...],
    directory: str | None,
    user: str | None,
    name: str | None,
    groups: tuple[str, ...],
    labels: tuple[str, ...],
) -> int:
    """Run `labctl exec`. Return the command's exit status (128 + N for signal N), or 126 or 127 if it cannot run."""
    standard = open_standard_descriptors()  # before another file can get one of these numbers
    if name is not None and not detach:
        raise InputError("labctl exec: --name is for background programs. Add -d, or use labctl start.")
    request = ExecRequest(node or "", command, environment, directory, user, name)
    check_request(request)
    if node is None:
        if terminal:
            raise InputError("labctl exec: -t is for one node. Leave out --group and --label, or -t.")
        return _run_on_chosen(groups, labels, lab, request, detach=detach)
    with attach_as(LabClient, node, lab) as attached:
        if detach:
            return start_in_background(attached, request)
        if terminal:
            return run_on_terminal(attached, request)
        return run_in_foreground(attached, request, standard)


def _run_on_chosen(
    groups: Sequence[str], labels: Sequence[str], name: str | None, request: ExecRequest, *, detach: bool
) -> int:
    """Run the command on all nodes of these groups and with these labels. Return the worst exit status."""
    from labctl.cli.lab_selection import attach, chosen_nodes

    with attach(name) as lab:
        nodes = chosen_nodes(lab, groups, labels)
        requests = {node: request.on(node) for node in nodes}
        if detach:
            return max(start_in_background(lab, requests[node]) for node in nodes)
        from labctl.cli.several_nodes import run_several

        return run_several(nodes, lambda node, output: spawn_or_refusal(lab, requests[node], output))


def spawn_or_refusal(lab: LabClient, request: ExecRequest, output: int) -> Process | int:
    """Start the command without input; return it, or the exit status for one that cannot run, which is reported."""
    try:
        return spawn(lab, request, (None, output, output))
    except KernelError as error:
        return status_of_refusal(error, request.command[0])


def run_in_foreground(lab: LabClient, request: ExecRequest, standard: Sequence[int | None]) -> int:
    """Run the command with these three descriptors, and pass signals on. Return its exit status, or 126 or 127."""
    with Signals() as signals:  # before the command starts: an early signal is passed on, too
        try:
            process = spawn(lab, request, standard)
        except KernelError as error:
            return status_of_refusal(error, request.command[0])
        try:
            return exit_status(wait_passing_signals(process, signals))
        finally:
            process.close()


def run_on_terminal(lab: LabClient, request: ExecRequest) -> int:
    """Run the command on a terminal of its own, and relay keys and output. Return its exit status, or 126 or 127."""
    from contextlib import ExitStack, closing

    from labctl.cli.terminal import RawMode, Relay, window_of

    keyboard, output, _ = open_standard_descriptors()
    with ExitStack() as stack:
        if output is None:
            output = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, output)
        signals = stack.enter_context(Signals())
        try:
            process = spawn(lab, request, terminal=window_of(keyboard, output))
        except KernelError as error:
            return status_of_refusal(error, request.command[0])
        stack.enter_context(closing(process))
        assert process.terminal is not None  # a terminal was asked for
        raw = RawMode(keyboard) if keyboard is not None else None
        return exit_status(Relay(process, process.terminal, signals, keyboard, output, raw).run())


def start_in_background(lab: LabClient, request: ExecRequest, restart: str = "no") -> int:
    """Start the program and print NODE/NAME. Return 0, or 126 or 127 if it cannot run."""
    from labctl.report.terminal import standard_output

    is_given = request.directory is not None
    try:
        process = lab.start_process(
            request.node,
            request.command,
            name=request.name or "",
            env=variables_of(request.environment),
            cwd=request.directory if is_given else current_directory(),
            is_cwd_optional=not is_given,
            user=request.user,
            restart=restart,
        )
    except KernelError as error:
        return status_of_refusal(error, request.command[0])
    standard_output().line(f"{process.node}/{process.name}")
    return 0


def spawn(
    lab: LabClient,
    request: ExecRequest,
    standard: Sequence[int | None] = (None, None, None),
    *,
    terminal: tuple[int, int] | None = None,
    tracer: Sequence[str] = (),
    trace: int | None = None,
) -> Process:
    """Start the command with these three descriptors, or on a terminal of (rows, columns). The caller closes it.

    `tracer` and `trace` are as for `LabClient.spawn`.
    """
    is_given = request.directory is not None
    return lab.spawn(
        request.node,
        request.command,
        env=variables_of(request.environment),
        cwd=request.directory if is_given else current_directory(),
        is_cwd_optional=not is_given,  # /tmp and /run are each node's own
        stdin=standard[0],
        stdout=standard[1],
        stderr=standard[2],
        user=request.user,
        terminal=terminal,
        tracer=tracer,
        trace=trace,
    )


def check_request(request: ExecRequest) -> None:
    """InputError if the command or a variable cannot be passed to a program."""
    if any("\0" in word for word in request.command):
        raise InputError("labctl: the command contains a null byte.")
    variables_of(request.environment)


def variables_of(assignments: Sequence[str]) -> dict[str, str]:
    """Return the variables that a command gets besides the lab's: of terminal and language, then those of `-e`."""
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    for entry in assignments:
        name, has_value, value = entry.partition("=")
        if not name:
            raise InputError(f"-e {entry}: the name is missing. Write NAME=VALUE, or NAME for its value here.")
        if has_value:
            environment[name] = value
        elif name in os.environ:
            environment[name] = os.environ[name]
    return environment


def current_directory() -> str | None:
    """Return the directory in which labctl was called; None if it was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def open_standard_descriptors() -> tuple[int | None, int | None, int | None]:
    """Return 0, 1 and 2, with None for one that was closed before labctl started."""
    return (_if_open(0), _if_open(1), _if_open(2))


def _if_open(fd: int) -> int | None:
    try:
        os.fstat(fd)
    except OSError:
        return None
    return fd


def exit_status(returncode: int) -> int:
    """Return the status as a shell reports it: 128 + N for signal N."""
    return returncode if returncode >= 0 else 128 - returncode


def status_of_refusal(error: KernelError, program: str) -> int:
    """Report why the command cannot run. Return 127 if it was not found, else 126."""
    if error.attempted != f"run {program}":
        raise error
    complain(str(error))
    return EXIT_NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else EXIT_CANNOT


def env(node: str, lab: str | None) -> int:
    """Run `labctl env`: print commands that work in a shell of this machine while the lab runs."""
    with attach_lab_with(node, lab) as attached:
        info = next(each for each in attached.describe().nodes if each.name == node)
        if not info.init_pid:
            # The node's process 1, which nsenter enters, starts with the first program.
            os.close(attached.open_file(node, "/dev/null"))
        description = attached.describe()
        info = next(each for each in description.nodes if each.name == node)
    from labctl.report.terminal import Ink, standard_output

    screen = standard_output()
    for purpose, command in access_commands(description, info):
        screen.write([screen.look.paint(f"# {purpose}", Ink.FAINT), command])
    return 0


def access_commands(lab: Description, node: NodeInfo) -> tuple[tuple[str, str], ...]:
    """Return (purpose, command) pairs for a node: the whole node first, then only its network."""
    import shlex

    host = shlex.quote(node.name)
    found = [("a command on it, and a shell", f"labctl exec --lab {shlex.quote(lab.name)} {host} -- ip address")]
    # Not --all: without root, the cgroup namespace, which is the machine's, cannot be entered.
    user = "--user --preserve-credentials " if lab.rootless else ""
    if node.init_pid:
        inside = f"--target {node.init_pid} {user}--net --mount --uts --ipc --pid"
        found.append(("the same by nsenter: its network, files, name and processes", f"nsenter {inside}"))
    on_network = "a program of this machine on its network only"
    if lab.rootless:
        enter = f"nsenter --target {lab.keeper_pid} --user --preserve-credentials --net={node.network}"
        return (*found, (on_network, f"{enter} ss -tanp"), ("its addresses", f"{enter} ip address"))
    netns = shlex.quote(f"{lab.name}-{node.name}")
    return (
        *found,
        (on_network, f"ip netns exec {netns} tcpdump -ni any"),
        ("its addresses", f"ip -n {netns} address"),
        ("its namespace by name", f"nsenter --net=/run/netns/{netns} ss -tlnp"),
    )
