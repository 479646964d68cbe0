"""`pytest --labctl-html`: pages of failed tests with labs, and their index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.command import ECHO, REFUSED, SKIPPED
from tests.e2e.plugin_project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(
        tmp_path / "project",
        echo__scenario__yaml=ECHO,
        refused__scenario__yaml=REFUSED,
        skipped__scenario__yaml=SKIPPED,
        test_plain__py="def test_without_a_lab():\n    assert 1 == 2\n",
    )


def pages(project: Project) -> list[tuple[str, str]]:
    """The names of tests in the index, and their pages."""
    root = project.folder / "html"
    links = re.findall(r'<a href="(pages/[^"]+)">([^<]+)</a>', (root / "index.html").read_text())
    assert {link for link, _ in links} == {f"pages/{path.name}" for path in (root / "pages").iterdir()}
    return [(text, (root / link).read_text()) for link, text in links]


@pytest.mark.parametrize("workers", [(), ("-n", "2", "-p", "xdist")], ids=["one process", "two workers"])
def test_a_failed_scenario_has_a_page_with_its_packets(project: Project, workers: tuple[str, ...]) -> None:
    ran = project.pytest("--labctl-html", "html", *workers)
    assert ran.outcomes() == "2 failed, 1 passed, 1 skipped"
    assert ran.lines(f"labctl: pages: {project.folder / 'html' / 'index.html'}")
    ((name, page),) = pages(project)
    assert name == "refused.scenario.yaml::Nobody listens"
    assert "ECONNREFUSED" in page
    packets = re.search(r"(\d+) packets", page)
    assert packets is not None
    assert int(packets[1]) >= 2


def test_all_tests_with_labs_have_pages_on_request(project: Project) -> None:
    project.pytest("--labctl-html", "html", "--labctl-html-all")
    assert [name for name, _ in pages(project)] == [
        "refused.scenario.yaml::Nobody listens",
        "echo.scenario.yaml::A server echoes",
    ]


def test_a_directory_of_something_else_is_refused(project: Project) -> None:
    project.write("html/index.html", "<h1>mine</h1>")
    ran = project.pytest("--labctl-html", "html")
    assert ran.status == 4
    assert ran.lines("that is not labctl's")
    assert (project.folder / "html" / "index.html").read_text() == "<h1>mine</h1>"


def test_without_failures_the_index_is_empty(project: Project) -> None:
    ran = project.pytest("--labctl-html", "html", "echo.scenario.yaml")
    assert ran.status == 0
    assert pages(project) == []


LABS = """\
    def test_refused(lab):
        with lab["client"].netns():
            import socket
            socket.create_connection((lab["server"].ipv4, 81), timeout=5)

    def test_passes(lab):
        assert lab["client"].run(["true"]).returncode == 0

    def test_two_labs(make_lab):
        a, b = make_lab("pair"), make_lab("star:3")
        a["client"].run(["ping", "-c", "1", "server"])
        assert False, "<b>two</b>"
"""


def test_a_failed_test_has_a_page_for_each_of_its_labs_with_the_cause(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", test_labs__py=LABS)
    ran = project.pytest("--labctl-html", "html")
    assert ran.outcomes() == "2 failed, 1 passed"
    found = pages(project)
    assert [name for name, _ in found] == ["test_labs.py::test_refused", *2 * ["test_labs.py::test_two_labs"]]
    refused = found[0][1]
    assert "nothing listens on 81" in refused
    assert '<p class="reason">ConnectionRefusedError: [Errno 111] Connection refused</p>' in refused
    assert '<p class="reason">test_labs.py:12: AssertionError: &lt;b&gt;two&lt;/b&gt;' in found[1][1]
    assert "run ping -c 1 server" in found[1][1]
    assert "pytest test_labs.py::test_refused --labctl-seed" in refused


def test_a_shared_lab_shows_each_test_its_own_part(tmp_path: Path) -> None:
    source = """\
        import pytest

        pytestmark = pytest.mark.topology("pair", scope="module")

        def test_one(lab):
            assert lab["client"].run(["ping", "-c", "1", "server"]).returncode == 1

        def test_two(lab):
            assert lab["client"].run(["true"]).returncode == 1
    """
    project = Project(tmp_path / "project", test_labs__py=source)
    project.pytest("--labctl-html", "html")
    packets = {name: int(re.findall(r"([\d,]+) packets", page)[0]) for name, page in pages(project)}
    assert packets["test_labs.py::test_one"] >= 2
    assert packets["test_labs.py::test_two"] < packets["test_labs.py::test_one"]
