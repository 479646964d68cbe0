"""Programs on hosts, started and watched by an event loop."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest

from labctl import AsyncLab, NotFound, ProgramFailed, ProgramNotReady, ProgramTimedOut

WAIT_S = 20.0


WEB = [sys.executable, "-u", "-m", "http.server", "8000", "--bind", "::"]


def in_a_lab(test: Callable[[AsyncLab], Awaitable[None]]) -> None:
    """Run it in an event loop with a lab of its own."""

    async def run() -> None:
        async with asyncio.timeout(60), AsyncLab("pair") as lab:
            await test(lab)

    asyncio.run(run())


def test_programs_run_at_the_same_time_without_a_thread_for_each() -> None:
    async def test(lab: AsyncLab) -> None:
        meet = "touch /tmp/met.$0; while [ $(ls /tmp/met.* | wc -l) -lt 10 ]; do sleep 0.02; done; echo $0"

        async def one(number: int) -> str:
            return (await lab["client"].run(["sh", "-c", meet, str(number)], timeout_s=WAIT_S)).stdout

        threads = threading.active_count()
        written = await asyncio.gather(*(one(number) for number in range(10)))
        assert written == [f"{number}\n" for number in range(10)]
        assert threading.active_count() <= threads + 1

    in_a_lab(test)


def test_results_and_errors_are_those_of_the_synchronous_host() -> None:
    async def test(lab: AsyncLab) -> None:
        client = lab["client"]
        completed = await client.run(["sh", "-c", "cat; echo err >&2; exit 3"], input="in")
        assert (completed.returncode, completed.stdout, completed.stderr) == (3, "in", "err\n")
        with pytest.raises(ProgramFailed):
            await client.run(["false"], check=True)
        for limit_s in (0.3, 5.0, WAIT_S):  # on a loaded machine the shell itself may begin late
            with pytest.raises(ProgramTimedOut, match="did not end") as caught:
                await client.run(["sh", "-c", "echo before; sleep 4321"], timeout_s=limit_s)
            if caught.value.stdout:
                break
        assert caught.value.stdout == "before\n"
        with pytest.raises(NotFound, match="did you mean `server`"):
            lab["servr"]
        assert lab.hosts["server"].ipv4 == "10.0.0.2"
        assert await lab.ping(timeout_s=WAIT_S)
        await client.write_text("/tmp/x", "text")
        assert await client.read_text("/tmp/x") == "text"

    in_a_lab(test)


def test_a_program_is_ready_watched_and_ended() -> None:
    async def test(lab: AsyncLab) -> None:
        async with lab["server"].start(WEB, ready=8000) as program:
            reader, writer = await lab["client"].open_connection("server:8000")
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.0 200")
            writer.close()
            await writer.wait_closed()
            assert await program.wait_for_output("GET (/)", timeout_s=WAIT_S) == "GET /"
        assert program.returncode == -signal.SIGTERM
        said = await lab["server"].start(["sh", "-c", "echo ready; exit 4"], ready=re.compile("ready"))
        assert await said.wait() == 4
        with pytest.raises(ProgramNotReady, match="exited with status 2"):
            await lab["server"].start(["sh", "-c", "exit 2"], ready=81)

    in_a_lab(test)
