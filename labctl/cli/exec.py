"""`labctl exec NODE -- CMD...`: a command on a host, as if it had been run here. Imports nothing that is slow.

`labctl env NODE`: the lines with which other tools reach a host.
"""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from labctl.cli import arguments as words
from labctl.cli.labs import having
from labctl.cli.signals import Signals, wait_passing_signals
from labctl.errors import InputError, KernelError
from labctl.structs import Struct

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab
    from labctl.lab.client.process import Process
    from labctl.lab.protocol import Description, NodeInfo


class Way(Struct, frozen=True):
    """A line that works, and what it does."""

    what: str
    command: str


def show_ways(node: str, lab_name: str | None) -> int:
    """Prints the lines; each can be pasted into a shell of this machine while the lab runs."""
    with having(node, lab_name) as lab:
        first = next(each for each in lab.describe().nodes if each.name == node)
        if not first.init_pid:
            # Its process 1, which nsenter leads to, comes with the first program.
            os.close(lab.open_file(node, "/dev/null"))
        told = lab.describe()
        info = next(each for each in told.nodes if each.name == node)
    from labctl.report.terminal import Ink, standard_output

    screen = standard_output()
    shown = ways(told, info)
    for way in shown:
        screen.write([screen.look.paint(f"# {way.what}", Ink.FAINT), way.command])
    return 0


def ways(lab: Description, node: NodeInfo) -> tuple[Way, ...]:
    """The lines for a node of that lab, the whole of the host first, then its network only."""
    named = f"{lab.name}-{node.name}"
    word = shlex.quote(node.name)
    found = [
        Way("a command on it, and a shell", f"labctl exec --lab {shlex.quote(lab.name)} {word} -- ip address"),
    ]
    # Not --all: without root, the cgroup namespace, which is the machine's, cannot be entered.
    user = "--user --preserve-credentials " if lab.rootless else ""
    if node.init_pid:
        inside = f"--target {node.init_pid} {user}--net --mount --uts --ipc --pid"
        found.append(Way("the same by nsenter: its network, files, name and processes", f"nsenter {inside}"))
    if lab.rootless:
        enter = f"nsenter --target {lab.keeper_pid} --user --preserve-credentials --net={node.network}"
        found.append(Way("a program of this machine on its network only", f"{enter} ss -tanp"))
        found.append(Way("its addresses", f"{enter} ip address"))
        return tuple(found)
    quoted = shlex.quote(named)
    found.append(Way("a program of this machine on its network only", f"ip netns exec {quoted} tcpdump -ni any"))
    found.append(Way("its addresses", f"ip -n {quoted} address"))
    found.append(Way("its namespace by name", f"nsenter --net=/run/netns/{quoted} ss -tlnp"))
    return tuple(found)


EXIT_CANNOT = 126  # as env(1), timeout(1) and docker have it
EXIT_NOT_FOUND = 127

# What of this terminal and language a program on a host should know; all else is as it was for `labctl up`.
_PASSED = ("TERM", "COLORTERM", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "NO_COLOR", "FORCE_COLOR")

OPTIONS = {
    "lab": words.Option(("--lab",), "LAB"),
    "terminal": words.Option(("-t", "--tty")),
    "interactive": words.Option(("-i", "--interactive")),
    "detach": words.Option(("-d", "--detach")),
    "environment": words.Option(("-e", "--env"), "K=V"),
    "directory": words.Option(("-w", "--workdir"), "DIR"),
    "user": words.Option(("-u", "--user"), "USER"),
    "name": words.Option(("--name",), "NAME"),
}


class ExecRequest(Struct, frozen=True):
    """The command line of `labctl exec`."""

    node: str
    command: tuple[str, ...]
    lab: str | None = None
    terminal: bool = False
    detach: bool = False
    environment: tuple[str, ...] = ()  # K=V, or K for this process's own value
    directory: str | None = None
    user: str | None = None
    name: str | None = None  # of a detached one


def main(arguments: Sequence[str]) -> int:
    """The exit status of `labctl exec` with these words after it. LabctlError for its own failures."""
    given = words.read("exec", arguments, OPTIONS)
    return run(
        ExecRequest(
            node=given.node,
            command=given.command,
            lab=given.last("lab"),
            terminal=given.switch("terminal"),
            detach=given.switch("detach"),
            environment=given.all("environment"),
            directory=given.last("directory"),
            user=given.last("user"),
            name=given.last("name"),
        )
    )


