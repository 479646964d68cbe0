"""What files of timelines cost: to write them, and to use a page of many events in Chromium."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from labctl.report.timeline_files import FORMATS
from tests.benchmarks.options import Options, progress
from tests.benchmarks.results import Section, Table, milliseconds
from tests.chromium import NAMES, Page, chromium
from tests.timelines import many

# The time until the next frame is drawn, after a change; the greatest and the middle one of many.
_FRAMES = """(async (change) => {
    const ladder = document.getElementById('ladder'), times = [];
    for (let turn = 0; turn < 60; turn++) {
        await new Promise(requestAnimationFrame);
        const began = performance.now();
        change(ladder, turn);
        await new Promise(requestAnimationFrame);
        await new Promise((done) => setTimeout(done)); // after that frame
        times.push(performance.now() - began);
    }
    times.sort((a, b) => a - b);
    return [times[30], times[59]];
})"""
_SCROLL = "(ladder, turn) => { ladder.scrollTop = turn % 2 ? turn * 337 : ladder.scrollHeight * turn / 60; }"
_KEY = "(ladder, turn) => ladder.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowDown' }))"


def run(options: Options) -> Section:
    """Write every format, and open, scroll and walk through the page."""
    events = 2000 if options.quick else 105_000
    timeline = many(events)
    count = len(timeline.events)
    progress(f"pages: {count:,} events in each format")
    samples: dict[str, object] = {"events": count}
    rows = []
    page = options.scratch / "page.html"
    for each in FORMATS:
        if each.name == "svg":
            continue  # a picture of so many rows is for nobody
        taken = []
        for _ in range(1 if options.quick else 5):
            began = time.process_time()
            data = each.encode(timeline)
            taken.append(time.process_time() - began)
        if each.name == "html":
            page.write_bytes(data)
        samples[f"{each.name}_s"] = taken
        rows.append((each.name, milliseconds(min(taken)), f"{len(data) / (1 << 20):.2f} MiB"))
    tables = [Table(f"{count:,} events as a file", ("", "CPU time", "size"), tuple(rows))]
    if any(map(shutil.which, NAMES)):
        progress("pages: Chromium")
        with chromium() as browser:
            tables.append(_in_browser(browser, page, samples, times=1 if options.quick else 5))
    return Section("pages", "Files of timelines", tuple(tables), samples=samples)


def _in_browser(browser: Page, path: Path, samples: dict[str, object], *, times: int) -> Table:
    ready = []
    for _ in range(times):
        browser.open(path)
        browser.wait_for("document.documentElement.dataset.ready")
        ready.append(float(browser.run("document.documentElement.dataset.ready")) / 1000)
    samples["ready_s"] = ready
    rows = [("from opening the file to the drawn timeline", milliseconds(min(ready)), "")]
    for name, change in (("a frame while it scrolls", _SCROLL), ("a frame after a key", _KEY)):
        middle, longest = browser.run(f"{_FRAMES}({change})")
        samples[name] = [middle / 1000, longest / 1000]
        rows.append((name, milliseconds(middle / 1000), milliseconds(longest / 1000)))
    return Table("The page of these events in Chromium", ("", "time", "at most"), tuple(rows))
