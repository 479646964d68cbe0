"""`labctl up` and `labctl inspect` as commands with options; wired into the command line by `register`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from labctl.cli import completion
from labctl.cli.ending import ends_with_status
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
    from labctl.cli.inspect_command import InspectFormat, show_lab

    return show_lab(lab, InspectFormat(format.value))


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command(short_help="Make a lab that stays, or change it.")(up)
    app.command(short_help="Show a lab as the kernel has it.")(inspect)
