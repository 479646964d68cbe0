"""A namespace that plays the machine, for labs that reach outside: never the real one.

`@inside` makes it; `Machine` furnishes it with an uplink to another namespace, the world, and with a second network.
The world's servers are sockets of the test's own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from select import poll
from types import TracebackType

from labctl import topology
from labctl.documents import parse
from labctl.kernel.namespaces import entered, new_network, read_sysctl, socket_in
from labctl.lab.client.boot_process import Boot
from labctl.lab.client.handle import Lab
from labctl.plan.build import build
from labctl.plan.operations import Plan
from tests.patience import patient

WORLD4, WORLD6 = "192.0.2.1", "2001:db8::1"
MACHINE4, MACHINE6 = "192.0.2.2", "2001:db8::2"
OTHER4 = "203.0.113.9"  # behind the machine's second interface
WAIT_S = patient(10.0)

NAT = """
hosts: {near: {}, far: {}}
routers: {gw: {nat: true}, inner: {}}
networks: {lan: {members: [near, gw, inner]}}
links: [[inner, far]]
"""


class Machine:
    """The calling process's network namespace, furnished; a state directory of the test's own."""

    def __init__(self, *, with_ipv6: bool = True) -> None:
        self._with_ipv6 = with_ipv6
        self._stack = ExitStack()

    def __enter__(self) -> Machine:
        state = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="labctl-state-"))
        os.environ["LABCTL_STATE_DIR"] = state
        self.records = Path(state) / "@outside"
        self.world, self.other = new_network(), new_network()
        for descriptor in (self.world, self.other):
            self._stack.callback(os.close, descriptor)
        own = f"/proc/{os.getpid()}/fd"
        ip("link set lo up")
        ip(f"link add up0 type veth peer name world0 netns {own}/{self.world}")
        ip(f"link add lan.7 type veth peer name other0 netns {own}/{self.other}")
        with entered(self.world):
            self._address("world0", f"{WORLD4}/24", f"{WORLD6}/64")
            ip(f"route add 203.0.113.0/24 via {MACHINE4}")
        with entered(self.other):
            self._address("other0", f"{OTHER4}/24")
            ip("route add default via 203.0.113.1")
        self._address("lan.7", "203.0.113.1/24")
        self._address("up0", f"{MACHINE4}/24", *([f"{MACHINE6}/64"] if self._with_ipv6 else []))
        ip(f"route add default via {WORLD4}")
        if self._with_ipv6:
            ip(f"-6 route add default via {WORLD6}")
        assert holds(lambda: command_output("ip", "-o", "link").count("state UP ") == 2)
        for setting in ("net/ipv4/conf/up0/forwarding", "net/ipv4/conf/lan.7/forwarding"):
            Path("/proc/sys", setting).write_text("0\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._stack.close()

    def _address(self, ifname: str, *addresses: str) -> None:
        ip(f"link set {ifname} addrgenmode none")  # addresses that come by themselves would come at any time
        for address in addresses:
            ip(f"address add {address} dev {ifname}" + (" nodad" if ":" in address else ""))
        ip(f"link set {ifname} up")

    def server(self, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of the world's that waits for somebody, on a port of the kernel's choice."""
        sock = self._stack.enter_context(socket_in(self.world, family, kind))
        sock.settimeout(WAIT_S)
        sock.bind((WORLD4 if family == socket.AF_INET else WORLD6, 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        return sock

    def state(self) -> list[str]:
        """All of this namespace that a lab might change."""
        listed = ("address", "link", "route show table all", "-6 route show table all", "rule")
        found = [command_output("ip", *what.split()) for what in listed]
        found.append(command_output("nft", "list", "ruleset"))
        interfaces = sorted(os.listdir("/proc/sys/net/ipv4/conf"))
        found += [f"{name} {read_sysctl(f'net/ipv4/conf/{name}/forwarding')}" for name in interfaces]
        for name in interfaces:
            for key in ("forwarding", "force_forwarding", "accept_ra", "disable_ipv6"):
                path = Path(f"/proc/sys/net/ipv6/conf/{name}/{key}")
                found.append(f"{path} {path.read_text() if path.exists() else 'absent'}")
        return found

    def is_as(self, before: list[str]) -> bool:
        """Whether the state is `before` within a few seconds: the kernel frees in its own time."""
        return holds(lambda: self.state() == before)


def holds(condition: Callable[[], bool], within_s: float = WAIT_S) -> bool:
    """Whether the condition comes to hold."""
    for _ in range(int(within_s / 0.05)):
        if condition():
            return True
        poll().poll(50)
    return condition()


def plan_of(text: str) -> Plan:
    """The plan of a topology."""
    resolved, diagnostics = topology.resolve_inline(parse(text, "test.yaml"), (), Path("/"))
    assert resolved is not None, diagnostics
    assert not diagnostics, diagnostics
    return build(resolved)


def connected(lab: Lab, node: str, server: socket.socket) -> str:
    """From which address a server outside sees a connection of the node's."""
    address, port, *_ = server.getsockname()
    with lab.socket(node, server.family, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_S)
        sock.connect((address, port))
        accepted, peer = server.accept()
        accepted.close()
        return str(peer[0])


def ip(arguments: str) -> None:
    """An ip(8) command, in the calling thread's network namespace."""
    command_output("ip", *arguments.split())


def command_output(*argv: str) -> str:
    """What a command that succeeds writes."""
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=WAIT_S).stdout


def boot_of(lab: Lab) -> int:
    """The number of a lab's boot process."""
    assert isinstance(lab._boot, Boot)
    return lab._boot.pid


def processes_of(lab: Lab) -> dict[str, int]:
    """Boot, guard and keeper of a lab, by name; one that ends meanwhile, or has no name yet, is not among them."""
    boot = boot_of(lab)
    found = {}
    for child in Path(f"/proc/{boot}/task/{boot}/children").read_text().split():
        # ENOENT and ESRCH: it has been reaped since it was listed, before the file was opened or after.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[Path(f"/proc/{child}/comm").read_text().strip().removeprefix("labctl-")] = int(child)
    return found | {"boot": boot}
