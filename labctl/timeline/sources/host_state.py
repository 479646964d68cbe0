"""The state of hosts after a failure, to explain it: interfaces, routes, packet filters, sockets, counters.

Reading a host takes some 2 ms, so it is read when something has failed, and not while a lab is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from labctl.clock import monotonic_ns
from labctl.errors import KernelError, LabctlError
from labctl.kernel.nftables import NETLINK_NETFILTER, dropping_rules
from labctl.observe import network
from labctl.observe.impairments import impairments
from labctl.observe.network import Observable, Transport
from labctl.structs import Struct
from labctl.timeline.events import AnyEvent, Counter, FilterRule, HostState, InterfaceState, RouteState, Source
from labctl.timeline.sources.sockets import SocketSamples

HOSTS_MAX = 16  # that are read
# Counters (nstat(8), with the dot of `labctl.observe.network`) that explain failures.
_COUNTERS = (
    *("TcpExt.ListenOverflows", "TcpExt.ListenDrops", "TcpExt.TCPReqQFullDrop", "TcpExt.IPReversePathFilter"),
    *("TcpExt.TCPAbortOnClose", "TcpExt.TCPAbortOnData", "Ip.InNoRoutes", "Ip.OutNoRoutes"),
    *("Udp.RcvbufErrors", "Udp6.RcvbufErrors", "Udp.NoPorts", "Udp6.NoPorts"),
)


class FailureState(Struct, frozen=True):
    """What was read of hosts after a failure."""

    states: tuple[HostState, ...]
    events: tuple[AnyEvent, ...]  # samples of their sockets, and counters


def read(lab: Observable, nodes: Iterable[str], counters_since_ns: int | None = None) -> FailureState:
    """Read the first HOSTS_MAX of these nodes. Never raises LabctlError: what the kernel refuses is left out.

    `counters_since_ns` is when the nodes were created, with all counters at 0; None: they existed before, and their
    counters are not read.
    """
    states: list[HostState] = []
    events: list[AnyEvent] = []
    for node in list(nodes)[:HOSTS_MAX]:
        with suppress(LabctlError, RuntimeError):  # the lab has ended, or another thread has closed it
            states.append(host_state(lab, node))
            found = network.sockets(lab, node, (Transport.TCP, Transport.UDP))
            events += SocketSamples().changed(node, monotonic_ns(), found)
            if counters_since_ns is not None:
                events += _counters(lab, node, counters_since_ns)
    return FailureState(tuple(states), tuple(events))


def host_state(lab: Observable, node: str) -> HostState:
    """Read the configuration of a node's network.

    Raises: KernelError.
    """
    queueing = {name: str(found) for name, found in impairments(lab, node).items()}
    routes = [RouteState(str(route.destination), str(route)) for route in network.routes(lab, node)]
    return HostState(
        at_ns=monotonic_ns(),
        host=node,
        interfaces=tuple(
            InterfaceState(link.name, link.up, link.carrier, link.mtu, queueing.get(link.name, ""))
            for link in network.links(lab, node)
        ),
        routes=tuple(routes),
        filters=_filters(lab, node),
    )


def _filters(lab: Observable, node: str) -> tuple[FilterRule, ...]:
    """Return the rules that drop packets; none on a kernel without nf_tables."""
    with suppress(KernelError), network.netlink_socket(lab, node, NETLINK_NETFILTER, "list its packet filters") as sock:
        return tuple(
            FilterRule(rule.table, rule.chain, rule.hook, rule.verdict, rule.packets) for rule in dropping_rules(sock)
        )
    return ()


def _counters(lab: Observable, node: str, since_ns: int) -> Iterator[Counter]:
    values, at_ns = network.counters(lab, node).values, monotonic_ns()
    for name in _COUNTERS:
        if delta := values.get(name, 0):
            yield Counter(
                at_ns=at_ns,
                host=node,
                source=Source.KERNEL,
                seq=0,
                name=name.replace(".", ""),
                delta=delta,
                since_ns=since_ns,
            )
