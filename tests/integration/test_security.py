"""What docs/security.md promises, promise by promise."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labctl import topology
from labctl.cli.cp import cp
from labctl.errors import InputError, LabError
from labctl.kernel.syscalls import CLONE_NEWNET
from labctl.lab.client import lab_directory, registry, state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.client.state_dir import SOCKET
from labctl.lab.keeper.file_tree import run_directories
from tests.integration.detached import ROOT, becomes, name_of_lab, running
from tests.labs import output, pair_plan, run, shell
from tests.other_users import Checkout
from tests.skips import for_ordinary_users, for_root

HERS, HIS = 40_000 + os.getpid() % 10_000, 50_000 + os.getpid() % 10_000  # users that this machine knows nothing of
needs_root = for_root("becomes other users")

BAD_NAMES = [
    "-rf",
    "--help",
    "../x",
    "..",
    ".",
    "",
    "a b",
    "$(id)",
    "`id`",
    "a;b",
    "a\nb",
    "a\0b",
    "/etc",
    "~root",
    "*",
    "x" * 64,
]
LABCTL = "import sys; from labctl.cli.main import main; sys.argv[0] = 'labctl'; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class OtherUsers:
    """Users of this machine who run Python and labctl."""

    checkout: Checkout

    def labctl(self, user: int, *words: str, state: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The command, run by that user."""
        environment = {"PATH": os.environ["PATH"], "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}
        if state is not None:
            environment["LABCTL_STATE_DIR"] = str(state)
        return self.python(user, LABCTL, *words, env=environment)

    def python(
        self, user: int, script: str, *words: str, pass_fds: tuple[int, ...] = (), env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.checkout.interpreter, "-c", script, *words],
            cwd=self.checkout.folder,
            env=env,
            user=user,
            group=user,
            extra_groups=[],
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def others(checkout_for_others: Checkout) -> OtherUsers:
    return OtherUsers(checkout_for_others)


@pytest.fixture
def her_lab(others: OtherUsers) -> Iterator[str]:
    """A lab of an ordinary user, in the place where hers are."""
    name = name_of_lab()
    made = others.labctl(HERS, "up", "--topo", "pair", "--name", name)
    try:
        assert made.returncode == 0, made.stderr
        yield name
    finally:
        others.labctl(HERS, "down", name)
        shutil.rmtree(state_of_user(HERS), ignore_errors=True)


def state_of_user(user: int) -> Path:
    return Path(f"/tmp/labctl-{user}")


@pytest.fixture
def mine() -> Iterator[str]:
    with running() as name:
        yield name


def asked(directory: int, name: str = "") -> str:
    """A script that connects to the socket in the directory that is open under that number, and says what came."""
    return (
        "import socket\n"
        "sock = socket.socket(socket.AF_UNIX)\n"
        f"try:\n    sock.connect('/proc/self/fd/{directory}/{name}{SOCKET}')\n    print(sock.recv(1))\n"
        "except OSError as error:\n    print(error.strerror)\n"
    )


# Users


@needs_root
def test_another_user_neither_sees_nor_reaches_a_lab(her_lab: str, others: OtherUsers) -> None:
    assert "No lab is running" in others.labctl(HIS, "ps").stderr
    assert "No lab named" in others.labctl(HIS, "exec", "--lab", her_lab, "client", "--", "id").stderr
    assert others.labctl(HIS, "down", her_lab).returncode == 2
    spied = others.labctl(HIS, "ps", state=state_of_user(HERS))
    assert spied.returncode != 0
    assert "Permission denied" in spied.stderr
    assert others.labctl(HERS, "exec", "--lab", her_lab, "client", "--", "echo", "hers").stdout == "hers\n"
    shutil.rmtree(state_of_user(HIS), ignore_errors=True)


@needs_root
def test_the_socket_refuses_another_user_even_by_a_directory_that_he_was_handed(
    her_lab: str, others: OtherUsers
) -> None:
    directory = os.open(state_of_user(HERS) / her_lab, os.O_PATH)
    try:
        assert others.python(HIS, asked(directory), pass_fds=(directory,)).stdout == "Permission denied\n"
    finally:
        os.close(directory)


@needs_root
def test_the_keeper_hangs_up_on_another_user_even_where_files_let_him_connect(her_lab: str, others: OtherUsers) -> None:
    place = state_of_user(HERS) / her_lab
    for path in (place, place / SOCKET):
        path.chmod(0o777)
    directory = os.open(place, os.O_PATH)
    try:
        assert others.python(HIS, asked(directory), pass_fds=(directory,)).stdout == "b''\n"
    finally:
        os.close(directory)
    assert others.labctl(HERS, "exec", "client", "--", "true").returncode == 0


@needs_root
def test_a_state_directory_that_somebody_else_has_made_is_refused(others: OtherUsers) -> None:
    state = state_of_user(HERS)
    state.mkdir()
    try:
        for owner, mode in ((HIS, 0o777), (HERS, 0o777), (HIS, 0o700)):
            os.chown(state, owner, owner)
            state.chmod(mode)
            made = others.labctl(HERS, "up", "--topo", "pair")
            assert made.returncode == 4
            said = " ".join(made.stderr.split())
            assert "it has to be yours alone" in said or "Permission denied" in said
            assert list(state.iterdir()) == []
    finally:
        state.rmdir()


@needs_root
def test_a_state_directory_that_is_a_link_is_refused(tmp_path: Path, others: OtherUsers) -> None:
    state = state_of_user(HERS)
    tmp_path.chmod(0o777)
    state.symlink_to(tmp_path)
    try:
        made = others.labctl(HERS, "up", "--topo", "pair")
    finally:
        state.unlink()
    assert made.returncode == 4
    assert "symbolic link" in made.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_state_directory_is_its_owners_alone(mine: str) -> None:
    with Lab.attach(mine) as lab:
        lab.start_process("client", ["sleep", "1000"])
    state = Path(state_dir.state_directory())
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    there = list((state / mine).rglob("*"))
    assert there
    assert [path for path in (state / mine, *there) if path.lstat().st_mode & 0o077] == []


# Names


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_is_never_a_path_an_option_or_shell_text(name: str, mine: str) -> None:
    before = sorted(os.listdir(state_dir.state_directory()))
    with pytest.raises(InputError):
        Lab.up(pair_plan(), name).close()
    with pytest.raises(InputError):
        Lab.attach(name)
    with pytest.raises(InputError):
        lab_directory.log_paths(name, "client", "web")
    with pytest.raises(InputError):
        lab_directory.log_paths(mine, "client", name)
    with Lab.attach(mine) as lab:
        if name:  # an empty one is to be chosen
            with pytest.raises(InputError):
                lab.start_process("client", ["true"], name=name)
        with pytest.raises(LabError):
            lab.spawn(name, ["true"])
    assert sorted(os.listdir(state_dir.state_directory())) == before


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if "\0" not in name])
def test_a_file_cannot_give_such_names(name: str, tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    service = {name: {"run": ["true"]}}
    for text in (json.dumps({"hosts": {name: {}}}), json.dumps({"hosts": {"a": {"services": service}}})):
        file.write_text(text)
        with pytest.raises(InputError):
            topology.load(file)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "bin/../../x", "."])
