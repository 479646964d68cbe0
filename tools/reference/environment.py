"""The environment variables that labctl reads or sets. A test compares this list with the source."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

_OURS = re.compile(r"_?LABCTL_[A-Z_]+")


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable and what it does."""

    name: str
    meaning: str


VARIABLES = (
    Variable("LABCTL_LAB", "The running lab of a command without --lab. Set for programs on hosts."),
    Variable("LABCTL_NODE", "Set for programs on hosts: the host's name."),
    Variable("LABCTL_SEED", "The seed of random choices, like --seed. Set for programs of a scenario."),
    Variable(
        "LABCTL_STATE_DIR",
        "The directory of running labs, instead of /run/labctl (root) or $XDG_RUNTIME_DIR/labctl. Mode 0700, yours.",
    ),
    Variable(
        "LABCTL_INCLUDE_DIRS",
        "Directories, separated by colons, from which topology files may include files, besides their own directory.",
    ),
    Variable("_LABCTL_COMPLETE", "Set by the completion scripts; not for users."),
    Variable("COLUMNS", "The width of reports when standard output is not a terminal. Default 80."),
    Variable("NO_COLOR", "Turns colours off, whatever its value."),
    Variable("FORCE_COLOR", "Turns colours on in a pipe, unless it is empty or 0. NO_COLOR takes precedence."),
    Variable("TERM", "dumb: no colours and no live view of running scenarios."),
    Variable("SHELL", "The shell that labctl shell opens."),
    Variable("HOME", "Used when XDG_STATE_HOME is not set: ~/.local/state."),
    Variable(
        "LOGNAME",
        "Set in pytest's private network where the user's name is unknown otherwise; it names the temporary folder.",
    ),
    Variable("PATH", "Where programs are found, on hosts too; /run/lab/bin comes first there."),
    Variable("XDG_RUNTIME_DIR", "Where the state directory of an ordinary user is."),
    Variable("XDG_STATE_HOME", "Where the console keeps its history. Default ~/.local/state."),
    Variable("PYTHONIOENCODING", "The encoding of output, instead of the locale's."),
    Variable("GITHUB_ACTIONS", "On GitHub's runners: failures become annotations on the failing line."),
    Variable("GITHUB_STEP_SUMMARY", "On GitHub's runners: the file to which the job's summary is added."),
    Variable("GITHUB_WORKSPACE", "On GitHub's runners: the directory to which paths of annotations are relative."),
    Variable("GITLAB_CI", "On GitLab's runners: each scenario becomes a section of the log."),
    Variable("ZDOTDIR", "The directory of zsh's start-up files, for labctl shell."),
    Variable("TYPER_USE_RICH", "Set to 0 while Typer completes words; not for users."),
)


def used_in_source(package: Path) -> set[str]:
    """The variables that the source of `package` names: those called LABCTL_..., and what it takes from os.environ."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _OURS.fullmatch(node.value):
                found.add(node.value)
            found |= {text for text in map(_text, _asked_of_environ(node)) if text}
    return found


def _asked_of_environ(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Call(func=ast.Attribute(value=owner, attr="get" | "pop" | "setdefault"), args=[first, *_]):
            return [first] if _is_environ(owner) else []
        case ast.Call(func=ast.Attribute(attr="getenv"), args=[first, *_]):
            return [first]
        case ast.Subscript(value=owner, slice=key):
            return [key] if _is_environ(owner) else []
        case ast.Compare(left=left, comparators=[owner]):
            return [left] if _is_environ(owner) else []
    return []


def _is_environ(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
