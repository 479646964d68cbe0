"""The figures in README.md and docs/: text between marks, and plots, replaced by those of the last run.

`<!-- benchmark: NAME -->` begins such a text and `<!-- /benchmark -->` ends it. NAME is that of a suite, `machine`, or
`headline`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import formats
from tests.benchmarks.plot import svg
from tests.benchmarks.results import Section

_LINE = 120
_HEADLINES = 3  # suites that have one; the sentence is replaced as a whole
_ROOT = Path(__file__).resolve().parents[2]
PAGES = (_ROOT / "README.md", _ROOT / "docs" / "index.md", _ROOT / "docs" / "performance.md")
PICTURES = "_static/performance"
MARK = re.compile(r"(<!-- benchmark: ([\w-]+) -->\n).*?(<!-- /benchmark -->)", re.DOTALL)


def update(machine: dict[str, str], sections: Sequence[Section]) -> None:
    """Replace the text of every mark that these sections have figures for, and their plots."""
    texts = {section.name: formats.markdown(section, PICTURES) for section in sections}
    texts["machine"] = textwrap.fill(formats.machine_sentence(machine), _LINE)
    headlines = [section.headline for section in sections if section.headline]
    if len(headlines) == _HEADLINES:
        texts["headline"] = textwrap.fill(" ".join(headlines), _LINE)
    for page in PAGES:
        page.write_text(filled(page.read_text(), texts))
    folder = _ROOT / "docs" / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for plot in section.plots:
            (folder / f"{plot.name}.svg").write_text(svg(plot))


def filled(page: str, texts: dict[str, str]) -> str:
    """Return the page with the texts of marks that `texts` names."""
    return MARK.sub(lambda mark: f"{mark[1]}{texts[mark[2]]}\n{mark[3]}" if mark[2] in texts else mark[0], page)
