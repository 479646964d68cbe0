"""The manual pages: labctl(1), one for each command, labctl-topology(5) and labctl-scenario(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from labctl import __version__
from tools.reference.commands import Command, Option, commands, common_options
from tools.reference.environment import VARIABLES
from tools.reference.roff import body, bold, escaped, formatted, italic
from tools.reference.schemas import Kind, mappings

ROOT = Path(__file__).resolve().parents[2]
# When what labctl does was last described anew; a release sets it.
DATE = "2026-11-23"


def manual_pages() -> dict[str, str]:
    """The pages by their place below share/man, for example `man1/labctl-run.1`."""
    pages = {"man1/labctl.1": _whole()}
    for command in commands():
        pages[f"man1/labctl-{command.name}.1"] = _of_command(command)
    for kind in (Kind.TOPOLOGY, Kind.SCENARIO):
        pages[f"man5/labctl-{kind}.5"] = _of_file(kind)
    return {place: _text(lines) for place, lines in pages.items()}


def _text(lines: Iterator[str]) -> str:
    text = "".join(
        f"{line}\n" for line in ('.\\" Made by tools/docs --reference from the code: edits are lost.', *lines)
    )
    # A heading is followed by a paragraph anyway, and mandoc says so.
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.MULTILINE)


def _head(name: str, section: int, summary: str) -> Iterator[str]:
    yield f'.TH {name.upper()} {section} {DATE} "labctl {__version__}" "labctl manual"'
    yield from (".SH NAME", f"{escaped(name)} \\- {formatted(_lowered(summary.rstrip('.')))}")


def _whole() -> Iterator[str]:
    yield from _head("labctl", 1, "Small networks of Linux network namespaces, and scenarios that run across them.")
    yield from (".SH SYNOPSIS", ".B labctl", f"{italic('COMMAND')} [{italic('OPTIONS')}] [{italic('ARGUMENTS')}]")
    yield ".SH DESCRIPTION"
    yield from body(_section(ROOT / "README.md", "").strip().split("\n\n")[0])
    yield ".SH COMMANDS"
    for command in commands():
        yield from (".TP", f"{bold(f'labctl-{command.name}')}(1)", formatted(command.summary))
    yield from _options(common_options())
    yield ".SH EXIT STATUS"
    yield from body(_section(ROOT / "docs" / "cli.md", "Exit status"), heading=9)
    yield from (".SH ENVIRONMENT", *_environment())
    yield from _see_also("labctl\\-topology(5)", "labctl\\-scenario(5)", "ip\\-netns(8)", "namespaces(7)", "tcp(7)")


def _of_command(command: Command) -> Iterator[str]:
    yield from _head(f"labctl-{command.name}", 1, command.summary)
    yield ".SH SYNOPSIS"
    yield bold(f"labctl {command.name}")
    yield " ".join(
        [f"[{italic('OPTIONS')}]"] * bool(command.options) + [italic(each.usage) for each in command.arguments]
    )
    yield ".SH DESCRIPTION"
    for paragraph in command.description:
        yield from (".PP", formatted(paragraph))
    for title, text in _sections_about(command.name):
        if title:
            yield f'.SS "{escaped(title)}"'
        yield from body(text, heading=9, option_tables=False)
    if command.arguments:
        yield ".SH ARGUMENTS"
        for argument in command.arguments:
            yield from (".TP", italic(argument.metavar), formatted(argument.help) or "\\&")
    yield from _options(command.options)
    if command.exit_status:
        yield from (".SH EXIT STATUS", formatted(command.exit_status))
    yield from _see_also("labctl(1)", "labctl\\-topology(5)", "labctl\\-scenario(5)")


def _of_file(kind: Kind) -> Iterator[str]:
    path = ROOT / "docs" / f"{kind}-files.md"
    yield from _head(f"labctl-{kind}", 5, f"{kind} files of labctl")
    yield ".SH DESCRIPTION"
    yield from body(path.read_text().split("\n", 1)[1])
    yield ".SH KEYS"
    for mapping in mappings(kind):
        yield f'.SS "{escaped(mapping.name or "The file")}"'
        yield formatted(mapping.meaning) or "\\&"
        for key in mapping.keys:
            needed = " Needed." if key.required else f" Default: `{key.default}`." if key.default else ""
            yield from (".TP", bold(key.name), formatted(f"{key.takes}. {key.meaning}{needed}"))
    yield from _see_also("labctl(1)", "labctl\\-run(1)", "labctl\\-up(1)", "labctl\\-validate(1)")


def _options(options: tuple[Option, ...]) -> Iterator[str]:
    if options:
        yield ".SH OPTIONS"
    for option in options:
        names = ", ".join(bold(name) for name in option.names)
        value = f" {italic(option.value)}" if option.value else ""
        more = f" Default: `{option.default}`." if option.default else ""
        again = " May be given again." if option.repeatable else ""
        yield from (".TP", f"{names}{value}", formatted(f"{option.help}{more}{again}"))


def _environment() -> Iterator[str]:
    for variable in VARIABLES:
        yield from (".TP", bold(variable.name), escaped(variable.meaning))


def _see_also(*pages: str) -> Iterator[str]:
    yield ".SH SEE ALSO"
    yield from (re.sub(r"(.+)\((\d)\)", r".BR \1 (\2) ,", page) for page in pages[:-1])
    yield re.sub(r"(.+)\((\d)\)", r".BR \1 (\2)", pages[-1])


def _sections_about(command: str) -> Iterator[tuple[str, str]]:
    """What docs/cli.md says about a command; the title of a subsection, "" for what stands first."""
    about = [(title, text) for title, text in _sections(ROOT / "docs" / "cli.md", 2) if command in _named(title)]
    for number, (title, text) in enumerate(about):
        first, *others = re.split(r"^### (.*)\n", text, flags=re.MULTILINE)
        yield ("" if number == 0 else title.replace("`", ""), first)
        yield from zip(others[::2], others[1::2], strict=True)


def _named(title: str) -> list[str]:
    """The commands in a heading: run of "`labctl run`", start and stop of "`labctl start`, `stop`"."""
    return [words.removeprefix("labctl ").split()[0] for words in re.findall(r"`([^`]+)`", title)]


def _sections(path: Path, level: int) -> list[tuple[str, str]]:
    """Titles and texts; the text before the first heading of that level has the title ""."""
    title = "#" * level
    first, *others = re.split(rf"^{title} (.*)\n", path.read_text(), flags=re.MULTILINE)
    return [("", first.split("\n", 1)[-1]), *zip(others[::2], others[1::2], strict=True)]


def _section(path: Path, title: str) -> str:
    found = [text for level in (2, 3) for name, text in _sections(path, level) if name == title]
    if not found:
        raise ValueError(f"{path} has no section {title!r}, which a manual page is made of")
    return found[0]


def _lowered(sentence: str) -> str:
    """A sentence as it stands after a dash."""
    return sentence[:1].lower() + sentence[1:]
