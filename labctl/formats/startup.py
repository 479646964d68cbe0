"""Commands that configure a node, as startup scripts have them: what labctl has keys for becomes keys of the topology.

Addresses, MACs and settings are taken from simple lines; everything else stays a command (`exec`), and a program in the
background becomes a service. A script with control flow stays whole.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path

from labctl.formats.machine_changes import change_of
from labctl.formats.sketch import Device, Line, Port, Sketch, Value
from labctl.structs import Struct, replace

# What makes the lines of a script depend on each other: control flow, variables, the working directory.
_STATEFUL = re.compile(
    r"(?:if|for|while|until|case|function|select|do|done|then|else|fi|esac|export|cd|set|source|\.|alias|umask|exit)\b"
    r"|[{(]|\w+\s*\(\)|\w+=\S*$|.*<<|.*\\$"
)
_OPENS = re.compile(r"(?:^|[;&|]\s*|\b(?:then|do|else)\s+)(?:if|for|while|until|case|select)\b|(?<!\$)\{(?!\w)")
_CLOSES = re.compile(r"(?:^|[;&|]\s*)(?:fi|done|esac)\b|(?:^|\s)\}")
_ASSIGNMENT = re.compile(r"(?:export\s+)?\w+=\S*$|export\s+\w+$|exit\b[ 0]*$|set [-+]\w+$|umask \d+$")
_KEEPS_ALIVE = re.compile(r"(?:sleep (?:infinity|inf|\d{5,})|tail -[fF] /dev/null|(?:/bin/)?(?:ba|a)?sh)\s*&?")
# A container has a default route by its management network, which scripts remove; a lab has none.
_NO_DEFAULT = re.compile(
    r"(?:sudo )?(?:/s?bin/)?(?:ip (?:-[46] )?(?:r|ro|route) del(?:ete)? default|route del default)[\w .:]*"
)
_BUILTIN = re.compile(
    r"[.:[]|alias|cd|command|echo|eval|exec|exit|export|false|hash|kill|printf|pwd|read|set|sleep|source|test|trap|true"
    r"|type|ulimit|umask|unset|wait"
)
_PROC_SYS = re.compile(r"echo\s+[\"']?(-?\w+)[\"']?\s*>\s*/proc/sys/(net/[\w./-]+)")
_META = re.compile(r"[|&;<>()$`*?#~]")
_UNIT_ACTIONS = frozenset({"start", "restart", "reload", "enable", "stop", "status", "force-reload"})
ROUTING_SUITES = frozenset({"frr", "quagga", "zebra"})
_FILE_LIMIT_BYTES = 1 << 20
_ROUTING_DAEMONS = (
    *("zebra", "staticd", "ospfd", "ospf6d", "bgpd", "ripd", "ripngd", "isisd", "pimd", "ldpd", "bfdd", "eigrpd"),
    "vrrpd",
)
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/lib/frr")


class Daemon:
    """A unit of systemd that startup scripts start, and the program that does the same in the foreground."""

    def __init__(self, *argv: str, ready: str = "", private: Sequence[str] = ()) -> None:
        self.argv = list(argv)
        self.ready = ready
        self.private = private


_NAMED = Daemon("named", "-f", "-4", ready="udp/53")
DAEMONS = {
    "apache2": Daemon("apachectl", "-DFOREGROUND", ready="tcp/80", private=("/var/log/apache2",)),
    "nginx": Daemon("nginx", "-g", "daemon off;", ready="tcp/80", private=("/var/log/nginx", "/var/lib/nginx")),
    "ssh": Daemon("/usr/sbin/sshd", "-D", ready="tcp/22"),
    "sshd": Daemon("/usr/sbin/sshd", "-D", ready="tcp/22"),
    "dnsmasq": Daemon("dnsmasq", "-k", private=("/var/lib/misc",)),
    "named": _NAMED,
    "bind": _NAMED,
    "bind9": _NAMED,
    "radvd": Daemon("radvd", "-n"),
    "lighttpd": Daemon("lighttpd", "-D", "-f", "/etc/lighttpd/lighttpd.conf", ready="tcp/80"),
    "bird": Daemon("bird", "-f", private=("/run/bird",)),
    "haproxy": Daemon("haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg"),
    "isc-dhcp-server": Daemon("dhcpd", "-f", "-d", private=("/var/lib/dhcp",)),
    "isc-dhcp-relay": Daemon("dhcrelay", "-d"),
    "vsftpd": Daemon("vsftpd", ready="tcp/21"),
    "squid": Daemon("squid", "-N", ready="tcp/3128", private=("/var/log/squid", "/var/spool/squid")),
    "snmpd": Daemon("snmpd", "-f", ready="udp/161"),
    "keepalived": Daemon("keepalived", "-n", "-l"),
    "openbsd-inetd": Daemon("inetd", "-i"),
    "inetd": Daemon("inetd", "-i"),
    "xinetd": Daemon("xinetd", "-dontfork"),
    "nftables": Daemon("nft", "-f", "/etc/nftables.conf"),
    "mosquitto": Daemon("mosquitto", ready="tcp/1883"),
    "chrony": Daemon("chronyd", "-d", "-x"),
}


def program_exists(word: str) -> bool:
    """Return whether the machine has the program."""
    if _BUILTIN.fullmatch(word):
        return True
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])
    return shutil.which(word, path=path) is not None


def configure(sketch: Sketch, device: Device, lines: Iterable[Line], *, shell: bool = True) -> None:
    """Apply the startup commands of the device, whose ports are connected already.

    `shell`: the lines are one script of sh, else separate commands. From the first line of a script on that others may
    depend on, the script stays whole.
    """
    ports = {port.name: port for port in sketch.ports_of(device) if port.name}
    rest = [line for line in lines if line.text.strip() and not line.text.lstrip().startswith("#")]
    while rest and not (shell and _STATEFUL.match(rest[0].text.strip())):
        _Applied(sketch, device, ports, rest.pop(0)).apply()
    rest = _without_configuration(sketch, device, ports, rest)
    if rest and not all(_ASSIGNMENT.match(line.text.strip()) for line in rest):
        script = "".join(f"{line.text.rstrip()}\n" for line in rest)
        if change := change_of(script, own_directories(device)):
            sketch.report.left_out(f"{rest[0].file or device.name}: the script", change, rest[0].number)
            return
        device.commands.append({"shell": script})
        first = rest[0]
        device.origins[script] = first
        subject = first.file or device.name
        sketch.report.note(
            "from here on the script has control flow or variables, and runs as it is", subject, first.number
        )


def _without_configuration(sketch: Sketch, device: Device, ports: dict[str, Port], rest: list[Line]) -> list[Line]:
    """Apply what a script with control flow configures outside of it, without variables; return its other lines."""
    if any(re.search(r"<<|\\$", line.text) for line in rest):
        return rest
    kept: list[Line] = []
    depth = 0
    for line in rest:
        text = line.text.strip()
        words = _words(text)
        if depth or words is None or not _Applied(sketch, device, ports, line).is_configuration(words):
            kept.append(line)
        opened = len(
            re.findall(r"(?:^|[;&|]\s*|\b(?:then|do|else)\s+)(?:if|for|while|until|case|select)\b|\{(?!\w)", text)
        )
        closed = len(re.findall(r"(?:^|[;&|]\s*)(?:fi|done|esac)\b|(?:^|\s)\}", text))
        depth = max(0, depth + opened - closed)
    return kept


def own_directories(device: Device) -> list[str]:
    """Return the directories that programs of the device may change: private ones, binds, and those of its files."""
    binds = [bind.split(":")[1] for bind in device.settings.get("binds", []) if bind.endswith(":rw")]
    return [*device.settings.get("private", []), *binds, *device.own]


class _Applied:
    """Applies one line."""

    def __init__(self, sketch: Sketch, device: Device, ports: dict[str, Port], line: Line) -> None:
        self.sketch = sketch
        self.device = device
        self.ports = ports
        self.line = line

    def left_out(self, what: str, reason: str) -> None:
        self.sketch.report.left_out(f"{self.line.file or self.device.name}: {what}", reason, self.line.number)

    def apply(self) -> None:
        text = self.line.text.strip()
        if parts := _parts(text):
            for part in parts:
                _Applied(self.sketch, self.device, self.ports, replace(self.line, text=part)).apply()
            return
        if match := _PROC_SYS.fullmatch(text):
            self.sysctl(match[2].replace("/", "."), match[1])
            return
        words = _words(text)
        if words is not None:
            if self.is_configuration(words):
                return
            if not program_exists(_program(text)) and (modern := modern_command(words)):
                text, words = modern, None
        self.command(text, words)

    def is_configuration(self, words: list[str]) -> bool:
        """Take a simple command into the topology; return whether it was one."""
        while words[:1] in (["sudo"], ["/sbin/ip"], ["/bin/ip"], ["/usr/sbin/ip"], ["/sbin/ifconfig"]):
            words = words[1:] if words[0] == "sudo" else [words[0].rpartition("/")[2], *words[1:]]
        match words:
            case ["ip", *rest]:
                while rest and rest[0].startswith("-"):
                    rest = rest[1:]
                match rest:
                    case [kind, ("a" | "add" | "replace" | "change"), *more] if "address".startswith(kind):
                        return self.ip_address(more)
                    case [kind, "flush", *more] if "address".startswith(kind):
                        return self.flush(more)
                    case [kind, "set", *more] if len(kind) > 0 and "link".startswith(kind):
                        return self.ip_link(more)
            case ["ifconfig", name, *more]:
                return self.ifconfig(name, more)
            case ["tc", "qdisc", "add" | "replace", "dev", name, "root", *more] if name in self.ports:
                return self.queueing(self.ports[name], more)
            case ["ethtool", "-K" | "--offload", name, *more] if name in self.ports and "on" not in more:
                self.device.settings["offload"] = False
                return True
            case ["sysctl", *more]:
                pairs = [word.partition("=") for word in more if not word.startswith("-")]
                if pairs and all(equals and key.startswith("net") for key, equals, _ in pairs):
                    for key, _, value in pairs:
                        self.sysctl(key.replace("/", "."), value)
                    return True
            case ["hostname", name]:
                return name == self.device.name
            case ["ifup" | "ifdown", *_] | ["service" | "systemctl", "networking" | "network", *_]:
                return True  # etc/network/interfaces is read
            case ["/etc/init.d/networking", *_] | ["systemctl", "restart" | "start", "networking"]:
                return True
            case [path, action] if path.endswith(("/frrinit.sh", "/quaggainit.sh")) and action in _UNIT_ACTIONS:
                return self.daemon("frr", action)
            case ["systemctl", *more]:
                more = [word for word in more if not word.startswith("-")]
                return len(more) == 2 and more[0] in _UNIT_ACTIONS and self.daemon(more[1], more[0])
            case ["service", name, action]:
                return self.daemon(name, action)
            case [path, action] if path.startswith("/etc/init.d/") and action in _UNIT_ACTIONS:
                return self.daemon(path.rpartition("/")[2], action)
        return False

    # -- addresses and interfaces --------------------------------------------------------------------------------------

    def ip_address(self, words: list[str]) -> bool:
        address, name = "", ""
        rest = iter(words)
        for word in rest:
            if word == "dev":
                name = next(rest, "")
            elif word in ("brd", "broadcast", "label", "scope", "metric"):
                next(rest, "")
            elif word in ("nodad", "noprefixroute"):
                continue
            elif not address:
                address = next(rest, "") if word == "local" else word
            else:
                return False
        return self.address(name, address)

    def flush(self, words: list[str]) -> bool:
        port = self.ports.get(words[-1]) if words else None
        if port is None:
            return False
        port.ipv4.clear()
        port.ipv6.clear()
        return True

    def address(self, name: str, address: str) -> bool:
        try:
            parsed = ip_interface(address)
        except ValueError:
            return False
        if name == "lo" and parsed.ip.is_loopback:
            return True
        if name == "lo" and parsed.network.prefixlen == parsed.max_prefixlen and not parsed.ip.is_link_local:
            self.device.append("loopback", str(parsed.ip))
            return True
        port = self.ports.get(name)
        if port is None:
            return False
        written = address if "/" in address else f"{address}/{parsed.max_prefixlen}"
        if written not in port.addresses(parsed.version):
            port.addresses(parsed.version).append(written)
        return True

    def ip_link(self, words: list[str]) -> bool:
        words = [word for word in words if word != "dev"]
        if words[:1] == ["up"]:
            words = [*words[1:2], "up", *words[2:]]
        if not words or (words[0] not in self.ports and words[1:] not in (["up"], ["mtu", "65536"])):
            return False
        name, mac, mtu = words[0], "", ""
        if name not in self.ports:
            return name == "lo"
        rest = iter(words[1:])
        for word in rest:
            if word == "address" and not mac:
                mac = next(rest, "")
            elif word == "mtu" and not mtu:
                mtu = next(rest, "")
            elif word != "up":
                return False
        return (not mac or self.mac(name, mac)) and (not mtu or self.mtu(name, mtu))

    def mtu(self, name: str, mtu: str) -> bool:
        if not mtu.isdecimal() or not 68 <= int(mtu) <= 65535:
            return False
        self.ports[name].mtu = int(mtu)
        return True

    def queueing(self, port: Port, words: list[str]) -> bool:
        """Take a rate of tbf. netem stays a command, because a kernel without it would refuse the lab."""
        if words[:1] == ["handle"]:
            words = words[2:]
        options = dict(zip(words[1::2], words[2::2], strict=False))
        rate = options.pop("rate", "")
        if words[:1] != ["tbf"] or not re.fullmatch(r"[\d.]+[kmg]?bit", rate):
            return False
        port.impairment["rate"] = rate
        return options.keys() <= {"burst", "latency", "limit", "buffer", "maxburst"}

    def mac(self, name: str, mac: str) -> bool:
        if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", mac) or int(mac[:2], 16) & 1:
            return False
        self.ports[name].mac = mac.lower()
        return True

    def ifconfig(self, name: str, words: list[str]) -> bool:
        if name == "lo" and not [word for word in words if word not in ("up", "127.0.0.1")]:
            return True
        if ":" in name and name.partition(":")[0] in self.ports:  # an alias
            name = name.partition(":")[0]
        if name not in self.ports:
            return False
        address, mask, mac = "", "", ""
        rest = iter(words)
        for word in rest:
            if word == "netmask":
                mask = next(rest, "")
            elif word == "broadcast":
                next(rest, "")
            elif word in ("up", "add", "inet6", "inet"):
                continue
            elif word == "mtu":
                if not self.mtu(name, next(rest, "")):
                    return False
            elif word == "hw" and next(rest, "") == "ether":
                mac = next(rest, "")
            elif not address and re.match(r"[0-9a-fA-F.:]+(/\d+)?$", word):
                address = word
            else:
                return False
        if mac and not self.mac(name, mac):
            return False
        if not address:
            return True
        if "/" not in address and ":" not in address:
            address = f"{address}/{mask or _classful(address)}"
        try:
            return self.address(name, str(ip_interface(address)))
        except ValueError:
            return False

    # -- everything else -----------------------------------------------------------------------------------------------

    def sysctl(self, key: str, value: str) -> None:
        self.device.settings.setdefault("sysctls", {})[key.strip()] = _number(value.strip())

    def daemon(self, unit: str, action: str) -> bool:
        """Take a daemon that a service manager would start; return whether there is nothing else to do."""
        name = unit.removesuffix(".service")
        if name in ROUTING_SUITES and action in ("start", "restart"):
            start_routing(self.sketch, self.device, self.line)
            return True
        if action not in ("start", "restart", "reload", "enable", "force-reload"):
            return True
        known = DAEMONS.get(name)
        if known is None:
            reason = "there is no service manager in a lab, and labctl does not know the daemon's program"
            self.left_out(f"the daemon {name}", reason)
        elif not program_exists(known.argv[0]):
            reason = f"`{known.argv[0]}` is not installed on this machine"
            self.left_out(f"the daemon {name}", reason)
        else:
            service = {"run": known.argv} | ({"ready": {"listening": known.ready}} if known.ready else {})
            self.device.add("services", name, service)
            self.device.origins.setdefault(name, self.line)
            for directory in known.private:
                self.device.append("private", directory)
        return True

    def command(self, text: str, words: list[str] | None) -> None:
        if _KEEPS_ALIVE.fullmatch(text) or _NO_DEFAULT.fullmatch(text):
            return
        program = _program(text)
        if program.rpartition("/")[2] == "vtysh" and "frr" in self.device.settings.get("services", {}):
            self.after_frr(text)
            return
        if change := change_of(text, own_directories(self.device)):
            self.left_out(f"`{_short(text)}`", change)
            return
        if program and not program_exists(program):
            reason = "the program is not installed on this machine"
            self.left_out(f"`{_short(text)}`", reason)
            return
        if text.endswith("&") and not text.endswith("&&"):
            body = text.removesuffix("&").strip().removeprefix("nohup ").strip()
            simple = _words(body)
            self.service(program, {"run": simple} if simple else {"shell": body})
            return
        self.device.commands.append(text)
        self.device.origins[text] = self.line

    def after_frr(self, text: str) -> None:
        """Run a command of vtysh when FRR has its configuration."""
        before = self.device.settings["services"].get("vtysh")
        shell = f"{before['shell']}\n{text}" if before else text
        self.device.settings["services"]["vtysh"] = {"shell": shell, "after": ["frr"]}
        self.device.origins.setdefault("vtysh", self.line)

    def service(self, program: str, value: dict[str, object]) -> None:
        services = self.device.settings.setdefault("services", {})
        base = re.sub(r"[^\w.-]", "", program.rpartition("/")[2]).strip("-.") or "program"
        base = base if not base.isdigit() else f"p{base}"
        name, number = base, 2
        while name in services:
            name, number = f"{base}-{number}", number + 1
        services[name] = value
        self.device.origins[name] = self.line


def modern_command(words: Sequence[str]) -> str:
    """Return the ip(8) command for one of net-tools, bridge-utils or vconfig, which machines may lack; "" for none."""
    while words[:1] == ["sudo"]:
        words = words[1:]
    match [words[0].rpartition("/")[2], *words[1:]]:
        case ["brctl", "addbr", bridge]:
            return f"ip link add {bridge} type bridge"
        case ["brctl", "delbr", bridge]:
            return f"ip link delete {bridge} type bridge"
        case ["brctl", "addif", bridge, *names] if names:
            return " && ".join(f"ip link set {name} master {bridge}" for name in names)
        case ["brctl", "delif", _, name]:
            return f"ip link set {name} nomaster"
        case ["brctl", "stp", bridge, state]:
            return f"ip link set {bridge} type bridge stp_state {int(state in ('on', 'yes', '1'))}"
        case ["brctl", "setageing", bridge, seconds] if seconds.isdecimal():
            return f"ip link set {bridge} type bridge ageing_time {int(seconds) * 100}"
        case ["brctl", "setbridgeprio", bridge, priority]:
            return f"ip link set {bridge} type bridge priority {priority}"
        case ["vconfig", "add", name, number] if number.isdecimal():
            return f"ip link add link {name} name {name}.{number} type vlan id {number}"
        case ["ifconfig", name, "up" | "down" as state]:
            return f"ip link set {name} {state}"
        case ["ifconfig", name, address, *rest] if set(rest) <= {"up"} and "/" in address:
            return f"ip address add {address} dev {name} && ip link set {name} up"
        case ["ifconfig", name, address, "netmask", mask, *rest] if set(rest) <= {"up"}:
            return f"ip address add {address}/{mask} dev {name} && ip link set {name} up"
        case ["route", "add" | "del" as action, *rest]:
            words = [word for word in rest if word not in ("-net", "-host")]
            if "netmask" in words[:-1]:
                at = words.index("netmask")
                words = [f"{words[0]}/{words[at + 1]}", *words[1:at], *words[at + 2 :]]
            return f"ip route {action} {' '.join('via' if word in ('gw', 'gateway') else word for word in words)}"
        case ["iptables-legacy" | "ip6tables-legacy" as program, *rest] if program_exists(program[: -len("-legacy")]):
            return shlex.join([program.removesuffix("-legacy"), *rest])
        case ["arp", "-i", name, "-s", address, mac]:
            return f"ip neighbour replace {address} lladdr {mac} dev {name}"
    return ""


def routing_daemons(folder: Path) -> list[str]:
    """Return the daemons beside zebra that a file `daemons` turns on (`ospfd=yes`), and staticd, which always runs."""
    for suite in ("frr", "quagga"):
        file = folder / "etc" / suite / "daemons"
        if (text := small_file(file)) is not None:
            found = re.findall(r"(?m)^\s*(\w+)\s*=\s*[\"']?(?:yes|true|1)\b", text)
            on = [name for name in dict.fromkeys(found) if name in _ROUTING_DAEMONS[1:]]
            return list(dict.fromkeys([*on, "staticd"])) if on else []
    return []


def routing_config(folder: Path, relative: str) -> Value:
    """Return the configuration of FRR, Quagga or Zebra in the files of a device, for `config`; None if it has none.

    `relative` is the folder's path from the topology file. Several files of single daemons become one text.
    """
    if (folder / "etc/frr/frr.conf").is_file():
        return f"{relative}/etc/frr/frr.conf"
    for suite in ("frr", "quagga", "zebra"):
        parts = (small_file(folder / "etc" / suite / f"{daemon}.conf") for daemon in _ROUTING_DAEMONS)
        texts = [part for part in parts if part is not None]
        if texts:
            lines = [line.rstrip() for text in texts for line in text.splitlines()]
            kept = [
                line
                for line in lines
                if line and not re.match(r"\s*(?:hostname|(?:enable )?password|log file)\b", line)
            ]
            return {"content": "\n".join(kept) + "\n"}
    return {"content": ""} if routing_daemons(folder) else None


def start_routing(sketch: Sketch, device: Device, line: Line) -> None:
    """Start FRR with the device's configuration."""
    where = line.file or device.name
    if device.routing is None:
        sketch.report.left_out(f"{where}: FRR", "the device has no configuration for it", line.number)
    elif not program_exists("zebra"):
        reason = "FRR is not installed on this machine (package frr)"
        sketch.report.left_out(f"{where}: the daemons of FRR", reason, line.number)
    else:
        daemons = {"daemons": device.daemons} if device.daemons else {}
        device.add("services", "frr", {"use": "frr", "config": device.routing} | daemons)
        device.origins.setdefault("frr", line)
        device.append("private", "/var/log/frr")


