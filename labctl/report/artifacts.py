"""Reports in files: a directory with all results of a run, JSON and JUnit XML.

    DIR/result.json  junit.xml  summary.md
    DIR/scenarios/001-accept-queue/report.txt  calls.txt  steps/3-client.stdout  programs/client/curl.stdout

The directory is private (directories 0700, files 0600), because it holds the input and output of programs. File names
are made of numbers and of letters, digits and `-` of other names, so none leads out of the directory.

A file is replaced as a whole: no reader finds half of one. Files are written with functions of `os`, because pyfakefs
replaces the methods of paths while a test has fake files (pytest_plugin/labs.py).

`labctl/schemas/result.schema.json` publishes the JSON form. The JUnit XML has what Jenkins, GitLab and GitHub's actions
read: `testsuite` with counts and time, `testcase` with name, classname, time and file, and in it `failure`, `error` or
`skipped` with a message, then `system-out`.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from labctl.errors import InputError, LabError, describe_errno
from labctl.printable import in_xml, printable
from labctl.programs.output import Stream
from labctl.report import plain
from labctl.report.terminal import Look
from labctl.scenario.results import CallRecord, Listener, Outcome, RunResult, ScenarioInfo, ScenarioResult
from labctl.structs import to_builtins


def check_writable(path: Path, option: str) -> None:
    """Check, before anything is built, that `path`, the value of `option`, can be written. InputError."""
    if path == Path("-"):
        raise InputError(f"{option} -: cannot write to standard output. Give the name of a file.")
    try:
        if path.is_dir():
            raise InputError(f"{option} {path}: is a directory. Give the name of a file in it.")
        if path.exists():
            if not os.access(path, os.W_OK):
                raise InputError(f"{option} {path}: cannot write it. Check its permissions.")
            return
        parent = path.absolute().parent
        if not parent.is_dir():
            raise InputError(f"{option} {path}: no directory {parent}. Make it first: mkdir -p {parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{option} {path}: cannot make a file in {parent}. Check its permissions.")
    except OSError as error:
        raise InputError(f"{option} {path}: cannot look it up: {describe_errno(error.errno)}.") from error


def write_whole(path: Path, data: bytes) -> None:
    """`write_file`, for a report. LabError."""
    try:
        write_file(path, data)
    except OSError as error:
        raise LabError(f"{path}: cannot write the report: {describe_errno(error.errno)}.") from error


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by a file of `data` in one step, with the mode of the file before. OSError.

    Write directly to a device or pipe, and to a file that cannot be replaced: in another user's directory, or mounted.
    """
    path = Path(os.path.realpath(path))  # a symbolic link stays one
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        replace_file(path, data)
        return
    if stat.S_ISREG(mode):
        try:
            replace_file(path, data, mode=stat.S_IMODE(mode))
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY):
                raise
    path.write_bytes(data)


def replace_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace `path` by a file of `data`; the umask applies to `mode`. OSError."""
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


SCHEMA = "labctl-result/1"  # the number changes when a reader of the old form would misread the new one


def to_data(run: RunResult, *, version: str) -> dict[str, Any]:
    """Return the run as input of `json.dumps`: the fields of `scenario/results.py`. `version` is labctl's."""
    return {"schema": SCHEMA, "labctl": version, **to_builtins(run)}


