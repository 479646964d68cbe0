"""Markdown for the site, generated from the code. A page includes it with `<!-- generated: NAME -->`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard

from labctl.cli.command_table import COMMANDS, HELP_OPTION, VERSION_OPTION, Parameter
from labctl.cli.help import meaning_of
from labctl.errors import LabctlError
from tools.reference.environment import VARIABLES
from tools.reference.schemas import Kind, mappings

ROOT = Path(__file__).resolve().parents[2]
_LEXERS = MappingProxyType({".yaml": "yaml", ".c": "c", ".py": "python"})
_ASKED = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)


def filled(page: str) -> str:
    """Return the page with its generated parts. Raises: ValueError for an unknown name."""

    def made(asked: re.Match[str]) -> str:
        if asked[1] not in _MAKERS:
            raise ValueError(f"unknown generated part {asked[1]}; known: {', '.join(_MAKERS)}")
        return "\n".join(_MAKERS[asked[1]]())

    return _ASKED.sub(made, page)


def _commands() -> Iterator[str]:
    yield from ("| command | what it does |", "|---|---|")
    for command in COMMANDS:
        yield f"| [`labctl {command.name}`](#labctl-{command.name}) | {_cell(command.summary)} |"
    yield from ("", "Options of `labctl` itself:", "", *_options((HELP_OPTION, VERSION_OPTION)))
    for command in COMMANDS:
        yield from ("", f"(labctl-{command.name})=", f"## labctl {command.name}", "")
        yield from ("```text", command.synopsis, "```", "")
        for paragraph in command.description.split("\n\n"):
            yield from (paragraph, "")
        if command.arguments:
            yield from ("| argument | meaning |", "|---|---|")
            yield from (f"| `{_cell(each.metavar)}` | {_cell(meaning_of(each))} |" for each in command.arguments)
            yield ""
        if command.options:
            yield from (*_options(command.options), "")
        if command.exit_status:
            yield f"Exit status: {'; '.join(command.exit_status)}."
        yield from ("", "```sh", command.example, "```")


def _options(options: tuple[Parameter, ...]) -> Iterator[str]:
    yield from ("| option | meaning |", "|---|---|")
    for option in options:
        names = ", ".join(f"`{name}`" for name in option.flags)
        value = f" `{_cell(option.metavar)}`" if option.metavar else ""
        yield f"| {names}{value} | {_cell(meaning_of(option))} |"


def _scenarios() -> Iterator[str]:
    """The index of shipped scenarios, followed by their files, to which it links."""
    folder = ROOT / "scenarios"
    files = {path.name: path for path in sorted(folder.iterdir()) if path.suffix in _LEXERS}
    index = (folder / "README.md").read_text()
    yield re.sub(r"\]\(([\w.-]+)\)", lambda link: f"](#file-{link[1]})" if link[1] in files else link[0], index)
    yield from ("", "## The files", "")
    for name, path in files.items():
        # Its name is a heading of the page, and of the list of contents beside it.
        yield from (
            f"(file-{name})=",
            f"### {name}",
            "",
            f"````{_LEXERS[path.suffix]}",
            path.read_text().rstrip("\n"),
            "````",
            "",
        )


def _schema(kind: Kind) -> Callable[[], Iterator[str]]:
    def made() -> Iterator[str]:
        for mapping in mappings(kind):
            title = f"## {mapping.name}" if mapping.name else "## Top level"
            yield from (title, "", mapping.meaning, "")
            if mapping.takes:
                yield from (f"Value: {mapping.takes}.", "")
            if mapping.keys:
                yield from ("| key | value | meaning |", "|---|---|---|")
            for key in mapping.keys:
                needed = " **Required.**" if key.required else f" Default: `{key.default}`." if key.default else ""
                yield f"| `{key.name}` | {_cell(key.takes)} | {_cell(key.meaning)}{needed} |"
            yield ""

    return made


def _exit_statuses() -> Iterator[str]:
    yield from ("| command | exit statuses |", "|---|---|")
    for command in COMMANDS:
        if command.exit_status:
            yield f"| `labctl {command.name}` | {_cell('; '.join(command.exit_status))} |"


def _errors() -> Iterator[str]:
    from labctl import errors
    from labctl.documents import diagnostics

    yield from ("| class | exit status | raised when |", "|---|---|---|")
    found = {each for module in (errors, diagnostics) for each in vars(module).values() if _is_error(each)}
    for each in sorted(found, key=lambda one: (one.exit_status, len(one.__mro__), one.__name__)):
        meaning = inspect.cleandoc(each.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        bases = ", ".join(f"`{base.__name__}`" for base in each.__bases__ if base is not Exception)
        parent = f" Subclass of {bases}." if bases else ""
        yield f"| `{each.__name__}` | {each.exit_status} | {_cell(meaning)}{parent} |"


def _is_error(value: object) -> TypeGuard[type[LabctlError]]:
    return isinstance(value, type) and issubclass(value, LabctlError)


def _environment() -> Iterator[str]:
    yield from ("| variable | meaning |", "|---|---|")
    yield from (f"| `{variable.name}` | {_cell(variable.meaning)} |" for variable in VARIABLES)


def _features() -> Iterator[str]:
    from labctl.scenario.loader import FEATURES

    yield ", ".join(f"`{name}`" for name in FEATURES) + "."


def _python() -> Iterator[str]:
    import labctl

    for name in sorted(getattr(labctl, "__all__", ()), key=str.lower):
        value = getattr(labctl, name)
        if inspect.isclass(value):
            is_error = issubclass(value, BaseException)
            members = "" if is_error else "   :members:\n"
            yield f"```{{eval-rst}}\n.. autoclass:: labctl.{name}\n{members}```\n"
        elif callable(value):
            yield f"```{{eval-rst}}\n.. autofunction:: labctl.{name}\n```\n"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


_MAKERS: Mapping[str, Callable[[], Iterator[str]]] = MappingProxyType(
    {
        "commands": _commands,
        "exit-statuses": _exit_statuses,
        "errors": _errors,
        "environment": _environment,
        "features": _features,
        "scenarios": _scenarios,
        "python": _python,
        **{f"{kind}-schema": _schema(kind) for kind in Kind},
    }
)
