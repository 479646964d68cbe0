"""What remains of a network whose program is killed: `kill -9`, which no program can handle."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

from tests.benchmarks.container import BuilderFailed, Container, Contents
from tests.benchmarks.options import Options, progress
from tests.benchmarks.peers import LIMIT, WAYS
from tests.benchmarks.results import Section, Table

_HOSTS = 10
_STAYS = "labctl up/down"  # which is asked for a network that outlives the command
_OURS = (LIMIT, "labctl API")
_LINGERS = ("sh", "-c", '"$@" || exec sleep 600', "sh")  # the container outlives the builder
_WITHIN_S = 10.0
_COLUMNS = ("processes", "names", "interfaces", "namespaces")


def run(options: Options) -> Section:
    """Let each way build a star, kill its process, and count what remains some seconds later."""
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    samples: dict[str, object] = {}
    for way in WAYS:
        chosen = (LIMIT, *options.builders) if options.builders else _OURS if options.quick else (way.name,)
        if way.name == _STAYS or way.name not in chosen:
            continue
        command = way.command(options)
        if command is None:
            notes.append(f"{way.name} is not installed: {way.install}.")
            continue
        progress(f"killed: {way.name}")
        folder = options.scratch / f"killed-{re.sub(r'[^a-z0-9]+', '-', way.name.lower())}"
        folder.mkdir(exist_ok=True)
        try:
            with Container([*_LINGERS, *command], folder) as container:
                container.ready_s(options.budget_s)
                before = container.contents()
                before = replace(before, processes=frozenset(range(len(before.processes) - 1)))  # without the builder
                container.request(f"build star {_HOSTS}", options.budget_s)
                container.request("exchange", options.budget_s)
                container.kill_builder()
                container.left_after(before, _WITHIN_S)
                left = container.contents()
        except BuilderFailed as error:
            notes.append(f"{way.name} cannot build a network here: {error}.")
            continue
        rows.append((way.name, *(str(len(_more(left, before, column))) for column in _COLUMNS)))
        samples[way.name] = {field: sorted(map(str, value)) for field, value in asdict(left).items()}
    heads = ("", "processes", "names of namespaces", "interfaces", "namespaces that processes hold")
    table = Table(f"Of a star of {_HOSTS} hosts, {_WITHIN_S:.0f} s after SIGKILL", heads, tuple(rows), tuple(notes))
    return Section("killed", "What a killed program leaves", (table,), samples=samples)


def _more(after: Contents, before: Contents, field: str) -> frozenset[str]:
    """Return what is in a field now and was not before."""
    found: frozenset[str] = getattr(after, field) - getattr(before, field)
    return found
