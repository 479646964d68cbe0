"""What a person sees while a command works: after half a second, a line on the terminal's standard error, then nothing.

`labctl run` has a live view of its own (`report/progress.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from labctl.printable import printable
from labctl.report.screen import Ink, Screen, is_terminal, standard_error
from labctl.report.text import shorten
from labctl.unpatched import monotonic

_FIRST_LOOK_S = 0.5
_REFRESH_S = 0.1


class Waiting:
    """The line: what is being done, and for how long. `does` names the next part of the work."""

    def __init__(self, screen: Screen, doing: str) -> None:
        self._screen = screen
        self._doing = doing
        self._since_s = monotonic()
        self._over = threading.Event()

    def does(self, doing: str) -> None:
        """From now on the line shows this, with the time since the command began."""
        self._doing = doing

    def _paint(self) -> None:
        look = self._screen.look
        pause_s = _FIRST_LOOK_S
        while not self._over.wait(pause_s):
            pause_s = _REFRESH_S
            text = f"{printable(self._doing)} {look.glyphs.goes_on} {monotonic() - self._since_s:.1f} s"
            self._screen.show_status([look.paint(shorten(text, look.width - 1, look.glyphs.goes_on), Ink.FAINT)])


@contextmanager
def waiting(doing: str, screen: Screen | None = None) -> Iterator[Waiting]:
    """Around work that may take long. Write nothing to the terminal inside: the line would stay between.

    Without a terminal nothing is shown. The line is erased at the end, however that comes about.
    """
    screen = screen or standard_error()
    shown = Waiting(screen, doing)
    if not is_terminal(screen.stream):
        yield shown
        return
    painter = threading.Thread(target=shown._paint, name="labctl-waiting", daemon=True)
    painter.start()
    try:
        yield shown
    finally:
        shown._over.set()
        painter.join()
        screen.show_status([])
