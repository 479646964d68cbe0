"""Markdown as the source of a manual page, man(7): what this project's pages use of Markdown, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode


def escaped(text: str) -> str:
    """Text as it is: no character of it is an instruction, and none needs a coding."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("^", "\\(ha").replace("~", "\\(ti")
    text = text.replace("`", "\\(ga").replace("'", "\\(aq").replace('"', "\\(dq")
    text = "".join(letter if ord(letter) < 128 else f"\\[u{ord(letter):04X}]" for letter in text)
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def bold(text: str) -> str:
    """Text in bold."""
    return f"\\fB{escaped(text)}\\fR"


def italic(text: str) -> str:
    """Text in italics: what the reader replaces."""
    return f"\\fI{escaped(text)}\\fR"


def formatted(text: str) -> str:
    """A line of Markdown: `code` in bold, *words* in italics."""
    return " ".join(_inline(paragraph.children[0]) for paragraph in SyntaxTreeNode(_parser().parse(text)).children)


def body(markdown: str, *, heading: int = 2, option_tables: bool = True) -> list[str]:
    """The lines of a manual page for a Markdown text without its title.

    Headings of level `heading` become sections, deeper ones subsections. `option_tables`: with tables whose first
    heading is "option".
    """
    lines: list[str] = []
    for node in SyntaxTreeNode(_parser().parse(markdown)).children:
        lines += _block(node, heading, option_tables)
    return lines


def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("table")


def _block(node: SyntaxTreeNode, heading: int, option_tables: bool) -> Iterator[str]:
    match node.type:
        case "heading":
            level = int(node.tag[1])
            if level >= heading:
                text = _plain(node)
                yield f'.SH "{escaped(text.upper())}"' if level == heading else f'.SS "{escaped(text)}"'
        case "paragraph":
            yield ".PP"
            yield _inline(node.children[0])
        case "bullet_list" | "ordered_list":
            for number, item in enumerate(node.children, 1):
                yield ".IP \\(bu 2" if node.type == "bullet_list" else f".IP {number}. 4"
                yield from _item(item, heading, option_tables)
        case "fence" | "code_block":
            yield from (".PP", ".RS 4", ".EX", *escaped(node.content.rstrip("\n")).split("\n"), ".EE", ".RE")
        case "table":
            yield from _table(node, option_tables)
        case "html_block":
            pass  # a comment
        case _:
            raise ValueError(f"a manual page has no form for {node.type}: {node.content!r}")


def _item(item: SyntaxTreeNode, heading: int, option_tables: bool) -> Iterator[str]:
    first, *others = item.children
    yield _inline(first.children[0]) if first.type == "paragraph" else ""
    if others:
        yield ".RS 2"
        for node in others:
            yield from _block(node, heading, option_tables)
        yield ".RE"


def _table(node: SyntaxTreeNode, option_tables: bool) -> Iterator[str]:
    head, *bodies = node.children
    titles = [_inline(cell.children[0]) if cell.children else "" for cell in head.children[0].children]
    if titles[0] == "option" and not option_tables:
        return
    for row in (row for part in bodies for row in part.children):
        first, *others = [_inline(cell.children[0]) if cell.children else "" for cell in row.children]
        yield from (".TP", first, "; ".join(filter(None, others)) or "\\&")


def _inline(node: SyntaxTreeNode) -> str:
    return "".join(_spans(node.children))


def _spans(nodes: Sequence[SyntaxTreeNode]) -> Iterator[str]:
    for node in nodes:
        match node.type:
            case "text":
                yield escaped(node.content)
            case "code_inline":
                yield bold(node.content)
            case "strong":
                yield f"\\fB{''.join(_spans(node.children))}\\fR"
            case "em":
                yield f"\\fI{''.join(_spans(node.children))}\\fR"
            case "link":
                yield "".join(_spans(node.children))
            case "softbreak" | "hardbreak":
                yield " "
            case "html_inline":
                pass
            case _:
                raise ValueError(f"a manual page has no form for {node.type}: {node.content!r}")


def _plain(node: SyntaxTreeNode) -> str:
    return "".join(part.content for part in node.walk() if part.type in ("text", "code_inline"))
