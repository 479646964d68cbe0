"""Words that people write for keys of labctl's files, from ip(8), Docker and other tools, or beside the right mapping.

They are no second spelling: a file with one is wrong, and the hint of the mistake names the key. Near misses
(`gatway`) need no entry, `diagnostics.suggest` finds them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

_ADDRESSES = "addresses stand where the node joins a network or a link: `members: [{node: a, ipv4: 10.0.1.5}]`"
_PROGRAM = "a program of this machine is a service: `services: {web: {run: [nginx, -g, daemon off;]}}`"
_DAEMON = "a daemon is a service: `services: {routing: {use: frr, config: r1.conf}}`"
_PORT_KEYS = "VLANs belong to a switch's port: `members: [{node: a, vlan: 10}]`"
_OF_ROUTERS = "only routers translate addresses and forward ports: write the node below `routers`"
_IMPAIRED = "write it at a member, `{node: a, delay: 10ms}`, or for two members in `between`"
_END_ADDRESS = "write `ipv4: 10.0.1.5`, or `ipv6: fd00:1::5`"
_PREFIX = "write `ipv4: 10.0.1.0/24`, or `ipv6: fd00:1::/64`"
_OF_HOST = "it belongs to the host or router: `hosts: {a: {gateway: r1}}`"
_IN_SECTIONS = "nodes have a kind: write them below `hosts`, `routers` or `switches`"

# By shape and by key, or by a sentence where the meaning has no key there: the words.
WORDS: Mapping[str, Mapping[str, str]] = {
    "TopologyFile": {
        _IN_SECTIONS: "nodes node devices machines topology",
        "about": "description comment desc",
        "name": "title lab",
        "include": "includes import imports extends",
        "parameters": "vars variables params defaults",
        "for": "loop repeat foreach",
        "links": "edges connections cables",
        "networks": "subnets lans segments bridges",
        "dns": "nameserver nameservers resolver",
        "services belong to a node: `hosts: {a: {services: {web: {run: [nginx]}}}}`": "services service",
        "steps belong to a scenario: a file with `topology` and `steps`, for labctl run": "steps tests expect",
    },
    "NodeFile": {
        _ADDRESSES: "ip ipv4 ipv6 address addresses mac mtu ips",
        "networks list their nodes: `networks: {lan: {members: [a, b]}}`": "networks network links link connect",
        "gateway": "gw default_gateway defaultgateway default_route router via",
        "routes": "route static_routes",
        "rules": "rule policy_rules ip_rules",
        "loopback": "lo lo0 loopback0",
        "interfaces": "devices device ifaces",
        "binds": "volumes mounts volume",
        "files": "copy configs config",
        "environment": "env",
        "exec": "commands cmd command run setup post_up up script startup shell",
        "dns": "nameserver nameservers resolver dns_servers",
        "limits": "resources memory cpu pids",
        "count": "replicas scale number instances",
        "firewall": "iptables nft nftables acl filter allow deny",
        _DAEMON: "frr bird dnsmasq radvd daemons ospf ospfd bgp isis rip dhcp ra zebra",
        _PROGRAM: "image program service",
        _PORT_KEYS: "vlan vlans trunk",
        _IN_SECTIONS: "kind type role",
    },
    "HostFile": {
        _OF_ROUTERS: "nat masquerade snat forward dnat port_forward port_forwards",
        "only routers forward packets: write the node below `routers`": "forwarding ip_forward",
        "expose": "ports publish",
    },
    "RouterFile": {
        "nat": "masquerade snat",
        "forward": "dnat port_forward port_forwards port_forwarding ports",
        "`forward` leads its ports to hosts, and `expose` belongs to hosts": "expose publish",
        "routers forward packets without a key": "forwarding ip_forward",
    },
    "BridgeFile": {
        "snooping": "igmp_snooping mcast_snooping multicast_snooping",
        "stp": "spanning_tree",
        "ageing": "aging ageing_time aging_time",
        _PORT_KEYS: "vlan vlans vlan_filtering trunk",
        _IMPAIRED: "delay loss rate jitter latency bandwidth bw speed",
    },
    "SwitchFile": {
        "a switch with members is a network: `networks: {lan: {ipv4: 10.0.1.0/24, members: [a, b]}}`": (
            "members hosts nodes ports ipv4 ipv6 mtu subnet"
        ),
    },
    "NetworkFile": {
        _PREFIX: "subnet subnets cidr prefix network ip address range",
        "members": "hosts nodes endpoints ends interfaces ports connects routers",
        _OF_HOST: "gateway gw dhcp dns",
    },
    "ImpairedFile": {
        "delay": "latency lag rtt",
        "rate": "bandwidth bw speed capacity throughput",
        "loss": "packet_loss drop",
    },
    "LinkFile": {
        "ends": "endpoints nodes from to source target src dst between hosts members connect a b",
        _PREFIX: "subnet prefix cidr ip network address",
    },
    "EndFile": {
        _END_ADDRESS: "ip address addresses cidr",
        "node": "host name router switch hostname",
        "interface": "iface dev ifname port intf device",
        "mac": "hwaddr ether lladdr hw_addr",
        _OF_HOST: "gateway gw routes dns loopback",
    },
    "TunnelFile": {"kind": "type mode", "ends": "endpoints nodes from to", "id": "vni vxlan"},
    "DeviceFile": {
        "its kind is a key: `{macvlan: bridge, on: eth0}`, `{vlan: 10, on: eth0}`": "type kind mode",
        "on": "link parent master dev lower",
        "members": "slaves ports interfaces",
        _END_ADDRESS: "ip address addresses",
    },
    "VlanFile": {"id": "vid tag number vlan", _PREFIX: "subnet prefix cidr"},
    "RouteFile": {
        "to": "dst dest destination prefix network net target cidr",
        "via": "gateway gw nexthop next_hop router",
        "dev": "interface iface ifname oif",
        "kind": "type",
        "hops": "nexthops multipath next_hops paths",
        "metric": "cost priority preference distance",
        "src": "source prefsrc from",
    },
    "HopFile": {"via": "gateway gw nexthop next_hop router", "dev": "interface iface ifname"},
    "RuleFile": {
        "from": "src source",
        "to": "dst destination",
        "fwmark": "mark",
        "priority": "prio pref preference",
        "action": "type",
        "iif": "interface dev iifname",
        "oif": "oifname",
    },
    "NatFile": {"preset": "type mode kind", "outside": "wan out interface uplink external egress"},
    "PortForwardFile": {
        "port": "from external outside listen public dport from_port",
        "to": "host target destination dest node",
        "to_port": "internal inside target_port dest_port",
    },
    "FlowFile": {
        "from": "src source saddr",
        "to": "dst destination daddr",
        "port": "dport ports service",
        "protocol": "proto",
    },
    "FirewallFile": {
        "policy": "default default_policy action",
        "allow": "rules accept permit open ports input forward",
        "deny": "drop reject block",
        "preset": "mode type",
    },
    "ProgramFile": {
        "run": "command cmd exec args argv program start",
        "shell": "script",
        "env": "environment",
        "cwd": "workdir working_dir dir",
    },
    "ServiceFile": {
        _PROGRAM: "image",
        "use": "daemon",
        "after": "depends_on requires needs",
        "within": "timeout",
        "ready": "healthcheck wait_for listening port ports",
    },
    "PlacedFileFile": {
        "source": "path from src file",
        "content": "text contents data",
        "mode": "permissions perm chmod",
    },
    "BindFile": {"source": "src from host", "target": "dst to destination path"},
    "IncludeFile": {"file": "path name", "with": "params parameters args vars arguments set"},
}


def meaning(word: str, shapes: Collection[str]) -> str:
    """Return what the word means in the first of these shapes that knows it: a key or a sentence; "" for nothing."""
    folded = word.casefold().replace("-", "_")
    for shape in shapes:
        for key, words in WORDS.get(shape, {}).items():
            if folded in words.split():
                return key
    return ""
