"""One command that is disturbed at a random moment, and what is found after it: never anything in between."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from labctl.errors import LabctlError
from labctl.lab.client import state_dir
from labctl.lab.client.lab_directory import NETNS_DIRECTORY
from labctl.lab.keeper import host_changes
from tests import leaks
from tests.faults.disturbed import (
    Commands,
    LabState,
    is_running,
    keeper_descriptors,
    lab_state,
    names_on_the_machine,
    pass_time,
    processes_of_no_lab,
    signal_sent,
    stopped,
    victims,
)
from tests.integration.detached import becomes
from tests.skips import ALL

LAB = "LAB"  # in the arguments: the lab's name
BUSY = "h1 runs busy: sleep 1000"
# How many processes are killed at random moments, for each of the modules with such tests.
KILLS = int(os.environ.get("LABCTL_KILLS", "60" if ALL else "18"))
HOW = {"kill": 14, "terminate": 3, "freeze": 3, "stop": 2}  # how often, relatively
FREEZE_S = 0.05
SETTLED_S = 1.5


def settled(name: str) -> LabState:
    """Its state once it stays as it is: the kernel gives link-local addresses in its own time, within a second."""
    last = [lab_state(name)]
    since = [time.monotonic()]

    def stays() -> bool:
        now = lab_state(name)
        if now != last[0]:
            last[0], since[0] = now, time.monotonic()
        return time.monotonic() - since[0] > SETTLED_S

    assert becomes(stays), "the lab does not settle"
    return last[0]


@dataclass(frozen=True, slots=True)
class Action:
    """A command that is disturbed: the lab before it (None: there is none) and after it, as topology files."""

    title: str
    arguments: tuple[str, ...]
    before: str | None = "first.yaml"
    ends_lab: bool = False
    first: str = "first.yaml"  # what the lab is made, or changed to, after it

    @property
    def changes(self) -> bool:
        """Whether it changes a running lab by a file, and so makes one anew where it has gone meanwhile."""
        return self.arguments[0] == "up" and self.before is not None


@dataclass(slots=True)
class Round:
    """One command that is disturbed, and what is found after it."""

    commands: Commands
    action: Action
    dice: random.Random
    clean: leaks.MachineState
    victim: str = ""
    how: str = ""

    @property
    def name(self) -> str:
        return self.commands.name

    def arguments(self) -> list[str]:
        return [self.name if word == LAB else word for word in self.action.arguments]

    def prepare(self) -> None:
        """The lab is as the action needs it, with a program of its own that is started again when it ends."""
        if self.action.before is None:
            if is_running(self.name):
                self.commands.done("down", self.name)
            return
        if not is_running(self.name):
            self.commands.done("up", self.action.before, "--name", self.name)
            self.start_program()

    def undisturbed(self) -> tuple[float, LabState | None]:
        """How long the action takes, and what the lab is then."""
        began = time.monotonic()
        self.commands.done(*self.arguments())
        took = time.monotonic() - began
        return took, settled(self.name) if is_running(self.name) else None

    def disturb(self, latest_s: float) -> None:
        """Start the action and do something to one of the processes at a random moment of it."""
        client = self.commands.start(*self.arguments())
        pass_time(client.pid, self.dice.uniform(0, latest_s))
        found = victims(client.pid, self.commands.state)
        self.victim = self.dice.choice(sorted(found))
        pid = self.dice.choice(found[self.victim])
        self.how = self.dice.choices(list(HOW), list(HOW.values()))[0]
        match self.how:
            case "kill":
                signal_sent(pid, signal.SIGKILL)
            case "terminate":
                signal_sent(pid, signal.SIGTERM)
            case "freeze":
                stopped(pid)
                pass_time(pid, FREEZE_S)
                signal_sent(pid, signal.SIGCONT)
            case "stop":
                stopped(pid)
                if self.victim == "client":
                    signal_sent(pid, signal.SIGKILL)
                elif is_running(self.name):
                    status, said = self.commands.ended(self.commands.start("down", "--force", self.name))
                    assert status == 0 or "No lab named" in said, said  # it has ended meanwhile
        if self.how == "stop" and self.victim != "client":
            pass_time(client.pid, 0.2)
            signal_sent(pid, signal.SIGCONT)  # of a lab that was still being made, or that ends with its owner
        self.commands.ended(client)

    @property
    def may_end_the_lab(self) -> bool:
        return self.victim in ("boot", "keeper") or self.how == "stop" or self.action.ends_lab

    def found(self, before: LabState | None, asked: LabState | None) -> str:
        """What there is now: clean, as it was, or as asked; AssertionError when it is anything else."""
        last: list[LabState | None] = [None]
        # `up` makes the lab anew when it ends meanwhile: then without programs that were started by hand.
        makes_anew = asked is not None and self.may_end_the_lab and self.action.changes
        anew = replace(asked, programs=asked.programs - {BUSY}) if asked and makes_anew else asked

        def is_decided() -> bool:
            try:
                last[0] = lab_state(self.name) if is_running(self.name) else None
            except LabctlError:
                return False  # it is just ending
            return last[0] in (before, asked, anew) or (last[0] is None and self.may_end_the_lab)

        assert becomes(is_decided), self.told(last[0], before, asked)
        while last[0] is not None:
            try:
                strays_end = becomes(lambda: processes_of_no_lab(self.name) <= self.clean.pids, 20)
            except (LabctlError, FileNotFoundError):  # it was just ending when it was looked at
                assert becomes(is_decided), self.told(last[0], before, asked)
                continue
            assert strays_end, leaks.left_behind_since(self.clean)
            return "as asked" if last[0] in (asked, anew) else "as it was"
        self.check_clean()
        return "as asked" if asked is None else "as it was" if before is None else "gone"

    def told(self, last: LabState | None, before: LabState | None, asked: LabState | None) -> str:
        if last is None:
            return "the lab is gone"
        differences = [f"{what}:\n{last.beside(one)}" for what, one in (("was", before), ("asked", asked)) if one]
        with state_dir.opened_state() as state:
            differences.append(f"the keeper's last words: {state_dir.last_words(state, self.name)}")
        return "the lab is neither as it was nor as asked\n" + "\n".join(differences)

    def check_clean(self) -> None:
        """Nothing is left of the lab, once a command has looked."""
        self.commands.done("ps")
        state = self.commands.state
        assert becomes(lambda: not set(os.listdir(state)) - {host_changes.DIRECTORY}), os.listdir(state)
        assert becomes(lambda: not names_on_the_machine(self.name)), names_on_the_machine(self.name)
        left: list[str] = []

        def is_clean() -> bool:  # other sessions' labs have names on the machine, too
            found = leaks.machine_state().left_behind_since(self.clean)
            left[:] = [each for each in found if NETNS_DIRECTORY not in each]
            return not left

        assert becomes(is_clean), left

    def next_commands_work(self, first: LabState) -> None:
        """The lab can be made, or changed, to the first topology, whatever it is; its hosts can be used."""
        was_running = is_running(self.name)
        self.commands.done("up", self.action.first, "--name", self.name)
        if was_running and self.action.title == "link":
            self.commands.done("link", "--lab", self.name, "r", "h3", "up")
        if BUSY not in lab_state(self.name).programs:
            self.start_program()
        self.commands.done("exec", "--lab", self.name, "h1", "--", "true")
        last: list[LabState] = []

        def is_first() -> bool:
            last[:] = [lab_state(self.name)]
            return last[0] == first

        assert becomes(is_first), last[0].beside(first)

    def start_program(self) -> None:
        self.commands.done(
            "start", "--lab", self.name, "--name", "busy", "--restart", "always", "h1", "--", "sleep", "1000"
        )


def disturbed_in_turn(
    commands: Commands,
    action: Action,
    seed: int,
    rounds: int,
    clean: leaks.MachineState,
    check: Callable[[Round], None] = lambda _: None,
) -> None:
    """Disturb the action so often, and judge what there is after each, `check` too; the lab is down at the end."""
    dice = random.Random(f"{seed} {action.title}")
    calibration = Round(commands, action, dice, clean)
    commands.done("up", action.first, "--name", commands.name)
    calibration.start_program()
    commands.done("exec", "--lab", commands.name, "h1", "--", "true")
    first = settled(commands.name)
    calibration.prepare()
    before = first if action.before else None
    took_s, asked = calibration.undisturbed()
    calibration.next_commands_work(first)
    descriptors = keeper_descriptors(commands.name)
    for number in range(rounds):
        one = Round(commands, action, dice, clean)
        one.prepare()
        try:
            one.disturb(took_s * 1.1)
            outcome = one.found(before, asked)
            check(one)
            one.next_commands_work(first)
            now = keeper_descriptors(commands.name)
            assert becomes(lambda: keeper_descriptors(commands.name) <= descriptors), now - descriptors
        except AssertionError as error:
            raise AssertionError(
                f"LABCTL_SEED={seed}: {action.title}, round {number}: {one.how} {one.victim}: {error}"
            ) from error
        _written(f"{action.title}\t{one.victim}\t{one.how}\t{outcome}")
    commands.done("down", commands.name)
    calibration.check_clean()


def _written(line: str) -> None:
    if path := os.environ.get("LABCTL_KILLS_FIGURES"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
