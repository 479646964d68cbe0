"""The files around the code say what is true: README's two lines, CI, the pins, the links between documents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ("constraints.txt", "constraints-test.txt")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("scenarios/**/*.md")])
DETAILS = 19  # the column of module names below a folder in the map of the code
SCRIPTS = sorted(
    [*(path for path in ROOT.glob("tools/*") if path.is_file() and path.suffix != ".py"), ROOT / ".ci" / "run"]
)


def code_blocks(markdown: str, language: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL)


def pins(name: str) -> dict[str, str]:
    """The versions that a constraints file pins, by normalised name."""
    text = (ROOT / name).read_text()
    return {
        re.sub(r"[-_.]+", "-", project).lower(): version
        for project, version in re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE)
    }


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower() for requirement in requirements}


def pyproject() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def anchors(markdown: str) -> set[str]:
    """The fragments that a document's headings give, as the usual renderers make them."""
    headings = re.findall(r"^#+ +(.*)$", markdown, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def readme_lines() -> list[str]:
    return code_blocks((ROOT / "README.md").read_text())[:2]


def test_the_first_two_code_blocks_of_readme_are_one_line_each() -> None:
    assert [block.count("\n") for block in readme_lines()] == [1, 1]


def test_readme_installs_before_it_runs_the_main_job() -> None:
    assert re.fullmatch(r"tools/install && \.venv/bin/labctl run [\w.-]+\n", readme_lines()[0])


def test_ci_runs_the_test_line_of_readme_with_all_stages() -> None:
    commands = [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line.strip() and not line.startswith(("#", "cd "))
    ]
    assert commands == [readme_lines()[1].rstrip("\n") + " --all"]


def test_the_examples_of_readme_are_valid(tmp_path: Path) -> None:
    from labctl import scenario, topology

    found = {}
    for example in code_blocks((ROOT / "README.md").read_text(), "yaml"):
        name = example.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(example)
        load = scenario.load if "\nsteps:" in example else topology.load
        found[name] = load(tmp_path / name)
    assert len(found) == 2


def test_the_help_of_the_test_line_is_its_first_comment() -> None:
    told = subprocess.run([ROOT / "tools" / "test", "--help"], capture_output=True, text=True, check=True).stdout
    assert told.startswith("Usage: tools/test [--quick | --all | ")
    assert told.splitlines()[-1].startswith("Environment: ")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_executable_and_plain_posix_shell(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["/bin/sh", "-n", script], check=True)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_pin_has_hashes(name: str) -> None:
    # A pin is a line and its continuations.
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line.strip()]
    assert entries
    without = [entry for entry in entries if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry)]
    assert without == []


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_pins_name_no_index(name: str) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", (ROOT / name).read_text())


def test_what_labctl_depends_on_is_pinned() -> None:
    project = pyproject()
    assert isinstance(project["project"], dict)
    assert isinstance(project["dependency-groups"], dict)
    wanted = requirement_names(project["project"]["dependencies"] + project["dependency-groups"]["build"])
    assert wanted <= pins("constraints.txt").keys()
    assert requirement_names(project["project"]["optional-dependencies"]["test"]) <= pins("constraints-test.txt").keys()


def test_the_tests_use_the_versions_that_users_get() -> None:
    assert pins("constraints.txt").items() <= pins("constraints-test.txt").items()


INSTALLS = re.compile(
    r"\b(?:pipx? install|pipx run|pip download|pip wheel|uv (?:tool install|pip install|add)|uvx)\b(.*)"
)
OTHER_PROJECT = re.compile(r"""(?:^|[\s"'])labctl(?=$|[\s"'\[=<>~!@;,)`])""")


def installs_the_other_project(text: str) -> list[str]:
    """The lines with an installer's command, or a requirement, that fetch the project named `labctl` from PyPI."""
    wrong = [line for line in text.splitlines() for found in INSTALLS.findall(line) if OTHER_PROJECT.search(found)]
    return wrong + re.findall(r"\blabctl(?:\[[\w,-]+\])?(?:==|>=|~=)\d.*", text)


def test_no_page_installs_the_project_that_has_our_name_on_pypi() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    names = [name for name in listed.split("\0") if name] or [str(path.relative_to(ROOT)) for path in DOCUMENTS]
    found = {}
    for name in names:
        path = ROOT / name
        if name.startswith("tests/") or not path.is_file() or path.is_symlink():
            continue
        text = path.read_text("utf-8", "replace")
        if wrong := installs_the_other_project(text):
            found[name] = wrong
    assert found == {}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("pip install --quiet labctl", True),
        ("pip install 'labctl[pytest]'", True),
        ("uv tool install labctl==0.4.0", True),
        ("pipx install labctl", True),
        ("version: labctl==0.4.0", True),
        ("pip install .", False),
        ("pip install labctl-netns", False),
        ('pip install "labctl-netns @ git+https://github.com/OWNER/labctl@COMMIT"', False),
        ("pip install /path/to/labctl/", False),
        ("plain/bin/pip install dist/labctl_netns-*.whl && plain/bin/labctl run tcp-echo", False),
    ],
)
def test_a_line_that_installs_the_other_project_is_recognised(line: str, wrong: bool) -> None:
    assert bool(installs_the_other_project(line.partition(" && ")[0])) == wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_resolve(document: Path) -> None:
    text = document.read_text()
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        if not linked.exists() or (fragment and fragment not in anchors(linked.read_text())):
            broken.append(target)
    assert broken == []


def test_the_map_of_the_code_names_every_module() -> None:
    drawing = code_blocks((ROOT / "docs" / "architecture.md").read_text(), "text")[0]
    drawn: dict[str, set[str]] = {}
    folders: list[str] = []
    for line in drawing.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent >= DETAILS:
            drawn["/".join(folders)] |= set(line.split())
        elif line.split()[0].endswith("/"):
            folders = [*folders[: indent // 2], line.split()[0].rstrip("/")]
            drawn["/".join(folders)] = set()
        else:
            drawn["labctl"].add(line.split()[0])
    modules: dict[str, set[str]] = {folder: set() for folder in drawn}
    for path in (ROOT / "labctl").rglob("*.py"):
        folder = str(path.parent.relative_to(ROOT))
        if not path.name.startswith("__") and not folder.startswith(("labctl/starter", "labctl/_shipped")):
            modules.setdefault(folder, set()).add(path.stem)
    assert drawn == modules


def test_the_script_that_tools_install_leaves_does_not_import_re() -> None:
    """It takes a quarter of the time of `labctl exec`; see docs/decisions/0017."""
    if not Path(sys.prefix, ".labctl-run").is_file():
        pytest.skip("for an environment that tools/install has made")
    assert "import re\n" not in Path(sys.prefix, "bin", "labctl").read_text()
