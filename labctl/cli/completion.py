"""Completion in shells: candidates for each kind of argument, and the scripts. Typer answers the shells (app.py).

Completion prints no errors: if a lab does not answer, there are no candidates from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from labctl.cli.command_table import COMPLETION_VARIABLE
from labctl.errors import LabctlError

if TYPE_CHECKING:
    from labctl.lab.client.handle import Lab

LAB_TIMEOUT_S = 2.0  # a person waits

_ZSH_REGISTERED = "compdef _labctl_completion labctl"
# A file in a folder of fpath is the completing function's body: what only registers offers nothing at the first Tab.
_ZSH_REGISTERED_OR_LOADED = f"""\
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _labctl_completion "$@"
else
  {_ZSH_REGISTERED}
fi"""


def lab_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of running labs."""
    from labctl.lab.client import state_dir

    try:
        return [name for name in state_dir.labs() if name.startswith(incomplete) and name not in _given(context)]
    except (LabctlError, OSError):
        return []


def node_names(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Nodes of the running labs, or of the lab of --lab, each with the name of its lab."""
    return [
        (node, f"in lab {lab.name}")
        for lab in _labs(context.params.get("lab"))
        for node in lab.nodes
        if node.startswith(incomplete) and node not in _given(context)
    ]


def other_ends(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Nodes for the second end of a link: all except the first."""
    return [found for found in node_names(context, incomplete) if found[0] != context.params.get("first")]


def example_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of shipped scenarios and topologies, and files of this directory."""
    from labctl.cli import files

    names = (*files.shipped_scenarios(), *files.shipped_topologies())
    return _beside_files([name for name in names if name.startswith(incomplete)], incomplete)


def scenario_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of shipped scenarios, and files of this directory."""
    from labctl.cli import files

    return _beside_files([name for name in files.shipped_scenarios() if name.startswith(incomplete)], incomplete)


def topology_names(context: typer.Context, incomplete: str) -> list[str]:
    """Shapes, names of shipped topologies, and files of this directory."""
    from labctl.cli import files
    from labctl.topology.generators import SHAPES

    names = [name for name in dict.fromkeys([*SHAPES, *files.shipped_topologies()]) if name.startswith(incomplete)]
    return _beside_files(
        [name if name in ("pair", *files.shipped_topologies()) else f"{name}:" for name in names], incomplete
    )


def link_values(context: typer.Context, incomplete: str) -> list[str]:
    """`delay=` and the other keys after `set`."""
    if context.params.get("action") != "set":
        return []
    return [f"{key}=" for key in ("delay", "jitter", "loss", "rate") if f"{key}=".startswith(incomplete)]


def commands(context: typer.Context, incomplete: str) -> list[str]:
    """Programs on PATH for the first word of a command. The shell completes paths and the other words."""
    if "/" in incomplete or any(word != "--" for word in context.params.get("command") or ()):
        return []
    found: set[str] = set()
    for directory in os.get_exec_path():
        with suppress(OSError), os.scandir(directory) as entries:
            found.update(entry.name for entry in entries if entry.name.startswith(incomplete))
    return sorted(found)


def _beside_files(names: list[str], incomplete: str) -> list[str]:
    """Names and matching files; [] without a name, so that the shell completes files in its own way."""
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


def node_paths(context: typer.Context, incomplete: str) -> list[str]:
    """`NODE:` for `labctl cp`. The shell completes a word with `:` or `/`, which is a path."""
    if ":" in incomplete or "/" in incomplete:
        return []
    return [f"{node}:" for node, _ in node_names(context, incomplete)]


def process_names(context: typer.Context, incomplete: str) -> list[str]:
    """NODE/NAME of the background programs, or NAME if the word begins so; only running ones for `stop`."""
    found = []
    with_ended = context.info_name != "stop"
    for lab in _labs(context.params.get("lab")):
        with _silently():
            programs = [
                each for each in lab.processes() if each.is_detached and (with_ended or each.state.value != "ended")
            ]
            found += [f"{each.node}/{each.name}" for each in programs]
            found += [each.name for each in programs if incomplete]
    given = _given(context)
    return [name for name in dict.fromkeys(found) if name.startswith(incomplete) and name not in given]


def completion(shell: str) -> int:
    """Print the script that makes the shell complete labctl's words."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # not in its __all__

    from labctl.report.terminal import standard_output

    script: str = get_completion_script(prog_name="labctl", complete_var=COMPLETION_VARIABLE, shell=shell)
    if shell == "zsh":
        script = script.replace(_ZSH_REGISTERED, _ZSH_REGISTERED_OR_LOADED)
    standard_output().write(script.split("\n"))
    return 0


def _given(context: typer.Context) -> set[str]:
    """Words that an argument with several values has already."""
    return {word for words in context.params.values() if isinstance(words, list | tuple) for word in words}


def _labs(name: object) -> Iterator[Lab]:
    from labctl.lab.client import state_dir
    from labctl.lab.client.handle import Lab

    with _silently():
        for each in state_dir.labs():
            if name in (None, "", each):
                with _silently(), Lab.attach(each, deadline_s=LAB_TIMEOUT_S) as lab:
                    yield lab


@contextmanager
def _silently() -> Iterator[None]:
    """A context that errors of labs and of the machine end silently."""
    try:
        yield
    except (LabctlError, OSError):
        return
