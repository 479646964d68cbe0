"""Records of what a keeper reports."""

from __future__ import annotations

import pytest

from labctl.lab.description import Description, FaultInfo, NodeInfo, ProcessInfo, ProcessState

FIELDS = {"node": "h1", "name": "web", "pid": 3, "argv": ["sh", "-c", "x"], "started_at": 1.5, "state": "running"}
PROCESS = ProcessInfo("h1", "web", 3, ("sh", "-c", "x"), 1.5, ProcessState.RUNNING)


def test_a_program_is_read_from_its_fields() -> None:
    read = ProcessInfo.read(FIELDS)
    assert read == PROCESS
    assert hash(read) == hash(PROCESS)
    assert read.state is ProcessState.RUNNING
    assert read != NodeInfo("h1", "host", "/proc/1/fd/5")


@pytest.mark.parametrize("change", [{"state": "resting"}, {"argv": 5}, {"colour": "red"}])
def test_other_fields_are_errors(change: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        ProcessInfo.read({**FIELDS, **change})


def test_a_changed_copy_leaves_the_first_as_it_is() -> None:
    ended = PROCESS.replaced(state=ProcessState.ENDED, returncode=0)
    assert (ended.state, ended.returncode, ended.pid) == (ProcessState.ENDED, 0, 3)
    assert PROCESS.state is ProcessState.RUNNING


def test_a_description_is_read_with_its_nodes_and_programs() -> None:
    node = {"name": "h1", "kind": "host", "network": "/proc/9/fd/5", "init_pid": 0}
    fields: dict[str, object] = {
        "name": "l",
        "topology": "pair",
        "uid": 0,
        "started_at": 1.0,
        "keeper_pid": 9,
        "rootless": False,
    }
    fault = {"number": 1, "kind": "isolate", "text": "isolate h1", "nodes": ["h1"], "began_at": 2.5, "name": "cut"}
    fields |= {
        "rootless": False,
        "nodes": [node],
        "processes": [FIELDS],
        "source": "",
        "plan_json": None,
        "faults": [fault],
    }
    read = Description.read(fields)
    assert (read.nodes, read.processes) == ((NodeInfo("h1", "host", "/proc/9/fd/5"),), (PROCESS,))
    assert read.faults == (FaultInfo(1, "isolate", "isolate h1", ("h1",), 2.5, "cut"),)
    assert Description.read({**fields, "down": [["h1", "eth0"]]}).down == (("h1", "eth0"),)
    assert read.faults[0].as_data() == {**fault, "duration_s": None, "ends_with_client": False}
    assert repr(read.nodes[0]) == "NodeInfo(name='h1', kind='host', network='/proc/9/fd/5', init_pid=0)"
