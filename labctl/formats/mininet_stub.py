"""Run a Mininet program without Mininet, and print the network that it makes as JSON. Standard library only.

`labctl.formats.mininet` starts this file as a program of its own: FILE [NAME[,ARG...]]. Modules `mininet.*` are
replaced by the classes below, which record nodes, links and commands. The program runs as its user, as `mn --custom
FILE` would, but an audit hook refuses programs, sockets and changes of files, and CPU time and memory are limited. That
protects from accidents (`os.system("mn -c")`), not from a program that means harm.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import io
import json
import os
import re
import resource
import runpy
import sys
import time
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

CPU_LIMIT_S, MEMORY_LIMIT_BYTES = 20, 2 << 30
SLEEPS_LIMIT = 1000
NODES_LIMIT = 10_000
_REFUSED = (
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "subprocess.", "socket.", "pty.", "shutil."),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "ctypes."),
)
_open = open
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Finished(BaseException):
    """The program has made its network and would now use it."""


class Interface:
    """An interface of a node: prints as its name."""

    def __init__(self, node: Node, name: str, port: int) -> None:
        self.node, self.name, self.port = node, name, port
        self.addresses: list[str] = []
        self.mac = ""
        self.link: Link | None = None

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def setIP(self, ip: str, prefixLen: int | str | None = None) -> None:
        self.addresses = [ip if "/" in ip or prefixLen is None else f"{ip}/{prefixLen}"]

    def setMAC(self, mac: str) -> None:
        self.mac = mac

    def IP(self) -> str:
        return self.addresses[0].partition("/")[0] if self.addresses else ""

    def MAC(self) -> str:
        return self.mac

    def config(self, **params: Any) -> dict[str, Any]:
        if self.link is not None:
            self.link.params.update(params)
        return {}

    def __getattr__(self, name: str) -> Any:
        return _anything(name)


class Node:
    """A node that records its configuration; user's classes derive from it."""

    isSwitch = False
    kind = "host"

    def __init__(self, name: str = "", inNamespace: bool = True, **params: Any) -> None:
        self.name, self.params = name, params
        self.inNamespace = inNamespace
        self.commands: list[str] = []
        self.interfaces: list[Interface] = []
        self.waiting = False

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def add_interface(self, name: str | None, port: int | None) -> Interface:
        taken = {each.port for each in self.interfaces}
        first = 1 if self.isSwitch else 0
        number = port if port is not None else next(n for n in range(first, len(taken) + first + 1) if n not in taken)
        made = Interface(self, name or f"{self.name}-eth{number}", number)
        self.interfaces.append(made)
        return made

    def defaultIntf(self) -> Interface | None:
        return min(self.interfaces, key=lambda each: each.port, default=None)

    def intf(self, intf: Any = None) -> Any:
        if intf is None or intf == "":
            return self.defaultIntf()
        if isinstance(intf, str):
            return next((each for each in self.interfaces if each.name == intf), None)
        return intf

    def intfNames(self) -> list[str]:
        return [each.name for each in self.interfaces]

    def intfList(self) -> list[Interface]:
        return self.interfaces

    @property
    def nameToIntf(self) -> dict[str, Interface]:
        return {each.name: each for each in self.interfaces}

    @property
    def intfs(self) -> dict[int, Interface]:
        return {each.port: each for each in self.interfaces}

    def connectionsTo(self, node: Node) -> list[tuple[Interface, Interface]]:
        found = []
        for each in self.interfaces:
            if each.link is not None and node in (each.link.intf1.node, each.link.intf2.node):
                other = each.link.intf2 if each.link.intf1 is each else each.link.intf1
                found.append((each, other))
        return found

    def config(self, mac: Any = None, ip: Any = None, defaultRoute: Any = None, lo: Any = None, **params: Any) -> Any:
        interface = self.defaultIntf()
        if interface is not None and not interface.addresses and isinstance(ip, str) and ip:
            interface.setIP(ip)
        if interface is not None and mac:
            interface.setMAC(str(mac))
        if defaultRoute:
            self.setDefaultRoute(defaultRoute)
        return {}

    @classmethod
    def setup(cls) -> None:
        """Check that the machine has what the class needs."""

    def configDefault(self, **params: Any) -> None:
        self.config(**{**self.params, **params})

    def setIP(self, ip: str, prefixLen: int | str = 8, intf: Any = None, **_: Any) -> None:
        found = self.intf(intf)
        if found is not None:
            found.setIP(ip, prefixLen)

    def setMAC(self, mac: str, intf: Any = None) -> None:
        found = self.intf(intf)
        if found is not None:
            found.setMAC(mac)

    def setDefaultRoute(self, intf: Any = None) -> None:
        if isinstance(intf, str) and " " in intf:
            self.commands.append(f"ip route replace default {intf}")
        elif found := self.intf(intf):
            self.commands.append(f"ip route replace default dev {found}")

    def setHostRoute(self, ip: str, intf: Any) -> None:
        self.commands.append(f"ip route replace {ip} dev {intf}")

    def IP(self, intf: Any = None) -> str:
        found = self.intf(intf)
        return found.IP() if found is not None else ""

    def MAC(self, intf: Any = None) -> str:
        found = self.intf(intf)
        return found.MAC() if found is not None else ""

    def cmd(self, *words: Any, **_: Any) -> str:
        flat: list[str] = []
        for word in words:
            flat += map(str, word) if isinstance(word, list | tuple) else [str(word)]
        self.commands.append(" ".join(flat))
        return ""

    cmdPrint = sendCmd = pexec = popen = cmd

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class Host(Node):
    """A host."""


