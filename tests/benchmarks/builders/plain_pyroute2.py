"""pyroute2 as its documentation shows it: `netns.create`, a `NetNS` for each node, a veth pair that is moved."""

from __future__ import annotations

from pyroute2 import IPRoute, NetNS, netns  # type: ignore[import-untyped]

from tests.benchmarks.builders.contract import OpenSocket, address, in_namespace, serve


class PlainPyroute2:
    def build(self, shape: str, size: int) -> None:
        self._hosts = [f"h{number}" for number in range(1, size + 1)]
        self._nodes = self._hosts if shape == "pair" else ["s1", *self._hosts]
        for node in self._nodes:
            netns.create(node)
        if shape == "pair":
            self._connect("h1", "eth0", "h2", "v0")
        else:
            for number, host in enumerate(self._hosts):
                self._connect(host, "eth0", "s1", f"v{number}")
            with NetNS("s1") as switch:
                switch.link("add", ifname="br0", kind="bridge")
                bridge = switch.link_lookup(ifname="br0")[0]
                for number in range(size):
                    port = switch.link_lookup(ifname=f"v{number}")[0]
                    switch.link("set", index=port, master=bridge, state="up")
                switch.link("set", index=bridge, state="up")
        for number, host in enumerate(self._hosts, 1):
            with NetNS(host) as node:
                name = "v0" if shape == "pair" and number == 2 else "eth0"
                index = node.link_lookup(ifname=name)[0]
                node.addr("add", index=index, address=address(number), prefixlen=16)
                node.addr("add", index=index, address=f"fd00::{number:x}", prefixlen=64)
                node.link("set", index=index, state="up")
                node.link("set", index=node.link_lookup(ifname="lo")[0], state="up")

    def _connect(self, one: str, ifname: str, other: str, peer: str) -> None:
        with IPRoute() as machine:
            machine.link("add", ifname=ifname, kind="veth", peer=peer)
            machine.link("set", index=machine.link_lookup(ifname=ifname)[0], net_ns_fd=one)
            machine.link("set", index=machine.link_lookup(ifname=peer)[0], net_ns_fd=other)

    def ends(self) -> tuple[OpenSocket, OpenSocket, str]:
        first, last = (in_namespace(f"/run/netns/{self._hosts[at]}") for at in (0, -1))
        return first, last, address(len(self._hosts))

    def close(self) -> None:
        for node in self._nodes:
            netns.remove(node)


if __name__ == "__main__":
    serve(PlainPyroute2())
