"""The ip(8), bridge(8) and wg(8) commands that make a device."""

from __future__ import annotations

import shlex

from labctl.plan.operations import MakeDevice
from labctl.topology.devices import Vxlan, Wireguard


def device_commands(part: MakeDevice, *, remove: bool = False) -> list[str]:
    """Return the commands that make the device, or remove it."""
    node, name, spec = shlex.quote(part.node), shlex.quote(part.name), part.spec
    if remove:
        return [f"ip -n {node} link delete dev {name}"]
    words = [f"ip -n {node} link add"]
    words += [f"link {shlex.quote(part.ifname)}"] if part.ifname and not spec.overhead_bytes else []
    words += [f"name {name}"]
    words += [f"address {part.mac}"] if part.mac else []
    words += [f"mtu {part.mtu}"] if part.mtu else []
    words += [f"type {spec.kind}"]
    words += [f"dev {shlex.quote(part.ifname)}"] if part.ifname and spec.overhead_bytes else []
    for option, value in spec.options:
        words.append(("learning" if value == "on" else "nolearning") if option == "learning" else f"{option} {value}")
    lines = [" ".join(words), f"ip -n {node} link set dev {name} addrgenmode none"]
    if isinstance(spec, Vxlan):
        lines += [f"bridge -n {node} fdb append 00:00:00:00:00:00 dev {name} dst {each}" for each in spec.remotes]
    if isinstance(spec, Wireguard):
        lines += _wireguard(part, spec)
    return lines


def _key_file(node: str, ifname: str) -> tuple[str, str]:
    """Return the name of the file of a generated key, and the command that generates it once."""
    file = shlex.quote(f"{node}-{ifname}.key")
    return file, f"test -s {file} || (umask 077; wg genkey > {file})"


def _wireguard(part: MakeDevice, spec: Wireguard) -> list[str]:
    file, generate = _key_file(part.node, part.name)
    lines = [f"(umask 077; echo {shlex.quote(spec.private_key)} > {file})" if spec.private_key else generate]
    words = [f"ip netns exec {shlex.quote(part.node)} wg set {shlex.quote(part.name)} listen-port {spec.port}"]
    words.append(f"private-key {file}")
    for peer in spec.peers:
        key = shlex.quote(peer.public_key)
        if not peer.public_key:
            of_peer, generate = _key_file(peer.node, peer.ifname)
            lines.append(generate)
            key = f'"$(wg pubkey < {of_peer})"'
        words.append(f"peer {key}")
        if peer.preshared_key:
            secret = shlex.quote(f"{part.node}-{part.name}.psk")
            lines.append(f"(umask 077; echo {shlex.quote(peer.preshared_key)} > {secret})")
            words.append(f"preshared-key {secret}")
        address = f"[{peer.endpoint}]" if ":" in peer.endpoint else peer.endpoint
        words += [f"endpoint {address}:{peer.port}"] if peer.endpoint else []
        words += [f"persistent-keepalive {peer.keepalive_s}"] if peer.keepalive_s else []
        words += [f"allowed-ips {','.join(peer.allowed)}"] if peer.allowed else []
    return [*lines, " ".join(words)]
