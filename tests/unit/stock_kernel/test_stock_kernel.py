"""What the stock-kernel run decides without a kernel: which packages to fetch, which skips and results are failures."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import refuse_skip
from tests.skips import for_machines_without, for_ordinary_users, for_root, needs_feature, needs_programs
from tests.stock_kernel import kernels, stage
from tests.stock_kernel.machine import ARCHITECTURES, CannotRun

UBUNTU = {
    "linux-image-generic": "Package: linux-image-generic\nDepends: linux-image-6.8.0-50-generic, "
    "linux-modules-extra-6.8.0-50-generic, linux-firmware, amd64-microcode\n",
    "linux-image-6.8.0-50-generic": "Depends: kmod, linux-base (>= 4.5), linux-modules-6.8.0-50-generic\n",
}
DEBIAN = {
    "linux-image-amd64": "Depends: linux-image-6.12.95+deb12-amd64 (= 6.12.95-1~bpo12+1)\n",
    "linux-image-6.12.95+deb12-amd64": "Depends: kmod, linux-base (>= 4.3~), initramfs-tools | linux-initramfs-tool\n",
}


def knows(monkeypatch: pytest.MonkeyPatch, packages: dict[str, str]) -> None:
    def apt(*argv: str, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
        shown = packages.get(argv[-1], "")
        return subprocess.CompletedProcess(argv, 0 if shown else 100, shown)

    monkeypatch.setattr(kernels, "apt", apt)


@pytest.mark.parametrize(
    ("packages", "fetched"),
    [
        (DEBIAN, ["linux-image-6.12.95+deb12-amd64"]),
        (
            UBUNTU,
            ["linux-image-6.8.0-50-generic", "linux-modules-extra-6.8.0-50-generic", "linux-modules-6.8.0-50-generic"],
        ),
    ],
    ids=["Debian", "Ubuntu"],
)
def test_the_newest_kernel_is_fetched_with_its_modules(
    packages: dict[str, str], fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    knows(monkeypatch, packages)
    assert kernels.packages(ARCHITECTURES["x86_64"].kernel_packages) == fetched


def test_a_kernel_may_be_asked_for_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    knows(monkeypatch, UBUNTU)
    wanted = "linux-image-6.8.0-50-generic"
    assert kernels.packages((wanted,)) == [wanted, "linux-modules-6.8.0-50-generic"]


def test_a_distribution_without_such_a_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    knows(monkeypatch, {})
    with pytest.raises(CannotRun, match="apt knows none of linux-image-amd64, linux-image-generic"):
        kernels.packages(ARCHITECTURES["x86_64"].kernel_packages)


def report_of(reason: str) -> pytest.TestReport:
    skipped = (__file__, 1, f"Skipped: {reason}")
    return pytest.TestReport("test", (__file__, 1, "test"), {}, "skipped", skipped, "setup")


@pytest.mark.parametrize(
    ("mark", "outcome"),
    [
        (needs_feature("netem", False, "no sch_netem"), "failed"),
        (needs_programs("labctl-no-such-program"), "failed"),
        (for_root("mounts"), "skipped"),
        (for_ordinary_users("root may"), "skipped"),
        (for_machines_without("control groups", is_there=True), "skipped"),
    ],
)
def test_only_what_somebody_else_must_run_may_be_skipped(
    mark: pytest.MarkDecorator, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of(str(mark.kwargs["reason"]))
    monkeypatch.setenv("LABCTL_TESTS_REQUIRE_FEATURES", "1")
    refuse_skip(report)
    assert report.outcome == outcome


def test_anything_may_be_skipped_on_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of("feature netem: no sch_netem")
    monkeypatch.delenv("LABCTL_TESTS_REQUIRE_FEATURES", raising=False)
    refuse_skip(report)
    assert report.outcome == "skipped"


@pytest.mark.parametrize(
    ("scenarios", "status"),
    [([("a", "passed")], 0), ([("a", "passed"), ("b", "skipped")], 1), ([], 1), (None, 1)],
    ids=["all passed", "one skipped", "none", "no result"],
)
def test_scenarios_that_did_not_run_fail_the_whole(
    scenarios: list[tuple[str, str]] | None, status: int, tmp_path: Path
) -> None:
    (tmp_path / "status").write_text("0\n")
    if scenarios is not None:
        told = {"scenarios": [{"name": name, "outcome": outcome, "reason": ""} for name, outcome in scenarios]}
        (tmp_path / "scenarios.json").write_text(json.dumps(told))
    assert stage.status_of(tmp_path, expects_scenarios=True) == status


def test_a_guest_that_never_said_how_it_ended_was_not_booted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "console").write_text("Kernel panic - not syncing\n")
    assert stage.status_of(tmp_path, expects_scenarios=False) == stage.NOT_BOOTED
    assert "Kernel panic" in capsys.readouterr().out