def run(request: ExecRequest) -> int:
    """The command's own exit status (128 + n when signal n ended it), 126 or 127 when it cannot be run."""
    standard = open_standard_descriptors()  # before anything else can get a number of theirs
    check_command("exec", request.command)
    environment = environment_of(request.environment)
    if request.name is not None and not request.detach:
        raise InputError("labctl exec: --name is for a command that is detached. Add -d, or use labctl start.")
    with having(request.node, request.lab) as lab:
        if request.detach:
            from labctl.cli.programs import start_detached

            return start_detached(lab, request, environment)
        if request.terminal:
            return on_a_terminal(lab, request, environment)
        return in_the_foreground(lab, request, environment, standard)


Standard = tuple[int | None, int | None, int | None]


def in_the_foreground(lab: Lab, request: ExecRequest, environment: Mapping[str, str], standard: Standard) -> int:
    """Run the command with these descriptors for its own, passing signals on: its exit status, or 126 and 127."""
    with Signals() as signals:  # before the command can do anything: one that comes early is passed on, not obeyed
        try:
            process = spawn(lab, request, environment, standard)
        except KernelError as error:
            return status_of_refusal(error, request.command[0])
        with closing(process):
            return exit_status(wait_passing_signals(process, signals))


def spawn(
    lab: Lab,
    request: ExecRequest,
    environment: Mapping[str, str],
    standard: Standard = (None, None, None),
    *,
    terminal: tuple[int, int] | None = None,
) -> Process:
    """Start the command; in the directory that labctl was called in, if the host sees that, unless it says which."""
    is_given = request.directory is not None
    return lab.spawn(
        request.node,
        request.command,
        env=environment,
        cwd=request.directory if is_given else current_directory(),
        is_cwd_optional=not is_given,  # /tmp and /run are each host's own
        stdin=standard[0],
        stdout=standard[1],
        stderr=standard[2],
        user=request.user,
        terminal=terminal,
    )


def on_a_terminal(lab: Lab, request: ExecRequest, environment: Mapping[str, str]) -> int:
    """Run the command on a terminal of its own, keys and what it shows passed on: its exit status, or 126 and 127."""
    from labctl.cli.terminal import RawMode, Relay, window_of

    keyboard, output, _ = open_standard_descriptors()
    with ExitStack() as stack:
        if output is None:
            output = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            stack.callback(os.close, output)
        signals = stack.enter_context(Signals())
        try:
            process = spawn(lab, request, environment, terminal=window_of(keyboard, output))
        except KernelError as error:
            return status_of_refusal(error, request.command[0])
        stack.enter_context(closing(process))
        assert process.terminal is not None  # a terminal was asked for
        raw = RawMode(keyboard) if keyboard is not None else None
        return exit_status(Relay(process, process.terminal, signals, keyboard, output, raw).run())


def check_command(name: str, command: Sequence[str]) -> None:
    """InputError when there is none, or none that could be one."""
    if not command:
        raise InputError(f"labctl {name}: says no command. Try: labctl {name} NODE -- COMMAND")
    if any("\0" in word for word in command):
        raise InputError(f"labctl {name}: a null byte in the command.")


def environment_of(given: Sequence[str]) -> dict[str, str]:
    """What the command's environment has over the lab's: the terminal's and language's variables, then `-e`'s."""
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    for entry in given:
        name, has_value, value = entry.partition("=")
        if not name:
            raise InputError(f"-e {entry}: a variable is written NAME=VALUE, or NAME for the value that it has here.")
        if has_value:
            environment[name] = value
        elif name in os.environ:
            environment[name] = os.environ[name]
    return environment


def current_directory() -> str | None:
    """Where labctl was called; None when that has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def open_standard_descriptors() -> tuple[int | None, int | None, int | None]:
    """0, 1 and 2, or None for one that was closed before labctl began."""
    return (_if_open(0), _if_open(1), _if_open(2))


def _if_open(fd: int) -> int | None:
    try:
        os.fstat(fd)
    except OSError:
        return None
    return fd


def exit_status(returned: int) -> int:
    """As a shell has it: 128 + n for signal n."""
    return returned if returned >= 0 else 128 - returned


def status_of_refusal(error: KernelError, program: str) -> int:
    """Says why the command could not be run; 127 when it is not there, 126 when it cannot be executed."""
    from labctl.cli.main import complain

    if error.attempted != f"run {program}":
        raise error
    complain(str(error))
    return EXIT_NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else EXIT_CANNOT
