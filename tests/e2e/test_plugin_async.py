"""The plugin with pytest-asyncio and with anyio, and with a network of the tests' own."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.plugin_project import Project
from tests.skips import for_ordinary_users, for_root

COROUTINES = """\
    import asyncio

    import pytest


    @pytest.fixture
    def anyio_backend():
        return "asyncio"


    async def talk(lab):
        async with lab["server"].start(["python3", "-m", "http.server", "8000"], ready=8000):
            ran = await lab["client"].run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://server:8000/"])
        return ran.stdout


    @pytest.mark.asyncio
    async def test_with_pytest_asyncio(async_lab):
        assert await talk(async_lab) == "200"


    @pytest.mark.anyio
    async def test_with_anyio(async_lab, lab):
        assert async_lab.sync is lab
        assert await talk(async_lab) == "200"


    @pytest.mark.anyio
    @pytest.mark.topology("star:2", scope="module")
    class TestShared:
        async def test_leaves_a_program(self, async_lab):
            await async_lab["h1"].start(["sleep", "1000"])

        async def test_another_loop(self, async_lab):
            assert (await async_lab["h1"].run(["hostname"])).stdout == "h1\\n"


    @pytest.mark.asyncio
    async def test_fails(async_lab):
        await async_lab["client"].run(["sh", "-c", "echo seen in the report"])
        assert 0
    """

PRIVATE = """\
    import getpass
    import os
    import socket

    import pytest


    def own_network():
        return os.stat("/proc/thread-self/ns/net").st_ino


    @pytest.mark.parametrize("number", range(4))
    def test_threads_really_enter_hosts(lab, number):
        here = own_network()
        with lab["server"].netns(strict=True):
            assert own_network() != here
            listener = socket.create_server(("", 5000))
        with lab["client"].netns(strict=True):
            assert socket.create_connection(("server", 5000), 10)
        assert own_network() == here
        listener.close()


    def test_the_network_is_the_sessions_own():
        assert os.geteuid() == 0
        assert socket.if_nameindex() == [(1, "lo")]
        assert getpass.getuser() != "root"  # whose temporary directory pytest would take
    """


def test_coroutines_have_labs_with_either_plugin(tmp_path: Path) -> None:
    ran = Project(tmp_path / "project", test_it__py=COROUTINES).pytest("-W", "error")
    assert ran.outcomes() == "1 failed, 4 passed", ran.output
    assert ran.lines("stdout: seen in the report")


@for_ordinary_users("root's threads enter hosts as it is")
def test_an_ordinary_users_tests_have_a_network_of_their_own(tmp_path: Path) -> None:
    ran = Project(tmp_path / "project", "labctl_private_network = true\n", test_it__py=PRIVATE).pytest(
        "-n2", USER="", LOGNAME=""
    )
    assert ran.outcomes() == "5 passed", ran.output


@for_root("is about root")
def test_for_root_a_private_network_is_none(tmp_path: Path) -> None:
    text = "import os, socket\ndef test_it(lab):\n    assert os.stat('/proc/self/ns/net').st_ino == {}\n"
    here = Path("/proc/self/ns/net").stat().st_ino
    project = Project(tmp_path / "project", "labctl_private_network = true\n", test_it__py=text.format(here))
    assert project.pytest().outcomes() == "1 passed"
