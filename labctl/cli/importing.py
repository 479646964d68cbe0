"""`labctl import`: write the topology file for a file of another tool."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from labctl.cli.file_commands import cannot_write
from labctl.cli.files import show_report
from labctl.errors import InputError
from labctl.report.terminal import standard_output


def import_file(
    file: str, output: Path | None, without: Sequence[str], hosts: bool, choice: str | None, force: bool
) -> int:
    """Run `labctl import`."""
    from labctl.formats import Options, Part
    from labctl.topology import load

    unknown = [word for word in without if word not in set(Part)]
    if unknown:
        raise InputError(f"labctl import: --without: {unknown[0]} is not one of {', '.join(Part)}.")
    path = Path(file)
    if not path.exists():
        raise InputError(f"{file}: no such file or directory.")
    base = "" if output is None else str(output.resolve().parent)
    options = Options(frozenset(map(Part, without)), hosts, choice or "", base=base)
    topology = load(path, routes=False, options=options)
    found = topology.imported
    if found is None:
        raise InputError(f"{file}: is a topology of labctl already. Try: labctl up {shlex.quote(file)}")
    if output is None:
        standard_output().write([found.text.rstrip("\n")])
        show_report(found)
        return 0
    if os.path.lexists(output) and not force:
        raise InputError(f"{output}: the file exists. Give another name, or --force to replace it.")
    from labctl.report.artifacts import write_file

    try:
        write_file(output, found.text.encode())
    except OSError as error:
        raise cannot_write(output, error) from error
    show_report(found, every=True)
    standard_output().line(f"wrote {output}. Try: labctl up {shlex.quote(str(output))}")
    return 0
