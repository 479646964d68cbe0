"""`Lab` as people use it: made, looked at, closed, forgotten, forked."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from labctl import ActivityKind, InputError, Lab, NotFound, ScenarioFailed, Topology, scenario
from labctl.documents import DocumentError
from labctl.scenario.results import Outcome
from labctl.topology.model import NodeKind
from tests.integration.machine import holds

WAIT_S = 20.0


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    with Lab("pair") as lab:
        yield lab


def test_the_three_lines_of_the_documentation() -> None:
    with Lab("pair") as lab:
        written = lab["client"].run(["ping", "-c1", "-w10", "server"]).stdout
    assert "1 received" in written or "1 packets received" in written


def test_hosts_are_in_file_order_and_switches_are_nodes_but_no_hosts() -> None:
    with Lab(Topology("office").host("z").host("a").network("lan", members=["z", "a"])) as lab:
        assert list(lab.hosts) == ["z", "a"]
        assert list(lab.nodes) == ["z", "a", "lan"]
        assert lab.nodes["lan"].kind is NodeKind.SWITCH
        assert lab["z"].run(["hostname"]).stdout == "z\n"
        assert lab["lan"].run(["ip", "-o", "link", "show", "br0"]).returncode == 0


def test_a_host_tells_its_addresses(pair: Lab) -> None:
    server = pair["server"]
    assert server.ipv4 == str(server.addresses[0]) == "10.0.0.2"
    assert server.ipv6 == "fd00::2"
    assert [interface.name for interface in server.interfaces] == ["eth0"]


def test_the_same_host_is_equal_and_is_kept_while_somebody_has_it(pair: Lab) -> None:
    server = pair["server"]
    assert pair["server"] is server
    assert pair.hosts["server"] == server != pair["client"]
    assert len({server, pair["server"]}) == 1


def test_an_unknown_name_is_a_key_error_that_suggests_the_near_miss(pair: Lab) -> None:
    with pytest.raises(KeyError, match="did you mean `server`"):
        pair["servr"]
    with pytest.raises(InputError, match="no node `servr`"):
        pair["servr"]
    with pytest.raises(NotFound, match="did you mean `server`"):
        pair["client"].connect("servr:80")


def test_every_host_reaches_every_other() -> None:
    with Lab("star:3") as lab:
        found = lab.ping()
        assert found
        assert len(found.tries) == 3 * 2 * 2
        assert "IPv4 6 of 6, IPv6 6 of 6" in str(found)
        assert found.reached("h1", "h3")
        assert {each.family for each in lab.ping(family=4).tries} == {"4"}


def test_a_large_ping_is_right_and_other_labs_keep_their_connections() -> None:
    """40 hosts: 1,560 neighbour entries in each family if they stayed, and the table of all labs has 1,024."""
    with Lab("star:40") as large, Lab("star:6") as other:
        failed: list[object] = []
        with ThreadPoolExecutor(1) as pool:
            done = threading.Event()
            watching = pool.submit(_connect_in_turn, other, done, failed)
            try:
                found = large.ping(every_pair=True)
            finally:
                done.set()
            rounds = watching.result(WAIT_S)
        entries = [large[host].run(["ip", "neigh"]).stdout for host in ("h1", "h40")]
    assert found
    assert (len(found.tries), found.is_sample) == (40 * 39 * 2, False)
    assert entries == ["", ""]
    assert (failed, rounds > 0) == ([], True)


def _connect_in_turn(lab: Lab, done: threading.Event, failed: list[object]) -> int:
    """New connections between all hosts, each with new neighbour entries, until `done`; how many rounds it was."""
    hosts = list(lab.hosts)
    rounds = 0
    while not done.is_set() or not rounds:
        for host, server in pairwise([*hosts, hosts[0]]):
            lab[host].run(["ip", "neigh", "flush", "dev", "eth0"])
            with lab[server].listen(7000) as listener:
                try:
                    lab[host].connect(f"{server}:7000", timeout_s=10.0).close()
                    listener.accept()[0].close()
                except OSError as error:
                    failed.append((host, server, error))
        rounds += 1
    return rounds


def test_a_link_that_is_down_is_reported_and_comes_up_again(pair: Lab) -> None:
    link = pair.link("client", "server")
    assert link.is_up
    link.down()
    try:
        assert not link.is_up
        found = pair.ping(timeout_s=0.05)
        assert not found
        assert len(found.failed) == 4
    finally:
        link.up()
    assert link.is_up
    assert pair.ping(timeout_s=WAIT_S)


def test_a_missing_link_is_reported_with_the_existing_links() -> None:
    with Lab(Topology().host("a").host("b").host("c").link("a", "b").link("a", "b").link("b", "c")) as lab:
        with pytest.raises(NotFound, match="no link between a and c"):
            lab.link("a", "c")
        with pytest.raises(ValueError, match="several links"):
            lab.link("a", "b")
        assert str(lab.link("a:eth1", "b")) == "a:eth1 - b:eth1"
        assert lab.link("c", "b") == lab.links[2]


def test_a_topology_file_makes_a_lab_and_its_mistakes_are_reported(tmp_path: Path) -> None:
    good = tmp_path / "two.yaml"
    good.write_text("hosts: {left: , right: }\nlinks: [[left, right]]\n")
    with Lab(good) as lab:
        assert list(lab.hosts) == ["left", "right"]
        assert lab.topology.to_yaml() == good.read_text()
    bad = tmp_path / "bad.yaml"
    bad.write_text("hosts: {left: {sysctl: {}}}\n")
    with pytest.raises(DocumentError, match="did you mean `sysctls`"):
        Lab(bad)
    with pytest.raises(InputError, match="did you mean `pair`"):
        Lab("pare")


def test_a_topology_that_a_lab_was_made_of_cannot_be_added_to() -> None:
    topology = Topology("two").host("a").host("b").link("a", "b")
    with Lab(topology) as lab:
        assert lab.topology is topology
        with pytest.raises(RuntimeError, match="cannot be changed"):
            topology.host("c")


def test_services_of_the_topology_run_when_the_lab_is_there() -> None:
    command = [sys.executable, "-m", "http.server", "8000", "--bind", "::"]
    service = {"web": {"run": command, "ready": {"listening": "tcp/8000"}}}
    with Lab(Topology().host("server", services=service).host("client").link("server", "client")) as lab:
        lab["client"].connect("server:8000").close()


def test_a_closed_lab_says_so() -> None:
    lab = Lab("pair")
    client, link = lab["client"], lab.link("client", "server")
    lab.close()
    lab.close()
    assert lab.closed
    assert repr(lab) == "<Lab pair, 2 nodes, 1 links, closed>"
    for use in (
        lambda: client.run(["true"]),
        lambda: client.start(["true"]),
        lambda: client.connect("server:80"),
        lambda: client.listen(),
        lambda: client.sockets(),
        lambda: client.read_text("/etc/hosts"),
        lambda: client.netns(),
        link.down,
        lab.ping,
        lab.__enter__,
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    assert "activity of its hosts" in lab.report()


def test_a_lab_that_nobody_refers_to_ends_with_a_warning() -> None:
    lab = Lab("pair")
    boot = lab._core.engine._boot
    held: list[object] = [lab, lab["server"].start(["sleep", "1000"])]  # whose output is watched by a thread
    del lab
    with pytest.warns(ResourceWarning, match="lab pair was not closed"):
        held.clear()
    gc.collect()
    assert boot.ended  # type: ignore[union-attr]


def test_a_lab_that_was_closed_ends_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Lab("pair").close()
        gc.collect()


def python(script: str, *, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """A program of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def test_a_lab_left_open_ends_with_the_interpreter_which_warns() -> None:
    ended = python(
        """
        import warnings
        warnings.simplefilter("always")
        from labctl import Lab
        lab = Lab("pair")
        program = lab["server"].start(["sleep", "1000"])
        print(lab["client"].run(["true"]).returncode)
        """
    )
    assert (ended.returncode, ended.stdout) == (0, "0\n")
    assert "ResourceWarning: lab pair was not closed" in ended.stderr


