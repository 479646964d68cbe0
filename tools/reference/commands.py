"""The command line as its Typer definitions have it: every command, argument and option."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

_EXIT = "Exit status: "


@dataclass(frozen=True, slots=True)
class Argument:
    """A word after the command's name; `metavar` without brackets and dots."""

    metavar: str
    help: str
    required: bool
    repeatable: bool

    @property
    def usage(self) -> str:
        """As a synopsis shows it."""
        word = self.metavar + ("..." if self.repeatable and not self.metavar.endswith((".", "TARGET")) else "")
        return word if self.required else f"[{word}]"


@dataclass(frozen=True, slots=True)
class Option:
    """An option; `value` is the name of what follows it, empty for a switch."""

    names: tuple[str, ...]
    value: str
    help: str
    default: str
    repeatable: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its docstring's paragraphs, and what it says of its exit status."""

    name: str
    summary: str
    description: tuple[str, ...]
    exit_status: str
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]


def commands() -> tuple[Command, ...]:
    """All commands, in the order in which `labctl --help` lists them."""
    from labctl.cli.lab_commands import app

    return tuple(
        _command(info.name or str(getattr(info.callback, "__name__", "")), info.short_help or "", info.callback)
        for info in app.registered_commands
        if info.callback is not None and not info.hidden
    )


def common_options() -> tuple[Option, ...]:
    """Those of `labctl` itself."""
    from labctl.cli.app import options

    return (*_command("labctl", "", options).options, Option(("-h", "--help"), "", "Show help and exit.", "", False))


def _command(name: str, summary: str, function: Callable[..., Any]) -> Command:
    hints = get_type_hints(function, include_extras=True)
    arguments, options = [], []
    for parameter in inspect.signature(function).parameters.values():
        annotation = hints[parameter.name]
        for info in get_args(annotation)[1:]:
            if isinstance(info, ArgumentInfo):
                arguments.append(_argument(parameter, get_args(annotation)[0], info))
            elif isinstance(info, OptionInfo):
                options.append(_option(parameter, get_args(annotation)[0], info))
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(function.__doc__ or "").split("\n\n")]
    return Command(
        name=name,
        summary=summary,
        description=tuple(part for part in paragraphs if not part.startswith(_EXIT)),
        exit_status=next((part.removeprefix(_EXIT) for part in paragraphs if part.startswith(_EXIT)), ""),
        arguments=tuple(arguments),
        options=tuple(options),
    )


def _argument(parameter: inspect.Parameter, kind: Any, info: ArgumentInfo) -> Argument:
    metavar = info.metavar or parameter.name.upper()
    return Argument(
        metavar=metavar.strip("[]") if metavar.startswith("[") else metavar,
        help=info.help or "",
        required=parameter.default is inspect.Parameter.empty,
        repeatable=_takes_many(kind),
    )


def _option(parameter: inspect.Parameter, kind: Any, info: OptionInfo) -> Option:
    # In Annotated[..., Option("-j", "--jobs")] the first name stands where a default would.
    said = (info.default, *(info.param_decls or ()))
    names = [name for name in said if isinstance(name, str) and name.startswith("-")]
    choices = _choices(kind)
    is_switch = bool in _kinds(kind)
    value = "" if is_switch else info.metavar or "|".join(choices) or _noun(kind)
    default = parameter.default
    if default is None or is_switch or default is inspect.Parameter.empty:
        shown = ""
    else:
        shown = str(default.value if isinstance(default, Enum) else default)
    return Option(
        names=tuple(sorted(names or [f"--{parameter.name.replace('_', '-')}"], key=len)),
        value=value,
        help=info.help or "",
        default=shown,
        repeatable=_takes_many(kind),
    )


def _kinds(kind: Any) -> list[Any]:
    """The types that a union is of, without None; of another type, it alone."""
    members = [member for member in get_args(kind) if member is not NoneType]
    return members if NoneType in get_args(kind) else [kind]


def _takes_many(kind: Any) -> bool:
    return any(getattr(member, "__origin__", None) in (list, tuple) for member in _kinds(kind))


def _choices(kind: Any) -> list[str]:
    enums = [member for member in _kinds(kind) if isinstance(member, type) and issubclass(member, Enum)]
    return [str(each.value) for enum in enums for each in enum]


def _noun(kind: Any) -> str:
    return {"int": "N", "float": "N", "Path": "PATH"}.get(getattr(_kinds(kind)[0], "__name__", ""), "TEXT")
