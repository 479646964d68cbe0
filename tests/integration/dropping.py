"""Drop rules on a node of a `NetworkLab`, as the keeper sets them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from labctl.kernel.netlink import open_socket
from labctl.kernel.nftables import NETLINK_NETFILTER, Dropped, dropped
from labctl.lab.keeper.drop_rules import drop, undrop
from labctl.plan.drop_rules import DropRule
from tests.integration.inside import NetworkLab


@contextmanager
def dropping(lab: NetworkLab, node: str, *rules: DropRule) -> Iterator[None]:
    with lab.nodes.entered(node):
        for rule in rules:
            drop(rule, node)
    try:
        yield
    finally:
        with lab.nodes.entered(node):
            undrop(node)


def dropped_on(lab: NetworkLab, node: str) -> Dropped:
    with lab.nodes.entered(node), open_socket(NETLINK_NETFILTER) as sock:
        return dropped(sock)