class Switch(Node):
    """A switch."""

    isSwitch = True
    kind = "switch"


class Controller(Node):
    """An OpenFlow controller."""

    kind = "controller"


class NAT(Node):
    """A router to the machine's network."""

    kind = "nat"


class Link:
    """A link between interfaces, with the parameters of TCLink."""

    made: list[Link] = []  # noqa: RUF012  # all links, for programs without a Mininet object

    def __init__(self, node1: Node, node2: Node, port1: Any = None, port2: Any = None, **params: Any) -> None:
        self.intf1 = node1.add_interface(params.pop("intfName1", None), port1)
        self.intf2 = node2.add_interface(params.pop("intfName2", None), port2)
        self.params = params
        Link.made.append(self)
        for each, key in ((self.intf1, "params1"), (self.intf2, "params2")):
            each.link = self
            own = params.pop(key, None) or {}
            if isinstance(own, dict) and isinstance(own.get("ip"), str):
                each.setIP(own["ip"])
            if isinstance(own, dict) and own.get("mac"):
                each.setMAC(str(own["mac"]))
        for each, key in ((self.intf1, "addr1"), (self.intf2, "addr2")):
            if params.get(key):
                each.setMAC(str(params[key]))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class Topo:
    """mininet.topo.Topo: `build` adds hosts, switches and links."""

    def __init__(self, *args: Any, **params: Any) -> None:
        self.hopts, self.sopts = params.pop("hopts", {}), params.pop("sopts", {})
        self.lopts = params.pop("lopts", {})
        self._nodes: dict[str, dict[str, Any]] = {}
        self._links: list[tuple[str, str, dict[str, Any]]] = []
        self.g = self
        self.build(*args, **params)

    def build(self, *args: Any, **params: Any) -> None:
        """Overridden by users."""

    def addNode(self, name: str, **opts: Any) -> str:
        if len(self._nodes) >= NODES_LIMIT:
            raise ValueError(f"more than {NODES_LIMIT} nodes")
        self._nodes[str(name)] = opts
        return name

    def addHost(self, name: str, **opts: Any) -> str:
        return self.addNode(name, **(opts or self.hopts))

    def addSwitch(self, name: str, **opts: Any) -> str:
        return self.addNode(name, isSwitch=True, **(opts or self.sopts))

    def addLink(
        self, node1: str, node2: str, port1: Any = None, port2: Any = None, key: Any = None, **opts: Any
    ) -> int:
        opts = {**(opts or self.lopts), "port1": port1, "port2": port2}
        self._links.append((str(node1), str(node2), opts))
        return len(self._links)

    def isSwitch(self, name: str) -> bool:
        return bool(self._nodes[str(name)].get("isSwitch"))

    def nodes(self, sort: bool = True) -> list[str]:
        return sorted(self._nodes, key=_natural) if sort else list(self._nodes)

    def hosts(self, sort: bool = True) -> list[str]:
        return [name for name in self.nodes(sort) if not self.isSwitch(name)]

    def switches(self, sort: bool = True) -> list[str]:
        return [name for name in self.nodes(sort) if self.isSwitch(name)]

    def links(self, *_: Any, **__: Any) -> list[tuple[str, str]]:
        return [(a, b) for a, b, _opts in self._links]

    def nodeInfo(self, name: str) -> dict[str, Any]:
        return self._nodes[name]

    def setNodeInfo(self, name: str, info: dict[str, Any]) -> None:
        self._nodes[name] = info

    def addPort(self, *_: Any, **__: Any) -> None:
        """Ports are numbered by links."""


