"""A topology that exists in the kernel: the keeper, its protocol and the `Lab` handle."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labctl.lab.caller import Caller, CallerEnded, CallImpossible, Pending
    from labctl.lab.handle import Lab
    from labctl.lab.process import Process

__all__ = ["CallImpossible", "Caller", "CallerEnded", "Lab", "Pending", "Process"]


_HOMES: Mapping[str, tuple[str, ...]] = {
    "caller": ("CallImpossible", "Caller", "CallerEnded", "Pending"),
    "handle": ("Lab",),
    "process": ("Process",),
}


def __getattr__(name: str) -> Any:
    # boot and the keeper are in this package too, and start the faster for not importing their owner's side.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"labctl.lab.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
