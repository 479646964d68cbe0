"""Whether a command printed what a page says: all but what differs from run to run anyway."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

_STATES = "LISTEN|SYN_SENT|SYN_RECV|ESTABLISHED|FIN_WAIT[12]|CLOSE|CLOSE_WAIT|LAST_ACK|TIME_WAIT"
# In this order. What is left of both sides is compared.
_VARIES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"^\s*\d+(?:\.\d+)?s? (?=[│├|+])", "<time> "),  # the first column of a conversation
        (r"\d+(?:\.\d+)? ?(?:ns|us|µs|ms|s)\b", "<time>"),
        (r"\s*not recorded: .*", ""),  # as an ordinary user
        (r"… (?:\w+: )?\w+ → [^│─╌◄►├┤]*", ""),  # returns of calls that blocked: a busy machine delays them
        # Notes, and as much of a packet as has room beside them: states need root, queues are sampled.
        (rf"(?<=[ │])(?: (?:{_STATES}))+\b", ""),
        (r" NO_SOCKET\b", ""),
        (r"PSH ACK( again| retransmitted)?(?: seq \d+)?(?: ack \d+)?, ", r"\1"),
        (r" (?:seq|ack) \d+", ""),
        (r"(?<=\bbytes) \"[^\"]*\"", ""),
        (r"\b(FIN|RST) ACK\b", r"\1"),
        (r"\b(\d+) B\b", r"\1 bytes"),
        (r" retransmitted\b", " again"),
        (r"\s*\b\d+ (?:unread|unacked|dropped|of \d+ in queue)(?:, \d+ (?:unread|unacked|dropped|half-open))*", ""),
        (r"\s*\[<time>\]", ""),  # shown from a millisecond on
        (r"(?<=:)(?:3276[89]|327[7-9]\d|32[89]\d\d|3[3-9]\d{3}|[45]\d{4}|60\d{3})\b", "<port>"),  # temporary ports
        (r"(?<= ):<port> ", ""),  # names a connection if there are several
        (r"\bseed(:?) \d+", r"seed\1 <number>"),
        (r"[─╌◄►├┤┼]+", "─"),
        (r"(?:\s*│)*\s*─(?:\s*│)*\s*", " ─ "),
        (r"-{3,}", "---"),
        (r"={3,}", "==="),
        (r"\s*│\s*", " │ "),
        (r"\s+", " "),
    )
)


_CONTINUES = re.compile(r"\s+│")
_IN_CONVERSATION = re.compile(r"\s*(?:\d+(?:\.\d+)?s?)? ?[│├]")
_QUEUE = re.compile(r"\s*\d+(?:\.\d+)?s? [│ ]+\d+ of \d+ in queue[^│]*$")  # seen by a sample
_NOTE = re.compile(r"^not recorded: .*(?:\s+\(root\))?\n?", re.MULTILINE)  # as an ordinary user, after a failure
_SILENCE = re.compile(r"\s+┊ … .* of silence")


def says_the_same(expected: Sequence[str], printed: str) -> bool:
    """Whether `printed` is `expected`, where `...` is any lines, or within a line any text."""
    pattern = ""
    for line in _unwrapped(_without_margins(expected)):
        if _is_blank(_plain(line)):
            continue
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            for item in _items(_plain(line)):
                pattern += ".*?".join(re.escape(part) for part in item.split("...")) + r"\n"
    printed = _NOTE.sub("", printed)
    plain = [_plain(line) for line in _unwrapped(_without_margins(printed.splitlines()))]
    actual = "".join(f"{item}\n" for line in plain if not _is_blank(line) for item in _items(line))
    return re.fullmatch(pattern, actual) is not None


def _plain(line: str) -> str:
    for pattern, instead in _VARIES:
        line = pattern.sub(instead, line)
    return line.strip()


def _items(plain: str) -> list[str]:
    """Return the calls, then the packets of a row of a ladder, which has both if little time is between them."""
    if not re.match(r"<time> [│─]", plain):
        return [plain]
    items = [item for item in re.split(r" ?[│─] ?", plain.removeprefix("<time>")) if item.strip()]
    return sorted(items, key=lambda item: re.match(r"\w+\(", item) is None)


def _is_blank(plain: str) -> bool:
    """Whether nothing is left of a row of a ladder."""
    return plain.startswith("<time> ") and not plain.removeprefix("<time>").strip(" │")


def _unwrapped(lines: Sequence[str]) -> list[str]:
    """Without silences, and with the lines of a ladder that had no room in their columns joined again."""
    joined: list[str] = []
    for line in lines:
        if _SILENCE.match(line) or _QUEUE.match(line):
            continue
        if joined and _CONTINUES.match(line) and _IN_CONVERSATION.match(joined[-1]):
            before, after = joined[-1].split("│"), line.split("│")
            if "├" in joined[-1]:
                joined[-1] = f"{joined[-1].rstrip()} {line.strip(' │')}"
            else:
                cells = [" ".join(cell.strip() for cell in pair) for pair in zip_longest(before, after, fillvalue="")]
                joined[-1] = "│".join(cells)
        else:
            joined.append(line)
    return joined


def _without_margins(lines: Sequence[str]) -> Sequence[str]:
    """Without the empty lines at the beginning and the end."""
    full = [number for number, line in enumerate(lines) if line.strip()]
    return lines[full[0] : full[-1] + 1] if full else []
