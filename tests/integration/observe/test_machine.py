"""Findings about this machine, as `labctl doctor` prints them."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from labctl.errors import MachineError
from labctl.observe import machine
from tests.skips import for_root
from tests.tracing import without_library

pytestmark = pytest.mark.stock_kernel


def test_every_feature_is_probed_in_the_order_in_which_it_is_listed() -> None:
    findings = machine.probe_kernel()
    assert [finding.name for finding in findings] == list(machine.FEATURES)
    assert all(finding.works or (finding.problem and finding.remedy) for finding in findings)


@pytest.mark.parametrize("name", ["netem", "tbf", "htb", "fq_codel", "vlan", "vxlan"])
def test_a_probe_has_the_same_result_alone_and_after_the_others(name: str) -> None:
    together = {found: number for found, number, _ in machine._probe(*machine.FEATURES)}
    assert [number for _, number, _ in machine._probe(name)] == [together[name]]


def test_a_missing_queueing_discipline_is_reported_with_the_remedy_of_the_doctor() -> None:
    by_name = {finding.name: finding for finding in machine.probe_kernel()}
    for kind in ("netem", "tbf"):
        reason = machine.without_qdisc(kind)
        assert bool(reason) != by_name[kind].works
        assert reason.endswith(by_name[kind].remedy)


@for_root("ordinary users may not load BPF programs")
def test_a_library_that_cannot_be_loaded_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert machine.kernel_events().works
    for name, value in without_library("libbpf.so.1", tmp_path).items():
        monkeypatch.setenv(name, value)
    found = machine.kernel_events()
    assert (found.works, found.problem) == (False, "libbpf.so.1 is not installed")
    assert found.remedy == "Try: sudo apt-get install libbpf1"


def test_the_largest_lab_has_two_descriptors_a_node() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert machine.largest_lab().nodes <= (hard - 40) // 2


def test_a_probe_that_fails_reports_the_last_line_of_its_traceback() -> None:
    with pytest.raises(MachineError, match="the probe failed: ValueError: wrong"):
        machine._run("raise ValueError('wrong')")


def test_a_lab_of_two_hosts_is_made_and_used() -> None:
    assert machine.try_a_lab().works


def test_a_refused_connect_gets_no_hint_about_users() -> None:
    assert machine.hint_without_users("connect: Operation not permitted") == ""