def frr_addresses(sketch: Sketch, device: Device, text: str) -> None:
    """Take the addresses that an frr.conf sets, so that labctl knows them."""
    ports = {port.name: port for port in sketch.ports_of(device) if port.name}
    name = ""
    for line in text.splitlines():
        match line.split():
            case ["interface", found, *_]:
                name = found
            case ["exit" | "exit-interface" | "router" | "!", *_] if not line.startswith(" "):
                name = ""
            case ["ip" | "ipv6", "address", written, *_] if name in ports and "/" in written:
                family = 6 if ":" in written else 4
                if written not in ports[name].addresses(family):
                    ports[name].addresses(family).append(written)


def small_file(path: Path) -> str | None:
    """Return the text of a file that belongs to a foreign one; None if it is no readable file, or larger than 1 MiB."""
    from labctl.documents.yaml_tree import read_bytes

    try:
        content = read_bytes(path, _FILE_LIMIT_BYTES)
    except (OSError, ValueError):  # ValueError: a NUL in its name
        return None
    return content.decode("utf-8", "replace") if len(content) <= _FILE_LIMIT_BYTES else None


def interfaces_file(text: str, file: str) -> list[Line]:
    """Return the commands that do what a file of interfaces(5) asks for: addresses, routes and its `up` lines."""
    commands: list[Line] = []
    name, family, address, mask, line_of_address = "", "inet", "", "", 0

    def add(text: str, number: int, *, at: int | None = None) -> None:
        commands.insert(len(commands) if at is None else at, Line(text, number, file))

    def finish() -> None:
        nonlocal address, mask
        if name and address:
            full = address if "/" in address or not mask else f"{address}/{mask}"
            try:
                add(f"ip address add {ip_interface(full)} dev {name}", line_of_address, at=0)
            except ValueError:
                add(f"ip address add {full} dev {name}", line_of_address)
        address, mask = "", ""

    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        match words:
            case ["iface", found, kind, *_]:
                finish()
                name, family = found, kind
            case ["address", value]:
                address, line_of_address = value, number
            case ["netmask", value]:
                mask = value
            case ["gateway", value] if name:
                flag = "-6 " if family == "inet6" else ""
                add(f"ip {flag}route replace default via {value} dev {name}", number)
            case [("up" | "post-up" | "pre-up"), *rest] if rest:
                add(" ".join(rest), number)
    finish()
    return commands


