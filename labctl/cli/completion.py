"""What a shell offers when Tab is pressed: running labs, their nodes and processes; and the scripts that ask for it.

Completion must never fail aloud: where a lab does not answer, nothing is offered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from labctl.errors import InputError, LabctlError

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab

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
    from labctl.lab.client import registry

    try:
        return [name for name in registry.labs() if name.startswith(incomplete) and name not in _given(context)]
    except (LabctlError, OSError):
        return []


def node_names(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Nodes of the running labs (of the one that --lab says), with the lab that has them."""
    return [
        (node, f"in lab {lab.name}")
        for lab in _labs(context.params.get("lab"))
        for node in lab.nodes
        if node.startswith(incomplete) and node not in _given(context)
    ]


def other_ends(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Nodes for the second end of a link: all but the first."""
    return [found for found in node_names(context, incomplete) if found[0] != context.params.get("a")]


def example_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of shipped scenarios and topologies, beside the files here that begin so."""
    from labctl.cli import files

    names = (*files.shipped_scenarios(), *files.shipped_topologies())
    return _beside_files([name for name in names if name.startswith(incomplete)], incomplete)


def scenario_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of shipped scenarios, beside the files here that begin so."""
    from labctl.cli import files

    return _beside_files([name for name in files.shipped_scenarios() if name.startswith(incomplete)], incomplete)


def topology_names(context: typer.Context, incomplete: str) -> list[str]:
    """Shapes and names of shipped topologies, beside the files here that begin so."""
    from labctl.cli import files
    from labctl.topology.generators import SHAPES

    names = [name for name in dict.fromkeys([*SHAPES, *files.shipped_topologies()]) if name.startswith(incomplete)]
    return _beside_files(
        [name if name in ("pair", *files.shipped_topologies()) else f"{name}:" for name in names], incomplete
    )


def link_values(context: typer.Context, incomplete: str) -> list[str]:
    """`delay=` and its like after `set`."""
    if str(getattr(context.params.get("action"), "value", "")) != "set":
        return []
    return [f"{key}=" for key in ("delay", "jitter", "loss", "rate") if f"{key}=".startswith(incomplete)]


def commands(context: typer.Context, incomplete: str) -> list[str]:
    """Programs on PATH for the first word of a command; the shell itself completes paths, and the words after it."""
    if "/" in incomplete or any(word != "--" for word in context.params.get("command") or ()):
        return []
    found: set[str] = set()
    for directory in os.get_exec_path():
        with suppress(OSError), os.scandir(directory) as entries:
            found.update(entry.name for entry in entries if entry.name.startswith(incomplete))
    return sorted(found)


def _beside_files(names: list[str], incomplete: str) -> list[str]:
    """The names with the files that begin so, too; [] without a name: the shell then completes files in its own way."""
    directory, slash, start = incomplete.rpartition("/")
    if not names:
        return []
    found = []
    with suppress(OSError), os.scandir(directory or slash or ".") as entries:
        for entry in entries:
            if entry.name.startswith(start) and not entry.name.startswith("."):
                if entry.is_dir():
                    found.append(f"{directory}{slash}{entry.name}/")
                elif entry.name.endswith((".yaml", ".yml")):
                    found.append(f"{directory}{slash}{entry.name}")
    return [*sorted(found), *names]


def node_places(context: typer.Context, incomplete: str) -> list[str]:
    """`NODE:` for `labctl cp`; a word with a `:` or `/` is a path already, which the shell completes."""
    if ":" in incomplete or "/" in incomplete:
        return []
    return [f"{node}:" for node, _ in node_names(context, incomplete)]


def process_names(context: typer.Context, incomplete: str) -> list[str]:
    """NODE/NAME of the detached processes, or NAME where that is what was begun; for `stop`, of those that run."""
    found = []
    ended_too = context.info_name != "stop"
    for lab in _labs(context.params.get("lab")):
        with _in_silence():
            there = [
                each for each in lab.processes() if each.is_detached and (ended_too or each.state.value != "ended")
            ]
            found += [f"{each.node}/{each.name}" for each in there]
            found += [each.name for each in there if incomplete]
    given = _given(context)
    return [name for name in dict.fromkeys(found) if name.startswith(incomplete) and name not in given]


def print_script(shell: str) -> int:
    """Prints the script that teaches the shell to complete labctl's words."""
    from labctl.report.terminal import standard_output

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


def _given(context: typer.Context) -> set[str]:
    """The words given already to an argument that takes several."""
    return {word for words in context.params.values() if isinstance(words, list | tuple) for word in words}


def _labs(name: object) -> Iterator[Lab]:
    from labctl.lab.client import registry
    from labctl.lab.client.handle import Lab

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
