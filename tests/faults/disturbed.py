"""A lab that stays, for tests that disturb it: what it is, who its processes are, and commands that use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from select import POLLIN, poll

from labctl.lab.client import state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.client.lab_directory import BOOT, NETNS_DIRECTORY
from labctl.lab.description import Description
from labctl.observe.network import addresses, links, routes
from tests import leaks
from tests.e2e.command import environment

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0
OURS = tuple(f"labctl-{kind}" for kind in ("nursery", "boot", "keeper", "init", "log", "caller", "guard", "forward"))

FIRST = """\
hosts: {h1: , h2: , h3: {sysctls: {net.core.somaxconn: 7}}}
networks: {lan: {ipv4: 10.0.1.0/24, members: [h1, h2, r]}}
routers: {r: }
links: [[r, h3]]
"""
SECOND = """\
hosts: {h1: , h2: , h4: }
networks: {lan: {ipv4: 10.0.1.0/24, mtu: 1400, members: [h1, h2, r]}}
routers: {r: , q: }
links: [[r, q], {ends: [q, h4], ipv4: 10.7.0.0/24}]
"""
SERVED = """\
hosts:
  h1:
    services:
      same: {run: [sleep, "1001"], restart: always}
      other: {shell: "sleep 0.05; touch /tmp/one; exec sleep 1002", ready: {file: /tmp/one}, restart: always}
      gone: {run: [sleep, "1003"], restart: always, after: [other]}
  h2: {services: {leaves: {run: [sleep, "1004"], restart: always}}}
networks: {lan: {ipv4: 10.0.1.0/24, members: [h1, h2]}}
"""
SERVED_AGAIN = """\
hosts:
  h1:
    services:
      same: {run: [sleep, "1001"], restart: always}
      other: {shell: "sleep 0.05; touch /tmp/two; exec sleep 2002", ready: {file: /tmp/two}, restart: always}
      new: {run: [sleep, "2003"], restart: always, after: [other]}
  h3: {services: {comes: {run: [sleep, "2004"], restart: always, after: [h1/new]}}}
