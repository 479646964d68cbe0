"""The Typer application: every command of the table as a Typer command, and completion in shells.

`labctl` itself reads command lines and completes them without Typer, whose import takes longer than most commands
(docs/decisions/0013). Other programs can run the application, or add it to theirs:
`their_app.add_typer(app, name="lab")`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

os.environ.setdefault("TYPER_USE_RICH", "0")  # Typer would import rich, 100 ms, for help that labctl prints itself
import typer
from typer.core import TyperCommand

from labctl.cli.command_table import COMMANDS, COMPLETION_VARIABLE, SUMMARY, Command, Parameter
from labctl.cli.completion import Given, candidates_for

_ZSH_REGISTERED = "compdef _labctl_completion labctl"
# A file in a folder of fpath is the completing function's body: what only registers offers nothing at the first Tab.
_ZSH_REGISTERED_OR_LOADED = f"""\
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _labctl_completion "$@"
else
  {_ZSH_REGISTERED}
fi"""


def completion(shell: str) -> int:
    """Print the script that makes the shell complete labctl's words."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # not in its __all__

    from labctl.report.terminal import standard_output

    script: str = get_completion_script(prog_name="labctl", complete_var=COMPLETION_VARIABLE, shell=shell)
    if shell == "zsh":
        script = script.replace(_ZSH_REGISTERED, _ZSH_REGISTERED_OR_LOADED)
    standard_output().write(script.split("\n"))
    return 0


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


def _candidates(parameter: Parameter) -> Callable[[typer.Context, str], list[Any]]:
    def candidates(context: typer.Context, incomplete: str) -> list[Any]:
        return candidates_for(parameter, Given(context.info_name or "", context.params), incomplete)

    return candidates


def _annotation(parameter: Parameter) -> Any:
    candidates = _candidates(parameter) if parameter.completes else None
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
