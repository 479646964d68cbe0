"""A headless Chromium for tests of pages: it opens a file, runs expressions in it, presses keys, and takes pictures.

Debian's package `chromium` or another build in PATH. The process gets its commands over a pipe
(--remote-debugging-pipe: the DevTools protocol, https://chromedevtools.github.io/devtools-protocol/), in a private
directory, and ends with its owner.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # Chromium has none for root and in containers; pages of tests are ours
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--remote-debugging-pipe",
    "--font-render-hinting=none",
)
WITHIN_S = 60.0


class Page:
    """A tab. `requests` are the addresses that it has asked for, `problems` what its console reported."""

    def __init__(self, read_end: int, write_end: int) -> None:
        self._read_end, self._write_end = read_end, write_end
        self._buffer = b""
        self._number = 0
        self._session = ""
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file, and wait until its timeline is drawn."""
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def resize(self, width: int, height: int) -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, of its promise if it is one. AssertionError if it throws."""
        given = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true; AssertionError after WITHIN_S."""
        look = f"const look = () => ({condition}) ? done(true) : setTimeout(look, 10)"
        assert self.run(f"new Promise((done) => {{ {look}; look(); }})") is True

    def press(self, *keys: str) -> None:
        """Press and release keys: `a`, `ArrowDown`, `Enter`."""
        for key in keys:
            text = key if len(key) == 1 else "\r" if key == "Enter" else ""
            self._call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, code=key if len(key) > 1 else "")
            self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def move(self, x: float, y: float) -> None:
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """Return x, y, width and height of the first element that fits the selector."""
        element = f"document.querySelector('{selector}').getBoundingClientRect()"
        x, y, width, height = self.run(f"(({{x, y, width, height}}) => [x, y, width, height])({element})")
        return x, y, width, height

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def accessible(self) -> list[dict[str, Any]]:
        """Return the nodes of the accessibility tree."""
        nodes: list[dict[str, Any]] = self._call("Accessibility.getFullAXTree")["nodes"]
        return nodes

    def pdf(self) -> bytes:
        return base64.b64decode(self._call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write_end, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WITHIN_S
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read_end], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "Chromium does not answer"
            part = os.read(self._read_end, 1 << 20)
            assert part, "Chromium has ended"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        given = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(given["request"]["url"])
            case "Runtime.exceptionThrown":
                self.problems.append(str(given["exceptionDetails"].get("exception", given["exceptionDetails"])))
            case "Log.entryAdded":
                self.problems.append(given["entry"]["text"])


def program() -> str:
    """Return the path of Chromium; skip the test without it."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip("not installed: chromium")


@contextmanager
def chromium() -> Iterator[Page]:
    """A page of a browser of its own."""
    path = program()
    with (
        tempfile.TemporaryDirectory(prefix="labctl-chromium-", ignore_cleanup_errors=True) as home,
        ExitStack() as ours,
    ):
        commands, answers = _pipe(ours), _pipe(ours)
        process = os.posix_spawn(
            path,
            [path, *OPTIONS, f"--user-data-dir={home}/profile"],
            {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home, "XDG_RUNTIME_DIR": home},
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)),
                (os.POSIX_SPAWN_DUP2, commands[0].fileno(), 3),  # Chromium reads commands there
                (os.POSIX_SPAWN_DUP2, answers[1].fileno(), 4),
            ],
            setsid=True,
        )
        ours.callback(_end, process)
        commands[0].close()
        answers[1].close()
        yield Page(answers[0].fileno(), commands[1].fileno())
        commands[1].close()  # which ends Chromium


def _pipe(ours: ExitStack) -> tuple[FileIO, FileIO]:
    """The ends of a pipe, with numbers that no child's own descriptors have."""
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return ours.enter_context(FileIO(high[0], "rb")), ours.enter_context(FileIO(high[1], "wb"))


def _end(process: int) -> None:
    """Wait for the end of the browser, or kill its process group."""
    handle = os.pidfd_open(process)
    try:
        if not select.select([handle], [], [], 10)[0]:
            os.killpg(process, signal.SIGKILL)
    finally:
        os.close(handle)
        os.waitpid(process, 0)