def test_a_shared_file_stays_in_its_directory(name: str) -> None:
    with Lab.open(pair_plan()) as lab, pytest.raises(LabError, match="would lie outside"):
        lab.put_file(name, b"")


@pytest.mark.parametrize("word", ["$(id)", "`id`", "-rf", "a b", "a\nb", "*", ";id", "'", '"'])
def test_words_of_a_command_reach_it_as_they_are(word: str) -> None:
    with Lab.open(pair_plan()) as lab:
        assert output(lab, "client", "printf", "%s", word) == word


@pytest.mark.parametrize("name", ["-rf", "$(id)", "a b", "a\nb"])
def test_files_are_copied_under_any_name(name: str, mine: str, tmp_path: Path) -> None:
    source = tmp_path / name
    source.write_text("content")
    assert cp([str(source), "client:/tmp/"], mine) == 0
    assert cp([f"client:/tmp/{name}", str(tmp_path / "back")], mine) == 0
    assert (tmp_path / "back").read_text() == "content"


def test_a_link_left_by_an_earlier_copy_leads_no_later_copy_outside(mine: str, tmp_path: Path) -> None:
    victim, goal = tmp_path / "victim", tmp_path / "goal"
    victim.mkdir(0o750)
    goal.mkdir()
    with Lab.attach(mine) as lab:
        shell(lab, "client", f"mkdir -p /tmp/d; ln -s {victim} /tmp/d/sub")
        assert cp(["client:/tmp/d", str(goal)], mine) == 0
        shell(lab, "client", "rm /tmp/d/sub; mkdir -m 777 /tmp/d/sub; touch /tmp/d/sub/file")
        assert cp(["client:/tmp/d", str(goal)], mine) == 1
    assert list(victim.iterdir()) == []
    assert stat.S_IMODE(victim.stat().st_mode) == 0o750


