"""The command line of the benchmarks: `python -m tests.benchmarks SUITE ...` (docs/performance.md)."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import documents, formats, peers
from tests.benchmarks.machine import description
from tests.benchmarks.options import Options
from tests.benchmarks.plot import svg
from tests.benchmarks.results import Section
from tests.benchmarks.suites import (
    builders,
    commands,
    fresh_labs,
    growth,
    killed,
    long_run,
    pages,
    phases,
    planning,
    recording,
    replay,
    scale,
)

SUITES = {
    "builders": builders.run,
    "replay": replay.run,
    "killed": killed.run,
    "commands": commands.run,
    "phases": phases.run,
    "fresh-labs": fresh_labs.run,
    "long-run": long_run.run,
    "growth": growth.run,
    "planning": planning.run,
    "recording": recording.run,
    "pages": pages.run,
    "scale": scale.run,
}


def main(words: list[str] | None = None) -> int:
    """Measure what the command line names; print the report."""
    arguments = _parser().parse_args(words)
    if arguments.install:
        peers.install(arguments.peers)
    names = list(SUITES) if arguments.all else arguments.suite
    if not names:
        return 0 if arguments.install else _parser().error("name a suite, or give --all")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    machine = description()
    with tempfile.TemporaryDirectory(prefix="labctl-benchmarks-") as scratch:
        options = Options(
            quick=arguments.quick,
            sizes=tuple(arguments.sizes or ((2, 10) if arguments.quick else (2, 10, 100, 1000))),
            repetitions=arguments.repetitions or (1 if arguments.quick else 21),
            budget_s=arguments.budget,
            peers=arguments.peers,
            builders=tuple(arguments.builders),
            scratch=Path(scratch),
        )
        sections: list[Section] = []
        for name in names:
            sections.append(SUITES[name](options))
            if arguments.output:  # after each suite: an error in a later one loses nothing
                _write_files(arguments.output, machine, sections)
    sys.stdout.write(_report(arguments.format, machine, sections))
    if arguments.docs:
        documents.update(machine, sections)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    add = parser.add_argument
    add("suite", nargs="*", choices=[*SUITES, []], default=[], help=f"what to measure: {', '.join(SUITES)}")
    add("--all", action="store_true", help="all suites, in some 15 minutes")
    add("--quick", action="store_true", help="the smallest sizes and few repetitions")
    add("--sizes", type=lambda text: [int(one) for one in text.split(",")], help="numbers of hosts: 2,10,100,1000")
    add("--repetitions", type=int, help="how often each command is run")
    add("--budget", type=float, default=60.0, metavar="S", help="what one build may take (default: 60 s)")
    add("--builders", type=lambda text: text.split(","), default=[], metavar="NAME,...", help="compare only these")
    add("--peers", type=Path, default=_peers(), metavar="DIR", help="virtual environments of other tools")
    add("--install", action="store_true", help="install munet and NeST from PyPI into --peers")
    add("--format", choices=["text", "markdown", "json"], default="text", help="of what is printed")
    add("--output", type=Path, metavar="DIR", help="also write results.txt, results.md, results.json and the plots")
    add("--docs", action="store_true", help="also replace the figures in README.md and docs/")
    return parser


def _peers() -> Path:
    return Path(tempfile.gettempdir(), f"labctl-benchmark-peers-{os.getuid()}")


def _report(format: str, machine: dict[str, str], sections: list[Section]) -> str:
    if format == "json":
        return formats.raw(machine, sections)
    if format == "markdown":
        bodies = [f"## {one.title}\n\n{formats.markdown(one, '.')}" for one in sections]
        return "\n\n".join([formats.machine_sentence(machine), *bodies]) + "\n"
    return formats.text(machine, sections)


def _write_files(folder: Path, machine: dict[str, str], sections: list[Section]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for format, name in (("text", "results.txt"), ("markdown", "results.md"), ("json", "results.json")):
        (folder / name).write_text(_report(format, machine, sections))
    for section in sections:
        for plot in section.plots:
            (folder / f"{plot.name}.svg").write_text(svg(plot))


if __name__ == "__main__":
    sys.exit(main())
