"""Docker Compose files (https://github.com/compose-spec/compose-spec): services as hosts, networks, ports, commands.

Images are not used. A service with a `command` whose program this machine has becomes a service of its host.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

from labctl.documents import Document
from labctl.errors import InputError
from labctl.formats.machine_changes import change_of
from labctl.formats.sketch import Cable, Device, Line, Port, Role, Sketch
from labctl.formats.startup import own_directories, program_exists, small_file
from labctl.formats.values import items, line_of, mapping, pairs, text, texts

_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)(?:(:?[-?+])([^{}]*))?\})")
_REPLICAS_LIMIT = 1000
_CONTAINER_ONLY = ("cap_add", "cap_drop", "devices", "privileged", "security_opt", "gpus", "ipc", "pid", "userns_mode")


def read(document: Document, path: Path, name: str) -> Sketch:
    """Return the network of a Compose file. InputError if it has no services."""
    data = mapping(_interpolated(document.data, _environment(path.parent)))
    services = mapping(data.get("services"))
    if not services:
        raise InputError(f"{path}: `services` has no services.")
    title = text(data.get("name")) or (
        name if name not in ("compose", "docker-compose") else path.resolve().parent.name
    )
    sketch = Sketch(title, "Docker Compose")
    reader = _Reader(sketch, document, path.parent, data)
    for service in services:
        reader.host(service, mapping(services[service]))
    for service in services:
        reader.programs(service, mapping(services[service]))
    reader.networks()
    sketch.report.note("the lab has no access to the outside, as containers have; see `nat` of routers")
    return sketch


class _Reader:
    def __init__(self, sketch: Sketch, document: Document, directory: Path, data: dict[str, Any]) -> None:
        self.sketch = sketch
        self.report = sketch.report
        self.document = document
        self.directory = directory
        self.data = data
        self.attached: dict[str, list[Port]] = {}

    def line(self, service: str, *keys: str | int) -> int:
        return line_of(self.document, "services", service, *keys)

    def host(self, service: str, given: dict[str, Any]) -> None:
        line = self.line(service)
        device = self.sketch.device(service, Role.HOST, line=line)
        replicas = text(given.get("scale")) or text(mapping(given.get("deploy")).get("replicas"))
        if replicas.isdecimal() and 1 < int(replicas) <= _REPLICAS_LIMIT:
            device.settings["count"] = int(replicas)
        image = text(given.get("image")) or ("of its `build`" if given.get("build") else "")
        if image:
            self.report.left_out(service, f"the image {image}: programs are those of this machine", line)
        mode = text(given.get("network_mode"))
        if mode:
            self.report.left_out(f"{service}: network_mode {mode}", "every host has a network of its own", line)
        networks = given.get("networks")
        names = list(networks) if isinstance(networks, dict) else texts(networks)
        for name in names or ([] if mode == "none" else ["default"]):
            options = mapping(mapping(networks).get(name)) if isinstance(networks, dict) else {}
            port = Port(device.name, line=line)
            if device.settings.get("count", 1) == 1:
                port.ipv4, port.ipv6 = texts(options.get("ipv4_address")), texts(options.get("ipv6_address"))
                mac = text(options.get("mac_address")).lower()
                port.mac = mac if re.fullmatch(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}", mac) else ""
            if options.get("aliases"):
                self.report.left_out(f"{service}: aliases", "a host has one name", line)
            self.attached.setdefault(name, []).append(port)

    def networks(self) -> None:
        described = mapping(self.data.get("networks"))
        for name, ports in self.attached.items():
            given = mapping(described.get(name))
            line = line_of(self.document, "networks", name) if name in described else 0
            cable = self.sketch.network(name, ports, line=line)
            if cable.name != name:
                cable.comment = name
            self.prefix(cable, given)
            driver = text(given.get("driver"))
            if driver not in ("", "bridge", "overlay"):
                self.report.left_out(f"the driver {driver} of the network {name}", "the network is a bridge", line)
            mtu = text(mapping(given.get("driver_opts")).get("com.docker.network.driver.mtu"))
            if mtu.isdecimal() and 68 <= int(mtu) <= 65535:
                cable.mtu = int(mtu)
        for name in described:
            if name not in self.attached:
                self.report.left_out(
                    f"the network {name}", "no service is on it", line_of(self.document, "networks", name)
                )

    def prefix(self, cable: Cable, given: dict[str, Any]) -> None:
        for config in map(mapping, items(mapping(given.get("ipam")).get("config"))):
            subnet = text(config.get("subnet"))
            if ":" in subnet:
                cable.ipv6 = cable.ipv6 or subnet
            else:
                cable.ipv4 = cable.ipv4 or subnet

    # -- what runs on hosts --------------------------------------------------------------------------------------------

    def programs(self, service: str, given: dict[str, Any]) -> None:
        device = self.sketch.devices[service]
        line = device.line
        environment = {key: value for key, value in pairs(given.get("environment")).items() if key and "=" not in key}
        if environment:
            device.settings["environment"] = environment
        if given.get("env_file"):
            self.report.left_out(f"{service}: env_file", "write its variables to `environment`", line)
        for key, value in pairs(given.get("sysctls")).items():
            if key.startswith("net."):
                device.settings.setdefault("sysctls", {})[key] = int(value) if value.isdecimal() else value
            else:
                self.report.left_out(f"{service}: the sysctl {key}", "it belongs to the whole machine", line)
        for port in items(given.get("ports")):
            self.port(device, service, port, line)
        for volume in items(given.get("volumes")):
            self.volume(device, service, volume, line)
        self.nested_volumes(device, service, line)
        self.command(device, service, given, line)
        for key in (*_CONTAINER_ONLY, "extends", "secrets", "configs", "extra_hosts", "dns", "external_links"):
            if given.get(key):
                self.report.left_out(f"{service}: {key}", "not translated", self.line(service, key))

    def port(self, device: Device, service: str, port: Any, line: int) -> None:
        if isinstance(port, dict):
            published, target = text(port.get("published")), text(port.get("target"))
            address, protocol = text(port.get("host_ip")), text(port.get("protocol")) or "tcp"
        else:
            written, _, protocol = text(port).partition("/")
            rest, _, target = written.rpartition(":")
            address, _, published = rest.rpartition(":")
            protocol = protocol or "tcp"
        whole = f"{published}:{target}/{protocol}"
        if not (published.isdecimal() and target.isdecimal() and protocol in ("tcp", "udp")):
            self.report.left_out(f"{service}: the port {whole}", "only MACHINE_PORT:PORT can be exposed", line)
        elif device.settings.get("count", 1) > 1:
            self.report.left_out(f"{service}: the port {whole}", "replicas cannot share a port of the machine", line)
        else:
            suffix = "/udp" if protocol == "udp" else ""
            device.append("expose", f"{address + ':' if address else ''}{published}:{target}{suffix}")

    def volume(self, device: Device, service: str, volume: Any, line: int) -> None:
        if isinstance(volume, dict):
            source, target = text(volume.get("source")), text(volume.get("target"))
            is_bind, is_read_only = text(volume.get("type")) == "bind", volume.get("read_only") is True
        else:
            parts = text(volume).split(":")
            source, target = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
            is_bind, is_read_only = source.startswith((".", "/", "~")), "ro" in ",".join(parts[2:]).split(",")
        if not target.startswith("/") or target.strip("/").split("/")[0] in ("", "proc", "sys", "dev", "run"):
            self.report.left_out(f"{service}: the volume at {target or '?'}", "not a directory of its own", line)
        elif not is_bind:
            device.append("private", target.rstrip("/"))
        elif source.startswith("~") or not (self.directory / source).exists():
            self.report.left_out(f"{service}: the volume {source}", "there is no such file", line)
        else:
            device.append("binds", f"{source}:{target}" + ("" if is_read_only else ":rw"))

    def nested_volumes(self, device: Device, service: str, line: int) -> None:
        """Leave out volumes inside binds whose directories labctl would have to create on the machine."""
        binds = sorted(device.settings.get("binds", []), key=lambda bind: bind.split(":")[1].count("/"))
        for bind in binds[:]:
            target = bind.split(":")[1].rstrip("/")
            for source, outer, *_ in (other.split(":") for other in binds):
                inner = target.removeprefix(outer.rstrip("/") + "/")
                if inner != target and not (self.directory / source / inner).exists():
                    binds.remove(bind)
                    self.report.left_out(f"{service}: the volume at {target}", "it lies in a bind", line)
                    break
        if binds:
            device.settings["binds"] = binds
        targets = [bind.split(":")[1].rstrip("/") for bind in binds]
        private = device.settings.pop("private", [])
        inside = [path for path in private if any(path == one or path.startswith(f"{one}/") for one in targets)]
        for path in inside:
            self.report.left_out(f"{service}: the volume at {path}", "it lies in a bind", line)
        if kept := [path for path in dict.fromkeys(private) if path not in inside]:
            device.settings["private"] = kept

    def command(self, device: Device, service: str, given: dict[str, Any], line: int) -> None:
        words = [*_words(given.get("entrypoint")), *_words(given.get("command"))]
        if not words:
            self.report.left_out(f"{service}: its program", "the image has it; see `services`", line)
            return
        if not program_exists(words[0]):
            shown = shlex.join(words)[:60]
            self.report.left_out(f"{service}: `{shown}`", f"`{words[0]}` is not installed on this machine", line)
            return
        if change := change_of(shlex.join(words), own_directories(device)):
            self.report.left_out(f"{service}: `{shlex.join(words)[:60]}`", change, line)
            return
        program: dict[str, Any] = {"run": words}
        after = [name for name in self.dependencies(given) if self.has_program(name)]
        if after:
            program["after"] = [f"{self.sketch.devices[name].name}/{self.sketch.devices[name].name}" for name in after]
        restart = {"always": "always", "unless-stopped": "always", "on-failure": "on-failure"}
        if (policy := restart.get(text(given.get("restart")).split(":")[0])) is not None:
            program["restart"] = policy
        directory = text(given.get("working_dir"))
        if directory.startswith("/") and Path(directory).is_dir():
            program["cwd"] = directory
        self.health(program, mapping(given.get("healthcheck")))
        device.settings["services"] = {device.name: program}
        device.origins[device.name] = Line("", line)

    def dependencies(self, given: dict[str, Any]) -> list[str]:
        wanted = given.get("depends_on")
        names = list(wanted) if isinstance(wanted, dict) else texts(wanted)
        return [name for name in names if name in self.sketch.devices]

    def has_program(self, service: str) -> bool:
        given = mapping(mapping(self.data.get("services")).get(service))
        words = [*_words(given.get("entrypoint")), *_words(given.get("command"))]
        return bool(words) and program_exists(words[0])

    def health(self, program: dict[str, Any], check: dict[str, Any]) -> None:
        test = check.get("test")
        words = texts(test)
        if isinstance(test, str):
            program["ready"] = {"command": ["sh", "-c", test]}
        elif words[:1] == ["CMD"] and len(words) > 1:
            program["ready"] = {"command": words[1:]}
        elif words[:1] == ["CMD-SHELL"] and len(words) == 2:
            program["ready"] = {"command": ["sh", "-c", words[1]]}
        if "ready" in program and not program_exists(program["ready"]["command"][0]):
            del program["ready"]


def _words(value: Any) -> list[str]:
    """Return a command: a list, or a text as a shell would split it."""
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError:
            return ["sh", "-c", value]
    return texts(value)


def _environment(directory: Path) -> dict[str, str]:
    """Return the variables of the process and of `.env`, which Compose replaces in its file."""
    found: dict[str, str] = {}
    for line in (small_file(directory / ".env") or "").splitlines():
        key, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not key.startswith("#"):
            found[key.strip()] = value.strip().strip("\"'")
    return {**found, **os.environ}


def _interpolated(value: Any, variables: dict[str, str]) -> Any:
    """Return the data with `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}` replaced in values."""
    if isinstance(value, dict):
        return {key: _interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_interpolated(each, variables) for each in value]
    if not isinstance(value, str) or "$" not in value:
        return value

    def replaced(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name is None:
            return "$"
        found, operator, other = variables.get(name), match[3] or "", match[4] or ""
        is_set = found is not None and (found != "" or not operator.startswith(":"))
        if operator.endswith("+"):
            return other if is_set else ""
        if operator.endswith("-"):
            return found if is_set and found is not None else other
        return found or ""

    return _VARIABLE.sub(replaced, value)
