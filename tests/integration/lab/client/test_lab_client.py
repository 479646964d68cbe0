"""A lean client of a lab: its few messages are the protocol's, and it starts programs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from labctl.errors import InputError, LabError
from labctl.lab import frames, protocol
from labctl.lab.client import lab_client, registry, state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.client.lab_client import LabClient
from labctl.topology.model import Restart
from tests.integration.detached import running
from tests.labs import WAIT_S


def test_its_messages_are_those_of_the_protocol() -> None:
    assert lab_client.hello_request() == protocol.encode(protocol.Hello(frames.VERSION))
    for request, message in (
        (["Describe"], protocol.Describe()),
        (["Processes"], protocol.Processes()),
        (["Down"], protocol.Down()),
    ):
        assert frames.to_json(request) == protocol.encode(message)
    start = protocol.StartProcess(
        "h1", "web", ("sh",), (("A", "b"),), None, (1, 2, ()), Restart.ALWAYS, None, True, ("strace",)
    )
    started = ("h1", "web", ("sh",), (("A", "b"),), None, (1, 2, ()), "always", None, True, ("strace",))
    assert lab_client.start_request(*started) == protocol.encode(start)
    assert lab_client.stop_request("h1", "web", 15) == protocol.encode(protocol.StopProcess("h1", "web", 15))
    assert lab_client.signal_group_request(7, 15) == protocol.encode(protocol.SignalGroup(7, 15))
    fields = (
        "h1",
        ("sh", "\udcff"),
        (("A", "b"),),
        "/",
        (True, False, True),
        (0, 0, (4,)),
        (24, 80),
        True,
        True,
        ("strace",),
    )
    spawn = protocol.Spawn(
        node=fields[0],
        argv=fields[1],
        environment=fields[2],
        cwd=fields[3],
        stdio=fields[4],
        user=fields[5],
        terminal=fields[6],
        is_cwd_optional=fields[7],
        is_terminal_plain=fields[8],
        tracer=fields[9],
    )
    assert lab_client.spawn_request(*fields) == protocol.encode(spawn)


def test_a_program_runs_and_its_group_is_signalled(state: Path) -> None:
    with running() as name, LabClient.attach(name) as lab:
        assert lab.nodes == ("client", "server")
        assert repr(lab) == f"<LabClient {name}, 2 nodes>"
        process = lab.spawn("client", ["sleep", "1000"])
        process.signal(signal.SIGINT, group=True)
        assert process.wait(WAIT_S) == -signal.SIGINT
        process.close()
        with pytest.raises(LabError, match="no-such-program"):
            lab.spawn("client", ["no-such-program"])


def test_a_keeper_of_another_version_is_not_used_and_down_ends_it(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as name:
        monkeypatch.setattr(lab_client, "VERSION", frames.VERSION + 1)
        for handle in (LabClient, Lab):
            with pytest.raises(LabError, match="another version of labctl"):
                handle.attach(name)
        registry.take_down(name)
        assert state_dir.labs() == []


def test_a_name_that_no_lab_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="of a lab contains"):
        LabClient.attach("a/b")


def test_text_of_the_machine_is_utf8_in_the_lab() -> None:
    assert lab_client.portable("ä\udcff") == "ä\udcff"
    assert lab_client.portable_pairs([("A", "b")]) == (("A", "b"),)
    assert lab_client.identity_of(None) == (None, ())
    assert lab_client.working_directory() == os.getcwd()