class GatewayRoute(Struct, frozen=True):
    """A route by a gateway; `to` is None for the default route."""

    to: IPv4Network | IPv6Network | None
    via: IPv4Address | IPv6Address
    metric: int = 0


def route_of(command: str) -> GatewayRoute | None:
    """Return the route that a command of ip-route(8) or route(8) adds; None for other commands and other routes."""
    words = [word for word in _words(command) or [] if word not in ("sudo", "-4", "-6", "-A", "inet6", "unicast")]
    to, via, mask, metric = "", "", "", "0"
    match words:
        case ["ip", kind, "add" | "replace" | "a", *rest] if len(kind) > 0 and "route".startswith(kind):
            pass
        case ["route", "add", *rest]:
            pass
        case _:
            return None
    values = iter(rest)
    for word in values:
        if word in ("via", "gw", "gateway"):
            via = next(values, "")
        elif word == "dev":
            next(values, "")
        elif word == "metric":
            metric = next(values, "")
        elif word == "netmask":
            mask = next(values, "")
        elif word in ("-net", "-host"):
            continue
        elif not to:
            to = word
        else:
            return None
    try:
        gateway = ip_address(via)
        if not metric.isdecimal() or not 0 <= int(metric) < 1 << 32:
            return None
        if to in ("default", "0.0.0.0/0", "::/0", "0/0") or (to == "0.0.0.0" and mask in ("", "0.0.0.0")):
            return GatewayRoute(None, gateway, int(metric))
        network = ip_network(f"{to}/{mask}" if mask else to)
    except ValueError:
        return None
    return GatewayRoute(network, gateway, int(metric)) if network.version == gateway.version else None


