"""Takes the pictures of pages in docs/_static: `python -m tests.docs.screenshots`, or `tools/docs --screenshots`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chromium import chromium
from tests.docs.blocks import ROOT

LABCTL = Path(sys.executable).with_name("labctl")
STATIC = ROOT / "docs" / "_static"


def report() -> None:
    """The page of tcp-echo, with a packet selected."""
    with tempfile.TemporaryDirectory() as folder, chromium() as page:
        subprocess.run([LABCTL, "run", "scenarios/tcp-echo.yaml", "--html", folder], cwd=ROOT, check=True)
        page.open(Path(folder, "pages", "tcp-echo.html"), width=1280, height=930)
        page.wait_for("document.documentElement.dataset.ready")
        page.press("/", *"5 bytes", "Enter")
        page.wait_for("document.getElementById('found').textContent === '2 matches'")
        page.press("Enter", "Escape")  # which ends the search and keeps the event
        page.wait_for("document.querySelector('#details .bytes')?.textContent")
        page.run("document.activeElement.blur(); ladder.scrollTop = 0; scrollTo(0, 0)")
        page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.screenshot(STATIC / "report.png")


if __name__ == "__main__":
    report()
