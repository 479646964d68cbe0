"""The Typer application: every command of the table as a Typer command, and completion in shells.

`labctl` itself reads command lines without Typer, whose import takes longer than most commands (docs/decisions/0013).
Other programs can run the application, or add it to theirs: `their_app.add_typer(app, name="lab")`. Shells ask it for
completion, which prints no errors: a lab that does not answer has no candidates.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

os.environ.setdefault("TYPER_USE_RICH", "0")  # Typer would import rich, 100 ms, for help that labctl prints itself
import typer
from typer.core import TyperCommand

from labctl.cli.command_table import COMMANDS, COMPLETION_VARIABLE, SUMMARY, Command, Parameter
from labctl.errors import LabctlError

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab


LAB_TIMEOUT_S = 2.0  # a person waits

_ZSH_REGISTERED = "compdef _labctl_completion labctl"
# A file in a folder of fpath is the completing function's body: what only registers offers nothing at the first Tab.
_ZSH_REGISTERED_OR_LOADED = f"""\
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _labctl_completion "$@"
else
  {_ZSH_REGISTERED}
fi"""


def lab_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of running labs."""
    from labctl.lab.client import state_dir

    try:
        return [name for name in state_dir.labs() if name.startswith(incomplete) and name not in _given(context)]
    except (LabctlError, OSError):
        return []