class SingleSwitchTopo(Topo):
    """k hosts on a switch."""

    def build(self, k: int = 2, **_: Any) -> None:
        switch = self.addSwitch("s1")
        for number in range(1, int(k) + 1):
            self.addLink(self.addHost(f"h{number}"), switch)


class LinearTopo(Topo):
    """k switches in a row, with n hosts each."""

    def build(self, k: int = 2, n: int = 1, sopts: Any = None, **_: Any) -> None:
        last = None
        for number in range(1, int(k) + 1):
            switch = self.addSwitch(f"s{number}")
            for each in range(1, int(n) + 1):
                name = f"h{number}" if n == 1 else f"h{each}s{number}"
                self.addLink(self.addHost(name), switch)
            if last is not None:
                self.addLink(switch, last)
            last = switch


class TreeTopo(Topo):
    """A tree of switches with hosts as leaves."""

    def build(self, depth: int = 1, fanout: int = 2, **_: Any) -> None:
        self.host_number = self.switch_number = 1
        self.addTree(int(depth), int(fanout))

    def addTree(self, depth: int, fanout: int) -> str:
        if depth == 0:
            node = self.addHost(f"h{self.host_number}")
            self.host_number += 1
            return node
        node = self.addSwitch(f"s{self.switch_number}")
        self.switch_number += 1
        for _ in range(fanout):
            self.addLink(node, self.addTree(depth - 1, fanout))
        return node


class TorusTopo(Topo):
    """x times y switches in two rings."""

    def build(self, x: int, y: int, n: int = 1, **_: Any) -> None:
        x, y, n = int(x), int(y), int(n)
        names = {(i, j): f"s{i + 1}x{j + 1}" for i in range(x) for j in range(y)}
        for (i, j), name in names.items():
            switch = self.addSwitch(name)
            for number in range(n):
                host = f"h{i + 1}x{j + 1}" if n == 1 else f"h{i * x + j + number + 1}"
                self.addLink(self.addHost(host), switch)
        for i, j in names:
            self.addLink(names[i, j], names[i, (j + 1) % y])
            self.addLink(names[i, j], names[(i + 1) % x, j])


