"""The fenced blocks of a Markdown page, and what each is to a reader: commands, a file, a program, a text.

What is not run says so in the line before it, `<!-- not run: reason -->`, for whoever reads the source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
_NOT_RUN = re.compile(r"<!--\s*not run:\s*(.*?)\s*-->\s*", re.DOTALL)
_NEEDS = re.compile(r"^<!-- needs: ([\w -]+) -->$", re.MULTILINE)
_COMMENTS = (r"#\s*({})", r"//\s*({})", r"/\*\s*({})\s*\*/", r";\s*({})")
_FILE_NAME = r"[\w.@-]+(?:/[\w.@-]+)*\.\w+|Makefile|Dockerfile"
_FIRST_LINE = re.compile("|".join(pattern.format(_FILE_NAME) for pattern in _COMMENTS))
SESSION_LINE = re.compile(r"[a-z]+(?: \(in \w+\))?> ")
_STEPS = re.compile(r"^steps\s*:", re.MULTILINE)


class Kind(Enum):
    """What is done with a block."""

    COMMANDS = "commands"
    FILE = "a file"
    SCENARIO = "a scenario"
    TOPOLOGY = "a topology"
    PROGRAM = "a program"
    OUTPUT = "what the program before it prints"
    SCRIPT = "a script"
    JSON = "JSON"
    TOML = "TOML"
    SESSION = "lines typed into labctl play"
    NOT_RUN = "not run"
    UNKNOWN = "nothing that can be run"


@dataclass(frozen=True, slots=True)
class Block:
    """A block: `line` is that of its fence; `name` a file's; `reason` why it is not run."""

    kind: Kind
    line: int
    language: str
    text: str
    name: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """A line after `$ ` (and the `> ` lines below it), and what it is said to print."""

    line: int
    text: str
    output: tuple[str, ...]


def pages() -> list[Path]:
    """All pages whose blocks are run: the front page, the index of scenarios, and docs/."""
    return [ROOT / "README.md", ROOT / "scenarios" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page, in order; directives of the site (`{toctree}`) are none."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    found: list[Block] = []
    for number, token in enumerate(tokens):
        if token.type == "code_block" or (token.type == "fence" and not token.info.strip().startswith("{")):
            before = found[-1] if found else None
            found.append(_block(token, _reason_before(tokens, number), before))
    return found


def needs_of(text: str) -> list[str]:
    """The kernel features without which a page's blocks cannot be run, as `labctl doctor` calls them."""
    return [name for said in _NEEDS.findall(text) for name in said.split()]


def lone_excuses(text: str) -> list[int]:
    """The lines of comments that say why a block is not run, without a block below them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    alone = []
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        excused = following is not None and following.type in ("fence", "code_block") and _said(token) is not None
        if token.type == "html_block" and _NOT_RUN.match(token.content) and not excused:
            alone.append((token.map[0] if token.map else 0) + 1)
    return alone


def commands_of(block: Block) -> list[Command]:
    """The commands of a console block. ValueError when it begins with something else."""
    commands: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if line == "$" or line.startswith("$ "):
            commands.append(Command(number, line[2:], ()))
        elif not commands:
            raise ValueError(f"line {number}: a console block begins with a command, `$ ...`")
        elif line.startswith("> ") and not commands[-1].output:
            last = commands[-1]
            commands[-1] = Command(last.line, f"{last.text}\n{line[2:]}", ())
        else:
            last = commands[-1]
            commands[-1] = Command(last.line, last.text, (*last.output, line))
    return commands


def _reason_before(tokens: list[Token], number: int) -> str | None:
    if number == 0 or tokens[number - 1].type != "html_block":
        return None
    return _said(tokens[number - 1])


def _said(comment: Token) -> str | None:
    said = _NOT_RUN.fullmatch(comment.content)
    return said[1] if said else None


def _block(token: Token, reason: str | None, before: Block | None) -> Block:
    line = (token.map[0] if token.map else 0) + 1
    language = token.info.split()[0] if token.info.strip() else ""
    text = token.content
    if reason is not None:
        return Block(Kind.NOT_RUN, line, language, text, reason=reason)
    if language == "console":
        return Block(Kind.COMMANDS, line, language, text)
    if language != "text" and (named := _FIRST_LINE.fullmatch(text.split("\n", 1)[0].strip())):
        return Block(Kind.FILE, line, language, text, name=next(filter(None, named.groups())))
    return Block(_kind(language, text, before), line, language, text)


def _kind(language: str, text: str, before: Block | None) -> Kind:
    match language:
        case "yaml":
            return Kind.SCENARIO if _STEPS.search(text) else Kind.TOPOLOGY
        case "python":
            return Kind.PROGRAM
        case "sh":
            return Kind.SCRIPT
        case "json":
            return Kind.JSON
        case "toml":
            return Kind.TOML
        case "text" if SESSION_LINE.match(text):
            return Kind.SESSION
        case "text" if before is not None and before.kind is Kind.PROGRAM:
            return Kind.OUTPUT
        case _:
            return Kind.UNKNOWN
