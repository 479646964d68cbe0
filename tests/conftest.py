"""For all tests: what touches the kernel leaves the machine as it was (tests/leaks.py); who may skip."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import leaks
from tests.skips import is_refused

PRIVILEGED = ("integration", "e2e", "faults", "stock_kernel")


def pytest_configure() -> None:
    # A busy machine is no failure.
    settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    # Debian's ordinary users have no sbin in their PATH, where nft and sysctl are.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    # What nohup(1) and a shell's `&` have ignored would stay so in the programs that tests signal.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    leaks.enter_own_places()
    leaks.mark_session()


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Where all features must be, a skip for want of one is a failure."""
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2])
        if is_refused(reason):
            report.outcome = "failed"
            report.longrepr = f"not to be skipped here (LABCTL_TESTS_REQUIRE_FEATURES): {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.fixture(scope="session")
def run_time_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directories of the session's own for temporary and run-time files, so that what is left in them is ours."""
    base = tmp_path_factory.mktemp("run-time")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", *leaks.XDG):
            directory = base / name.lower()
            directory.mkdir(mode=0o700)
            patch.setenv(name, str(directory))
        (base / "xdg_runtime_dir" / "labctl").mkdir(mode=0o700)  # the state directory stays once it is made
        yield base


def _touches_the_kernel(request: pytest.FixtureRequest) -> bool:
    return request.path.relative_to(Path(__file__).parent).parts[0] in PRIVILEGED


@pytest.fixture(scope="module", autouse=True)
def machine_as_before_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """A lab that a module's tests share is gone after the last of them."""
    if not _touches_the_kernel(request):
        yield
        return
    request.getfixturevalue("run_time_directories")
    with leaks.nothing_left_behind():
        yield


@pytest.fixture(autouse=True)
def machine_as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that passes and leaves something behind has failed."""
    if not _touches_the_kernel(request):
        yield
        return
    with leaks.nothing_left_behind():
        yield


@pytest.fixture(scope="session")
def is_root() -> bool:
    return os.geteuid() == 0
