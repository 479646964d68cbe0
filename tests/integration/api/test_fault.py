"""Faults of labs as context managers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from labctl import AsyncLab, Lab
from labctl.api.fault import AsyncFault, Fault
from tests.integration.detached import becomes


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("star:3") as lab:
        yield lab


def reaches(lab: Lab, summary: str) -> bool:
    return becomes(lambda: lab.ping(timeout_s=0.2).summary == summary)


def test_a_fault_lasts_as_long_as_its_block(lab: Lab) -> None:
    with lab.fault(partition=[["h1"], ["h2", "h3"]]) as fault:
        assert isinstance(fault, Fault)
        assert [each.text for each in lab.faults] == ["partition h1 | h2 h3"]
        assert reaches(lab, "4 of 12 reached")
        assert repr(fault) == "<Fault partition h1 | h2 h3, in force>"
    assert not lab.faults
    assert lab.ping()
    assert repr(fault) == "<Fault partition h1 | h2 h3, healed>"
    (entry,) = [each for each in lab.activity() if each.kind == "fault"]
    assert (entry.what, entry.outcome) == ("partition h1 | h2 h3", "healed")


def test_a_fault_ends_when_its_block_raises(lab: Lab) -> None:
    with pytest.raises(KeyError), lab.fault(isolate="h1"):
        raise KeyError
    assert not lab.faults


def test_faults_without_a_block(lab: Lab) -> None:
    fault = lab.fault(down=["h1", "s1"], name="cut").begin()
    assert [each.name for each in lab.faults] == ["cut"]
    with pytest.raises(RuntimeError, match="in force already"):
        fault.begin()
    fault.heal()
    fault.heal()
    lab.fault(isolate="h2").begin()
    assert lab.heal() == 1
    assert lab.heal() == 0


def test_a_program_is_paused() -> None:
    script = "echo x; exec sleep 1000"  # one process: a shell that has just forked waits in state D for its child
    with Lab("star:1") as lab, lab["h1"].start(["sh", "-c", script]) as program:
        program.wait_for_output("x")
        with lab.fault(pause=program) as fault:
            assert fault.text == "pause h1/sh"
            stat = f"/proc/{program.pid}/stat"
            assert becomes(lambda: lab["h1"].read_text(stat).rpartition(")")[2].split()[0] == "T")


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({}, "a fault has one kind, such as isolate=..., not 0"),
        ({"isolate": "h1", "down": ["h1", "s1"]}, "not 2"),
        ({"isolate": "h9"}, "no node or group `h9`; allowed: h1, h2, h3, s1"),
        ({"unplug": "h1"}, "there is no fault `unplug`; kinds are partition"),
        ({"pause": 5}, "pause: a program, NODE/NAME, or a list of them"),
    ],
)
def test_wrong_faults_are_value_errors(lab: Lab, kinds: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lab.fault(**kinds)  # type: ignore[arg-type]  # that is what is tested


def test_faults_are_marks_of_a_recorded_lab() -> None:
    with Lab("pair", record=True) as lab:
        with lab.fault(isolate="server"):
            pass
        texts = [event.text for event in lab.timeline().events if hasattr(event, "text")]
    assert texts == ["fault: isolate server", "fault healed: isolate server"]


def test_an_attached_lab_has_no_fault_of_a_closed_object(lab: Lab) -> None:
    fault = lab.fault(isolate="h1")
    with Lab("pair") as other:
        forgotten = other.fault(isolate="client").begin()
    forgotten.heal()  # the lab has ended
    assert repr(fault) == "<Fault isolate h1, not begun>"


def test_faults_for_asyncio() -> None:
    async def main() -> None:
        async with AsyncLab("pair") as lab:
            async with lab.fault(isolate="client") as fault:
                assert isinstance(fault, AsyncFault)
                assert [each.text for each in lab.sync.faults] == [fault.text] == ["isolate client"]
            assert not lab.sync.faults
            await lab.fault(down=["client", "server"]).begin()
            assert await lab.heal() == 1

    asyncio.run(main())
