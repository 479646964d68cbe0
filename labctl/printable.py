"""Text from files, command lines and programs, made harmless for those who read it: terminals, CI logs, XML.

Everything that labctl prints in lines of its own passes through here: `complain` (labctl/cli/main.py) and `Screen`
(report/terminal.py) are the places that print. `labctl exec`, `shell` and `logs` pass programs' output through as
it is, and JSON escapes for itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_C0_AND_C1 = (*range(0x20), *range(0x7F, 0xA0))  # DEL is among them
# What changes the order of characters, or is taken for a line's end, by Unicode: U+061C, U+200E, U+202A, ...
_ORDER_AND_LINES = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
_VISIBLE = {code: f"\\x{code:02x}" for code in _C0_AND_C1 if code not in (0x09, 0x0A)}
_VISIBLE |= {code: f"\\u{code:04x}" for code in _ORDER_AND_LINES}
# Everything outside XML 1.0's production Char, https://www.w3.org/TR/xml/#charsets (surrogates and NUL included).
_NOT_XML = re.compile("[\ufffe\uffff]")  # of what `visible` leaves
_OWN_COLOURS = re.compile(r"(\x1b\[(?:0|1|2|32|33|1;31)m)")  # those of labctl.report.terminal.Ink


def visible(text: str) -> str:
    """`text` with control characters as `\\x1b`, and those that change the order of text as `\\u202e`.

    Tabs and line ends stay. Lone surrogates, which stand for undecodable bytes of a program's output, are shown as
    `\\udc..`.
    """
    if text.isprintable():
        return text
    return text.translate(_VISIBLE).encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """`text` as `visible` shows it, with tabs as blanks and line ends of either kind as line ends."""
    if text.isprintable():
        return text
    return visible(text.replace("\r\n", "\n").expandtabs(8))


def one_line(text: str) -> str:
    """`text` as `printable` shows it, with line ends as `\\n`: for names, and for what must not begin a line."""
    return printable(text).replace("\n", "\\n")


def last_lines(text: str, limit: int) -> str:
    """The last whole lines of `text`, at most `limit` characters; the end of the last line where that is longer."""
    if len(text) <= limit:
        return text
    end = text[-limit:]
    return end if text[-limit - 1] == "\n" else end.partition("\n")[2] or end


def painted(line: str) -> str:
    """A line with labctl's own colours in it: everything else as `visible` shows it."""
    if line.isprintable():
        return line
    parts = _OWN_COLOURS.split(line)
    return "".join(part if index % 2 else visible(part) for index, part in enumerate(parts))


def harmless_on_github(line: str) -> str:
    """A line that GitHub's runner would take for a command, changed so that it does not.

    The runner reads `::name::` at the beginning of a line, after blanks, and `##[name]` anywhere.
    """
    if "##[" in line:
        line = line.replace("##[", "## [")
    return line.replace("::", ": :", 1) if line.lstrip().startswith("::") else line


def in_log(text: str, environ: Mapping[str, str]) -> str:
    """Printable text without commands for the CI server whose log it is written to."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return text
    return "\n".join(map(harmless_on_github, text.split("\n")))


def in_xml(text: str) -> str:
    """`text` as `visible` shows it, without what XML cannot carry: reports in XML are read on terminals, too."""
    return _NOT_XML.sub(lambda found: f"\\u{ord(found.group()):04x}", visible(text))
