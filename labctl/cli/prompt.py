"""A prompt on a terminal: history, completion, and Ctrl-C that interrupts a command and never the prompt."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from labctl.cli.exit import complain
from labctl.errors import describe_errno

HISTORY_LINES = 2000
_SOON_S = (0.02, 0.3, 1.0)  # until readline waits: the last ones on a busy machine


@contextmanager
def interruptible() -> Iterator[None]:
    """A context in which each Ctrl-C raises KeyboardInterrupt, also if labctl's own handler would end the command."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def signals_end_the_prompt() -> Iterator[None]:
    """A context in which a signal ends `input()` also if it arrives just before readline waits for a key.

    readline runs Python's handlers only when a signal interrupts its wait. A thread interrupts it once more, by
    SIGWINCH, which readline expects at any time.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    prompt = threading.get_ident()

    def wake() -> None:
        while numbers := os.read(reading, 4096):  # signal.set_wakeup_fd writes each signal as a byte
            if set(numbers) == {signal.SIGWINCH}:
                continue
            for pause_s in _SOON_S:
                if select.select([reading], [], [], pause_s)[0]:
                    break  # another signal, or the end
                signal.pthread_kill(prompt, signal.SIGWINCH)

    thread = threading.Thread(target=wake, name="labctl-prompt", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


def is_interrupt(error: BaseException) -> bool:
    """Return whether this is Ctrl-C, and not another signal that ends the command."""
    return isinstance(error, KeyboardInterrupt) and getattr(error, "number", signal.SIGINT) == signal.SIGINT


def history_file(name: str) -> Path:
    """Return the file of a prompt's history, in $XDG_STATE_HOME/labctl or ~/.local/state/labctl."""
    home = os.environ.get("XDG_STATE_HOME")
    base = Path(home) if home and os.path.isabs(home) else Path.home() / ".local" / "state"
    return base / "labctl" / f"{name}_history"


@contextmanager
def history(name: str) -> Iterator[None]:
    """A context in which the prompt has a history, read at the start and saved at the end. Report a failure once."""
    import readline

    path = history_file(name)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
    except OSError as error:
        complain(f"{name}: cannot use the history {path}: {describe_errno(error.errno or 0)}.")
        yield
        return
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        try:
            readline.write_history_file(path)
        except OSError as error:
            complain(f"{name}: cannot save the history {path}: {describe_errno(error.errno or 0)}.")


@contextmanager
def completion(candidates: Callable[[str, str], Sequence[str]], delimiters: str = " \t") -> Iterator[None]:
    """A context in which Tab offers `candidates(line, word)`: the line up to the cursor, and its last word."""
    import readline

    offered: list[str] = []

    def complete(text: str, state: int) -> str | None:
        if state == 0:
            offered[:] = candidates(readline.get_line_buffer()[: readline.get_endidx()], text)
        return offered[state] if state < len(offered) else None

    before, delimiters_before = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(complete)
    readline.set_completer_delims(delimiters)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
        readline.set_completer_delims(delimiters_before)
