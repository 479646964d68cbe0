"""Faults in labs on the real kernel: what they take away, that it comes back exactly, and with whom they end."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from labctl import topology
from labctl.errors import InputError
from labctl.kernel import notifications
from labctl.lab.client.handle import Lab
from labctl.lab.keeper.fault_table import FaultTable
from labctl.observe import network
from labctl.observe.inspect import inspect, read_node
from labctl.observe.ping import choose_pairs, ping_pairs
from labctl.plan.build import build
from labctl.plan.fault_effects import FaultPlan
from labctl.plan.faults import read
from labctl.topology.model import Topology
from tests.integration.detached import WAIT_S, becomes, running
from tests.integration.nat_probe import Endpoint

STAR = topology.load("star:3")
LINE = topology.load("line:1")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab.open(build(STAR)) as lab:
        yield lab


def begin(lab: Lab, kind: str, value: object, of: Topology = STAR, **options: object) -> int:
    return lab.begin_fault(read(kind, value).plan(of), **options)  # type: ignore[arg-type]  # the options of a test


def reached(lab: Lab, *nodes: str) -> set[str]:
    """The pairs of these nodes that reach each other in both families."""
    plan = lab.describe().plan
    tried = ping_pairs(lab, plan, choose_pairs(plan, list(nodes), every_pair=True), deadline_s=0.15)
    failed = {(each.source, each.target) for each in tried if each.problem}
    return {f"{each.source}>{each.target}" for each in tried if (each.source, each.target) not in failed}


def state(lab: Lab, of: Topology) -> list[tuple[str, list[str], list[str]]]:
    """All addresses and routes, node by node."""
    found = ((node.name, read_node(lab, node.name)) for node in of.nodes)
    return [(name, sorted(map(str, one.addresses)), sorted(map(str, one.routes))) for name, one in found]


ALL = {f"{a}>{b}" for a in ("h1", "h2", "h3") for b in ("h1", "h2", "h3") if a != b}


@pytest.mark.parametrize(
    ("kind", "value", "left"),
    [
        ("partition", [["h1"], ["h2", "h3"]], {"h2>h3", "h3>h2"}),
        ("partition", [["h1"], ["h2"]], ALL - {"h1>h2", "h2>h1"}),
        ("partition", "h1", {"h2>h3", "h3>h2"}),
        ("isolate", "h3", {"h1>h2", "h2>h1"}),
        ("down", ["h3", "s1"], {"h1>h2", "h2>h1"}),
        ("blackhole", {"to": "h2", "on": "h1"}, ALL - {"h1>h2", "h2>h1"}),
        ("remove_address", {"on": "h3", "address": "10.0.0.3"}, {"h1>h2", "h2>h1"}),
    ],
)
def test_a_fault_cuts_what_it_names_and_healing_gives_it_back(
    lab: Lab, kind: str, value: object, left: set[str]
) -> None:
    before = state(lab, STAR)
    number = begin(lab, kind, value)
    assert becomes(lambda: reached(lab, "h1", "h2", "h3") == left)
    assert lab.heal([number]) == 1
    assert state(lab, STAR) == before
    assert becomes(lambda: reached(lab, "h1", "h2", "h3") == ALL)
    assert not lab.describe().faults


def test_a_partition_holds_across_routers() -> None:
    with Lab.open(build(LINE)) as lab:
        number = begin(lab, "partition", [["h1"], ["h2"]], LINE)
        assert reached(lab, "h1", "h2") == set()
        assert becomes(lambda: reached(lab, "h1", "r1") == {"h1>r1", "r1>h1"})
        lab.heal([number])
        assert becomes(lambda: reached(lab, "h1", "h2") == {"h1>h2", "h2>h1"})


def test_one_way_loses_one_direction_only(lab: Lab) -> None:
    begin(lab, "partition", {"from": "h1", "to": "h2"})
    receive = "import socket; s=socket.socket(type=socket.SOCK_DGRAM); s.bind(('',5000)); print(s.recv(9), flush=True)"
    send = (  # again, as a busy machine loses datagrams
        "import socket, time; s=socket.socket(type=socket.SOCK_DGRAM)\n"
        "while True: s.sendto(b'x',('{}',5000)); time.sleep(0.2)"
    )
    for node in ("h1", "h2"):
        lab.start_process(node, [sys.executable, "-c", receive], name="receive")
    assert becomes(lambda: all(_has_udp(lab, node) for node in ("h1", "h2")))
    for node, to in (("h1", "10.0.0.2"), ("h2", "10.0.0.1")):
        lab.start_process(node, [sys.executable, "-c", send.format(to)], name="send")
    assert becomes(lambda: b"b'x'" in lab.read_log("h1", "receive"))
    assert lab.read_log("h2", "receive") == b""


def _has_udp(lab: Lab, node: str) -> bool:
    return any(one.transport is network.Transport.UDP for one in network.sockets(lab, node))


def test_routes_are_given_back_exactly() -> None:
    with Lab.open(build(LINE)) as lab:
        before = state(lab, LINE)
        for kind, value in (
            ("remove_route", {"on": "h1", "to": "default"}),
            ("remove_route", {"on": "h1", "to": "h2"}),
            ("remove_address", {"on": "r1", "address": str(next(iter(LINE.node("r1").addresses)))}),
            ("mtu", {"link": ["h1", "r1"], "to": 1000}),
            ("down", ["h1", "r1"]),
        ):
            number = begin(lab, kind, value, LINE)
            lab.heal([number])
            assert becomes(lambda: state(lab, LINE) == before), kind


def test_faults_on_one_link_add_up(lab: Lab) -> None:
    first, second = begin(lab, "down", ["h1", "s1"]), begin(lab, "down", ["h1", "s1"])
    assert [each.number for each in lab.describe().faults] == [first, second]
    lab.heal([first])
    assert not is_up(lab, "s1", "h1")
    lab.heal([second])
    assert is_up(lab, "s1", "h1")
    low, lower = (begin(lab, "mtu", {"link": ["h1", "s1"], "to": mtu}) for mtu in (1400, 1300))
    assert mtu_of(lab, "h1", "eth0") == 1300
    lab.heal([low])
    assert mtu_of(lab, "h1", "eth0") == 1300
    lab.heal([lower])
    assert mtu_of(lab, "h1", "eth0") == 1500


def is_up(lab: Lab, node: str, ifname: str) -> bool:
    return any(link.up for link in network.links(lab, node) if link.name == ifname)


def mtu_of(lab: Lab, node: str, ifname: str) -> int:
    return next(link.mtu for link in network.links(lab, node) if link.name == ifname)


def test_a_flap_ends_after_its_times_with_the_link_up(lab: Lab) -> None:
    (index,) = (link.index for link in network.links(lab, "s1") if link.name == "h1")
    with lab.socket("s1", socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        notifications.subscribe(sock)
        sock.settimeout(30)
        number = begin(lab, "flap", {"link": ["h1", "s1"], "period": "40ms", "times": 2})
        states = [True]
        while states.count(False) < 2 or not states[-1]:
            states += [up for up in link_states(sock.recv(65536), index) if up != states[-1]]
    assert states == [True, False, True, False, True]
    lab.heal([number])
    assert is_up(lab, "s1", "h1")
    assert becomes(lambda: reached(lab, "h1", "h2") == {"h1>h2", "h2>h1"})


def link_states(datagram: bytes, index: int) -> Iterator[bool]:
    """Whether the interface is up, by each RTM_NEWLINK about it (rtnetlink(7))."""
    while len(datagram) >= 32:
        length, kind = struct.unpack_from("=IH", datagram)
        about, flags = struct.unpack_from("=iI", datagram, 20)
        if (kind, about) == (16, index):
            yield bool(flags & 1)  # IFF_UP
        datagram = datagram[(length + 3) & ~3 :]


def test_a_name_is_hidden_from_programs_before_and_after_the_first(lab: Lab) -> None:
    number = begin(lab, "dns", {"name": "h2", "on": ["h1", "h3"]})
    assert "h2" not in hosts(lab, "h1")  # its first program
    assert "h2" in hosts(lab, "h2")
    lab.heal([number])
    assert "h2" in hosts(lab, "h1")
    begin(lab, "dns", "h2")
    assert "h2" not in hosts(lab, "h1")
    assert "h3" in hosts(lab, "h1")


def hosts(lab: Lab, node: str) -> str:
    process = lab.spawn(node, ["true"])
    process.wait(10)
    process.close()
    with open(lab.open_file(node, "/etc/hosts")) as file:
        return file.read()


def test_a_program_is_paused_continued_killed_and_started_again(lab: Lab) -> None:
    info = lab.start_process("h1", ["sleep", "60"], name="nap")
    number = begin(lab, "pause", "h1/nap")
    assert becomes(lambda: kernel_state(lab, info.pid) == "T")
    lab.heal([number])
    assert becomes(lambda: kernel_state(lab, info.pid) == "S")
    number = begin(lab, "kill", "h1/nap")
    assert becomes(lambda: lab.processes()[0].state == "ended")
    lab.heal([number])
    assert lab.processes()[0].state == "running"
    assert lab.processes()[0].pid != info.pid
    with pytest.raises(InputError, match=r"no program nop runs there\. Running: nap"):
        begin(lab, "pause", "h1/nop")


def kernel_state(lab: Lab, pid: int) -> str:
    with open(lab.open_file("h1", f"/proc/{pid}/stat")) as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_fault_that_cannot_begin_leaves_nothing(lab: Lab) -> None:
    before = state(lab, STAR)
    cut, pause = read("down", ["h1", "s1"]).plan(STAR), read("pause", "h2/web").plan(STAR)
    with pytest.raises(InputError, match=r"h1: has no address 10\.9\.9\.9"):
        begin(lab, "remove_address", {"on": "h1", "address": "10.9.9.9"})
    with pytest.raises(InputError, match=r"h2: no program web runs there\. Running: none"):
        lab.begin_fault(FaultPlan("all", "all", (), (*cut.effects, *pause.effects)))
    assert not lab.describe().faults
    assert state(lab, STAR) == before


def test_names_and_numbers_select_what_is_healed(lab: Lab) -> None:
    begin(lab, "isolate", "h1", name="first")
    second = begin(lab, "isolate", "h2", name="second")
    with pytest.raises(InputError, match="a fault of that name is in force"):
        begin(lab, "isolate", "h3", name="first")
    assert lab.heal(names=["first"]) == 1
    assert [each.name for each in lab.describe().faults] == ["second"]
    assert lab.heal([second]) == 1
    assert lab.heal([second]) == 0
    assert lab.heal() == 0


def test_a_fault_ends_after_its_duration(lab: Lab) -> None:
    begin(lab, "isolate", "h1", duration_s=2.0)
    assert lab.describe().faults[0].duration_s == 2.0
    assert becomes(lambda: not lab.describe().faults)
    assert becomes(lambda: reached(lab, "h1", "h2") == {"h1>h2", "h2>h1"})


def test_an_owned_fault_ends_with_its_client_and_others_stay() -> None:
    with running(build(STAR)) as name, Lab.attach(name) as watcher:
        code = (
            "import sys,time; from labctl import topology; from labctl.lab.client.handle import Lab\n"
            "from labctl.plan.faults import read\n"
            f"lab = Lab.attach({name!r})\n"
            "for node, owned in (('h1', True), ('h2', False)):\n"
            "    lab.begin_fault(read('isolate', node).plan(topology.load('star:3')), is_owned=owned)\n"
            "print('ready', flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
            assert [each.text for each in watcher.describe().faults] == ["isolate h1", "isolate h2"]
            os.kill(client.pid, signal.SIGKILL)
        assert becomes(lambda: [each.text for each in watcher.describe().faults] == ["isolate h2"])


def test_another_plan_ends_all_faults() -> None:
    with running(build(STAR)) as name, Lab.attach(name) as lab:
        for kind, value in (("isolate", "h1"), ("down", ["h2", "s1"]), ("dns", "h3")):
            begin(lab, kind, value, is_owned=False)
        larger = build(topology.load("star:4"))
        lab.reconcile(larger)
        assert not lab.describe().faults
        assert not inspect(lab, name, lab.describe().plan).differs
        assert becomes(lambda: len(reached(lab, "h1", "h2", "h4")) == 6)


def test_a_keeper_imports_the_table_with_its_first_fault() -> None:
    code = f"import sys, labctl.lab.keeper.keeper; print({FaultTable.__module__!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_history_of_faults_has_their_moments_in_order(lab: Lab) -> None:
    cut = begin(lab, "isolate", "h1", is_owned=False)
    with pytest.raises(InputError):
        begin(lab, "remove_address", {"on": "h1", "address": "10.9.9.9"})  # it leaves no moment
    lab.heal([cut])
    flap = begin(lab, "flap", {"link": ["h1", "s1"], "period": "20ms", "times": 1})
    becomes(lambda: [each.state for each in lab.fault_moments(2)] == ["begun", "down", "up"])
    lab.heal([flap])
    moments = lab.fault_moments()
    assert [(each.seq, each.state, each.nodes) for each in moments[:2]] == [
        (1, "begun", ("h1",)),
        (2, "healed", ("h1",)),
    ]
    assert [each.state for each in moments[2:]] == ["begun", "down", "up", "healed"]
    assert [each.at_ns for each in moments] == sorted(each.at_ns for each in moments)
    assert lab.fault_moments(moments[-1].seq) == ()


def test_a_blackhole_of_a_port_takes_only_packets_to_it(lab: Lab) -> None:
    with ExitStack() as stack:
        name_server, other, sender = (
            Endpoint(lab, node, port, stack) for node, port in (("h2", 5353), ("h2", 5354), ("h1", 0))
        )
        number = begin(lab, "blackhole", {"to": "h2", "port": "udp/5353"})
        sender.sock.sendto(b"lost", ("10.0.0.2", 5353))
        assert sender.delivers(b"arrives", ("10.0.0.2", 5354), other, WAIT_S)
        lab.heal([number])
        assert sender.delivers(b"healed", ("10.0.0.2", 5353), name_server, WAIT_S)
        assert name_server.first == b"healed"
