"""Labs of Kathara (https://www.kathara.org/man-pages/kathara-lab.conf.5.html) and Netkit: a directory with lab.conf.

`lab.conf` names the collision domain of each interface, DEVICE.startup has commands, and the folder DEVICE has files.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from labctl.errors import InputError
from labctl.formats.bridges import fold_bridges
from labctl.formats.sketch import Addressing, Device, Line, Port, Role, Sketch
from labctl.formats.startup import configure, frr_addresses, interfaces_file, routing_config, routing_daemons

_LINE = re.compile(r"(?P<device>[\w.-]+)\[(?P<key>\w+)\]\s*=\s*(?P<value>.*)")
_DESCRIPTION = re.compile(r"LAB_(?P<key>\w+)\s*=\s*(?P<value>.*)")
_FILE_LIMIT_BYTES = 1 << 20
_DEVICES_LIMIT = 5000


def read(directory: Path, name: str) -> Sketch:
    """Return the network of the lab. InputError if lab.conf has a line that is no assignment, or no device."""
    sketch = Sketch(name, "Kathara", Addressing.GIVEN)
    reader = _Reader(sketch, directory)
    reader.read()
    if not sketch.devices:
        raise InputError(f"{directory / 'lab.conf'}: there are no devices.")
    reader.connect()
    reader.programs()
    fold_bridges(sketch)
    given = any(port.ipv4 or port.ipv6 for cable in sketch.cables for port in cable.ports)
    if not given and not any(device.commands or device.settings for device in sketch.devices.values()):
        sketch.addressing = Addressing.AUTOMATIC
        sketch.report.note("the lab sets no addresses, so labctl derives addresses and routes")
    return sketch


class _Reader:
    def __init__(self, sketch: Sketch, directory: Path) -> None:
        self.sketch = sketch
        self.report = sketch.report
        self.directory = directory
        self.domains: dict[str, list[tuple[int, Port]]] = {}
        self.startup: dict[str, list[Line]] = {}

    def read(self) -> None:
        file = self.directory / "lab.conf"
        about: dict[str, str] = {}
        for number, line in enumerate(_text(file).splitlines(), 1):
            stripped = line.strip()
            if not stripped or stripped.startswith("#"):
                continue
            if match := _DESCRIPTION.fullmatch(stripped):
                about[match["key"]] = _unquoted(match["value"])
                continue
            match = _LINE.fullmatch(stripped)
            if match is None:
                if "machines" in stripped.split("=")[0]:
                    continue  # Netkit: the list of devices, which the other lines repeat
                raise InputError(f"{file}:{number}: `{stripped[:60]}` is not DEVICE[INTERFACE]=DOMAIN.")
            self.assignment(match["device"], match["key"], _unquoted(match["value"]), number)
        self.sketch.about = " ".join((about.get("DESCRIPTION") or about.get("NAME") or "").split())[:200]

    def device(self, name: str, line: int) -> Device:
        if name not in self.sketch.devices:
            if len(self.sketch.devices) >= _DEVICES_LIMIT:
                raise InputError(f"{self.directory / 'lab.conf'}:{line}: more than {_DEVICES_LIMIT} devices.")
            self.sketch.device(name, line=line)
        return self.sketch.devices[name]

    def assignment(self, name: str, key: str, value: str, line: int) -> None:
        if name in ("shared",):
            return
        device = self.device(name, line)
        if key.isdecimal():
            domain, _, mac = value.partition("/")
            port = Port(device.name, f"eth{int(key)}", line=line)
            port.mac = mac.lower() if re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", mac) else ""
            self.domains.setdefault(domain.strip(), []).append((int(key), port))
            return
        match key:
            case "image":
                self.report.left_out(name, f"the image {value}: programs are those of this machine", line)
            case "exec":
                self.startup.setdefault(name, []).append(Line(value, line, "lab.conf"))
            case "sysctl":
                sysctl, _, setting = value.partition("=")
                if sysctl.startswith("net."):
                    number = int(setting) if setting.isdecimal() else setting
                    device.settings.setdefault("sysctls", {})[sysctl] = number
                else:
                    self.report.left_out(f"{name}: the sysctl {sysctl}", "it belongs to the whole machine", line)
            case "env":
                variable, _, setting = value.partition("=")
                device.settings.setdefault("environment", {})[variable] = setting
            case "port" if re.fullmatch(r"\d+:\d+(/(tcp|udp))?", value):
                device.append("expose", value)
            case "ipv6" | "shell" | "num_terms" | "entrypoint" | "args":
                return
            case _:
                reasons = {
                    "bridged": "the lab is not connected to the machine's network; see `nat` of routers",
                    "mem": "a limit of its container; see `limits`",
                    "cpus": "a limit of its container; see `limits`",
                }
                self.report.left_out(f"{name}: {key}={value}", reasons.get(key, "an option of its container"), line)

    def connect(self) -> None:
        """Make links of collision domains with two interfaces, and networks of others."""
        for domain, numbered in self.domains.items():
            ports = [port for _, port in numbered]
            if len(ports) == 2 and ports[0].device != ports[1].device:
                self.sketch.connect(*ports, line=ports[0].line).comment = domain
            else:
                cable = self.sketch.network(domain, ports, line=ports[0].line)
                if cable.name != domain:
                    cable.comment = domain
        order = {id(port): number for numbered in self.domains.values() for number, port in numbered}
        counts: dict[str, list[int]] = {}
        for cable in self.sketch.cables:
            for port in cable.ports:
                counts.setdefault(port.device, []).append(order[id(port)])
        for device in self.sketch.devices.values():
            numbers = counts.get(device.name, [])
            missing = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
            if missing:
                self.report.note(f"interface {missing[0]} is not in lab.conf", device.name, device.line)

    def programs(self) -> None:
        shared = self.lines(self.directory / "shared.startup")
        dependencies = self.directory / "lab.dep"
        if dependencies.is_file() and _text(dependencies).strip():
            self.report.left_out("lab.dep", "labctl starts all nodes at once; see `after` of services")
        for name, device in self.sketch.devices.items():
            folder = self.directory / name
            if folder.is_dir() and any(folder.iterdir()):
                device.add("files", "/", {"source": name})
                device.own = _directories_with_files(folder)
            if (self.directory / "shared").is_dir():
                device.append("binds", "shared:/shared:rw")
            device.routing = routing_config(folder, name)
            device.daemons = routing_daemons(folder)
            if device.routing is not None:
                self.addresses(device, folder)
            interfaces = folder / "etc/network/interfaces"
            lines = interfaces_file(_text(interfaces), f"{name}/etc/network/interfaces") if interfaces.is_file() else []
            own = self.lines(self.directory / f"{name}.startup")
            for script in (lines, shared, own, self.startup.get(name, [])):
                configure(self.sketch, device, script)
            self.forward(device)

    def addresses(self, device: Device, folder: Path) -> None:
        """Take the addresses in the configuration of the routing daemons."""
        written = device.routing
        text = written["content"] if isinstance(written, dict) else _text(folder / "etc/frr/frr.conf")
        frr_addresses(self.sketch, device, text)

    def forward(self, device: Device) -> None:
        """Make it a router unless it has one interface; Kathara's devices all forward."""
        device.role = Role.ROUTER if len(self.sketch.ports_of(device)) > 1 else Role.HOST
        if device.role is Role.ROUTER and device.settings.pop("expose", None):
            self.report.left_out(f"{device.name}: port", "only hosts can expose ports; this is a router", device.line)

    def lines(self, path: Path) -> list[Line]:
        if not path.is_file():
            return []
        return [Line(text, number, path.name) for number, text in enumerate(_text(path).splitlines(), 1)]


def _directories_with_files(folder: Path) -> list[str]:
    """Return the directories that contain a file of the folder, as paths on the device, at most 1,000."""
    found: list[str] = []
    for directory, _, files in os.walk(folder):
        if files and (relative := os.path.relpath(directory, folder)) != ".":
            found.append(f"/{relative}")
        if len(found) >= 1000:
            break
    return found


def _text(path: Path) -> str:
    from labctl.documents.yaml_tree import read_bytes

    try:
        content = read_bytes(path, _FILE_LIMIT_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}.") from error
    if len(content) > _FILE_LIMIT_BYTES:
        raise InputError(f"{path}: the file is larger than {_FILE_LIMIT_BYTES >> 20} MiB.")
    return content.decode("utf-8-sig", "replace")


def _unquoted(value: str) -> str:
    """Return the value without quotes and without a comment after it."""
    try:
        words = shlex.split(value, comments=True)
    except ValueError:
        return value.strip("\"'")
    return " ".join(words)
