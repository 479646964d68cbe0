"""The pytest plugin: labs as fixtures, scenario files as tests. See docs/pytest.md.

Every pytest of an installation with labctl imports this module, so it holds only hooks and fixtures, which import the
rest at their first use. A test limits what a session without labs loads.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from labctl.pytest_plugin.stash import BEGAN_NS, LABS, SCENARIO_RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path
    from typing import Literal

    from labctl import AsyncLab, Lab
    from labctl.pytest_plugin.labs import LabFactory, Labs
    from labctl.pytest_plugin.scenarios import ScenarioFile

_MARKERS = (
    "topology(topology, scope='function', trace=False): topology of the fixture `lab`: a shape ('pair', 'star:3'), a "
    "file, relative to the test's, or a labctl.Topology; scope='class', 'module', 'package' or 'session' shares it; "
    "trace=True records the system calls of its programs (labctl).",
    "scenario: set on every scenario file that runs as a test; `-m 'not scenario'` deselects them (labctl).",
    "needs(*names, feature=None, program=None): skips the test if a kernel feature or a program is"
    " missing; 'root' needs root (labctl).",
)

_LAB_FIXTURES = frozenset({"lab", "async_lab", "make_lab", "lab_factory"})
_FAKE_FILES = frozenset({"fs", "fs_class", "fs_module", "fs_session"})  # the fixtures of pyfakefs


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add options and ini values."""
    # pytest rewrites the asserts of whatever comes with a plugin; all of labctl's takes it almost a second, each time
    # where it cannot keep the bytecode. This is not a documented name; without it nothing but that second is lost.
    getattr(pluginmanager.rewrite_hook, "_must_rewrite", set()).discard("labctl")
    group = parser.getgroup("labctl", "labs of network namespaces (labctl)")
    group.addoption(
        "--labctl-artifacts",
        metavar="DIR",
        help="write reports of failed tests with labs, and results of scenarios, below DIR",
    )
    group.addoption(
        "--labctl-html",
        metavar="DIR",
        help="write a page for each failed test with a lab (calls, packets, queues), and an index, to DIR",
    )
    group.addoption("--labctl-html-all", action="store_true", help="with --labctl-html: also for tests that pass")
    group.addoption("--labctl-seed", metavar="N", type=int, help="seed of everything random in labs [env: LABCTL_SEED]")
    parser.addini("labctl_scenarios", "folders whose scenario files run as tests", type="paths", default=[])
    parser.addini("labctl_topology", "topology of the fixture `lab` without a mark", default="pair")
    parser.addini(
        "labctl_private_network",
        "without root: run the tests in a private network, so that host.netns() enters hosts in the kernel",
        type="bool",
        default=False,
    )
    parser.addini(
        "labctl_skip_impossible",
        "skip tests whose labs this machine cannot have, instead of failing them",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Add markers, folders of scenarios, and the reporter for GitHub."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getoption("--labctl-seed") is not None:
        from labctl.pytest_plugin.settings import seed_of

        seed_of(config)  # refuses what is none
    if config.getini("labctl_scenarios"):
        from labctl.pytest_plugin.scenarios import collect_configured_folders

        collect_configured_folders(config)
    if config.getoption("--labctl-html") and not hasattr(config, "workerinput"):
        from labctl.pytest_plugin.pages import register

        register(config)
    if os.environ.get("GITHUB_ACTIONS") == "true" and not hasattr(config, "workerinput"):
        from labctl.pytest_plugin.reports import GitHubReporter

        config.pluginmanager.register(GitHubReporter(config), "labctl-github")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Enter the private network before xdist starts its workers, which are then in the same network."""
    if config.getini("labctl_private_network") and not hasattr(config, "workerinput"):
        from labctl.pytest_plugin.settings import enter

        enter()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Hand the session's seed to a worker of pytest-xdist."""
    from labctl.pytest_plugin.settings import hand_over_seed

    hand_over_seed(node)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    """Collect scenario files."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    by_name = file_path.stem.endswith(".scenario")
    if not by_name and not parent.config.getini("labctl_scenarios") and not parent.session.isinitpath(file_path):
        return None
    from labctl.pytest_plugin.scenarios import collect

    return collect(file_path, parent, by_name=by_name)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the nursery if tests with labs were collected, so that it is ready before the first of them."""
    if not session.config.getoption("collectonly") and any(map(_has_lab, session.items)):
        from labctl.lab.client.nursery import start_ahead

        start_ahead()


def _has_lab(item: pytest.Item) -> bool:
    """Whether the item is a scenario, or uses a fixture of this plugin; another one may have the same name."""
    if type(item).__module__ == "labctl.pytest_plugin.scenarios":
        return True
    # pytest has no documented name for this; without it the nursery only starts later.
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    found = (definitions[name][-1] for name in _LAB_FIXTURES & definitions.keys())
    return any(getattr(each.func, "__module__", "") == __name__ for each in found)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that lack something, before pytest's own setup and before fixtures use labs."""
    if item.config.getoption("--labctl-html"):
        from labctl.clock import monotonic_ns

        item.stash[BEGAN_NS] = monotonic_ns()
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
    """Add what is known of a failed test's labs to its report; forget it after the last report."""
    has_labs = LABS in item.config.stash
    if SCENARIO_RUN in item.stash or (call.excinfo is not None and has_labs):
        from labctl.pytest_plugin.reports import complete, without_own_code

        without_own_code(item, call)
        report = yield
        complete(item, report)
    else:
        report = yield
    if item.config.getoption("--labctl-html") and (has_labs or SCENARIO_RUN in item.stash):
        from labctl.pytest_plugin.pages import write

        write(item, report)
    if call.when == "teardown" and has_labs:
        from labctl.pytest_plugin.labs import forget_closed

        forget_closed(item)
    return report


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab (labctl.Lab) for this test: two hosts, `client` and `server`, unless a mark changes that.

    @pytest.mark.topology("star:3") or ("office.yaml") names the topology; with scope="module" (class, package, session)
    the tests of the module share the lab. The lab and all that runs in it end with its scope.
    """
    from labctl.pytest_plugin.labs import lab_of

    yield from lab_of(request)


@pytest.fixture
def async_lab(lab: Lab) -> Iterator[AsyncLab]:
    """The test's `lab` for coroutines (labctl.AsyncLab), with pytest-asyncio or anyio; marks as for `lab`."""
    from labctl.pytest_plugin.labs import for_coroutines

    yield from for_coroutines(lab)


@pytest.fixture
def make_lab(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """Make labs that end with the test: make_lab("star:3"), make_lab("office.yaml"), make_lab(topology).

    File names are relative to the test's file. Each lab is also a context manager, to end it earlier.
    """
    from labctl.pytest_plugin.labs import factory_of_test

    yield from factory_of_test(request)


@pytest.fixture(scope="session")
def lab_factory(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """Make labs for your own fixtures, of any scope: with lab_factory("office.yaml") as lab: yield lab.

    File names are relative to the file that contains the call. Open labs end with the session.
    """
    from labctl.pytest_plugin.labs import factory_of_session

    yield from factory_of_session(request)


@pytest.fixture(scope="session")
def labctl_seed(request: pytest.FixtureRequest) -> int:
    """The session's seed for the tests' own random numbers; --labctl-seed repeats it."""
    from labctl.pytest_plugin.settings import seed_of

    return seed_of(request.config)


def _labs_of(scope: Literal["class", "module", "package", "session"]) -> Callable[..., Iterator[Labs]]:
    @pytest.fixture(scope=scope, name=f"_labctl_labs_of_{scope}")
    def labs(request: pytest.FixtureRequest) -> Iterator[Labs]:
        from labctl.pytest_plugin.labs import Labs

        with Labs(request.config) as labs:
            yield labs

    return labs


_labs_of_class, _labs_of_module = _labs_of("class"), _labs_of("module")
_labs_of_package, _labs_of_session = _labs_of("package"), _labs_of("session")