def test_ctrl_c_in_a_run_ends_the_program_and_leaves_the_lab_usable() -> None:
    with Lab("pair") as lab:
        main = threading.get_ident()

        def interrupt() -> None:
            deadline = threading.Event()
            for _ in range(2000):
                if "sleep\x00777" in lab["server"].run(["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null"]).stdout:
                    signal.pthread_kill(main, signal.SIGINT)
                    return
                deadline.wait(0.01)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            lab["server"].run(["sleep", "777"])
        thread.join()
        commands = ["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null"]
        assert holds(lambda: "sleep\x00777" not in lab["server"].run(commands).stdout, WAIT_S)


def test_a_forked_child_can_only_let_go_of_the_lab() -> None:
    ended = python(
        """
        import os, socket
        from labctl import Lab
        with Lab("pair") as lab:
            listener = lab["server"].listen(5000)
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    lab["client"].run(["true"])
                except RuntimeError as error:
                    assert "parent process" in str(error), error
                    connection, _ = listener.accept()  # sockets are the child's as well as the parent's
                    connection.sendall(b"child")
                    assert "process" in repr(lab)
                    lab.close()
                    status = 0
                finally:
                    os._exit(status)
            with lab["client"].connect("server:5000") as connection:
                print(connection.recv(5))
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            print(lab["client"].run(["echo", "still there"]).stdout)
        """
    )
    assert ended.stdout == "b'child'\n0\nstill there\n\n", ended
    assert ended.stderr == ""