def to_json(run: RunResult, *, version: str) -> bytes:
    """Return the run as UTF-8 JSON text with a final newline.

    Lone surrogates (undecodable bytes of a program) become JSON's escape for them, so that the text is always UTF-8.
    """
    text = json.dumps(to_data(run, version=version), indent=2, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


_LOOK = Look(width=120)


def to_junit(run: RunResult) -> bytes:
    """Return the run as UTF-8 XML. Characters that XML cannot carry become escapes (`\\x1b`)."""
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
        case.result = [Failure(first_line, "expectation")]
    elif result.outcome is Outcome.ERROR:
        case.result = [Error(first_line, "lab")]
    elif result.outcome is Outcome.SKIPPED:
        case.result = [Skipped(message)]
    if result.outcome in plain.FAILURES:
        case.result[0].text = details
    case.system_out = in_xml("\n".join(plain.scenario_report(result, _LOOK)))
    return case


def _line(result: ScenarioResult) -> int:
    """Return the line of the failure, else of the first step; 0 if no step began."""
    failed = [step for step in result.steps if step.outcome in plain.FAILURES]
    deepest = max(failed, key=lambda step: step.index.count("."), default=None)
    if deepest is not None:
        return deepest.failed_line or deepest.line
    return result.steps[0].line if result.steps else 0


def _class_name(file: str) -> str:
    """Return `scenarios.tcp.accept-queue` for scenarios/tcp/accept-queue.yaml: viewers group by these parts."""
    path = PurePath(file)
    parts = [part for part in path.parent.parts if part not in ("/", ".", "..")]
    return ".".join([*(part.replace(".", "_") for part in parts), path.stem.replace(".", "_")])


RESULT, JUNIT, SUMMARY, SCENARIOS = "result.json", "junit.xml", "summary.md", "scenarios"
_SUMMARY_LIMIT_BYTES = 64 << 20  # this one is not GitHub's page
_OTHERS = re.compile(r"[^a-z0-9]+")
_LONGEST_NAME = 48


def slug(text: str, otherwise: str = "unnamed") -> str:
    """Return letters, digits and `-` of `text` for a file name: never empty, `.`, `..` or a path."""
    return _OTHERS.sub("-", text.lower()).strip("-")[:_LONGEST_NAME].rstrip("-") or otherwise


def prepare(directory: Path) -> None:
    """Make the directory, and remove the results of an earlier run. InputError if its content is not labctl's.

    Called before the run, so that a directory that cannot be written is reported in time.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # its parents are not private: they are not ours
        known = {RESULT, JUNIT, SUMMARY, SCENARIOS}
        names = {entry.name for entry in directory.iterdir()}
        if SCENARIOS in names and RESULT not in names:
            raise InputError(
                f"--artifacts {directory}: has a {SCENARIOS}/ that is not labctl's. Give another directory."
            )
        for name in sorted(known & names, key=lambda name: name == RESULT):
            path = directory / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        _write(directory / RESULT, b"{}\n")  # shows, also after a kill or on a full disk, whose directory this is
        (directory / SCENARIOS).mkdir(mode=0o700)
    except OSError as error:
        raise InputError(f"--artifacts {directory}: cannot be written: {describe_errno(error.errno)}.") from error


def write(result: RunResult, directory: Path, *, version: str, outputs: bool = True) -> None:
    """Write all results of a finished run into the directory, which is made if missing. LabError.

    `version` is labctl's. Without `outputs`, the output of steps is left out, because a Collector has it.
    """
    from labctl.report.ci import summary

    try:
        os.makedirs(directory / SCENARIOS, mode=0o700, exist_ok=True)
        for number, scenario in enumerate(result.scenarios, 1):
            if scenario.outcome is Outcome.PASSED and not scenario.steps:
                continue  # of a run until it fails
            _write_scenario(scenario, directory / SCENARIOS / folder_name(number, scenario), outputs)
        _write(directory / SUMMARY, summary(result, _SUMMARY_LIMIT_BYTES).encode("utf-8", "backslashreplace"))
        _write(directory / JUNIT, to_junit(result))
        _write(directory / RESULT, to_json(result, version=version))
    except OSError as error:
        raise LabError(f"{directory}: cannot write the artifacts: {describe_errno(error.errno)}.") from error


def folder_name(number: int, scenario: ScenarioInfo) -> str:
    """Return `003-accept-queue`: the number in the run and the name of the file."""
    repetition = re.search(r" \[(\d+)(?:/\d+)?\]$", scenario.name)
    return f"{number:03}-{slug(Path(scenario.file).stem)}" + (f"-{repetition[1]}" if repetition else "")


def _write_scenario(scenario: ScenarioResult, folder: Path, outputs: bool) -> None:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    report = [printable(line) for line in plain.scenario_report(scenario, _LOOK)]
    _write(folder / "report.txt", _text(report))
    calls = sorted((call for step in scenario.steps for call in step.calls), key=lambda call: call.started_s)
    if calls:
        _write(folder / "calls.txt", _text([call_line(call) for call in calls]))
    for step in scenario.steps if outputs else ():
        if step.output is not None:
            os.makedirs(folder / "steps", mode=0o700, exist_ok=True)
            name = f"{step.index}-{slug(step.host or step.kind)}"
            for stream, text in (("stdout", step.output.stdout), ("stderr", step.output.stderr)):
                if text:
                    _write(folder / "steps" / f"{name}.{stream}", text.encode("utf-8", "surrogateescape"))


def call_line(call: CallRecord) -> str:
    """Return `0.000350 server accept(3, ...) -> 4 [0.001650]`: start in seconds, host, call, result, duration."""
    who = f"{call.host}/{call.process}" if call.process else call.host
    took = "has not returned" if call.duration_s is None else f"[{call.duration_s:.6f}]"
    result = plain.result_text(call, Look(), beside=call.call) if call.returned is not None else "..."
    return f"{call.started_s:.6f} {who} {plain.call_text(call, named=False)} {result} {took}"


_Key = tuple[str, str, str, float]  # identifies a result in its run


def _key(result: ScenarioResult) -> _Key:
    return result.file, result.name, result.started_at, result.duration_s


class Collector(Listener):
    """Writes the whole output of programs to files as it arrives, so that memory does not grow.

    `failure` is the first write error, "" for none; the run goes on without the files. With `failures_only`, the output
    of a scenario that passed is removed, because a run without end must not fill the disk.
    """

    def __init__(self, directory: Path, *, failures_only: bool = False) -> None:
        self._directory = directory
        self._failures_only = failures_only
        self._lock = threading.Lock()
        self._started = 0
        self._folders: dict[int, Path] = {}
        self._files: dict[tuple[int, str, str, Stream], int] = {}
        self._written: dict[_Key, Path] = {}
        self.failure = ""

    def scenario_started(self, scenario: ScenarioInfo) -> None:
        """Choose its folder; `settle` renames it."""
        with self._lock:
            self._started += 1
            self._folders[id(scenario)] = self._directory / SCENARIOS / f"running-{self._started}"

    def output(self, scenario: ScenarioInfo, host: str, process: str, stream: Stream, data: bytes) -> None:
        """Append to the program's file."""
        with self._lock:
            if self.failure:
                return
            try:
                _write_all(self._file(id(scenario), host, process, stream), data)
            except OSError as error:
                self.failure = f"{self._directory}: cannot write the output of programs: {describe_errno(error.errno)}."

    def scenario_finished(self, scenario: ScenarioInfo, result: ScenarioResult) -> None:
        """Close its files."""
        with self._lock:
            mine = [key for key in self._files if key[0] == id(scenario)]
            for key in mine:
                os.close(self._files.pop(key))
            folder = self._folders.pop(id(scenario))
            if not mine:
                return
            if self._failures_only and result.outcome in (Outcome.PASSED, Outcome.SKIPPED):
                shutil.rmtree(folder, ignore_errors=True)
            else:
                self._written[_key(result)] = folder

    def settle(self, result: RunResult) -> None:
        """Rename the folders as `write`, which is called later, expects them; see `failure`."""
        with self._lock:
            try:
                for number, scenario in enumerate(result.scenarios, 1):
                    folder = self._written.pop(_key(scenario), None)
                    if folder is not None:
                        folder.rename(folder.with_name(folder_name(number, scenario)))
            except OSError as error:
                self.failure = (
                    self.failure or f"{self._directory}: cannot write the artifacts: {describe_errno(error.errno)}."
                )

    def _file(self, scenario: int, host: str, process: str, stream: Stream) -> int:
        key = (scenario, host, process, stream)
        if key not in self._files:
            folder = self._folders[scenario]
            for part in ("", "programs", slug(host)):
                folder /= part
                folder.mkdir(mode=0o700, exist_ok=True)
            path, number = folder / f"{slug(process)}.{stream}", 1
            while path.exists():  # two names may give the same one
                number += 1
                path = folder / f"{slug(process)}-{number}.{stream}"
            self._files[key] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return self._files[key]


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _text(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace") if lines else b""


def _write(path: Path, data: bytes) -> None:
    replace_file(path, data, mode=0o600)