# The machine's network


def test_a_host_reaches_nothing_of_the_machines_network() -> None:
    attempt = (
        "import socket, sys\n"
        "for family, address in ((2, ('127.0.0.1', PORT)), (2, ('192.0.2.1', 80)), (10, ('2001:db8::1', 80)),"
        " (1, '\\0labctl-NAME')):\n"
        "    sock = socket.socket(family)\n"
        "    sock.settimeout(5)\n"
        "    print(sock.connect_ex(address))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0labctl-{os.getpid()}")
        abstract.listen()
        script = attempt.replace("PORT", str(server.getsockname()[1])).replace("NAME", str(os.getpid()))
        with Lab.open(pair_plan()) as lab:
            refused, unreachable = errno.ECONNREFUSED, errno.ENETUNREACH
            assert output(lab, "client", sys.executable, "-c", script).split() == [
                str(number) for number in (refused, unreachable, unreachable, refused)
            ]


def test_a_host_has_no_interface_and_no_route_of_the_machine() -> None:
    with Lab.open(pair_plan()) as lab:
        assert shell(lab, "client", "ls /sys/class/net").split() == ["eth0", "lo"]
        routes = [line.split() for line in shell(lab, "client", "cat /proc/net/route").splitlines()[1:]]
    assert {(route[0], route[2]) for route in routes} == {("eth0", "00000000")}  # on the link alone, without a gateway


PLACES = ["/tmp", "/var/tmp", "/dev/shm", *(["/run"] if os.geteuid() == 0 else [])]
UNMOUNT_EVERYTHING = """
import ctypes, os
libc = ctypes.CDLL(None)
for _ in range(5):
    for line in reversed(open("/proc/self/mountinfo").read().splitlines()):
        target = line.split()[4]
        if target not in ("/", "/proc", "/usr") and not %(python)r.startswith(target):
            libc.umount2(target.encode(), 2)
for place in ("/run", "/tmp", "/dev/shm", "/dev/pts", "/dev", "/proc"):
    while libc.umount2(place.encode(), 2) == 0:
        pass
"""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("lifted", ["", UNMOUNT_EVERYTHING % {"python": sys.executable}], ids=["", "unmounted"])
def test_sockets_of_the_machine_in_its_temporary_directories_are_out_of_reach(place: str, lifted: str) -> None:
    path = f"{place}/labctl-security-{os.getpid()}"
    script = f"import socket\n{lifted}\nprint(socket.socket(socket.AF_UNIX).connect_ex({path!r}))"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        try:
            with Lab.open(pair_plan()) as lab:
                assert output(lab, "client", sys.executable, "-c", script) == "2\n"  # ENOENT
        finally:
            os.unlink(path)


def test_the_root_directory_is_the_hosts_own(tmp_path: Path) -> None:
    name = f"labctl-security-{os.getpid()}"
    with Lab.open(pair_plan()) as lab:
        assert shell(lab, "client", f"echo mine > /{name}; cat /{name}") == "mine\n"
        assert run(lab, "server", "test", "-e", f"/{name}").status == 1
        assert set(output(lab, "client", "ls", "-A", "/").split()) - {name} <= {*os.listdir("/"), "run", "tmp"}
    assert not Path(f"/{name}").exists()


