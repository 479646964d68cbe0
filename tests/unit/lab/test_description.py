"""What a keeper tells survives the journey as JSON."""

from __future__ import annotations

import json

from labctl.lab.protocol import (
    Described,
    Description,
    NodeInfo,
    ProcessInfo,
    ProcessRows,
    ProcessState,
    Reply,
    decode,
    encode,
)
from labctl.plan.operations import plan_to_json
from labctl.topology.model import Restart
from tests.labs import pair_plan

RUNNING = ProcessInfo("h1", "web", 3, ("nginx", "-g", "x y"), 12.5, ProcessState.RUNNING, 2, None, 77, Restart.ALWAYS)
ENDED = ProcessInfo("h2", "", 0, ("sh",), 1.0, ProcessState.ENDED, returncode=-9, problem="it was so")


def test_a_process_is_the_same_after_the_journey() -> None:
    sent = ProcessRows((RUNNING, ENDED))
    assert decode(encode(sent), Reply) == sent


def test_only_processes_with_a_name_are_detached() -> None:
    assert (RUNNING.is_detached, ENDED.is_detached) == (True, False)


def test_a_description_and_its_plan_are_the_same_after_the_journey() -> None:
    plan = pair_plan()
    told = Description(
        name="lab",
        topology="pair",
        uid=1000,
        started_at=1.5,
        keeper_pid=42,
        rootless=True,
        nodes=(NodeInfo("h1", "host", "/proc/42/fd/7", 43), NodeInfo("s", "switch", "/proc/42/fd/8")),
        processes=(RUNNING, ENDED),
        source="hosts: {h1: {}}\n",
        plan_json=json.loads(json.dumps(plan_to_json(plan))),
    )
    arrived = decode(encode(Described(told)), Described).description
    assert arrived == told
    assert arrived.plan == plan
