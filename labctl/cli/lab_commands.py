"""The commands that use a running lab, and their options.

`exec`, `shell`, `start` and `ps` are read without Typer (main.py); here they have their help and their completion.

`labctl up` and `labctl inspect` as commands with options.

The whole command line: what needs no running lab, and what makes and uses one.

Typer takes a millisecond a command to prepare: `labctl run` and its neighbours in app.py are started without this.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from labctl.cli import completion
from labctl.cli.app import app
from labctl.cli.exit import ends_with_status
from labctl.errors import InputError


class InspectWord(StrEnum):
    """How `labctl inspect` prints."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@ends_with_status
def up(
    topology: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPOLOGY",
            autocompletion=completion.topology_names,
            help="A topology file, a shape, or the name of a shipped topology.",
        ),
    ] = None,
    topo: Annotated[
        str | None,
        typer.Option(
            "--topo",
            metavar="SHAPE",
            autocompletion=completion.topology_names,
            help="pair, star:10, line:5, tree:2,3 or mesh:6.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="LAB", autocompletion=completion.lab_names, help="The lab's name; else the topology's."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
) -> int:
    """Make a lab that stays until labctl down; or change the running lab of that name to what the file says now.

    Only the difference is made: what is the same keeps running, with its open connections. A change is carried out
    whole or, when something is refused, not at all.
    """
    from labctl.cli.up import UpRequest, bring_up

    if (topology is None) == (topo is None):
        raise InputError("labctl up: give one topology, a file or a shape such as star:10. See labctl up --help")
    return bring_up(UpRequest(topology or topo or "", name, dry_run))


@ends_with_status
def inspect(
    lab: Annotated[
        str | None, typer.Argument(metavar="LAB", autocompletion=completion.lab_names, help="The only one if not said.")
    ] = None,
    format: Annotated[
        InspectWord, typer.Option("--format", "-f", help="json and yaml: see labctl schema inspect.")
    ] = InspectWord.TABLE,
) -> int:
    """Show a lab as the kernel has it: nodes, interfaces, addresses, routes, links, processes.

    Where that differs from the file, because somebody changed it by hand, it says so.
    """
    from labctl.cli.network import InspectFormat, show_lab

    return show_lab(lab, InspectFormat(format.value))


LabName = Annotated[
    str | None,
    typer.Option(
        "--lab",
        metavar="LAB",
        autocompletion=completion.lab_names,
        help="The lab; needed when several run and NODE does not tell which. $LABCTL_LAB says it too.",
    ),
]
Node = Annotated[str, typer.Argument(metavar="NODE", autocompletion=completion.node_names, help="A node of the lab.")]
Command = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="-- COMMAND...",
        autocompletion=completion.commands,
        help="The program and its arguments.",
        show_default=False,
    ),
]
Environment = Annotated[
    list[str] | None,
    typer.Option("-e", "--env", metavar="K=V", help="Set a variable; K alone passes the value that it has here."),
]
Directory = Annotated[
    str | None, typer.Option("-w", "--workdir", metavar="DIR", help="Where it runs; else here, if the host sees that.")
]
User = Annotated[str | None, typer.Option("-u", "--user", metavar="USER", help="As whom it runs: a name or a number.")]
_ENDS_IN_A_COMMAND = {"allow_interspersed_args": False, "ignore_unknown_options": True}


class ListFormat(StrEnum):
    """How lists are printed."""

    TABLE = "table"
    JSON = "json"


class LinkWord(StrEnum):
    """What is to be done with a link."""

    DOWN = "down"
    UP = "up"
    SET = "set"
    CLEAR = "clear"
    SHOW = "show"


