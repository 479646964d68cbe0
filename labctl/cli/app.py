"""The commands and their options. Bodies import what they need, so that a command pays for itself only."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from labctl.errors import InputError, LabctlError

P = ParamSpec("P")

app = typer.Typer(
    name="labctl",
    help="Small networks of Linux network namespaces, and scenarios that run servers and clients across them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class PlanFormat(StrEnum):
    """How `labctl plan` prints."""

    TEXT = "text"
    JSON = "json"
    SH = "sh"


class SchemaKind(StrEnum):
    """The published schemas."""

    TOPOLOGY = "topology"
    SCENARIO = "scenario"
    RESULT = "result"


def ends_with_status(command: Callable[P, int]) -> Callable[P, None]:
    """Makes a function that gives an exit status a command; labctl's own errors become a message and their status."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from labctl.cli.main import complain, report_bug

        try:
            status = command(*args, **kwargs)
        except LabctlError as error:
            complain(str(error))
            status = error.exit_status
        except Exception as error:  # noqa: BLE001  # typer would print it in its own way; reported in full
            status = report_bug(error)
        raise SystemExit(status)

    return wrapped


def _show_version(wanted: bool) -> None:
    if wanted:
        from labctl import __version__

        typer.echo(f"labctl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Small networks of Linux network namespaces, and scenarios that run servers and clients across them."""


@app.command(short_help="Run scenarios and show what each host called.")
@ends_with_status
def run(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO",
            help="Scenario files, directories with scenarios in them, or names of shipped scenarios (tcp-echo).",
        ),
    ],
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", metavar="N", min=1, help="Run N scenarios at a time, each in its own lab.")
    ] = 1,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the results as JUnit XML to FILE.")
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the results as JSON to FILE; - for standard output."),
    ] = None,
    keep_on_failure: Annotated[
        bool,
        typer.Option("--keep-on-failure", help="Keep the lab of a failed scenario, to look inside, until Enter."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show every conversation, and program output as it comes.")
    ] = False,
    topo: Annotated[
        str | None,
        typer.Option(
            "--topo", metavar="SHAPE", help="Run on this topology instead: pair, star:10, line:5, ..., or a file."
        ),
    ] = None,
) -> int:
    """Run scenarios, each in a lab of its own, and say what each host called and what came back.

    Exit status: 0 all passed (skipped ones are shown), 1 an expectation failed, 2 a file or the command line is wrong,
    3 this machine cannot run it, 4 the lab itself failed.
    """
    from labctl.cli.run import RunRequest, run_scenarios

    return run_scenarios(RunRequest(tuple(paths), jobs, junit, json, keep_on_failure, verbose, topo), context.obj)


@app.command(short_help="Check topologies and scenarios; builds nothing.")
@ends_with_status
def validate(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Topologies, scenarios, directories with them, or shipped names."),
    ],
) -> int:
    """Check topologies and scenarios, without privilege and without building anything."""
    from labctl.cli.check import validate_files

    return validate_files(paths)


@app.command(short_help="Show what would be made of a topology.")
@ends_with_status
def plan(
    topology: Annotated[
        str | None,
        typer.Argument(metavar="TOPOLOGY", help="A topology file, a shape, or the name of a shipped topology."),
    ] = None,
    topo: Annotated[
        str | None, typer.Option("--topo", metavar="SHAPE", help="pair, star:10, line:5, tree:2,3 or mesh:6.")
    ] = None,
    format: Annotated[
        PlanFormat,
        typer.Option("--format", "-f", help="sh: a script of ip commands that builds the same network."),
    ] = PlanFormat.TEXT,
) -> int:
    """Show what would be made of a topology; nothing is built."""
    from labctl.cli.check import show_plan

    if (topology is None) == (topo is None):
        raise InputError("labctl plan: give one topology, a file or a shape such as star:10. See labctl plan --help")
    return show_plan(topology or topo or "", format)


@app.command(short_help="List what ships with labctl.")
@ends_with_status
def examples() -> int:
    """List the scenarios and topologies that ship with labctl, with a sentence each."""
    from labctl.cli.start import list_examples

    return list_examples()


@app.command(short_help="Write a starter topology, scenario and test.")
@ends_with_status
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made when it is not there.")],
) -> int:
    """Write a commented starter topology, scenario and test into DIR; existing files are never overwritten."""
    from labctl.cli.start import write_starter

    return write_starter(directory)


@app.command(short_help="Print the JSON Schema of a kind of file.")
@ends_with_status
def schema(
    kind: Annotated[SchemaKind, typer.Argument(metavar="topology|scenario|result", help="Which one.")],
) -> int:
    """Print a JSON Schema: of topology or scenario files for editors, of results for readers of --json."""
    from labctl.cli.check import show_schema

    return show_schema(kind)
