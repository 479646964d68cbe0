"""`labctl run` with files of timelines: pages with an index, and files of one scenario."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import pytest

from tests.e2e.command import ECHO, LABCTL, REFUSED, SKIPPED, WAITS, environment, labctl
from tests.skips import for_root
from tests.tracing import without_library
from tests.unit.timeline.write_schema import TARGET

HELLO = """\
name: hello
topology: pair
steps:
  - run:
      on: client
      run: [python3, -I, -S, -c, "import socket; socket.socket(2, 2).sendto(b'hello', ('10.0.0.2', 5000))"]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A directory with a scenario that passes, one that fails and one that is skipped."""
    folder = tmp_path / "suite"
    folder.mkdir()
    for name, text in (("echo", ECHO), ("refused", REFUSED), ("skipped", SKIPPED)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_html_is_a_page_for_each_scenario_and_an_index(suite: Path) -> None:
    ran = labctl("run", ".", "-j", "2", "--html", "html", cwd=suite)
    assert ran.returncode == 1
    index = (suite / "html" / "index.html").read_text()
    assert re.findall(r'href="pages/([^"]+)"', index) == ["refused.html", "echo.html"]
    assert "1 failed, 1 skipped, 1 passed" in index
    assert "no-such-program" in index
    refused = (suite / "html" / "pages" / "refused.html").read_text()
    assert "ECONNREFUSED" in refused
    assert refused.index("badge failed") < refused.index("ladder-title")


def test_the_files_of_one_scenario_have_its_calls_and_packets(suite: Path) -> None:
    files = ("--timeline", "t.json", "--perfetto", "t.perfetto.json", "--pcap", "t.pcapng", "--svg", "t.svg")
    ran = labctl("run", "echo.yaml", *files, cwd=suite)
    assert (ran.returncode, ran.stderr) == (0, "")
    timeline = json.loads((suite / "t.json").read_text())
    jsonschema.validate(timeline, json.loads(TARGET.read_text()))
    assert {"Call", "Packet", "Step"} <= {event["type"] for event in timeline["events"]}
    assert dict(timeline["environment"]).keys() == {"labctl", "kernel", "user", "seed"}
    trace = json.loads((suite / "t.perfetto.json").read_text())
    assert {"connect", "packet"} <= {event["name"] for event in trace["traceEvents"]}
    assert (suite / "t.pcapng").read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    ElementTree.fromstring((suite / "t.svg").read_text())
    assert not [path.name for path in suite.iterdir() if path.name.startswith(".")]


@for_root("ordinary users' calls are traced by strace anyway")
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_without_libbpf_root_s_programs_are_traced_by_strace(tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_text(HELLO)
    hidden = without_library("libbpf.so.1", tmp_path)
    ran = labctl("run", "hello.yaml", "--trace", "--timeline", "t.json", cwd=tmp_path, **hidden)
    assert ran.returncode == 0, ran.stdout
    timeline = json.loads((tmp_path / "t.json").read_text())
    calls = [event for event in timeline["events"] if event["type"] == "Call" and event["source"] == "syscalls"]
    assert "sendto" in {call["name"] for call in calls}
    assert any("by BPF (labctl starts programs with strace instead): libbpf" in what for what in timeline["missing"])


def test_files_of_one_scenario_are_refused_for_several_before_anything_runs(suite: Path) -> None:
    ran = labctl("run", ".", "--pcap", "t.pcapng", cwd=suite)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "--pcap t.pcapng: cannot write several runs to it" in ran.stderr
    assert "--html DIR" in ran.stderr
    repeated = labctl("run", "echo.yaml", "--repeat", "2", "--svg", "t.svg", cwd=suite)
    assert repeated.returncode == 2
    assert not (suite / "t.pcapng").exists()


@pytest.mark.parametrize("option", ["--timeline", "--pcap", "--svg", "--perfetto"])
def test_a_file_that_cannot_be_written_is_reported_before_anything_runs(suite: Path, option: str) -> None:
    ran = labctl("run", "echo.yaml", option, "there/file", cwd=suite)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"{option} there/file: no directory" in ran.stderr


def test_a_directory_of_other_pages_is_reported_before_anything_runs(suite: Path) -> None:
    (suite / "html").mkdir()
    (suite / "html" / "index.html").write_text("<h1>mine</h1>")
    ran = labctl("run", "echo.yaml", "--html", "html", cwd=suite)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert (suite / "html" / "index.html").read_text() == "<h1>mine</h1>"


def test_a_skipped_scenario_has_a_file_without_events(suite: Path) -> None:
    ran = labctl("run", "skipped.yaml", "--timeline", "t.json", cwd=suite)
    assert ran.returncode == 0
    assert json.loads((suite / "t.json").read_text())["events"] == []


def test_an_interrupted_run_leaves_whole_pages_and_an_index(suite: Path) -> None:
    (suite / "skipped.yaml").write_text(WAITS)
    command = [LABCTL, "run", "echo.yaml", "skipped.yaml", "--html", "html", "-v"]
    with subprocess.Popen(
        command, cwd=suite, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "ready" in line:
                break
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
    index = (suite / "html" / "index.html").read_text()
    assert "pages/echo.html" in index
    assert "Waits for ever" in index
    for page in (suite / "html" / "pages").iterdir():
        assert page.read_text().endswith("</html>\n")