def test_a_forked_child_that_exits_does_not_end_the_lab() -> None:
    ended = python(
        """
        import multiprocessing
        from labctl import Lab
        def work():
            pass
        with Lab("pair") as lab:
            child = multiprocessing.get_context("fork").Process(target=work)
            child.start(); child.join()
            print(child.exitcode, lab["client"].run(["true"]).returncode)
        """
    )
    assert (ended.stdout, ended.stderr) == ("0 0\n", "")


def test_twenty_threads_use_a_lab_at_once() -> None:
    lab = Lab("pair")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            host = lab["client" if number % 2 else "server"]
            assert host.run(["echo", str(number)]).stdout == f"{number}\n"
            with host.start(["sh", "-c", f"echo started {number}; exec sleep 1000"]) as program:
                program.wait_for_output(f"started {number}", timeout_s=WAIT_S)
            assert program.returncode == -signal.SIGTERM
        except BaseException as error:  # noqa: BLE001  # told by the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lab.close()
    assert failures == []


def test_a_lab_closed_by_another_thread_ends_a_run_with_a_runtime_error() -> None:
    lab = Lab("pair")
    program = lab["client"].start(["sh", "-c", "echo here; exec sleep 1000"])
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            lab["client"].run(["sleep", "1000"])
        except BaseException as error:  # noqa: BLE001  # looked at below
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    program.wait_for_output("here", timeout_s=WAIT_S)
    lab.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [RuntimeError], raised
    assert "ended with its lab" in repr(program)


def test_a_report_lists_activities_in_order_with_outputs_and_sockets(pair: Lab) -> None:
    with Lab("pair") as lab:
        lab["server"].run(["sh", "-c", "echo out; echo err >&2; exit 3"])
        with lab["server"].listen(5000), lab["client"].connect("server:5000"):
            with pytest.raises(ConnectionRefusedError):
                lab["client"].connect("server:81")
            report = lab.report()
        kinds = [f"{each.host} {each.kind}" for each in lab.activity()]
    assert kinds == ["server run", "server listen", "client connect", "client connect"]
    for expected in ("exited with status 3", "stdout: out", "stderr: err", "ECONNREFUSED", "LISTEN", "ESTABLISHED"):
        assert expected in report
    assert [each.outcome for each in lab.activity()][-1] == "ECONNREFUSED"


def test_a_running_lab_is_attached_to_and_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("LABCTL_STATE_DIR", str(state))
    command = [sys.executable, "-m", "labctl"]
    subprocess.run([*command, "up", "pair", "--name", "kept"], check=True, capture_output=True, timeout=60)
    try:
        with Lab.attach("kept") as lab:
            assert (lab.name, list(lab.hosts)) == ("kept", ["client", "server"])
            assert lab.ping(timeout_s=WAIT_S)
            lab["client"].listen().close()
        with Lab.attach() as again:
            assert again["client"].run(["true"])
        with pytest.raises(InputError, match="No lab named"):
            Lab.attach("other")
    finally:
        subprocess.run([*command, "down", "kept"], check=True, capture_output=True, timeout=60)


def test_files_of_a_host_are_its_own(pair: Lab) -> None:
    server, client = pair["server"], pair["client"]
    server.write_text("/tmp/note", "hällo\n")
    assert server.read_text("/tmp/note") == server.run(["cat", "/tmp/note"]).stdout == "hällo\n"
    with pytest.raises(FileNotFoundError, match="host client: cannot open /tmp/note"):
        client.read_text("/tmp/note")
    with server.open("/tmp/note", "ab") as file:
        file.write(b"more")
    with server.open("/tmp/note", "rb") as file:
        assert file.read() == "hällo\nmore".encode()
    with pytest.raises(FileExistsError):
        server.open("/tmp/note", "x")
    with pytest.raises(ValueError, match="mode"):
        server.open("/tmp/note", "rw")
    assert not os.path.exists("/tmp/note")


