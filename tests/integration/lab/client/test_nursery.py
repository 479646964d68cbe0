"""The nursery of this process: which labs share it, and what replaces it."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labctl.errors import MachineError
from labctl.lab.client.handle import Lab
from labctl.lab.client.nursery import Nursery, nurseries
from tests.integration.detached import becomes, comm_of, state_of
from tests.labs import output, pair_plan
from tests.skips import for_root

ROOT = Path(__file__).parents[4]
WAIT_S = 20.0


def nursery_pid() -> int:
    nurseries.start()
    return nurseries.all[0].pid


def run_script(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_labs_of_a_process_share_its_nursery() -> None:
    pid = nursery_pid()
    with Lab.open(pair_plan()), Lab.open(pair_plan()):
        pass
    assert nursery_pid() == pid


def test_a_boot_is_a_child_of_the_nursery() -> None:
    with Lab.open(pair_plan()) as lab:
        stat = Path(f"/proc/{lab._boot.pid}/stat").read_text()  # type: ignore[union-attr]
        assert int(stat.rpartition(")")[2].split()[1]) == nursery_pid()


def test_after_the_nursery_was_killed_its_labs_are_gone_and_the_next_lab_opens() -> None:
    lab = Lab.open(pair_plan())
    killed = nursery_pid()
    os.kill(killed, signal.SIGKILL)
    poller = select.poll()
    poller.register(lab, 0)
    assert poller.poll(WAIT_S * 1000)
    lab.close()
    with Lab.open(pair_plan()) as following:
        assert output(following, "client", "echo", "x") == "x\n"
    assert nursery_pid() != killed


def test_beside_a_stopped_nursery_its_lab_goes_on_and_the_next_lab_opens() -> None:
    with Lab.open(pair_plan()) as lab:
        stopped = nursery_pid()
        os.kill(stopped, signal.SIGSTOP)
        assert becomes(lambda: state_of(stopped) == "T")
        with Lab.open(pair_plan()) as following:
            assert output(following, "client", "echo", "x") == "x\n"
            assert output(lab, "client", "echo", "x") == "x\n"
            os.kill(stopped, signal.SIGCONT)
            # It answers now the request that it did not answer in time.
            assert becomes(lambda: len(children_of(stopped, "labctl-boot")) == 1)
            for each in (lab, following):
                for _ in range(5):
                    assert output(each, "client", "echo", "x") == "x\n"
    assert becomes(lambda: nursery_pid() != stopped and len(nurseries.all) == 1)


@pytest.mark.parametrize("is_answered", [False, True])
def test_an_interrupted_start_of_a_lab_leaves_the_others_alone(
    is_answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(nursery: Nursery, until: float) -> None:
        if is_answered:
            assert select.select([nursery.control], [], [], WAIT_S)[0]
        raise KeyboardInterrupt

    with Lab.open(pair_plan()) as lab:
        used = nursery_pid()
        with monkeypatch.context() as patched:
            patched.setattr(Nursery, "_await_reply", interrupt)
            with pytest.raises(KeyboardInterrupt):
                Lab.open(pair_plan())
        assert becomes(lambda: len(children_of(used, "labctl-boot")) == 1)
        assert output(lab, "client", "echo", "x") == "x\n"
        with Lab.open(pair_plan()) as following:
            assert output(following, "client", "echo", "x") == "x\n"
    assert becomes(lambda: state_of(used) == "Z")


def children_of(nursery: int, name: str) -> list[int]:
    children = Path(f"/proc/{nursery}/task/{nursery}/children").read_text().split()
    return [int(each) for each in children if comm_of(int(each)) == name]


def waiting() -> list[int]:
    """The boots that wait for a lab."""
    return children_of(nursery_pid(), "labctl-nursery")


def test_from_the_second_lab_on_a_boot_waits_for_the_next() -> None:
    for _ in range(2):
        Lab.open(pair_plan()).close()
    assert becomes(lambda: len(waiting()) == 1)
    (pid,) = waiting()
    with Lab.open(pair_plan()) as lab:
        assert lab._boot.pid == pid  # type: ignore[union-attr]


def test_after_the_waiting_boot_was_killed_the_next_lab_opens() -> None:
    for _ in range(2):
        Lab.open(pair_plan()).close()
    assert becomes(lambda: len(waiting()) == 1)
    (killed,) = waiting()
    os.kill(killed, signal.SIGKILL)
    assert becomes(lambda: state_of(killed) == "Z")
    with Lab.open(pair_plan()) as lab:
        assert output(lab, "client", "echo", "x") == "x\n"


@contextmanager
def other_umask() -> Iterator[None]:
    before = os.umask(0o027)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def other_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if before[0] else min(1024, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


@contextmanager
def other_processors() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    if len(before) == 1:
        pytest.skip("this process may use one processor only")
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("different", "shown"),
    [
        (other_umask, ("sh", "-c", "umask")),
        (other_limit, ("sh", "-c", "ulimit -c")),
        (other_processors, ("grep", "Cpus_allowed:", "/proc/self/status")),
    ],
)
def test_what_the_owner_has_changed_since_is_in_force_in_its_next_lab(
    different: Callable[[], Iterator[None]], shown: tuple[str, ...]
) -> None:
    before = nursery_pid()
    with different():  # type: ignore[attr-defined]
        expected = subprocess.run(shown, stdout=subprocess.PIPE, text=True, check=True).stdout
        with Lab.open(pair_plan()) as lab:
            assert output(lab, "client", *shown) == expected
        assert nursery_pid() != before


def test_an_earlier_nursery_ends_with_its_last_lab() -> None:
    with Lab.open(pair_plan()) as lab:
        earlier = nursery_pid()
        with other_umask():
            nurseries.start()
            assert [each.pid for each in nurseries.all][1:] == [earlier]
            assert output(lab, "client", "echo", "x") == "x\n"
    assert becomes(lambda: nursery_pid() != earlier and len(nurseries.all) == 1)


def test_a_lab_survives_the_thread_that_opened_it() -> None:
    opened: list[Lab] = []
    with other_umask():  # so that the thread starts a nursery
        thread = threading.Thread(target=lambda: opened.append(Lab.open(pair_plan())))
        thread.start()
        thread.join()
    with opened[0] as lab:
        assert output(lab, "client", "echo", "x") == "x\n"


def test_many_threads_open_labs_at_once() -> None:
    outputs: list[str] = []

    def work() -> None:
        with Lab.open(pair_plan()) as lab:
            outputs.append(output(lab, "client", "echo", "x"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == ["x\n"] * 8


FORKING = """
import os
from labctl.lab.client.handle import Lab
from labctl.lab.client.nursery import nurseries
from tests.labs import pair_plan
with Lab.open(pair_plan()):
    mine = nurseries.all[0].pid
    child = os.fork()
    if not child:
        assert nurseries.all == ()
        with Lab.open(pair_plan()):
            assert nurseries.all[0].pid != mine
        nurseries.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with Lab.open(pair_plan()):
        assert nurseries.all[0].pid == mine
