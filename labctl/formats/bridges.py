"""Nodes whose startup commands make one bridge of all their interfaces: they become switches, with their VLANs.

Labs of Kathara and containerlab have no switches, so people write `ip link add br0 type bridge` and so on. A node that
does anything else, such as an address on its bridge, stays as it is.
"""

from __future__ import annotations

import re
import shlex

from labctl.formats.sketch import Port, Role, Sketch, Value
from labctl.structs import Struct, field

_VLAN_MAX = 4094
# Times of the spanning tree protocol in hundredths of a second that the kernel accepts with it (net/bridge/br_stp.c).
_TIMES = {"forward_delay": (200, 3000), "hello_time": (100, 1000), "max_age": (600, 4000)}
_BRCTL = {"setfd": "forward_delay", "sethello": "hello_time", "setmaxage": "max_age", "setageing": "ageing_time"}
_IGNORED = frozenset({"vlan_default_pvid", "mcast_querier", "vlan_stats_enabled"})


class _PortVlans(Struct):
    tagged: set[int] = field(default_factory=set)
    untagged: set[int] = field(default_factory=lambda: {1})
    pvid: int = 1


def fold_bridges(sketch: Sketch) -> None:
    """Make a switch of each device that is nothing but a bridge of its interfaces."""
    for device in sketch.devices.values():
        if device.role is Role.SWITCH or not device.commands:
            continue
        ports = sketch.ports_of(device)
        found = _Bridge({port.name: port for port in ports})
        own = device.settings.keys() - {"sysctls", "environment"}
        if own or any(port.ipv4 or port.ipv6 or not port.name for port in ports):
            continue
        if not all(isinstance(each, str) and found.takes(each) for each in device.commands) or not found.is_whole():
            continue
        sketch.report.note("its commands make a bridge of its interfaces, so it is a switch", device.name, device.line)
        device.role = Role.SWITCH
        device.settings = found.settings
        device.commands = []
        for port in ports:
            port.settings = found.keys_of(port)
            port.mac = port.name = ""


class _Bridge:
    """What commands of ip(8), bridge(8) and brctl(8) make of the ports of a device."""

    def __init__(self, ports: dict[str, Port]) -> None:
        self.ports = ports
        self.name = ""
        self.members: set[str] = set()
        self.settings: dict[str, Value] = {}
        self.stp: dict[str, Value] = {}
        self.filters = False
        self.vlans = {name: _PortVlans() for name in ports}

    def is_whole(self) -> bool:
        """Return whether all ports are in the bridge; finish its settings."""
        if not self.name or self.members != self.ports.keys():
            return False
        if self.stp.pop("enable", False):
            self.settings["stp"] = self.stp or True
        return True

    def takes(self, command: str) -> bool:
        """Take a command; return False if it does something else than a switch."""
        if re.search(r"[|&;<>()$`*?#]", command):
            return False
        words = [word for word in shlex.split(command, posix=False) if word not in ("sudo", "dev", "name")]
        match words:
            case ["ip", kind, "add", name, "type", "bridge", *options] if _is_link(kind):
                return self.create(name) and self.options(options)
            case ["ip", kind, "set", name, *rest] if _is_link(kind):
                return self.link(name, rest)
            case ["brctl", "addbr", name]:
                return self.create(name)
            case ["brctl", "addif", self.name, *names]:
                self.members.update(names)
                return bool(names)
            case ["brctl", "stp", self.name, state]:
                return self.options(["stp_state", str(int(state in ("on", "yes", "1")))])
            case ["brctl", "setbridgeprio", self.name, priority]:
                return self.options(["priority", priority])
            case ["brctl", setting, self.name, seconds] if setting in _BRCTL and re.fullmatch(r"\d+(\.\d+)?", seconds):
                return self.options([_BRCTL[setting], str(round(float(seconds) * 100))])
            case ["ifconfig", name, "up" | "promisc", *_]:
                return name == self.name or name in self.ports
            case ["bridge", "vlan", "add" | "del" as action, "vid", vid, name, *flags]:
                return self.vlan(action, name, vid, flags)
            case ["bridge", "vlan", "add" | "del" as action, name, "vid", vid, *flags]:
                return self.vlan(action, name, vid, flags)
        return False

    def create(self, name: str) -> bool:
        if self.name:
            return False
        self.name = name
        return True

    def link(self, name: str, rest: list[str]) -> bool:
        if name == self.name:
            if rest[:2] == ["type", "bridge"]:
                return self.options(rest[2:])
            return rest in (["up"], ["promisc", "on"])
        if name not in self.ports:
            return False
        if "master" in rest[:-1]:
            at = rest.index("master")
            if rest[at + 1] != self.name:
                return False
            self.members.add(name)
            rest = rest[:at] + rest[at + 2 :]
        return set(rest) <= {"up", "promisc", "on"}

    def options(self, words: list[str]) -> bool:
        if len(words) % 2:
            return False
        for option, value in zip(words[::2], words[1::2], strict=True):
            if not value.isdecimal():
                return False
            if option == "stp_state":
                self.stp["enable"] = value != "0"
            elif option == "priority":
                self.stp["priority"] = min(int(value), 65535)
            elif option in _TIMES:
                low, high = _TIMES[option]
                if low <= int(value) <= high:  # others are for bridges without the protocol
                    self.stp[option] = f"{int(value) / 100:g}s"
            elif option == "ageing_time":
                self.settings["ageing"] = f"{max(int(value), 100) / 100:g}s"
            elif option == "vlan_filtering":
                self.filters = value != "0"
            elif option == "mcast_snooping":
                continue  # the kernel's default needs a querier; labctl's `snooping` has one
            elif option not in _IGNORED:
                return False
        return True

    def vlan(self, action: str, name: str, vid: str, flags: list[str]) -> bool:
        first, _, last = vid.partition("-")
        last = last or first
        if not first.isdecimal() or not last.isdecimal() or not 1 <= int(first) <= int(last) <= _VLAN_MAX:
            return False
        if name == self.name and set(flags) <= {"self", "pvid", "untagged"}:
            return True  # the bridge's own port has no address
        port = self.vlans.get(name)
        if port is None or not set(flags) <= {"pvid", "untagged", "master"}:
            return False
        for number in range(int(first), int(last) + 1):
            port.tagged.discard(number)
            port.untagged.discard(number)
            port.pvid = 0 if port.pvid == number else port.pvid
            if action == "add":
                (port.untagged if "untagged" in flags else port.tagged).add(number)
                port.pvid = number if "pvid" in flags else port.pvid
        return True

    def keys_of(self, port: Port) -> dict[str, Value]:
        """Return the keys `vlan`, `trunk` and `native` of a port of the switch."""
        found = next(vlans for name, vlans in self.vlans.items() if self.ports[name] is port)
        if not self.filters:
            return {}
        if not found.tagged:
            is_default = all(each.pvid == 1 and not each.tagged for each in self.vlans.values())
            return {} if is_default or not found.pvid else {"vlan": found.pvid}
        return {"trunk": sorted(found.tagged)} | ({"native": found.pvid} if found.pvid else {})


def _is_link(word: str) -> bool:
    return bool(word) and "link".startswith(word)
