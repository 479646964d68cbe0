"""Access that was prepared for a running lab, as the keeper receives it."""

from __future__ import annotations

import os

from labctl.kernel.cgroup import Controller, Parent
from labctl.lab.keeper.external import ExternalAccess, received
from labctl.lab.keeper.late_access import prepared


def test_the_keeper_receives_what_was_prepared() -> None:
    parent = Parent("/sys/fs/cgroup", 2, (Controller.PIDS, Controller.CPU))
    access = ExternalAccess(groups=((parent, "/sys/fs/cgroup/labctl-1"),), resolv_conf="# none\n")
    reading, writing = os.pipe()
    try:
        found = received(prepared(access), [writing])
        assert (found.groups, found.resolv_conf, found.nat) == (access.groups, "# none\n", None)
        assert found.controllers == {Controller.PIDS, Controller.CPU}
        assert found.late_descriptors == (writing,)
    finally:
        os.close(reading)
        os.close(writing)
