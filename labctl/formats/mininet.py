"""Mininet programs: a file with `topos`, or one that makes a Mininet object; and files of MiniEdit.

A program is run in a process of its own, with Mininet's modules replaced (`mininet_stub`). Its nodes record their
addresses and commands; switches are bridges, and what belongs to OpenFlow is reported.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from labctl.errors import InputError
from labctl.formats.sketch import Addressing, Cable, Device, Line, Options, Port, Role, Sketch, valid_interface
from labctl.formats.startup import configure
from labctl.formats.values import items, mapping, text, texts

_TIMEOUT_S = 30.0
_OUTPUT_LIMIT_BYTES = 16 << 20
# Commands of a program that configure a node; others use the network, and are for a scenario.
_CONFIGURES = re.compile(r"(?:sudo )?(?:/s?bin/)?(?:ip|ifconfig|route|sysctl|arp|vconfig|brctl|iptables|nft|echo) \S")
_SHOWS = re.compile(
    r".*\b(?:show|list|ls|get)\b|(?:ip|ifconfig|route|arp)(?: -\w+| a| addr| address| r| route| link| \S*eth\d)*$"
)
_TIME = re.compile(r"([0-9.]+)\s*(us|usec|ms|msec|s|sec)?", re.IGNORECASE)


def read(path: Path, name: str, options: Options) -> Sketch:
    """Return the network of a Mininet program, which is run for that. InputError if it makes none."""
    if not options.programs:
        raise InputError(
            f"{path}: a Mininet program must be run to be read, and this command runs nothing. "
            f"Try: labctl import {shlex.quote(str(path))} -o {shlex.quote(path.stem)}.yaml"
        )
    found = _run(path, options.choice)
    if not items(found.get("nodes")):
        raise InputError(f"{path}: the Mininet program makes no nodes.")
    sketch = Sketch(name, "Mininet")
    for note in texts(found.get("notes")):
        sketch.report.note(note)
    nodes = {text(node.get("name")): mapping(node) for node in items(found.get("nodes"))}
    links = [mapping(link) for link in items(found.get("links"))]
    ends = [mapping(end) for link in links for end in items(link.get("ends"))]
    automatic = {text(node.get("auto_ip")) for node in nodes.values() if not node.get("explicit")}
    explicit = any(set(texts(end.get("addresses"))) - automatic for end in ends)
    for name, node in nodes.items():
        _node(sketch, name, node)
    for link in links:
        _link(sketch, link)
    if explicit:
        sketch.addressing = Addressing.GIVEN
    else:  # Mininet's own addresses: labctl's are alike, with a prefix for each network
        for port in (port for cable in sketch.cables for port in cable.ports):
            port.ipv4.clear()
    _default_names(sketch, nodes)
    for name, node in nodes.items():
        _commands(sketch, sketch.devices[name], texts(node.get("commands")))
    if count := found.get("controllers"):
        sketch.report.left_out(f"{count} controllers", "switches are bridges of the kernel, without OpenFlow")
    return sketch


def _run(path: Path, choice: str) -> dict[str, Any]:
    stub = Path(__file__).with_name("mininet_stub.py")
    argv = [sys.executable, "-I", "-B", str(stub), str(path.resolve()), choice]
    try:
        ended = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, cwd=path.resolve().parent
        )
        result = json.loads(ended.stdout[:_OUTPUT_LIMIT_BYTES])
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path}: the Mininet program does not end within {_TIMEOUT_S:.0f} s.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the Mininet program ended without a result.") from error
    if "error" in result:
        line = result.get("line")
        where = f"{path}:{line}" if line else str(path)
        raise InputError(f"{where}: the Mininet program cannot be read: {result['error']}. It runs without Mininet.")
    return mapping(result)


def _node(sketch: Sketch, name: str, node: dict[str, Any]) -> None:
    kind = text(node.get("kind"))
    forwards = any("ip_forward=1" in each or "forwarding=1" in each for each in texts(node.get("commands")))
    device = sketch.device(name, Role.SWITCH if kind == "switch" else Role.ROUTER if forwards else Role.HOST)
    if kind == "nat":
        device.role = Role.ROUTER
        sketch.report.left_out(name, "its access to the machine's network; add `nat: true` to the router")
    for directory in texts(node.get("private")):
        if directory.startswith("/"):
            device.append("private", directory)


def _link(sketch: Sketch, link: dict[str, Any]) -> None:
    ports = []
    ends = [mapping(end) for end in items(link.get("ends"))]
    names = [text(end.get("node")) for end in ends]
    if outside := next((name for name in names if name not in sketch.devices), ""):
        reason = f"{outside} is the machine itself; see `nat` of routers and `expose` of hosts"
        sketch.report.left_out(f"the link {' - '.join(names)}", reason)
        return
    for end in ends:
        device = sketch.devices[text(end.get("node"))]
        port = Port(device.name, valid_interface(text(end.get("name"))), mac=text(end.get("mac")).lower())
        if device.role is Role.SWITCH:
            port.name = port.mac = ""
        for address in texts(end.get("addresses")):
            port.addresses(6 if ":" in address else 4).append(address if "/" in address else f"{address}/8")
        ports.append(port)
    shown = " - ".join(port.device for port in ports)
    if len({port.device for port in ports}) < 2:
        sketch.report.left_out(f"the link {shown}", "it joins a node to itself")
        return
    cable = sketch.connect(*ports)
    _traffic_control(sketch, cable, mapping(link.get("params")), shown)


def _default_names(sketch: Sketch, nodes: dict[str, dict[str, Any]]) -> None:
    """Leave Mininet's names of interfaces (h1-eth0) to labctl if no command uses them."""
    commands = "\n".join(each for node in nodes.values() for each in texts(node.get("commands")))
    for port in (port for cable in sketch.cables for port in cable.ports):
        if re.fullmatch(r".*-eth\d+", port.name) and port.name not in commands:
            port.name = ""


