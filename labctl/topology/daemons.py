"""Services that run a daemon of a network: `use: frr` becomes programs, their order, and their configuration files.

Each daemon runs in the foreground, logs to its output, and has a condition for being ready. Its files are placed where
the daemon and its tools look for them, so that `vtysh` and `birdc` work on the node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from labctl.structs import Struct, replace
from labctl.topology.model import PlacedFile, Readiness, Service
from labctl.topology.schema import Daemon

_FRR_DIRECTORIES = ("/usr/lib/frr", "/usr/libexec/frr")  # of Debian, of Fedora
# The daemon of each block of a FRR configuration (https://docs.frrouting.org/en/latest/overview.html).
_FRR_BLOCKS = (
    (r"router ospf\b", "ospfd"),
    (r"router ospf6\b", "ospf6d"),
    (r"router bgp\b", "bgpd"),
    (r"router ripng\b", "ripngd"),
    (r"router rip\b", "ripd"),
    (r"router isis\b", "isisd"),
    (r"router eigrp\b", "eigrpd"),
    (r"router babel\b", "babeld"),
    (r"router openfabric\b", "fabricd"),
    (r"(ip|ipv6) route\b", "staticd"),
    (r"bfd$", "bfdd"),
    (r"\s*ip (pim|igmp)\b", "pimd"),
    (r"mpls ldp\b", "ldpd"),
    (r"\s*vrrp\b", "vrrpd"),
)
FRR_DAEMONS = tuple(dict.fromkeys(name for _, name in _FRR_BLOCKS))
_CONFIGURED = "the configuration is loaded"


class DaemonRequest(Struct, frozen=True):
    """A service with `use`: the daemon, its configuration and its arguments."""

    config: str = ""  # the text
    has_config: bool = False
    options: tuple[str, ...] = ()
    daemons: tuple[str, ...] = ()


class DaemonParts(Struct, frozen=True):
    """What a daemon needs on its node."""

    services: tuple[Service, ...]
    path: str  # of the configuration file
    files: tuple[PlacedFile, ...] = ()


def parts_of(daemon: Daemon, service: Service, request: DaemonRequest) -> DaemonParts:
    """Return the services in place of `service`, which has no command yet, and the path of the configuration."""
    return _MAKERS[daemon](service, request)


def frr_daemons_in(config: str) -> tuple[str, ...]:
    """Return the daemons, beside zebra, whose commands are in the text of a FRR configuration."""
    lines = [line.rstrip() for line in config.splitlines()]
    found = (name for pattern, name in _FRR_BLOCKS if any(re.match(pattern, line) for line in lines))
    return tuple(dict.fromkeys(found))


def _one(service: Service, argv: tuple[str, ...], ready: Readiness) -> Service:
    return replace(service, argv=argv, ready=service.ready or ready)


def _dnsmasq(service: Service, request: DaemonRequest) -> DaemonParts:
    path = "/etc/dnsmasq.conf"
    argv = (
        *("dnsmasq", "--keep-in-foreground", "--log-facility=-", f"--conf-file={path if request.has_config else ''}"),
        *("--pid-file=/run/dnsmasq.pid", "--dhcp-leasefile=/run/dnsmasq.leases", *request.options),
    )
    return DaemonParts((_one(service, argv, Readiness(line="started, version")),), path)


def _radvd(service: Service, request: DaemonRequest) -> DaemonParts:
    path = "/etc/radvd.conf"
    argv = (
        *("radvd", "--nodaemon", "--logmethod=stderr", f"--config={path}", "--pidfile=/run/radvd.pid"),
        *request.options,
    )
    return DaemonParts((_one(service, argv, Readiness(line="version .* started")),), path)


def _bird(service: Service, request: DaemonRequest) -> DaemonParts:
    path = "/etc/bird/bird.conf"
    argv = ("bird", "-f", "-c", path, "-P", "/run/bird/bird.pid", *request.options)
    return DaemonParts((_one(service, argv, Readiness(command=("birdc", "show", "status"))),), path)


def _frr(service: Service, request: DaemonRequest) -> DaemonParts:
    """zebra, the other daemons, then `vtysh -b`, which loads the configuration of all (vtysh(1))."""
    directory = next((one for one in _FRR_DIRECTORIES if os.path.isdir(one)), _FRR_DIRECTORIES[0])
    services: list[Service] = []
    after = service.after
    for name in ("zebra", *(request.daemons or frr_daemons_in(request.config))):
        argv = (f"{directory}/{name}", "-A", "127.0.0.1", "--log", "stdout", *request.options)
        ready = Readiness(command=("vtysh", "-d", name, "-c", "show version"))
        services.append(replace(service, name=name, argv=argv, ready=ready, after=after))
        after = ("zebra",)
    shell = f"vtysh -b && echo {_CONFIGURED} && exec sleep infinity"
    names = tuple(one.name for one in services)
    services.append(
        replace(service, argv=("sh", "-c", shell), ready=service.ready or Readiness(line=_CONFIGURED), after=names)
    )
    tools = PlacedFile("/etc/frr/vtysh.conf", "service integrated-vtysh-config\n")
    return DaemonParts(tuple(services), "/etc/frr/frr.conf", (tools,))


_MAKERS: Mapping[Daemon, Callable[[Service, DaemonRequest], DaemonParts]] = MappingProxyType(
    {Daemon.DNSMASQ: _dnsmasq, Daemon.RADVD: _radvd, Daemon.FRR: _frr, Daemon.BIRD: _bird}
)
