"""`Host.netns()`: a thread of this process on a host; in the kernel where it may, else as far as Python sockets go."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labctl.api import sockets
from labctl.api.hooks import HOOKS, Frame
from labctl.api.host_socket import Addressing
from labctl.api.journal import ActivityKind
from labctl.errors import MachineError
from labctl.kernel import visiting

if TYPE_CHECKING:
    from labctl.api.core import Core
    from labctl.kernel.visiting import Home, Place

RESOLV_CONF = "# A lab has no name server; names are in /etc/hosts.\noptions timeout:1 attempts:1\n"


class Visits:
    """The places of a lab's hosts for threads of this process; owns their descriptors. Thread-safe."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._places: dict[str, Place | None] = {}
        self._lock = threading.Lock()

    def visit(self, node: str, *, strict: bool) -> Visit:
        """A new visit, to be begun by `with`."""
        return Visit(self._core, self, node, strict)

    def place(self, node: str) -> Place | None:
        """None when threads of this process cannot go there and come back."""
        with self._lock:
            if node not in self._places:
                network = self._core.engine.network(node)
                self._places[node] = visiting.make_place(network, node, self._files(node), f"host {node}")
            return self._places[node]

    def close(self) -> None:
        """Let go of all places. A thread that is on a host finds its way home by itself."""
        places, self._places = self._places, {}
        for place in places.values():
            if place is not None:
                place.close()

    def _files(self, node: str) -> dict[str, str]:
        lines = "".join(f"{address}\t{names}\n" for address, names in self._core.names_as_written(node))
        files = {"/etc/hosts": lines, "/etc/resolv.conf": RESOLV_CONF}
        planned = self._core.plan.nodes
        nat = any(one.nat for one in planned)  # the machine's name servers, as the keeper has made them out
        for path in files:
            if (nat and path != "/etc/hosts") or any(one.name == node and one.tree.places(path) for one in planned):
                with open(sockets.open_file(self._core, node, path, os.O_RDONLY), encoding="utf-8") as file:
                    files[path] = file.read()
        return files


class Visit:
    """What `Host.netns()` gives: for one `with`, of one thread."""

    def __init__(self, core: Core, visits: Visits, node: str, strict: bool) -> None:
        self._core = core
        self._visits = visits
        self._node = node
        self._strict = strict
        self._thread: int | None = None
        self._home: Home | None = None
        self._frame: Frame | None = None

    def __repr__(self) -> str:
        where = "not begun" if self._thread is None else f"thread {self._thread}"
        return f"<visit to {self._node} of lab {self._core.model.name}, {where}>"

    @property
    def in_kernel(self) -> bool:
        """Whether the thread itself is there, with all that it does; else only the Python sockets that it makes are."""
        return self._home is not None

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError(f"{self!r} has begun already; call netns() again for another one")
        with self._core.journal.noting(self._node, ActivityKind.NETNS, "enter") as entry:
            self._core.check_open(f"enter {self._node}")
            place = self._visits.place(self._node)
            if place is not None:
                self._home = visiting.enter(place)
            elif self._strict:
                raise MachineError(_refusal(self._node))
            self._frame = Frame(Addressing(self._core, self._node), in_kernel=place is not None)
            HOOKS.enter(self._frame)
            entry.end("" if place is not None else "Python's sockets only")
        self._thread = threading.get_ident()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread != threading.get_ident():
            raise RuntimeError(f"{self!r} is to be ended by the thread that began it")
        self._thread = None
        home, self._home = self._home, None
        frame, self._frame = self._frame, None
        if home is not None:
            visiting.leave(home)
        if frame is not None:
            HOOKS.leave(frame)


def _refusal(node: str) -> str:
    return (
        f"host {node}: this thread could not come back from there: setns(2) asks for CAP_SYS_ADMIN in the user "
        f"namespace that owns the network namespace it is in now. Run as root, or let the process be in a network of "
        f"its own from the start: labctl.enter_private_network(), for pytest the setting `labctl_private_network = "
        f"true`. Without strict=True, Python's sockets and names are the host's all the same."
    )
