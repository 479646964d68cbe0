"""The fixtures of the pytest plugin, as somebody's tests use them: every project below is run by a real pytest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.command import ECHO
from tests.e2e.plugin_project import Project, Ran

TOPOLOGY = "name: office\nhosts: {desk: {}, printer: {}}\nlinks:\n  - [desk, printer]\n"

SCOPES = """\
    import pytest

    LABS = []
    of_module = pytest.mark.topology("pair", scope="module")


    def test_a_lab(lab):
        LABS.append(lab)
        assert list(lab.hosts) == ["client", "server"]
        assert lab["client"].run(["ping", "-c1", "-w10", "server"], check=True)


    def test_another_lab(lab):
        assert lab is not LABS[0]
        assert LABS[0].closed


    @of_module
    def test_the_modules_lab(lab):
        LABS.append(lab)


    @of_module
    def test_the_modules_lab_again(lab):
        assert lab is LABS[-1]
        assert not lab.closed


    @pytest.mark.topology("star:2", scope="module")
    def test_another_one_of_the_module(lab):
        assert lab is not LABS[-1]
        assert not LABS[-1].closed


    @pytest.mark.topology("pair", scope="class")
    class TestClass:
        def test_the_classs_lab(self, lab):
            LABS.append(lab)

        def test_the_classs_lab_again(self, lab):
            assert lab is LABS[-1]


    class TestChild(TestClass):
        def test_the_classs_lab_again(self, lab):
            assert lab is LABS[-1]
            assert LABS[-2].closed


    @pytest.mark.usefixtures("lab")
    @pytest.mark.topology("pair", scope="session")
    def test_the_sessions_lab(lab, request):
        request.config.sessions_lab = lab


    def test_the_lab_is_new_after_it_was_closed(lab):
        lab.close()
    """

SESSION = """\
    import unittest

    import pytest


    @pytest.mark.topology("pair", scope="session")
    def test_the_sessions_lab_in_another_module(lab, request):
        assert lab is request.config.sessions_lab
        assert not lab.closed


    class TestOfUnittest(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def with_lab(self, lab):
            self.lab = lab

        def test_its_lab(self):
            assert self.lab["server"].run(["hostname"]).stdout == "server\\n"
    """

FACTORIES = """\
    import random

    import pytest
    from labctl import InputError, Topology


    def test_a_file_beside_the_test(make_lab, tmp_path):
        with make_lab("office.yaml") as lab, make_lab() as other:
            (tmp_path / "note").write_text("seen")
            assert lab["desk"].run(["cat", str(tmp_path / "note")]).stdout == "seen"
            assert list(other.hosts) == ["a", "b"]
        assert lab.closed


    def test_a_topology_built_in_code(make_lab):
        topology = Topology("small").host("one").host("two").link("one", "two")
        assert make_lab(topology).ping()


    def test_an_error_can_be_expected(make_lab):
        with pytest.raises(InputError, match="there is no such file"):
            make_lab("gone.yaml")


    @pytest.fixture(scope="module")
    def office(lab_factory):
        with lab_factory("office.yaml") as lab:
            yield lab


    def test_a_fixture_of_ones_own(office):
        office["desk"].run(["sh", "-c", "echo once >/tmp/mark"], check=True)


    def test_the_same_fixture(office):
        assert office["desk"].read_text("/tmp/mark") == "once\\n"


    @pytest.mark.parametrize(
        "count", [pytest.param(count, marks=pytest.mark.topology(f"star:{count}")) for count in (2, 3)]
    )
    def test_topologies_by_parameter(lab, count):
        assert len(lab.hosts) == count


    @pytest.mark.parametrize("lab", ["star:2", "office.yaml"], indirect=True)
    def test_topologies_for_the_fixture(lab):
        assert len(lab.hosts) == 2


    def test_the_default_is_the_ini_files(lab, labctl_seed):
        assert list(lab.hosts) == ["a", "b"]
        assert lab["a"].run(["sh", "-c", "echo $LABCTL_SEED"]).stdout == f"{labctl_seed}\\n"
        random.Random(labctl_seed)
    """

FAILING = """\
    import socket

    import pytest


    @pytest.mark.topology("bad.yaml")
    def test_bad_file(lab):
        pass


    @pytest.mark.topology("piar")
    def test_bad_shape(lab):
        pass


    @pytest.mark.topology("pair", scope="modul")
    def test_bad_scope(lab):
        pass


    def test_passes(lab):
        lab["client"].run(["echo", "of the one that passes"])


    @pytest.mark.topology("pair", scope="module")
    class TestShared:
        def test_passes(self, lab):
            lab["client"].run(["echo", "of an earlier test"])

        def test_fails(self, lab):
            listener = lab["server"].listen(5000)
            connection = lab["client"].connect("server:5000")
            lab["client"].run(["sh", "-c", "echo to stdout; echo to stderr >&2; exit 3"])
            assert connection is None


    def test_program_fails(make_lab):
        make_lab()["client"].run(["false"], check=True)


    def test_connect_fails(lab):
        lab["client"].connect("server:81")


    @pytest.mark.timeout(3, func_only=True)
    def test_never_ends(lab):
        lab["client"].run(["sleep", "60"])


    def test_fails_without_a_lab():
        assert not "a lab"
    """

BAD = "hosts: {a: {}, b: {sysctls: 3}}\nlinks:\n  - [a, c]\n"

NEEDS = """\
    import pytest


    @pytest.mark.needs("sh", "reuseport")
    def test_what_is_there():
        pass


    @pytest.mark.needs("no-such-program")
    def test_program():
        raise AssertionError


    @pytest.mark.needs(feature="nftabels")
    def test_unknown_feature():
        pass


    @pytest.mark.needs(program=["sh", "nftabels"])
    @pytest.mark.usefixtures("lab")
    class TestNear:
        def test_near(self):
            pass


    @pytest.mark.needs("root")
    def test_root():
        pass
    """


def lines_of(ran: Ran, test: str) -> list[str]:
    """What is told of a failure: the lines between its heading and the next one."""
    lines = ran.output.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("___") and f" {test} " in line)
    rest = lines[first + 1 :]
    end = next(at for at, line in enumerate(rest) if line.startswith(("___", "===")))
    return rest[:end]


def test_a_lab_is_there_as_long_as_its_scope(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", test_1__py=SCOPES, test_2__py=SESSION)
    assert project.pytest().outcomes() == "13 passed"


def test_scopes_hold_in_workers(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", test_1__py=SCOPES, test_2__py=SCOPES)
    assert project.pytest("-n2", "--dist=loadfile").outcomes() == "22 passed"


def test_labs_are_made_of_files_shapes_and_code(tmp_path: Path) -> None:
    ini = "labctl_topology = topologies/default.yaml\n"
    default = "hosts: {a: {}, b: {}}\nlinks:\n  - [a, b]\n"
    project = Project(
        tmp_path / "project",
        ini,
        sub___test_it__py=FACTORIES,
        sub___office__yaml=TOPOLOGY,
        topologies___default__yaml=default,
    )
    ran = project.pytest("sub")
    assert ran.outcomes() == "10 passed", ran.output


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, run_time_directories: Path) -> Ran:
    project = Project(tmp_path_factory.mktemp("failing"), test_it__py=FAILING, bad__yaml=BAD)
    return project.pytest()


def test_failures_are_failures_and_errors_errors(failing: Ran) -> None:
    assert (failing.status, failing.outcomes()) == (1, "5 failed, 2 passed, 3 errors")


def test_a_bad_topology_is_reported_with_its_places_and_nothing_else(failing: Ran) -> None:
    assert lines_of(failing, "test_bad_file") == [
        "bad.yaml:1:29: expected a mapping, got the number 3",
        "  | hosts: {a: {}, b: {sysctls: 3}}",
        "  |                             ^",
        "bad.yaml:3:9: there is no node `c`",
        "  |   - [a, c]",
        "  |         ^",
        "  allowed: a, b",
    ]
    assert len(lines_of(failing, "test_bad_shape")) == 1
    assert "did you mean `pair`?" in lines_of(failing, "test_bad_shape")[0]


def test_a_wrong_mark_is_reported(failing: Ran) -> None:
    (line,) = lines_of(failing, "test_bad_scope")
    assert line.endswith("scope 'modul' is not one of function, class, module, package, session.")


def test_the_section_of_a_failure_has_what_that_test_did_on_all_hosts_and_the_sockets(failing: Ran) -> None:
    told = lines_of(failing, "TestShared.test_fails")
    section = told[next(at for at, line in enumerate(told) if " labctl " in line and line.startswith("---")) :]
    text = "\n".join(section)
    wanted = ["listen", "connect server:5000", "exited with status 3", "stdout: to stdout", "stderr: to stderr"]
    assert [word for word in wanted if word not in text] == []
    assert [text.index(word) for word in wanted[:3]] == sorted(text.index(word) for word in wanted[:3])
    assert any("10.0.0.2:5000" in line and line.endswith("ESTABLISHED") for line in section)
    assert "of an earlier test" not in failing.output
    assert "of the one that passes" not in failing.output


def test_the_section_says_where_artifacts_lie(failing: Ran) -> None:
    told = lines_of(failing, "TestShared.test_fails")
    (line,) = (line for line in told if line.startswith("artifacts: "))
    report = Path(line.partition(": ")[2]) / "report.txt"
    assert "connect server:5000" in report.read_text()


def test_an_error_of_labctls_is_shown_without_its_own_code(failing: Ran) -> None:
    told = lines_of(failing, "test_program_fails")
    assert any(line.startswith(">") and "check=True" in line for line in told)
    assert [line for line in told if "labctl/" in line and "artifacts" not in line] == []


@pytest.mark.parametrize(
    ("test", "line", "error"),
    [
        ("test_connect_fails", 'connect("server:81")', "host client: cannot connect to server:81"),
        ("test_never_ends", 'run(["sleep", "60"])', "Timeout"),
    ],
)
def test_what_python_or_a_plugin_raises_in_labctls_code_is_shown_without_it(
    failing: Ran, test: str, line: str, error: str
) -> None:
    told = lines_of(failing, test)
    assert [each.strip() for each in told if each.startswith(">")] == [f'>       lab["client"].{line}']
    assert any(each.startswith("E ") and error in each for each in told)
    assert [each for each in told if "direct cause" in each or ("labctl/" in each and "artifacts" not in each)] == []


def test_a_test_without_a_lab_has_no_section(failing: Ran) -> None:
    assert [line for line in lines_of(failing, "test_fails_without_a_lab") if "labctl" in line] == []


def test_what_a_test_needs_and_is_not_there_skips_it(tmp_path: Path, is_root: bool) -> None:
    project = Project(tmp_path / "project", test_it__py=NEEDS)
    ran = project.pytest("-rs")
    assert ran.lines("SKIPPED [1] test_it.py:9: the program `no-such-program` is not installed")
    assert ran.lines("is not installed (did you mean the feature `nftables`?)")
    assert ran.lines("unknown feature `nftabels`; did you mean `nftables`?")
    assert bool(ran.lines("needs root: ")) is not is_root


def test_the_section_of_a_shared_labs_failure_has_nothing_of_earlier_tests(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "project",
        test_it__py="""\
            import pytest


            @pytest.fixture(scope="module")
            def office(lab_factory):
                with lab_factory("pair") as lab, lab["server"].start(["sleep", "1000"]):
                    yield lab


            def test_one(office):
                office["client"].run(["echo", "first"])
                with office["client"].start(["sleep", "500"]):
                    raise ValueError("the first mistake")


            def test_two(office):
                office["client"].run(["echo", "second"])
                assert 0
        """,
    )
    first, _, second = project.pytest().output.partition("_ test_two _")
    for told in ("run echo first", "start sleep 500", "start sleep 1000", "sockets at ValueError: the first mistake"):
        assert told in first
    assert "run echo second" in second
    assert "start sleep 1000 -> running" in second, "what goes on is of every test"
    for earlier in ("echo first", "sleep 500", "mistake"):
        assert earlier not in second.partition("short test summary")[0]


def test_github_has_the_section_in_its_summary(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "project",
        test_it__py="def test_it(lab):\n    lab['client'].run(['echo', '```'])\n    assert 0\n",
    )
    page = tmp_path / "summary.md"
    project.pytest("-n1", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(page))
    text = page.read_text()
    assert "### labctl: 1 failed test with labs" in text
    assert "<summary>test_it.py::test_it</summary>" in text
    assert "````text" in text


def test_where_labs_cannot_be_tests_fail_with_the_remedy_or_are_skipped_if_the_ini_file_says_so(tmp_path: Path) -> None:
    no_labs = """\
        import os
        from labctl.kernel import privilege

        privilege._enter_user_namespace(os.geteuid(), os.getegid())
        with open("/proc/sys/user/max_net_namespaces", "w") as limit:
            limit.write("0")
        """
    test = "def test_it(lab): pass\ndef test_made(make_lab): make_lab()\n"
    files = {"conftest__py": no_labs, "test_it__py": test, "it__scenario__yaml": ECHO}
    failing = Project(tmp_path / "failing", **files).pytest()
    assert failing.outcomes() == "2 failed, 1 error"
    told = [*lines_of(failing, "test_it"), *lines_of(failing, "A server echoes")]
    assert [line.partition("Try: ")[2] for line in told] == ["sudo sysctl user.max_net_namespaces=10000"] * 2
    skipping = Project(tmp_path / "skipping", "labctl_skip_impossible = true\n", **files).pytest("-rs")
    assert skipping.outcomes() == "3 skipped"
    assert len(skipping.lines("sudo sysctl user.max_net_namespaces=10000")) == 3


def test_a_closed_lab_is_forgotten_when_its_test_is_over(tmp_path: Path) -> None:
    tests = """\
        import gc
        import weakref

        import pytest

        KNOWN = []  # of each test before: its labs and what they stand for


        def note(*labs):
            KNOWN.append([weakref.ref(each) for lab in labs for each in (lab, lab._core)])
            for lab in labs:
                lab["client"].run(["true"])


        @pytest.fixture(autouse=True)
        def nothing_is_kept():
            yield
            gc.collect()
            kept = [reference for references in KNOWN[:-1] for reference in references if reference() is not None]
            assert kept == []


        @pytest.mark.parametrize("number", range(3))
        def test_of_its_own(lab, number):
            note(lab)


        def test_several(make_lab):
            with make_lab() as early:
                note(early, make_lab())


        def test_of_a_factory_of_the_session(lab_factory):
            with lab_factory() as first, lab_factory() as second:
                note(first, second)


        @pytest.mark.topology("pair", scope="session")
        def test_shared_and_closed_by_a_test(lab):
            lab["server"].start(["sleep", "60"])
            note(lab)
            lab.close()


        @pytest.mark.topology("pair", scope="session")
        def test_failed(lab):
            note(lab)
            lab["server"].listen(80)
            with lab["server"].netns(), lab["server"].start(["sleep", "60"]):
                lab.close()
                assert False


        def test_passes_again(lab, async_lab):
            note(lab)


        def test_without_a_lab():
            gc.collect()
            assert [reference for references in KNOWN for reference in references if reference() is not None] == []
        """
    ran = Project(tmp_path, test_it__py=tests).pytest("-q", "-W", "ignore")
    assert ran.outcomes() == "1 failed, 8 passed", ran.output
    assert ran.lines("FAILED") == ["FAILED test_it.py::test_failed - assert False"]