networks: {lan: {ipv4: 10.0.1.0/24, members: [h1, h3]}}
"""


@dataclass(frozen=True, slots=True)
class LabState:
    """What a lab is: as its keeper tells (`nodes`, `plan`, `programs`), and as the kernel has it (`network`)."""

    nodes: tuple[str, ...]
    plan: str
    programs: frozenset[str]
    network: frozenset[str]

    def beside(self, other: LabState) -> str:
        """What is different, for people."""
        lines = [f"- {each}" for each in sorted((other.network | other.programs) - (self.network | self.programs))]
        lines += [f"+ {each}" for each in sorted((self.network | self.programs) - (other.network | other.programs))]
        lines += [] if self.nodes == other.nodes else [f"nodes {self.nodes}, not {other.nodes}"]
        lines += [] if self.plan == other.plan else ["another plan"]
        return "\n".join(lines)


def lab_state(name: str, *, deadline_s: float = WAIT_S) -> LabState:
    """The state of a running lab; LabGone, InputError when it is gone or goes meanwhile."""
    with Lab.attach(name, deadline_s=deadline_s) as lab:
        told = lab.describe()
        network = {
            text if "nat0" not in text else f"{node}: nat0"  # whose addresses are others in each lab
            for node in lab.nodes
            for text in (
                *(f"{node}: {one}" for one in (*addresses(lab, node), *routes(lab, node))),
                *(
                    f"{node}: {one.name} {one.mac if not one.name.startswith('br') else ''} {one.mtu} "
                    f"{'up' if one.up else 'down'}"
                    for one in links(lab, node)
                ),
            )
        }
        return LabState(tuple(sorted(lab.nodes)), json.dumps(told.plan_json), _programs(told), frozenset(network))


def _programs(told: Description) -> frozenset[str]:
    running = [one for one in told.processes if one.name and one.state.value != "ended"]
    return frozenset(f"{one.node} runs {one.name}: {' '.join(one.argv)}" for one in running)


@dataclass(slots=True)
class Commands:
    """The command line, as users run it; each command in the environment of the test."""

    name: str
    directory: Path
    state: Path  # of labs
    clients: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, limit: str = "") -> subprocess.Popen[str]:
        """Start a command whose output goes to a pipe that is read by `ended`; `limit` is ulimit(1)'s, as `-n 8`."""
        under = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh"] if limit else []
        client = subprocess.Popen(
            [*under, sys.executable, "-m", "labctl", *arguments],
            cwd=self.directory,
            env=environment(PYTHONPATH=str(ROOT)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.clients.append(client)
        return client

    def ended(self, client: subprocess.Popen[str], within_s: float = WAIT_S) -> tuple[int, str]:
        """How the command ended and what it wrote; AssertionError when it does not end."""
        try:
            said, _ = client.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            where = Path(f"/proc/{client.pid}/wchan").read_text()
            client.kill()
            said, _ = client.communicate()
            raise AssertionError(f"{client.args!r} hangs ({where}): {said}") from None
        self.clients.remove(client)
        return client.returncode, said

    def done(self, *arguments: str) -> str:
        """Run a command that succeeds; what it wrote."""
        status, said = self.ended(self.start(*arguments))
        assert status == 0, f"labctl {' '.join(arguments)}: {status}\n{said}"
        return said

    def close(self) -> None:
        """End what a failed test has left."""
        for client in self.clients:
            client.kill()
            client.communicate()


def children(pid: int) -> list[int]:
    """The processes whose parent it is."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """All of them, parents before their children."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def comm(pid: int) -> str:
    """The process's name; "" when it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def victims(client: int, state: Path) -> dict[str, list[int]]:
    """The processes of a command and of the labs in the state directory, by what they are."""
    found: dict[str, list[int]] = {"client": [client]}
    there = set(descendants(client))
    for file in (*state.glob(f"*/{BOOT}"), *state.glob(f".*.making/{BOOT}")):
        try:
            pid = int(file.read_text().split()[0])
        except (FileNotFoundError, IndexError):
            continue
        there |= {pid, *descendants(pid)}
    for pid in sorted(there):
        name = comm(pid)
        if name:
            kind = name.removeprefix("labctl-") if name in OURS else "program"
            found.setdefault(kind, []).append(pid)
    return found


def pass_time(pid: int, seconds: float) -> None:
    """Let the time pass, or less when the process ends meanwhile."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poller = poll()
    poller.register(pidfd, POLLIN)
    poller.poll(seconds * 1000)
    os.close(pidfd)


def signal_sent(pid: int, number: int) -> bool:
    """Send a signal; False when the process has ended meanwhile."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def stopped(pid: int) -> None:
    """Stop a process; returns when it has stopped (or ended)."""
    if not signal_sent(pid, signal.SIGSTOP):
        return
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZX":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        os.sched_yield()


def keeper_of(name: str) -> int:
    """The pid of the lab's keeper."""
    with Lab.attach(name) as lab:
        return lab.describe().keeper_pid


def keeper_descriptors(name: str) -> Counter[str]:
    """What the keeper of the lab holds open, by kind; without the pidfds of inits, which come with first programs."""
    keeper = keeper_of(name)
    held: Counter[str] = Counter()
    for number in os.listdir(f"/proc/{keeper}/fd"):
        try:
            kind = os.readlink(f"/proc/{keeper}/fd/{number}").split(":")[0]
            kind = re.sub(r"/labctl-\w+/", "/labctl/", kind)  # a control group, of another name in each lab
        except OSError:
            continue
        held[kind] += kind not in ("anon_inode", "pidfd")
    return held


def names_on_the_machine(lab: str) -> list[str]:
    """What /run/netns has of the lab."""
    try:
        return [each for each in os.listdir(NETNS_DIRECTORY) if each.startswith(f"{lab}-")]
    except FileNotFoundError:
        return []


def packet_filter() -> str:
    """The rules of this process's network namespace; "" where they cannot be listed."""
    if os.geteuid() != 0 or (nft := shutil.which("nft")) is None:
        return ""
    return subprocess.run([nft, "list", "ruleset"], capture_output=True, text=True, timeout=WAIT_S, check=True).stdout


def processes_of_no_lab(name: str) -> set[int]:
    """The processes of this test session that belong to no lab of that name (which runs)."""
    boot = parent(keeper_of(name))
    return set(leaks.machine_state(labs=[boot]).pids) - {boot}


def parent(pid: int) -> int:
    """The number of its parent (proc_pid_stat(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_running(name: str) -> bool:
    """Whether the lab is found under its name."""
    return name in state_dir.labs()
