"""`labctl shell NODE`: the person's own shell on a host, with a prompt that says where it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from labctl.cli import words
from labctl.cli.exec_command import (
    ExecRequest,
    environment_of,
    on_a_terminal,
    open_standard_descriptors,
    run,
)
from labctl.cli.labs import having
from labctl.errors import InputError

OPTIONS = {
    "lab": words.Option(("--lab",), "LAB"),
    "environment": words.Option(("-e", "--env"), "K=V"),
    "directory": words.Option(("-w", "--workdir"), "DIR"),
    "user": words.Option(("-u", "--user"), "USER"),
}

_MARK = """\
# The prompt says the host, after whatever your own files have made of it.
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


@dataclass(frozen=True, slots=True)
class Start:
    """How a shell is started so that its prompt says the host: its words, its variables, the files that it reads."""

    argv: tuple[str, ...]
    environment: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # name in the lab's shared directory, content


def main(arguments: Sequence[str]) -> int:
    """The exit status of `labctl shell` with these words after it."""
    given = words.read("shell", arguments, OPTIONS)
    if given.command:
        raise InputError(
            f"labctl shell: takes a NODE only. For a command: labctl exec -t {given.node} -- {given.command[0]}"
        )
    return open_shell(
        given.node, given.last("lab"), given.all("environment"), given.last("directory"), given.last("user")
    )


def open_shell(
    node: str,
    lab_name: str | None = None,
    environment: tuple[str, ...] = (),
    directory: str | None = None,
    user: str | None = None,
) -> int:
    """The shell's own exit status; 125 to 127 as `exec` has them. Without a terminal it reads its standard input."""
    keyboard = open_standard_descriptors()[0]
    has_terminal = keyboard is not None and os.isatty(keyboard)
    shell = shell_of(os.environ.get("SHELL"))
    start = how_to_start(shell, os.environ.get("ZDOTDIR")) if has_terminal else Start((shell,))
    request = ExecRequest(
        node=node,
        command=start.argv,
        lab=lab_name,
        environment=(*start.environment, *environment),
        directory=directory,
        user=user,
    )
    if not has_terminal:
        return run(request)
    with having(node, lab_name) as lab:
        for name, content in start.files:
            lab.put_file(name, content.encode())
        return on_a_terminal(lab, request, environment_of(request.environment))


def shell_of(preferred: str | None) -> str:
    """The person's shell if it is a program, else bash, else sh."""
    for shell in (preferred, "/bin/bash", "/usr/bin/bash"):
        if shell and os.path.isabs(shell) and os.access(shell, os.X_OK) and _is_a_shell(shell):
            return shell
    return "/bin/sh"


def _is_a_shell(path: str) -> bool:
    """Not what locks an account out, which root's and services' accounts may have for a shell."""
    return os.path.basename(path) not in ("nologin", "false", "true")


def how_to_start(shell: str, zdotdir: str | None = None) -> Start:
    """How that shell is started interactively. The person's own start-up files are read first."""
    match os.path.basename(shell):
        case "bash":
            return Start((shell, "--rcfile", "/run/lab/shell/bashrc", "-i"), (), (("shell/bashrc", _BASHRC),))
        case "zsh":
            variables = ("ZDOTDIR=/run/lab/shell/zsh", f"LABCTL_ZDOTDIR={zdotdir or ''}")
            return Start((shell, "-i"), variables, (("shell/zsh/.zshenv", _ZSHENV), ("shell/zsh/.zshrc", _ZSHRC)))
        case "sh" | "dash" | "ash" | "busybox" | "ksh" | "mksh":
            return Start((shell, "-i"), ("ENV=/run/lab/shell/shrc",), (("shell/shrc", _SHRC),))
        case _:  # fish and others tell the host in their own prompt
            return Start((shell,))
