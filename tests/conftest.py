"""For all tests: what touches the kernel leaves the machine as it was (tests/leaks.py), which worker runs what
(tests/workers.py), and who may skip."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests import leaks, other_users, workers
from tests.skips import is_refused

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

PRIVILEGED = ("integration", "e2e", "faults", "stock_kernel")
LOCKS = pytest.StashKey[Path]()  # of a session with workers: a directory of its own
BEFORE = pytest.StashKey[leaks.MachineState]()
IS_OUTERMOST = pytest.StashKey[bool]()  # neither a worker nor started by a test of another session
LEFT = pytest.StashKey[list[str]]()


def worker_of(config: pytest.Config) -> str:
    """The name of this worker; "" for a session without workers and for the process that has them."""
    return str(getattr(config, "workerinput", {}).get("workerid", ""))


def pytest_configure(config: pytest.Config) -> None:
    # A busy machine is no failure.
    settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    # Debian's ordinary users have no sbin in their PATH, where nft and sysctl are.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    # What nohup(1) and a shell's `&` have ignored would stay so in the programs that tests signal.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = worker_of(config)
    config.stash[IS_OUTERMOST] = not worker and leaks.MARK not in os.environ
    if worker:
        config.stash[LOCKS] = Path(config.workerinput["locks"])  # type: ignore[attr-defined]  # of xdist
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # fixtures end what they have started
    leaks.enter_own_places(worker)
    leaks.mark_session(worker)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return workers.count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> workers.Scheduling:
    return workers.Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    if LOCKS not in node.config.stash:
        locks = tempfile.TemporaryDirectory(prefix="labctl-tests-")
        node.config.add_cleanup(locks.cleanup)
        node.config.stash[LOCKS] = Path(locks.name)
    node.workerinput["locks"] = str(node.config.stash[LOCKS])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if worker_of(config):
        items.sort(key=workers.rank)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not worker_of(item.config):
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    with workers.holding_machine(item.config.stash[LOCKS], alone=alone):
        return (yield)


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.stash[IS_OUTERMOST]:
        session.config.stash[BEFORE] = leaks.machine_state(of_session=True)


@pytest.hookimpl(trylast=True)  # workers have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.stash[IS_OUTERMOST]:
        return
    if session.exitstatus == pytest.ExitCode.INTERRUPTED:  # tests were cut short, and workers killed
        leaks.end_processes_of_session()
    session.config.stash[LEFT] = left = leaks.left_behind_since(session.config.stash[BEFORE], of_session=True)
    leaks.end_processes_of_session()
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left := config.stash.get(LEFT, []):
        terminalreporter.section("left behind by the session", red=True)
        terminalreporter.write_line("\n".join(left))


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
def checkout_for_others() -> Iterator[other_users.Checkout]:
    """A checkout that the users whom root becomes can use."""
    with other_users.checkout_for_others() as checkout:
        yield checkout


@pytest.fixture(scope="session")
def is_root() -> bool:
    return os.geteuid() == 0