def test_the_terminals_of_the_machine_are_not_on_a_host() -> None:
    master, terminal = os.openpty()
    try:
        number = os.path.basename(os.ttyname(terminal))
        script = f"{UNMOUNT_EVERYTHING % {'python': sys.executable}}\nprint(os.path.exists('/dev/pts/{number}'))"
        with Lab.open(pair_plan()) as lab:
            assert shell(lab, "client", "test -c /dev/null -a -c /dev/tty -a -c /dev/ptmx && echo there") == "there\n"
            assert output(lab, "client", sys.executable, "-c", script) == "False\n"
    finally:
        os.close(master)
        os.close(terminal)


# Processes


def test_a_process_sees_and_signals_only_those_of_its_host() -> None:
    script = (
        "import os, signal, ctypes, sys\n"
        "print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()))\n"
        "for what in (lambda: os.kill(PID, 0), lambda: os.pidfd_open(PID)):\n"
        "    try:\n        what()\n        print('reached')\n"
        "    except ProcessLookupError:\n        print('nobody')\n"
        "print(ctypes.CDLL(None, use_errno=True).ptrace(16, PID, 0, 0), ctypes.get_errno())\n"
    )
    victim = subprocess.Popen(["sleep", "1000"])
    try:
        with Lab.open(pair_plan()) as lab:
            other = lab.spawn("server", ["sleep", "1000"])
            pids = [1 << 21, victim.pid] if victim.pid > 10 else [1 << 21]
            for pid in pids:
                seen = output(lab, "client", sys.executable, "-c", script.replace("PID", str(pid))).splitlines()
                assert len(seen[0].split(",")) == 2  # its init and itself
                assert seen[1:] == ["nobody", "nobody", "-1 3"]  # ESRCH
            assert other.wait(0) is None
            other.close()
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_killing_everything_on_a_host_ends_that_hosts_programs_alone() -> None:
    with Lab.open(pair_plan()) as lab:
        other = lab.spawn("server", ["sleep", "1000"])
        mine = lab.spawn("client", ["sleep", "1000"])
        run(lab, "client", sys.executable, "-c", "import os; os.kill(-1, 9)")
        assert mine.wait(10) == -signal.SIGKILL
        assert other.wait(0) is None
        assert output(lab, "client", "echo", "goes on") == "goes on\n"
        for process in (mine, other):
            process.close()


def test_no_descriptor_of_labctl_is_open_on_a_host(mine: str) -> None:
    script = (
        "import os\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try:\n        there = os.listdir(f'/proc/{pid}/fd')\n"
        "    except (FileNotFoundError, ProcessLookupError):\n        continue\n"
        "    for fd in there:\n"
        "        try:\n            print(os.readlink(f'/proc/{pid}/fd/{fd}'))\n"
        "        except (FileNotFoundError, ProcessLookupError):\n            pass\n"
    )
    with Lab.attach(mine) as lab:
        lab.start_process("client", ["sleep", "1000"], name="detached")
        attached = lab.spawn("client", ["sleep", "1000"])
        targets = set(output(lab, "client", sys.executable, "-c", script).split("\n"))
        attached.close()
    own = ("/dev/null", "/memfd:output", "/proc", "pipe:", "")  # a pipe to its log; the listing's own directory
    assert [target for target in targets if not target.startswith(own[:-1]) and target] == []


STEAL = """
import os, sys, time
found = set()
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) > os.getpid():
            try:
                found |= {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            except OSError:
                pass
print(*found, sep="\\n")
"""


@for_ordinary_users("root may trace every process")
def test_no_descriptor_of_the_keeper_can_be_taken_while_a_program_is_started() -> None:
    with Lab.open(pair_plan()) as lab:
        log = os.memfd_create("found")
        thief = lab.spawn("client", [sys.executable, "-c", STEAL, "2"], stdout=log, stderr=log)
        while thief.wait(0) is None:
            run(lab, "client", "true")
            os.close(lab.open_file("client", "/etc/hosts"))
        thief.close()
        found = os.pread(log, 1 << 20, 0).decode().split("\n")
        os.close(log)
    assert any("memfd:output" in target for target in found)  # of a program that has been started
    assert [
        each for each in found if each == "/proc" or each.startswith(("socket:", "net:", "pid:", "anon_inode"))
    ] == []


