"""What a shell offers when Tab is pressed: running labs, their nodes and processes; and the scripts that ask for it.

Completion must never fail aloud: where a lab does not answer, nothing is offered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from labctl.errors import InputError, LabctlError

if TYPE_CHECKING:
    from labctl.lab.handle import Lab

PATIENCE_S = 2.0  # a person waits
SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_LABCTL_COMPLETE"  # as Typer names it: set by the script, with what is to be completed beside it

_ZSH_REGISTERED = "compdef _labctl_completion labctl"
# A file in a folder of fpath is the completing function's body: what only registers offers nothing at the first Tab.
_ZSH_REGISTERED_OR_LOADED = f"""\
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _labctl_completion "$@"
else
  {_ZSH_REGISTERED}
fi"""


def lab_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of running labs that begin so."""
    from labctl.lab import registry

    try:
        return [name for name in registry.labs() if name.startswith(incomplete)]
    except (LabctlError, OSError):
        return []


def node_names(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Nodes of the running labs (of the one that --lab says), with the lab that has them."""
    return [
        (node, f"in lab {lab.name}")
        for lab in _labs(context.params.get("lab"))
        for node in lab.nodes
        if node.startswith(incomplete)
    ]


def node_places(context: typer.Context, incomplete: str) -> list[str]:
    """`NODE:` for `labctl cp`; a word with a `:` or `/` is a path already, which the shell completes."""
    if ":" in incomplete or "/" in incomplete:
        return []
    return [f"{node}:" for node, _ in node_names(context, incomplete)]


def process_names(context: typer.Context, incomplete: str) -> list[str]:
    """NODE/NAME of the detached processes."""
    found = []
    for lab in _labs(context.params.get("lab")):
        with _in_silence():
            found += [f"{each.node}/{each.name}" for each in lab.processes() if each.is_detached]
    return [name for name in found if name.startswith(incomplete)]


def print_script(shell: str) -> int:
    """Prints the script that teaches the shell to complete labctl's words."""
    from labctl.report.screen import standard_output

    if shell not in SHELLS:
        raise InputError(f"labctl completion: {shell} is none of {', '.join(SHELLS)}.")
    from typer import completion

    script: str = getattr(completion, "get_completion_script")(  # noqa: B009  # imported there, not exported
        prog_name="labctl", complete_var=VARIABLE, shell=shell
    )
    if shell == "zsh":
        script = script.replace(_ZSH_REGISTERED, _ZSH_REGISTERED_OR_LOADED)
    standard_output().write(script.split("\n"))
    return 0


def _labs(name: object) -> Iterator[Lab]:
    from labctl.lab import registry
    from labctl.lab.handle import Lab

    with _in_silence():
        for each in registry.labs():
            if name in (None, "", each):
                with _in_silence(), Lab.attach(each, deadline_s=PATIENCE_S) as lab:
                    yield lab


@contextmanager
def _in_silence() -> Iterator[None]:
    """Errors of labs and of the machine end the `with` without a word."""
    try:
        yield
    except (LabctlError, OSError):
        return
