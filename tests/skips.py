"""Why a test does not run here: because of who runs it, or because the machine lacks something.

With LABCTL_TESTS_REQUIRE_FEATURES=1 what the machine lacks is a failure: the stock-kernel run has it all, and a probe
that wrongly says "not here" would hide tests forever. Fail-closed: what does not say "for ..." is something lacking.
"""

from __future__ import annotations

import os
import shutil

import pytest

_ROOT, _USER, _WITHOUT = "for root: ", "for ordinary users: ", "for machines without "
_ALL = "for tools/test --all: "
ALL = os.environ.get("LABCTL_TESTS_ALL") == "1"  # whether tests may take their time, as those of tools/test --all


def for_root(why: str) -> pytest.MarkDecorator:
    """Skips unless root runs the tests."""
    return pytest.mark.skipif(os.geteuid() != 0, reason=f"{_ROOT}{why}")


def for_ordinary_users(why: str) -> pytest.MarkDecorator:
    """Skips when root runs the tests."""
    return pytest.mark.skipif(os.geteuid() == 0, reason=f"{_USER}{why}")


def for_machines_without(feature: str, *, is_there: bool) -> pytest.MarkDecorator:
    """Skips where the feature is: what is tested is its absence."""
    return pytest.mark.skipif(is_there, reason=f"{_WITHOUT}{feature}")


def for_all_tests(why: str) -> pytest.MarkDecorator:
    """Skips in a run that is to be short."""
    return pytest.mark.skipif(not ALL, reason=f"{_ALL}{why}")


def for_stock_kernels(why: str) -> pytest.MarkDecorator:
    """Skips but on a distribution's kernel, where nothing may be missing."""
    return pytest.mark.skipif(not features_are_required(), reason=f"for the stock-kernel run: {why}")


def needs_feature(name: str, is_there: bool, why: str) -> pytest.MarkDecorator:
    """Skips where this machine lacks the feature; `why` is what was seen or which kernel has it."""
    return pytest.mark.skipif(not is_there, reason=f"feature {name}: {why}")


def needs_programs(*names: str) -> pytest.MarkDecorator:
    """Skips where one of the programs is not installed."""
    missing = [name for name in names if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def features_are_required() -> bool:
    """Whether this machine is to have all that any test needs."""
    return os.environ.get("LABCTL_TESTS_REQUIRE_FEATURES") == "1"


def is_refused(reason: str) -> bool:
    """Whether a skip for this reason counts as a failure here."""
    return features_are_required() and not reason.removeprefix("Skipped: ").startswith((_ROOT, _USER, _WITHOUT, _ALL))
