"""Results made up for the report's tests."""

from __future__ import annotations

from labctl.programs.output import OutputRecord
from labctl.scenario.results import CallRecord, Outcome, RunResult, ScenarioResult, StepResult

MEANINGS = {"ECONNREFUSED": "Connection refused", "EAGAIN": "Resource temporarily unavailable"}


def call(
    host: str,
    text: str,
    returned: int | None,
    at_ms: float,
    took_ms: float | None = 0.01,
    *,
    errno: str | None = None,
    value: str | None = None,
    process: str = "",
    repeated: int = 1,
) -> CallRecord:
    return CallRecord(
        host=host,
        process=process,
        call=text,
        returned=returned,
        errno=errno,
        errno_meaning=MEANINGS[errno] if errno else None,
        value=value,
        started_s=at_ms / 1000,
        duration_s=None if took_ms is None else took_ms / 1000,
        repeated=repeated,
        pid=7,
    )


def step(
    index: str,
    *calls: CallRecord,
    host: str | None = None,
    kind: str = "calls",
    title: str = "",
    outcome: Outcome = Outcome.PASSED,
    reason: str = "",
    at_ms: float = 0,
    took_ms: float = 0.5,
    line: int = 1,
    output: OutputRecord | None = None,
    exit_status: int | None = None,
) -> StepResult:
    return StepResult(
        index=index,
        host=host,
        kind=kind,
        title=title,
        outcome=outcome,
        reason=reason,
        started_s=at_ms / 1000,
        duration_s=took_ms / 1000,
        line=line,
        calls=calls,
        output=output,
        exit_status=exit_status,
    )


def scenario(
    *steps: StepResult,
    name: str = "A server echoes",
    file: str = "scenarios/echo.yaml",
    about: str = "",
    outcome: Outcome = Outcome.PASSED,
    reason: str = "",
    hosts: tuple[str, ...] = ("client", "server"),
) -> ScenarioResult:
    return ScenarioResult(name, file, about, outcome, reason, "2026-03-01T12:00:00Z", 0.212, hosts, steps)


def run(*scenarios: ScenarioResult) -> RunResult:
    return RunResult("2026-03-01T12:00:00Z", 1.234, scenarios)


ECHO = scenario(
    step(
        "1",
        call("server", "socket(AF_INET, SOCK_STREAM, 0)", 3, 0.10),
        call("server", "bind(3, {AF_INET, 10.0.0.2:5000}, 16)", 0, 0.21),
        call("server", "listen(3, 2)", 0, 0.30),
        call("server", "accept(3, ..., 16)", 4, 0.35, 1.65, value="{AF_INET, 10.0.0.1:40000}, addrlen 16 -> 16"),
        host="server",
    ),
    step("2", host="server", kind="expect", title="expect on server: listening tcp/5000", at_ms=0.9, took_ms=0.4),
    step(
        "3",
        call("client", "socket(AF_INET, SOCK_STREAM, 0)", 3, 1.5),
        call("client", "connect(3, {AF_INET, 10.0.0.2:81}, 16)", -1, 1.6, errno="ECONNREFUSED"),
        call("client", "connect(3, {AF_INET, 10.0.0.2:5000}, 16)", 0, 1.9, 0.05),
        call("client", 'send(3, b"hello", 5, 0)', 5, 2.1),
        host="client",
        at_ms=1.4,
    ),
    step(
        "4",
        call("server", "recv(4, ..., 100, 0)", 5, 2.3, value='b"hello"'),
        call("server", "recv(4, ..., 100, 0)", None, 2.4, None),
        host="server",
        at_ms=2.2,
    ),
    about="The smallest conversation that there is: one line there and back.",
)

FAILED = scenario(
    *ECHO.steps[:3],
    step(
        "4",
        host="client",
        kind="run",
        title="run on client: curl -s http://server:8000/",
        outcome=Outcome.FAILED,
        reason="exit status 0 expected, came back 7",
        at_ms=3,
        took_ms=12.34,
        line=21,
        output=OutputRecord("", "curl: (7) Failed to connect to server port 8000\n"),
        exit_status=7,
    ),
    outcome=Outcome.FAILED,
    reason="step 4: exit status 0 expected, came back 7",
)

SKIPPED = scenario(name="Nginx serves", outcome=Outcome.SKIPPED, reason="program nginx is not installed")
BROKEN = scenario(name="Breaks", outcome=Outcome.ERROR, reason="client: cannot make call: the keeper has ended")