class RestartWord(StrEnum):
    """When a program is started again."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@ends_with_status
def exec_(
    node: Node,
    command: Command = None,
    lab: LabName = None,
    tty: Annotated[bool, typer.Option("-t", "--tty", help="Give it a terminal of its own.")] = False,
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Pass standard input on, which is done anyway.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("-d", "--detach", help="Let it run on, as labctl start does, and print its name.")
    ] = False,
    env: Environment = None,
    workdir: Directory = None,
    user: User = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="With -d: what it is called.")] = None,
) -> int:
    """Run a command on a node as if it were run here: its standard input and output, its signals, its exit status.

    Exit status: the command's own, 128 + N when signal N ended it; 125 when labctl itself failed, 126 when the command
    cannot be executed, 127 when it is not there.
    """
    from labctl.cli.exec import ExecRequest, run

    return run(
        ExecRequest(node, tuple(command or ()), lab, tty, detach, tuple(env or ()), workdir, user, name),
    )


@ends_with_status
def shell(
    node: Node,
    lab: LabName = None,
    env: Environment = None,
    workdir: Directory = None,
    user: User = None,
) -> int:
    """Your own shell on a node, with a real terminal: job control, editing and completion as usual.

    The prompt says the host. The exit status is the shell's own.
    """
    from labctl.cli.terminal import open_shell

    return open_shell(node, lab, tuple(env or ()), workdir, user)


@ends_with_status
def console(
    lab: Annotated[
        str | None, typer.Argument(metavar="LAB", autocompletion=completion.lab_names, help="The only one if not said.")
    ] = None,
) -> int:
    """A prompt for a lab: `h1 ping -c1 h2`, `h1,h2 hostname`, `@all ip address`, `nodes`, `pingall`, `help`.

    Reads commands from a file or pipe as well; the exit status is then that of the first that failed.
    """
    from labctl.cli.console import run_console

    return run_console(lab)


@ends_with_status
def ps(
    labs: Annotated[
        list[str] | None,
        typer.Argument(metavar="LAB", autocompletion=completion.lab_names, help="Show what runs in these."),
    ] = None,
    format: Annotated[ListFormat, typer.Option("--format", "-f", help="json: with the nodes and processes.")] = (
        ListFormat.TABLE
    ),
) -> int:
    """List the running labs: age, nodes, processes, owner; or, of the labs named, their processes."""
    from labctl.cli.ps import show

    return show(labs or [], format.value)


@ends_with_status
def down(
    labs: Annotated[
        list[str] | None,
        typer.Argument(metavar="LAB", autocompletion=completion.lab_names, help="The only one if not said."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every lab of yours.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Without asking a keeper that may not answer.")] = False,
) -> int:
    """End labs, with every program in them; returns when they are gone."""
    from labctl.cli.up import end_labs

    return end_labs(labs or [], every=every, force=force)


@ends_with_status
def start(
    node: Node,
    command: Command = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What it is called.")] = None,
    restart: Annotated[RestartWord, typer.Option("--restart", help="When it is started again.")] = RestartWord.NO,
    lab: LabName = None,
    env: Environment = None,
    workdir: Directory = None,
    user: User = None,
) -> int:
    """Start a program on a node that runs on when this command is done; see it with labctl ps LAB and labctl logs.

    Prints NODE/NAME.
    """
    from labctl.cli.exec import ExecRequest
    from labctl.cli.programs import start as start_program

    request = ExecRequest(node, tuple(command or ()), lab, False, True, tuple(env or ()), workdir, user, name)
    return start_program(request, restart.value)


@ends_with_status
def stop(
    processes: Annotated[
        list[str],
        typer.Argument(
            metavar="PROCESS",
            autocompletion=completion.process_names,
            help="NODE/NAME, or NAME, or NODE for all that was started there.",
        ),
    ],
    lab: LabName = None,
) -> int:
    """End programs that were started with labctl start, or services: SIGTERM, and SIGKILL after two seconds."""
    from labctl.cli.programs import stop as stop_programs

    return stop_programs(processes, lab)


@ends_with_status
def logs(
    processes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NODE|NAME|NODE/NAME]", autocompletion=completion.process_names, help="All of them if not said."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Show what comes, until they have ended.")] = False,
    lines: Annotated[int | None, typer.Option("-n", "--lines", metavar="N", min=0, help="Only the last N lines.")] = (
        None
    ),
    lab: LabName = None,
) -> int:
    """Show what started programs and services have written, standard output and error together."""
    from labctl.cli.programs import show_logs

    return show_logs(processes or [], follow=follow, lab_name=lab, lines=lines)


@ends_with_status
def link(
    a: Annotated[str, typer.Argument(metavar="A", autocompletion=completion.node_names, help="A node, or NODE:IF.")],
    b: Annotated[str, typer.Argument(metavar="B", autocompletion=completion.other_ends, help="Another.")],
    action: Annotated[LinkWord, typer.Argument(metavar="down|up|set|clear|show")] = LinkWord.SHOW,
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            autocompletion=completion.link_values,
            help="Of set: delay=20ms, jitter=2ms, loss=1%, rate=10mbit.",
        ),
    ] = None,
    sender: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NODE",
            autocompletion=completion.node_names,
            help="Only packets that this one sends; else both directions, each.",
        ),
    ] = None,
    lab: LabName = None,
) -> int:
    """Take the links between two nodes down, bring them up with all they had, or show how they are.

    `set` delays, varies, loses or slows down their packets from now on: what is not named, does not happen. `clear`
    lets them all pass.
    """
    from labctl.cli.network import LinkAction, Order, change_link

    return change_link(a, b, Order(LinkAction(action.value), tuple(values or ()), sender), lab)


@ends_with_status
def ping(
    nodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="NODE", autocompletion=completion.node_names, help="These only."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Routers too, not only hosts.")] = False,
    every_pair: Annotated[
        bool, typer.Option("--every-pair", help="All pairs of more than 100 nodes, not a sample.")
    ] = False,
    lab: LabName = None,
) -> int:
    """Show which host reaches which, by IPv4 and by IPv6. Exit status 1 when an address is unreachable.

    Of more than 100 nodes a sample of the pairs is tested, in which each node asks and is asked by as many others.
    """
    from labctl.cli.network import show_reachability

    return show_reachability(nodes or [], routers=every, every_pair=every_pair, lab_name=lab)


@ends_with_status
def cp(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE... TARGET",
            autocompletion=completion.node_places,
            help="NODE:/PATH, or a path of this machine.",
        ),
    ],
    lab: LabName = None,
) -> int:
    """Copy files and directories between hosts and this machine, modes and times kept."""
    from labctl.cli.cp import copy

    if len(paths) < 2:
        raise InputError("labctl cp: says no TARGET. Try: labctl cp FILE NODE:/tmp/")
    return copy(paths[:-1], paths[-1], lab)


@ends_with_status
def env(node: Node, lab: LabName = None) -> int:
    """Print the lines with which ip, nsenter and tcpdump reach a node."""
    from labctl.cli.exec import show_ways

    return show_ways(node, lab)


@ends_with_status
def gc() -> int:
    """Sweep what dead labs of yours have left: dangling names and logs. Nothing else is touched."""
    from labctl.cli.up import collect_garbage

    return collect_garbage()


@ends_with_status
def doctor(
    format: Annotated[ListFormat, typer.Option("--format", "-f", help="json: for programs.")] = ListFormat.TABLE,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Change by sudo the settings that keep you from making labs; print each command."),
    ] = False,
) -> int:
    """Show what this machine can do for labs and what not, with the remedy. Exit status 0 when labs can run."""
    if fix:
        from labctl.cli.doctor import apply

        return apply()
    from labctl.cli.doctor import examine

    return examine(format.value)


@ends_with_status
def complete(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="For which shell.")],
) -> int:
    """Print the script that makes Tab complete labs, nodes and options: eval "$(labctl completion bash)"."""
    return completion.print_script(shell)


_ENDS = {"context_settings": _ENDS_IN_A_COMMAND}
app.command(short_help="Make a lab that stays, or change it.")(up)
app.command(short_help="Show a lab as the kernel has it.")(inspect)
app.command("exec", short_help="Run a command on a node.", **_ENDS)(exec_)  # type: ignore[arg-type]
app.command(short_help="Open a shell on a node.")(shell)
app.command(short_help="A prompt for all nodes of a lab.")(console)
app.command(short_help="List running labs, or what runs in one.")(ps)
app.command(short_help="End labs.")(down)
app.command(short_help="Start a program that runs on.", **_ENDS)(start)  # type: ignore[arg-type]
app.command(short_help="End started programs.")(stop)
app.command(short_help="Show what started programs wrote.")(logs)
app.command(short_help="Pull a cable, plug it in, make it a bad one.")(link)
app.command(short_help="Show who reaches whom.")(ping)
app.command(short_help="Copy files to and from hosts.")(cp)
app.command(short_help="Show how other tools reach a node.")(env)
app.command(short_help="Sweep what dead labs left.")(gc)
app.command(short_help="Show what this machine can do.")(doctor)
app.command("completion", short_help="Print the shell's completion script.")(complete)

__all__ = ["app"]