def node_names(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Nodes of the running labs, or of the lab of --lab, each with the name of its lab."""
    return [
        (node, f"in lab {lab.name}")
        for lab in _labs(context.params.get("lab"))
        for node in lab.nodes
        if node.startswith(incomplete) and node not in _given(context)
    ]


def other_ends(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Nodes for the second end of a link: all except the first."""
    return [found for found in node_names(context, incomplete) if found[0] != context.params.get("first")]


def example_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of shipped scenarios and topologies, and files of this directory."""
    from labctl.cli import files

    names = (*files.shipped_scenarios(), *files.shipped_topologies())
    return _beside_files([name for name in names if name.startswith(incomplete)], incomplete)


def scenario_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of shipped scenarios, and files of this directory."""
    from labctl.cli import files

    return _beside_files([name for name in files.shipped_scenarios() if name.startswith(incomplete)], incomplete)


def topology_names(context: typer.Context, incomplete: str) -> list[str]:
    """Shapes, names of shipped topologies, and files of this directory."""
    from labctl.cli import files
    from labctl.topology.draft import SHAPES

    names = [name for name in dict.fromkeys([*SHAPES, *files.shipped_topologies()]) if name.startswith(incomplete)]
    return _beside_files(
        [name if name in ("pair", *files.shipped_topologies()) else f"{name}:" for name in names], incomplete
    )


def link_values(context: typer.Context, incomplete: str) -> list[str]:
    """`delay=` and the other keys after `set`."""
    if context.params.get("action") != "set":
        return []
    return [f"{key}=" for key in ("delay", "jitter", "loss", "rate") if f"{key}=".startswith(incomplete)]


def commands(context: typer.Context, incomplete: str) -> list[str]:
    """Programs on PATH for the first word of a command. The shell completes paths and the other words."""
    if "/" in incomplete or any(word != "--" for word in context.params.get("command") or ()):
        return []
    found: set[str] = set()
    for directory in os.get_exec_path():
        with suppress(OSError), os.scandir(directory) as entries:
            found.update(entry.name for entry in entries if entry.name.startswith(incomplete))
    return sorted(found)


def _beside_files(names: list[str], incomplete: str) -> list[str]:
    """Names and matching files; [] without a name, so that the shell completes files in its own way."""
    directory, slash, start = incomplete.rpartition("/")
    if not names:
        return []
    found = []
    with suppress(OSError), os.scandir(directory or slash or ".") as entries:
        for entry in entries:
            if entry.name.startswith(start) and not entry.name.startswith("."):
                if entry.is_dir():
                    found.append(f"{directory}{slash}{entry.name}/")
                elif entry.name.endswith((".yaml", ".yml")):
                    found.append(f"{directory}{slash}{entry.name}")
    return [*sorted(found), *names]


def node_paths(context: typer.Context, incomplete: str) -> list[str]:
    """`NODE:` for `labctl cp`. The shell completes a word with `:` or `/`, which is a path."""
    if ":" in incomplete or "/" in incomplete:
        return []
    return [f"{node}:" for node, _ in node_names(context, incomplete)]


def process_names(context: typer.Context, incomplete: str) -> list[str]:
    """NODE/NAME of the background programs, or NAME if the word begins so; only running ones for `stop`."""
    found = []
    with_ended = context.info_name != "stop"
    for lab in _labs(context.params.get("lab")):
        with _silently():
            programs = [
                each for each in lab.processes() if each.is_detached and (with_ended or each.state.value != "ended")
            ]
            found += [f"{each.node}/{each.name}" for each in programs]
            found += [each.name for each in programs if incomplete]
    given = _given(context)
    return [name for name in dict.fromkeys(found) if name.startswith(incomplete) and name not in given]


def completion(shell: str) -> int:
    """Print the script that makes the shell complete labctl's words."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # not in its __all__

    from labctl.report.terminal import standard_output

    script: str = get_completion_script(prog_name="labctl", complete_var=COMPLETION_VARIABLE, shell=shell)
    if shell == "zsh":
        script = script.replace(_ZSH_REGISTERED, _ZSH_REGISTERED_OR_LOADED)
    standard_output().write(script.split("\n"))
    return 0


def _given(context: typer.Context) -> set[str]:
    """Words that an argument with several values has already."""
    return {word for words in context.params.values() if isinstance(words, list | tuple) for word in words}


def _labs(name: object) -> Iterator[Lab]:
    from labctl.lab.client import state_dir
    from labctl.lab.client.handle import Lab

    with _silently():
        for each in state_dir.labs():
            if name in (None, "", each):
                with _silently(), Lab.attach(each, deadline_s=LAB_TIMEOUT_S) as lab:
                    yield lab


@contextmanager
def _silently() -> Iterator[None]:
    """A context that errors of labs and of the machine end silently."""
    try:
        yield
    except (LabctlError, OSError):
        return


def _typer_command(command: Command) -> tuple[type[TyperCommand], Callable[..., None]]:
    """Return the class, with labctl's help, and a function with the command's parameters in its signature."""

    class WithHelp(TyperCommand):
        def get_help(self, ctx: Any) -> str:
            from labctl.cli.help import help_lines

            return "\n".join(help_lines(command))

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if ctx.resilient_parsing:  # for completion
                return super().parse_args(ctx, args)
            ctx.args = args
            return args

        def invoke(self, ctx: Any) -> None:
            from labctl.cli.command_line import read, status_of

            raise typer.Exit(status_of(command, lambda: read(command, ctx.args)))

    def declared(**values: object) -> None:
        """Declare the parameters to Typer. It is not called: `invoke` carries the command out."""

    declared.__annotations__ = {each.name: _annotation(each) for each in command.parameters}
    declared.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # inspect.signature reads it
        [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=declared.__annotations__[each.name],
                default=inspect.Parameter.empty if each.required else None,
            )
            for each in command.parameters
        ]
    )
    return WithHelp, declared


def _annotation(parameter: Parameter) -> Any:
    candidates = globals()[parameter.completes] if parameter.completes else None
    if parameter.flags and not parameter.metavar:
        return Annotated[bool, typer.Option(*parameter.flags)]
    kind: Any = Literal[parameter.choices] if parameter.choices else list[str] if parameter.many else str
    if parameter.flags:
        return Annotated[
            kind | None, typer.Option(*parameter.flags, metavar=parameter.metavar, autocompletion=candidates)
        ]
    return Annotated[
        kind if parameter.required else kind | None,
        typer.Argument(metavar=parameter.metavar, autocompletion=candidates),
    ]


app = typer.Typer(name="labctl", help=SUMMARY, context_settings={"help_option_names": ["-h", "--help"]})
for _each in COMMANDS:
    _class, _function = _typer_command(_each)
    _settings = {"allow_interspersed_args": not _each.takes_command}
    app.command(_each.name, cls=_class, help=_each.summary, context_settings=_settings)(_function)
