"""The composite action's own steps, one after the other, as a runner of GitHub's executes them: bash -e, its files, its
variables. Actions of others (setup-python, upload-artifact) are not run; what they are given is looked at."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.command import LABCTL, environment

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300
GOOD = "name: Good\ntopology: pair\nsteps:\n  - run: {on: client, run: [hostname], expect: {stdout: client}}\n"
BAD = "name: Bad\ntopology: pair\nsteps:\n  - run: {on: client, run: [hostname], expect: {stdout: server}}\n"
_TERM = re.compile(r"\s*(?:(?P<op>&&|==|!=)|(?P<call>always\(\))|'(?P<text>[^']*)'|(?P<name>[a-z][\w.-]*))")


@dataclass
class Runner:
    """As much of a runner as the action needs."""

    workspace: Path
    inputs: dict[str, str]
    environment: dict[str, str]
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    used: dict[str, dict[str, str]] = field(default_factory=dict)  # other people's actions, and what they were given
    log: str = ""
    failed: bool = False

    @property
    def summary(self) -> str:
        return (self.workspace.parent / "summary.md").read_text()

    def run(self) -> None:
        """All steps; after one that failed only those that always run."""
        for step in yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]:
            condition = step.get("if", "")
            if (self.failed and "always()" not in condition) or (condition and not self._value(condition)):
                continue
            if "uses" in step:
                self.used[step["uses"].split("@")[0]] = {
                    key: self._filled(value) for key, value in step["with"].items()
                }
            else:
                self._execute(step)

    def _execute(self, step: dict[str, Any]) -> None:
        assert step["shell"] == "bash"
        files = {name: self.workspace.parent / f"{name.lower()}.txt" for name in ("GITHUB_OUTPUT", "GITHUB_ENV")}
        for path in files.values():
            path.write_text("")
        script = self.workspace.parent / "script.sh"
        script.write_text(step["run"])
        given = {name: self._filled(value) for name, value in step.get("env", {}).items()}
        ran = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script],
            cwd=self.workspace,
            env={**self.environment, **{name: str(path) for name, path in files.items()}, **given},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        self.log += ran.stdout
        self.failed = self.failed or ran.returncode != 0
        if "id" in step:
            lines = files["GITHUB_OUTPUT"].read_text().splitlines()
            self.outputs[step["id"]] = dict(line.split("=", 1) for line in lines)

    def _filled(self, text: str) -> str:
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: str(self._value(found[0])), text)

    def _value(self, expression: str) -> str | bool:
        """Of GitHub's expressions, those in the action: names, texts, ==, !=, && and always()."""
        tokens = list(_TERM.finditer(expression.strip().removeprefix("${{").removesuffix("}}").rstrip()))
        values = [self._operand(token) for token in tokens if not token["op"]]
        operators = [token["op"] for token in tokens if token["op"]]
        assert len(values) == len(operators) + 1, expression
        sides: list[str | bool] = [values[0]]
        for operator, value in zip(operators, values[1:], strict=True):
            if operator == "&&":
                sides.append(value)
            else:
                sides[-1] = (sides[-1] == value) == (operator == "==")
        return sides[0] if len(sides) == 1 else all(sides)

    def _operand(self, token: re.Match[str]) -> str | bool:
        if token["call"]:
            return True
        if token["text"] is not None:
            return token["text"]
        match token["name"].split("."):
            case ["inputs", name]:
                return self.inputs[name]
            case ["steps", step, "outputs", name]:
                return self.outputs.get(step, {}).get(name, "")
            case ["github", "action_path"]:
                return str(ROOT)
        raise AssertionError(token[0])


def runner(tmp_path: Path, **inputs: str) -> Runner:
    workspace = tmp_path / "workspace"
    (workspace / "scenarios").mkdir(parents=True)
    (workspace / "scenarios" / "good.yaml").write_text(GOOD)
    (tmp_path / "temp").mkdir()
    defaults = {
        name: each["default"] for name, each in yaml.safe_load((ROOT / "action.yml").read_text())["inputs"].items()
    }
    assert inputs.keys() <= defaults.keys()
    return Runner(
        workspace,
        {**defaults, "version": "installed", **inputs},
        environment(
            PATH=f"{Path(LABCTL).parent}:{os.environ['PATH']}",
            GITHUB_ACTIONS="true",
            GITHUB_WORKSPACE=str(workspace),
            GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"),
            RUNNER_TEMP=str(tmp_path / "temp"),
        ),
    )