"""


def test_a_process_that_the_owner_forked_has_its_own() -> None:
    run_script(FORKING)


def test_a_process_that_was_forked_without_python_noticing_has_its_own() -> None:
    run_script(
        FORKING.replace("os.fork()", "ctypes.CDLL(None).fork()")
        .replace("import os", "import ctypes, os", 1)
        .replace("assert nurseries.all == ()", "pass")
    )


CHANGING_USER = """
import os
from labctl.lab.client.handle import Lab
from tests.labs import pair_plan
Lab.open(pair_plan()).close()
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
"""


@for_root("becoming another user")
def test_an_owner_that_becomes_another_user_ends_without_an_error() -> None:
    assert run_script(CHANGING_USER) == ""


def test_at_the_end_of_its_owner_the_nursery_has_ended() -> None:
    script = "from labctl.lab.client.nursery import nurseries; nurseries.start(); print(nurseries.all[0].pid)"
    assert not Path(f"/proc/{int(run_script(script))}").exists()


def test_a_while_after_the_last_lab_a_program_has_no_child_left() -> None:
    waited = """
import os, sys
from labctl import Lab
with Lab("pair"):
    pass
try:
    while True:
        os.wait()
except ChildProcessError:
    print("no child")
with Lab("pair") as lab:
    print(len(lab.hosts))
"""
    assert run_script(waited) == "no child\n2\n"


def test_a_program_that_opens_no_lab_has_no_nursery() -> None:
    script = "from labctl import Lab, Topology; from labctl.lab.client.nursery import nurseries; print(nurseries.all)"
    assert run_script(script) == "()\n"


def test_a_nursery_that_cannot_import_labctl_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with other_umask():
        monkeypatch.setattr("labctl.lab.client.nursery.search_path", lambda: ["/nonexistent"])
        with pytest.raises(MachineError, match=r"(?s)cannot start its keeper.*No module named 'labctl'"):
            Lab.open(pair_plan())
