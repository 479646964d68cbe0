"""A running lab gets and loses access to the machine; a change that fails leaves it, and the machine, as they were."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from labctl.errors import KernelError, LabctlError, LabError
from labctl.kernel import cgroup
from labctl.kernel.cgroup import Controller
from labctl.lab.client.handle import Lab
from labctl.lab.client.late_access import with_access
from labctl.lab.protocol import Reconcile
from labctl.plan.operations import Plan, SetSysctl, plan_to_json
from labctl.structs import replace
from tests.integration.inside import inside
from tests.integration.machine import MACHINE4, NAT, Machine, connected, holds, plan_of
from tests.labs import output
from tests.patience import patient
from tests.skips import needs_feature, needs_programs

V4 = socket.AF_INET
WITHOUT = NAT.replace("{nat: true}", "{}")
REFUSED = SetSysctl("far", "net.core.nosuch", "1")


def broken(plan: Plan, node: str = "far") -> Plan:
    """The plan with an operation that the kernel refuses."""
    return replace(plan, operations=(*plan.operations, replace(REFUSED, node=node)))


def changed_and_failed(lab: Lab, plan: Plan) -> None:
    """Change the lab to that plan, and fail before that is committed."""
    with suppress(LabctlError), lab.changing():
        lab.reconcile(plan)
        raise LabError("a service did not start.")


@needs_programs("nft")
@inside
def test_a_running_lab_gets_and_loses_the_machines_network() -> None:
    with Machine() as machine:
        before = machine.state()
        with Lab.open(plan_of(WITHOUT)) as lab:
            server = machine.server(V4)
            output(lab, "far", "true")  # a host that runs programs gets the name servers, too
            for _ in range(2):
                with pytest.raises(OSError, match="unreachable"):
                    connected(lab, "far", server)
                lab.reconcile(plan_of(NAT))
                assert [connected(lab, node, server) for node in ("near", "far", "gw")] == [MACHINE4] * 3
                assert "name server" in output(lab, "far", "cat", "/etc/resolv.conf").splitlines()[0]
                lab.reconcile(plan_of(WITHOUT))
                assert "nat0" not in output(lab, "gw", "ip", "link")
        assert holds(lambda: machine.is_as(before))


@needs_programs("nft")
@inside
def test_a_change_to_nat_that_fails_leaves_lab_and_machine_as_they_were() -> None:
    with Machine() as machine:
        before = machine.state()
        with Lab.open(plan_of(WITHOUT)) as lab:
            with pytest.raises(KernelError):
                lab.reconcile(broken(plan_of(NAT)))
            assert holds(lambda: machine.is_as(before))
            assert "nat0" not in output(lab, "gw", "ip", "link")
        with Lab.open(plan_of(NAT)) as lab:
            changed_and_failed(lab, plan_of(WITHOUT))
            assert connected(lab, "far", machine.server(V4)) == MACHINE4
        assert holds(lambda: machine.is_as(before))


EXPOSED = "hosts: {a: %s, b: {}}\nlinks: [[a, b]]"


def plan_with(keys: str) -> Plan:
    return plan_of(EXPOSED % f"{{{keys}}}")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def echoes(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), patient(5)) as sock:
            sock.sendall(b"x")
            return sock.recv(1) == b"x"
    except OSError:
        return False


SERVER = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(100):
            self.request.sendall(data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("", 80), Echo).serve_forever()
"""


def test_a_running_lab_exposes_other_ports_and_keeps_connections_of_those_that_stay() -> None:
    first, second = free_ports(2)
    one, both = f'expose: ["127.0.0.1:{first}:80"]', f'expose: ["127.0.0.1:{first}:80", "127.0.0.1:{second}:80"]'
    with Lab.open(plan_with(one)) as lab:
        lab.spawn("a", ["python3", "-c", SERVER]).close()
        assert holds(lambda: echoes(first))
        with socket.create_connection(("127.0.0.1", first), patient(5)) as kept:
            lab.reconcile(plan_with(both))
            assert holds(lambda: echoes(second))
            changed_and_failed(lab, plan_with(""))
            assert holds(lambda: echoes(first) and echoes(second))
            kept.settimeout(patient(5))
        lab.reconcile(plan_with(one))
        assert echoes(first)
        assert not echoes(second)
        lab.reconcile(plan_with(""))
        assert not echoes(first)
        with socket.socket() as sock:  # it is free again
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", first))


def test_a_connection_lives_while_another_port_is_added() -> None:
    first, second = free_ports(2)
    with Lab.open(plan_with(f'expose: ["127.0.0.1:{first}:80"]')) as lab:
        lab.spawn("a", ["python3", "-c", SERVER]).close()
        assert holds(lambda: echoes(first))
        with socket.create_connection(("127.0.0.1", first), patient(5)) as kept:
            kept.sendall(b"1")
            assert kept.recv(1) == b"1"
            lab.reconcile(plan_with(f'expose: ["127.0.0.1:{first}:80", "127.0.0.1:{second}:80"]'))
            kept.sendall(b"2")
            assert kept.recv(1) == b"2"


def test_a_port_that_is_taken_leaves_the_lab_as_it_was() -> None:
    with Lab.open(plan_with("")) as lab, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        plan = plan_with(f'expose: ["127.0.0.1:{taken.getsockname()[1]}:80"]')
        with pytest.raises(LabctlError, match="cannot take the machine's port"):
            lab.reconcile(plan)
        assert lab.describe().plan.nodes[0].exposures == ()


def can_limit() -> bool:
    try:
        cgroup.find_parents([Controller.PIDS, Controller.CPU])
    except LabctlError:
        return False
    return True


@pytest.fixture
def no_group_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path))
    before = set(groups())
    yield
    assert holds(lambda: set(groups()) <= before)


def groups() -> list[str]:
    return [directory for directory, _, _ in os.walk("/sys/fs/cgroup") if "/labctl-" in directory]


@needs_feature("cgroup-pids", can_limit(), "no control group to be had")
@pytest.mark.usefixtures("no_group_is_left")
def test_limits_that_a_running_lab_gets_hold_for_programs_that_run() -> None:
    def value(file: str) -> set[str]:
        return {
            Path(one, file).read_text().strip()
            for one in groups()
            if one.endswith("/node-a") and Path(one, file).exists()
        }

    with Lab.open(plan_with("")) as lab:
        lab.spawn("a", ["sleep", "100"]).close()
        lab.reconcile(plan_with("limits: {pids: 20}"))
        assert value("pids.max") == {"20"}
        running = max(len(Path(one, "cgroup.procs").read_text().split()) for one in groups() if one.endswith("/node-a"))
        assert running == 2  # the host's init and sleep
        assert "/node-a" in output(lab, "a", "cat", "/proc/self/cgroup")
        with pytest.raises(KernelError):
            lab.reconcile(broken(plan_with("limits: {pids: 30, cpu: 50%}"), "a"))
        assert "20" in value("pids.max")
        lab.reconcile(plan_with("limits: {pids: 30, cpu: 50%}"))
        assert "30" in value("pids.max")
        assert output(lab, "a", "cat", "/proc/self/cgroup").count("/node-a") >= 1


def test_a_plan_without_new_access_needs_no_process() -> None:
    plan = plan_with("limits: {pids: 5}")
    request = Reconcile("lab", plan_to_json(plan), "")
    with ExitStack() as stack:
        assert with_access(request, "lab", plan, plan, stack) == (request, ())
