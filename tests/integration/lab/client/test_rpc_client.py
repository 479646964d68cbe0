"""Requests to a keeper: from many threads, late, interrupted, and after its end."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from labctl.errors import DeadlineExceeded, LabGone
from labctl.lab.client.handle import Lab
from labctl.lab.client.rpc_client import KeeperStopped
from tests.labs import WAIT_S, keeper_of, output, pair_plan, run


@pytest.mark.stock_kernel
def test_a_lab_whose_keeper_is_killed_says_that_it_is_gone() -> None:
    with Lab.open(pair_plan()) as lab:
        process = lab.spawn("server", ["sleep", "1000"])
        os.kill(keeper_of(lab), signal.SIGKILL)
        with pytest.raises(LabGone, match="sleep on server"):
            process.wait(WAIT_S)
        with pytest.raises(LabGone, match="its keeper has ended"):
            lab.spawn("server", ["true"])
        assert repr(lab) == "<Lab pair, gone>"
        process.close()


def test_a_lab_that_does_not_answer_in_time_says_what_was_asked() -> None:
    with Lab.open(pair_plan()) as lab:
        keeper = keeper_of(lab)
        os.kill(keeper, signal.SIGSTOP)
        lab._client.timeout_s = 0.2
        with pytest.raises(DeadlineExceeded, match=r"could not start true on server within 0.2 s"):
            lab.spawn("server", ["true"])
        os.kill(keeper, signal.SIGCONT)
        lab._client.timeout_s = WAIT_S
        assert run(lab, "client", "echo", "the late answer is not mine").output == "the late answer is not mine\n"


def test_many_threads_share_one_lab() -> None:
    with Lab.open(pair_plan()) as lab:
        outputs: list[str] = []

        def work(number: int) -> None:
            node = ("client", "server")[number % 2]
            outputs.extend(output(lab, node, "echo", f"{number}.{turn}").strip() for turn in range(5))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outputs) == sorted(f"{number}.{turn}" for number in range(6) for turn in range(5))


def test_closing_wakes_a_thread_that_waits_for_an_answer() -> None:
    lab = Lab.open(pair_plan())
    os.kill(keeper_of(lab), signal.SIGSTOP)
    raised: list[Exception] = []

    def ask() -> None:
        try:
            lab.spawn("server", ["true"])
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not lab._client.is_busy:
        thread.join(0.01)
    lab.close()
    thread.join(WAIT_S)
    assert "closed" in str(raised[0])


def test_a_stopped_keeper_is_reported_before_the_deadline() -> None:
    with Lab.open(pair_plan()) as lab:
        keeper = keeper_of(lab)
        os.kill(keeper, signal.SIGSTOP)
        try:
            with pytest.raises(KeeperStopped, match=rf"keeper, process {keeper}, is stopped.*kill -CONT {keeper}"):
                lab.describe()
        finally:
            os.kill(keeper, signal.SIGCONT)
        assert lab.describe().keeper_pid  # the late reply to the first request is dropped


def test_a_forked_process_cannot_send_requests() -> None:
    with Lab.open(pair_plan()) as lab:
        child = os.fork()
        if child == 0:
            try:
                lab.describe()
            except RuntimeError as error:
                os._exit(0 if "was forked" in str(error) else 2)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
