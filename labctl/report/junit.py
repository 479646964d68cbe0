"""A run as JUnit XML: a suite for each directory, a case for each scenario.

What Jenkins, GitLab and GitHub's actions read is the same subset: `testsuite` with counts and time, `testcase` with
name, classname, time and file, and in it `failure`, `error` or `skipped` with a message, then `system-out`.
"""

from __future__ import annotations

import io
from pathlib import PurePath

from labctl.printable import in_xml
from labctl.report import plain
from labctl.report.screen import Look
from labctl.scenario.result import Outcome, RunResult, ScenarioResult

_LOOK = Look(width=120)


def to_junit(run: RunResult) -> bytes:
    """The run as UTF-8 XML; characters that XML cannot carry are replaced by their escape (`\\x1b`)."""
    from junitparser import JUnitXml, TestSuite

    xml = JUnitXml("labctl")
    for directory, results in _by_directory(run).items():
        suite = TestSuite(in_xml(directory))
        suite.timestamp = (results[0].started_at or run.started_at).removesuffix("Z").split("+")[0]
        if run.seed is not None:
            suite.add_property("seed", str(run.seed))
        for result in results:
            suite.add_testcase(_case(result, run.seed))
        xml.add_testsuite(suite)
    xml.time = round(run.duration_s, 6)
    xml.update_statistics()  # type: ignore[no-untyped-call]  # junitparser has no annotation there
    stream = io.BytesIO()
    xml.write(stream, pretty=True)
    return stream.getvalue()


def _by_directory(run: RunResult) -> dict[str, list[ScenarioResult]]:
    suites: dict[str, list[ScenarioResult]] = {}
    for result in run.scenarios:
        suites.setdefault(str(PurePath(result.file).parent), []).append(result)
    return suites


def _case(result: ScenarioResult, seed: int | None):  # type: ignore[no-untyped-def]  # junitparser is imported only when it is needed
    from junitparser import Error, Failure, Properties, Property, Skipped, TestCase

    case = TestCase(in_xml(result.name), classname=in_xml(_class_name(result.file)), time=round(result.duration_s, 6))
    case._elem.set("file", in_xml(result.file))
    line = _line(result)
    if line:
        case._elem.set("line", str(line))
    if result.seed not in (None, seed):  # of a repetition
        properties = Properties()  # type: ignore[no-untyped-call]  # as above
        properties.add_property(Property("seed", str(result.seed)))
        case.append(properties)  # type: ignore[no-untyped-call]  # as above
    message = in_xml(result.reason or result.outcome)
    first_line = message.split("\n", 1)[0]
    details = in_xml("\n".join(plain.failure(result, _LOOK)).strip("\n"))
    if result.outcome is Outcome.FAILED:
        case.result = [_with_text(Failure(first_line, "expectation"), details)]
    elif result.outcome is Outcome.ERROR:
        case.result = [_with_text(Error(first_line, "lab"), details)]
    elif result.outcome is Outcome.SKIPPED:
        case.result = [Skipped(message)]
    case.system_out = in_xml("\n".join(plain.scenario_report(result, _LOOK)))
    return case


def _line(result: ScenarioResult) -> int:
    """Where it failed; where it has not, its first step; 0 when it was not begun."""
    failed = [step for step in result.steps if step.outcome in (Outcome.FAILED, Outcome.ERROR)]
    deepest = max(failed, key=lambda step: step.index.count("."), default=None)
    if deepest is not None:
        return deepest.failed_line or deepest.line
    return result.steps[0].line if result.steps else 0


def _with_text(entry, text: str):  # type: ignore[no-untyped-def]  # as above
    entry.text = text
    return entry


def _class_name(file: str) -> str:
    """`scenarios.tcp.accept-queue` for scenarios/tcp/accept-queue.yaml: viewers group by what is between the dots."""
    path = PurePath(file)
    parts = [part for part in path.parent.parts if part not in ("/", ".", "..")]
    return ".".join([*(part.replace(".", "_") for part in parts), path.stem.replace(".", "_")])