def test_scenarios_that_pass_pass_the_job_and_are_uploaded(tmp_path: Path) -> None:
    job = runner(tmp_path)
    job.run()
    assert not job.failed, job.log
    assert job.used["actions/setup-python"] == {"python-version": "3.13"}
    upload = job.used["actions/upload-artifact"]
    assert upload["name"] == "labctl"
    assert json.loads((Path(upload["path"]) / "result.json").read_text())["scenarios"][0]["outcome"] == "passed"
    assert "1 passed" in job.summary
    assert "::error" not in job.log


def test_a_failure_fails_the_job_is_annotated_and_is_uploaded_all_the_same(tmp_path: Path) -> None:
    job = runner(tmp_path)
    (job.workspace / "scenarios" / "bad.yaml").write_text(BAD)
    job.run()
    assert job.failed
    assert "::error file=scenarios/bad.yaml,line=4,title=Bad%3A step 1" in job.log
    assert "1 passed, 1 failed" in job.summary
    assert (Path(job.used["actions/upload-artifact"]["path"]) / "junit.xml").exists()


def test_inputs_are_words_and_never_become_shell_text(tmp_path: Path) -> None:
    name = "$(touch pwned); 'x' \"y\".yaml"
    job = runner(
        tmp_path, scenarios=f"scenarios/good.yaml\nscenarios/{name}", arguments="--seed=5\n--repeat=2\n", artifact=""
    )
    (job.workspace / "scenarios" / name).write_text(GOOD.replace("Good", "Odd"))
    job.run()
    assert not job.failed, job.log
    assert "actions/upload-artifact" not in job.used
    assert list(job.workspace.rglob("pwned")) == []
    result = json.loads((Path(job.outputs["run"]["directory"]) / "result.json").read_text())
    assert [each["name"] for each in result["scenarios"]] == ["Good [1/2]", "Odd [1/2]", "Good [2/2]", "Odd [2/2]"]
    assert result["seed"] == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [("privileges", "admin"), ("apparmor", "off; id"), ("version", "labctl==0.7.0"), ("version", "labctl")],
)
def test_a_wrong_input_ends_the_job_before_anything_is_done(tmp_path: Path, name: str, value: str) -> None:
    job = runner(tmp_path, **{name: value})
    job.run()
    assert job.failed
    assert f"::error title=labctl::{name}: '{value}' is n" in job.log
    assert job.used == {}


def test_as_root_by_sudo_the_results_belong_to_the_runner(tmp_path: Path) -> None:
    job = runner(tmp_path, privileges="root")
    programs = tmp_path / "bin"
    programs.mkdir()
    # What sudo does, without the change of user: this test is root or has user namespaces anyway.
    (programs / "sudo").write_text('#!/bin/sh\necho "sudo $*"\n[ "$1" != --preserve-env ] || shift\nexec "$@"\n')
    (programs / "sudo").chmod(0o755)
    # Whoever runs the test, the script is to believe that it is an ordinary user.
    (programs / "id").write_text(
        '#!/bin/sh\n[ "$*" = -u ] || exec /usr/bin/id "$@"\n[ "$LIE" ] && echo 1001 || /usr/bin/id -u\n'
    )
    (programs / "id").chmod(0o755)
    owner = f"{os.geteuid()}:{os.getegid()}" if os.geteuid() else f"1001:{os.getegid()}"
    job.environment |= {"PATH": f"{programs}:{job.environment['PATH']}"} | ({"LIE": "1"} if not os.geteuid() else {})
    job.run()
    assert not job.failed, job.log
    directory = job.outputs["run"]["directory"]
    assert re.search(
        rf"^sudo --preserve-env env PATH=.+ {re.escape(LABCTL)} run --artifacts ", job.log, flags=re.MULTILINE
    )
    assert f"sudo chown -R {owner} {directory}" in job.log


def test_the_action_installs_its_own_commit_into_an_environment_of_its_own(tmp_path: Path) -> None:
    job = runner(tmp_path, version="", **{"python-version": ""})
    # Nothing is fetched: the build backend and labctl's dependencies are those of the environment that runs this test.
    there = [path for path in site.getsitepackages() if Path(path).is_dir()]
    job.environment |= {
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way of saying yes
        "XDG_CACHE_HOME": str(tmp_path / "cache"),  # pip keeps there what it looked for
        "PYTHONPATH": ":".join(there),
        "PATH": f"{Path(sys.executable).parent}:{job.environment['PATH']}",
    }
    job.run()
    assert not job.failed, job.log
    assert job.outputs["install"]["labctl"].startswith(str(tmp_path / "temp" / "labctl-venv."))
    assert "actions/setup-python" not in job.used
    assert "1 passed" in job.summary
