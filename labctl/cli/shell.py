"""`labctl shell`: the user's shell on a node, whose prompt shows the node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from labctl.cli.exec import ExecRequest, check_request, open_standard_descriptors, run_in_foreground, run_on_terminal
from labctl.cli.lab_selection import attach_lab_with

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab

_MARK = """\
# Add the node's name to the prompt, after your own start-up files.
__labctl_prompt() {
    case $PS1 in
        *'\\h'*|*'\\H'*|*"$LABCTL_NODE"*) ;;
        *) PS1="$LABCTL_NODE $PS1" ;;
    esac
}
"""
_BASHRC = f"""\
if [ -r /etc/bash.bashrc ]; then . /etc/bash.bashrc; fi
if [ -r ~/.bashrc ]; then . ~/.bashrc; fi
{_MARK}PROMPT_COMMAND="${{PROMPT_COMMAND:+$PROMPT_COMMAND$'\\n'}}__labctl_prompt"
"""
_SHRC = """\
PS1="$LABCTL_NODE \\$ "
"""
_ZSHENV = """\
if [[ -r ${LABCTL_ZDOTDIR:-$HOME}/.zshenv ]]; then . ${LABCTL_ZDOTDIR:-$HOME}/.zshenv; fi
ZDOTDIR=/run/lab/shell/zsh
"""
_ZSHRC = """\
ZDOTDIR=${LABCTL_ZDOTDIR:-$HOME}
if [[ -r $ZDOTDIR/.zshrc ]]; then . $ZDOTDIR/.zshrc; fi
__labctl_prompt() { [[ $PROMPT == *%[mM]* || $PROMPT == *$LABCTL_NODE* ]] || PROMPT="$LABCTL_NODE $PROMPT"; }
precmd_functions+=(__labctl_prompt)
"""


class ShellStart(NamedTuple):
    """How to start a shell so that its prompt shows the node: its words, variables, and start-up files."""

    argv: tuple[str, ...]
    environment: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # name in the lab's shared directory, content


def shell(node: str, lab: str | None, environment: tuple[str, ...], directory: str | None, user: str | None) -> int:
    """Run `labctl shell`. Return the shell's exit status. Without a terminal the shell reads standard input."""
    standard = open_standard_descriptors()
    has_terminal = standard[0] is not None and os.isatty(standard[0])
    with attach_lab_with(node, lab) as attached:
        return open_shell(
            attached, ExecRequest(node, (), environment, directory, user), None if has_terminal else standard
        )


def open_shell(lab: Lab, request: ExecRequest, standard: Sequence[int | None] | None = None) -> int:
    """Run the user's shell in an attached lab: on a terminal, or with three standard descriptors."""
    program = shell_of(os.environ.get("SHELL"))
    start = ShellStart((program,)) if standard else shell_start(program, os.environ.get("ZDOTDIR"))
    variables = (*start.environment, *request.environment)
    request = ExecRequest(request.node, start.argv, variables, request.directory, request.user)
    check_request(request)
    if standard:
        return run_in_foreground(lab, request, standard)
    for name, content in start.files:
        lab.put_file(name, content.encode())
    return run_on_terminal(lab, request)


def shell_of(preferred: str | None) -> str:
    """Return the user's shell if it is a program, else bash, else sh."""
    for shell in (preferred, "/bin/bash", "/usr/bin/bash"):
        if shell and os.path.isabs(shell) and os.access(shell, os.X_OK) and _is_a_shell(shell):
            return shell
    return "/bin/sh"


def _is_a_shell(path: str) -> bool:
    """Whether this is not a program that locks an account, which root and services may have as their shell."""
    return os.path.basename(path) not in ("nologin", "false", "true")


def shell_start(shell: str, zdotdir: str | None = None) -> ShellStart:
    """Return how that shell starts interactively. It reads the user's own start-up files first."""
    match os.path.basename(shell):
        case "bash":
            return ShellStart((shell, "--rcfile", "/run/lab/shell/bashrc", "-i"), (), (("shell/bashrc", _BASHRC),))
        case "zsh":
            variables = ("ZDOTDIR=/run/lab/shell/zsh", f"LABCTL_ZDOTDIR={zdotdir or ''}")
            return ShellStart((shell, "-i"), variables, (("shell/zsh/.zshenv", _ZSHENV), ("shell/zsh/.zshrc", _ZSHRC)))
        case "sh" | "dash" | "ash" | "busybox" | "ksh" | "mksh":
            return ShellStart((shell, "-i"), ("ENV=/run/lab/shell/shrc",), (("shell/shrc", _SHRC),))
        case _:  # fish and others show the host in their own prompt
            return ShellStart((shell,))
