"""The checks of typed values before a run: options, control messages, addresses."""

from __future__ import annotations

import pytest

from labctl.scenario.language.checker import CheckContext, check
from labctl.scenario.language.parser import parse
from labctl.scenario.language.syntax import Call, Known, may_fail
from labctl.scenario.language.values import ValueChecker

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
def test_valid_values_are_accepted(line: str) -> None:
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
def test_an_invalid_value_is_reported_with_the_right_form(line: str, message: str) -> None:
    assert message in said(line)


def test_a_host_without_an_address_of_the_family_is_reported() -> None:
    context = CheckContext(HOSTS, {}, set(), "", {"server": frozenset({4}), "client": frozenset({4, 6})})
    assert said('connect(t6, "server:80")', context) == "server has no IPv6 address (its addresses are IPv4)"
    assert said('connect(t6, "client:80")\nconnect(t, "server:80")', context) == ""


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


@pytest.mark.parametrize(
    ("expected", "fails"), [("", False), (" -> 0", False), (" -> 0 | EINVAL", True), (" -> -1", True), (" -> $n", True)]
)
def test_a_call_may_fail_if_its_expectation_allows_it(expected: str, fails: bool) -> None:
    (call,) = parse(f"listen(t, 1){expected}").statements
    assert isinstance(call, Call)
    assert may_fail(call) is fails


def test_an_option_of_a_socket_of_unknown_family_is_not_refused() -> None:
    (call,) = parse("setsockopt(9, IPPROTO_TCP, TCP_NODELAY, 1)").statements
    assert isinstance(call, Call)
    assert list(ValueChecker(lambda _: Known(), {}, None).option(call, Known())) == []
