"""Written for labctl's tests, with the forms of Mininet's custom topologies."""

from mininet.cli import CLI
from mininet.link import TCLink
from mininet.net import Mininet
from mininet.node import Node, OVSController
from mininet.topo import Topo


class LinuxRouter(Node):
    def config(self, **params):
        super().config(**params)
        self.cmd("sysctl -w net.ipv4.ip_forward=1")

    def terminate(self):
        self.cmd("sysctl net.ipv4.ip_forward=0")


class Office(Topo):
    def build(self, clients=2):
        switch = self.addSwitch("s1")
        for number in range(1, clients + 1):
            host = self.addHost(f"h{number}")
            self.addLink(host, switch, cls=TCLink, bw=10, delay="5ms", loss=1, max_queue_size=100)


class Routed(Topo):
    def build(self):
        router = self.addNode("r0", cls=LinuxRouter, ip="192.168.1.1/24")
        for number, prefix in enumerate(("192.168.1", "172.16.0"), 1):
            switch = self.addSwitch(f"s{number}")
            address = {"ip": f"{prefix}.1/24"}
            self.addLink(switch, router, intfName2=f"r0-eth{number}", params2=address)
            host = self.addHost(f"h{number}", ip=f"{prefix}.100/24", defaultRoute=f"via {prefix}.1")
            self.addLink(host, switch)


topos = {"office": (lambda clients=2: Office(clients)), "routed": Routed}

if __name__ == "__main__":
    net = Mininet(topo=Routed(), controller=OVSController)
    net.start()
    CLI(net)
    net.stop()
