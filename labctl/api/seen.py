"""What `Host.sockets()` gives: the names of `labctl.observe.sockets` that programs need to look at it."""

from __future__ import annotations

from labctl.observe.sockets import Socket, State, Transport

__all__ = ["Socket", "State", "Transport"]
