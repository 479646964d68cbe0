"""Mininet (Debian's package) with Linux bridges and without a controller."""

from __future__ import annotations

from mininet.net import Mininet  # type: ignore[import-not-found]  # not a dependency of the tests
from mininet.nodelib import LinuxBridge  # type: ignore[import-not-found]
from mininet.topo import SingleSwitchTopo, Topo  # type: ignore[import-not-found]

from tests.benchmarks.builders.contract import OpenSocket, in_namespace, serve


class PeerMininet:
    def build(self, shape: str, size: int) -> None:
        topology = SingleSwitchTopo(size)
        if shape == "pair":
            topology = Topo()
            topology.addLink(topology.addHost("h1"), topology.addHost("h2"))
        self._network = Mininet(topology, switch=LinuxBridge, controller=None)
        self._network.start()

    def ends(self) -> tuple[OpenSocket, OpenSocket, str]:
        hosts = self._network.hosts
        first, last = (in_namespace(f"/proc/{hosts[at].pid}/ns/net") for at in (0, -1))
        return first, last, hosts[-1].IP()

    def close(self) -> None:
        self._network.stop()


if __name__ == "__main__":
    serve(PeerMininet())
