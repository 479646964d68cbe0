"""`AsyncLab` on asyncio and on anyio's asyncio backend."""

from __future__ import annotations

import asyncio
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from labctl import AsyncHost, AsyncLab, Lab
from tests.integration.machine import holds

WAIT_S = 20.0


WEB = [sys.executable, "-u", "-m", "http.server", "8000", "--bind", "::"]


SCENARIO = """
name: a listener
topology: pair
steps:
  - server: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, "server:5000")
      listen(s, 1)
"""


def in_a_lab(test: Callable[[AsyncLab], Awaitable[None]]) -> None:
    """Run it in an event loop with a lab of its own."""

    async def run() -> None:
        async with asyncio.timeout(60), AsyncLab("pair") as lab:
            await test(lab)

    asyncio.run(run())


async def commands(host: AsyncHost) -> str:
    completed = await host.run(["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null"])
    return completed.stdout.replace("\x00", " ")


async def gone(host: AsyncHost, command: str) -> bool:
    """Whether a command has ended, soon."""
    until = time.monotonic() + WAIT_S
    while command in await commands(host):
        if time.monotonic() > until:
            return False
    return True


def test_servers_and_connections_of_the_loop_are_on_hosts() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(5))
        await writer.drain()
        writer.close()

    async def test(lab: AsyncLab) -> None:
        loop = asyncio.get_running_loop()
        async with await lab["server"].start_server(echo, 7000):
            with await lab["client"].connect("server:7000") as sock:
                assert sock.getsockname()[0] == "10.0.0.1"
                await loop.sock_sendall(sock, b"hello")
                assert await loop.sock_recv(sock, 10) == b"hello"
        with pytest.raises(ConnectionRefusedError, match="host client: cannot connect to server:81"):
            await lab["client"].connect("server:81")
        link = lab.link("client", "server")
        await link.down()
        assert not await link.is_up()
        await link.up()
        assert await link.is_up()

    in_a_lab(test)


def test_blocking_code_is_on_a_host_in_a_thread_of_its_own() -> None:
    def fetch(url: str) -> int:
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            return int(answer.status)

    async def test(lab: AsyncLab) -> None:
        async with lab["server"].start(WEB, ready=8000):
            assert await lab["client"].in_netns(fetch, "http://server:8000/") == 200

    in_a_lab(test)


def test_cancelling_ends_what_was_started() -> None:
    async def test(lab: AsyncLab) -> None:
        client = lab["client"]
        task = asyncio.create_task(client.run(["sleep", "4322"]))
        while "sleep 4322" not in await commands(client):
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await gone(client, "sleep 4322")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.start(["sleep", "4323"], ready=82)
        assert await gone(client, "sleep 4323")

    in_a_lab(test)


def test_cancelling_at_any_moment_leaves_nothing() -> None:
    async def test(lab: AsyncLab) -> None:
        client = lab["client"]
        for steps in range(30):
            task = asyncio.create_task(client.run(["sleep", "4324"]))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await gone(client, "sleep 4324")

    in_a_lab(test)


def test_cancelling_while_the_lab_is_made_leaves_no_lab() -> None:
    async def run() -> None:
        task = asyncio.create_task(AsyncLab("pair").open())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_anyio_uses_it_and_cancels_it() -> None:
    async def run() -> None:
        async with AsyncLab("pair") as lab:
            with anyio.move_on_after(0.3) as scope:
                await lab["client"].run(["sleep", "4325"])
            assert scope.cancelled_caught
            assert await gone(lab["client"], "sleep 4325")
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(lab["client"].run, ["true"])

    anyio.run(run, backend="asyncio")


def test_a_lab_of_somebody_else_is_left_as_it_is() -> None:
    async def use(lab: Lab) -> None:
        async with AsyncLab.over(lab) as over:
            program = await over["client"].start(["sleep", "4326"])
            assert over.sync is lab
        assert "ended with its lab" in repr(program)

    with Lab("pair") as lab:
        asyncio.run(use(lab))
        assert not lab.closed
        running = ["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null"]
        assert holds(lambda: "4326" not in lab["client"].run(running).stdout, WAIT_S)


def test_a_lab_that_was_not_made_yet_or_is_closed_says_so() -> None:
    lab = AsyncLab("pair")
    assert repr(lab) == "<AsyncLab, not open>"
    with pytest.raises(RuntimeError, match="async with"):
        lab["client"]
    assert not lab.closed

    async def test(made: AsyncLab) -> None:
        await made.aclose()
        assert made.closed
        with pytest.raises(RuntimeError, match="closed"):
            await made["client"].run(["true"])

    in_a_lab(test)


def test_a_scenario_is_run_and_held(tmp_path: Path) -> None:
    path = tmp_path / "listen.scenario.yaml"
    path.write_text(SCENARIO)

    async def test(lab: AsyncLab) -> None:
        async with lab.scenario(path) as run:
            assert [call.call for call in run.calls][-1] == "listen(3, 1)"
            (await lab["client"].connect("server:5000")).close()
        with pytest.raises(ConnectionRefusedError):
            await lab["client"].connect("server:5000")

    in_a_lab(test)


def test_cancelling_a_scenario_ends_a_blocked_call(tmp_path: Path) -> None:
    path = tmp_path / "accept.scenario.yaml"
    path.write_text(SCENARIO + "      accept(s)\nwithin: 60s\n")

    async def enter(lab: AsyncLab) -> None:
        async with lab.scenario(path):
            raise AssertionError("it goes on")

    async def test(lab: AsyncLab) -> None:
        task: asyncio.Task[Any] = asyncio.create_task(enter(lab))
        while not any(one.listening for one in await lab["server"].sockets()):
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await lab["server"].in_netns(holds, lambda: not lab.sync["server"].sockets(), WAIT_S)

    in_a_lab(test)


def test_the_loop_goes_on_while_a_lab_is_made() -> None:
    async def run() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with AsyncLab("pair"):
            made = ticks
        ticking.cancel()
        assert made > 10

    asyncio.run(run())