class Mininet:
    """mininet.net.Mininet: nodes and links are recorded; what uses the network ends the program."""

    last: Mininet | None = None
    sleeps = 0
    written: list[str] = []  # noqa: RUF012  # files that the program would have written
    outside: list[str] = []  # noqa: RUF012  # interfaces of the machine that it would have moved

    def __init__(
        self, topo: Topo | None = None, host: Any = Host, switch: Any = Switch, link: Any = None, **params: Any
    ):
        Mininet.last = self
        self.topo, self.host, self.params = topo, host, params
        self.nodes: dict[str, Node] = {}
        self.links: list[Link] = []
        self.configured = False
        self.started = False
        self.controllers: list[Node] = []
        base = str(params.get("ipBase") or "10.0.0.0/8")
        self.base, _, length = base.partition("/")
        self.length = length or "8"
        self.next_ip = 1
        if topo is not None and params.get("build", True):
            self.build()

    hosts = property(lambda self: [each for each in self.nodes.values() if each.kind in ("host", "nat")])
    switches = property(lambda self: [each for each in self.nodes.values() if each.kind == "switch"])
    values = property(lambda self: lambda: list(self.nodes.values()))

    def addHost(self, name: str, cls: Any = None, **params: Any) -> Node:
        params = {"auto_ip": self.automatic_ip(), **params}
        made = _node(cls or self.host, Host, name, params)
        self.nodes[str(name)] = made
        return made

    def automatic_ip(self) -> str:
        parts = [int(part) for part in self.base.split(".")] if self.base.count(".") == 3 else [10, 0, 0, 0]
        number = int.from_bytes(bytes(parts), "big") + self.next_ip
        self.next_ip += 1
        return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0)) + f"/{self.length}"

    def addNode(self, name: str, *args: Any, **params: Any) -> Node:
        return self.addHost(name, *args, **params)

    def addSwitch(self, name: str, cls: Any = None, **params: Any) -> Node:
        made = self.nodes[str(name)] = _node(cls or Switch, Switch, name, params)
        return made

    def addController(self, name: Any = "c0", controller: Any = None, **params: Any) -> Node:
        made = name if isinstance(name, Node) else _node(controller or Controller, Controller, str(name), params)
        self.controllers.append(made)
        return made

    def addNAT(self, name: str = "nat0", connect: Any = True, **params: Any) -> Node:
        made = self.addHost(name, cls=NAT, **params)
        switch = self.nodes.get(str(connect)) if not isinstance(connect, bool) else next(iter(self.switches), None)
        if connect and switch is not None:
            self.addLink(made, switch)
        return made

    def addLink(
        self, node1: Any, node2: Any, port1: Any = None, port2: Any = None, cls: Any = None, **params: Any
    ) -> Link:
        ends = [each if isinstance(each, Node) else self.nodes[str(each)] for each in (node1, node2)]
        made = Link(ends[0], ends[1], port1, port2, **params)
        self.links.append(made)
        return made

    def build(self) -> None:
        if self.topo is not None and not self.nodes:
            for name in self.topo.hosts():
                self.addHost(name, **self.topo.nodeInfo(name))
            for name in self.topo.switches():
                self.addSwitch(name, **self.topo.nodeInfo(name))
            for a, b, opts in self.topo._links:
                self.addLink(a, b, opts.get("port1"), opts.get("port2"), **_without(opts, "port1", "port2"))
        if not self.configured:
            self.configured = True
            for node in list(self.nodes.values()):
                if not node.isSwitch:
                    node.config(**{"ip": node.params.get("auto_ip"), **_without(node.params, "auto_ip", "cls")})

    def start(self) -> None:
        self.build()
        self.started = True

    def get(self, *names: str) -> Any:
        found = [self.nodes[name] for name in names]
        return found[0] if len(found) == 1 else found

    getNodeByName = get

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def __contains__(self, name: object) -> bool:
        return name in self.nodes

    def __iter__(self) -> Any:
        return iter(self.nodes)

    def keys(self) -> list[str]:
        return list(self.nodes)

    def stop(self) -> None:
        raise Finished

    def finish(self, *_: Any, **__: Any) -> None:
        self.build()
        raise Finished

    init = staticmethod(lambda: None)
    pingAll = pingAllFull = pingPair = ping = iperf = run = interact = runCpuLimitTest = finish

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class CLI:
    """The prompt: the network is complete."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise Finished


class Anything:
    """Stands for every other name of Mininet: it can be called, derived from, and has every attribute."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Any:
        return Anything()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)

    def __getitem__(self, key: Any) -> Any:
        return Anything()

    def __iter__(self) -> Any:
        return iter(())

    def __str__(self) -> str:
        return ""


class MachineInterface(Interface):
    """An interface of the machine that the program moves to a node."""

    def __init__(self, name: str = "", node: Any = None, port: int | None = None, **params: Any) -> None:
        super().__init__(node if isinstance(node, Node) else Node(), str(name), port or 0)
        Mininet.outside.append(f"{name} at {node}" if node is not None else str(name))


class Output(str):
    """The output of a program that was not run: whatever a program looks for in it is there."""

    def __contains__(self, text: object) -> bool:
        return True


def _sleep(seconds: float) -> None:
    """Return at once; a program that sleeps again and again waits for its network."""
    Mininet.sleeps += 1
    if Mininet.sleeps > SLEEPS_LIMIT:
        raise Finished


