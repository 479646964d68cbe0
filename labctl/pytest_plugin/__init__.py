"""The pytest plugin: labs as fixtures, scenario files as tests. See docs/pytest.md.

Every pytest of an installation that has labctl imports this module, so it holds hooks and fixtures only: what they do
is imported when a test first asks for it. A test bounds what a session without labs may load.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from labctl.pytest_plugin.stash import LABS, SCENARIO_RUN

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from labctl import AsyncLab, Lab
    from labctl.pytest_plugin.labs import LabFactory, Labs
    from labctl.pytest_plugin.scenarios import ScenarioFile

_MARKERS = (
    "topology(topology, scope='function'): what the fixture `lab` is made of: a shape ('pair', 'star:3'), a file, "
    "relative to the test's, or a labctl.Topology; scope='class', 'module', 'package' or 'session' shares it (labctl).",
    "scenario: on every scenario file that is run as a test: `-m 'not scenario'` leaves them out (labctl).",
    "needs(*names, feature=None, program=None): skips the test where a kernel feature or a program that it needs is not"
    " there; 'root' needs root (labctl).",
)

_LAB_FIXTURES = frozenset({"lab", "async_lab", "make_lab", "lab_factory"})
_FAKE_FILES = frozenset({"fs", "fs_class", "fs_module", "fs_session"})  # the fixtures of pyfakefs


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Options and ini values."""
    # pytest rewrites the asserts of whatever comes with a plugin; all of labctl's takes it almost a second, each time
    # where it cannot keep the bytecode. This is not a documented name; without it nothing but that second is lost.
    getattr(pluginmanager.rewrite_hook, "_must_rewrite", set()).discard("labctl")
    group = parser.getgroup("labctl", "labs of network namespaces (labctl)")
    group.addoption(
        "--labctl-artifacts",
        metavar="DIR",
        help="keep what is known of failed tests with labs, and the results of scenarios, below DIR",
    )
    group.addoption("--labctl-seed", metavar="N", type=int, help="the seed of everything random in labs (LABCTL_SEED)")
    parser.addini("labctl_scenarios", "folders whose scenario files are tests", type="paths", default=[])
    parser.addini("labctl_topology", "what the fixture `lab` is made of without a mark", default="pair")
    parser.addini(
        "labctl_private_network",
        "without root: run the tests in a network of their own, so that host.netns() enters hosts entirely",
        type="bool",
        default=False,
    )
    parser.addini(
        "labctl_skip_impossible",
        "skip, instead of failing, tests whose labs this machine cannot have",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Marks; folders of scenarios; who tells GitHub."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getoption("--labctl-seed") is not None:
        from labctl.pytest_plugin.settings import seed_of

        seed_of(config)  # refuses what is none
    if config.getini("labctl_scenarios"):
        from labctl.pytest_plugin.scenarios import collect_configured_folders

        collect_configured_folders(config)
    if os.environ.get("GITHUB_ACTIONS") == "true" and not hasattr(config, "workerinput"):
        from labctl.pytest_plugin.reports import Told

        config.pluginmanager.register(Told(config), "labctl-github")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before xdist starts its workers, which are in the same network then."""
    if config.getini("labctl_private_network") and not hasattr(config, "workerinput"):
        from labctl.pytest_plugin.settings import enter

        enter()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Of pytest-xdist: its workers have the session's seed."""
    from labctl.pytest_plugin.settings import hand_over_seed

    hand_over_seed(node)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """Scenario files are tests."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    by_name = file_path.stem.endswith(".scenario")
    if not by_name and not parent.config.getini("labctl_scenarios") and not parent.session.isinitpath(file_path):
        return None
    from labctl.pytest_plugin.scenarios import collect

    return collect(file_path, parent, by_name=by_name)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before pytest's own, which skips what is marked so, and before fixtures do something in labs."""
    fixtures = getattr(item, "fixturenames", ())
    if LABS in item.config.stash and "lab_factory" in fixtures:
        item.config.stash[LABS].begin_test()
    if not _FAKE_FILES.isdisjoint(fixtures) and ("labctl.api" in sys.modules or not _LAB_FIXTURES.isdisjoint(fixtures)):
        from labctl.pytest_plugin.labs import keep_real_files

        keep_real_files(item.config)
    if item.get_closest_marker("needs") is not None:
        from labctl.pytest_plugin.labs import skip_without_needs

        skip_without_needs(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What is known of the labs of a test that failed goes into its report; after the last one it is forgotten."""
    has_labs = LABS in item.config.stash
    if SCENARIO_RUN in item.stash or (call.excinfo is not None and has_labs):
        from labctl.pytest_plugin.reports import complete, without_own_code

        without_own_code(item, call)
        report = yield
        complete(item, report)
    else:
        report = yield
    if call.when == "teardown" and has_labs:
        from labctl.pytest_plugin.labs import forget_closed

        forget_closed(item)
    return report


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab (labctl.Lab) of the test's own: two hosts, `client` and `server`, unless a mark asks for something else.

    @pytest.mark.topology("star:3") or ("office.yaml") says what it is made of; with scope="module" (class, package,
    session) the tests of the module share it. It is gone, with all that runs in it, when its scope ends.
    """
    from labctl.pytest_plugin.labs import lab_of

    yield from lab_of(request)


@pytest.fixture
def async_lab(lab: Lab) -> Iterator[AsyncLab]:
    """The test's `lab` for coroutines (labctl.AsyncLab), with pytest-asyncio or anyio; its marks are `lab`'s."""
    from labctl.pytest_plugin.labs import for_coroutines

    yield from for_coroutines(lab)


@pytest.fixture
def make_lab(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """Makes labs: make_lab("star:3"), make_lab("office.yaml"), make_lab(topology); they end with the test.

    Files are relative to the test's. Each is a context manager too, to end one earlier.
    """
    from labctl.pytest_plugin.labs import factory_of_test

    yield from factory_of_test(request)


@pytest.fixture(scope="session")
def lab_factory(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """Makes labs for fixtures of your own, of any scope: with lab_factory("office.yaml") as lab: yield lab.

    Files are relative to the one in which the call stands. What is still open ends with the session.
    """
    from labctl.pytest_plugin.labs import factory_of_session

    yield from factory_of_session(request)


@pytest.fixture(scope="session")
def labctl_seed(request: pytest.FixtureRequest) -> int:
    """The session's seed, for random numbers of the tests' own; --labctl-seed gives the same again."""
    from labctl.pytest_plugin.settings import seed_of

    return seed_of(request.config)


@pytest.fixture(scope="class")
def _labctl_labs_of_class(request: pytest.FixtureRequest) -> Iterator[Labs]:
    yield from _labs(request)


@pytest.fixture(scope="module")
def _labctl_labs_of_module(request: pytest.FixtureRequest) -> Iterator[Labs]:
    yield from _labs(request)


@pytest.fixture(scope="package")
def _labctl_labs_of_package(request: pytest.FixtureRequest) -> Iterator[Labs]:
    yield from _labs(request)


@pytest.fixture(scope="session")
def _labctl_labs_of_session(request: pytest.FixtureRequest) -> Iterator[Labs]:
    yield from _labs(request)


def _labs(request: pytest.FixtureRequest) -> Iterator[Labs]:
    from labctl.pytest_plugin.labs import Labs

    with Labs(request.config) as labs:
        yield labs
