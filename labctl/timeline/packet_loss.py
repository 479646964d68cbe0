"""What became of packets that were lost: the drop, filter, route, neighbour or interface that ended their way.

Each function returns text for people: sentences, or "" or () if the events do not show it. Without root the kernel
reports no drops: then the configuration that was read after the failure is all there is, and the text ends with
`(inferred)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from labctl.timeline.events import Drop, Flow, HostState, Packet
from labctl.timeline.evidence import Evidence

INFERRED = " (inferred)"
_REASONS = {  # enum skb_drop_reason
    "NETFILTER_DROP": "packet filter",
    "SOCKET_RCVBUFF": "receive buffer of the socket full",
    "SOCKET_FILTER": "filter of the socket",
    "NO_SOCKET": "no socket takes it",
    "IP_RPFILTER": "reverse path filter",
    "IP_INNOROUTES": "no route",
    "IP_OUTNOROUTES": "no route",
    "NEIGH_FAILED": "its next hop did not answer ARP or neighbour discovery",
    "NEIGH_QUEUEFULL": "too many packets wait for ARP or neighbour discovery",
    "TCP_CSUM": "bad checksum",
    "UDP_CSUM": "bad checksum",
    "QDISC_DROP": "the queue of the interface was full, or netem lost it",
}
_HOOKS = {  # that a packet passes on its way through a node, and of the target those of its answer, too
    "source": ("output", "postrouting"), "router": ("ingress", "prerouting", "forward", "postrouting"),
               "target": ("ingress", "prerouting", "input", "output", "postrouting")}  # fmt: skip


def why_lost(ev: Evidence, packets: Sequence[Packet], since_ns: int, until_ns: int) -> list[str]:
    """Return what the last node did with packets that it did not pass on or answer."""
    flow = packets[-1].header.flow
    assert flow is not None
    drops = [drop for drop in ev.drops_of(packets, flow, since_ns, until_ns) if drop.packet is not None or drop.header]
    if drops:
        return [drop_text(ev, drops[0])]
    last = ev.way(packets[-1])[-1]
    node = last.receiver or last.host
    is_target = ev.owner(flow.target, packets[-1].host) == node
    role = "target" if is_target and last.receiver else "source" if node == packets[-1].host else "router"
    if not last.receiver:
        others = [end.node for wire in ev.timeline.wires if wire.name == last.wire for end in wire.ends]
        for other in (node, *(each for each in others if each != node)):
            if cause := down(ev.state(other)):
                return [cause]
    if role == "router":
        asked = ev.unanswered_neighbours(node, since_ns, until_ns)
        if asked:
            return [neighbour(ev, node, address, times) for address, times in asked.items()]
        if way := no_way(ev, node, flow, until_ns):
            return way
        if cause := down(ev.state(node)):
            return [cause]
    why = filtering(ev.state(node), role) or (losing(ev.state(node)) if role != "target" else "")
    return [why] if why else []


def drop_text(ev: Evidence, drop: Drop) -> str:
    """Return which host dropped a packet, why and at which hook."""
    state = ev.state(drop.host)
    chains = (
        {f"{rule.table}, chain {rule.chain}" for rule in state.filters if rule.hook == drop.hook} if state else set()
    )
    place = f" at hook {drop.hook}" if drop.hook else ""
    words = _REASONS.get(drop.reason, "")
    details = [drop.reason, *(chains if len(chains) == 1 and drop.hook else ())]
    why = f"{words} ({'; '.join(details)})" if words else "; ".join(details)
    return f"{drop.host} dropped it{place}: {why}{INFERRED if drop.is_inferred else ''}"


def filtering(state: HostState | None, role: str) -> str:
    """Return which rule of the node has dropped packets, or may have; "" if it has none at the hooks of this role."""
    rules = [] if state is None else [rule for rule in state.filters if rule.hook in (*_HOOKS[role], "")]
    dropping = [rule for rule in rules if rule.verdict != "reject"]
    counted = [rule for rule in dropping if rule.packets]
    if state is None or not dropping or (not counted and all(rule.packets == 0 for rule in dropping)):
        return ""
    rule = max(counted, key=lambda rule: rule.packets or 0, default=dropping[0])
    did = f"has dropped {rule.packets} packets" if rule.packets else "drops packets"
    at = f" at hook {rule.hook}" if rule.hook else ""
    return f"the packet filter of {state.host}{at} {did} ({rule.table}, chain {rule.chain}){INFERRED}"


def rejecting(state: HostState | None, role: str) -> list[str]:
    """Return which rule of the node rejects packets (RST or an ICMP error) at the hooks of this role."""
    rules = [] if state is None else [rule for rule in state.filters if rule.verdict == "reject"]
    at_hook = [rule for rule in rules if rule.hook in _HOOKS[role]]
    if state is None or not at_hook:
        return []
    rule = at_hook[0]
    return [f"the packet filter of {state.host} rejects it at hook {rule.hook} ({rule.table}, chain {rule.chain})"]


def losing(state: HostState | None) -> str:
    """Return which interface of the node loses packets by netem, "" if none."""
    lossy = [] if state is None else [each for each in state.interfaces if "loss" in each.queueing]
    return f"{state.host}:{lossy[0].name} has {lossy[0].queueing}{INFERRED}" if state is not None and lossy else ""


def down(state: HostState | None) -> str:
    """Return which interfaces of the node are down, "" if none."""
    if state is None:
        return ""
    unset = [f"{state.host}:{each.name}" for each in state.interfaces if not each.is_up and each.name != "lo"]
    dead = [f"{state.host}:{each.name}" for each in state.interfaces if each.is_up and not each.has_carrier]
    if unset:
        return f"{' and '.join(unset)} {'is' if len(unset) == 1 else 'are'} down"
    return (
        f"{' and '.join(dead)} {'has' if len(dead) == 1 else 'have'} no carrier: the other end is down" if dead else ""
    )


def neighbour(ev: Evidence, node: str, address: str, times: int) -> str:
    """Return that no host answered the node's requests for a MAC address, and why if the events show it."""
    owner = ev.owner(address)
    how = "ARP" if ip_address(address).version == 4 else "neighbour discovery"
    often = "once" if times == 1 else f"{times} times"
    text = f"{node} asked {often} for the MAC address of {address} ({how}); no host answered"
    if not owner:
        return f"{text}: no host has this address"
    cause = down(ev.state(owner)) or down(ev.state(node)) or filtering(ev.state(owner), "target")
    return f"{text}: {cause}" if cause else f"{text}, though it is {owner}'s"


def no_way(ev: Evidence, node: str, flow: Flow, until_ns: int) -> list[str]:
    """Return that the node has no route to the target, or asked in vain for the MAC address of the next hop."""
    asked = ev.unanswered_neighbours(node, ev.timeline.started_ns, until_ns)
    if flow.target in asked:
        return [neighbour(ev, node, flow.target, asked[flow.target])]
    state = ev.state(node)
    if state is None or ip_address(flow.target).is_loopback:
        return []
    address = ip_address(flow.target)
    nets = [(ip_network(route.destination), route) for route in state.routes]
    ways = [(net, route) for net, route in nets if net.version == address.version and address in net]
    if not ways:
        routes = [route.text for net, route in nets if net.version == address.version and not net.is_multicast]
        shown = f"; its routes: {', '.join(routes[:4])}" if routes else ""
        return [f"{node} has no route to {flow.target}{shown}" + (f"; {cause}" if (cause := down(state)) else "")]
    best = max(ways, key=lambda way: way[0].prefixlen)[1]
    return (
        [f"{node} has the route {best.text}"]
        if best.text.split()[0] in ("unreachable", "prohibit", "blackhole")
        else []
    )
