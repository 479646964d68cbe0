"""Topology files of any size for the suites on growth."""

from __future__ import annotations

from random import Random

HOSTS_PER_SWITCH = 500  # a bridge takes at most 1,023 ports, and each one more slows the next down


def office(hosts: int) -> str:
    """Hosts in networks of at most 500, and a router with an address in each."""
    networks = range(1, (hosts - 1) // HOSTS_PER_SWITCH + 2)
    counts = [hosts // len(networks) + (number <= hosts % len(networks)) for number in networks]
    lines = ["name: office", "hosts:"]
    lines += [f"  h{number}: {{count: {count}}}" for number, count in zip(networks, counts, strict=True)]
    lines += ["routers:", "  gw: {}", "networks:"]
    lines += [f"  lan{number}: {{members: [h{number}, gw]}}" for number in networks]
    return "\n".join(lines) + "\n"


def written_out(hosts: int) -> str:
    """Every host and every link on a line of its own, a third of the links with impairments; one switch for 500."""
    switches = (hosts - 1) // HOSTS_PER_SWITCH + 1
    lines = ["name: written-out", "hosts:", *(f"  h{number}: {{}}" for number in range(hosts)), "switches:"]
    lines += [f"  s{number}: {{}}" for number in range(switches)]
    lines.append("links:")
    for number in range(hosts):
        ends = f"[h{number}, s{number % switches}]"
        lines.append(f"  - {ends}" if number % 3 else f"  - {{ends: {ends}, delay: 2ms, loss: 0.5%}}")
    lines += [f"  - [s0, s{number}]" for number in range(1, switches)]
    return "\n".join(lines) + "\n"


def routers(nodes: int) -> str:
    """Routers in a row, each with a network of 49 hosts."""
    count = max(2, nodes // 50)
    lines = ["name: routers", "hosts:", *(f"  h{number}: {{count: 49}}" for number in range(count)), "routers:"]
    lines += [f"  r{number}: {{}}" for number in range(count)]
    lines += ["networks:", *(f"  lan{number}: {{members: [h{number}, r{number}]}}" for number in range(count))]
    lines += ["links:", *(f"  - [r{number - 1}, r{number}]" for number in range(1, count))]
    return "\n".join(lines) + "\n"


def routed(routers: int, hosts: int) -> str:
    """A connected network of routers, the same each time, with some more links than a tree, and hosts at its edge."""
    random = Random(1)
    lines = ["name: routed", "hosts:", *(f"  h{number}: {{}}" for number in range(hosts)), "routers:"]
    lines += [f"  r{number}: {{}}" for number in range(routers)]
    lines.append("links:")
    lines += [f"  - [r{random.randrange(max(0, number - 20), number)}, r{number}]" for number in range(1, routers)]
    lines += ["  - [r{}, r{}]".format(*random.sample(range(routers), 2)) for _ in range(routers // 5)]
    lines += [f"  - [h{number}, r{number * routers // hosts}]" for number in range(hosts)]
    return "\n".join(lines) + "\n"
