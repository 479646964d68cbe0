"""Effects of faults cross the keeper's socket unchanged."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from labctl.lab.protocol import BeginFault, Request, decode, encode
from labctl.plan.fault_effects import (
    AddressRemoved,
    AnyEffect,
    FaultPlan,
    FramesDropped,
    InterfaceDown,
    MtuChanged,
    NamesHidden,
    ProgramSignalled,
    RouteRemoved,
)


@pytest.mark.parametrize(
    "effect",
    [
        InterfaceDown("h1", "eth0", 0.5, 3),
        FramesDropped((("h1", "eth0"),), ("02:00:00:00:00:01",), (ip_address("fd00::1"),), resolves=True),
        FramesDropped((("h1", "eth0"),), destinations=(ip_network("10.0.0.0/8"),)),
        MtuChanged("h1", "eth0", 1280),
        AddressRemoved("h1", ip_address("10.0.0.1")),
        RouteRemoved("h1", ip_network("::/0"), ip_address("fd00::1")),
        RouteRemoved("h1", ip_network("0.0.0.0/0")),
        ProgramSignalled("h1", "web", kills=True),
        NamesHidden(("h1",), ("h2",)),
    ],
)
def test_an_effect_reaches_the_keeper(effect: AnyEffect) -> None:
    request = BeginFault(FaultPlan("down", "down h1", ("h1",), (effect,)), "cut", 1.5, True)
    assert decode(encode(request), Request) == request
