"""What `Host.start(ready=...)` may be: a port or a path that the program listens on, or a line of its output."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.api.core import Core
    from labctl.topology.endpoints import ListeningAt

    Ready = ListeningAt | re.Pattern[str]


def parse_ready(ready: int | str | re.Pattern[str]) -> ListeningAt | re.Pattern[str]:
    """8000, "tcp/8000", "udp/53", "tcp/10.0.0.1:80", "unix:/run/x", or a compiled pattern. ValueError, TypeError."""
    from labctl.topology.endpoints import parse_listening

    if isinstance(ready, re.Pattern):
        if not isinstance(ready.pattern, str):
            raise TypeError(f"ready={ready!r}: output is text; compile the pattern from a str")
        return ready
    if isinstance(ready, bool) or not isinstance(ready, int | str):
        raise TypeError(f'ready={ready!r}: a port (8000), "udp/53", "unix:/run/x", or re.compile(...) for its output')
    if isinstance(ready, int):
        return parse_listening(f"tcp/{ready}")
    return parse_listening(re.sub(r"\A(tcp|udp|unix):", r"\1/", ready))


def is_listening(core: Core, node: str, where: ListeningAt | re.Pattern[str]) -> bool:
    """Whether a socket of the node listens (UDP: is bound) there."""
    from labctl.errors import NotFound
    from labctl.observe.readiness import listens

    assert not isinstance(where, re.Pattern)

    def addresses_of(name: str) -> tuple[object, ...]:
        try:
            return core.addresses_on(node, name)
        except NotFound:
            return ()

    return listens(core.engine, node, where, addresses_of)  # type: ignore[arg-type]


def wanted(ready: ListeningAt | re.Pattern[str]) -> str:
    """`listen on tcp/8000`, `write 'ready'`."""
    return f"write a line with {ready.pattern!r}" if isinstance(ready, re.Pattern) else f"listen on {ready}"
