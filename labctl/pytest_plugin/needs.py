"""`@pytest.mark.needs(...)`: a test is skipped where something that it needs is not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator

import pytest

ROOT = "root"


def skip_without_needs(item: pytest.Item) -> None:
    """Adds a skip mark, whose place in the summary is the test's, when something is missing."""
    reasons = [reason for mark in item.iter_markers("needs") for reason in _reasons(mark, item)]
    if reasons:
        item.add_marker(pytest.mark.skip(reason="; ".join(dict.fromkeys(reasons))))


def _reasons(mark: pytest.Mark, item: pytest.Item) -> Iterator[str]:
    from labctl.scenario.features import FEATURES

    unknown = mark.kwargs.keys() - {"feature", "program"}
    if unknown or not (mark.args or mark.kwargs):
        pytest.fail(
            f"{item.nodeid}: @pytest.mark.needs({', '.join(sorted(unknown))}): give names of features or programs, "
            "or feature=..., program=...",
            pytrace=False,
        )
    for name in _names(mark.args):
        yield from _feature(name, item) if name in FEATURES else _program(name)
    for name in _names([mark.kwargs.get("feature", ())]):
        yield from _feature(name, item)
    for name in _names([mark.kwargs.get("program", ())]):
        yield from _program(name)


def _names(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Iterable):
            yield from (str(name) for name in value)


def _feature(name: str, item: pytest.Item) -> Iterator[str]:
    from labctl.scenario.features import FEATURES

    probe = FEATURES.get(name)
    if probe is None:
        from labctl.documents import suggest

        hint = suggest(name, FEATURES)
        pytest.fail(f"{item.nodeid}: @pytest.mark.needs: unknown feature `{name}`; {hint}", pytrace=False)
    if reason := probe():
        yield f"needs {name}: {reason}"


def _program(name: str) -> Iterator[str]:
    if shutil.which(name):
        return
    from labctl.documents import suggest
    from labctl.scenario.features import FEATURES

    near = suggest(name, FEATURES)
    meant = f" ({near.replace('mean', 'mean the feature')})" if near.startswith("did you mean") else ""
    yield f"the program `{name}` is not installed{meant}"
