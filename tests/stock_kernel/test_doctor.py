"""What `labctl doctor` finds on a distribution's kernel: everything; and it leaves the machine as it was."""

from __future__ import annotations

import json

import pytest

from tests.e2e.command import labctl
from tests.skips import for_stock_kernels

pytestmark = [pytest.mark.stock_kernel, for_stock_kernels("all features are there")]
FOR_ROOT = {"core-sysctls"}  # without root from Linux 6.3 on


def test_the_doctor_finds_every_feature_and_makes_no_interface_on_the_machine() -> None:
    ran = labctl("doctor", "--format", "json")
    assert ran.returncode == 0, ran.stderr
    found = {check["name"]: check for check in json.loads(ran.stdout)["checks"] if check["group"] == "kernel"}
    missing = {name: check["problem"] for name, check in found.items() if check["state"] != "ok"}
    assert found
    assert missing.keys() <= FOR_ROOT, missing
