"""iproute2: `ip netns` for the namespaces, then one `ip -batch` for the links and one for each node."""

from __future__ import annotations

import subprocess

from tests.benchmarks.builders.contract import OpenSocket, address, in_namespace, serve


class IpBatch:
    def build(self, shape: str, size: int) -> None:
        self._hosts = [f"h{number}" for number in range(1, size + 1)]
        self._nodes = self._hosts if shape == "pair" else ["s1", *self._hosts]
        _batch([f"netns add {node}" for node in self._nodes])
        if shape == "pair":
            _batch(["link add eth0 netns h1 type veth peer name eth0 netns h2"])
        else:
            _batch([f"link add {host} netns s1 type veth peer name eth0 netns {host}" for host in self._hosts])
            ports = [f"link set {host} master br0 up" for host in self._hosts]
            _batch(["link add br0 type bridge mcast_snooping 0", *ports, "link set br0 up"], "s1")
        for number, host in enumerate(self._hosts, 1):
            lines = ["link set lo up", "link set eth0 addrgenmode none", f"addr add {address(number)}/16 dev eth0"]
            _batch([*lines, f"addr add fd00::{number:x}/64 dev eth0 nodad", "link set eth0 up"], host)

    def ends(self) -> tuple[OpenSocket, OpenSocket, str]:
        first, last = (in_namespace(f"/run/netns/{self._hosts[at]}") for at in (0, -1))
        return first, last, address(len(self._hosts))

    def close(self) -> None:
        _batch([f"netns delete {node}" for node in self._nodes])


def _batch(lines: list[str], node: str | None = None) -> None:
    command = ["ip", *(["-n", node] if node else []), "-batch", "-"]
    subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True)


if __name__ == "__main__":
    serve(IpBatch())
