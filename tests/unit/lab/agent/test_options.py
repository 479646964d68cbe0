"""The tables of socket options against the C compiler."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from labctl.lab.agent.constants import CONSTANTS
from labctl.lab.agent.options import (
    LINGER,
    OPTIONS,
    Field,
    Request,
    StructType,
    ValueKind,
    control_at,
    ioctl_request,
    option_at,
    option_name,
)
from tests.skips import needs_programs


def _offsets(kind: StructType) -> dict[str, int]:
    from labctl.lab.agent.values import _layout

    found, offset = {}, 0
    for field in kind.fields:
        start, size = _layout(offset, field)
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


def test_an_option_is_found_by_level_and_number() -> None:
    option = option_at(CONSTANTS["IPPROTO_TCP"], CONSTANTS["TCP_NODELAY"])
    assert option is not None
    assert (option.name, option.type.kind, option.type.size) == ("TCP_NODELAY", ValueKind.NUMBER, 4)
    assert option_at(CONSTANTS["IPPROTO_TCP"], 99999) is None


def test_of_options_with_one_number_the_first_of_the_table_is_shown() -> None:
    assert option_name(CONSTANTS["IPPROTO_IPV6"], CONSTANTS["IPV6_ADD_MEMBERSHIP"]) == "IPV6_ADD_MEMBERSHIP"
    assert option_name(CONSTANTS["SOL_SOCKET"], 99999) == "99999"


def test_a_structure_of_the_table_has_its_size() -> None:
    linger, membership = OPTIONS["SO_LINGER"], OPTIONS["MCAST_JOIN_GROUP"]
    assert (linger.type.struct, linger.type.size) == (LINGER, 8)
    assert membership.levels == (CONSTANTS["IPPROTO_IP"], CONSTANTS["IPPROTO_IPV6"])
    assert membership.type.meaning == "struct group_req"


def test_a_control_message_is_not_the_option_of_that_number() -> None:
    rights = control_at(CONSTANTS["SOL_SOCKET"], CONSTANTS["SCM_RIGHTS"])
    debug = option_at(CONSTANTS["SOL_SOCKET"], CONSTANTS["SCM_RIGHTS"])  # both are 1
    assert rights is not None
    assert debug is not None
    assert (rights.name, debug.name) == ("SCM_RIGHTS", "SO_DEBUG")


@pytest.mark.parametrize(
    ("name", "gives", "usage"),
    [
        ("FIONREAD", True, ""),
        ("FIONBIO", False, "1"),
        ("SIOCGIFMTU", True, '"eth0"'),
        ("SIOCSIFMTU", False, '{"eth0", 1400}'),
    ],
)
def test_a_request_of_ioctl_shows_what_it_takes(name: str, gives: bool, usage: str) -> None:
    request = ioctl_request(CONSTANTS[name])
    assert (request.name, request.gives, request.usage) == (name, gives, usage)


def test_an_unknown_request_of_ioctl_fills_in_an_int() -> None:
    assert ioctl_request(0x1234) == Request("0x1234", "i")