def _parts(text: str) -> list[str]:
    """Return the commands of `a; b && c`, or of `sh -c` with one or several of these; none for anything else."""
    words = _words(text) if not re.search(r"[\"']", text) else None
    if words is None:
        try:
            words = shlex.split(text)
        except ValueError:
            return []
    if len(words) == 3 and words[0].rpartition("/")[2] in ("sh", "bash", "ash", "dash") and words[1] in ("-c", "-lc"):
        inner = words[2].strip()
        if _STATEFUL.match(inner) or "\n" in inner:
            return []
        return _parts(inner) or ([inner] if not re.search(r"[\"'\\$`(){}]", inner) else [])
    if re.search(r"[\"'\\$`(){}<>*?#~|]|(?<!&)&(?!&)", text):
        return []
    parts = [part.strip() for part in re.split(r";|&&", text)]
    return [part for part in parts if part] if len(parts) > 1 and not any(map(_STATEFUL.match, parts)) else []


def _words(text: str) -> list[str] | None:
    """Return the words of a simple command; None if sh must read it."""
    if _META.search(text):
        return None
    try:
        return shlex.split(text) or None
    except ValueError:
        return None


def _program(text: str) -> str:
    """Return the program of the command's first part, "" if it is not known."""
    try:
        words = shlex.split(re.split(r"[|;&<>]", text, maxsplit=1)[0])
    except ValueError:
        return ""
    while words and (re.fullmatch(r"\w+=.*", words[0]) or words[0] in ("sudo", "nohup", "exec", "time")):
        words = words[1:]
    return words[0] if words and not re.search(r"[$`(){}\[\]*?]", words[0].removeprefix("[")) else ""


def _classful(address: str) -> str:
    first = int(address.split(".", 1)[0]) if address.split(".", 1)[0].isdigit() else 0
    return "8" if first < 128 else "16" if first < 192 else "24"


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 10 else text


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
