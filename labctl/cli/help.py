"""`labctl --help` and `labctl COMMAND --help`: text in 80 columns, headings painted on a terminal."""

from __future__ import annotations

from itertools import groupby

from labctl.cli.command_table import COMMANDS, GROUPS, HELP_OPTION, SUMMARY, VERSION_OPTION, Command, Parameter
from labctl.report.terminal import Ink, Look, Screen, cells, pad, standard_output, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDEST_TERM = 22


def show_overview(screen: Screen) -> None:
    """Write all commands in their groups to the screen."""
    look = screen.look
    lines = [f"{look.paint('Usage:', Ink.STRONG)} labctl COMMAND [OPTIONS] [ARGUMENTS]", "", *_wrapped(SUMMARY, look)]
    width = max(len(command.name) for command in COMMANDS)
    for group in GROUPS:
        rows = [(command.name, command.summary) for command in COMMANDS if command.group == group]
        lines += _section(group, rows, look, width)
    lines += _section("Options", [_option_row(each) for each in (HELP_OPTION, VERSION_OPTION)], look)
    lines += ["", look.paint("Example", Ink.STRONG), "  labctl run tcp-echo", "", "Try: labctl COMMAND --help"]
    screen.write(lines)


def show_help(command: Command) -> None:
    """Print what the command does, its arguments and options, and an example."""
    standard_output().write(help_lines(command))


def help_lines(command: Command) -> list[str]:
    """Return the help of the command, painted for the standard output."""
    look = standard_output().look
    lines = [look.paint("Usage:", Ink.STRONG) + f" {command.synopsis}"]
    for paragraph in command.description.split("\n\n"):
        lines += ["", *_wrapped(paragraph, look)]
    lines += _section("Arguments", [(each.usage.strip("[]"), meaning_of(each)) for each in command.arguments], look)
    options = (*command.options, HELP_OPTION)
    width = max(len(_option_row(each)[0]) for each in options)
    for group, members in groupby(sorted(options, key=_group_order), key=lambda each: each.group):
        lines += _section(group, [_option_row(each) for each in members], look, width)
    if command.exit_status:
        lines += ["", look.paint("Exit status", Ink.STRONG)]
        lines += [f"  {status}" for status in command.exit_status]
    return [*lines, "", look.paint("Example", Ink.STRONG), f"  {command.example}"]


def _group_order(parameter: Parameter) -> bool:
    return parameter.group != HELP_OPTION.group


def _option_row(option: Parameter) -> tuple[str, str]:
    return option.usage.removesuffix("..."), meaning_of(option)


def meaning_of(parameter: Parameter) -> str:
    """Return the help of a parameter with its choices and default."""
    text = parameter.help
    if parameter.choices and not parameter.required:
        text = f"{', '.join(parameter.choices)} (default: {parameter.choices[0]}). {text}"
    if parameter.default is not None:
        text = f"{text.removesuffix('.')} (default: {parameter.default})."
    return f"{text} Repeatable." if parameter.flags and parameter.many else text


def _section(title: str, rows: Sequence[tuple[str, str]], look: Look, width: int = 0) -> Iterator[str]:
    """A heading, and the rows in two columns."""
    if not rows:
        return
    yield ""
    yield look.paint(title, Ink.STRONG)
    width = min(max(width, *(cells(term) for term, _ in rows)), _WIDEST_TERM)
    for term, meaning in rows:
        first, *rest = wrap(meaning, look.width - width - 4, break_words=False)
        if cells(term) > width:
            yield f"  {look.paint(term, Ink.GOOD)}"
            rest.insert(0, first)
        else:
            yield f"  {look.paint(term, Ink.GOOD)}{pad('', width - cells(term))}  {first}"
        yield from (f"  {' ' * width}  {line}" for line in rest)


def _wrapped(text: str, look: Look) -> list[str]:
    return wrap(text, look.width, break_words=False)
