"""A sketch to a topology file: roles, interface names, prefixes; what has no key of labctl becomes a command."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_interface

from labctl.formats.sketch import Addressing, Cable, Device, Line, Options, Part, Port, Role, Sketch, Value
from labctl.formats.startup import route_of
from labctl.formats.yaml_writer import Path
from labctl.structs import Struct, field, replace

_SECTIONS = {Role.HOST: "hosts", Role.ROUTER: "routers", Role.SWITCH: "switches"}
_KEYS = {4: "ipv4", 6: "ipv6"}
_IMPAIRMENTS = {Part.DELAY: ("delay", "jitter"), Part.RATE: ("rate",), Part.LOSS: ("loss",)}
_CHANGES_ROUTES = re.compile(
    r"\broute (?:del|delete|flush|change)|\bip rule|\bip (?:link|l) (?:add|set)|\btable\b|&&|;|\|"
)
_OWN = ("/run", "/var/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys")  # of every node
_USUAL_MTU = 1500
_PORTS_LIMIT = 1023  # of a Linux bridge (BR_MAX_PORTS, net/bridge/br_private.h)

Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface


class Assembled(Struct, frozen=True):
    """A topology file as data, and comments for its entries."""

    data: dict[str, Value]
    comments: dict[Path, str]


def assemble(sketch: Sketch, options: Options) -> Assembled:
    """Return the topology file of the sketch; what changes is added to its report."""
    leave_out(sketch, options.without)
    for cable in sketch.cables:
        _set_mtu(sketch, cable)
    return _Assembly(sketch).assembled()


def _set_mtu(sketch: Sketch, cable: Cable) -> None:
    """Take an MTU that all devices of the cable set; others stay commands."""
    devices = {device.name: device for device in sketch.devices.values()}
    ports = [port for port in cable.ports if devices[port.device].role is not Role.SWITCH]
    wanted = {port.mtu for port in ports}
    if len(wanted) == 1 and wanted != {0} and len(ports) == len(cable.ports):
        cable.mtu = wanted.pop()
    else:
        for port in ports:
            if port.mtu and port.mtu != cable.mtu:
                command = f"ip link set dev {port.name} mtu {port.mtu}"
                devices[port.device].commands.insert(0, command)
    cable.mtu = 0 if cable.mtu == _USUAL_MTU else cable.mtu


def leave_out(sketch: Sketch, without: frozenset[Part]) -> None:
    """Remove the parts that the user does not want."""
    unwanted = {key for part, keys in _IMPAIRMENTS.items() if part in without for key in keys}
    for cable in sketch.cables:
        for impairment in (cable.impairment, *(port.impairment for port in cable.ports)):
            for key in unwanted.intersection(impairment):
                del impairment[key]
    if Part.COMMANDS in without:
        for device in sketch.devices.values():
            device.commands.clear()
            device.settings.pop("services", None)


class _Domain(Struct):
    """A broadcast domain: the ports that share a prefix."""

    ports: list[Port] = field(default_factory=list)
    cables: list[Cable] = field(default_factory=list)
    prefix: Network | None = None  # of the family that is being assigned


class _Assembly:
    def __init__(self, sketch: Sketch) -> None:
        self.sketch = sketch
        self.report = sketch.report
        self.devices = {device.name: device for device in sketch.devices.values()}
        self.data: dict[str, Value] = {"name": sketch.name}
        self.comments: dict[Path, str] = {}
        self.given: dict[tuple[int, int], list[Interface]] = {}  # (id of a port, family) to its addresses
        self.chosen: dict[tuple[int, int], Network] = {}  # (id of a cable, family) to the prefix of its domain
        self.families: list[int] = []

    def assembled(self) -> Assembled:
        self.roles()
        self.allow_rings()
        self.fold_switches()
        self.interface_names()
        self.addresses()
        if self.sketch.addressing is Addressing.GIVEN:
            self.routes()
        if self.sketch.about:
            self.data["about"] = self.sketch.about
        if self.sketch.addressing is Addressing.GIVEN:
            if self.families in ([4], [6]):
                self.data["addresses"] = _KEYS[self.families[0]]
            self.data["routes"] = "none"
        self.loopbacks()
        self.nodes()
        self.networks_and_links()
        return Assembled(self.data, self.comments)

    def segments(self, port: Port, cable: Cable) -> list[str]:
        """Return the names of a switch's broadcast domains that a port of it is in: one, or one for each VLAN."""
        keys = {**cable.settings, **port.settings} if not cable.name else port.settings
        vlans = [keys[key] for key in ("vlan", "native") if key in keys] + list(keys.get("trunk", ()))
        return [f"{port.device}\0{vlan}" if str(vlan) != "1" else port.device for vlan in vlans] or [port.device]

    def roles(self) -> None:
        counts = Counter(port.device for cable in self.sketch.cables for port in cable.ports)
        for device in self.devices.values():
            if device.role is None:
                device.role = Role.ROUTER if counts[device.name] > 1 else Role.HOST

    def allow_rings(self) -> None:
        """Let switches that form a ring run the spanning tree protocol."""
        switches = [device for device in self.devices.values() if device.role is Role.SWITCH]
        root = {device.name: device.name for device in switches}

        def find(name: str) -> str:
            while root[name] != name:
                name = root[name]
            return name

        closing = 0
        for cable in self.sketch.cables:
            hubs = {find(port.device) for port in cable.ports if port.device in root}
            inner = [port for port in cable.ports if port.device in root]
            if len(inner) == 2 and not cable.name:
                closing += len(hubs) == 1
                first, second = (find(port.device) for port in inner)
                root[second] = first
        if closing:
            for device in switches:
                device.settings.setdefault("stp", True)
            self.report.note("switches form a ring, so all run the spanning tree protocol (`stp`)")

    def fold_switches(self) -> None:
        """Make a network of each switch that has plain links to hosts and routers: its members."""
        roles = {name: device.role for name, device in self.devices.items()}
        for device in [one for one in self.devices.values() if one.role is Role.SWITCH]:
            plain = [cable for cable in self.sketch.cables if _is_plain(cable, device.name, roles)]
            if not plain:
                continue
            ports = [port for cable in plain for port in cable.ports if port.device != device.name]
            for cable in plain:  # keys of the switch's port go to the member
                own, other = sorted(cable.ports, key=lambda port: port.device != device.name)
                other.settings = {**own.settings, **other.settings}
            found = {id(cable) for cable in plain}
            at = next(number for number, cable in enumerate(self.sketch.cables) if id(cable) in found)
            network = Cable(ports, device.name, settings=device.settings, comment=device.comment, line=device.line)
            self.sketch.cables.insert(at, network)
            self.sketch.cables = [cable for cable in self.sketch.cables if id(cable) not in found]

    def interface_names(self) -> None:
        """Omit names that labctl derives: eth0, eth1, ... in the order of the file, networks first."""
        ports: dict[str, list[Port]] = {}
        for cable in self.in_file_order():
            for port in cable.ports:
                ports.setdefault(port.device, []).append(port)
        for name, own in ports.items():
            is_switch = self.devices[name].role is Role.SWITCH
            if is_switch or all(port.name in ("", f"eth{number}") for number, port in enumerate(own)):
                for port in own:
                    port.name = ""

    def in_file_order(self) -> Iterator[Cable]:
        yield from (cable for cable in self.sketch.cables if cable.name)
        yield from (cable for cable in self.sketch.cables if not cable.name)

    # -- addresses -----------------------------------------------------------------------------------------------------

    def addresses(self) -> None:
        """Choose the prefix of each domain; addresses outside it become commands."""
        domains = self.domains()
        names = self.derived_names()
        for family in (4, 6):
            taken: dict[Network, int] = {}  # to the number of the domain
            seen: set[IPv4Address | IPv6Address] = set()
            for number, domain in enumerate(domains):
                domain.prefix = self.prefix_of(domain, family, taken)
                if domain.prefix is not None:
                    taken[domain.prefix] = number
                    self.chosen |= dict.fromkeys(((id(cable), family) for cable in domain.cables), domain.prefix)
            if taken:
                self.families.append(family)
            for number, domain in enumerate(domains):
                for port in domain.ports:
                    self.assign(port, family, number, domain.prefix, taken, seen, names)

    def domains(self) -> list[_Domain]:
        """Return the broadcast domains: links, and networks and switches that are joined."""
        root: dict[str, str] = {}

        def find(name: str) -> str:
            while root.setdefault(name, name) != name:
                root[name] = root[root[name]]
                name = root[name]
            return name

        def hubs(cable: Cable, of: Port | None = None) -> list[list[str]]:
            """Return the broadcast domains of the switches at the cable, each as a list of one for each VLAN."""
            switches = [port for port in cable.ports if self.devices[port.device].role is Role.SWITCH]
            found = [self.segments(port, cable) for port in switches]
            if cable.name:
                own = replace(of, device=cable.name) if of is not None else Port(cable.name)
                found = [self.segments(own, cable), *found]
            return found

        for cable in self.sketch.cables:
            first, *others = hubs(cable) or [[]]
            for other in others:
                for mine, its in zip(sorted(first), sorted(other), strict=False):
                    root[find(its)] = find(mine)
        found: dict[str | int, _Domain] = {}
        for cable in self.sketch.cables:
            for port in cable.ports or [Port("")]:
                joined = hubs(cable, port)
                domain = found.setdefault(find(joined[0][0]) if joined else id(cable), _Domain())
                is_new = all(one is not cable for one in domain.cables)  # parallel cables are equal
                if is_new and (not cable.name or not self.has_vlan(port)):
                    domain.cables.append(cable)
                if port.device and self.devices[port.device].role is not Role.SWITCH:
                    domain.ports.append(port)
        return list(found.values())

    def has_vlan(self, port: Port) -> bool:
        """Return whether the port is a member of a VLAN of its switch."""
        return bool(port.settings.keys() & {"vlan", "trunk"})

    def prefix_of(self, domain: _Domain, family: int, taken: Iterable[Network]) -> Network | None:
        """Return the given prefix, else that of most first addresses, unless another domain has it."""
        wanted = [parsed.network for cable in domain.cables if (parsed := _parsed(cable.prefix(family), family))]
        firsts = [_parsed(port.addresses(family)[0], family) for port in domain.ports if port.addresses(family)]
        votes = Counter(one.network for one in firsts if one and one.network.prefixlen < one.max_prefixlen)
        needed = 0
        if self.sketch.addressing is Addressing.AUTOMATIC:  # ports without an address get one
            needed = sum(max(1, len(port.addresses(family))) for port in domain.ports)
        for candidate in dict.fromkeys([*wanted, *(network for network, _ in votes.most_common())]):
            unusable = 2 if candidate.prefixlen < candidate.max_prefixlen - 1 else 0
            if candidate.num_addresses - unusable < needed or not _is_unicast(candidate.network_address):
                continue
            if not any(candidate.overlaps(other) for other in taken):
                return candidate
        return None

    def assign(
        self,
        port: Port,
        family: int,
        number: int,
        prefix: Network | None,
        taken: dict[Network, int],
        seen: set[IPv4Address | IPv6Address],
        names: Mapping[int, str],
    ) -> None:
        """Take the port's addresses: the first in the prefix, further ones that no other domain has; or commands."""
        device = self.devices[port.device]
        found: list[Interface] = []
        extra: list[str] = []
        for written in port.addresses(family):
            parsed = _parsed(written, family)
            if parsed is None:
                self.report.left_out(f"{device.name}: {written}", f"not an IPv{family} address", port.line)
                continue
            if "/" not in written and prefix is not None and parsed.ip in prefix:
                parsed = ip_interface(f"{parsed.ip}/{prefix.prefixlen}")
            network = parsed.network
            usable = prefix is not None and _is_usable(parsed) and parsed.ip not in seen
            if found and network not in taken and network.prefixlen < network.max_prefixlen:
                usable = usable and not any(network.overlaps(other) for other in taken)
                if usable:
                    taken[network] = number
            if usable and (network == prefix or (found and taken.get(network) == number)):
                found.append(parsed)
                seen.add(parsed.ip)
            elif self.sketch.addressing is Addressing.AUTOMATIC and taken.get(network, number) != number:
                reason = "another network has its prefix, so labctl derives addresses for this one"
                self.report.left_out(f"{device.name}: {written}", reason, port.line)
            else:
                extra.append(str(parsed))
        if found:
            self.given[id(port), family] = found
        if extra:
            flag = "-6 " if family == 6 else ""
            nodad = " nodad" if family == 6 else ""
            name = names[id(port)]
            commands = [f"ip {flag}address add {address} dev {name}{nodad}" for address in extra]
            device.commands[:0] = commands
            device.origins |= dict.fromkeys(commands, Line("", port.line))

    def routes(self) -> None:
        """Make keys of commands that add a route by a gateway on a network of the node."""
        networks: dict[str, list[Network]] = {}
        for cable in self.sketch.cables:
            for port in cable.ports:
                for family in (4, 6):
                    for address in self.given.get((id(port), family), ()):
                        networks.setdefault(port.device, []).append(address.network)
        for device in self.devices.values():
            own = networks.get(device.name, [])
            texts = [command for command in device.commands if isinstance(command, str)]
            scripts = [command["shell"] for command in device.commands if isinstance(command, dict)]
            if any(map(_CHANGES_ROUTES.search, texts)) or any("route" in script for script in scripts):
                continue
            seen: set[tuple[str, int]] = set()
            for command in texts:
                route = route_of(command)
                if route is None or not any(route.via in network for network in own):
                    continue
                key = ("" if route.to is None else str(route.to), route.metric)
                if (key[0] or str(route.via.version), route.metric) in seen:
                    continue
                seen.add((key[0] or str(route.via.version), route.metric))
                device.commands.remove(command)
                if route.to is None and not route.metric:
                    gateways = [*device.settings.pop("gateway", []), str(route.via)]
                    device.settings["gateway"] = gateways
                else:
                    to = "default" if route.to is None else str(route.to)
                    metric = {"metric": route.metric} if route.metric else {}
                    device.append("routes", {"to": to, "via": str(route.via)} | metric)
            if len(gateways := device.settings.get("gateway", [])) == 1:
                device.settings["gateway"] = gateways[0]

    def derived_names(self) -> dict[int, str]:
        """Return the interface name of each port by its id, with those that labctl derives."""
        counts: Counter[str] = Counter()
        names: dict[int, str] = {}
        for cable in self.in_file_order():
            for port in cable.ports:
                names[id(port)] = port.name or f"eth{counts[port.device]}"
                counts[port.device] += 1
        return names

    # -- the file ------------------------------------------------------------------------------------------------------

    def loopbacks(self) -> None:
        """Allow loopback addresses that several nodes have."""
        found = Counter(
            str(address) for device in self.devices.values() for address in set(device.settings.get("loopback", []))
        )
        shared = [address for address, nodes in found.items() if nodes > 1]
        if shared:
            self.data["anycast"] = True
            self.report.note(f"several nodes have the loopback address {', '.join(shared[:4])} (`anycast`)")

    def nodes(self) -> None:
        for role, section in _SECTIONS.items():
            found = {device.name: device for device in self.devices.values() if device.role is role}
            if role is Role.SWITCH:
                members = {cable.name for cable in self.sketch.cables if cable.name}
                found = {name: device for name, device in found.items() if name not in members}
            if not found:
                continue
            self.data[section] = {name: _settings(device, self.sketch) for name, device in found.items()}
            for name, device in found.items():
                if device.comment:
                    self.comments[section, name] = device.comment

    def networks_and_links(self) -> None:
        networks: dict[str, Value] = {}
        links: list[Value] = []
        for cable in self.sketch.cables:
            if cable.name:
                networks[cable.name] = self.network(cable)
            else:
                links.append(self.link(cable))
            if cable.comment:
                self.comments[("networks", cable.name) if cable.name else ("links", len(links) - 1)] = cable.comment
            if cable.name and len(cable.ports) > _PORTS_LIMIT:
                self.report.note(f"more than {_PORTS_LIMIT} ports", cable.name, cable.line)
        if self.sketch.vlans:
            self.data["vlans"] = self.sketch.vlans
        if networks:
            self.data["networks"] = networks
        if links:
            self.data["links"] = links

    def network(self, cable: Cable) -> Value:
        made = self.prefixes(cable)
        if cable.mtu:
            made["mtu"] = cable.mtu
        made |= cable.settings
        made["members"] = [self.end(port, cable) for port in cable.ports]
        return made

    def link(self, cable: Cable) -> Value:
        made: dict[str, Value] = {"ends": [self.end(port, cable) for port in cable.ports]}
        if not any((id(port), 4) in self.given or (id(port), 6) in self.given for port in cable.ports) or any(
            self.devices[port.device].role is Role.SWITCH for port in cable.ports
        ):
            made |= self.prefixes(cable)
        else:
            made |= {key: value for key, value in self.prefixes(cable).items() if value is False}
        if cable.mtu:
            made["mtu"] = cable.mtu
        made |= cable.impairment | cable.settings
        is_short = made.keys() == {"ends"} and all(isinstance(end, str) for end in made["ends"])
        return made["ends"] if is_short else made

    def prefixes(self, cable: Cable) -> dict[str, Value]:
        """Return the keys of the cable's prefixes; false for a family without one, if no address is automatic."""
        made: dict[str, Value] = {}
        ports = [port for port in cable.ports if self.devices[port.device].role is not Role.SWITCH]
        ports = [port for port in ports if not (cable.name and self.has_vlan(port))] or ports[:0]
        for family, key in _KEYS.items():
            prefix = self.chosen.get((id(cable), family))
            if prefix and (cable.prefix(family) or any((id(port), family) in self.given for port in ports)):
                made[key] = str(prefix)
            elif not prefix and ports and self.is_without(family):
                made[key] = False
        return made

    def is_without(self, family: int) -> bool:
        """Return whether ports without an address of the family get none, and the file must say so."""
        return self.sketch.addressing is Addressing.GIVEN and (family in self.families or not self.families)

    def end(self, port: Port, cable: Cable) -> Value:
        made: dict[str, Value] = {"node": port.device}
        if port.name:
            made["interface"] = port.name
        if port.mac:
            made["mac"] = port.mac
        if self.devices[port.device].role is not Role.SWITCH:
            for family, key in _KEYS.items():
                if found := self.given.get((id(port), family)):
                    is_short = cable.name and not self.has_vlan(port)
                    texts = [str(one.ip) if is_short and not number else str(one) for number, one in enumerate(found)]
                    made[key] = texts[0] if len(texts) == 1 else texts
                elif self.is_without(family) and ((id(cable), family) in self.chosen or self.has_vlan(port)):
                    made[key] = False
        made |= port.impairment | port.settings
        return port.device if made.keys() == {"node"} else made


