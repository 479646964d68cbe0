"""The keeper's book of a change: one client at a time changes a lab, whole or not at all, whatever becomes of it.

A change is more than one request: services are stopped, the network is reconciled, services are started and waited for.
What the client does meanwhile is noted; when it goes before it has said that all is done, the lab is put back here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from labctl.errors import LabctlError, LabError
from labctl.lab.front import Client
from labctl.lab.host import Host
from labctl.lab.protocol import Done, Failed, Reconcile, StartProcess
from labctl.lab.roster import Roster
from labctl.lab.timers import Timers
from labctl.printable import visible
from labctl.typed import msgspec

ATTEMPTS, PAUSE_S = 25, 0.2  # at putting back what there was

Key = tuple[str, str]  # node, name of a detached process
Told = Callable[[list[str]], None]  # hears what could not be put back


@dataclass(slots=True)
class Change:
    """What a client has done since it began, and what there was before."""

    client: Client
    before: Reconcile
    started: set[Key] = field(default_factory=set)
    stopped: dict[Key, StartProcess] = field(default_factory=dict)  # in the order in which they were
    is_being_undone: bool = False
    is_put_back: bool = False  # or is being so: what was started has ended


class Changes:
    """Who changes the lab, and who waits to. `state` is what the lab is, `reconcile` makes it another."""

    def __init__(
        self,
        roster: Roster,
        timers: Timers,
        hosts: dict[str, Host],
        state: Callable[[], Reconcile],
        reconcile: Callable[[Reconcile], None],
    ) -> None:
        self._roster = roster
        self._timers = timers
        self._hosts = hosts
        self._state = state
        self._reconcile = reconcile
        self._change: Change | None = None
        self._waiting: list[tuple[Client, int]] = []

    def begin(self, client: Client, number: int) -> None:
        """From here on the change is this client's, which hears of it when those before it have ended theirs."""
        self._waiting.append((client, number))
        self._next()

    def end(self, client: Client, number: int, *, keep: bool) -> None:
        """The client has done all, or wants back what there was; it hears when that is so. LabError: it began none."""
        change = self._change
        if change is None or change.client is not client or change.is_being_undone:
            raise LabError("lab: the end of a change that this client has not begun.")
        if keep:
            client.send(number, Done())
            self._forget()
        else:
            self._undo(change, lambda problems: client.send(number, _answer(problems)))

    def gone(self, client: Client) -> None:
        """A client has gone: a change that it has not ended is undone."""
        self._waiting = [each for each in self._waiting if each[0] is not client]
        change = self._change
        if change is not None and change.client is client and not change.is_being_undone:
            self._undo(change, lambda problems: sys.stderr.writelines(f"{visible(problem)}\n" for problem in problems))

    def check(self, client: Client) -> None:
        """LabError when another client is changing the lab."""
        if self._change is not None and self._change.client is not client:
            raise LabError("lab: another labctl is changing it. Try again when that has ended.")

    def has_started(self, client: Client, key: Key) -> None:
        """Note that the client has started a detached process."""
        if self._change is not None and self._change.client is client:
            self._change.started.add(key)

    def will_stop(self, client: Client, key: Key) -> None:
        """Note that the client is going to stop a detached process."""
        if self._change is not None and self._change.client is client:
            self._note_stop(self._change, key)

    def will_leave(self, node: str) -> None:
        """Note that a node leaves the lab, and its processes with it."""
        if self._change is not None and not self._change.is_being_undone:
            for key in self._roster.running_on(node):
                self._note_stop(self._change, key)

    def _note_stop(self, change: Change, key: Key) -> None:
        request = self._roster.request_of(key)
        if request is not None and key not in change.started:
            change.stopped.setdefault(key, msgspec.structs.replace(request, name=key[1]))

    def _undo(self, change: Change, told: Told) -> None:
        """End what was started, wait for what is ending, and then put back what there was."""
        change.is_being_undone = True
        keys = change.started | change.stopped.keys()
        left = set(keys)

        def ended(key: Key) -> None:
            left.discard(key)
            if not left:
                self._put_back(change, told, ATTEMPTS)

        for key in keys:
            if not self._roster.end(key, lambda _, key=key: ended(key)):  # type: ignore[misc]
                left.discard(key)
        if not left and not change.is_put_back:
            self._put_back(change, told, ATTEMPTS)

    def _put_back(self, change: Change, told: Told, attempts: int) -> None:
        """Put back what is not yet; what is refused (a host whose init has just been killed) is tried again."""
        change.is_put_back = True
        problems: list[str] = []
        try:
            if self._state() != change.before:
                self._reconcile(change.before)
        except (LabctlError, OSError) as error:
            problems.append(str(error))
        for key, request in reversed(tuple(change.stopped.items())):
            try:
                self._roster.start(self._hosts[key[0]], request)
                del change.stopped[key]
            except (LabctlError, OSError, KeyError) as error:
                problems.append(f"{'/'.join(key)}: {error}")
        if problems and attempts > 1:
            self._timers.after(PAUSE_S, lambda: self._put_back(change, told, attempts - 1))
            return
        told(problems)
        self._forget()

    def _forget(self) -> None:
        self._change = None
        self._next()

    def _next(self) -> None:
        if self._change is None and self._waiting:
            client, number = self._waiting.pop(0)
            self._change = Change(client, self._state())
            client.send(number, Done())


def _answer(problems: list[str]) -> Done | Failed:
    return Failed.of(LabError(" ".join(problems))) if problems else Done()
