"""The numbers of the socket interface against what the C compiler makes of this machine's headers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from labctl.errors import errno_name
from labctl.lab.agent.constants import CAPABILITIES, CONSTANTS, ERRNOS, TCP_STATES, flags_of, name_of, socket_type_name
from labctl.lab.agent.options import option_name
from tests.skips import needs_programs

_GLIBC = """
#define _GNU_SOURCE
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/icmp6.h>
#include <netpacket/packet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/ethernet.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <poll.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <linux/netlink.h>
#include <linux/capability.h>
"""
_KERNEL = """
#include <asm/socket.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/if_packet.h>
#include <linux/if_ether.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/if_arp.h>
#include <linux/netlink.h>
#include <linux/capability.h>
"""
_OF_PYTHON = {"SOMAXCONN", "INADDR_ANY"}  # glibc's SOMAXCONN is what the kernel's was before Linux 5.4


def _compiled(headers: str, names: list[str], directory: Path) -> dict[str, int]:
    """The names that the headers have, with their numbers."""
    while names:
        lines = "\n".join(f'printf("{name} %lld\\n", (long long)({name}));' for name in names)
        source = directory / "numbers.c"
        source.write_text(f"{headers}\n#include <stdio.h>\nint main(void) {{\n{lines}\nreturn 0; }}\n")
        command = ["cc", "-w", "-fmax-errors=0", "-o", str(directory / "numbers"), str(source)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode == 0:
            printed = subprocess.run([directory / "numbers"], check=True, capture_output=True, text=True).stdout
            return {name: int(number) for name, number in (line.split() for line in printed.splitlines())}
        unknown = set(re.findall(r"error: [^\w]*(\w+)[^\w]* undeclared", made.stderr))
        assert unknown, made.stderr
        names = [name for name in names if name not in unknown]
    return {}


@needs_programs("cc")
def test_every_number_is_the_compilers(tmp_path: Path) -> None:
    names = [name for name in CONSTANTS if name not in _OF_PYTHON and not name.startswith(("AF_QIPCRTR", "F_", "O_"))]
    theirs = _compiled(_KERNEL, names, tmp_path) | _compiled(_GLIBC, names, tmp_path)
    assert len(theirs) > 0.9 * len(names)
    differing = {name: (CONSTANTS[name], number) for name, number in theirs.items() if CONSTANTS[name] != number}
    unsigned = {name for name, (mine, number) in differing.items() if mine & 0xFFFF_FFFF == number & 0xFFFF_FFFF}
    assert {name: both for name, both in differing.items() if name not in unsigned} == {}


@needs_programs("cc")
@pytest.mark.parametrize(
    ("prefixes", "headers"),
    [
        (("SO_", "SCM_"), _KERNEL),
        (("IP_PMTUDISC_", "IP_ADD_", "IP_DROP_", "IP_RECV", "IP_MULTICAST_", "MCAST_"), _KERNEL),
        (("IPV6_RECV", "IPV6_PMTUDISC_", "IPV6_MULTICAST_", "IPV6_JOIN", "IPV6_LEAVE"), _GLIBC),
        (("TCP_",), _KERNEL),
        (("UDP_",), _KERNEL),
        (("ETH_P_",), _KERNEL),
        (("PACKET_",), _KERNEL),
        (("MSG_", "SOL_", "AF_"), _GLIBC),
        (("SIOCGIF", "SIOCSIF"), _GLIBC),
    ],
)
def test_no_macro_of_the_headers_is_missing(prefixes: tuple[str, ...], headers: str, tmp_path: Path) -> None:
    source = tmp_path / "macros.c"
    source.write_text(headers)
    printed = subprocess.run(["cc", "-dM", "-E", source], check=True, capture_output=True, text=True).stdout
    macros = {words[1] for line in printed.splitlines() if len(words := line.split()) > 2}
    obsolete = re.compile(r"SO_(SECURITY|BSDCOMPAT|VM_|EE_RFC4884)|TCP_(COOKIE|MAXWIN|MAX_WIN|S_DATA|RECEIVE_ZERO)"
                          r"|UDP_ENCAP_|MSG_(TRYHARD|SYN|FIN|RST|PROXY|EOF)|AF_MAX|AF_FILE|AF_ISDN|ETH_P_802_3_MIN"
                          r"|SIOC[GS]IF(MAP|ENCAP|MEM|PFLAGS|SLAVE|LINK|BR$|COUNT)|SIOCGIFCONF|PACKET_RECV_OUTPUT"
                          r"|SOL_(ATMPVC|HCI)")  # fmt: skip
    wanted = {name for name in macros if name.startswith(prefixes) and not obsolete.match(name) and name.isupper()}
    assert wanted - set(CONSTANTS) == set()


def test_values_with_several_names_have_that_of_the_man_pages() -> None:
    assert errno_name(ERRNOS["ENOTSUP"]) == errno_name(ERRNOS["EOPNOTSUPP"]) == "EOPNOTSUPP"
    assert errno_name(ERRNOS["EWOULDBLOCK"]) == "EAGAIN"
    assert errno_name(ERRNOS["EDEADLOCK"]) == "EDEADLK"
    assert name_of(CONSTANTS["SIOCINQ"], "FIONREAD", "SIOC") == "FIONREAD"
    assert flags_of(CONSTANTS["MSG_TRUNC"] | CONSTANTS["MSG_CTRUNC"], "MSG_") == "MSG_CTRUNC|MSG_TRUNC"
    assert CONSTANTS[TCP_STATES[0]] == 1
    assert CONSTANTS[f"CAP_{CAPABILITIES[-1]}"] == 40


def test_constants_have_names_again() -> None:
    assert name_of(2, "AF_") == "AF_INET"
    assert name_of(9999, "AF_") == "9999"
    assert flags_of(0x42, "MSG_") == "MSG_PEEK|MSG_DONTWAIT"
    assert flags_of(0, "MSG_") == "0"
    assert option_name(CONSTANTS["SOL_SOCKET"], CONSTANTS["SO_REUSEADDR"]) == "SO_REUSEADDR"
    assert socket_type_name(CONSTANTS["SOCK_DGRAM"] | CONSTANTS["SOCK_NONBLOCK"]) == "SOCK_DGRAM|SOCK_NONBLOCK"
