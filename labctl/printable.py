"""Escape text from files, command lines and programs for terminals, CI logs and XML.

Every line that labctl composes passes through this module. `labctl exec`, `shell` and `logs` pass a program's output
through unchanged, and JSON has its own escapes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_C0_AND_C1 = (*range(0x20), *range(0x7F, 0xA0))  # DEL is among them
# Characters that change the order of text or end a line in Unicode: U+061C, U+200E, U+202A, ...
_ORDER_AND_LINES = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
_VISIBLE = {code: f"\\x{code:02x}" for code in _C0_AND_C1 if code not in (0x09, 0x0A)}
_VISIBLE |= {code: f"\\u{code:04x}" for code in _ORDER_AND_LINES}
# `visible` escapes the other characters outside XML 1.0's Char: https://www.w3.org/TR/xml/#charsets
_NOT_XML = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}
_OWN_COLOURS = frozenset({"0", "1", "2", "32", "33", "36", "1;31"})  # those of labctl.report.terminal.Ink


def visible(text: str) -> str:
    """Escape control characters as `\\x1b`, and characters that change the order of text as `\\u202e`.

    Tabs and line ends stay. Lone surrogates, which stand for undecodable bytes of a program's output, become
    `\\udc..`.
    """
    if text.isprintable():
        return text
    return text.translate(_VISIBLE).encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Escape as `visible` does; turn tabs into spaces and CRLF into LF."""
    if text.isprintable():
        return text
    return visible(text.replace("\r\n", "\n").expandtabs(8))


def one_line(text: str) -> str:
    """Escape as `printable` does, and line ends as `\\n`: for names and other text inside a line."""
    return printable(text).replace("\n", "\\n")


def last_lines(text: str, limit: int) -> str:
    """Return the last whole lines, at most `limit` characters; the end of the last line if that is longer."""
    if len(text) <= limit:
        return text
    end = text[-limit:]
    return end if text[-limit - 1] == "\n" else end.partition("\n")[2] or end


def painted(line: str) -> str:
    """Escape as `visible` does, except the colours that labctl itself uses."""
    if line.isprintable():
        return line
    start, *others = line.split("\x1b[")
    shown = visible(start)
    for part in others:
        colour, end, text = part.partition("m")
        is_own = end and colour in _OWN_COLOURS
        shown += f"\x1b[{colour}m{visible(text)}" if is_own else visible(f"\x1b[{part}")
    return shown


def harmless_on_github(line: str) -> str:
    """Change a line that GitHub's runner would execute as a command.

    The runner recognises `::name::` at the beginning of a line, after spaces, and `##[name]` anywhere.
    """
    if "##[" in line:
        line = line.replace("##[", "## [")
    return line.replace("::", ": :", 1) if line.lstrip().startswith("::") else line


def in_log(text: str, environ: Mapping[str, str]) -> str:
    """Disable commands to the CI server in printable text for its log."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return text
    return "\n".join(map(harmless_on_github, text.split("\n")))


def in_xml(text: str) -> str:
    """Escape as `visible` does, and the characters that XML does not allow: people read XML on terminals, too."""
    return visible(text).translate(_NOT_XML)
