"""Services of the lab as programs of a scenario: the topology file starts them, steps look at, signal and stop them.

The keeper starts a service again where its `restart` says so. A service has ended when it will not be started again; it
has failed when its last run ended with something else than status 0 and it does not run now, or when `TOO_OFTEN` of its
runs ended so: whether the next one runs at the end of the scenario is chance.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from labctl.errors import InputError
from labctl.lab.description import ProcessNews, ProcessState
from labctl.scenario.listener import Stream
from labctl.scenario.programs import Command, Heard, Program, describe_status
from labctl.scenario.waiting import Scope, Watcher

if TYPE_CHECKING:
    from labctl.lab.handle import Lab
    from labctl.lab.watched_process import WatchedProcess
    from labctl.plan.operations import Plan
    from labctl.topology.service import Service as Planned

STREAMS = (Stream.STDOUT, Stream.STDERR)  # as the log numbers them
TOO_OFTEN = 3  # failed runs that no step has asked for, since the scenario's start or the last look that it runs


class Service(Program):
    """A service that runs, or has run. What is said of `Program` holds, but that restarts are not its end."""

    kind = "service"

    def __init__(self, command: Command, process: WatchedProcess, condition: threading.Condition) -> None:
        super().__init__(command, process, condition)
        self._process = process
        self._news = process.news
        self._failures = 0
        self._last_failure = ""

    @property
    def state(self) -> str:
        """As a program's; for one that waits to be started again, how it ended the last time."""
        if self._news.state is ProcessState.WAITING:
            return f"{_described(self._news)} and is waiting to be started again"
        return _described(self._news) if self._news.state is ProcessState.ENDED else "running"

    @property
    def is_running(self) -> bool:
        return not self.gone and self._news.state in (ProcessState.RUNNING, ProcessState.STOPPING)

    @property
    def has_failed(self) -> bool:
        return self._failures >= TOO_OFTEN or (not self.is_running and self._news.returncode not in (None, 0))

    def seen_running(self) -> None:
        self._failures = 0

    @property
    def failure(self) -> str:
        if self.is_running and self._failures >= TOO_OFTEN:
            return f"{self._last_failure}, was started again, and failed {self._failures} times"
        return self.state

    @property
    def restarts(self) -> int:
        """How often it has been started again."""
        return self._news.restarts

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._process.fileno(),)

    def signal(self, number: int, *, group: bool) -> bool:
        return self.is_running and self._process.signal(number, group=group)

    def stop(self, number: int, scope: Scope) -> bool:
        """The keeper ends it, and does not start it again."""
        self.asked_to_end = True
        self._process.stop(number)
        return self.wait_end(scope)

    def follow(self, watcher: Watcher, heard: Heard) -> None:
        """Read what it has written, and begin to read what it writes and to hear how it is doing."""
        self._hear(self._process.news, heard)
        self._read(heard)
        watcher.add(self._process.fileno(), lambda: self._take_news(heard), lambda: self._read(heard))

    def _take_news(self, heard: Heard) -> bool:
        if self._process.take_news(lambda news: self._hear(news, heard)):
            return True
        if self.status is None:
            with self._condition:
                self.gone = True
                self._condition.notify_all()
        return False

    def _hear(self, news: ProcessNews, heard: Heard) -> None:
        if news.is_log_complete:
            self._read(heard)
        with self._condition:
            has_just_failed = news.state is ProcessState.WAITING and self._news.state is not ProcessState.WAITING
            if has_just_failed and news.returncode not in (None, 0) and not self.asked_to_end:
                self._failures, self._last_failure = self._failures + 1, _described(news)
            if news.restarts > self._news.restarts:  # what was done to the run before is over
                self.asked_to_end = self.accounted_for = False
            self._news = news
            if news.is_log_complete:
                self.status = news.returncode if news.returncode is not None else 0
            self._condition.notify_all()

    def _read(self, heard: Heard) -> None:
        for stream, data in self._process.read():
            self._take(STREAMS[stream], data, heard)


def watched(lab: Lab, plan: Plan, condition: threading.Condition) -> Iterator[tuple[str, Service]]:
    """The plan's services, by NODE/SERVICE, that have been started; the caller closes them."""
    from labctl.plan.services import services_of

    for key, (node, service) in services_of(plan.nodes).items():
        try:
            process = lab.watch_process(node, service.name)
        except InputError:
            continue  # in a lab that stays: ended, and forgotten since
        yield key, Service(_command(node, service), process, condition)


def _command(node: str, service: Planned) -> Command:
    env = dict(service.environment)
    return Command(
        node,
        service.name,
        service.argv,
        env,
        service.directory,
        None,
        "the topology's services",
        tty=service.tty,
        user=service.user,
    )


def _described(news: ProcessNews) -> str:
    return "ended" if news.returncode is None else describe_status(news.returncode)
