"""Sphinx configuration of the site (`tools/docs`). tools/reference generates parts of pages from the code."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))
os.environ["TYPER_USE_RICH"] = "0"

from labctl import __version__  # noqa: E402  # the checkout's, whatever is installed

project = "labctl"
author = "the authors of labctl"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
# The copy button omits prompts and output.
copybutton_prompt_text = r"\$ |> "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
myst_heading_anchors = 4
exclude_patterns = ["_build"]
templates_path: list[str] = []
# `name` in a docstring is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
python_use_unqualified_type_names = True
nitpicky = True
# Link only labctl's public names.
nitpick_ignore_regex = [("py:.*", r"(?!labctl\.[A-Z]).*")]

# Keep `--option` unchanged.
smartquotes = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"labctl {version}"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"

# Links out of docs/ in the checkout lead to other pages on the site.
_OUTSIDE = (
    ("../scenarios/README.md", "reference/scenarios.md"),
    ("../docs/", ""),
    ("docs/", ""),
)
_SCENARIO = re.compile(r"\.\./scenarios/([\w.-]+\.(?:yaml|c|py))")  # shown on the page of scenarios
_LINK = re.compile(r"\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def _filled(app: Sphinx, name: str, source: list[str]) -> None:
    from tools.reference.pages import filled

    source[0] = _LINK.sub(lambda link: _within_site(link, name), filled(source[0]))


def _within_site(link: re.Match[str], page: str) -> str:
    target = link["target"]
    if shipped := _SCENARIO.fullmatch(target):
        return f"]({'../' * page.count('/')}reference/scenarios.md#file-{shipped[1]})"
    for begin, instead in _OUTSIDE:
        if target.startswith(begin):
            up = "../" * page.count("/")
            return f"]({up}{instead}{target.removeprefix(begin)}{link['anchor'] or ''})"
    return link[0]


def setup(app: Sphinx) -> None:
    """Connect the hook. Sphinx calls this."""
    app.connect("source-read", _filled)
