"""Draws the ladders of the shipped scenarios into docs/_static/ladders: `tools/docs --ladders`.

Each picture is of a run on this machine and names the scenario file that it shows by its SHA-256. The page
docs/explanation/ladders.md is written anew with them.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from textwrap import fill

from labctl.scenario import load, run_many
from labctl.scenario.model import Cancellation, RunOptions, Scenario
from labctl.scenario.results import Listener, Outcome, ScenarioInfo, ScenarioResult
from labctl.structs import replace
from labctl.timeline.events import Mark, Output, Timeline
from labctl.timeline.recording import RecordOptions
from labctl.timeline.sinks.svg import svg

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "_static" / "ladders"
PAGE = ROOT / "docs" / "explanation" / "ladders.md"
# Those of the study notes of which a picture shows something, in their order; real software has pages of its own.
SCENARIOS = (
    *("tcp-echo", "listen-backlog", "syn-queue", "accept", "somaxconn", "bind", "ports", "time-wait", "reuseport"),
    *("connect-errors", "connect-timeout", "connect-nonblocking", "half-close", "buffers", "link-down", "long-way"),
    *("tcp-ipv6", "udp-ipv4", "udp-ipv6", "udp-connect", "udp-buffers", "multicast"),
    *("unix-stream", "unix-dgram", "unix-rights", "socket-errors"),
)
_HASH = re.compile(r"<!-- scenario sha256:([0-9a-f]{64}) -->")
_HEAD = """\
# Scenarios as ladders

Each picture is a recorded run of a scenario that ships with labctl. Hosts are columns, time goes down, and arrows are
packets. [Read a ladder](../how-to/read-a-ladder.md) explains the signs. Run one with `labctl run NAME`, and write its
picture with `--svg FILE`.

<!-- Written by tools/docs --ladders. -->
"""


def scenario_file(name: str) -> Path:
    """Return the file of a shipped scenario."""
    return ROOT / "scenarios" / f"{name}.yaml"


def digest(name: str) -> str:
    """Return the SHA-256 of a scenario's file."""
    return hashlib.sha256(scenario_file(name).read_bytes()).hexdigest()


def drawn_digest(picture: str) -> str:
    """Return the SHA-256 that a picture has of its scenario's file; "" if it has none."""
    found = _HASH.search(picture)
    return found[1] if found else ""


def page(scenarios: list[Scenario]) -> str:
    """Return the page with all pictures."""
    parts = [_HEAD]
    for scenario in scenarios:
        name = Path(scenario.file).stem
        about = fill(f"[{name}](../../scenarios/{name}.yaml). {scenario.about}", 120, break_on_hyphens=False)
        parts.append(
            f"\n## {scenario.name}\n\n{about}\n\n![Ladder of {name}: {scenario.name}](../_static/ladders/{name}.svg)\n"
        )
    return "".join(parts)


class _Recorded(Listener):
    timeline: Timeline | None = None

    def recorded(self, scenario: ScenarioInfo, result: ScenarioResult, timeline: Timeline) -> None:
        self.timeline = timeline


def draw(name: str) -> None:
    """Run a scenario and write its picture. RuntimeError unless it passed."""
    scenario = load(scenario_file(name))
    listener = _Recorded()
    run = run_many([scenario], RunOptions(record=RecordOptions()), listener, Cancellation())
    result = run.scenarios[0]
    if result.outcome is not Outcome.PASSED or listener.timeline is None:
        raise RuntimeError(f"{name}: {result.outcome}: {result.reason}")
    shown = tuple(event for event in listener.timeline.events if not isinstance(event, Output | Mark))
    picture = svg(replace(listener.timeline, events=shown), description=scenario.about)
    head, rest = picture.split("\n", 1)
    (PICTURES / f"{name}.svg").write_text(f"{head}\n<!-- scenario sha256:{digest(name)} -->\n{rest}")


def main(names: list[str]) -> None:
    """Draw all scenarios, or those of `names`, and write the page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names or SCENARIOS:
        draw(name)
    PAGE.write_text(page([load(scenario_file(name)) for name in SCENARIOS]))


if __name__ == "__main__":
    main(sys.argv[1:])
