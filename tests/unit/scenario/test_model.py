from __future__ import annotations

from pathlib import Path

from labctl.scenario import Scenario, load
from labctl.scenario.model import Cancellation


def written(directory: Path, text: str, name: str = "it.yaml") -> Path:
    file = directory / name
    file.write_text(text)
    return file


def loaded(directory: Path, steps: str, header: str = "topology: pair\n") -> Scenario:
    return load(written(directory, f"{header}steps:\n{steps}"))


def test_steps_inside_others_are_walked_in_file_order(tmp_path: Path) -> None:
    steps = (
        "  - parallel:\n      - client: getpid()\n      - - server: getpid()\n        - server: getpid()\n"
        "  - repeat: {times: 2, steps: [{set: {a: 1}}]}\n"
    )
    kinds = [step.kind.value for step in loaded(tmp_path, steps).walk()]
    assert kinds == ["parallel", "calls", "calls", "calls", "repeat", "set"]


def test_a_cancellation_keeps_its_first_reason_and_stops_late_comers_at_once() -> None:
    cancellation = Cancellation()
    reasons: list[str] = []
    cancellation.add(reasons.append)
    assert cancellation.reason == ""
    cancellation.cancel("first")
    cancellation.cancel("second")
    cancellation.add(lambda reason: reasons.append(f"late: {reason}"))
    assert (cancellation.reason, reasons) == ("first", ["first", "first", "late: first"])


def test_a_removed_stop_is_not_called() -> None:
    cancellation = Cancellation()
    reasons: list[str] = []
    stop = reasons.append
    cancellation.add(stop)
    cancellation.remove(stop)
    cancellation.cancel()
    assert reasons == []
