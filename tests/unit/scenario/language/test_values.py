"""The checks of typed values before a run: options, control messages, addresses."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from labctl.lab.agent.constants import CONSTANTS
from labctl.lab.agent.messages import CStruct
from labctl.lab.agent.options import INFO, LINGER, OPTIONS, Field, StructType
from labctl.lab.agent.values import pack, pack_control, pack_struct, unpack, unpack_control, unpack_struct
from labctl.scenario.language.checker import CheckContext, check
from labctl.scenario.language.parser import parse
from labctl.scenario.language.syntax import Call
from labctl.scenario.language.values import may_fail
from tests.skips import needs_programs

HOSTS = frozenset({"server", "client"})
SOCKETS = """
t = socket(AF_INET, SOCK_STREAM)
u = socket(AF_INET, SOCK_DGRAM)
t6 = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK)
u6 = socket(AF_INET6, SOCK_DGRAM)
x = socket(AF_UNIX, SOCK_STREAM)
p = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ALL))
n = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)
"""


def said(line: str, context: CheckContext | None = None) -> str:
    found = check(parse(SOCKETS + line), context or CheckContext(HOSTS, {}, {"port"})).problems
    return "; ".join(f"{one.message} ({one.hint})" if one.hint else one.message for one in found)


@pytest.mark.parametrize(
    "line",
    [
        'setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, {"239.1.1.1", "eth0"})',
        'setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, {"239.1.1.1", "server"})',
        'setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, {imr_multiaddr="239.1.1.1", imr_interface="10.0.0.1"})',
        'setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, {"239.1.1.1", INADDR_ANY})',
        'setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, b"12345678")',
        'setsockopt(u6, IPPROTO_IPV6, MCAST_JOIN_GROUP, {"eth0", "ff05::1"})',
        "setsockopt(t, SOL_SOCKET, SO_LINGER, {l_onoff=1, l_linger=0})",
        "setsockopt(t, SOL_TCP, TCP_NODELAY, True)",
        "setsockopt(t, SOL_SOCKET, SO_RCVTIMEO, {tv_sec=1, tv_usec=500000})",
        "setsockopt(u, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)",
        "setsockopt(t, SOL_SOCKET, TCP_NODELAY, 1) -> EOPNOTSUPP | ENOPROTOOPT",
        "setsockopt(u, IPPROTO_TCP, TCP_NODELAY, 1) -> EOPNOTSUPP",
        'setsockopt(p, SOL_PACKET, PACKET_ADD_MEMBERSHIP, {"eth0", PACKET_MR_PROMISC})',
        'bind(p, "eth0")',
        'bind(p, {AF_PACKET, htons(ETH_P_IP), "eth0"})',
        "bind(p, {AF_PACKET, htons(ETH_P_IP), 2})",
        'sendto(p, b"x", {AF_PACKET, htons(ETH_P_IP), "eth0", "ff:ff:ff:ff:ff:ff"})',
        "bind(n, {AF_NETLINK, 0, 0})",
        'connect(t, {AF_INET, "server:80"})',
        'connect(t, {AF_INET6, "[::1]:80"}) -> EAFNOSUPPORT',
        'sendto(u6, b"x", "10.0.0.1:80")',
        'sendmsg(x, [b"x"], control=[{SOL_SOCKET, SCM_RIGHTS, [t, u]}])',
        'sendmsg(u, [b"x"], "server:80", control=[{IPPROTO_IP, IP_PKTINFO, {"eth0", "10.0.0.1"}}])',
        'sendmsg(x, [b"x"], control=[{cmsg_level=SOL_SOCKET, cmsg_type=SCM_CREDENTIALS, cmsg_data={1, 0, 0}}])',
        "data, addr, flags, control = recvmsg(x, 100, control=64)",
        "v = getsockopt(t, IPPROTO_TCP, TCP_INFO) -> {tcpi_state=TCP_ESTABLISHED}\nassert v.tcpi_rtt > 0",
        "assert htons(ETH_P_IP) == 8",
        "n = ioctl(t, FIONREAD)",
        'mtu = ioctl(u, SIOCGIFMTU, "eth0") -> 1500',
        'ioctl(u, SIOCSIFMTU, {"eth0", 1400})',
        "e = epoll_create1(0)\nepoll_ctl(e, EPOLL_CTL_ADD, t, EPOLLIN | EPOLLET)\nready = epoll_wait(e, 10, 0) -> 0",
        "setsockopt(x, SOL_SOCKET, 99, {1, 2})",
    ],
)
def test_what_works_is_accepted(line: str) -> None:
    assert said(line) == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, "239.1.1.1")',
            'IP_ADD_MEMBERSHIP takes struct ip_mreq, not a text (write {"239.1.1.1", "eth0"} or',
        ),
        ("setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, 1)", "takes struct ip_mreq, not a number"),
        ('setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, {"10.0.0.1", "eth0"})', "10.0.0.1 is not a multicast address"),
        ('setsockopt(u, IPPROTO_IP, IP_ADD_MEMBERSHIP, {"ff05::1", "eth0"})', "ff05::1 is not an IPv4 address"),
        ('setsockopt(u6, IPPROTO_IPV6, IPV6_JOIN_GROUP, {"239.1.1.1", "eth0"})', "239.1.1.1 is not an IPv6 address"),
        (
            "getsockopt(t, SOL_SOCKET, SO_LINGER) -> 1",
            "getsockopt: SO_LINGER is struct linger, never a number (write `-> {1, 0}",
        ),
        ("getsockopt(t, SOL_SOCKET, SO_LINGER) -> {l_on=1}", "struct linger has no member l_on"),
        ('getsockopt(t, SOL_SOCKET, SO_TYPE) -> "x"', "SO_TYPE is a number, never a text"),
        ("getsockopt(t, SOL_SOCKET, SO_ERROR) -> 0 | {1, 2}", "SO_ERROR is a number, never a structure"),
        ('getsockopt(t, SOL_SOCKET, SO_RCVTIMEO) -> "5ms"', "SO_RCVTIMEO is a number of milliseconds, never a text"),
        ("setsockopt(t, SOL_SOCKET, SO_LINGER, 1)", "SO_LINGER takes struct linger, not a number (write {1, 0}"),
        ("setsockopt(t, SOL_SOCKET, SO_LINGER, {1, 0, 0})", "struct linger has no member number 3"),
        (
            "setsockopt(t, SOL_SOCKET, SO_LINGER, {l_on=1})",
            "has no member l_on (it has l_onoff, l_linger)",
        ),
        ('setsockopt(t, SOL_SOCKET, SO_LINGER, {1, "5s"})', "SO_LINGER: l_linger cannot be a text"),
        ("setsockopt(t, SOL_SOCKET, SO_LINGER, {1})", "struct linger lacks members"),
        ("setsockopt(t, SOL_SOCKET, SO_RCVTIMEO, 200)", 'a timeout needs a unit (write "200ms")'),
        ('setsockopt(t, SOL_SOCKET, SO_RCVTIMEO, "200")', "SO_RCVTIMEO: "),
        ('setsockopt(t, SOL_SOCKET, SO_REUSEADDR, "yes")', "SO_REUSEADDR takes a number, not a text"),
        ("setsockopt(t, SOL_SOCKET, SO_BINDTODEVICE, 2)", "SO_BINDTODEVICE takes a text, not a number"),
        ("setsockopt(t, SOL_SOCKET, TCP_NODELAY, 1)", "TCP_NODELAY is an option of IPPROTO_TCP, not of SOL_SOCKET"),
        ("setsockopt(u, IPPROTO_TCP, TCP_NODELAY, 1)", "for sockets of SOCK_STREAM; this is a socket of SOCK_DGRAM"),
        ("setsockopt(t, IPPROTO_IPV6, IPV6_V6ONLY, 1)", "for sockets of AF_INET6; this is a socket of AF_INET"),
        (
            "setsockopt(u, IPPROTO_IP, IP_MTU_DISCOVER, MSG_PEEK)",
            "`MSG_PEEK` is not a valid value (it takes IP_PMTU",
        ),
        ("getsockopt(t, IPPROTO_TCP, TCP_ESTABLISHED)", "`TCP_ESTABLISHED` is not an option"),
        ("getsockopt(u, IPPROTO_IP, IP_PMTUDISC_DO)", "`IP_PMTUDISC_DO` is not an option"),
        (
            'bind(p, "server:5000")',
            '"server:5000" is not an interface name; an AF_PACKET address needs one (write',
        ),
        ('sendto(p, b"x", "eth0")', "an interface alone is not a destination"),
        ("socket(AF_PACKET, SOCK_RAW, ETH_P_ALL)", "(network byte order: htons(ETH_P_ALL))"),
        ('bind(p, {AF_PACKET, ETH_P_ALL, "eth0"})', "`ETH_P_ALL` is in host byte order"),
        ('bind(p, {AF_PACKET, "eth0"})', "this is not an address of AF_PACKET (write"),
        ('bind(n, "eth0")', '"eth0" is not an address of AF_NETLINK (write {AF_NETLINK, 0, 0}'),
        ('bind(t, "[::1]:80")', "bind: an address of AF_INET6 on a socket of AF_INET"),
        ('connect(t6, "10.0.0.1:80")', 'an address of AF_INET on a socket of AF_INET6 (write "[::ffff:10.0.0.1]:PORT"'),
        ('connect(t, {AF_INET6, "[::1]:80"})', "an address of AF_INET6 on a socket of AF_INET"),
        ('connect(t, {AF_INET, "[::1]:80"})', "::1 is not an address of AF_INET"),
        ('connect(t, {"server:80"})', "an address must begin with its family"),
        ('connect(t, "/tmp/x.sock")', '"/tmp/x.sock" is not an address'),
        ("me = getsockname(t6)\nconnect(t, me)", "an address of AF_INET6 on a socket of AF_INET"),
        ('sendmsg(x, [b"x"], control=[{SOL_SOCKET, SCM_RIGHTS, t}])', "SCM_RIGHTS takes a list of numbers, not a desc"),
        ('sendmsg(x, [b"x"], control={SOL_SOCKET, SCM_RIGHTS, [t]})', "takes a list of control messages"),
        ('sendmsg(x, [b"x"], control=[{SOL_SOCKET, [t]}])', "a control message has three members"),
        ('sendmsg(x, [b"x"], control=[{IPPROTO_IP, SCM_RIGHTS, [t]}])', "SCM_RIGHTS belongs to the level SOL_SOCKET"),
        ('sendmsg(x, [b"x"], control=[{SOL_SOCKET, SO_REUSEADDR, 1}])', "not a type of control message"),
        ("recv(x, 100, control=64)", "recv has no argument `control=` (allowed: none)"),
        ("setsockopt(t, SOL_SOCKET, SO_LINGER, {1, l_linger=0})", "name all members of a structure, or none"),
        ("setsockopt(t, SOL_SOCKET, SO_LINGER, {1, 0)", "`{` is never closed"),
        ("setsockopt(t, SOL_SOCKET, SO_RCVTIMEO, {tv_sec=1, usec=0})", "struct timeval has no member usec"),
        ("connect(t, {AF_INET, 10.0.0.2:81})", '(write an address in quotes: "10.0.0.1:80")'),
        ("ioctl(u, SIOCGIFMTU)", 'SIOCGIFMTU takes "eth0"'),
        ('ioctl(u, SIOCSIFMTU, "eth0")', 'does not take a text (write {"eth0", 1400})'),
        ("ioctl(u, SIOCADDRT, 1)", "labctl cannot make the request SIOCADDRT"),
        ("epoll_ctl(t, EPOLLIN, t, EPOLLIN)", "`EPOLLIN` is not an operation, EPOLL_CTL_..."),
        ('v = htons("x")', "htons takes a number, not a text"),
    ],
)
def test_what_cannot_work_is_told_with_the_right_form(line: str, message: str) -> None:
    assert message in said(line)


def test_a_host_without_an_address_of_the_family_is_told() -> None:
    context = CheckContext(HOSTS, {}, set(), "", {"server": frozenset({4}), "client": frozenset({4, 6})})
    assert said('connect(t6, "server:80")', context) == "server has no IPv6 address (its addresses are IPv4)"
    assert said('connect(t6, "client:80")\nconnect(t, "server:80")', context) == ""


def test_values_become_the_bytes_of_c() -> None:
    membership = OPTIONS["IP_ADD_MEMBERSHIP"].type
    group, own, index = b"\xef\1\1\1", b"\x0a\0\0\1", struct.pack("@i", 3)
    assert pack("x", membership, CStruct((("", "239.1.1.1"), ("", "10.0.0.1")))) == group + own
    named = CStruct((("imr_multiaddr", "239.1.1.1"), ("imr_ifindex", 3)))
    assert pack("x", membership, named) == group + bytes(4) + index
    request = pack("x", OPTIONS["MCAST_JOIN_GROUP"].type, CStruct((("", 3), ("", "239.1.1.1"))))
    assert isinstance(request, bytes)
    assert len(request) == 136
    assert request[8:16] == struct.pack("@H", 2) + b"\0\0" + group
    timeout = CStruct((("", 1), ("", 500_000)))
    assert pack("x", OPTIONS["SO_RCVTIMEO"].type, timeout) == pack("x", OPTIONS["SO_RCVTIMEO"].type, "1500ms")
    assert pack_struct("x", LINGER, [1, 5]) == struct.pack("@ii", 1, 5)
    assert unpack(OPTIONS["SO_LINGER"].type, struct.pack("@ii", 1, 5)) == CStruct((("l_onoff", 1), ("l_linger", 5)))


def test_control_messages_go_there_and_back() -> None:
    sent = [[1, 1, [7, 8, 9]], [0, CONSTANTS["IP_TTL"], 9]]
    first, second = unpack_control(pack_control(sent))  # type: ignore[arg-type]  # a list of values, invariant
    assert first == CStruct((("cmsg_level", 1), ("cmsg_type", 1), ("cmsg_data", [7, 8, 9])))
    assert second == CStruct((("cmsg_level", 0), ("cmsg_type", CONSTANTS["IP_TTL"]), ("cmsg_data", 9)))


def test_a_short_structure_of_an_older_kernel_has_its_first_members() -> None:
    read = unpack_struct(INFO, bytes([1, 0, 0, 0, 0, 7, 0x78, 0]) + struct.pack("@I", 204000))
    assert isinstance(read, CStruct)
    assert dict(read.fields)["tcpi_snd_wscale"] == 8
    assert read.fields[-1] == ("tcpi_rto", 204000)


def _offsets(kind: StructType) -> dict[str, int]:
    from labctl.lab.agent.values import _place

    found, offset = {}, 0
    for field in kind.fields:
        start, size = _place(offset, field)
        found[field.name] = start
        offset = start if field.code == "low4" else start + size
    return found


def _structures() -> list[StructType]:
    from labctl.lab.agent import options

    found = {one.name: one for one in vars(options).values() if isinstance(one, StructType)}
    return [one for name, one in found.items() if name.startswith("struct ") and name != "struct cmsghdr"]


_HEADERS = """
#define _GNU_SOURCE
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/if_packet.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <linux/errqueue.h>
"""
_UNKNOWN_TO_HEADERS = ("struct scm_timestamping", "struct ip6_mtuinfo", "struct group_req", "struct group_source_req")


@needs_programs("cc")
@pytest.mark.parametrize("kind", _structures(), ids=lambda kind: kind.name)
def test_members_stand_where_the_c_compiler_has_them(kind: StructType, tmp_path: Path) -> None:
    def has(field: Field) -> bool:
        return field.code not in ("low4", "high4", "low1", "sockaddr_rest") and field.name not in (
            "tcpi_total_rto",
            "tcpi_total_rto_recoveries",
            "tcpi_total_rto_time",
            "tcpi_rcv_wnd",
            "tcpi_rehash",
        )

    fields = [field.name for field in kind.fields if has(field)]
    c_names = {"ipv6mr_acaddr": "ipv6mr_multiaddr", "ipv6mr_interface": "ipv6mr_ifindex"}
    lines = "".join(f'printf("{name} %zu\\n", offsetof({kind.name}, {c_names.get(name, name)}));' for name in fields)
    if kind.name in _UNKNOWN_TO_HEADERS:
        lines = lines.replace("deprecated", "ts[1]").replace("software", "ts[0]").replace("hardware", "ts[2]")
        headers = _HEADERS.replace("linux/in.h", "netinet/in.h").replace("#include <linux/in6.h>\n", "")
        headers = headers.replace("#include <linux/ipv6.h>\n", "")
    else:
        headers = _HEADERS
    source = tmp_path / "offsets.c"
    source.write_text(f"{headers}\nint main(void) {{ {lines} return 0; }}\n")
    subprocess.run(["cc", "-o", tmp_path / "offsets", source], check=True)
    printed = subprocess.run([tmp_path / "offsets"], check=True, capture_output=True, text=True).stdout
    theirs = [int(line.split()[1]) for line in printed.splitlines()]
    mine = _offsets(kind)
    assert [mine[name] for name in fields] == theirs


@pytest.mark.parametrize(
    ("expected", "fails"), [("", False), (" -> 0", False), (" -> 0 | EINVAL", True), (" -> -1", True), (" -> $n", True)]
)
def test_a_call_may_fail_if_its_expectation_allows_it(expected: str, fails: bool) -> None:
    (call,) = parse(f"listen(t, 1){expected}").statements
    assert isinstance(call, Call)
    assert may_fail(call) is fails
