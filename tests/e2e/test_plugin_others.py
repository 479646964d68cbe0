"""Labs beside what replaces parts of the standard library: pytest-socket, freezegun, pyfakefs, gevent, a test itself.

Each is used by pytest, or by a program, in a process of its own, as its users have it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.e2e.plugin_project import Project

# Everything of a lab that goes through a socket, a clock or a file of labctl's own.
USE = """\
    import pytest

    from labctl import Lab, ProgramNotReady, ProgramTimedOut


    def use(lab):
        client, server = lab["client"], lab["server"]
        with server.listen(5000) as listener, client.connect("server:5000") as near:
            far, _ = listener.accept()
            with far, far.dup() as copy, near.makefile("rb") as lines:
                copy.sendall(b"hello\\n")
                assert lines.readline() == b"hello\\n"
        with server.listen("unix:/run/x.sock") as listener, server.connect("unix:/run/x.sock"):
            listener.accept()[0].close()
        with server.start(["python3", "-u", "-m", "http.server", "8000"], ready=8000) as web:
            assert client.run(["python3", "-c", "import urllib.request as u; u.urlopen('http://server:8000')"])
            web.wait_for_output("GET")
            assert any(socket.local_port == 8000 for socket in server.sockets())
        with pytest.raises(ProgramTimedOut):
            client.run(["sleep", "60"], timeout_s=0.2)
        with pytest.raises(ProgramNotReady):
            client.start(["sleep", "60"], ready=81, ready_timeout_s=0.2)
        sleeper = client.start(["sleep", "60"])
        with pytest.raises(TimeoutError):
            sleeper.wait(0.2)
        sleeper.close()
        client.write_text("/tmp/note", "text")
        assert client.read_text("/tmp/note") == "text"
        assert lab.ping()


    def make_and_use():
        with Lab("pair") as lab:
            use(lab)
"""
SCENARIO = """\
    name: They talk
    topology: pair
    steps:
      - server: |
          s = socket(AF_INET, SOCK_STREAM)
          bind(s, ":81")
          listen(s, 1)
      - run: {on: client, run: [python3, -c, "import socket; socket.create_connection(('server', 81))"]}
      - expect: {on: server, listening: tcp/81}
"""


def test_with_sockets_disabled_a_test_has_those_of_its_lab_and_no_others(tmp_path: Path) -> None:
    tests = """\
        import socket

        import pytest
        from pytest_socket import SocketBlockedError
        from using import make_and_use, use


        def test_a_lab(lab):
            use(lab)


        def test_a_lab_of_its_own():
            make_and_use()


        def test_the_machines_are_blocked(lab):
            with pytest.raises(SocketBlockedError):
                socket.socket()


        @pytest.mark.asyncio
        async def test_coroutines(async_lab):
            async with await async_lab["server"].start_server(lambda reader, writer: writer.close(), 5000):
                reader, writer = await async_lab["client"].open_connection("server:5000")
                assert await reader.read() == b""
                writer.close()
        """
    project = Project(tmp_path, using__py=USE, test_it__py=tests)
    project.write("talk.scenario.yaml", SCENARIO)
    assert project.pytest("-q", "-W", "ignore", "--disable-socket", "--allow-unix-socket").outcomes() == "5 passed"
    assert (
        project.pytest("-q", "-W", "ignore", "--disable-socket", "-k", "not coroutines").outcomes()
        == "4 passed, 1 deselected"
    )
    assert project.pytest("-q", "--allow-hosts=192.0.2.1", "-k", "not blocked").outcomes() == "4 passed, 1 deselected"


def test_with_a_frozen_clock_deadlines_come(tmp_path: Path) -> None:
    tests = """\
        import time

        import pytest
        from freezegun import freeze_time
        from labctl import ProgramTimedOut
        from using import make_and_use, use


        @freeze_time("2020-01-01")
        def test_a_lab(lab):
            before = time.monotonic()
            use(lab)
            assert time.monotonic() == before


        @freeze_time("2020-01-01")
        def test_a_lab_of_its_own():
            make_and_use()


        @pytest.mark.asyncio
        @freeze_time("2020-01-01")
        async def test_coroutines(async_lab):
            async with async_lab["server"].start(["python3", "-m", "http.server", "8000"], ready=8000):
                with await async_lab["client"].connect("server:8000"):
                    pass
            with pytest.raises(ProgramTimedOut):
                await async_lab["client"].run(["sleep", "60"], timeout_s=0.2)
            async_lab.sync.link("client", "server").down()
            with pytest.raises(TimeoutError):
                await async_lab["client"].connect("10.0.0.2:80", timeout_s=0.2)


        @freeze_time("2020-01-01")
        def test_a_scenario(lab):
            with lab.scenario("talk.yaml"):
                pass
        """
    project = Project(tmp_path, using__py=USE, test_it__py=tests)
    project.write("talk.yaml", SCENARIO)
    assert project.pytest("-q").outcomes() == "4 passed"


def test_with_fake_files_a_lab_has_the_real_ones(tmp_path: Path) -> None:
    tests = """\
        import os

        from using import make_and_use, use


        def test_files_are_faked_first(fs, lab):
            fs.create_file("/only/fake")
            use(lab)
            assert os.path.exists("/only/fake")


        def test_files_are_faked_second(lab, fs):
            use(lab)
            assert not os.path.exists("/proc/self/status")


        def test_a_lab_of_its_own(fs):
            make_and_use()


        def test_that_fails(fs, lab):
            assert lab["client"].run(["false"]).returncode == 0
        """
    project = Project(tmp_path, using__py=USE, test_it__py=tests)
    ran = project.pytest("-q", "--labctl-artifacts=kept")
    assert ran.outcomes() == "1 failed, 3 passed"
    assert "cannot be written" not in ran.output
    (report,) = (tmp_path / "kept").glob("*/report.txt")
    assert "run false" in report.read_text()


def test_a_lab_does_without_pytest_s_temporary_directory(tmp_path: Path) -> None:
    tests = """\
        def test_it(lab):
            assert lab["client"].run(["true"]).returncode == 0


        def test_that_fails(lab):
            assert lab["client"].run(["false"]).returncode == 0
        """
    project = Project(tmp_path, test_it__py=tests)
    project.write("file", "")
    ran = project.pytest("-q", "--basetemp=file/below")
    assert ran.outcomes() == "1 failed, 1 passed", ran.output
    assert "run false" in ran.output


def test_with_functions_replaced_by_the_test_a_lab_has_its_own(tmp_path: Path) -> None:
    tests = """\
        import socket
        import subprocess
        import time

        import pytest
        from using import make_and_use, use


        @pytest.fixture
        def replaced(monkeypatch):
            def blocked(*arguments, **options):
                raise RuntimeError("blocked")

            for name in ("socket", "socketpair", "create_connection", "getaddrinfo", "gethostname", "if_nametoindex"):
                monkeypatch.setattr(socket, name, blocked)
            monkeypatch.setattr(subprocess, "Popen", blocked)
            monkeypatch.setattr(subprocess, "run", blocked)
            monkeypatch.setattr(time, "sleep", blocked)
            monkeypatch.setattr(time, "monotonic", lambda: 0.0)


        @pytest.fixture
        def methods_replaced(monkeypatch):
            def blocked(*arguments, **options):
                raise RuntimeError("blocked")

            for name in ("connect", "connect_ex", "bind", "send", "sendall", "sendmsg", "recv", "recvmsg", "listen"):
                monkeypatch.setattr(socket.socket, name, blocked)


        def test_before_the_lab(replaced, lab):
            use(lab)


        def test_a_lab_of_its_own(replaced):
            make_and_use()


        def test_methods(lab, methods_replaced):
            use(lab)
        """
    project = Project(tmp_path, using__py=USE, test_it__py=tests)
    assert project.pytest("-q").outcomes() == "3 passed"


LOOP = """
import asyncio, socket, sys
from labctl import AsyncLab, ProgramTimedOut

