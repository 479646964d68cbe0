"""The commands that need no running lab, and their options; the others join them in `all_commands`.

Bodies import what they need, so that a command pays for itself only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from labctl.cli import completion
from labctl.cli.completion import VARIABLE
from labctl.cli.exit import ends_with_status
from labctl.errors import InputError
from labctl.printable import one_line
from labctl.scenario.model import LARGEST_SEED


class _Commands(TyperGroup):
    """The commands. What is wrong with a command line is told with its words made printable."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent's; here the words before the command are read."""
        with _told_in_printable_words():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """As the parent's; here the words of the command are read."""
        with _told_in_printable_words():
            return super().invoke(ctx)


@contextmanager
def _told_in_printable_words() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # typer keeps the class of its usage errors to itself; all of them, and none of labctl's, have a message.
        message, context = getattr(error, "message", None), getattr(error, "ctx", None)
        is_help = context is not None and message == context.get_help()  # of `labctl` without a word
        if isinstance(message, str) and not is_help:
            # A value that is refused comes with pydantic's word for that.
            error.message = one_line(message).removeprefix("Value error, ")  # type: ignore[attr-defined]  # see above
        raise


app = typer.Typer(
    name="labctl",
    cls=_Commands,
    help="Small networks of Linux network namespaces, and scenarios that run servers and clients across them.",
    no_args_is_help=True,
    add_completion=VARIABLE in os.environ,  # loading it costs every other command time
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
    INSPECT = "inspect"


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
            autocompletion=completion.scenario_names,
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
            "--topo",
            metavar="TOPOLOGY",
            autocompletion=completion.topology_names,
            help="Run on this topology instead: pair, star:10, line:5, ..., a file, or a shipped name.",
        ),
    ] = None,
    lab: Annotated[
        str | None,
        typer.Option(
            "--lab",
            metavar="LAB",
            autocompletion=completion.lab_names,
            help="Run in this running lab, which is left as it was found, instead of one of its own.",
        ),
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            "--artifacts", metavar="DIR", help="Write all results, calls and program outputs to files below DIR."
        ),
    ] = None,
    durations: Annotated[
        Path | None,
        typer.Option(
            "--durations", metavar="FILE", help="How long scenarios took: read by --shard, updated by every run."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="K/N", help="Run the K-th of N parts, which take about as long as each other."),
    ] = None,
    repeat: Annotated[
        int | None, typer.Option("--repeat", metavar="N", min=1, help="Run every scenario N times.")
    ] = None,
    until_fail: Annotated[
        bool,
        typer.Option("--until-fail", help="Run again and again (with --repeat at most N times) until one fails."),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            max=LARGEST_SEED,
            help="What everything random comes from (programs: LABCTL_SEED); else it is drawn, and told on a failure.",
        ),
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Run the scenarios in an order that comes from the seed.")
    ] = False,
) -> int:
    """Run scenarios, each in a lab of its own, and say what each host called and what came back.

    Exit status: 0 all passed (skipped ones are shown), 1 an expectation failed, 2 a file or the command line is wrong,
    3 this machine cannot run it, 4 the lab itself failed.
    """
    from labctl.cli.run import RunRequest, run_scenarios

    request = RunRequest(
        words=tuple(paths),
        jobs=jobs,
        junit=junit,
        json=json,
        keep_on_failure=keep_on_failure,
        verbose=verbose,
        topology=topo,
        lab=lab,
        artifacts=artifacts,
        durations=durations,
        shard=shard,
        repeat=repeat,
        until_fail=until_fail,
        seed=seed,
        shuffle=shuffle,
    )
    return run_scenarios(request, context.obj)


@app.command(short_help="Check topologies and scenarios; builds nothing.")
@ends_with_status
def validate(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            autocompletion=completion.example_names,
            help="Topologies, scenarios, directories with them, or shipped names.",
        ),
    ],
) -> int:
    """Check topologies and scenarios, without privilege and without building anything."""
    from labctl.cli.examples import validate_files

    return validate_files(paths)


@app.command(short_help="Show what would be made of a topology.")
@ends_with_status
def plan(
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
    format: Annotated[
        PlanFormat,
        typer.Option("--format", "-f", help="sh: a script of ip commands that builds the same network."),
    ] = PlanFormat.TEXT,
    lab: Annotated[
        str | None,
        typer.Option(
            "--lab", metavar="LAB", autocompletion=completion.lab_names, help="What labctl up would change in this lab."
        ),
    ] = None,
) -> int:
    """Show what would be made of a topology, or changed in a running lab; nothing is done."""
    from labctl.cli.examples import show_plan

    if (topology is None) == (topo is None):
        raise InputError("labctl plan: give one topology, a file or a shape such as star:10. See labctl plan --help")
    if lab is not None:
        from labctl.cli.up import show_difference

        if format is PlanFormat.SH:
            raise InputError("labctl plan: a difference is not told as a script; with --lab say --format text or json.")
        return show_difference(topology or topo or "", lab, as_json=format is PlanFormat.JSON)
    return show_plan(topology or topo or "", format)


@app.command(short_help="List what ships with labctl.")
@ends_with_status
def examples(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", autocompletion=completion.example_names, help="Print this one's file."),
    ] = None,
    copy_to: Annotated[
        Path | None,
        typer.Option("--copy", metavar="DIR", help="Copy the file, and the files that it uses, into DIR."),
    ] = None,
) -> int:
    """List the scenarios and topologies that ship with labctl in the order to read them; or show or copy one.

    Example: labctl examples tcp-echo --copy mine && labctl run mine/tcp-echo.yaml
    """
    from labctl.cli.examples import copy_example, list_examples, show_example

    if copy_to is not None:
        if name is None:
            raise InputError("labctl examples: cannot copy: no NAME is given. Try: labctl examples tcp-echo --copy DIR")
        return copy_example(name, copy_to)
    return list_examples() if name is None else show_example(name)


@app.command(short_help="Write a starter topology, scenario and test.")
@ends_with_status
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made when it is not there.")],
) -> int:
    """Write a commented starter topology, scenario and test into DIR; existing files are never overwritten."""
    from labctl.cli.examples import write_starter

    return write_starter(directory)


@app.command(short_help="Print the JSON Schema of a kind of file.")
@ends_with_status
def schema(
    kind: Annotated[SchemaKind, typer.Argument(metavar="topology|scenario|result|inspect", help="Which one.")],
) -> int:
    """Print a JSON Schema: of topology or scenario files for editors, of results and inspect for readers of JSON."""
    from labctl.cli.examples import show_schema

    return show_schema(kind)
