"""How long a star takes to build: the executor beside `ip -batch` and beside an import of pyroute2, in one run.

    python tests/benchmarks/build.py [HOSTS ...]        default: 10 100 1000

Ratios are what counts; milliseconds are this machine's. Needs root or user namespaces; not part of the tests. Each
build is in a process of its own, in namespaces of its own; `ip` (iproute2) is left out where it is not installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from labctl.kernel import rtnl  # noqa: E402
from labctl.lab.keeper.executor import execute  # noqa: E402
from labctl.lab.keeper.nodes import NodeTable  # noqa: E402
from labctl.plan.operations import MakeNode  # noqa: E402
from tests.integration.inside import enter_own_namespaces  # noqa: E402
from tests.integration.networks import star  # noqa: E402

REPEATS = {10: 9, 100: 5, 1000: 3}


def in_a_child(measure: Callable[[], float]) -> float:
    """What `measure` returns (seconds), run in a child with namespaces of its own, which end with it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        enter_own_namespaces()
        os.write(writing, repr(measure()).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        told = file.read()
    os.waitpid(child, 0)
    return float(told)


def build_by_executor(hosts: int) -> float:
    operations = star(hosts)
    began = time.perf_counter()
    nodes = NodeTable()
    execute(operations, nodes)
    took = time.perf_counter() - began
    nodes.close()
    return took


def build_by_ip_batch(hosts: int) -> float:
    """The namespaces, with `lo` up, are made by the executor's own means: `ip` has none without a bind mount each."""
    nodes = NodeTable()
    began = time.perf_counter()
    execute([operation for operation in star(hosts) if isinstance(operation, MakeNode)], nodes)
    subprocess.run(
        ["ip", "-batch", "-"],
        input="".join(_links(hosts, nodes)),
        text=True,
        pass_fds=[nodes[node].fd for node in nodes],
        check=True,
    )
    for number in range(1, hosts + 1):
        with nodes.entered(f"h{number}"):
            _ip_batch(_host(number))
    with nodes.entered("s1"):
        _ip_batch(_switch(hosts))
    took = time.perf_counter() - began
    nodes.close()
    return took


def _ip_batch(lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)


def _links(hosts: int, nodes: NodeTable) -> list[str]:
    switch = f"/proc/self/fd/{nodes['s1'].fd}"
    return [
        f"link add port{n} netns {switch} type veth peer name eth0 netns /proc/self/fd/{nodes[f'h{n}'].fd}\n"
        for n in range(1, hosts + 1)
    ]


def _host(n: int) -> str:
    return (
        "link set eth0 addrgenmode none\n"
        f"addr add 10.0.{n >> 8}.{n & 255}/16 dev eth0\n"
        f"addr add fd00::{n:x}/64 dev eth0 nodad\n"
        f"addr add fe80::{n:x}/64 dev eth0 nodad\n"
        "link set eth0 up\n"
    )


def _switch(hosts: int) -> str:
    ports = "".join(f"link set port{n} master br0 up\n" for n in range(1, hosts + 1))
    return f"link add br0 type bridge mcast_snooping 0\n{ports}link set br0 up\n"


def import_alone() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import pyroute2"], check=True)
    return time.perf_counter() - began


def main(sizes: list[int]) -> None:
    imported = median(import_alone() for _ in range(3))
    loaded = time.perf_counter()
    rtnl.load_message_classes()
    loaded = time.perf_counter() - loaded
    build_by = {"executor": build_by_executor}
    if shutil.which("ip"):
        build_by["ip -batch"] = build_by_ip_batch
    alone = f"a Python that only imports pyroute2: {imported * 1000:.0f} ms"
    print(f"{alone}; its message classes here: {loaded * 1000:.0f} ms")  # noqa: T201
    for hosts in sizes:
        took = {}
        for name, build in build_by.items():
            measure = partial(build, hosts)
            took[name] = median(in_a_child(measure) for _ in range(REPEATS.get(hosts, 3)))
        ours = took["executor"]
        line = f"star:{hosts}: {ours * 1000:.1f} ms, {ours / hosts * 1000:.2f} ms a host"
        line += f", {ours / imported:.2f} x the import"
        if "ip -batch" in took:
            line += f"; ip -batch {took['ip -batch'] * 1000:.0f} ms, {took['ip -batch'] / ours:.1f} x ours"
        print(line)  # noqa: T201


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [10, 100, 1000])