def _opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
    """Open a file to read; what the program writes to others is dropped."""
    if isinstance(mode, str) and set(mode) & set("wax+"):
        Mininet.written.append(str(file))
        return io.BytesIO() if "b" in mode else io.StringIO()
    return _open(file, mode, *arguments, **named)


def _anything(name: str) -> Any:
    return Anything()


def _without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _node(cls: Any, base: type[Node], name: str, params: dict[str, Any]) -> Node:
    """Make a node of the user's class, or of the base if that class is something else (a partial, a fake)."""
    own = _without(params, "cls")
    try:
        made = cls(str(name), **own)
    except TypeError:
        made = None
    if not isinstance(made, Node):
        made = base(str(name), **own)
    made.params = {**params, **made.params}
    return made


def _natural(text: str) -> list[Any]:
    """Sort h2 before h10, as Mininet does."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text)]


CLASSES: dict[str, Any] = {
    **dict.fromkeys(("Topo",), Topo),
    **dict.fromkeys(("Node", "LinuxRouter"), Node),
    **dict.fromkeys(("Host", "CPULimitedHost", "RemoteHost"), Host),
    **dict.fromkeys(("Switch", "OVSSwitch", "OVSKernelSwitch", "UserSwitch", "IVSSwitch"), Switch),
    **dict.fromkeys(("OVSBridge", "LinuxBridge"), Switch),
    **dict.fromkeys(("Controller", "RemoteController", "OVSController", "NOX", "Ryu", "DefaultController"), Controller),
    "NAT": NAT,
    **dict.fromkeys(("Mininet", "MininetWithControlNet", "MininetCluster", "Containernet"), Mininet),
    **dict.fromkeys(("Link", "TCLink", "OVSLink", "TCULink"), Link),
    **dict.fromkeys(("SingleSwitchTopo", "MinimalTopo", "SingleSwitchReversedTopo"), SingleSwitchTopo),
    "LinearTopo": LinearTopo,
    **dict.fromkeys(("TreeTopo",), TreeTopo),
    "TorusTopo": TorusTopo,
    "TreeNet": lambda depth=1, fanout=2, **params: Mininet(TreeTopo(depth, fanout), **params),
    **dict.fromkeys(("CLI", "ClusterCLI", "DemoCLI"), CLI),
    "Intf": MachineInterface,
    "TCIntf": MachineInterface,
    "irange": lambda start, end: list(range(start, end + 1)),
    "naturalSeq": _natural,
    "custom": lambda cls, **params: cls,
    "customClass": lambda classes, text: next(iter(classes.values())),
    "dumpNodeConnections": lambda *args, **params: None,
    "quietRun": lambda *args, **params: Output("labctl"),
    "ipAdd": lambda i, prefixLen=8, ipBaseNum=0x0A000000: f"10.0.{i >> 8 & 255}.{i & 255}",
}  # fmt: skip


class _Module(types.ModuleType):
    """A module of Mininet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        if name == "__all__":
            return list(CLASSES)
        return CLASSES.get(name, type(name, (Node,), {}) if name[:1].isupper() else _anything(name))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of Mininet."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] in ("mininet", "mn_wifi", "containernet", "tkinter", "Tkinter"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Everything is in `_Module`."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITING and path != os.devnull:
            raise PermissionError(f"it opens {path!r} for writing")
    elif event.startswith(_REFUSED):
        raise PermissionError(f"it calls {event}")


