"""A timeline as one HTML file that needs nothing else: no network, no other file.

The head of the page (verdict, explanation, topology, steps) and its end (output, losses, environment) are markup that
this module writes. The ladder and the plots are drawn in the browser from columns (`page_data`). They are compressed
(gzip, base64) in elements that no browser executes; the page's policy (Content-Security-Policy) allows its one script
and its one style sheet, by their hashes, and no request. All text is escaped: program output and names are untrusted.
"""

from __future__ import annotations

import gzip
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from html import escape
from typing import BinaryIO

from labctl.printable import printable, visible
from labctl.timeline.events import Call, HostState, Loss, Output, Packet, Step, Timeline, Verdict, loss_texts
from labctl.timeline.sinks.page_data import columns
from labctl.timeline.sinks.topology_drawing import STYLE, drawing

GENERATOR = '<meta name="generator" content="labctl">'
FAILURES = ("failed", "error")
_ASSETS = os.path.join(os.path.dirname(__file__), "assets")
# Parts of one function: text reaches the page as text nodes and attributes, never as markup.
_PARTS = ("events.js", "ladder.js", "details.js", "plots.js", "page.js")
_SCRIPT = """"use strict";
(async () => {
PARTS
})().catch((error) => {
  document.getElementById("status").textContent = `The timeline cannot be shown: ${error}. It needs a newer browser.`;
  document.documentElement.dataset.failed = String(error);
});
"""
_CHUNK_BYTES = 1 << 18  # of the stream of bytes, uncompressed; events.js has the same number
_LONGEST_OUTPUT_BYTES = 256 << 10  # of a program's stream
_MARKS = {"passed": "\u2713", "failed": "\u2717", "error": "!", "skipped": "\u2013"}


def write(timeline: Timeline, file: BinaryIO) -> None:
    """Write the page of the timeline, as UTF-8."""
    packed, stream = columns(timeline)
    script = _SCRIPT.replace("PARTS", "\n".join(map(asset, _PARTS)))
    body = "\n".join((_head(timeline), asset("panes.html"), _tables(timeline)))
    data = [_packed("columns", packed)]
    data += [_packed(f"bytes-{number}", chunk, level=3) for number, chunk in enumerate(_chunks(stream))]
    file.write(document(timeline.title, asset("page.css") + STYLE, f"<main>\n{body}\n</main>", data, script))


def document(title: str, style: str, body: str, data: Sequence[str], script: str) -> bytes:
    """Return a page as UTF-8: `body` is markup, `data` are elements; the title is text."""
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'"
    )
    text = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text_of(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        + "\n".join(data)
        + f"\n<script>{script}</script>\n</body>\n</html>\n"
    )
    return text.encode("utf-8", "backslashreplace")


def asset(name: str) -> str:
    """Return the text of a file in `assets`."""
    with open(os.path.join(_ASSETS, name), encoding="utf-8") as file:
        return file.read()


def text_of(text: str) -> str:
    """Return text as markup: escaped for HTML, and control characters made visible."""
    return escape(printable(text))


def duration_text(duration_ns: int) -> str:
    """Return `1.25 s`, `12.1 ms` or `150 us`."""
    if duration_ns >= 1_000_000_000:
        return f"{duration_ns / 1e9:.2f} s"
    return f"{duration_ns / 1e6:.1f} ms" if duration_ns >= 1_000_000 else f"{duration_ns / 1e3:.0f} us"


def badge(outcome: str) -> str:
    """Return the mark of an outcome, as markup."""
    return f'<span class="outcome {escape(outcome)}">{_MARKS.get(outcome, "")} {text_of(outcome)}</span>'


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _packed(name: str, data: bytes, level: int = 6) -> str:
    packed = b64encode(gzip.compress(data, level, mtime=0)).decode()
    return f'<script type="application/octet-stream" id="{name}">{packed}</script>'


def _chunks(stream: Iterable[bytes]) -> Iterator[bytes]:
    whole = b"".join(stream)
    for start in range(0, len(whole), _CHUNK_BYTES):
        yield whole[start : start + _CHUNK_BYTES]


def _head(timeline: Timeline) -> str:
    verdict = timeline.verdict
    outcome = verdict.outcome if verdict is not None else ""
    mark = (
        f'<span class="badge {escape(outcome)}">{_MARKS.get(outcome, "")} {text_of(outcome)}</span>' if outcome else ""
    )
    packets = len({event.journey for event in timeline.events if isinstance(event, Packet)})
    calls = sum(isinstance(event, Call) for event in timeline.events)
    facts = [
        timeline.file,
        f"{timeline.started_at[:19].replace('T', ' ')} UTC" if timeline.started_at else "",
        duration_text(max(timeline.ended_ns - timeline.started_ns, 0)),
        f"{len(timeline.events):,} events: {calls:,} calls, {packets:,} packets",
        f"clock within {timeline.clock.bracket_ns} ns" if timeline.clock.bracket_ns else "",
    ]
    shown = "".join(f"<span>{text_of(fact)}</span>" for fact in facts if fact)
    return "\n".join(
        filter(
            None,
            (
                f'<header><div class="top">{mark}<h1>{text_of(timeline.title)}</h1></div>',
                f'<p class="facts">{shown}</p></header>',
                _why(timeline, verdict) if verdict is not None else "",
                _warnings(timeline.losses),
                drawing(timeline),
            ),
        )
    )


