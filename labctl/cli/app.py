"""The Typer application: every command of the table as a Typer command. It answers completion requests of shells.

`labctl` itself reads command lines without Typer, whose import takes longer than most commands (docs/decisions/0013).
Other programs can run the application, or add it to theirs: `their_app.add_typer(app, name="lab")`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

os.environ.setdefault("TYPER_USE_RICH", "0")  # Typer would import rich, 100 ms, for help that labctl prints itself
import typer
from typer.core import TyperCommand

from labctl.cli import completion
from labctl.cli.command_table import COMMANDS, SUMMARY, Command, Parameter


def _typer_command(command: Command) -> tuple[type[TyperCommand], Callable[..., None]]:
    """Return the class, with labctl's help, and a function with the command's parameters in its signature."""

    class WithHelp(TyperCommand):
        def get_help(self, ctx: Any) -> str:
            from labctl.cli.help import help_lines

            return "\n".join(help_lines(command))

    def carry_out(**values: object) -> None:
        from labctl.cli.command_line import values_of
        from labctl.cli.main import status_of

        raise typer.Exit(status_of(command, lambda: values_of(command, values)))

    carry_out.__annotations__ = {each.name: _annotation(each) for each in command.parameters}
    carry_out.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # inspect.signature reads it
        [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=carry_out.__annotations__[each.name],
                default=inspect.Parameter.empty if each.required else None,
            )
            for each in command.parameters
        ]
    )
    return WithHelp, carry_out


def _annotation(parameter: Parameter) -> Any:
    candidates = getattr(completion, parameter.completes) if parameter.completes else None
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
