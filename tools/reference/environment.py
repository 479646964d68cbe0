"""The environment variables that labctl looks at or sets. That none is missing is tested against the source."""

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
    Variable(
        "LABCTL_LAB", "The running lab that a command means when it does not say --lab. Set for programs on hosts."
    ),
    Variable("LABCTL_NODE", "Set for programs on hosts: the host's name."),
    Variable("LABCTL_SEED", "The seed of what is random, as --seed. Set for the programs of a scenario."),
    Variable(
        "LABCTL_STATE_DIR",
        "Where running labs are kept, instead of /run/labctl (root) or $XDG_RUNTIME_DIR/labctl. Mode 0700, yours.",
    ),
    Variable(
        "LABCTL_INCLUDE_DIRS",
        "Directories, separated by colons, that topology files may include files from, beside their own.",
    ),
    Variable("_LABCTL_COMPLETE", "Set by the completion scripts when they ask for words; nothing for people."),
    Variable("COLUMNS", "The width of reports where standard output is no terminal; else 80."),
    Variable("NO_COLOR", "No colours, whatever its value."),
    Variable("FORCE_COLOR", "Colours in a pipe, too; not with an empty value or 0. NO_COLOR wins."),
    Variable("TERM", "dumb: no colours, no view of what runs."),
    Variable("SHELL", "The shell that labctl shell opens."),
    Variable("HOME", "Where XDG_STATE_HOME is when it is not set: ~/.local/state."),
    Variable(
        "LOGNAME",
        "Set in a private network of pytest's, where nothing else tells who the user is: names its temporary folder.",
    ),
    Variable("PATH", "Where programs are looked for, on hosts too; /run/lab/bin comes first there."),
    Variable("XDG_RUNTIME_DIR", "Where the state directory of an ordinary user is."),
    Variable("XDG_STATE_HOME", "Where the console keeps its history; ~/.local/state when it is not set."),
    Variable("PYTHONIOENCODING", "The encoding of what is printed, instead of the locale's."),
    Variable("GITHUB_ACTIONS", "On GitHub's runners: failures become annotations on the failing line."),
    Variable("GITHUB_STEP_SUMMARY", "On GitHub's runners: the file that the summary of the job is added to."),
    Variable("GITHUB_WORKSPACE", "On GitHub's runners: what the paths of annotations are relative to."),
    Variable("GITLAB_CI", "On GitLab's runners: each scenario is a section of the log."),
    Variable("ZDOTDIR", "Where zsh's start-up files are, for labctl shell."),
    Variable(
        "TYPER_USE_RICH",
        "1: help and errors in boxes, for which rich must be installed, at the cost of a slower start.",
    ),
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