def network_of(path: str, choice: str) -> dict[str, Any]:
    """Run the program and return its network: of `topos`, else of the Mininet object, else of a class of a topology."""
    name, *words = choice.split(",") if choice else [""]
    found: dict[str, Any] = {}
    notes: list[str] = []
    with suppress(Finished, SystemExit):
        found = runpy.run_path(path, run_name="labctl")
    topos = {str(key): value for key, value in found.get("topos", {}).items()} if Mininet.last is None else {}
    own = {
        key: value
        for key, value in found.items()
        if isinstance(value, type) and issubclass(value, Topo) and value.__module__ == "labctl"
    }
    if name:
        chosen = topos.get(name) or own.get(name)
        if chosen is None:
            raise LookupError(f"there is no topology {name!r}; there are {', '.join([*topos, *own]) or 'none'}")
        return _described(_built(chosen, words), notes)
    if topos:
        first = next(iter(topos))
        if len(topos) > 1:
            notes.append(f"the first of its topologies, {first}; --topo selects another of {', '.join(topos)}")
        return _described(_built(topos[first], []), notes)
    if Mininet.last is None:
        Link.made.clear()
        try:
            runpy.run_path(path, run_name="__main__")
        except (Finished, SystemExit):
            pass
        except Exception as error:
            if Mininet.last is None or not Mininet.last.nodes:
                raise
            notes.append(f"the program was read up to an error: {type(error).__name__}: {error}")
    if Mininet.last is not None and (Mininet.last.nodes or Mininet.last.topo):
        return _described(Mininet.last, notes)
    if Mininet.last is None and Link.made:
        return _described(_of_links(), notes)
    if own:
        first = next(reversed(own))
        if len(own) > 1:
            notes.append(f"the last of its classes, {first}; --topo selects another of {', '.join(own)}")
        return _described(_built(own[first], []), notes)
    raise LookupError("it makes no network: it has no `topos`, no Mininet object and no class of a Topo")


def _of_links() -> Mininet:
    """Return a network of all nodes with links, for a program that makes these itself."""
    net = Mininet()
    net.configured = True
    for link in Link.made:
        net.links.append(link)
        for node in (link.intf1.node, link.intf2.node):
            if not node.inNamespace and re.search(r"ovs|ofdatapath|ofprotocol|brctl|bridge", "\n".join(node.commands)):
                node.kind = "switch"
            if node.inNamespace or node.kind == "switch":
                net.nodes[node.name] = node
    return net


def _built(make: Callable[..., Any], words: list[str]) -> Mininet:
    values = [int(word) if re.fullmatch(r"-?\d+", word) else word for word in words if "=" not in word]
    named = dict(word.split("=", 1) for word in words if "=" in word)
    topo = make(*values, **{key: int(each) if each.isdigit() else each for key, each in named.items()})
    return Mininet(topo)


def _described(net: Mininet, notes: list[str]) -> dict[str, Any]:
    with suppress(Finished):
        net.build()
    nodes = [
        {
            "name": node.name,
            "kind": node.kind,
            "commands": node.commands,
            "explicit": "ip" in node.params,
            "stp": bool(node.params.get("stp") or node.params.get("enable_stp")),
            "auto_ip": str(node.params.get("auto_ip") or ""),
            "private": [_text(each) for each in node.params.get("privateDirs") or ()],
        }
        for node in net.nodes.values()
    ]
    links = [
        {
            "ends": [
                {"node": each.node.name, "name": each.name, "addresses": each.addresses, "mac": each.mac}
                for each in (link.intf1, link.intf2)
            ],
            "params": {str(key): value for key, value in link.params.items() if isinstance(value, int | float | str)},
        }
        for link in net.links
    ]
    if Mininet.written:
        notes.append(f"the program would write {', '.join(dict.fromkeys(Mininet.written[:4]))}; labctl writes no files")
    if Mininet.outside:
        notes.append(f"interfaces of the machine stay outside of the lab: {', '.join(Mininet.outside[:4])}")
    return {"nodes": nodes, "links": links, "controllers": len(net.controllers), "notes": notes}


def _text(value: Any) -> str:
    return str(value[0] if isinstance(value, list | tuple) and value else value)


def main(path: str, choice: str) -> None:
    """Print the network of the program, or why there is none, as JSON."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the end of the process
    sys.stdin = open(os.devnull)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    sys.meta_path.insert(0, _Finder())
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    sys.argv = [path]
    os.geteuid = os.getuid = lambda: 0
    vars(time)["sleep"] = _sleep
    vars(builtins)["open"] = _opened
    sys.addaudithook(_audit)
    try:
        result = network_of(path, choice)
    except BaseException as error:  # noqa: BLE001  # the user's program may raise anything
        line = 0
        trace = error.__traceback__
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == path else line
            trace = trace.tb_next
        line = error.lineno or line if isinstance(error, SyntaxError) else line
        result = {"error": f"{type(error).__name__}: {error}", "line": line}
    json.dump(result, output, default=str)
    output.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
