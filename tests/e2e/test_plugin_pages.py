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


def pages(project: Project) -> dict[str, str]:
    """The files of the pages that the index names, by the text of their links."""
    root = project.folder / "html"
    links = re.findall(r'<a href="(pages/[^"]+)">([^<]+)</a>', (root / "index.html").read_text())
    found = {text: (root / link).read_text() for link, text in links}
    assert len(list((root / "pages").iterdir())) == len(found)
    return found


@pytest.mark.parametrize("workers", [(), ("-n", "2", "-p", "xdist")], ids=["one process", "two workers"])
def test_a_failed_scenario_has_a_page_with_its_packets(project: Project, workers: tuple[str, ...]) -> None:
    ran = project.pytest("--labctl-html", "html", *workers)
    assert ran.outcomes() == "2 failed, 1 passed, 1 skipped"
    assert ran.lines(f"labctl: pages: {project.folder / 'html' / 'index.html'}")
    found = pages(project)
    assert list(found) == ["refused.scenario.yaml::Nobody listens"]
    (page,) = found.values()
    assert "ECONNREFUSED" in page
    packets = re.search(r"(\d+) packets", page)
    assert packets is not None
    assert int(packets[1]) >= 2


def test_all_tests_with_labs_have_pages_on_request(project: Project) -> None:
    project.pytest("--labctl-html", "html", "--labctl-html-all")
    assert list(pages(project)) == ["refused.scenario.yaml::Nobody listens", "echo.scenario.yaml::A server echoes"]


def test_a_directory_of_something_else_is_refused(project: Project) -> None:
    project.write("html/index.html", "<h1>mine</h1>")
    ran = project.pytest("--labctl-html", "html")
    assert ran.status == 4
    assert ran.lines("that is not labctl's")
    assert (project.folder / "html" / "index.html").read_text() == "<h1>mine</h1>"


def test_without_failures_the_index_is_empty(project: Project) -> None:
    ran = project.pytest("--labctl-html", "html", "echo.scenario.yaml")
    assert ran.status == 0
    assert pages(project) == {}
