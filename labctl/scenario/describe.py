"""One line for people about a step that has no `name:` of its own. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labctl.scenario.kinds import StepKind

_LONGEST = 100
_NEED_QUOTES = frozenset(" \t\n'\"\\;|&<>*")


def title_of(kind: StepKind, body: Any, data: Any) -> str:
    """`run curl -s http://server/ on client`."""
    return _short(_title(kind, body, data))


def program_name(argv: Sequence[str] | None, shell: str | None) -> str:
    """The base name that a background program goes by when the file gives it none."""
    words = list(argv) if argv else (shell or "").split()
    return words[0].rpartition("/")[2] if words else ""


def command_line(argv: Sequence[str] | None, shell: str | None) -> str:
    """The program as one would type it."""
    if not argv:
        return " ".join((shell or "").split())
    return " ".join(repr(word) if not word or set(word) & _NEED_QUOTES else word for word in argv)


def _title(kind: StepKind, body: Any, data: Any) -> str:
    match kind:
        case StepKind.CALLS:
            return f"calls on {body.on}/{body.process}" if body.process else f"calls on {body.on}"
        case StepKind.RUN:
            return f"run {command_line(body.run, body.shell)} on {body.on}"
        case StepKind.START:
            return f"start {command_line(body.run, body.shell)} on {body.on}"
        case StepKind.STOP | StepKind.PAUSE | StepKind.RESUME:
            return f"{kind} {body.process}"
        case StepKind.WAIT:
            return f"wait for {body.process}"
        case StepKind.SIGNAL:
            return f"send SIG{body.signal.upper().removeprefix('SIG')} to {body.process}"
        case StepKind.EXPECT:
            return "expect " + _conditions(data)
        case StepKind.LINK:
            sender = f" from {body.from_}" if body.from_ else ""
            verb = "set " + _mapping(data["set"]) if body.set_ is not None else body.verb
            return f"link {body.ends[0]} - {body.ends[1]} {verb}{sender}"
        case StepKind.DROP:
            return "drop " + _mapping(data)
        case StepKind.UNDROP:
            return f"undrop on {body.on}"
        case StepKind.FILE:
            return f"file {body.path} on {body.on}"
        case StepKind.BUILD:
            return f"build {body.program} from {', '.join(body.source)}"
        case StepKind.REPEAT:
            return f"repeat {body.times} times"
        case StepKind.PARALLEL:
            return f"{len(data)} branches in parallel"
        case StepKind.SET:
            return "set " + _mapping(data)


def _conditions(data: Any) -> str:
    where = f" on {data['on']}" if "on" in data else ""
    return _mapping({key: value for key, value in data.items() if key != "on"}) + where


def _mapping(data: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {_value(value)}" for key, value in data.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + _mapping(value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(str(value).split())


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