LISTEN = """
name: a listener and a program
topology: star:2
steps:
  - server: |
      s = socket(AF_INET, SOCK_STREAM)
      bind(s, "server:5000")
      listen(s, 1)
  - start: {on: server, run: [sleep, "4321"], name: sleeper}
  - run: {on: client, run: [echo, hello]}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab("pair", visible_paths=[tmp_path_factory.getbasetemp()]) as lab:
        lab["server"].run(["true"])
        yield lab


@pytest.fixture
def listen(tmp_path: Path) -> Path:
    path = tmp_path / "listen.scenario.yaml"
    path.write_text(LISTEN)
    return path


def processes(lab: Lab) -> str:
    return lab["server"].run(["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null"]).stdout.replace("\x00", " ")


def test_what_it_started_and_opened_is_held_until_the_block_ends(lab: Lab, listen: Path) -> None:
    with lab.scenario(listen) as run:
        assert run.result.outcome is Outcome.PASSED
        assert [call.call for call in run.calls][-1] == "listen(3, 1)"
        lab["client"].connect("server:5000").close()
        assert "sleep 4321" in processes(lab)
    assert "sleep 4321" not in processes(lab)
    with pytest.raises(ConnectionRefusedError):
        lab["client"].connect("server:5000")


def test_a_scenario_that_was_loaded_is_taken(lab: Lab, listen: Path) -> None:
    loaded = scenario.load(listen, topology="pair")
    with lab.scenario(loaded) as run:
        assert "a listener" in repr(run)


def test_a_scenario_that_fails_raises_with_its_result_and_is_undone(lab: Lab, listen: Path) -> None:
    listen.write_text(LISTEN + "  - expect: {on: server, listening: tcp/81, within: 50ms}\n")
    with pytest.raises(ScenarioFailed, match="tcp/81") as caught, lab.scenario(listen):
        pytest.fail("it did not fail")
    assert caught.value.result.outcome is Outcome.FAILED
    assert len(caught.value.result.steps) == 4
    assert "sleep 4321" not in processes(lab)
    report = lab.report()
    assert "bind(3, {AF_INET, 10.0.0.2:5000}, 16)" in report
    assert "sockets when scenario a listener and a program had failed" in report
    assert "LISTEN" in report


def test_a_scenario_that_does_not_fit_the_lab_is_refused_before_it_runs(lab: Lab, listen: Path) -> None:
    listen.write_text(LISTEN.replace("on: client", "on: h1"))
    with pytest.raises(DocumentError, match="h1"), lab.scenario(listen):
        pytest.fail("it ran")


def test_what_a_scenario_requires_and_is_not_there_skips_it(lab: Lab, listen: Path) -> None:
    listen.write_text(LISTEN.replace("steps:", "requires: {programs: [nonesuch]}\nsteps:"))
    with pytest.raises(ScenarioFailed, match="nonesuch") as caught, lab.scenario(listen):
        pytest.fail("it ran")
    assert caught.value.result.outcome is Outcome.SKIPPED


def test_links_are_as_they_were_after_the_block(lab: Lab, listen: Path) -> None:
    listen.write_text(LISTEN + "  - link: {down: [client, server]}\n")
    with lab.scenario(listen):
        assert not lab.link("client", "server").is_up
    assert lab.link("client", "server").is_up


def test_it_is_run_once(lab: Lab, listen: Path) -> None:
    run = lab.scenario(listen)
    with pytest.raises(RuntimeError, match="with"):
        _ = run.result
    with run:
        pass
    with pytest.raises(RuntimeError, match="already"), run:
        pass


def test_its_calls_are_in_the_activity_in_order(listen: Path) -> None:
    with Lab("pair", visible_paths=[listen.parent]) as lab:
        before = lab["client"].run(["true"])
        with lab.scenario(listen):
            lab["client"].connect("server:5000").close()
        done = lab.activity()
    assert before
    calls = [each.what for each in done if each.kind is ActivityKind.CALL]
    assert [call.partition("(")[0] for call in calls] == ["socket", "bind", "listen"]
    assert done[0].what == "true"
    assert done[-1].kind is ActivityKind.CONNECT
    assert all(each.started_s >= 0 for each in done)


def test_invalid_values_of_a_link_are_refused(lab: Lab) -> None:
    link = lab.link("client", "server")
    with pytest.raises(ValueError, match="`soon` is not a delay"):
        link.set(delay="soon")
    with pytest.raises(KeyError, match="is not an end of it"):
        link.set(delay="1ms", sender="other")
