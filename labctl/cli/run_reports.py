"""What a run leaves behind for others to read: reports in files, on a CI server's pages, durations for the next run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labctl import __version__
from labctl.errors import InputError, LabError, describe_errno
from labctl.report.screen import Screen, standard_output
from labctl.scenario.result import Outcome, RunResult

if TYPE_CHECKING:
    from labctl.report.artifacts import Collector

STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True, slots=True)
class Reports:
    """Where reports go; None: not wanted."""

    junit: Path | None = None
    json: Path | None = None
    artifacts: Path | None = None
    durations: Path | None = None

    def check(self) -> None:
        """Says before anything is built what cannot be written. InputError."""
        if self == Reports():
            return
        from labctl.report.files import check_writable

        for option, path in (("--junit", self.junit), ("--json", self.json), ("--durations", self.durations)):
            if path is not None and (option != "--json" or path != STANDARD_OUTPUT):
                if path == STANDARD_OUTPUT:
                    what = "JUnit XML goes" if option == "--junit" else "durations go"
                    raise InputError(f"{option} -: {what} to a file. Give its name.")
                check_writable(path, option)
        if self.durations is not None:
            from labctl.scenario.sharding import read_durations

            read_durations(self.durations)

    def collector(self, *, failures_only: bool) -> Collector | None:
        """What listens to the run for the artifacts; the directory is ready for them. InputError."""
        if self.artifacts is None:
            return None
        from labctl.report.artifacts import Collector, prepare

        prepare(self.artifacts)
        return Collector(self.artifacts, failures_only=failures_only)

    def write(self, result: RunResult, collector: Collector | None = None) -> None:
        """Every report of a run. LabError when one cannot be written."""
        if self.junit is not None:
            from labctl.report.files import write_whole
            from labctl.report.junit import to_junit

            write_whole(self.junit, to_junit(result))
        if self.json is not None:
            from labctl.report.files import write_whole
            from labctl.report.json_report import to_json

            text = to_json(result, version=__version__)
            if self.json == STANDARD_OUTPUT:
                standard_output().write_bytes(text)
            else:
                write_whole(self.json, text)
        if self.artifacts is not None:
            from labctl.report.artifacts import write

            if collector is not None:
                collector.settle(result)
            write(result, self.artifacts, version=__version__, outputs=collector is None)
            if collector is not None and collector.failure:
                raise LabError(collector.failure)

    def update_durations(self, result: RunResult) -> None:
        """What passed, for the next `--shard`: how long a failure took says nothing. LabError."""
        if self.durations is None:
            return
        from labctl.scenario.sharding import key_of, update_durations
        from labctl.scenario.turns import base_name

        passed = [each for each in result.scenarios if each.outcome is Outcome.PASSED]
        update_durations(
            self.durations,
            [(key_of(each.file, base_name(each.name, each.repetition)), each.duration_s) for each in passed],
        )


def tell_github(screen: Screen, result: RunResult, environ: Mapping[str, str]) -> None:
    """Annotations into the log, the summary onto the job's page. A page that cannot be written is told."""
    from labctl.report import github

    workspace = environ.get("GITHUB_WORKSPACE")
    screen.write(github.annotations(result, Path(workspace) if workspace else None), as_they_are=True)
    page = environ.get("GITHUB_STEP_SUMMARY")
    if page:
        try:
            github.append_summary(result, Path(page))
        except OSError as error:
            screen.line(f"labctl: the job summary {page} cannot be written: {describe_errno(error.errno or 0)}.")


class SeveralWrong(InputError):
    """Several files have mistakes; the message has all."""

    def __init__(self, message: str, errors: Iterable[InputError]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


def tell_github_mistakes(screen: Screen, error: InputError, environ: Mapping[str, str]) -> None:
    """Annotations for what is wrong with the files: nothing was run, so there is no result that could have them."""
    from labctl.documents.source import DocumentError
    from labctl.report import github

    errors = error.errors if isinstance(error, SeveralWrong) else (error,)
    found = [
        github.FileMistake(
            each.file,
            "\n".join(filter(None, (each.message, each.hint))),
            *((each.position.line, each.position.column) if each.position is not None else ()),
        )
        for one in errors
        if isinstance(one, DocumentError)
        for each in one.diagnostics
    ]
    workspace = environ.get("GITHUB_WORKSPACE")
    screen.write(github.mistakes(found, Path(workspace) if workspace else None), as_they_are=True)


def on_github() -> bool:
    """Whether this is a job on a runner of GitHub's kind."""
    return os.environ.get("GITHUB_ACTIONS") == "true"
