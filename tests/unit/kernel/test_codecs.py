"""What is packed by hand, because pyroute2's module takes too long to import, is what pyroute2 would pack."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from labctl.kernel import icmp, nftables, pyroute2_messages, sock_diag
from labctl.kernel.netlink import HEADER, attribute, attributes, message
from labctl.kernel.nftables import Hook, Match


def encoded(message_class: Any, **fields: Any) -> bytes:
    """The payload of a message by pyroute2."""
    made = message_class()
    for name, value in fields.items():
        made[name] = value
    made.encode()
    return bytes(made.data)[HEADER.size :]


def test_a_request_for_inet_sockets() -> None:
    theirs = encoded(
        pyroute2_messages.diag_messages().inet_diag_req,
        sdiag_family=socket.AF_INET6,
        sdiag_protocol=socket.IPPROTO_TCP,
        idiag_states=0x1FFF,
        idiag_src=0,
        idiag_dst=0,
        idiag_cookie=2**64 - 1,
    )
    assert theirs == sock_diag.INET_REQUEST.pack(
        socket.AF_INET6, socket.IPPROTO_TCP, 0, 0x1FFF, 0, 0, bytes(16), bytes(16), 0, b"\xff" * 8
    )


@pytest.mark.parametrize(
    ("family", "local", "peer"),
    [(socket.AF_INET, "192.0.2.1", "192.0.2.2"), (socket.AF_INET6, "2001:db8::1", "2001:db8::2")],
)
def test_an_inet_socket_is_read_as_pyroute2_reads_it(family: int, local: str, peer: str) -> None:
    packed = [ip_address(text).packed.ljust(16, b"\0") for text in (local, peer)]
    payload = sock_diag.INET_MESSAGE.pack(
        family, 1, 0, 0, b"\x13\x88\x9c\x40", *packed, 21, bytes(8), 0, 5, 6, 1000, 4711
    )
    theirs = pyroute2_messages.diag_messages().inet_diag_msg(message(20, 0, payload))
    theirs.decode()
    ours = sock_diag.decode_inet(payload, sock_diag.Transport.TCP)
    assert (theirs["idiag_src"], theirs["idiag_sport"]) == (str(ours.local), ours.local_port) == (local, 5000)
    assert (theirs["idiag_dst"], theirs["idiag_dport"]) == (str(ours.peer), ours.peer_port) == (peer, 40000)
    assert (theirs["idiag_rqueue"], theirs["idiag_wqueue"]) == (ours.receive_queue, ours.send_queue) == (5, 6)
    assert (theirs["idiag_uid"], theirs["idiag_inode"]) == (ours.uid, ours.inode) == (1000, 4711)
    assert (theirs["idiag_state"], theirs["idiag_if"]) == (ours.state, ours.ifindex)


def test_a_unix_socket_is_read_as_pyroute2_reads_it() -> None:
    fixed = sock_diag.UNIX_MESSAGE.pack(socket.AF_UNIX, socket.SOCK_STREAM, 10, 4711, bytes(8))
    payload = fixed + attribute(0, b"/run/x.sock\0") + attribute(2, b"\x01\0\0\0") + attribute(4, b"\2\0\0\0\4\0\0\0")
    theirs = pyroute2_messages.diag_messages().unix_diag_msg(message(20, 0, payload))
    theirs.decode()
    ours = sock_diag.decode_unix(payload)
    assert (theirs["udiag_ino"], theirs["udiag_type"], theirs["udiag_state"]) == (ours.inode, ours.type, ours.state)
    assert theirs.get_attr("UNIX_DIAG_NAME") == ours.path == "/run/x.sock"
    assert theirs.get_attr("UNIX_DIAG_PEER") == ours.peer_inode == 1
    assert theirs.get_attr("UNIX_DIAG_RQLEN")["udiag_wqueue"] == ours.accept_queue_limit == 4


@pytest.mark.parametrize("hook", Hook)
def test_a_chain_is_what_pyroute2_packs(hook: Hook) -> None:
    priority = -300 if hook is Hook.PREROUTING else 300
    place = {"attrs": [("NFTA_HOOK_HOOKNUM", int(hook)), ("NFTA_HOOK_PRIORITY", priority)]}
    theirs = encoded(
        pyroute2_messages.filter_messages().nft_chain_msg,
        nfgen_family=1,
        attrs=[
            ("NFTA_CHAIN_TABLE", "labctl"),
            ("NFTA_CHAIN_NAME", hook.name.lower()),
            ("NFTA_CHAIN_HOOK", place),
            ("NFTA_CHAIN_TYPE", "filter"),
        ],
    )
    assert tree(theirs[4:]) == tree(nftables.chain(hook))


def test_a_rules_comparison_and_mask_are_what_pyroute2_packs() -> None:
    match = Match(Hook.PREROUTING, nftables.NFPROTO_IPV4, 6, destination_port=5000, flags=(0x12, 0x10))
    nft = pyroute2_messages.filter_messages()

    def expression(name: str, **attrs: Any) -> Any:
        prefix = f"NFTA_{name.upper()}_"
        data = {"attrs": [(prefix + key, value) for key, value in attrs.items()]}
        return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", data)]}

    def value(data: bytes) -> Any:
        return {"attrs": [("NFTA_DATA_VALUE", data)]}

    verdict = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", 0)]})]}
    one, equal = nft.Regs.NFT_REG_1, nft.Cmp.NFT_CMP_EQ
    theirs = encoded(
        nft.nft_rule_msg,
        nfgen_family=1,
        attrs=[
            ("NFTA_RULE_TABLE", "labctl"),
            ("NFTA_RULE_CHAIN", "prerouting"),
            (
                "NFTA_RULE_EXPRESSIONS",
                [
                    expression("meta", DREG=one, KEY=nft.Meta.NFT_META_NFPROTO),
                    expression("cmp", SREG=one, OP=equal, DATA=value(b"\x02")),
                    expression("meta", DREG=one, KEY=nft.Meta.NFT_META_L4PROTO),
                    expression("cmp", SREG=one, OP=equal, DATA=value(b"\x06")),
                    expression("payload", DREG=one, BASE=2, OFFSET=2, LEN=2),
                    expression("cmp", SREG=one, OP=equal, DATA=value(b"\x13\x88")),
                    expression("payload", DREG=one, BASE=2, OFFSET=13, LEN=1),
                    expression("bitwise", SREG=one, DREG=one, LEN=1, MASK=value(b"\x12"), XOR=value(b"\0")),
                    expression("cmp", SREG=one, OP=equal, DATA=value(b"\x10")),
                    expression("counter"),
                    expression("immediate", DREG=nft.Regs.NFT_REG_VERDICT, DATA=verdict),
                ],
            ),
        ],
    )
    assert tree(theirs[4:]) == tree(nftables.rule(match))


def tree(data: bytes) -> Any:
    """Attributes as nested lists of (type, payload), so that flags of nesting do not matter (pyroute2 sets none)."""
    found = []
    for kind, start, length in attributes(data):
        payload = data[start : start + length]
        covered = sum((length + 4 + 3) & ~3 for _, _, length in attributes(payload))
        nested = length >= 4 and covered == (length + 3) & ~3 and length % 4 == 0
        found.append((kind, tree(payload) if nested else payload))
    return found


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert icmp.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert icmp.checksum(b"\xff") == 0x00FF