def _traffic_control(sketch: Sketch, cable: Cable, params: dict[str, Any], shown: str) -> None:
    """Take the parameters of TCLink."""
    impairment = cable.impairment
    if rate := _number(params.get("bw")):
        impairment["rate"] = f"{rate * 1000:.0f}kbit"
        if rate == int(rate):
            impairment["rate"] = f"{rate:.0f}mbit"
    for key in ("delay", "jitter"):
        if value := _time(params.get(key)):
            impairment[key] = value
    if "jitter" in impairment and "delay" not in impairment:
        del impairment["jitter"]
        sketch.report.left_out(f"jitter of {shown}", "there is no delay")
    if loss := _number(params.get("loss")):
        impairment["loss"] = f"{min(loss, 100.0):g}%"
    for key, reason in (("max_queue_size", "a queue in packets"), ("speedup", "it is for OVS"), ("use_htb", "")):
        if params.get(key) and reason:
            sketch.report.left_out(f"{key} of {shown}", reason)


def _number(value: Any) -> float:
    try:
        number = float(text(value) or "0")
    except ValueError:
        return 0.0
    return number if 0 < number < 1e6 else 0.0


def _time(value: Any) -> str:
    """Return a delay of TCLink as labctl writes it: "5ms", or a number of microseconds, as tc(8) reads it."""
    match = _TIME.fullmatch(text(value).strip())
    if match is None or not float(match[1] if match[1].count(".") < 2 and match[1] != "." else "0"):
        return ""
    unit = {"u": "us", "m": "ms", "s": "s"}[(match[2] or "us").lower()[0]]
    return f"{float(match[1]):g}{unit}"


def _commands(sketch: Sketch, device: Device, commands: list[str]) -> None:
    if device.role is Role.SWITCH:
        return
    lines = []
    for command in commands:
        if _SHOWS.match(command):
            continue
        if _CONFIGURES.match(command):
            lines.append(Line(command))
        elif command.strip():
            shown = command if len(command) <= 50 else f"{command[:47]}..."
            sketch.report.left_out(
                f"{device.name}: `{shown}`", "the program uses the network; write a scenario for that"
            )
    configure(sketch, device, lines, shell=False)


def read_miniedit(content: bytes, path: Path, name: str) -> Sketch:
    """Return the network of a file of MiniEdit. InputError if it is not JSON."""
    try:
        data = mapping(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}.") from error
    sketch = Sketch(name, "MiniEdit")
    for section, role in (("hosts", Role.HOST), ("switches", Role.SWITCH)):
        for entry in map(mapping, items(data.get(section))):
            opts = mapping(entry.get("opts"))
            node = text(opts.get("hostname")) or f"{section[0]}{text(entry.get('number'))}"
            is_router = text(opts.get("switchType")) == "legacyRouter"
            sketch.device(node, Role.ROUTER if is_router else role)
    for link in map(mapping, items(data.get("links"))):
        ends = [text(link.get(side)) for side in ("src", "dest")]
        if not all(end in sketch.devices for end in ends) or ends[0] == ends[1]:
            sketch.report.left_out(f"the link {' - '.join(ends)}", "it does not join two nodes of the file")
            continue
        cable = sketch.connect(*(Port(sketch.devices[end].name) for end in ends))
        opts = mapping(link.get("opts"))
        if text(opts.get("delay")).isdecimal():
            opts = {**opts, "delay": f"{text(opts['delay'])}us"}
        _traffic_control(sketch, cable, opts, " - ".join(ends))
    if any(text(mapping(mapping(host).get("opts")).get("ip")) for host in items(data.get("hosts"))):
        sketch.addressing = Addressing.GIVEN
    for host in map(mapping, items(data.get("hosts"))):
        _miniedit_host(sketch, mapping(host.get("opts")), text(host.get("number")))
    if controllers := len(items(data.get("controllers"))):
        sketch.report.left_out(f"{controllers} controllers", "switches are bridges of the kernel, without OpenFlow")
    return sketch


def _miniedit_host(sketch: Sketch, opts: dict[str, Any], number: str) -> None:
    name = text(opts.get("hostname")) or f"h{number}"
    device = sketch.devices[name]
    ports = sketch.ports_of(device)
    if (address := text(opts.get("ip"))) and ports:
        ports[0].ipv4.append(address if "/" in address else f"{address}/8")
    if gateway := text(opts.get("defaultRoute")):
        via = gateway.removeprefix("via ").strip()
        device.commands.append(f"ip route replace default via {via}")
    for directory in items(opts.get("privateDirectory")):
        path = text(directory[0]) if isinstance(directory, list) and directory else text(directory)
        if path.startswith("/"):
            device.append("private", path)
    if command := text(opts.get("startCommand")):
        configure(sketch, device, [Line(command)], shell=False)
    for key, reason in (("externalInterfaces", "an interface of the machine"), ("vlanInterfaces", "a VLAN")):
        if opts.get(key):
            sketch.report.left_out(f"{name}: {key}", reason)
