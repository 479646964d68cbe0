"""`labctl top`: what it reads of a lab, and its keys."""

from __future__ import annotations

import os

import pytest

from labctl.cli.network import link_operations
from labctl.cli.top import keys_in, sample_of, top
from labctl.cli.top_view import LinkSample
from labctl.errors import InputError
from labctl.lab.client.handle import Lab
from tests.e2e.running import Person
from tests.integration.detached import running
from tests.labs import output


def link_of(lab: Lab) -> LinkSample:
    return sample_of(lab, lab.describe().plan).links[0]


def test_a_link_has_its_traffic_and_its_state() -> None:
    with running() as name, Lab.attach(name) as lab:
        before = link_of(lab)
        output(lab, "client", "ping", "-c3", "-i0.01", "server")
        after = link_of(lab)
        assert before.near is not None
        assert after.near is not None
        assert after.far is not None
        assert after.near.sent_packets - before.near.sent_packets >= 3
        assert after.far.sent_packets >= 3
        plan = lab.describe().plan
        lab.apply(link_operations(lab, plan, [after.cable], "down"))
        assert not link_of(lab).is_up


def test_keys_are_characters_and_names_of_sequences() -> None:
    assert keys_in(b"q\x1b[A\x1b[6~\x1b[Zc") == ["q", "up", "pagedown", "backtab", "c"]
    assert keys_in(b"\x1b[15;2~x\x1b") == ["x"]


def test_without_a_terminal_an_error_names_other_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: False)
    with pytest.raises(InputError, match="labctl sockets"):
        top(None, None)


def test_a_person_cuts_a_link_and_heals_it_and_quits() -> None:
    with running() as name, Lab.attach(name) as lab:
        person = Person("top", name)
        try:
            person.sees("client:eth0 - server:eth0")
            person.type("\tc")
            person.sees("client:eth0 - server:eth0 is down")
            assert not link_of(lab).is_up
            person.type("c")
            person.sees("client:eth0 - server:eth0 is up")
            assert link_of(lab).is_up
            person.type("q")
            assert person.ends() == 0
            assert not person.is_raw()
        finally:
            person.close()


def test_the_end_of_the_lab_ends_the_screen() -> None:
    with running() as name:
        person = Person("top", name)
        try:
            person.sees("client:eth0 - server:eth0")
            with Lab.attach(name) as lab:
                lab.down(force=True)
            assert person.ends() == 0
        finally:
            person.close()
