"""What `Host.start(ready=...)` may be: a port or a path that the program listens on, or a line of its output."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.api.core import Address, Core
    from labctl.topology.endpoints import ListeningAt

    Ready = ListeningAt | re.Pattern[str]


def parse_ready(ready: int | str | re.Pattern[str]) -> ListeningAt | re.Pattern[str]:
    """8000, "tcp/8000", "udp/53", "tcp/10.0.0.1:80", "unix:/run/x", or a compiled pattern. ValueError, TypeError."""
    from labctl.topology.endpoints import Protocol, parse_listening

    if isinstance(ready, re.Pattern):
        if not isinstance(ready.pattern, str):
            raise TypeError(f"ready={ready!r}: output is text; compile the pattern from a str")
        return ready
    if isinstance(ready, bool) or not isinstance(ready, int | str):
        raise TypeError(f'ready={ready!r}: a port (8000), "udp/53", "unix:/run/x", or re.compile(...) for its output')
    where = parse_listening(f"tcp/{ready}" if isinstance(ready, int) else re.sub(r"\A(tcp|udp|unix):", r"\1/", ready))
    if where.port == 0 and where.protocol is not Protocol.UNIX:
        raise ValueError(f"ready={ready!r}: nothing listens on port 0, which stands for one of the kernel's choice")
    return where


def listening(core: Core, node: str, where: Ready | None) -> frozenset[int]:
    """The inodes of the sockets of the node that listen (UDP: are bound) there; none for a pattern of output.

    What listens before a program is started says nothing of the program, so both times are compared.
    """
    if where is None or isinstance(where, re.Pattern):
        return frozenset()
    from labctl.errors import NotFound
    from labctl.observe.readiness import is_at
    from labctl.observe.sockets import Transport, sockets

    def addresses_of(name: str) -> tuple[Address, ...]:
        try:
            return core.addresses_on(node, name)
        except NotFound:
            return ()

    found = sockets(core.engine, node, (Transport(where.protocol),))
    return frozenset(each.inode for each in found if each.listening and is_at(each, where, addresses_of))


def not_ready(ready: Ready, before: frozenset[int], how: str) -> str:
    """`was to listen on tcp/8000 before it is used; that was not so within 10 s`; `before` listened there already."""
    if isinstance(ready, re.Pattern):
        return f"was to write a line with {ready.pattern!r} before it is used; {how}"
    taken = "; another socket listened there before it was started" if before else ""
    return f"was to listen on {ready} before it is used; {how}{taken}"
