"""The benchmarks run, on the smallest networks, and their report has what docs/performance.md shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.benchmarks import documents, formats
from tests.benchmarks.__main__ import SUITES
from tests.benchmarks.container import BuilderFailed, Container
from tests.benchmarks.plot import svg
from tests.benchmarks.results import Plot, Section, Table
from tests.benchmarks.suites.builders import Measured, _too_long
from tests.patience import patient
from tests.skips import needs_programs

ROOT = Path(__file__).resolve().parents[2]
PLOT = Plot("p", "Time & size", "hosts", "ms", {"one <way>": [(2, 1.5), (1000, 900.0)], "two": [(2, 1.4)]})
TABLE = Table("Times", ("", "2 hosts"), (("one", "1.50 ms"), ("the | other", "2.00 ms")), ("A note.",))


def run(folder: Path, *words: str) -> dict[str, dict[str, object]]:
    """Run suites with --quick; return the raw samples of each."""
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--output", str(folder), *words]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=patient(120))
    sections: dict[str, dict[str, object]] = json.loads((folder / "results.json").read_text())["sections"]
    return sections


@needs_programs("cc", "unshare")
def test_builders_build_networks_that_work_and_leave_nothing(tmp_path: Path) -> None:
    names = ["C program", "labctl API", "labctl up/down"]
    builds = run(tmp_path, "builders", "--sizes", "2,3", "--builders", ",".join(names))["builders"]["builds"]
    assert isinstance(builds, dict)
    assert list(builds) == names
    for of in builds.values():
        for measured in of.values():
            assert len(measured["build"]) == 3
            assert (measured["left"], measured["failures"], measured["not_run"]) == ([], [], "")


CARELESS = """
import os, subprocess
from tests.benchmarks.builders.contract import serve

class Careless:
    def build(self, shape, size):
        os.mkdir("/run/netns")
        open("/run/netns/h1", "w").close()
        subprocess.Popen(["sleep", "60"])
        subprocess.run(["ip", "link", "add", "left", "type", "veth"], check=True)

    def ends(self):
        raise LookupError("there is no h2")

    def close(self):
        pass

serve(Careless())
"""


@needs_programs("unshare", "ip")
def test_what_a_builder_leaves_and_its_errors_are_reported(tmp_path: Path) -> None:
    with Container([sys.executable, "-c", CARELESS], tmp_path) as container:
        container.ready_s(patient(20))
        before = container.contents()
        container.request("build pair 2", patient(20))
        container.request("close", patient(20))
        assert [line.partition(":")[0] for line in container.left_after(before, 0.1)] == [
            "processes",
            "names",
            "interfaces",
        ]
        with pytest.raises(BuilderFailed, match="LookupError: there is no h2"):
            container.request("exchange", patient(20))


def test_a_size_that_would_take_longer_than_the_budget_is_not_run() -> None:
    small = Measured(build=[2.0, 3.0])
    assert _too_long(100, {10: small, 100: Measured()}, 30) == ""
    assert _too_long(1000, {10: small, 1000: Measured()}, 30) == "10 hosts took 2 s, so 1000 would take over 30 s"
    assert _too_long(1000, {10: Measured(not_run="no time"), 1000: Measured()}, 30) == "no time"


@needs_programs("cc", "unshare")
def test_nothing_is_left_of_a_lab_whose_owner_is_killed(tmp_path: Path) -> None:
    left = run(tmp_path, "killed")["killed"]
    assert left.keys() == {"C program", "labctl API"}
    for of in left.values():
        assert isinstance(of, dict)
        assert (of["names"], of["mounts"]) == ([], [])
        assert len(of["processes"]) == 3  # of the container


@pytest.mark.parametrize("suite", sorted(SUITES.keys() - {"builders", "killed"}))
def test_a_suite_runs(suite: str, tmp_path: Path) -> None:
    if suite == "growth" and not shutil.which("unshare"):
        pytest.skip("not installed: unshare")
    assert list(run(tmp_path, suite).values()) != [{}]


def test_a_table_is_markdown() -> None:
    text = formats.markdown(Section("s", "Suite", (TABLE,), (PLOT,)), "pictures")
    assert text.splitlines() == [
        *("Times:", "", "|  | 2 hosts |", "|---|---:|", "| one | 1.50 ms |", "| the \\| other | 2.00 ms |"),
        *("", "- A note.", "", "![Time & size, ms over hosts](pictures/p.svg)"),
    ]


def test_a_plot_is_svg_with_labelled_axes_and_lines() -> None:
    root = ElementTree.fromstring(svg(PLOT))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Time & size", "hosts", "ms", "one <way>", "two"} <= texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 2


def test_figures_replace_the_text_between_their_marks_and_no_other() -> None:
    page = "a\n<!-- benchmark: one -->\nold\n<!-- /benchmark -->\n<!-- benchmark: two -->\nkept\n<!-- /benchmark -->\n"
    assert documents.filled(page, {"one": "new"}) == page.replace("old", "new")


def test_every_suite_has_a_place_in_the_page_on_performance() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    names = [found[2] for found in documents.MARK.finditer(page)]
    assert sorted(names) == sorted(["machine", *SUITES])
    for other in ("README.md", "docs/index.md"):
        assert [found[2] for found in documents.MARK.finditer((ROOT / other).read_text())] == ["headline"]


def test_every_plot_of_the_page_on_performance_exists() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    pictures = re.findall(r"\]\((_static/performance/[\w-]+\.svg)\)", page)
    assert pictures
    for picture in pictures:
        ElementTree.parse(ROOT / "docs" / picture)