async def echo(reader, writer):
    writer.write(await reader.read(10))
    writer.close()

async def main():
    async with AsyncLab("pair") as lab:
        client, server = lab["client"], lab["server"]
        for at, to, host in ((5000, "server:5000", client), ("unix:/run/x", "unix:/run/x", server)):
            async with await server.start_server(echo, at):
                reader, writer = await host.open_connection(to)
                writer.write(b"hello")
                print(await reader.read(10))
                writer.close()
        async with server.start(["python3", "-m", "http.server", "80"], ready=80):
            assert await client.run(["python3", "-c", "import urllib.request as u; u.urlopen('http://server')"])
        try:
            await client.run(["sleep", "60"], timeout_s=0.2)
        except ProgramTimedOut:
            print("late")
        print(await client.in_netns(socket.gethostname))
"""
RUN = {
    "uvloop": "import uvloop; uvloop.run(main())",
    "trio_asyncio": "import trio_asyncio; trio_asyncio.run(trio_asyncio.aio_as_trio(main))",
}


@pytest.mark.parametrize("loop", RUN)
def test_another_event_loop_is_as_good(loop: str) -> None:
    if importlib.util.find_spec(loop) is None:
        pytest.skip(f"{loop} is not installed")
    assert program(f"{LOOP}\n{RUN[loop]}") == "b'hello'\nb'hello'\nlate\nclient\n"


def test_greenlets_of_gevent_go_on_while_a_lab_is_waited_for() -> None:
    if importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    assert program(
        """
        from gevent import monkey; monkey.patch_all()
        import gevent
        from labctl import Lab

        with Lab("pair") as lab:
            with lab["server"].listen(5000) as listener:
                def serve():
                    connection, _ = listener.accept()
                    connection.sendall(b"hello")
                    connection.close()
                for _ in range(2):
                    serving = gevent.spawn(serve)
                    ask = "import socket; print(socket.create_connection(('server', 5000)).recv(10))"
                    print(lab["client"].run(["python3", "-c", ask], timeout_s=20).stdout.strip())
                    serving.join()
        """
    ) == ("b'hello'\n" * 2)


def program(text: str) -> str:
    ended = subprocess.run([sys.executable, "-c", dedent(text)], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
