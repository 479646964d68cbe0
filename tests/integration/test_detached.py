"""Labs that stay: they are found, used by many at once, and gone when they are ended, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl import topology
from labctl.errors import DeadlineExceeded, InputError, KernelError, LabError, LabGone
from labctl.lab.client import registry, state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.client.lab_directory import NETNS_DIRECTORY, making
from labctl.lab.protocol import HEADER, Channel, Describe, Hello, encode
from labctl.plan.build import build
from labctl.plan.operations import Plan, SetSysctl
from labctl.structs import replace
from tests.integration.detached import (
    WAIT_S,
    becomes,
    boot_of,
    keeper_of,
    name_of_lab,
    python,
    raw_connection,
    running,
    state_of,
)
from tests.labs import output, pair_plan, run, shell
from tests.skips import for_root

root_only = for_root("names on the machine")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "state"
    monkeypatch.setenv("LABCTL_STATE_DIR", str(directory))
    yield directory
    if directory.exists():
        assert os.listdir(directory) == []


def test_a_lab_stays_when_the_handle_that_made_it_is_closed(state: Path) -> None:
    with running() as name:
        assert state_dir.labs() == [name]
        with Lab.attach(name) as lab:
            assert lab.nodes == ("client", "server")
            assert output(lab, "server", "hostname") == "server\n"
        with Lab.attach() as lab:
            assert shell(lab, "client", "ping -c1 -W5 10.0.0.2 >/dev/null && echo there") == "there\n"
    assert state_dir.labs() == []


def test_a_lab_outlives_the_process_that_made_it(state: Path) -> None:
    name = name_of_lab()
    script = (
        "import sys; from labctl.lab.client.handle import Lab; from tests.labs import pair_plan\n"
        "lab = Lab.up(pair_plan(), sys.argv[1]); lab.stay()"
    )
    with python(script, name) as process:
        assert process.wait(WAIT_S) == 0
    with Lab.attach(name) as lab:
        keeper = lab.describe().keeper_pid
        assert os.getsid(keeper) == os.getsid(boot_of(keeper)) != os.getsid(0)
        assert os.readlink(f"/proc/{keeper}/fd/1") == "/dev/null"
        lab.down()
    assert not Path(f"/proc/{keeper}").exists()


def test_a_lab_that_is_never_told_to_stay_ends_with_its_handle(state: Path) -> None:
    with Lab.up(pair_plan(), name_of_lab()) as lab:
        assert output(lab, "server", "hostname") == "server\n"
        assert state_dir.labs() == []
    assert os.listdir(state) == []


def test_a_description_tells_what_the_lab_is() -> None:
    with running() as name, Lab.attach(name) as lab:
        output(lab, "server", "true")
        told = lab.describe()
        assert (told.name, told.topology, told.uid, told.source) == (name, "pair", os.geteuid(), "pair")
        assert told.plan == pair_plan()
        assert told.rootless == (os.geteuid() != 0)
        assert [(node.name, node.kind, bool(node.init_pid)) for node in told.nodes] == [
            ("client", "host", False),
            ("server", "host", True),
        ]
        assert Path(f"/proc/{told.nodes[1].init_pid}/comm").read_text() == "labctl-init\n"
        assert abs(told.started_at - time.time()) < 60


def test_a_name_in_use_is_told_with_what_to_do() -> None:
    with running() as name:
        with pytest.raises(InputError, match=rf"lab {name}: is running already.*reconciles.*--name.*labctl down"):
            Lab.up(pair_plan(), name)
        assert state_dir.labs() == [name]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-o", "x" * 33, "a b", "1"])
def test_a_bad_name_is_refused_before_anything_is_made(name: str, state: Path) -> None:
    with pytest.raises(InputError):
        Lab.up(pair_plan(), name)
    with pytest.raises(InputError):
        Lab.attach(name)
    with pytest.raises(InputError):
        registry.take_down(name)
    assert not state.exists() or os.listdir(state) == []


def test_a_lab_that_cannot_be_built_leaves_nothing_and_the_name_is_free(state: Path) -> None:
    from labctl.plan.operations import SetUp

    name = name_of_lab()
    with pytest.raises(KernelError, match="server:eth0"):
        Lab.up(pair_plan(more=[*pair_plan().operations[2:3]]), name)
    assert os.listdir(state) == []
    with running(pair_plan(more=[SetUp("server", "eth0")]), name):
        assert state_dir.labs() == [name]


def test_choosing_names_the_choices() -> None:
    with pytest.raises(InputError, match="No lab is running"):
        registry.choose(None)
    one, other = name_of_lab(), f"{name_of_lab()}b"
    with running(name=one):
        assert registry.choose(None) == one
        with running(name=other):
            with pytest.raises(InputError, match=f"{one}, {other}"):
                registry.choose(None)
            assert registry.choose(other) == other
            with pytest.raises(InputError, match=f"none of that name. Running: {one}, {other}"):
                registry.choose("nosuch")


def test_a_lab_that_is_not_there_cannot_be_reached_or_ended() -> None:
    for attempt in (Lab.attach, registry.take_down):
        with pytest.raises(InputError, match="none of that name"):
            attempt("nosuch")


def test_two_clients_have_their_own_answers_and_programs() -> None:
    with running() as name, Lab.attach(name) as one, Lab.attach(name) as other:
        sleeping = one.spawn("server", ["sleep", "1000"])
        assert output(other, "server", "echo", "x") == "x\n"
        assert [each.argv for each in other.processes()] == [("sleep", "1000")]
        one.close()
        assert becomes(lambda: not other.processes())
        sleeping.close()


def test_what_a_client_that_went_away_had_started_is_hung_up_and_then_killed() -> None:
    with running() as name, Lab.attach(name) as watcher:
        with Lab.attach(name) as lab:
            reading, writing = os.pipe()
            for script in (
                "trap 'exit 0' HUP; echo; while :; do sleep 1; done",
                "trap '' HUP; echo; sleep 1000 & wait",
            ):
                lab.spawn("server", ["sh", "-c", script], stdout=writing).close()
            os.close(writing)
            said = b""
            while said.count(b"\n") < 2:  # both have set their traps
                said += os.read(reading, 2)
            going_at = time.monotonic()
        assert becomes(lambda: not watcher.processes())
        assert time.monotonic() - going_at > 0.9
        with os.fdopen(reading, "rb") as file:
            file.read()  # ends: nobody has the other end any more, the sleep in the background neither


def test_200_clients_at_once_are_all_served() -> None:
    script = (
        "import sys; from labctl.lab.client.handle import Lab\n"
        "labs = [Lab.attach(sys.argv[1]) for _ in range(50)]\n"
        "started = [lab.spawn('server', ['sh', '-c', 'exit 7']) for lab in labs]\n"
        "assert [process.wait(60) for process in started] == [7] * 50"
    )
    with running() as name:
        clients = [python(script, name) for _ in range(4)]
        for client in clients:
            with client:
                out, _ = client.communicate(timeout=120)
                assert client.returncode == 0, out


def test_half_a_request_keeps_nobody_waiting() -> None:
    with running() as name, raw_connection(name) as half, Lab.attach(name) as lab:
        half.send(HEADER.pack(1000, 1, 0) + b"[")
        with raw_connection(name) as header:
            header.send(b"\1\2")
            assert output(lab, "server", "echo", "x") == "x\n"


def test_a_client_that_does_not_read_keeps_nobody_waiting() -> None:
    with running() as name, raw_connection(name) as deaf, Lab.attach(name) as lab:
        body = encode(Describe())
        request = HEADER.pack(len(body), 1, 0) + body
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.send(request * 100)
        assert output(lab, "server", "echo", "x") == "x\n"


def test_the_request_of_an_owner_is_no_request_to_a_keeper_that_runs() -> None:
    with running() as name:
        keeper = keeper_of(name)
        before = len(os.listdir(f"/proc/{keeper}/fd"))
        for _ in range(20):
            with raw_connection(name) as sock:
                channel = Channel(sock)
                channel.send(1, Hello(0), [0, 1, 2], until=time.monotonic() + WAIT_S)
                assert channel.receive(until=time.monotonic() + WAIT_S)
        assert becomes(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= before)


@root_only
def test_another_user_is_not_let_in(state: Path) -> None:
    with running() as name:
        for directory in (state / name, state, *state.parents):  # the door is opened, for the guard to be seen
            if directory.stat().st_uid == os.geteuid() and not directory.stat().st_mode & 0o001:
                directory.chmod(0o711)
        (state / name / "socket").chmod(0o666)
        script = (
            "import socket, sys\nsock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1]); print(sock.recv(10))"
        )
        asked = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(state / name / "socket")],
            user=12345,
            group=12345,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert asked.stdout == "b''\n" or "ConnectionReset" in asked.stderr, asked
        state.chmod(0o700)


def test_a_program_of_the_lab_cannot_reach_its_keeper(state: Path) -> None:
    with running() as name, Lab.attach(name) as lab:
        assert run(lab, "server", "ls", str(state / name / "socket")).status != 0
        # Even through a descriptor that leads there, which a program would have to be given by its owner.
        script = (
            "import os, socket\n"
            "sock = socket.socket(socket.AF_UNIX); sock.connect('/proc/self/fd/5/socket')\n"
            "try: print(sock.recv(10))\n"
            "except ConnectionResetError: print(b'')\n"
        )
        directory = os.open(state / name, os.O_PATH)
        result = os.memfd_create("result")
        process = lab.spawn(
            "server",
            ["sh", "-c", 'exec 5<&0 </dev/null python3 -c "$0"', script],
            stdin=directory,
            stdout=result,
            stderr=result,
        )
        assert (process.wait(WAIT_S), os.pread(result, 1000, 0)) == (0, b"b''\n")
        process.close()
        os.close(directory)
        os.close(result)


def test_a_state_directory_that_others_can_use_is_refused(state: Path) -> None:
    state.mkdir(mode=0o700)
    state.chmod(0o755)
    with pytest.raises(LabError, match=r"mode 755.*yours alone"):
        state_dir.labs()
    state.rmdir()
    state.symlink_to(state.parent)
    with pytest.raises(LabError, match="symbolic link"):
        state_dir.labs()
    state.unlink()
    state.write_text("")
    with pytest.raises(LabError, match="is no directory"):
        state_dir.labs()
    state.unlink()


def test_the_state_directory_is_private(state: Path) -> None:
    with running() as name:
        for path in (state, state / name, state / name / "logs"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.stock_kernel
@root_only
def test_names_of_the_nodes_work_with_ip() -> None:
    def ip(*argv: str) -> str:
        ended = subprocess.run(["ip", *argv], capture_output=True, text=True, timeout=WAIT_S, check=True)
        return ended.stdout

    with running() as name:
        assert {f"{name}-client", f"{name}-server"} <= {line.split()[0] for line in ip("netns", "list").splitlines()}
        assert "10.0.0.2" in ip("-n", f"{name}-server", "-br", "address")
        assert "10.0.0.1" in ip("netns", "exec", f"{name}-client", "ip", "-br", "address")
    assert not [each for each in os.listdir(NETNS_DIRECTORY) if each.startswith(name)]


@root_only
def test_a_name_that_is_somebody_elses_is_not_taken(state: Path) -> None:
    name = name_of_lab()
    path = Path(NETNS_DIRECTORY) / f"{name}-server"
    path.touch()
    try:
        with (
            pytest.raises(KernelError, match=rf"cannot make {path}: EEXIST.*ip netns list.*--name"),
            Lab.up(pair_plan(), name) as lab,
        ):
            lab.stay()
        assert path.exists()
        assert not (Path(NETNS_DIRECTORY) / f"{name}-client").is_symlink()
    finally:
        path.unlink()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("stopped", ["keeper", "boot", "both"])
def test_a_stopped_lab_is_told_and_can_be_ended(stopped: str, force: bool) -> None:
    with running() as name:
        keeper = keeper_of(name)
        boot = boot_of(keeper)
        for pid in {"keeper": [keeper], "boot": [boot], "both": [keeper, boot]}[stopped]:
            os.kill(pid, signal.SIGSTOP)
        if stopped != "boot":
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded, match=f"labctl down --force {name}"):
                Lab.attach(name, deadline_s=0.2)
            assert time.monotonic() - began < 10
        registry.take_down(name, force=force, deadline_s=4.0)
        assert state_dir.labs() == []
        assert {state_of(keeper), state_of(boot)} <= {"", "Z"}


def test_when_the_keeper_is_killed_nothing_is_left(state: Path) -> None:
    with running() as name, Lab.attach(name) as lab:
        os.kill(keeper_of(name), signal.SIGKILL)
        with pytest.raises(LabGone):
            output(lab, "server", "true")
        assert becomes(lambda: os.listdir(state) == [])
        with pytest.raises(InputError, match="none of that name"):
            Lab.attach(name)


@pytest.mark.stock_kernel
def test_when_boot_is_killed_the_next_command_sweeps(state: Path) -> None:
    with running() as name:
        keeper = keeper_of(name)
        os.kill(boot_of(keeper), signal.SIGKILL)
        assert becomes(lambda: not state_dir.labs())
        swept = registry.sweep()
        assert str(state / name) in swept
        if os.geteuid() == 0:
            assert f"{NETNS_DIRECTORY}/{name}-server" in swept
        assert os.listdir(state) == []
        assert registry.sweep() == []


def test_a_new_lab_takes_the_place_of_one_that_was_killed(state: Path) -> None:
    with running() as name:
        os.kill(boot_of(keeper_of(name)), signal.SIGKILL)
        assert becomes(lambda: not state_dir.labs())
        with running(name=name), Lab.attach(name) as lab:
            assert output(lab, "server", "hostname") == "server\n"


def test_a_sweep_leaves_running_labs_and_what_is_not_of_labs_alone(state: Path) -> None:
    with running():
        (state / "notes").mkdir()
        (state / "notes" / "file").touch()
        assert registry.sweep() == []
        assert len(state_dir.labs()) == 1
        assert (state / "notes" / "file").exists()
        shutil.rmtree(state / "notes")


def test_a_keepers_last_words_are_told_to_the_next_who_asks(state: Path) -> None:
    with running() as name:
        keeper = keeper_of(name)
        with open(f"/proc/{keeper}/fd/2", "w") as file:
            file.write("Traceback: it was the weather\n")
        os.kill(keeper, signal.SIGKILL)
        assert becomes(lambda: not state_dir.labs())
        with pytest.raises(LabGone, match="it was the weather"):
            Lab.attach(name)
        assert os.listdir(state) == []


def test_an_up_that_is_killed_leaves_nothing(state: Path) -> None:
    script = (
        "import sys, time; from labctl.lab.client.handle import Lab; from tests.labs import pair_plan\n"
        "lab = Lab.up(pair_plan(), sys.argv[1]); print('up', flush=True); time.sleep(1000)"
    )
    with python(script, name_of_lab()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert os.listdir(state / making(name_of_lab()))
        process.kill()
    assert becomes(lambda: set(os.listdir(state)) <= {f".{name_of_lab()}.lock"})
    registry.sweep()


def test_of_two_ups_of_one_name_one_makes_it_and_the_other_says_so(state: Path) -> None:
    script = (
        "import sys; from labctl.lab.client.handle import Lab; from labctl.errors import InputError\n"
        "from tests.labs import pair_plan\n"
        "try:\n"
        "    with Lab.up(pair_plan(), sys.argv[1]) as lab: lab.stay(); print('made')\n"
        "except InputError as error: print(error)\n"
    )
    name = name_of_lab()
    makers = [python(script, name) for _ in range(4)]
    said = []
    for maker in makers:
        with maker:
            said.append(maker.communicate(timeout=60)[0])
    assert sorted(text.split(":")[0] for text in said) == [f"lab {name}"] * 3 + ["made\n"], said
    registry.take_down(name)


def test_of_several_downs_at_once_none_fails_and_all_return_when_it_is_gone(state: Path) -> None:
    script = (
        "import sys; from labctl.lab.client import registry, state_dir; assert state_dir.labs() == [sys.argv[1]]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "registry.take_down(sys.argv[1]); assert state_dir.labs() == []\n"
    )
    with running() as name:
        enders = [
            subprocess.Popen(
                [sys.executable, "-c", script, name],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(4)
        ]
        for ender in enders:
            assert ender.stdout is not None
            assert ender.stdout.readline() == "ready\n"
        for ender in enders:
            assert ender.stdin is not None
            ender.stdin.write("\n")
            ender.stdin.flush()
        for ender in enders:
            with ender:
                said = ender.communicate(timeout=60)[0]
                assert ender.returncode == 0 or "none of that name" in said, said


def test_ups_and_downs_of_one_name_take_turns(state: Path) -> None:
    script = (
        "import sys; from labctl.lab.client.handle import Lab; from labctl.lab.client import registry\n"
        "from labctl.errors import InputError; from tests.labs import pair_plan\n"
        "for _ in range(5):\n"
        "    try:\n"
        "        with Lab.up(pair_plan(), sys.argv[1]) as lab: lab.stay()\n"
        "    except InputError: pass\n"
        "    try: registry.take_down(sys.argv[1])\n"
        "    except InputError: pass\n"
    )
    both = [python(script, name_of_lab()) for _ in range(2)]
    for each in both:
        with each:
            said = each.communicate(timeout=120)[0]
            assert each.returncode == 0, said
    with contextlib.suppress(InputError):
        registry.take_down(name_of_lab())
    registry.sweep()


def test_a_client_that_is_no_client_of_this_version_is_told_by_number() -> None:
    with running() as name, raw_connection(name) as sock:
        channel = Channel(sock)
        channel.send(1, Hello(1), until=time.monotonic() + WAIT_S)
        frame = channel.receive(until=time.monotonic() + WAIT_S)
        assert frame is not None
        assert "Welcome" in type(frame.message).__name__


def test_descriptors_of_a_client_that_goes_half_way_are_closed() -> None:
    with running() as name:
        keeper = keeper_of(name)
        before = len(os.listdir(f"/proc/{keeper}/fd"))
        for _ in range(10):
            with raw_connection(name) as sock:
                socket.send_fds(sock, [struct.pack("=IIB", 1000, 1, 2)], [0, 1])
        assert becomes(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= before)


def plan_of(tmp_path: Path, *hosts: str) -> Plan:
    """Hosts around a switch, as a file describes them."""
    lines = "\n".join(f"  {host}: {{}}" for host in hosts)
    links = "\n".join(f"  - [{host}, sw]" for host in hosts)
    path = tmp_path / "topology.yaml"
    path.write_text(f"hosts:\n{lines}\nswitches: {{sw: {{}}}}\nlinks:\n{links}\n")
    return build(topology.load(path))


@pytest.mark.stock_kernel
def test_a_running_lab_is_changed_to_another_plan(tmp_path: Path) -> None:
    with running(plan_of(tmp_path, "a", "b")) as name, Lab.attach(name) as lab, Lab.attach(name) as other:
        staying = lab.spawn("a", ["sleep", "1000"])
        leaving = lab.spawn("b", ["sleep", "1000"])
        lab.start_process("b", ["sleep", "1000"], name="service")
        new = plan_of(tmp_path, "a", "c")
        lab.reconcile(new, source="edited")
        assert leaving.wait(WAIT_S) == -9
        assert staying.wait(0) is None
        assert lab.nodes == tuple(node.name for node in new.nodes)
        assert output(other, "c", "hostname") == "c\n"
        assert shell(other, "a", "ping -c1 -W5 c >/dev/null && echo there") == "there\n"
        with pytest.raises(LabError, match="no node b"):
            output(other, "b", "true")
        told = other.describe()
        assert (told.plan, told.source) == (new, "edited")
        assert becomes(lambda: [each.node for each in lab.processes()] == ["a"])
        if os.geteuid() == 0:
            names = {each for each in os.listdir(NETNS_DIRECTORY) if each.startswith(f"{name}-")}
            assert names == {f"{name}-a", f"{name}-c", f"{name}-sw"}
            assert subprocess.run(["ip", "netns", "exec", f"{name}-c", "true"], check=False).returncode == 0
        for process in (staying, leaving):
            process.close()


def test_a_change_that_is_refused_leaves_the_lab_and_its_plan_as_they_were(tmp_path: Path) -> None:
    before = plan_of(tmp_path, "a", "b")
    with running(before) as name, Lab.attach(name) as lab:
        new = plan_of(tmp_path, "a", "b", "c")
        with pytest.raises(KernelError):
            lab.reconcile(replace(new, operations=(*new.operations, SetSysctl("c", "net.ipv4.nosuch", "1"))))
        assert lab.describe().plan == before
        assert shell(lab, "a", "ping -c1 -W5 b >/dev/null && echo there") == "there\n"
        with pytest.raises(LabError, match="no node c"):
            output(lab, "c", "true")
        lab.reconcile(new)
        assert output(lab, "c", "hostname") == "c\n"