def _why(timeline: Timeline, verdict: Verdict) -> str:
    """Return why it failed: the reason, the explanation, the failing step, how to run it again."""
    if not verdict.reason and not verdict.explanation:
        return ""
    parts = [f'<p class="reason">{text_of(verdict.reason)}</p>'] if verdict.reason else []
    if verdict.explanation:
        parts.append(f"<ol>{''.join(f'<li>{text_of(each)}</li>' for each in verdict.explanation)}</ol>")
    failed = _failed_event(timeline) if verdict.outcome in FAILURES else None
    if failed is not None:
        parts.append(f'<p><button id="failed-event" data-event="{failed}">Show where it failed</button></p>')
    if verdict.rerun:
        parts.append(f'<p class="hint">Run it again: <code>{text_of(verdict.rerun)}</code></p>')
    return f'<section class="why" aria-label="Why it {escape(verdict.outcome)}">{"".join(parts)}</section>'


def _failed_event(timeline: Timeline) -> int | None:
    """Return the number of the event that shows the failure: the last call of the innermost failed step, else that."""
    failed = [
        (event.index.count("."), number, event)
        for number, event in enumerate(timeline.events)
        if isinstance(event, Step) and event.outcome in FAILURES
    ]
    if not failed:
        return None
    _, number, step = max(failed, key=lambda entry: entry[:2])
    calls = [
        place for place, event in enumerate(timeline.events) if isinstance(event, Call) and event.step == step.index
    ]
    return calls[-1] if calls else number


def _warnings(losses: Sequence[Loss]) -> str:
    if not losses:
        return ""
    items = "".join(f"<li>{text_of(text)}</li>" for text in loss_texts(losses))
    title = "<strong>This recording is not complete.</strong>"
    return f'<section class="warn" aria-label="Losses">{title}<ul>{items}</ul></section>'


def _tables(timeline: Timeline) -> str:
    return "\n".join(
        filter(
            None,
            (
                _steps(timeline),
                _outputs(timeline),
                _states(timeline.states),
                _section("Not recorded", _list(timeline.missing)) if timeline.missing else "",
                _section("Environment", _pairs(timeline.environment)) if timeline.environment else "",
            ),
        )
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def _list(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{text_of(text)}</li>' for text in texts)}</ul>"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    shown = "".join(f"<dt>{text_of(name)}</dt><dd>{text_of(value)}</dd>" for name, value in pairs)
    return f'<dl class="pairs">{shown}</dl>'


def _steps(timeline: Timeline) -> str:
    rows = []
    for number, event in enumerate(timeline.events):
        if not isinstance(event, Step):
            continue
        took = "" if event.until_ns is None else duration_text(event.until_ns - event.at_ns)
        reason = f"<pre>{text_of(event.reason)}</pre>" if event.reason else ""
        rows.append(
            f'<tr><td class="number">{text_of(event.index)}</td><td>{text_of(event.host)}</td>'
            f'<td class="wide"><button class="link" data-event="{number}">{text_of(event.title)}</button>{reason}</td>'
            f"<td>{badge(event.outcome or 'not finished')}</td>"
            f'<td class="number">{(event.at_ns - timeline.started_ns) / 1e6:.3f}</td>'
            f'<td class="number">{took}</td></tr>'
        )
    if not rows:
        return ""
    names = (("Step", "number"), ("Host", ""), ("What", ""), ("Outcome", ""), ("At ms", "number"), ("Took", "number"))
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in names)
    return _section(
        "Steps",
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>',
    )


def _outputs(timeline: Timeline) -> str:
    streams: dict[tuple[str, str, str], list[bytes]] = {}
    for event in timeline.events:
        if isinstance(event, Output):
            streams.setdefault((event.host, event.program, event.stream), []).append(event.data)
    shown = []
    for (host, program, stream), parts in streams.items():
        data = b"".join(parts)
        cut = (
            f"(the first {len(data) - _LONGEST_OUTPUT_BYTES:,} bytes are left out)\n"
            if len(data) > _LONGEST_OUTPUT_BYTES
            else ""
        )
        text = data[-_LONGEST_OUTPUT_BYTES:].decode("utf-8", "backslashreplace")
        title = " ".join(filter(None, (f"{host}:", program, stream)))
        is_open = " open" if len(streams) <= 4 and len(data) <= 2000 else ""
        shown.append(
            f"<details{is_open}><summary>{text_of(title)}, {len(data):,} bytes</summary>"
            f"<pre>{cut}{text_of(text)}</pre></details>"
        )
    return _section("Output", "\n".join(shown)) if shown else ""


def _states(states: Sequence[HostState]) -> str:
    shown = []
    for state in states:
        lines = [
            f"{each.name}: {'up' if each.is_up else 'down'}{'' if each.has_carrier else ', no carrier'}, mtu {each.mtu}"
            + (f", {each.queueing}" if each.queueing else "")
            for each in state.interfaces
        ]
        lines += [route.text for route in state.routes]
        lines += [
            f"nft {each.table} {each.chain}{f' (hook {each.hook})' if each.hook else ''}: {each.verdict}"
            + ("" if each.packets is None else f", {each.packets} packets")
            for each in state.filters
        ]
        shown.append(
            f"<details><summary>{text_of(state.host)}</summary><pre>{text_of(visible(chr(10).join(lines)))}</pre></details>"
        )
    return _section("Network after the failure", "\n".join(shown)) if shown else ""