def _is_plain(cable: Cable, switch: str, roles: Mapping[str, Role | None]) -> bool:
    """Return whether the link joins a host or router to the switch, without anything that only a link can have."""
    if cable.name or cable.mtu or cable.impairment or cable.settings or cable.comment or cable.ipv4 or cable.ipv6:
        return False
    ends = [port for port in cable.ports if port.device == switch]
    others = [port for port in cable.ports if roles[port.device] is not Role.SWITCH]
    return len(ends) == len(others) == 1 and not any(port.impairment for port in cable.ports)


def _settings(device: Device, sketch: Sketch) -> dict[str, Value]:
    """Return the node's keys; its commands and services may fail, because they were written for another system."""

    def moved(path: str) -> str:
        return os.path.normpath(os.path.join(sketch.prefix, path)) if sketch.prefix not in ("", ".") else path

    def foreign(program: dict[str, Value], name: str) -> dict[str, Value]:
        line = device.origins.get(name)
        where = (line.file or sketch.file) + (f":{line.number}" if line.number else "") if line is not None else ""
        return {**program, "may_fail": True, **({"origin": where} if where else {})}

    settings = dict(device.settings)
    if files := settings.get("files"):
        settings["files"] = {path: {**each, "source": moved(each["source"])} for path, each in files.items()}
    if binds := settings.get("binds"):
        split = (bind.partition(":") for bind in binds)
        settings["binds"] = [f"{moved(source)}{colon}{rest}" for source, colon, rest in split]
    if services := settings.pop("services", None):
        for name, each in services.items():
            if isinstance(config := each.get("config"), str):
                services = {**services, name: {**each, "config": moved(config)}}
        settings["services"] = {name: foreign(each, name) for name, each in services.items()}
    private = [path for path in settings.pop("private", []) if not path.startswith(_OWN)]
    if private:
        settings["private"] = private
    if device.commands:
        shells = [each["shell"] if isinstance(each, dict) else each for each in device.commands]
        settings["exec"] = [foreign({"shell": shell}, shell) for shell in shells]
    return settings


def _parsed(written: str, family: int) -> Interface | None:
    try:
        parsed = ip_interface(written.strip())
    except ValueError:
        return None
    return parsed if parsed.version == family and "%" not in written else None


def _is_usable(address: Interface) -> bool:
    """Return whether a member of a network can have the address (`topology.addressing` checks the same)."""
    ip, network = address.ip, address.network
    if not _is_unicast(ip) or not _is_unicast(network.network_address):
        return False
    if network.prefixlen >= network.max_prefixlen - 1:
        return True
    return ip != network.network_address and (ip.version == 6 or ip != network.broadcast_address)


def _is_unicast(address: IPv4Address | IPv6Address) -> bool:
    """Return whether it is an address of one host: not 0.0.0.0/8, loopback, link-local (IPv6), multicast or class E."""
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        return False
    if address.version == 6:
        return not address.is_link_local
    return 0 < int(address) >> 24 < 240