@needs_root
def test_a_hosts_network_is_handed_to_no_program_and_opens_nothing_to_another_user(
    mine: str, others: OtherUsers
) -> None:
    enter = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"print(libc.setns(int(sys.argv[1]), {CLONE_NEWNET}), os.strerror(ctypes.get_errno()))\n"
    )
    with Lab.attach(mine) as lab:
        network = lab.network("client")
        try:
            assert not os.get_inheritable(network)
            handed = others.python(HERS, enter, str(network), pass_fds=(network,))
            assert handed.stdout == "-1 Operation not permitted\n", handed.stderr
        finally:
            os.close(network)


def test_the_keepers_socket_and_the_state_directory_are_not_to_be_seen_on_a_host(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
        name = name_of_lab()
        with Lab.up(pair_plan(), name, visible_paths=[tmp_path]) as lab:
            lab.stay()
            try:
                assert (tmp_path / "state" / name / SOCKET).is_socket()
                assert output(lab, "client", "ls", "-A", str(tmp_path / "state")) == ""
                own = {"host-files", "lab", *(one.path.split("/")[2] for one in run_directories())}
                assert set(output(lab, "client", "ls", "-A", "/run").split()) == own
            finally:
                registry.take_down(name)


def test_the_keeper_hangs_up_on_a_process_of_its_lab(tmp_path: Path) -> None:
    state = tmp_path / "state"
    script = asked(0).replace("/proc/self/fd/0", str(state / name_of_lab()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABCTL_STATE_DIR", str(state))
        with Lab.up(pair_plan(), name_of_lab(), visible_paths=[tmp_path]) as lab:
            lab.stay()
            try:
                if run(lab, "client", "umount", str(state)).status != 0:
                    pytest.skip("what hides the directory cannot even be taken away")
                assert output(lab, "client", sys.executable, "-c", script) in ("b''\n", "No such file or directory\n")
                uncovered = f"import os; os.system('umount {state}; umount {state}'); exec({script!r})"
                assert output(lab, "client", sys.executable, "-c", uncovered).splitlines()[-1] == "b''"
            finally:
                registry.take_down(name_of_lab())


COMMANDS = [
    ("exec", "--lab", "victim", "client", "--", "echo", "controlled"),
    ("down", "victim"),
    ("down", "--all"),
    ("link", "--lab", "victim", "client", "server", "down"),
    ("ps",),
]


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """The state directory of a running lab `victim`."""
    state = tmp_path / "state"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABCTL_STATE_DIR", str(state))
        with Lab.up(pair_plan(), "victim") as lab:
            lab.stay()
        yield state
        with Lab.attach("victim") as lab:  # it has not been ended
            assert output(lab, "client", "ping", "-c1", "-w10", "server").count("1 received") == 1
        registry.take_down("victim")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_programs_of_a_lab_do_not_control_another_lab_of_their_owner(
    words: tuple[str, ...], victim: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABCTL_STATE_DIR", str(tmp_path / "other"))  # so that its own is not hidden
        with Lab.open(pair_plan(), visible_paths=[tmp_path]) as lab:
            environment = ["env", f"LABCTL_STATE_DIR={victim}"]
            done = run(lab, "client", *environment, sys.executable, "-c", LABCTL, *words)
    assert "not in the PID namespace" in done.output
    assert done.status != 0


def test_the_keeper_refuses_requests_of_another_labs_programs_however_they_ask(victim: Path, tmp_path: Path) -> None:
    script = (
        "import os, socket, time\n"
        "from labctl.lab.frames import VERSION; from labctl.lab.protocol import Channel, Describe, Down, Hello\n"
        f"with socket.socket(socket.AF_UNIX) as sock:\n    sock.connect({str(victim / 'victim' / SOCKET)!r})\n"
        "    channel, until = Channel(sock), time.monotonic() + 20\n"
        "    own = [os.open(f'/proc/self/ns/{kind}', os.O_RDONLY) for kind in ('pid', 'pid_for_children', 'net')]\n"
        "    hello = Hello(VERSION)\n"
        "    asked = [(hello, ()), *((hello, (each,)) for each in own), (Describe(), own), (Down(), own)]\n"
        "    for number, (request, descriptors) in enumerate(asked):\n"
        "        channel.send(number, request, descriptors, until=until)\n"
        "        print(type(channel.receive(until=until).message).__name__)\n"
    )
    with Lab.open(pair_plan(), visible_paths=[tmp_path]) as lab:
        shell(lab, "client", f"while umount {victim}; do :; done; test -d {victim}/victim")
        assert output(lab, "client", sys.executable, "-c", script) == "Failed\n" * 6


@pytest.mark.parametrize("kind", ["run", "open", "up"])
def test_no_kind_of_lab_shows_the_state_directory(kind: str, victim: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LABCTL, "exec", "--lab", "victim", "client", "--", "echo", "controlled"]
    if kind == "run":
        scenario = tmp_path / "control.scenario.yaml"
        step = {
            "on": "client",
            "run": command,
            "expect": {"exit": 125, "stderr": {"contains": "No lab named victim is running"}},
        }
        scenario.write_text(json.dumps({"name": "control", "topology": "pair", "steps": [{"run": step}]}))
        done = subprocess.run(
            [sys.executable, "-c", LABCTL, "run", str(scenario)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
        return
    if kind == "open":
        made = Lab.open(pair_plan(), visible_paths=[tmp_path])
    else:
        made = Lab.up(pair_plan(), name_of_lab(), visible_paths=[tmp_path])
    with made as lab:
        assert "No lab named victim is running" in run(lab, "client", *command).output


def test_a_project_that_is_its_own_state_directory_is_visible_without_its_labs(victim: Path) -> None:
    (victim / "file").write_text("of the project")
    with Lab.open(pair_plan(), visible_paths=[victim]) as lab:
        assert output(lab, "client", "cat", str(victim / "file")) == "of the project"
        assert output(lab, "client", "ls", "-A", str(victim / "victim")) == ""


def test_programs_do_not_gain_rights_by_files_that_are_made_on_a_host() -> None:
    script = "import os, sys\nfor place in sys.argv[1:]: print(os.statvfs(place).f_flag)"
    with Lab.open(pair_plan()) as lab:
        flags = output(lab, "client", sys.executable, "-c", script, "/", "/tmp", "/run", "/dev/shm").split()
    nodev = 4  # statvfs(3)
    assert [int(each) & (os.ST_NOSUID | nodev) for each in flags] == [os.ST_NOSUID | nodev] * 4


@needs_root
def test_a_lab_of_an_ordinary_user_has_no_rights_on_the_machine(her_lab: str, others: OtherUsers) -> None:
    def there(*argv: str) -> subprocess.CompletedProcess[str]:
        return others.labctl(HERS, "exec", "client", "--", *argv)

    assert there("id", "-u").stdout == "0\n"  # inside
    assert "Permission denied" in there("cat", "/etc/shadow").stderr
    assert there("mknod", "/tmp/disk", "b", "8", "0").returncode != 0
    assert there("sh", "-c", "echo 1 > /proc/sys/kernel/sysrq").returncode != 0
    assert there("hostname", "changed").returncode == 0
    assert socket.gethostname() != "changed"
    setuid = Path(f"/var/opt/labctl-setuid-{os.getpid()}")
    shutil.copy("/usr/bin/cat", setuid)
    try:
        setuid.chmod(0o4755)
        assert others.python(HERS, f"import os; os.execv({str(setuid)!r}, ['cat', '/etc/shadow'])").returncode == 0
        assert "Permission denied" in there(str(setuid), "/etc/shadow").stderr
    finally:
        setuid.unlink()


def test_every_process_of_a_lab_ends_with_it(mine: str) -> None:
    stubborn = "trap '' HUP TERM INT; echo there; sleep 1000; sleep 1000"
    with Lab.attach(mine) as lab:
        info = lab.start_process("client", ["setsid", "--fork", "sh", "-c", stubborn])
        assert becomes(lambda: lab.read_log("client", info.name) == b"there\n")
        init = next(node.init_pid for node in lab.describe().nodes if node.name == "client")
        children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
        pidfds = [os.pidfd_open(pid) for pid in (init, *map(int, children))]  # none of which ends by itself
    registry.take_down(mine)
    for pidfd in pidfds:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        assert poller.poll(10_000)
        os.close(pidfd)
